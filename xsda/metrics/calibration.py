"""Calibration: is the truth distributed like one more member?

If it is, its rank r among M members (the number of members below it) is uniform on 0 ... M, and therefore

- the rank histogram is flat;
- a central interval of nominal coverage c, from the quantile (1 - c)/2 to (1 + c)/2, holds the truth with probability
  c. No interval between two members has exactly this coverage. Rank r stands for the probabilities [r, r + 1] / (M +
  1). The share of this cell that lies between (1 - c)/2 and (1 + c)/2 has the mean c exactly, for any M. Inner ranks
  count 1, outer ranks 0, and the two ranks at the ends of the interval count in part. If t members equal the truth, the
  cell is [r, r + t + 1] / (M + 1).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from xsda.metrics.pairs import Dim, Labelled, Weights, check_weights, dims_of, find_weights, mean, pair, scipy_module


def rank_histogram(
    ensemble: xr.DataArray, truth: xr.DataArray, *, seed: int = 0, weights: Weights = None
) -> xr.DataArray:
    """Count how often the truth has rank 0 ... M among M members.

    A flat histogram is calibrated, a U shape overconfident, a dome underconfident, a slope biased. Ties are broken at
    random. Cases with NaN are left out. The result is computed at once, on dask arrays too.

    Parameters
    ----------
    ensemble
        Ensemble of one variable, with the dimension ``member``.
    truth
        Truth on the same coordinates.
    seed
        Seed of the random order of ties.
    weights
        DataArray of weights, or False for none. Default: areas, where there is a latitude.

    Returns
    -------
    xarray.DataArray
        Number of cases over the dimension ``rank``. With weights the counts add up to the effective number of cases,
        (sum of weights)^2 / (sum of their squares), so that ``rank_uniformity`` holds for them as well.

    Examples
    --------
    >>> ensemble = xr.DataArray([[1.0, 2.0], [3.0, 4.0]], dims=("member", "time"))
    >>> truth = xr.DataArray([2.0, 5.0], dims="time")
    >>> xsda.metrics.rank_histogram(ensemble, truth).values.tolist()
    [0, 1, 1]
    """
    _one_variable(ensemble)
    ensemble, truth = pair(ensemble, truth)
    below = (ensemble < truth).sum("member")
    truth = truth.transpose(*below.dims)
    ties = (ensemble == truth).sum("member")
    valid = (truth.notnull() & ensemble.notnull().all("member")).values
    rng = np.random.default_rng(seed)
    ranks = below.values + np.floor(rng.random(below.shape) * (ties.values + 1)).astype(int)
    counts = np.bincount(ranks[valid], _case_weights(truth, weights, valid), minlength=ensemble.sizes["member"] + 1)
    attrs = {"long_name": "number of cases", "units": "1"}
    return xr.DataArray(counts, {"rank": np.arange(len(counts))}, ("rank",), name="rank_histogram", attrs=attrs)


def _case_weights(truth: xr.DataArray, weights: Weights, valid: np.ndarray) -> np.ndarray | None:
    """Weights of the valid cases that add up to their effective number; None if all cases have equal weight."""
    check_weights(truth, weights)
    found = find_weights(truth, truth.dims, weights)
    if found is None:
        return None
    w = found.broadcast_like(truth).transpose(*truth.dims).values[valid]
    return w * (w.sum() / (np.square(w).sum() or 1.0))


def rank_uniformity(histogram: xr.DataArray) -> xr.Dataset:
    """Test whether a rank histogram is flat (Pearson's chi-square test). Needs scipy.

    The test holds for independent cases. Neighbours in space and time are not independent, so thin them out first.

    Parameters
    ----------
    histogram
        Counts over the dimension ``rank``, from ``rank_histogram``.

    Returns
    -------
    xarray.Dataset
        ``chi_square``, which is about M for a calibrated ensemble of M members, and its ``p_value``.

    Examples
    --------
    >>> flat = xr.DataArray([10, 10, 10, 10], dims="rank")
    >>> test = xsda.metrics.rank_uniformity(flat)
    >>> float(test.chi_square), float(test.p_value)
    (0.0, 1.0)
    """
    if "rank" not in histogram.dims:
        raise ValueError(
            f"the histogram has the dimensions {histogram.dims}, expected 'rank'; use rank_histogram first"
        )
    expected = histogram.mean("rank")
    statistic = ((histogram - expected) ** 2 / expected).sum("rank", skipna=False)
    p_value = xr.apply_ufunc(scipy_module("special").chdtrc, histogram.sizes["rank"] - 1, statistic, dask="allowed")
    result = xr.Dataset({"chi_square": statistic, "p_value": p_value})
    for da in result.data_vars.values():
        da.attrs = {"units": "1"}
    return result


def coverage(
    ensemble: Labelled,
    truth: Labelled,
    levels: Sequence[float] = (0.5, 0.9),
    dim: Dim = None,
    *,
    weights: Weights = None,
) -> Labelled:
    """Share of cases in which a central interval of the ensemble holds the truth.

    It equals ``nominal`` for a calibrated ensemble and is smaller for an overconfident one. The docstring of the module
    says how intervals are cut between members.

    Parameters
    ----------
    ensemble
        Ensemble with the dimension ``member``.
    truth
        Truth on the same coordinates.
    levels
        Nominal coverage of the intervals, between 0 and 1.
    dim
        Dimensions to average over. Default: all but ``member``.
    weights
        DataArray of weights, or False for none. Default: areas, where there is a latitude.

    Returns
    -------
    xarray.Dataset or xarray.DataArray
        Coverage of each variable over the dimension ``nominal``.

    Examples
    --------
    >>> ensemble = xr.DataArray(np.arange(9.0), dims="member").expand_dims(time=2)
    >>> truth = xr.DataArray([4.5, 20.0], dims="time")
    >>> float(xsda.metrics.coverage(ensemble, truth, levels=[0.5])[0])
    0.5
    """
    ensemble, truth = pair(ensemble, truth)
    if not all(0 < c < 1 for c in levels):
        raise ValueError(f"levels must lie between 0 and 1, got {tuple(levels)}")
    cells = ensemble.sizes["member"] + 1
    axis = ("nominal", list(levels), {"long_name": "nominal coverage", "units": "1"})
    nominal = xr.DataArray(list(levels), {"nominal": axis}, ("nominal",))
    below, ties = (ensemble < truth).sum("member"), (ensemble == truth).sum("member")
    upper = (below + ties + 1).clip(max=cells * (1 + nominal) / 2)
    lower = below.clip(min=cells * (1 - nominal) / 2)
    share = ((upper - lower).clip(min=0) / (ties + 1)).where(truth.notnull())
    result = mean(share, dims_of(truth, dim), weights)
    for da in result.data_vars.values() if isinstance(result, xr.Dataset) else [result]:
        da.attrs = {"units": "1"}
    return result


def reliability(
    ensemble: xr.DataArray,
    truth: xr.DataArray,
    threshold: float | xr.DataArray,
    dim: Dim = None,
    *,
    bins: int = 10,
    weights: Weights = None,
) -> xr.Dataset:
    """Frequency with which the truth exceeds a threshold, given the probability that the ensemble forecasts.

    The forecast probability is the share of members above the threshold. A reliable ensemble has the same frequency as
    probability, up to a sampling error of about 1/M for M members.

    Parameters
    ----------
    ensemble
        Ensemble of one variable, with the dimension ``member``.
    truth
        Truth on the same coordinates.
    threshold
        Number or DataArray in the units of the variable.
    dim
        Dimensions to average over. Default: all but ``member``.
    bins
        Number of equal bins of probability.
    weights
        DataArray of weights, or False for none. Default: areas, where there is a latitude.

    Returns
    -------
    xarray.Dataset
        ``forecast_probability`` (its mean), ``observed_frequency`` and ``count`` over the dimension ``probability``,
        the centres of the bins.

    Examples
    --------
    >>> ensemble = xr.DataArray([[1.0, 1.0, -1.0], [2.0, -1.0, -1.0]], dims=("member", "time"))
    >>> truth = xr.DataArray([1.0, 1.0, -1.0], dims="time")
    >>> xsda.metrics.reliability(ensemble, truth, 0.0, bins=2).observed_frequency.values.tolist()
    [0.0, 1.0]
    """
    _one_variable(ensemble)
    ensemble, truth = pair(ensemble, truth)
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    m, dims = ensemble.sizes["member"], dims_of(truth, dim)
    with xr.set_options(arithmetic_join="exact"):
        number, event = (ensemble > threshold).sum("member"), truth > threshold
    centres = xr.DataArray((np.arange(bins) + 0.5) / bins, dims="probability")
    which = (number * bins // m).clip(max=bins - 1)  # whole numbers, so that no k/M is rounded across an edge
    inside = (which == xr.DataArray(np.arange(bins), dims="probability")) & truth.notnull()
    result = xr.Dataset(
        {
            "forecast_probability": mean((number / m).where(inside), dims, weights),
            "observed_frequency": mean(event.where(inside).astype(float), dims, weights),
            "count": inside.sum(dims),
        },
        {"probability": centres},
    )
    for da in result.variables.values():
        da.attrs.setdefault("units", "1")
    return result


def _one_variable(ensemble: object) -> None:
    if not isinstance(ensemble, xr.DataArray):
        raise TypeError(f"expected DataArrays, got a {type(ensemble).__name__}; choose a variable: ensemble['name']")
