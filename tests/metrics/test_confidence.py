"""Intervals of the mean of correlated series hold it as often as they say."""

import numpy as np
import pytest
import xarray as xr
from lazy import computes_nothing
from scipy.signal import lfilter
from scipy.stats import t as student

from xsda import metrics
from xsda.metrics.confidence import autocovariance


def ar1(a, length, runs, seed=0):
    noise = np.random.default_rng(seed).standard_normal((runs, length + 300))
    return xr.DataArray(lfilter([1], [1, -a], noise)[:, 300:], dims=("run", "time"), attrs={"units": "K"})


@pytest.mark.parametrize("a", [0.0, 0.5, 0.8])
def test_effective_size_of_ar1(a):
    interval = metrics.mean_interval(ar1(a, 4000, 40))
    expected = 4000 * (1 - a) / (1 + a)
    assert float(interval.effective_size.mean()) == pytest.approx(expected, rel=0.06)
    assert interval.effective_size.attrs == {"units": "1"}
    assert interval.lower.attrs == {"units": "K"}


@pytest.mark.parametrize(("a", "length"), [(0.0, 100), (0.7, 300), (0.9, 800), (0.9, 200)])
@pytest.mark.parametrize("level", [0.95, 0.8])
def test_intervals_hold_the_mean_as_often_as_they_say(a, length, level):
    interval = metrics.mean_interval(ar1(a, length, 1000), level=level)
    held = ((interval.lower < 0) & (interval.upper > 0)).mean()
    assert level - 0.02 < float(held) < level + 0.05


def test_a_long_uncorrelated_series_has_the_usual_interval():
    series = ar1(0.0, 5000, 1)[0]
    interval = metrics.mean_interval(series)
    half = student.ppf(0.975, 4999) * float(series.std(ddof=1)) / 5000**0.5
    assert float(interval["mean"]) == pytest.approx(float(series.mean()))
    assert float(interval.upper - interval["mean"]) == pytest.approx(half, rel=0.05)
    assert float(interval.upper + interval.lower) == pytest.approx(2 * float(series.mean()))


def test_autocovariances_by_hand():
    series = np.array([1.0, 4.0, -2.0, 0.5, 3.0])
    z = series - series.mean()
    np.testing.assert_allclose(autocovariance(series), [(z[: 5 - k] * z[k:]).sum() / 5 for k in range(5)])


def test_paired_runs_are_told_apart_by_their_difference():
    common = ar1(0.7, 400, 200)
    a, b = common + 0.1 * ar1(0.3, 400, 200, seed=1), common + 0.1 * ar1(0.3, 400, 200, seed=2) - 0.05
    difference = metrics.difference_interval(a, b)
    xr.testing.assert_allclose(difference, metrics.mean_interval(a - b).assign_attrs(level=0.95))
    assert float((difference.lower > 0).mean()) > 0.95
    apart = metrics.mean_interval(a)
    assert (apart.upper - apart.lower).mean() > 5 * (difference.upper - difference.lower).mean()
    same = metrics.difference_interval(a, a)
    assert float(abs(same.upper).max()) == 0


def test_missing_values_and_dask():
    series = ar1(0.6, 300, 5)
    holes = series.where(np.random.default_rng(3).random(series.shape) > 0.2)
    interval = metrics.mean_interval(holes)
    np.testing.assert_allclose(interval["mean"], holes.mean("time"))
    joined = metrics.mean_interval(holes[0].dropna("time"))
    xr.testing.assert_allclose(interval.isel(run=0), joined)
    with computes_nothing():
        lazy = metrics.mean_interval(holes.chunk({"run": 2, "time": 100}))
    assert lazy.lower.chunks is not None
    xr.testing.assert_allclose(lazy.compute(), interval)
    short = metrics.mean_interval(series[:, :1])
    assert short.lower.isnull().all()
    assert (short.effective_size == 1).all()


def test_errors():
    series = ar1(0.5, 50, 2)
    with pytest.raises(ValueError, match="not 'day'"):
        metrics.mean_interval(series, "day")
    with pytest.raises(ValueError, match="between 0 and 1"):
        metrics.mean_interval(series, level=95)
    with pytest.raises(TypeError, match="choose a variable"):
        metrics.mean_interval(series.to_dataset(name="a"))
    with pytest.raises(ValueError, match="not paired"):
        metrics.difference_interval(series, series[:, 1:])
    with pytest.raises(ValueError, match="pairs need the same"):
        metrics.difference_interval(series, series[0])
    with pytest.raises(ValueError, match="is in 'm'"):
        metrics.difference_interval(series, series.assign_attrs(units="m"))
