"""Exact priors from labelled means and covariances: ``GaussianPrior`` and ``GaussianMixturePrior``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from xsda.diffusion.error import ErrorCurve
from xsda.diffusion.schedules import Schedule
from xsda.grid import Grid
from xsda.layout import Layout
from xsda.priors.exact import EXACT_SCHEDULE, GaussianDenoiser, MixtureDenoiser
from xsda.priors.prior import Prior


class GaussianMixturePrior(Prior):
    """A mixture of Gaussian trajectories with an exact denoiser.

    Parameters
    ----------
    means
        One Dataset per component, all on the same axes.
    covs
        Covariances (component, N, N), in the order in which the variables of a mean, one after another, are ravelled.
    weights
        Probabilities of the components (default: equal).
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
                f"got {len(means)} means, {len(covs)} covariances and {p.size} weights; need one of each per component"
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
                        f"the means must hold the same variables with the same order of dimensions; see {v!r}"
                    )
                if not np.isfinite(other[v].values).all():
                    raise ValueError(f"the mean of {v!r} holds NaN or infinite values")
        grid = Grid.match(layout, means[0])
        order = _tensor_order(grid)
        arrays = [_check_cov(cov, len(order)) for cov in covs]
        flat = [_ravel(m, layout) for m in means]
        channel = np.tile(np.arange(layout.channels)[:, None], (grid.shape[0], 1, int(np.prod(grid.shape[2:])))).ravel()
        center = sum(w * m for w, m in zip(p, flat, strict=True))[order]
        second = sum(w * (np.diag(c) + m**2) for w, m, c in zip(p, flat, arrays, strict=True))[order]
        mean = np.array([center[channel == c].mean() for c in range(layout.channels)])
        # the spread within a channel counts around its own mean at each place, so that constants do not inflate it
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
        super().__init__(denoiser, layout, length=grid.shape[0], error=_error_curve(denoiser), name=name)


class GaussianPrior(GaussianMixturePrior):
    """A Gaussian trajectory with an exact denoiser: the posterior is known, so it is the yardstick.

    Parameters
    ----------
    mean
        Dataset over ``time`` and up to two space dimensions.
    cov
        Covariance (N, N), in the order in which the variables of ``mean``, one after another, are ravelled.
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


def _ravel(ds: xr.Dataset, layout: Layout) -> np.ndarray:
    return np.concatenate([np.asarray(ds[v].values, dtype=np.float64).ravel() for v in layout.names])


def _tensor_order(grid: Grid) -> np.ndarray:
    """For each number of a state tensor, its place among the ravelled variables."""
    numbered, start = {}, 0
    for v in grid.layout.names:
        da = grid.template[v]
        numbered[v] = da.copy(data=np.arange(start, start + da.size, dtype=np.float64).reshape(da.shape))
        start += da.size
    return grid.stack(xr.Dataset(numbered)).ravel().astype(int)


def _check_cov(cov: np.ndarray, n: int) -> np.ndarray:
    cov = np.asarray(cov, dtype=np.float64)
    if cov.shape != (n, n):
        raise ValueError(f"the covariance has the shape {cov.shape}, the mean has {n} numbers; expected ({n}, {n})")
    if not np.isfinite(cov).all():
        raise ValueError("the covariance holds NaN or infinite values")
    if not np.allclose(cov, cov.T, atol=1e-8 * np.abs(cov).max()):
        raise ValueError("the covariance is not symmetric; use (cov + cov.T) / 2")
    smallest = np.linalg.eigvalsh(cov)[0]
    if smallest < -1e-8 * np.abs(cov).max():
        raise ValueError(f"the covariance is not positive semi-definite: its smallest eigenvalue is {smallest:g}")
    return cov


def _error_curve(denoiser: MixtureDenoiser) -> ErrorCurve:
    """r(s) in closed form for a Gaussian; for a mixture, the error of its components plus that of telling them apart."""
    levels = torch.logspace(-3, 2, 48, dtype=torch.float64)
    shape = denoiser.shape.tolist()
    rows = []
    for s in levels:
        variance: Tensor = denoiser.values.double() * s**2 / (denoiser.values.double() + s**2)
        each = torch.einsum("kij,kj->ki", denoiser.vectors.double() ** 2, variance)
        weights = denoiser.weights.double()[:, None]
        between = (weights * denoiser.means.double() ** 2).sum(0) - ((weights * denoiser.means.double()).sum(0)) ** 2
        total = (weights * each).sum(0) + between * s**2 / (between + s**2 + 1e-30)
        rows.append(total.reshape(shape).transpose(0, 1).flatten(1).mean(1))
    return ErrorCurve(levels.float(), torch.stack(rows).sqrt().clamp(min=1e-12).float())
