"""Correlations against closed forms and a loop over pairs."""

import numpy as np
import pytest
import xarray as xr
from lazy import computes_nothing

from xsda.metrics.correlation_functions import integral_scale, spatial_correlation, time_correlation


def autoregression(a=0.8, members=40, length=5000, seed=0):
    rng = np.random.default_rng(seed)
    x = np.empty((members, length))
    x[:, 0] = rng.standard_normal(members)
    noise = (1 - a**2) ** 0.5 * rng.standard_normal((members, length))
    for i in range(1, length):
        x[:, i] = a * x[:, i - 1] + noise[:, i]
    time = ("time", 0.5 * np.arange(length), {"units": "h"})
    return xr.DataArray(3 + 2 * x, {"time": time}, ("member", "time"), name="T", attrs={"units": "K"})


def test_autoregression():
    a = 0.8
    r = time_correlation(autoregression(a), max_lag=40)
    np.testing.assert_allclose(r["lag"], 0.5 * np.arange(41))
    assert r["lag"].attrs["units"] == "h"
    assert (r.name, r.attrs["units"]) == ("T", "1")
    np.testing.assert_allclose(r, a ** np.arange(41), atol=0.03)
    exact = r.copy(data=a ** np.arange(41.0))
    scale = integral_scale(exact)  # trapezoids of a geometric series, in steps of half an hour
    assert float(scale) == pytest.approx(0.5 * (1 + a) / (1 - a) / 2 * (1 - a**40), rel=1e-12)
    assert scale.attrs["units"] == "h"
    assert float(integral_scale(r)) == pytest.approx(float(scale), rel=0.05)


def by_pairs(values, lag, ring=False):
    """The definition, with values (others, axis)."""
    a = values - np.nanmean(values)
    left, right = (a, np.roll(a, -lag, 1)) if ring else (a[:, : a.shape[1] - lag], a[:, lag:])
    return np.nanmean(left * right) / np.nanmean(a**2)


@pytest.mark.parametrize("n", [12, 13])
@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("ring", [False, True])
def test_every_pair_counts_once(n, holes, ring):
    rng = np.random.default_rng(n)
    values = 5 + np.cumsum(rng.standard_normal((4, n)), 1)
    if holes:
        values[rng.random(values.shape) < 0.2] = np.nan
    x = ("x", 2 * np.arange(n)[::-1], {"period": 2.0 * n, "units": "m"} if ring else {})
    r = spatial_correlation(xr.DataArray(values, {"x": x}, ("time", "x")), "x")
    np.testing.assert_allclose(r, [by_pairs(values, lag, ring) for lag in range(n // 2 + 1)], atol=1e-13)
    np.testing.assert_allclose(r["lag"], 2 * np.arange(n // 2 + 1))
    assert r["lag"].attrs["units"] == ("m" if ring else "1")


def test_a_wave_on_a_ring():
    x = xr.DataArray(np.arange(24.0), dims="x", attrs={"period": 24.0})
    wave = np.cos(2 * np.pi / 24 * 3 * x).assign_coords(x=x)
    r = spatial_correlation(wave, "x")
    np.testing.assert_allclose(r, np.cos(2 * np.pi / 24 * 3 * r.lag), atol=1e-14)
    part = spatial_correlation(wave.isel(x=slice(20)), "x", max_lag=15)  # no longer a whole ring: open
    assert float(part[8]) == pytest.approx(by_pairs(wave.values[None, :20], 8), rel=1e-12)


@pytest.mark.parametrize("zero", [3.0, 3.4])
def test_the_integral_ends_at_the_first_zero(zero):
    lag = xr.DataArray(np.arange(8.0), dims="lag")
    r = (1 - lag / zero).assign_coords(lag=lag)
    r = xr.concat(
        [r, r.where(lag < 5, 9), -r], "case"
    )  # what comes later has no say; nor is there anything from r = -1
    np.testing.assert_allclose(integral_scale(r), [zero / 2, zero / 2, 0], rtol=1e-12)


def test_dates_and_datasets():
    dates = np.datetime64("2020-01-01", "ns") + 6 * np.arange(30) * np.timedelta64(1, "h")
    ds = autoregression(length=30).to_dataset().assign(mask=("y", [1, 2]))
    r = time_correlation(ds.assign_coords(time=dates))
    assert list(r) == ["T"]
    np.testing.assert_allclose(r["lag"], 6 * 3600 * np.arange(16))
    assert r["lag"].attrs["units"] == "s"
    assert r["T"].attrs["units"] == "1"
    assert integral_scale(r)["T"].attrs["units"] == "s"
    ds["time"].attrs["units"] = "days since 2000-01-01"
    assert time_correlation(ds)["lag"].attrs["units"] == "days"
    xr.testing.assert_allclose(time_correlation(ds.drop_vars("time"))["T"].drop_vars("lag"), r["T"].drop_vars("lag"))


def test_lazy_is_eager():
    da = autoregression(length=50)
    with computes_nothing():
        lazy = time_correlation(da.chunk({"member": 3, "time": 20}))
        scale = integral_scale(lazy)
    assert lazy.chunks
    assert scale.chunks is not None
    xr.testing.assert_allclose(lazy.compute(), time_correlation(da), rtol=1e-12)
    xr.testing.assert_allclose(scale.compute(), integral_scale(time_correlation(da)), rtol=1e-12)


def test_errors():
    da = autoregression(length=20)
    with pytest.raises(ValueError, match=r"no dimension 'tim' among .* did you mean 'time'"):
        time_correlation(da, "tim")
    with pytest.raises(ValueError, match="no variable has the dimension 'x'"):
        spatial_correlation(da.to_dataset(), "x")
    with pytest.raises(ValueError, match="max_lag=20 steps must lie between 1 and 19"):
        time_correlation(da, max_lag=20)
    with pytest.raises(ValueError, match="evenly spaced"):
        time_correlation(da.isel(time=[0, 1, 3]))
    with pytest.raises(ValueError, match="at least 2 points along 'time', got 1"):
        time_correlation(da.isel(time=[0]))
    with pytest.raises(ValueError, match="expected a correlation over the dimension 'lag'"):
        integral_scale(da)
