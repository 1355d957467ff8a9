"""Proper scores of the whole ensemble, and its spread.

With members x_1 ... x_M and truth y, the scores of Gneiting and Raftery (2007, doi:10.1198/016214506000001437) and of
Scheuerer and Hamill (2015, doi:10.1175/MWR-D-14-00269.1) are

    CRPS      = mean_i |x_i - y| - mean_ij |x_i - x_j| / 2
    energy    = the same with the norm of vectors
    variogram = mean over pairs of places k, l of (|y_k - y_l|^p - mean_i |x_ik - x_il|^p)^2

A mean over all pairs i, j compares each member with itself too, which favours larger ensembles. The *fair* scores
(Ferro 2014, doi:10.1002/qj.2270) omit the pairs i = j. Their expectation is the score of an infinitely large ensemble.
They are the default here.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
import xarray as xr

from xsda.metrics.pairs import Dim, Labelled, Weights, check_weights, dims_of, mean, pair, power_of, with_units
from xsda.metrics.vectors import Scale, rescale, squared_distances, vector_weights


def crps(
    ensemble: Labelled, truth: Labelled, dim: Dim = None, *, fair: bool = True, weights: Weights = None
) -> Labelled:
    """Continuous ranked probability score: the error of the whole ensemble. Smaller is better.

    It generalises the mean absolute error to ensembles.

    Parameters
    ----------
    ensemble
        Ensemble with the dimension ``member``.
    truth
        Truth on the same coordinates.
    dim
        Dimensions to average over. Default: all but ``member``.
    fair
        Estimate the score of an infinitely large ensemble, so that ensembles of different size compare. False counts
        each member against itself as well, which favours larger ensembles.
    weights
        DataArray of weights, or False for none. Default: areas, where there is a latitude.

    Returns
    -------
    xarray.Dataset or xarray.DataArray
        Score of each variable, in the units of the variable.

    Examples
    --------
    >>> ensemble = xr.DataArray([[1.0, 2.0], [3.0, 4.0]], dims=("member", "time"), attrs={"units": "K"})
    >>> truth = xr.DataArray([2.0, 5.0], dims="time")
    >>> float(xsda.metrics.crps(ensemble, truth))
    0.5
    >>> float(xsda.metrics.crps(ensemble, truth, fair=False))
    1.0
    """
    ensemble, truth = pair(ensemble, truth, least=2 if fair else 1)
    value = xr.apply_ufunc(
        _crps,
        ensemble,
        truth,
        input_core_dims=[["member"], []],
        kwargs={"fair": fair},
        dask="parallelized",
        dask_gufunc_kwargs={"allow_rechunk": True},
        output_dtypes=[float],
        keep_attrs=False,
    )
    return with_units(mean(value, dim, weights), ensemble)


def _crps(members: np.ndarray, truth: np.ndarray, fair: bool) -> np.ndarray:
    m = members.shape[-1]
    x = np.sort(members.astype(float), axis=-1)
    # half the sum over all i, j of |x_i - x_j|, through the order statistics
    half = ((2 * np.arange(1, m + 1) - m - 1) * x).sum(-1)
    return np.abs(x - truth[..., None]).mean(-1) - half / (m * (m - 1) if fair else m * m)


def spread(ensemble: Labelled, dim: Dim = None, *, weights: Weights = None) -> Labelled:
    """Root mean variance of the members.

    The variance is divided by M - 1 for M members, so that it does not depend on their number.

    Parameters
    ----------
    ensemble
        Ensemble with the dimension ``member``.
    dim
        Dimensions to average over. Default: all but ``member``.
    weights
        DataArray of weights, or False for none. Default: areas, where there is a latitude.

    Returns
    -------
    xarray.Dataset or xarray.DataArray
        Spread of each variable, in the units of the variable.

    Examples
    --------
    >>> ensemble = xr.DataArray([[1.0, 2.0], [3.0, 4.0]], dims=("member", "time"))
    >>> round(float(xsda.metrics.spread(ensemble)), 3)
    1.414
    """
    if ensemble.sizes.get("member", 0) < 2:
        raise ValueError("the spread needs a dimension 'member' of at least 2")
    return with_units(mean(ensemble.var("member", ddof=1), dim, weights) ** 0.5, ensemble)


def spread_skill(ensemble: Labelled, truth: Labelled, dim: Dim = None, *, weights: Weights = None) -> Labelled:
    """Spread divided by the RMSE of the ensemble mean: 1 for a calibrated ensemble, less if it is overconfident.

    The ratio is multiplied by sqrt((M + 1) / M), because the mean of M members has an error of its own.

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
        Ratio for each variable, without units.

    Examples
    --------
    >>> ensemble = xr.DataArray([[1.0, 2.0], [3.0, 4.0]], dims=("member", "time"), attrs={"units": "K"})
    >>> truth = xr.DataArray([2.0, 5.0], dims="time")
    >>> round(float(xsda.metrics.spread_skill(ensemble, truth)), 3)
    1.225
    """
    ensemble, truth = pair(ensemble, truth, least=2)
    m = ensemble.sizes["member"]
    error = mean((ensemble.mean("member") - truth) ** 2, dim, weights) ** 0.5
    return with_units(((m + 1) / m) ** 0.5 * spread(ensemble, dim, weights=weights) / error, ensemble, power=0)


def energy_score(
    ensemble: Labelled,
    truth: Labelled,
    dim: Dim = None,
    *,
    fair: bool = True,
    scale: Scale = None,
    weights: Weights = None,
) -> xr.DataArray:
    """Energy score: the CRPS of vectors. Smaller is better.

    A vector holds the values along ``dim`` of all variables. The other dimensions stay. With ``dim=[]`` and one
    variable it is the CRPS. On dask arrays each vector is gathered into one chunk.

    Parameters
    ----------
    ensemble
        Ensemble with the dimension ``member``.
    truth
        Truth on the same coordinates.
    dim
        Dimensions that make up the vectors. Default: all but ``member``.
    fair
        Estimate the score of an infinitely large ensemble, so that ensembles of different size compare. False counts
        each member against itself as well, which favours larger ensembles.
    scale
        Number by which each variable is divided, such as its standard deviation. Needed if units differ.
    weights
        DataArray of weights in the norm of the vectors, or False for none. Default: areas.

    Returns
    -------
    xarray.DataArray
        Score, in the units of the variables, or without units if ``scale`` is given.

    Examples
    --------
    >>> ensemble = xr.DataArray([[3.0, 0.0], [0.0, 4.0]], dims=("member", "site"))
    >>> truth = xr.DataArray([0.0, 0.0], dims="site")
    >>> float(xsda.metrics.energy_score(ensemble, truth))
    1.0
    """
    ensemble, truth = pair(ensemble, truth, least=2 if fair else 1)
    dims, m = dims_of(truth, dim), ensemble.sizes["member"]
    check_weights(truth, weights)
    members, one = rescale(ensemble, scale), rescale(truth, scale)
    squares: Any = 0
    valid: Any = False
    for name in one.data_vars:
        core = [d for d in one[name].dims if d in dims]
        root = vector_weights(one[name], core, weights) ** 0.5
        squares = squares + _squares(members[name] * root, one[name] * root, core, m)
        valid = valid | one[name].notnull().any(core)
    distance = squares**0.5
    skill = distance.isel(_i=m, _j=slice(m)).mean("_j")
    sharpness = distance.isel(_i=slice(m), _j=slice(m)).sum(["_i", "_j"]) / (2 * (m * (m - 1) if fair else m * m))
    score = (skill - sharpness).where(valid).rename("energy_score")
    units = next(iter(members.data_vars.values())).attrs.get("units")  # all share it if there is no scale
    return score.assign_attrs(power_of(units, 1 if scale is None else 0))


def _squares(members: xr.DataArray, truth: xr.DataArray, core: list[Hashable], m: int) -> xr.DataArray:
    """Squared distances among the members and, in the last place, the truth, over the dimensions _i and _j."""
    return xr.apply_ufunc(
        _squares_of_arrays,
        members,
        truth,
        input_core_dims=[["member", *core], core],
        output_core_dims=[["_i", "_j"]],
        kwargs={"axes": len(core)},
        dask="parallelized",
        dask_gufunc_kwargs={"allow_rechunk": True, "output_sizes": {"_i": m + 1, "_j": m + 1}},
        output_dtypes=[float],
        keep_attrs=False,
    )


def _squares_of_arrays(members: np.ndarray, truth: np.ndarray, axes: int) -> np.ndarray:
    both = np.concatenate([_flat(members, axes), _flat(truth, axes)[..., None, :]], axis=-2)
    return squared_distances(np.nan_to_num(both))  # a missing value is missing in truth and members alike


def _flat(array: np.ndarray, axes: int) -> np.ndarray:
    """The last ``axes`` axes as one, in double precision."""
    return array.reshape(*array.shape[: array.ndim - axes], -1).astype(float)


def variogram_score(
    ensemble: Labelled, truth: Labelled, dim: Dim = None, *, p: float = 0.5, fair: bool = True, weights: Weights = None
) -> Labelled:
    """Variogram score: the error of differences between places. Smaller is better.

    It reacts to errors of the correlation between places, which the energy score hardly does. It does not react to an
    error that is the same everywhere. The cost grows with the square of the number of places.

    Parameters
    ----------
    ensemble
        Ensemble with the dimension ``member``.
    truth
        Truth on the same coordinates.
    dim
        Dimensions of the places to compare. The other dimensions stay. Default: all but ``member``.
    p
        Power of the absolute differences.
    fair
        Estimate the score of an infinitely large ensemble, so that ensembles of different size compare. False counts
        each member against itself as well, which favours larger ensembles.
    weights
        DataArray of weights of the places, or False for none; a pair has the product of both. Default: areas, where
        there is a latitude.

    Returns
    -------
    xarray.Dataset or xarray.DataArray
        Score of each variable, in its units to the power 2 p.

    Examples
    --------
    >>> ensemble = xr.DataArray([[0.0, 1.0], [5.0, 6.0]], dims=("member", "site"))
    >>> truth = xr.DataArray([10.0, 12.0], dims="site")
    >>> float(xsda.metrics.variogram_score(ensemble, truth, p=1))
    1.0
    """
    ensemble, truth = pair(ensemble, truth, least=2 if fair else 1)
    check_weights(truth, weights)
    dims = dims_of(truth, dim)
    if p <= 0:
        raise ValueError(f"p must be positive, got {p:g}")

    def score(members: xr.DataArray, one: xr.DataArray) -> xr.DataArray:
        core: list[Hashable] = [d for d in one.dims if d in dims]
        if np.prod([one.sizes[d] for d in core]) < 2:
            raise ValueError(f"the variogram score needs at least two values along dim, got {core} of {one.sizes}")
        value = xr.apply_ufunc(
            _variogram,
            members,
            one,
            vector_weights(one, core, weights),
            input_core_dims=[["member", *core], core, core],
            kwargs={"axes": len(core), "p": p, "fair": fair},
            dask="parallelized",
            dask_gufunc_kwargs={"allow_rechunk": True},
            output_dtypes=[float],
            keep_attrs=False,
        )
        return value.assign_attrs(power_of(members.attrs.get("units"), int(2 * p)) if float(2 * p).is_integer() else {})

    if isinstance(ensemble, xr.Dataset) and isinstance(truth, xr.Dataset):
        return xr.Dataset({v: score(ensemble[v], truth[v]) for v in truth.data_vars})
    return score(ensemble, truth)


def _variogram(
    members: np.ndarray, truth: np.ndarray, weights: np.ndarray, axes: int, p: float, fair: bool
) -> np.ndarray:
    x, y, w = (_flat(a, axes) for a in (members, truth, weights))
    m, places = x.shape[-2:]
    total = count = np.zeros(y.shape[:-1])
    for lag in range(1, places):
        variogram = np.abs(x[..., lag:] - x[..., :-lag]) ** p
        misfit = (np.abs(y[..., lag:] - y[..., :-lag]) ** p - variogram.mean(-2)) ** 2
        if fair:  # the mean of M members has a sampling error
            misfit = misfit - variogram.var(-2, ddof=1) / m
        weight = np.where(np.isnan(misfit), 0, w[..., lag:] * w[..., :-lag])
        total = total + (weight * np.nan_to_num(misfit)).sum(-1)
        count = count + weight.sum(-1)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
