"""Confidence intervals of time averages of correlated series.

The mean of n values with autocovariances c_0, c_1, ... has the variance c_0 tau / n, with the integrated
autocorrelation time tau = 1 + 2 sum_k c_k / c_0. Such a series holds as much information as n / tau independent values,
the *effective size*. (An AR(1) process with coefficient a has tau = (1 + a) / (1 - a).) The sum must stop before it
adds noise: at the smallest number of lags W with W >= 3 tau(W), Sokal's rule. Subtracting the mean makes each c_k too
small by c_0 tau / n, which is added back (Wolff 2004, arXiv:hep-lat/0306017). tau is at least 1. The estimated variance
has a relative variance of 2 (2 W + 1) / n, like a chi-square with n / (2 W + 1) degrees of freedom. The interval uses
Student's t with these.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from xsda.labels.cf import check_units
from xsda.metrics.pairs import power_of, scipy_module

WINDOW = 3  # in units of tau


def mean_interval(da: xr.DataArray, dim: str = "time", *, level: float = 0.95) -> xr.Dataset:
    """Mean over time with its confidence interval, for a correlated series. Needs scipy.

    The series must be stationary and evenly spaced, for example a score day by day. NaN are left out, and the values
    around them are joined. Lazy on dask arrays.

    Parameters
    ----------
    da
        Series; its other dimensions stay.
    dim
        Dimension to average over.
    level
        Confidence level, between 0 and 1.

    Returns
    -------
    xarray.Dataset
        ``mean``, ``lower``, ``upper`` (the ends of the interval) and ``effective_size`` (number of independent values).

    Examples
    --------
    >>> score = xr.DataArray(np.tile([1.0, 3.0], 50), dims="time")
    >>> result = xsda.metrics.mean_interval(score)
    >>> float(result["mean"]), bool(result.lower < 2 < result.upper)
    (2.0, True)
    """
    if not isinstance(da, xr.DataArray):
        raise TypeError(f"expected a DataArray, got a {type(da).__name__}; choose a variable: ds['name']")
    if dim not in da.dims:
        raise ValueError(f"{da.name!r} has the dimensions {da.dims}, not {dim!r}; pass dim=...")
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level:g}")
    scipy_module("special")  # raises now, not when dask computes
    columns = xr.apply_ufunc(
        _interval,
        da,
        input_core_dims=[[dim]],
        output_core_dims=[[]] * 4,
        kwargs={"level": level},
        vectorize=True,
        dask="parallelized",
        dask_gufunc_kwargs={"allow_rechunk": True},
        output_dtypes=[float] * 4,
        keep_attrs=False,
    )
    result = xr.Dataset(dict(zip(("mean", "lower", "upper", "effective_size"), columns, strict=True)))
    for name, column in result.data_vars.items():
        column.attrs = power_of(da.attrs.get("units"), 0 if name == "effective_size" else 1)
    return result.assign_attrs(level=level)


def difference_interval(a: xr.DataArray, b: xr.DataArray, dim: str = "time", *, level: float = 0.95) -> xr.Dataset:
    """Mean of a - b over time with its confidence interval, for two runs with the same times and the same truth.

    What both runs have in common cancels, which narrows the interval. If it does not contain 0, the runs differ. Needs
    scipy.

    Parameters
    ----------
    a, b
        Series on the same coordinates, for example a score of two methods.
    dim
        Dimension to average over.
    level
        Confidence level, between 0 and 1.

    Returns
    -------
    xarray.Dataset
        As of ``mean_interval``.

    Examples
    --------
    >>> a = xr.DataArray(np.sin(np.arange(100.0)), dims="time")
    >>> result = xsda.metrics.difference_interval(a + 0.1, a)
    >>> round(float(result["mean"]), 3), bool(result.lower > 0)
    (0.1, True)
    """
    if not (isinstance(a, xr.DataArray) and isinstance(b, xr.DataArray)):
        raise TypeError(f"expected two DataArrays, got {type(a).__name__} and {type(b).__name__}; choose a variable")
    if {*a.dims} != {*b.dims}:
        raise ValueError(f"the first run has the dimensions {a.dims}, the second {b.dims}; pairs need the same")
    try:
        a, b = xr.align(a, b, join="exact", copy=False)
    except ValueError as error:
        raise ValueError(f"the runs are not paired; use .sel or xr.align first ({error})") from error
    check_units(str(a.name), b.attrs.get("units"), a.attrs.get("units"), "the first run")
    return mean_interval((a - b).assign_attrs(a.attrs), dim, level=level)


def _interval(series: np.ndarray, level: float) -> tuple[float, float, float, float]:
    """Mean, lower and upper end, effective size of one series."""
    z = series[~np.isnan(series)].astype(float)
    n = len(z)
    if n < 2:
        return (float(z[0]) if n else np.nan), np.nan, np.nan, float(n)
    mean, c = z.mean(), autocovariance(z)
    tau, window = integrated_time(c)
    variance = c[0] * (1 + tau / n)  # of one value, about the true mean
    tau = max(tau * (1 + (2 * window + 1) / n) / (1 + tau / n), 1.0)
    size = n / tau
    quantile: Any = scipy_module("special").stdtrit(max(n / (2 * window + 1), 1.0), (1 + level) / 2)
    half = quantile * (variance / size) ** 0.5
    return mean, mean - half, mean + half, size


def autocovariance(series: np.ndarray) -> np.ndarray:
    """c_k = sum_i z_i z_{i+k} / n of the anomalies z of a series (n,), for all lags k."""
    n = len(series)
    wave = np.fft.rfft(series - series.mean(), 2 * n)
    return np.fft.irfft(np.abs(wave) ** 2, 2 * n)[:n] / n


def integrated_time(c: np.ndarray) -> tuple[float, int]:
    """tau (at least 1) from the autocovariances, and the number of lags in its sum."""
    if c[0] <= 0:
        return 1.0, 0
    tau = np.maximum(2 * np.cumsum(c) / c[0] - 1, 1)
    enough = np.arange(len(c)) >= WINDOW * tau
    window = int(np.argmax(enough)) if enough.any() else len(c) - 1
    return float(tau[window]), window
