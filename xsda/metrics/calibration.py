r"""Is the truth like one more member? Ranks, coverage of intervals, reliability of probabilities.

If it is, its rank r among M members (how many of them lie below) is uniform on 0 ... M, so that

- the rank histogram is flat;
- a central interval of nominal coverage c, from the quantile (1 - c)/2 to (1 + c)/2, holds it with probability c. No
  interval between two members has just that coverage. But rank r stands for the probabilities [r, r + 1] / (M + 1), and
  the share of this cell that lies between (1 - c)/2 and (1 + c)/2 has the mean c exactly, for every M: inner ranks
  count 1, outer ranks 0, and the two ranks that the ends cut count in part. With t members equal to the truth the cell
  is [r, r + t + 1] / (M + 1).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from xsda.metrics.pairs import Dim, Labelled, Weights, dims_of, mean, pair, scipy_module


def rank_histogram(ensemble: xr.DataArray, truth: xr.DataArray, *, seed: int = 0) -> xr.DataArray:
    """How often the truth has rank 0 ... M among the members; ties are broken at random. Computes at once."""
    _one_variable(ensemble)
    ensemble, truth = pair(ensemble, truth)
    below = (ensemble < truth).sum("member")
    truth = truth.transpose(*below.dims)
    ties = (ensemble == truth).sum("member")
    valid = (truth.notnull() & ensemble.notnull().all("member")).values
    rng = np.random.default_rng(seed)
    ranks = below.values + np.floor(rng.random(below.shape) * (ties.values + 1)).astype(int)
    counts = np.bincount(ranks[valid].ravel(), minlength=ensemble.sizes["member"] + 1)
    attrs = {"long_name": "number of cases", "units": "1"}
    return xr.DataArray(counts, {"rank": np.arange(len(counts))}, ("rank",), name="rank_histogram", attrs=attrs)


def rank_uniformity(histogram: xr.DataArray) -> xr.Dataset:
    """Pearson's test of a flat rank histogram: ``chi_square`` (M is to be expected) and ``p_value``.

    It holds for independent cases. Neighbours in space and time are not; thin them out first. Needs scipy.
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
    """How often central intervals of the ensemble hold the truth, over the dimension ``nominal`` of their levels.

    Calibrated: equal to ``nominal``. Less: overconfident. The module says how the intervals are cut.
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
    """How often the truth exceeds a threshold where the ensemble says so with a given probability.

    The forecast probability is the share of members above the threshold. Over the dimension ``probability`` (centres of
    ``bins`` equal bins): its mean ``forecast_probability``, the ``observed_frequency`` and the ``count`` of cases. Reliable
    forecasts have the two alike, but for 1/M of sampling error.
    """
    _one_variable(ensemble)
    ensemble, truth = pair(ensemble, truth)
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    m, dims = ensemble.sizes["member"], dims_of(truth, dim)
    with xr.set_options(arithmetic_join="exact"):
        number, event = (ensemble > threshold).sum("member"), truth > threshold
    centres = xr.DataArray((np.arange(bins) + 0.5) / bins, dims="probability")
    which = (number * bins // m).clip(max=bins - 1)  # in whole numbers: k/M never falls on the wrong side of an edge
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
