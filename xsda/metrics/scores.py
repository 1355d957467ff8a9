r"""Scores of the ensemble mean.

Functions take a labelled ensemble (Dataset or DataArray with a dimension ``member``) and a truth on the same axes; ``dim``
names the dimensions to average over (default: all but ``member``) and ``weights`` how (see ``pairs``). They are lazy on
dask arrays and pass over NaN.
"""

from __future__ import annotations

from typing import Any

import xarray as xr

from xsda.metrics.pairs import Dim, Labelled, Weights, mean, pair, with_units


def rmse(ensemble: Labelled, truth: Labelled, dim: Dim = None, *, weights: Weights = None) -> Labelled:
    """Root mean square error of the ensemble mean, in the units of the variable."""
    ensemble, truth = pair(ensemble, truth)
    return with_units(mean((ensemble.mean("member") - truth) ** 2, dim, weights) ** 0.5, ensemble)


def bias(ensemble: Labelled, truth: Labelled, dim: Dim = None, *, weights: Weights = None) -> Labelled:
    """Mean of (ensemble mean - truth)."""
    ensemble, truth = pair(ensemble, truth)
    return with_units(mean(ensemble.mean("member") - truth, dim, weights), ensemble)


def mae(ensemble: Labelled, truth: Labelled, dim: Dim = None, *, weights: Weights = None) -> Labelled:
    """Mean absolute error of the ensemble mean."""
    ensemble, truth = pair(ensemble, truth)
    return with_units(mean(abs(ensemble.mean("member") - truth), dim, weights), ensemble)


def anomaly_correlation(
    ensemble: Labelled,
    truth: Labelled,
    climatology: Labelled,
    dim: Dim = None,
    *,
    centred: bool = False,
    weights: Weights = None,
) -> Labelled:
    r"""Correlation of the departures of ensemble mean and truth from a climatology: 1 is perfect, 0 no skill.

    With f and o the departures, <f o> / sqrt(<f^2> <o^2>); ``centred`` takes their means <f>, <o> away first. The
    climatology lies on the truth's coordinates and may lack some of its dimensions, such as time.
    """
    ensemble, truth = pair(ensemble, truth)
    normal: Any = _on_coordinates_of(truth, climatology)
    forecast, observed = ensemble.mean("member") - normal, truth - normal
    if centred:
        forecast = forecast - mean(forecast, dim, weights)
        observed = observed - mean(observed, dim, weights)
    power = mean(forecast**2, dim, weights) * mean(observed**2, dim, weights)
    return with_units(mean(forecast * observed, dim, weights) / power**0.5, ensemble, power=0)


def _on_coordinates_of(truth: Any, climatology: Any) -> Any:
    if isinstance(truth, xr.Dataset):
        missing = [v for v in truth.data_vars if v not in climatology]
        if missing:
            raise KeyError(f"the climatology lacks the variable {missing[0]!r}; add it, or drop it from the ensemble")
        climatology = climatology[list(truth.data_vars)]
    if not {*climatology.dims} <= {*truth.dims}:
        raise ValueError(
            f"the climatology has the dimensions {tuple(climatology.dims)}, the truth {tuple(truth.dims)}; select its values "
            "at the times of the truth first, for example .sel(dayofyear=truth.time.dt.dayofyear)"
        )
    try:
        return xr.align(truth, climatology, join="exact", copy=False)[1]
    except ValueError as error:
        raise ValueError(
            f"climatology and truth lie on different coordinates; use .sel or .interp first ({error})"
        ) from error
