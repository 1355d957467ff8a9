"""Scores of the ensemble mean.

Each function takes an ensemble (a Dataset or DataArray with the dimension ``member``) and a truth on the same axes.
``dim`` names the dimensions to average over (default: all but ``member``), ``weights`` the weights of the average (see
``pairs``). All are lazy on dask arrays and ignore NaN.
"""

from __future__ import annotations

from typing import Any

import xarray as xr

from xsda.metrics.pairs import Dim, Labelled, Weights, mean, pair, with_units


def rmse(ensemble: Labelled, truth: Labelled, dim: Dim = None, *, weights: Weights = None) -> Labelled:
    """Root mean square error of the ensemble mean.

    Parameters
    ----------
    ensemble
        Ensemble with the dimension ``member``.
    truth
        Truth on the same coordinates.
    dim
        Dimensions to average over. Default: all but ``member``.
    weights
        DataArray of weights, or False for none. Default: areas, where there is a latitude.

    Returns
    -------
    xarray.Dataset or xarray.DataArray
        Error of each variable, in the units of the variable.

    Examples
    --------
    >>> ensemble = xr.DataArray([[1.0, 2.0], [3.0, 4.0]], dims=("member", "time"), attrs={"units": "K"})
    >>> truth = xr.DataArray([2.0, 5.0], dims="time")
    >>> error = xsda.metrics.rmse(ensemble, truth)
    >>> round(float(error), 3), error.units
    (1.414, 'K')
    """
    ensemble, truth = pair(ensemble, truth)
    return with_units(mean((ensemble.mean("member") - truth) ** 2, dim, weights) ** 0.5, ensemble)


def bias(ensemble: Labelled, truth: Labelled, dim: Dim = None, *, weights: Weights = None) -> Labelled:
    """Mean of (ensemble mean - truth).

    Parameters
    ----------
    ensemble
        Ensemble with the dimension ``member``.
    truth
        Truth on the same coordinates.
    dim
        Dimensions to average over. Default: all but ``member``.
    weights
        DataArray of weights, or False for none. Default: areas, where there is a latitude.

    Returns
    -------
    xarray.Dataset or xarray.DataArray
        Bias of each variable, in the units of the variable. Positive: the ensemble is too high.

    Examples
    --------
    >>> ensemble = xr.DataArray([[1.0, 2.0], [3.0, 4.0]], dims=("member", "time"), attrs={"units": "K"})
    >>> truth = xr.DataArray([2.0, 5.0], dims="time")
    >>> float(xsda.metrics.bias(ensemble, truth))
    -1.0
    """
    ensemble, truth = pair(ensemble, truth)
    return with_units(mean(ensemble.mean("member") - truth, dim, weights), ensemble)


def mae(ensemble: Labelled, truth: Labelled, dim: Dim = None, *, weights: Weights = None) -> Labelled:
    """Mean absolute error of the ensemble mean.

    Parameters
    ----------
    ensemble
        Ensemble with the dimension ``member``.
    truth
        Truth on the same coordinates.
    dim
        Dimensions to average over. Default: all but ``member``.
    weights
        DataArray of weights, or False for none. Default: areas, where there is a latitude.

    Returns
    -------
    xarray.Dataset or xarray.DataArray
        Error of each variable, in the units of the variable.

    Examples
    --------
    >>> ensemble = xr.DataArray([[1.0, 2.0], [3.0, 4.0]], dims=("member", "time"), attrs={"units": "K"})
    >>> truth = xr.DataArray([2.0, 5.0], dims="time")
    >>> float(xsda.metrics.mae(ensemble, truth))
    1.0
    """
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
    """Correlation of ensemble mean and truth as anomalies from a climatology: 1 is perfect, 0 is no skill.

    With the anomalies f of the ensemble mean and o of the truth, and averages < >, it is <f o> / sqrt(<f^2> <o^2>).

    Parameters
    ----------
    ensemble
        Ensemble with the dimension ``member``.
    truth
        Truth on the same coordinates.
    climatology
        Climatology on the coordinates of the truth. It may lack some of their dimensions, such as time.
    dim
        Dimensions to average over. Default: all but ``member``.
    centred
        Subtract the averages <f> and <o> first.
    weights
        DataArray of weights, or False for none. Default: areas, where there is a latitude.

    Returns
    -------
    xarray.Dataset or xarray.DataArray
        Correlation of each variable, without units.

    Examples
    --------
    >>> truth = xr.DataArray([1.0, -1.0, 2.0, -2.0], dims="time")
    >>> ensemble = xr.DataArray([[2.0, -1.0, 1.0, -2.0]], dims=("member", "time"))
    >>> float(xsda.metrics.anomaly_correlation(ensemble, truth, xr.DataArray(0.0)))
    0.9
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
            f"the climatology has the dimensions {tuple(climatology.dims)}, the truth {tuple(truth.dims)}; select its "
            "values at the times of the truth first, for example .sel(dayofyear=truth.time.dt.dayofyear)"
        )
    try:
        return xr.align(truth, climatology, join="exact", copy=False)[1]
    except ValueError as error:
        raise ValueError(
            f"climatology and truth lie on different coordinates; use .sel or .interp first ({error})"
        ) from error
