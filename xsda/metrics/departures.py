r"""Compares forecasts and analyses with observations, in observation space.

The departures are d_b = y - H x_b of the forecast (background) and d_a = y - H x_a of the analysis; x_b and x_a are
ensemble means. If forecast errors and observation errors are uncorrelated, and the analysis uses the correct
covariances, then (Desroziers et al. 2005, doi:10.1256/qj.05.108)

    <d_a d_b> = R,    <(H x_a - H x_b) d_b> = H B H',    <(H x_a - H x_b) d_a> = H A H',    <d_b^2> = H B H' + R.

Only the diagonals are computed.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from xsda.labels.axes import find_axes
from xsda.metrics.pairs import Dim, dims_of, mean, with_units
from xsda.observations.observe import grid_of, observe
from xsda.observations.read import dims_of as positions_of
from xsda.observations.read import read
from xsda.observations.select import select
from xsda.observations.sources import as_sources
from xsda.observations.survey import list_values


def observation_chi_square(
    ensemble: xr.Dataset,
    obs: Any,
    sigma: Any = None,
    *,
    derived: Mapping[str, Any] | None = None,
    quality: Any = None,
    outside: str = "raise",
    superobs: Any = None,
) -> xr.Dataset:
    """Average ((H x - y) / sigma)^2 over members and observations, for each observed variable.

    The expectation is 1 for a correct posterior with independent Gaussian errors, because truth and members then have
    the same distribution given the observations. Much less than 1: the ensemble fits the errors of the observations.
    Much more: the observations had little effect. With other laws or correlated errors the expectation is not 1.

    Parameters
    ----------
    ensemble
        A posterior, or any ensemble or trajectory.
    obs, sigma, derived
        As in ``xsda.assimilate``. All values of a variable have the same weight, whatever their source.
    quality, outside, superobs
        Which values are used, and which are averaged, as in ``xsda.assimilate``.

    Returns
    -------
    xarray.Dataset
        One number for each observed variable.

    Examples
    --------
    >>> perfect = xsda.metrics.observation_chi_square(truth, truth[["x"]].isel(time=[3]), sigma=0.5)
    >>> shifted = xsda.metrics.observation_chi_square(truth + 1, truth[["x"]].isel(time=[3]), sigma=0.5)
    >>> float(perfect.x), float(shifted.x)
    (0.0, 4.0)
    """
    total: dict[str, Any] = {}
    obs, sigma = _selected(ensemble, obs, sigma, derived, quality=quality, outside=outside, superobs=superobs)
    for o in read(obs, _units(ensemble), sigma=sigma, derived=derived):
        predicted = observe(ensemble, o.ds[[o.name, *_helpers(o.ds)]], derived=derived)[o.name]
        z = ((predicted - o.da) / xr.DataArray(o.std, dims=o.da.dims)) ** 2
        before, number = total.get(o.name, (0.0, 0))
        total[o.name] = before + z.sum(), number + z.count()
    return xr.Dataset({k: (s / n).assign_attrs(units="1") for k, (s, n) in total.items()})


def _units(state: xr.Dataset) -> dict[str, str | None]:
    """Units of the variables of a Dataset."""
    return {str(v): da.attrs.get("units") for v, da in state.data_vars.items()}


def _selected(
    state: xr.Dataset, obs: Any, sigma: Any, derived: Mapping[str, Any] | None, **options: Any
) -> tuple[dict[str, xr.Dataset], Any]:
    """Select and average observations on the grid of a trajectory or ensemble."""
    grid = grid_of(state)
    sources = as_sources(obs, [*grid.names.values(), *(derived or {})], positions_of(grid))
    return select(sources, grid, sigma, derived=derived, **options)


def _helpers(ds: xr.Dataset) -> list[str]:
    """Names of the cell bounds, which the operator needs."""
    return [str(c.attrs["bounds"]) for c in ds.coords.values() if c.attrs.get("bounds") in ds.data_vars]


def innovations(
    ensemble: xr.Dataset,
    obs: Any,
    *,
    derived: Mapping[str, Any] | None = None,
    quality: Any = None,
    outside: str = "raise",
    superobs: Any = None,
) -> xr.Dataset:
    """Compute y - H x at the observations, where x is the ensemble mean, or the trajectory itself.

    Parameters
    ----------
    ensemble
        Ensemble or trajectory. It may be longer than the observations.
    obs, derived
        One Dataset of observations, and functions for variables that the ensemble lacks, as in ``xsda.assimilate``.
    quality, outside, superobs
        Which values are used, and which are averaged, as in ``xsda.assimilate``.

    Returns
    -------
    xarray.Dataset
        Differences on the coordinates of ``obs``, or of their averages, in the units of the ensemble; NaN where the
        observation is missing.

    Examples
    --------
    >>> seen = truth[["x"]].isel(time=[3, 7]) + 2
    >>> xsda.metrics.innovations(truth, seen).x.values
    array([2., 2.])
    """
    state = ensemble.mean("member", keep_attrs=True) if "member" in ensemble.dims else ensemble
    obs, _ = _selected(state, obs, None, derived, quality=quality, outside=outside, superobs=superobs)
    found = read(obs, _units(state), derived=derived, errors=False)
    if len({o.source for o in found}) > 1:
        raise TypeError("innovations take one Dataset of observations, got several; call it for each instrument")
    predicted = observe(state, obs, derived=derived)
    departure = xr.Dataset({o.name: o.da - predicted[o.name] for o in found})
    return with_units(departure.drop_attrs(deep=False), predicted)


SHOWN = 10  # innovations in the text of the result


@dataclass(frozen=True, eq=False, repr=False)
class Innovations:
    """Observations minus members. A notebook shows the largest as a table.

    Attributes
    ----------
    sources
        For each source a Dataset of differences, labelled like the observations, with the dimension ``member``.
    table
        One row for each value: source, variable, innovation of the ensemble mean, its joint spread, their ratio z, and
        the coordinates. The largest ratio comes first.
    """

    sources: Mapping[str, xr.Dataset]
    table: pd.DataFrame

    @property
    def members(self) -> Any:
        """Observation minus members: a Dataset, or several by source."""
        return next(iter(self.sources.values())) if len(self.sources) == 1 else dict(self.sources)

    @property
    def _heading(self) -> str:
        count = len(self.table)
        return f"{count} innovations, in units of the joint spread; the {min(SHOWN, count)} largest:"

    def __repr__(self) -> str:
        return f"{self._heading}\n{self.table.head(SHOWN).to_string(float_format='{:.4g}'.format)}"

    def _repr_html_(self) -> str:
        text = self.table.head(SHOWN).to_html(float_format="{:.4g}".format)
        return f"<p>{html.escape(self._heading)}</p>\n{text}"


def largest_innovations(
    ensemble: xr.Dataset,
    obs: Any,
    *,
    sigma: Any = None,
    derived: Mapping[str, Any] | None = None,
    quality: Any = None,
    outside: str = "raise",
    superobs: Any = None,
) -> Innovations:
    """Compute observation minus members, and list the largest first.

    The joint spread of a value is sqrt(sigma^2 + (1 + 1/M) var(H x)) for M members. Of a trustworthy forecast about
    one in 20 innovations is larger than two joint spreads. A posterior has seen the observations, so its innovations
    are smaller.

    Parameters
    ----------
    ensemble
        Ensemble with the dimension ``member``.
    obs, sigma, derived
        Observations with their errors, as in ``xsda.assimilate``.
    quality, outside, superobs
        Which values are used, and which are averaged, as in ``xsda.assimilate``.

    Returns
    -------
    Innovations
        ``.members`` holds all differences, ``.table`` is a DataFrame.

    Examples
    --------
    >>> found = xsda.metrics.largest_innovations(post, obs)
    >>> dict(found.members.x.sizes), len(found.table)
    ({'member': 8, 'time': 4}, 4)
    """
    if "member" not in ensemble.dims:
        raise ValueError(f"innovations need an ensemble with the dimension 'member'; it has {tuple(ensemble.sizes)}")
    sources: dict[str, dict[str, xr.DataArray]] = {}
    tables = []
    obs, sigma = _selected(ensemble, obs, sigma, derived, quality=quality, outside=outside, superobs=superobs)
    for o in read(obs, _units(ensemble), sigma=sigma, derived=derived):
        predicted = observe(ensemble, o.ds[[o.name, *_helpers(o.ds)]], derived=derived)[o.name].compute()
        departure = (o.da - predicted).transpose("member", *o.da.dims)
        m = departure.sizes["member"]
        variance = departure.var("member", ddof=1).values if m > 1 else 0.0
        mean, joint = departure.mean("member").values, (np.asarray(o.std) ** 2 + (1 + 1 / m) * variance) ** 0.5
        rows = list_values(o.da, {"innovation": mean, "joint spread": joint, "z": mean / joint})
        rows.insert(0, "variable", o.name)
        rows.insert(0, "source", o.source)
        tables.append(rows[rows["z"].notna()])
        units = {"units": o.da.attrs["units"]} if "units" in o.da.attrs else {}
        sources.setdefault(o.source, {})[o.name] = departure.assign_attrs(
            long_name=f"observed minus predicted {o.name}", **units
        )
    table = pd.concat(tables, ignore_index=True)
    table = table.sort_values("z", key=np.abs, ascending=False, kind="stable", ignore_index=True)
    return Innovations({s: xr.Dataset(v) for s, v in sources.items()}, table)


def desroziers(
    forecast: xr.Dataset,
    analysis: xr.Dataset,
    obs: Any,
    dim: Dim = None,
    *,
    derived: Mapping[str, Any] | None = None,
    quality: Any = None,
    outside: str = "raise",
    superobs: Any = None,
) -> xr.Dataset:
    """Estimate the error variances of observations, forecast and analysis from a cycled run.

    The estimates are the true variances if the analysis used the true ones. Otherwise they are the first step of an
    iteration towards them.

    Parameters
    ----------
    forecast, analysis
        Ensembles before and after each analysis, at all times of the observations.
    obs, derived
        One Dataset of observations, and functions for derived variables, as in ``xsda.assimilate``.
    dim
        Dimensions of ``obs`` to average over. Default: all. ``"time"`` gives one estimate for each station.
    quality, outside, superobs
        Which values are used, and which are averaged, as in ``xsda.assimilate``.

    Returns
    -------
    xarray.Dataset
        Variances over the dimension ``estimate``: "R" (observations), "HBH" (forecast), "HAH" (analysis).

    Examples
    --------
    >>> method = xsda.baselines.ETKF()
    >>> run = truth.sda.filter(obs, xsda.systems.Lorenz63(), method=method, keep="both", progress=False)
    >>> forecast, analysis = run.sel(stage="forecast"), run.sel(stage="analysis")
    >>> xsda.metrics.desroziers(forecast, analysis, obs).estimate.values
    array(['R', 'HBH', 'HAH'], dtype='<U3')
    """
    obs, _ = _selected(forecast, obs, None, derived, quality=quality, outside=outside, superobs=superobs)
    _check_cycled(forecast, obs)
    before = innovations(forecast, obs, derived=derived)
    after = innovations(analysis, obs, derived=derived)
    dims = dims_of(before, dim)
    products = {"R": after * before, "HBH": (before - after) * before, "HAH": (before - after) * after}
    means = [mean(product, dims, weights=False) for product in products.values()]
    axis = xr.DataArray(list(products), dims="estimate", name="estimate")
    joined = xr.concat(means, axis, coords="minimal", compat="override")
    return with_units(joined, before, power=2)


def _check_cycled(forecast: xr.Dataset, obs: Any) -> None:
    """Raise if observations lie between the states: interpolated states do not contain the analysis at that time."""
    time = find_axes(forecast)[0] if "time" in forecast.dims else "time"
    if time not in forecast.indexes:
        return
    for ds in as_sources(obs).values():
        if time not in ds.coords:
            continue
        own = np.atleast_1d(ds[time].values)
        between = own[~np.isin(own, forecast.indexes[time].values)]
        if len(between):
            raise ValueError(
                f"there are observations at {time} {between[0]}, where forecast and analysis have no state "
                f"({len(between)} of {len(own)} times); run the filter on a grid with the times of the observations, "
                "or select the times it has"
            )


def innovation_consistency(
    forecast: xr.Dataset,
    obs: Any,
    dim: Dim = None,
    *,
    sigma: Any = None,
    derived: Mapping[str, Any] | None = None,
    quality: Any = None,
    outside: str = "raise",
    superobs: Any = None,
) -> xr.Dataset:
    """Compare the mean squared innovation with the variance expected from forecast spread and observation error.

    The score is <d_b^2> / <sigma^2 + (1 + 1/M) var(H x_b)> for M members; 1/M is the uncertainty of the ensemble
    mean. It is 1 if spread and sigma are correct. More than 1: the forecast is overconfident, or sigma is too small.

    Parameters
    ----------
    forecast
        Ensemble of at least two members.
    obs, sigma, derived
        One Dataset of observations with their errors, as in ``xsda.assimilate``.
    dim
        Dimensions of ``obs`` to average over. Default: all.
    quality, outside, superobs
        Which values are used, and which are averaged, as in ``xsda.assimilate``.

    Returns
    -------
    xarray.Dataset
        The ratio, for each observed variable.

    Examples
    --------
    >>> ratio = xsda.metrics.innovation_consistency(post, truth[["x"]] + 3.0, sigma=0.5)
    >>> bool(ratio.x > 1)
    True
    """
    m = forecast.sizes.get("member", 0)
    if m < 2:
        raise ValueError(f"the innovation consistency needs a forecast of at least 2 members, got {m}")
    obs, sigma = _selected(forecast, obs, sigma, derived, quality=quality, outside=outside, superobs=superobs)
    departure = innovations(forecast, obs, derived=derived)
    predicted = observe(forecast, obs, derived=derived)
    foreseen = {
        o.name: (1 + 1 / m) * predicted[o.name].var("member", ddof=1) + xr.DataArray(o.std, dims=o.da.dims) ** 2
        for o in read(obs, _units(forecast), sigma=sigma, derived=derived)
    }
    dims = dims_of(departure, dim)
    expected = xr.Dataset(foreseen).where(departure.notnull())
    squares = (departure**2).where(expected.notnull())
    ratio = mean(squares, dims, weights=False) / mean(expected, dims, weights=False)
    return with_units(ratio, departure, power=0)
