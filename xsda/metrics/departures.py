r"""Scores in observation space: departures of forecast and analysis from what was observed.

With the departures d_b = y - H x_b of the forecast (background) and d_a = y - H x_a of the analysis, and with errors
that are uncorrelated between forecast and observations, an analysis made with the right covariances has (Desroziers et
al. 2005, doi:10.1256/qj.05.108)

    <d_a d_b> = R,    <(H x_a - H x_b) d_b> = H B H',    <(H x_a - H x_b) d_a> = H A H',    <d_b^2> = H B H' + R.

Here x_b and x_a are ensemble means, and each number is treated by itself: these are the diagonals.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from xsda.labels.axes import find_axes
from xsda.metrics.pairs import Dim, dims_of, with_units
from xsda.observations.observe import observe
from xsda.observations.read import read
from xsda.observations.sources import as_sources


def observation_chi_square(
    ensemble: xr.Dataset, obs: Any, sigma: Any = None, *, derived: Mapping[str, Any] | None = None
) -> xr.Dataset:
    """Mean of ((H x - y) / sigma)^2 over members and observations, for each observed variable.

    Given the observations, truth and posterior members are alike, so that a right posterior has an expectation of 1.
    Much less: the ensemble fits the errors of the observations. Much more: the observations had little effect. It is
    made for independent Gaussian errors; with other laws or correlated errors 1 is not what to expect.

    Parameters
    ----------
    ensemble
        A posterior, or any ensemble or trajectory.
    obs, sigma, derived
        As in ``xsda.assimilate``; several sources are averaged by number of values.

    Returns
    -------
    xarray.Dataset
        One number for each observed variable.
    """
    total: dict[str, Any] = {}
    for o in read(obs, _units(ensemble), sigma=sigma, derived=derived):
        predicted = observe(ensemble, o.ds[[o.name, *_helpers(o.ds)]], derived=derived)[o.name]
        z = ((predicted - o.da) / xr.DataArray(o.std, dims=o.da.dims)) ** 2
        before, number = total.get(o.name, (0.0, 0))
        total[o.name] = before + z.sum(), number + z.count()
    return xr.Dataset({k: (s / n).assign_attrs(units="1") for k, (s, n) in total.items()})


def _units(state: xr.Dataset) -> dict[str, str | None]:
    return {str(v): da.attrs.get("units") for v, da in state.data_vars.items()}


def _helpers(ds: xr.Dataset) -> list[str]:
    """Cell bounds, which an operator needs."""
    return [str(c.attrs["bounds"]) for c in ds.coords.values() if c.attrs.get("bounds") in ds.data_vars]


def innovations(ensemble: xr.Dataset, obs: Any, *, derived: Mapping[str, Any] | None = None) -> xr.Dataset:
    """y - H x at the observations, with x the ensemble mean (or the state itself, where there are no members).

    The forecast may be a longer run: the times of ``obs`` are found in it. Where an observation is NaN, so is the
    result.
    """
    state = ensemble.mean("member", keep_attrs=True) if "member" in ensemble.dims else ensemble
    found = read(obs, _units(state), derived=derived, errors=False)
    if len({o.source for o in found}) > 1:
        raise TypeError("innovations are those of one Dataset of observations; take each instrument in turn")
    predicted = observe(state, obs, derived=derived)
    departure = xr.Dataset({o.name: o.da - predicted[o.name] for o in found})
    return with_units(departure.drop_attrs(deep=False), predicted)


def desroziers(
    forecast: xr.Dataset,
    analysis: xr.Dataset,
    obs: Any,
    dim: Dim = None,
    *,
    derived: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Estimates of R, H B H' and H A H' from a cycled run, over the dimension ``estimate`` ("R", "HBH", "HAH").

    ``forecast`` and ``analysis`` hold every state that was observed, before and after it was corrected. ``dim`` names
    the dimensions of ``obs`` to average over (default: all); ``"time"`` leaves an estimate for each station. They are
    variances if the analysis was made with the right ones; otherwise the first step of an iteration towards them.
    """
    _check_cycled(forecast, obs)
    before = innovations(forecast, obs, derived=derived)
    after = innovations(analysis, obs, derived=derived)
    dims = dims_of(before, dim)
    products = {"R": after * before, "HBH": (before - after) * before, "HAH": (before - after) * after}
    means = [_plain_mean(product, dims) for product in products.values()]
    axis = xr.DataArray(list(products), dims="estimate", name="estimate")
    joined = xr.concat(means, axis, coords="minimal", compat="override")
    return with_units(joined, before, power=2)


def _check_cycled(forecast: xr.Dataset, obs: Any) -> None:
    """Raise if observations lie between the states: interpolated ones know nothing of the analysis there."""
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
                f"there are observations at {time} {between[0]}, where forecast and analysis hold no state "
                f"({len(between)} of {len(own)} times); run the filter on a grid with the times of the observations, "
                "or select those it has"
            )


def innovation_consistency(
    forecast: xr.Dataset,
    obs: Any,
    dim: Dim = None,
    *,
    sigma: Any = None,
    derived: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """<d_b^2> over the variance that the forecast's M members and the observation error foresee: 1 if they are right.

    That is <sigma^2 + (1 + 1/M) var(H x_b)>, the 1/M being the uncertainty of the ensemble mean. More than 1: the
    forecast is overconfident, or sigma too small. ``sigma`` is found as in ``assimilate``.
    """
    m = forecast.sizes.get("member", 0)
    if m < 2:
        raise ValueError("the innovation consistency needs a forecast with a dimension 'member' of at least 2")
    departure = innovations(forecast, obs, derived=derived)
    predicted = observe(forecast, obs, derived=derived)
    foreseen = {
        o.name: (1 + 1 / m) * predicted[o.name].var("member", ddof=1) + xr.DataArray(o.std, dims=o.da.dims) ** 2
        for o in read(obs, _units(forecast), sigma=sigma, derived=derived)
    }
    dims = dims_of(departure, dim)
    expected = xr.Dataset(foreseen).where(departure.notnull())
    ratio = _plain_mean((departure**2).where(expected.notnull()), dims) / _plain_mean(expected, dims)
    return with_units(ratio, departure, power=0)


def _plain_mean(ds: xr.Dataset, dims: Any) -> xr.Dataset:
    """Observations stand for themselves, not for areas: no weights."""
    return xr.Dataset({k: v.mean([d for d in dims if d in v.dims], keep_attrs=False) for k, v in ds.data_vars.items()})
