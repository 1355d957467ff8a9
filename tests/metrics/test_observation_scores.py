"""Departures from observations: exact posteriors and Kalman cycles tell what to expect."""

import numpy as np
import pytest
import xarray as xr
from lazy import computes_nothing

import xsda
from xsda import metrics


def test_observation_chi_square_of_an_exact_posterior_is_one(rotation):
    grid, _, prior = rotation
    values = []
    for seed in range(10):
        truth = xsda.sample(grid, prior, members=1, seed=seed, progress=False).isel(member=0, drop=True)
        obs = truth.sda.observe(truth.isel(time=slice(None, None, 2)), sigma=0.3, seed=seed)
        post = truth.sda.assimilate(obs, prior, members=50, seed=100 + seed, progress=False)
        chi = metrics.observation_chi_square(post, obs)
        values.append(float(chi.to_array().mean()))
    assert np.mean(values) == pytest.approx(1, abs=0.12)


def kalman_cycle(length=16_000, a=0.9, q=0.6, r=0.8, members=10, seed=0):
    """Forecasts and analyses of an AR(1) process observed at every second time, with the exact gain, and its variances."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((length, 2)) * [q, r]
    x, xb, p = 0.0, 0.0, 1.0
    truth, before, after, variance = np.zeros((4, length))
    for t in range(length):
        truth[t], before[t], after[t], variance[t] = x, xb, xb, p
        if t % 2 == 0:
            gain = p / (p + r * r)
            after[t] = xb + gain * (x + noise[t, 1] - xb)
            p = (1 - gain) * p
        x, xb, p = a * x + noise[t, 0], a * after[t], a * a * p + q * q
    observed = np.where(np.arange(length) % 2 == 0, truth + noise[:, 1], np.nan)
    cloud = before + np.sqrt(variance) * rng.standard_normal((members, length))

    def label(values, dims=("time",)):
        return xr.Dataset({"x": (dims, values, {"units": "K"})}, {"time": np.arange(length, dtype=float)})

    obs = label(observed).isel(time=slice(None, None, 2))
    return label(before), label(after), label(cloud, ("member", "time")), obs, variance[-2], r * r


def test_desroziers_recovers_the_variances_of_a_kalman_cycle():
    before, after, _, obs, b, r = kalman_cycle()
    estimate = metrics.desroziers(before, after, obs).x
    assert float(estimate.sel(estimate="R")) == pytest.approx(r, rel=0.05)
    assert float(estimate.sel(estimate="HBH")) == pytest.approx(b, rel=0.05)
    assert float(estimate.sel(estimate="HAH")) == pytest.approx(b * r / (b + r), rel=0.05)
    assert estimate.attrs == {"units": "(K)2"}
    total = (metrics.innovations(before, obs) ** 2).x.mean()
    assert float(estimate.sel(estimate=["R", "HBH"]).sum()) == pytest.approx(float(total))


def test_desroziers_of_each_station_and_lazily(rotation):
    grid, _, prior = rotation
    before, after = (xsda.sample(grid, prior, members=3, seed=s, progress=False) for s in (0, 1))
    obs = grid.sda.observe(grid.isel(time=slice(None, None, 3)), sigma=0.5, seed=0)
    obs["u"][2] = np.nan
    estimate = metrics.desroziers(before, after, obs)
    with computes_nothing():
        lazy = metrics.desroziers(before.chunk({"member": 1}), after.chunk(), obs)
    assert lazy.u.chunks is not None
    xr.testing.assert_allclose(lazy.compute(), estimate)
    one_by_one = metrics.desroziers(before, after, obs, dim=[])
    assert int(one_by_one.u.sel(estimate="R").isnull().sum()) == 1
    xr.testing.assert_allclose(one_by_one.mean("time"), estimate)


def test_innovations_are_departures_of_the_mean(rotation):
    grid, _, prior = rotation
    ens = xsda.sample(grid, prior, members=4, progress=False)
    obs = xr.Dataset({"u": ("time", [0.3, np.nan, 1.0], {"units": "m s-1"})}, {"time": [2.0, 5.0, 6.5]})
    mean = ens.u.mean("member").values
    expected = [0.3 - mean[2], np.nan, 1.0 - (mean[6] + mean[7]) / 2]
    result = metrics.innovations(ens, obs)
    np.testing.assert_allclose(result.u, expected, rtol=1e-6)
    assert result.u.attrs == {"units": "m s-1"}
    assert list(result.time) == [2.0, 5.0, 6.5]
    np.testing.assert_allclose(metrics.innovations(ens, obs.u).u, expected, rtol=1e-6)


def test_innovations_of_derived_quantities(rotation):
    grid, _, prior = rotation
    ens = xsda.sample(grid, prior, members=4, progress=False)
    obs = xr.Dataset({"speed": ("time", [1.0])}, {"time": [3.0]})
    speed = {"speed": lambda s: (s["u"] ** 2 + s["v"] ** 2).sqrt()}
    at = ens.mean("member").isel(time=3)
    expected = 1 - float(np.hypot(at.u, at.v))
    assert float(metrics.innovations(ens, obs, derived=speed).speed[0]) == pytest.approx(expected, rel=1e-5)


def test_innovation_consistency_is_one_where_the_variances_are_right():
    *_, cloud, obs, b, r = kalman_cycle(members=4)
    ratio = metrics.innovation_consistency(cloud, obs, sigma=r**0.5)
    assert float(ratio.x) == pytest.approx(1, abs=0.05)
    doubled = metrics.innovation_consistency(cloud, obs.assign(x=obs.x.assign_attrs(error_std=(2 * r) ** 0.5)))
    foreseen = 1.25 * b + r
    assert float(doubled.x) == pytest.approx(foreseen / (foreseen + r), abs=0.05)
    with pytest.raises(ValueError, match="no observation error for 'x'"):
        metrics.innovation_consistency(cloud, obs)
    with pytest.raises(ValueError, match="of at least 2"):
        metrics.innovation_consistency(cloud.isel(member=0), obs, sigma=1.0)
