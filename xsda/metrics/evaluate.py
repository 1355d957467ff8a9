"""Computes the usual scores of an ensemble in one table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from xsda.metrics.departures import observation_chi_square
from xsda.metrics.ensemble import crps, spread, spread_skill
from xsda.metrics.pairs import Dim, Weights, pair
from xsda.metrics.scores import bias, mae, rmse


def evaluate(
    ensemble: xr.Dataset,
    truth: xr.Dataset,
    *,
    obs: Any = None,
    sigma: Any = None,
    derived: Mapping[str, Any] | None = None,
    dim: Dim = None,
    weights: Weights = None,
    quality: Any = None,
    outside: str = "raise",
    superobs: Any = None,
) -> xr.Dataset:
    """Evaluate an ensemble: RMSE, bias, fair CRPS, spread and spread/skill of each variable.

    A trajectory without members, such as a best estimate, has RMSE, bias and mean absolute error. The latter is its
    CRPS. A single member has RMSE and bias; its other scores are NaN.

    Parameters
    ----------
    ensemble
        Ensemble with the dimension ``member``, or a trajectory.
    truth
        Trajectory on the same coordinates.
    obs, sigma, derived
        Observations with their errors, as in ``xsda.assimilate``. They add the score ``chi_square``, the mean squared
        misfit divided by the error variance, which is 1 for a correct posterior.
    dim
        Dimensions to average over. Default: all but ``member``.
    weights
        DataArray of weights, or False for none. Default: areas, where there is a latitude.
    quality, outside, superobs
        Which of the observations are used, and which are averaged, as in ``xsda.assimilate``.

    Returns
    -------
    xarray.Dataset
        One data variable for each score, over the dimension ``variable``. ``.to_dataframe()`` gives a table.

    Examples
    --------
    >>> truth = xr.Dataset({"a": ("time", [2.0, 5.0], {"units": "K"})})
    >>> ensemble = xr.Dataset({"a": (("member", "time"), [[1.0, 2.0], [3.0, 4.0]], {"units": "K"})})
    >>> table = xsda.evaluate(ensemble, truth)
    >>> float(table.crps.sel(variable="a")), table.crps.units
    (0.5, 'K')
    """
    single = "member" not in ensemble.dims
    ensemble = ensemble.expand_dims("member") if single else ensemble
    scores = {
        "rmse": rmse(ensemble, truth, dim, weights=weights),
        "bias": bias(ensemble, truth, dim, weights=weights),
    }
    if single:
        scores["mae"] = mae(ensemble, truth, dim, weights=weights)
    elif ensemble.sizes["member"] == 1:
        scores |= dict.fromkeys(("crps", "spread", "spread_skill"), scores["rmse"] * np.nan)
    else:
        scores["crps"] = crps(ensemble, truth, dim, weights=weights)
        scores["spread"] = spread(pair(ensemble, truth)[0], dim, weights=weights)
        scores["spread_skill"] = spread_skill(ensemble, truth, dim, weights=weights)
    if obs is not None:
        scores["chi_square"] = observation_chi_square(
            ensemble, obs, sigma, derived=derived, quality=quality, outside=outside, superobs=superobs
        )
    names = list(scores["rmse"].data_vars)
    units = {v: str(ensemble[v].attrs.get("units", "")) for v in names}
    out = xr.Dataset()
    for score, values in scores.items():
        columns = [values[v] if v in values else xr.DataArray(np.nan) for v in names]
        out[score] = xr.concat(
            columns, xr.DataArray(names, dims="variable", name="variable"), coords="minimal", compat="override"
        )
        out[score].attrs = {"long_name": LONG_NAMES[score].removesuffix(" of the ensemble mean" if single else "")}
        if score in ("spread_skill", "chi_square"):
            out[score].attrs["units"] = "1"
        elif len(set(units.values())) == 1 and units[names[0]]:
            out[score].attrs["units"] = units[names[0]]
    if not single:
        out.attrs["members"] = ensemble.sizes["member"]
    if any(units.values()):
        out.attrs["variable_units"] = ", ".join(f"{v}: {u or '?'}" for v, u in units.items())
    return out


LONG_NAMES = {
    "rmse": "root mean square error of the ensemble mean",
    "bias": "bias of the ensemble mean",
    "mae": "mean absolute error",
    "crps": "fair continuous ranked probability score",
    "spread": "ensemble spread",
    "spread_skill": "ratio of spread to error",
    "chi_square": "mean squared misfit to the observations over their error variance",
}
