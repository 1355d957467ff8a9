"""Correlation in time and in space.

With anomalies a from the mean over everything, and < > the mean over all pairs of points that lie ``lag`` apart (over
all other dimensions too, members included),

    r(lag) = < a(t) a(t + lag) > / < a(t)^2 >,        T = integral of r from 0 to its first zero.

If the mean differs from place to place, subtract a climatology first. Each lag is divided by its own number of pairs,
so that long lags are not biased towards zero. Pairs with NaN are left out. The sums over pairs are Fourier transforms,
padded with zeros unless the axis is periodic. Lazy on dask arrays.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import xarray as xr

from xsda.arguments import choose
from xsda.labels.axes import axis_numbers, is_datelike, uniform_step
from xsda.metrics.spectra import ring_period

Labelled = TypeVar("Labelled", xr.Dataset, xr.DataArray)


def time_correlation(data: Labelled, dim: str = "time", max_lag: int | None = None) -> Labelled:
    """Autocorrelation in time.

    Parameters
    ----------
    data
        Series. It is averaged over all dimensions except ``dim``; select or group first what should stay separate.
    dim
        Evenly spaced time axis.
    max_lag
        Largest lag in steps. Default: half of the axis.

    Returns
    -------
    xarray.Dataset or xarray.DataArray
        Correlation over the dimension ``lag``, 1 at lag 0. Lags are in the units of the axis, in seconds for
        dates.

    Examples
    --------
    >>> wave = xr.DataArray(np.cos(np.pi / 4 * np.arange(64)), dims="time")
    >>> xsda.metrics.time_correlation(wave, max_lag=4).sel(lag=4).round(2).item()  # half a period
    -1.0
    """
    return _correlation(data, dim, max_lag)


def spatial_correlation(data: Labelled, dim: str, max_lag: int | None = None) -> Labelled:
    """Autocorrelation along a space axis.

    On a periodic axis (its coordinate has the attribute ``period``, or holds longitudes around the globe) pairs go
    around, and the largest lag is half of the period. On any other axis pairs end at its ends.

    Parameters
    ----------
    data
        Field. It is averaged over all dimensions except ``dim``.
    dim
        Evenly spaced space axis.
    max_lag
        Largest lag in steps. Default: half of the axis.

    Returns
    -------
    xarray.Dataset or xarray.DataArray
        Correlation over the dimension ``lag``, 1 at lag 0.

    Examples
    --------
    >>> ring = ("x", np.arange(8.0), {"period": 8.0, "units": "km"})
    >>> wave = xr.DataArray(np.cos(np.pi / 4 * np.arange(8)), {"x": ring}, "x")
    >>> abs(xsda.metrics.spatial_correlation(wave, "x").round(2)).values.tolist()
    [1.0, 0.71, 0.0, 0.71, 1.0]
    """
    return _correlation(data, dim, max_lag)


def integral_scale(correlation: Labelled) -> Labelled:
    """Integral scale: the correlation integrated over ``lag`` up to its first zero.

    The correlation is a straight line between two lags. If it does not reach zero, it is integrated up to the last lag,
    and the result is a lower bound.

    Parameters
    ----------
    correlation
        Correlation over the dimension ``lag``, from ``time_correlation`` or ``spatial_correlation``.

    Returns
    -------
    xarray.Dataset or xarray.DataArray
        Scale in the units of ``lag``.

    Examples
    --------
    >>> correlation = xr.DataArray([1.0, 0.5, -0.5], {"lag": [0.0, 2.0, 4.0]}, "lag")
    >>> float(xsda.metrics.integral_scale(correlation))
    1.75
    """
    if "lag" not in correlation.dims:
        raise ValueError(
            f"expected a correlation over the dimension 'lag', got the dimensions {tuple(correlation.dims)}; "
            "use time_correlation or spatial_correlation first"
        )
    lag = correlation["lag"]
    out = xr.apply_ufunc(
        _to_first_zero,
        correlation,
        input_core_dims=[["lag"]],
        kwargs={"lag": lag.values.astype(float)},
        dask="parallelized",
        output_dtypes=[float],
        dask_gufunc_kwargs={"allow_rechunk": True},
        keep_attrs=False,
    )
    attrs = {"long_name": "integral scale", "units": lag.attrs.get("units", "1")}
    for da in out.data_vars.values() if isinstance(out, xr.Dataset) else (out,):
        da.attrs = attrs
    return out


def _to_first_zero(r: np.ndarray, lag: np.ndarray) -> np.ndarray:
    left, right = r[..., :-1], r[..., 1:]
    before = np.logical_and.accumulate(left > 0, axis=-1)
    crossing = before & (right <= 0)
    drop = np.where(crossing, left - right, 1.0)
    area = np.where(crossing, left**2 / (2 * drop), (left + right) / 2)  # triangle down to the zero, or trapezoid
    return (np.where(before, area, 0.0) * np.diff(lag)).sum(-1)


def _correlation(data: Labelled, dim: str, max_lag: int | None) -> Labelled:
    if isinstance(data, xr.Dataset):
        names = [name for name, da in data.data_vars.items() if dim in da.dims]
        if not names:
            raise ValueError(
                f"no variable has the dimension {dim!r} among {list(data.sizes)}; {choose(dim, data.sizes)}"
            )
        return xr.Dataset({name: _one_correlation(data[name], dim, max_lag) for name in names})
    if dim not in data.dims:
        raise ValueError(f"no dimension {dim!r} among {data.dims}; {choose(dim, data.dims)}")
    return _one_correlation(data, dim, max_lag)


def _one_correlation(da: xr.DataArray, dim: str, max_lag: int | None) -> xr.DataArray:
    step, units, ring = _axis(da, dim)
    n = da.sizes[dim]
    most = n // 2 if ring else n - 1
    max_lag = n // 2 if max_lag is None else max_lag
    if not 1 <= max_lag <= most:
        raise ValueError(f"max_lag={max_lag} steps must lie between 1 and {most}: {dim!r} has {n} points")
    anomaly = (da - da.mean()).drop_vars([c for c in da.coords if dim in da[c].dims])
    pairs = xr.apply_ufunc(
        _lagged_sums,
        anomaly,
        input_core_dims=[[dim]],
        output_core_dims=[["lag", "_kind"]],
        kwargs={"lags": max_lag + 1, "length": n if ring else n + max_lag},
        dask="parallelized",
        output_dtypes=[float],
        dask_gufunc_kwargs={"allow_rechunk": True, "output_sizes": {"lag": max_lag + 1, "_kind": 2}},
        keep_attrs=False,
    )
    pairs = pairs.sum([d for d in pairs.dims if d not in ("lag", "_kind")])
    number = pairs.isel(_kind=1)
    covariance = pairs.isel(_kind=0) / number.where(number > 0)
    out = covariance / covariance.isel(lag=0)
    out = out.drop_vars(list(out.coords)).assign_coords(
        lag=("lag", step * np.arange(max_lag + 1), {"long_name": f"lag in {dim}", "units": units})
    )
    out.attrs = {"long_name": f"autocorrelation of {da.attrs.get('long_name', da.name)} in {dim}", "units": "1"}
    return out.rename(da.name)


def _lagged_sums(anomaly: np.ndarray, lags: int, length: int) -> np.ndarray:
    """Sum of the products over pairs, and number of pairs, at each lag: (..., lags, 2)."""
    valid = np.isfinite(anomaly)
    waves = np.fft.rfft(np.stack([np.where(valid, anomaly, 0.0), valid], axis=-2), length)
    products, number = np.moveaxis(np.fft.irfft(np.abs(waves) ** 2, length)[..., :lags], -2, 0)
    return np.stack([products, np.rint(number)], axis=-1)


def _axis(da: xr.DataArray, dim: str) -> tuple[float, str, bool]:
    """Step and units of an evenly spaced axis, and whether it is a whole period with every point once."""
    n = da.sizes[dim]
    if n < 2:
        raise ValueError(f"a correlation needs at least 2 points along {dim!r}, got {n}")
    if dim not in da.coords:
        return 1.0, "1", False
    coord = da[dim]
    values = axis_numbers(coord)
    step = abs(uniform_step(values, dim))
    seconds = is_datelike(coord) or coord.dtype.kind == "m"
    units = "s" if seconds else str(coord.attrs.get("units", "1")).split(" since ")[0]
    return step, units, ring_period(coord.to_dataset(name="_axis"), dim, values) is not None
