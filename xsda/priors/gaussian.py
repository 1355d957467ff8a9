"""Exact priors from labelled means and covariances, or from data: ``GaussianPrior`` and ``GaussianMixturePrior``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr

from xsda.arguments import choose, whole_number
from xsda.diffusion.error import ErrorCurve, measure_error
from xsda.diffusion.schedules import Schedule
from xsda.labels.grid import Grid
from xsda.labels.layout import Layout
from xsda.labels.requirements import check_time
from xsda.labels.steps import step_numbers, stretches, tell_of_gaps
from xsda.priors.covariances import check_cov, space_factors, tensor_order
from xsda.priors.eof import EofDenoiser
from xsda.priors.eof_fit import fit_eof
from xsda.priors.exact import EXACT_SCHEDULE, ExactDenoiser, GaussianDenoiser, MixtureDenoiser
from xsda.priors.moments import check_length, estimate
from xsda.priors.normals import chosen_cycles, fit_normals
from xsda.priors.prior import Prior
from xsda.priors.separable import SeparableDenoiser, reaching


class GaussianMixturePrior(Prior):
    """A mixture of Gaussian trajectories with an exact denoiser.

    Parameters
    ----------
    means
        One Dataset per component, all on the same coordinates.
    covs
        Covariances (component, N, N). Their order is that of the variables of a mean, ravelled one after another.
    weights
        Probabilities of the components (default: equal).
    periodic
        Periodic space dimensions.
    schedule
        The diffusion process.
    name
        Name of the prior in results.
    """

    def __init__(
        self,
        means: Sequence[xr.Dataset],
        covs: np.ndarray | Sequence[np.ndarray],
        weights: Sequence[float] | None = None,
        *,
        periodic: Sequence[str] = (),
        schedule: Schedule = EXACT_SCHEDULE,
        name: str = "mixture",
    ):
        p = np.full(len(means), 1 / max(len(means), 1)) if weights is None else np.asarray(weights, float)
        if len(means) == 0 or len(covs) != len(means) or p.shape != (len(means),):
            raise ValueError(
                f"got {len(means)} means, {len(covs)} covariances and {p.size} weights; need one of each for each "
                "component"
            )
        if (p < 0).any() or not np.isclose(p.sum(), 1):
            raise ValueError(f"weights must be non-negative and sum to one, got {p.tolist()}")
        layout = Layout.of(means[0], periodic=periodic)
        for other in means:
            try:
                xr.align(means[0], other, join="exact")
            except ValueError as error:
                raise ValueError(f"the means lie on different coordinates ({error})") from error
            for v in layout.names:
                if v not in other or other[v].dims != means[0][v].dims:
                    raise ValueError(
                        f"the means must have the same variables with the same order of dimensions; {v!r} differs"
                    )
            _check_mean(other, layout)
        grid = Grid.match(layout, means[0])
        check_time(grid)
        order = tensor_order(grid)
        arrays = [check_cov(cov, len(order), "the covariance", "the mean has {} numbers") for cov in covs]
        flat = [_ravel(m, layout) for m in means]
        channel = np.tile(np.arange(layout.channels)[:, None], (grid.shape[0], 1, int(np.prod(grid.shape[2:])))).ravel()
        center = sum(w * m for w, m in zip(p, flat, strict=True))[order]
        second = sum(w * (np.diag(c) + m**2) for w, m, c in zip(p, flat, arrays, strict=True))[order]
        mean = np.array([center[channel == c].mean() for c in range(layout.channels)])
        # the standard deviation of a channel is around its mean at each point, so that constants do not inflate it
        std = np.array([np.sqrt(max((second - center**2)[channel == c].mean(), 1e-30)) for c in range(layout.channels)])
        layout = layout.scaled(mean.tolist(), std.tolist())
        scale = std[channel]
        denoiser = (GaussianDenoiser if len(means) == 1 else MixtureDenoiser).of(
            torch.as_tensor(np.stack([(m[order] - mean[channel]) / scale for m in flat])),
            torch.as_tensor(np.stack([c[np.ix_(order, order)] / np.outer(scale, scale) for c in arrays])),
            torch.as_tensor(p),
            grid.shape,
            schedule,
        )
        super().__init__(denoiser, layout, length=grid.shape[0], error=error_curve(denoiser), name=name)


class GaussianPrior(GaussianMixturePrior):
    """A Gaussian trajectory with an exact denoiser, whose posterior is known in closed form.

    Use it to test methods, and for small problems. It holds the full covariance.

    Parameters
    ----------
    mean
        Dataset over ``time`` and up to two space dimensions.
    cov
        Covariance (N, N). Its order is that of the variables of ``mean``, ravelled one after another.
    periodic
        Periodic space dimensions.
    schedule
        The diffusion process.
    name
        Name of the prior in results.

    See Also
    --------
    GaussianPrior.separable : a covariance given by axis, for states of millions of numbers.
    GaussianPrior.fit : the same, estimated from data.

    Examples
    --------
    >>> mean = xr.Dataset({"x": ("time", np.zeros(2))}, {"time": [0.0, 1.0]})
    >>> prior = xsda.GaussianPrior(mean, np.array([[1.0, 0.5], [0.5, 1.0]]))
    >>> post = xsda.assimilate(mean, mean.isel(time=[0]) + 1, prior, sigma=0.1, members=200, progress=False)
    >>> bool(abs(post.x.isel(time=1).mean() - 0.5 / 1.01) < 0.2)
    True
    """

    def __init__(
        self,
        mean: xr.Dataset,
        cov: np.ndarray,
        *,
        periodic: Sequence[str] = (),
        schedule: Schedule = EXACT_SCHEDULE,
        name: str = "gaussian",
    ):
        super().__init__([mean], [np.asarray(cov)], periodic=periodic, schedule=schedule, name=name)

    @staticmethod
    def separable(
        mean: xr.Dataset,
        time_cov: np.ndarray,
        y_cov: np.ndarray | None = None,
        x_cov: np.ndarray | None = None,
        *,
        channel_cov: np.ndarray | None = None,
        periodic: Sequence[str] = (),
        schedule: Schedule | None = None,
        name: str = "gaussian",
    ) -> Prior:
        """Make a Gaussian prior whose covariance is a product over the axes, for states of many millions of numbers.

        The covariance of variable a at (time, y, x) with variable b at (time', y', x') is ``channel_cov[a, b] *
        time_cov[time, time'] * y_cov[y, y'] * x_cov[x, x']``. Memory holds only these matrices and the state.

        Parameters
        ----------
        mean
            Dataset over ``time`` and up to two space dimensions.
        time_cov, y_cov, x_cov
            One covariance per axis, in the order of the coordinates of ``mean``. With one space dimension give either
            ``y_cov`` or ``x_cov``; without space, neither.
        channel_cov
            Covariance between the variables, in their order (default: independent, of variance one).
        periodic
            Periodic space dimensions.
        schedule
            The diffusion process. The default is a VE schedule whose final noise is far above the variance of any
            pattern, because patterns that cover the whole domain vary much more than single points.
        name
            Name of the prior in results.

        Returns
        -------
        Prior
            A prior with an exact denoiser.
        """
        layout = Layout.of(mean, periodic=periodic)
        _check_mean(mean, layout)
        grid = Grid.match(layout, mean)
        check_time(grid)
        values = grid.stack(mean)
        if values.shape != grid.shape:
            raise ValueError(
                f"the mean has the dimensions {tuple(mean.sizes)}, expected {grid.core_dims}; average over the others"
            )
        channel_cov = np.eye(layout.channels) if channel_cov is None else channel_cov
        factors = [
            check_cov(time_cov, values.shape[0], "time_cov", f"{layout.time!r} has {{}} states"),
            check_cov(channel_cov, values.shape[1], "channel_cov", "the mean has {} channels"),
            *space_factors(grid, y_cov, x_cov),
        ]
        return _separable(layout, values, factors, schedule, name)

    @staticmethod
    def fit(
        ds: xr.Dataset,
        *,
        length: int,
        structure: str = "eof",
        modes: int | None = None,
        climatology: str | Sequence[str] | None = "auto",
        mask: xr.DataArray | None = None,
        taper: float | str | None = "auto",
        periodic: Sequence[str] = (),
        schedule: Schedule | None = None,
        name: str = "climatology",
    ) -> Prior:
        """Estimate a Gaussian prior from data: optimal interpolation in space and time.

        With ``structure="eof"``, the default, each grid point has its own mean, standard deviation and regular cycles,
        and the covariance of the anomalies consists of patterns of the data (EOFs), each with its own correlation in
        time. It knows land from sea. Points without data are masked. Covariances of few data are noisy and make the
        ensemble too sure of itself: distant correlations are tapered and the variance is inflated, by as much as
        predicts best in parts of the record that are left out.

        With ``structure="separable"``, the covariance is the product of one variance per variable, the correlation
        between variables, the autocorrelation in time, and a correlation matrix along each space axis. It suits large
        periodic domains without land. All variables and places share the same time and length scales.

        Both are stationary in time, and nothing depends on the flow.

        Parameters
        ----------
        ds
            Series over ``time`` (evenly spaced) and up to two space dimensions, and optionally ``trajectory`` or
            ``member``. It may be backed by dask, NetCDF or Zarr. It is read several times, in blocks along time; chunk
            it along time only, because a block holds whole chunks. Separable fits need data without gaps.
        length
            Number of states of the trajectories that the prior describes. The series must be at least twice as long,
            and should be many times as long as its decorrelation time. The correlation at lag k is too small by the
            factor 1 - k / states.
        structure
            "eof" or "separable".
        modes
            Number of patterns (default: 256, or as many as there are points). What they leave out becomes noise that
            is not correlated in space.
        climatology
            Regular cycles of each grid point: any of "hour_of_day" and "day_of_year". "auto" takes those that the dates
            resolve and cover; None takes none. Where gaps leave fewer than ten values for each coefficient of the
            cycles, these are shrunk towards their mean over all points. Three values at a point are therefore enough:
            it has nearly the common cycle around its own mean.
        mask
            True where there are values, over the space dimensions (default: where the data have some).
        taper
            Length of the localisation, in km for latitudes and longitudes, otherwise in the units of the axes. "auto"
            measures it; None omits it, and the inflation too.
        periodic
            Periodic space dimensions.
        schedule
            The diffusion process (default: as for ``separable``).
        name
            Name of the prior in results.

        Returns
        -------
        Prior
            A prior with an exact denoiser, on the grid of ``ds``, for trajectories of ``length`` states.

        Notes
        -----
        In a separable fit regular cycles (day and year) count as variability. If the covariance of the data is far
        from separable (coasts, fronts, travelling weather), use patterns. Check the spread with ``evaluate`` on a
        period that was not used for the fit.
        """
        if isinstance(length, bool) or not isinstance(length, int | np.integer) or length < 1:
            raise ValueError(f"length={length!r} must be a positive integer: the number of states of a trajectory")
        if not isinstance(ds, xr.Dataset):
            raise TypeError(f"the data must be an xarray.Dataset, got {type(ds).__name__}; {_as_dataset(ds)}")
        if structure not in ("eof", "separable"):
            raise ValueError(f"structure={structure!r} is unknown; {choose(structure, ('eof', 'separable'))}")
        layout = Layout.of(ds, periodic=periodic)
        if structure == "eof":
            return _patterns(ds, layout, int(length), modes, climatology, mask, taper, schedule, name)
        if layout.time in ds.coords and len(stretches(step_numbers(ds[layout.time]), layout.dt)) > 1:
            raise ValueError("the record has gaps in time, which a separable fit cannot use; use structure='eof'")
        found = estimate(ds, layout, int(length))
        factors = [found.time, found.channel * np.outer(found.std, found.std), *found.space]
        return _separable(layout, found.mean[None], factors, schedule, name, {"data": found.source})


def _as_dataset(data: Any) -> str:
    """What to do with data that are not a Dataset."""
    if isinstance(data, xr.DataArray):
        return "use .to_dataset(name=...)"
    return "open a file with xr.open_dataset"


def _patterns(
    ds: xr.Dataset, layout: Layout, length: int, modes: int | None, climatology: Any, mask: xr.DataArray | None,
    taper: float | str | None, schedule: Schedule | None, name: str,
) -> Prior:  # fmt: skip
    """Fit climatology and patterns."""
    check_length(ds, layout, length)
    if modes is not None:
        whole_number("modes", modes, least=1)
    if not (taper is None or taper == "auto" or (isinstance(taper, int | float) and taper > 0)):
        raise ValueError(f"taper={taper!r} must be a positive length, 'auto' or None")
    tell_of_gaps(ds[layout.time], layout.dt)
    layout = fit_normals(ds, layout, chosen_cycles(ds, layout, climatology), mask)
    denoiser, info = fit_eof(ds, layout, length, modes=modes, taper=taper)
    denoiser.schedule = schedule or denoiser.schedule
    cycles = layout.normals.cycles if layout.normals else ()
    about = {
        "data": f"{ds.sizes[layout.time]} states",
        **info,
        **({"climatology": ", ".join(cycles)} if cycles else {}),
    }
    return Prior(denoiser, layout, length=length, error=error_curve(denoiser), info=about, name=name)


def _separable(
    layout: Layout,
    mean: np.ndarray,
    factors: Sequence[np.ndarray],
    schedule: Schedule | None,
    name: str,
    info: Mapping[str, Any] | None = None,
) -> Prior:
    """Make a prior from the mean and the covariance factors over (time, channel, *space), in units, axes ascending."""
    levels = [np.trace(f) / len(f) for f in factors]
    variance = np.diag(factors[1]) * np.prod(levels) / levels[1] if levels[1] > 0 else np.zeros(len(factors[1]))
    if not (variance > 0).all():
        without = [n for n, s in layout.slices().items() if not (variance[s] > 0).all()]
        raise ValueError(f"the variables {without} have no variance; drop them")
    center, std = mean.swapaxes(0, 1).reshape(layout.channels, -1).mean(1), np.sqrt(variance)
    channel_std = np.sqrt(np.diag(factors[1]))
    scaled = [f / level for f, level in zip(factors, levels, strict=True)]
    scaled[1] = factors[1] / np.outer(channel_std, channel_std)
    shape = (-1, *(1,) * len(layout.space))
    denoiser = SeparableDenoiser.of(
        torch.as_tensor((mean - center.reshape(shape)) / std.reshape(shape)), [torch.as_tensor(f) for f in scaled]
    )
    denoiser.schedule = schedule or reaching(denoiser)
    layout = layout.scaled(center.tolist(), std.tolist())
    return Prior(denoiser, layout, length=denoiser.shape[0], error=error_curve(denoiser), info=info, name=name)


def _check_mean(mean: xr.Dataset, layout: Layout) -> None:
    for v in layout.names:
        if not np.isfinite(mean[v].values).all():
            raise ValueError(f"the mean of {v!r} holds NaN or infinite values; fill them, or drop the variable")


def _ravel(ds: xr.Dataset, layout: Layout) -> np.ndarray:
    return np.concatenate([np.asarray(ds[v].values, dtype=np.float64).ravel() for v in layout.names])


def error_curve(denoiser: ExactDenoiser) -> ErrorCurve:
    """Compute r(s) over all noise levels of the diffusion process: in closed form, or sampled for mixtures."""
    first, last = denoiser.schedule.noise_level(torch.tensor([0.0, 1.0], dtype=torch.float64)).log10().tolist()
    levels = torch.logspace(min(first, -3), max(last, 2), 48, dtype=torch.float64)
    if isinstance(denoiser, SeparableDenoiser | EofDenoiser):
        lag = torch.stack([denoiser.neighbours(s) for s in levels])
    else:
        count = max(16, 50_000 // denoiser.draw(1, torch.Generator().manual_seed(0)).numel())
        drawn = denoiser.draw(count, torch.Generator().manual_seed(0))
        measured = measure_error(denoiser, [(denoiser, drawn)], levels=levels)
        if not isinstance(denoiser, GaussianDenoiser):
            return measured
        assert measured.lag is not None
        lag = measured.lag
    rms = torch.stack([denoiser.mean_square(s) for s in levels]).sqrt()
    return ErrorCurve(levels.float(), rms.clamp(min=1e-12).float(), lag.float())
