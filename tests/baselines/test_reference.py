import math

import numpy as np
import pytest
import xarray as xr
from helpers import Ring, ensemble, kalman, moments, rts

from xsda.baselines import Forecast, filter
from xsda.baselines.kalman import KalmanFilter, RTSSmoother
from xsda.baselines.simple import Climatology, FreeRun, OptimalInterpolation, Persistence
from xsda.systems import DampedSpring, DiscreteODE, Lorenz63, Lorenz96, MarkovChain

START = (np.array([0.5, -0.2]), np.array([[0.5, 0.1], [0.1, 0.3]]))
SIGMA = 0.3


def spring_series(noise, every, length=16):
    """Times two or one steps of the spring apart, with the position observed at the first and then every third."""
    system = DampedSpring(noise=noise)
    truth = system.simulate(length, seed=3, every=every)
    obs = truth.sda.observe(truth.isel(time=slice(None, None, 3))[["position"]], sigma=SIGMA, seed=4)
    one = system.matrix.numpy()
    f, q = np.eye(2), np.zeros((2, 2))
    for _ in range(every):
        f, q = one @ f, one @ q @ one.T + noise**2 * np.eye(2)
    y = obs.position.reindex(time=truth.time).values[:, None]
    forecasts, analyses = kalman(f, np.zeros(2), q, np.array([[1.0, 0.0]]), np.array([[SIGMA**2]]), START, y)
    return system, truth, obs, {"forecast": forecasts, "analysis": analyses, "smoothed": rts(f, forecasts, analyses)}


def assert_same(ds, expected, tolerance):
    mean, cov = moments(ds)
    np.testing.assert_allclose(mean, [m for m, _ in expected], atol=tolerance, rtol=0)
    np.testing.assert_allclose(cov, [p for _, p in expected], atol=tolerance, rtol=0)


@pytest.mark.parametrize("members", [3, 20])
@pytest.mark.parametrize(("noise", "every"), [(0.1, 1), (0.2, 2), (0.0, 2)])
def test_kalman_filter_and_smoother_are_those_of_numpy(noise, every, members):
    system, truth, obs, expected = spring_series(noise, every)
    initial = ensemble(system, *START, members)
    stages = ["forecast", "analysis", "smoothed"]
    out = filter(truth, obs, system, method=RTSSmoother(), initial=initial, keep=stages, progress=False)
    for stage in stages:
        assert_same(out.sel(stage=stage), expected[stage], 1e-10)
    xr.testing.assert_equal(
        filter(truth, obs, system, method=KalmanFilter(), initial=initial, progress=False),
        out.sel(stage="analysis", drop=True),
    )


def test_kalman_filter_with_an_offset_correlated_errors_and_a_derived_quantity():
    system = Ring()
    truth = system.simulate(8, seed=1)
    correlation = 0.6 ** np.abs(np.subtract.outer(np.arange(3), np.arange(3)))
    near = truth.isel(x=slice(3))[["u"]]
    obs = {
        "near": near + 0.1,
        "sum": xr.Dataset({"total": truth.u.isel(x=[3, 4]) * 2 + 1}).assign_coords(time=truth.time),
    }
    h = np.eye(6)[:5] * np.array([1, 1, 1, 2, 2])[:, None]
    r = np.zeros((5, 5))
    r[:3, :3], r[3:, 3:] = 0.25 * correlation, 0.64 * np.eye(2)
    start = np.linspace(0, 1, 6), np.eye(6) + 0.3
    y = np.concatenate([obs["near"].u.values, obs["sum"].total.values - 1], 1)
    forecasts, analyses = kalman(system.matrix, np.full(6, 0.05), 0.09 * np.eye(6), h, r, start, y)
    out = filter(
        truth, obs, system, method=RTSSmoother(), initial=ensemble(system, *start, 9), keep=["analysis", "smoothed"],
        sigma={"u": 0.5, "total": 0.8}, correlation={"u": correlation}, derived={"total": lambda s: 2 * s["u"] + 1},
        progress=False,
    )  # fmt: skip
    # correlations are factored in single precision
    assert_same(out.sel(stage="analysis"), analyses, 1e-6)
    assert_same(out.sel(stage="smoothed"), rts(system.matrix, forecasts, analyses), 1e-6)


def test_smoothed_members_are_trajectories():
    """The covariance of successive smoothed states is J P^s, which independent draws would not have."""
    system, truth, obs, expected = spring_series(0.1, 1, length=6)
    initial = ensemble(system, *START, 4000)
    out = filter(truth, obs, system, method=RTSSmoother(), initial=initial, progress=False)
    x = np.stack([out.position.values, out.velocity.values], -1)
    x -= x.mean(0)
    f = system.matrix.numpy()
    for k in range(5):
        back = expected["analysis"][k][1] @ f.T @ np.linalg.inv(expected["forecast"][k + 1][1])
        lagged = x[:, k].T @ x[:, k + 1] / 3999
        np.testing.assert_allclose(lagged, back @ expected["smoothed"][k + 1][1], atol=4e-3)


def test_few_members_still_have_the_exact_mean():
    system, truth, obs, expected = spring_series(0.1, 1)
    full = filter(truth, obs, system, method=KalmanFilter(), initial=ensemble(system, *START, 3), progress=False)
    np.testing.assert_allclose(moments(full)[0], [m for m, _ in expected["analysis"]], atol=1e-12)
    two = full.isel(member=slice(2), time=0, drop=True)
    run = filter(truth, obs, system, method=KalmanFilter(), initial=two, progress=False)
    x = np.stack([two.position.values, two.velocity.values], -1)
    f, one = system.matrix.numpy(), 0.01 * np.eye(2)
    y = obs.position.reindex(time=truth.time).values[:, None]
    _, analyses = kalman(f, np.zeros(2), one, np.eye(2)[:1], np.array([[SIGMA**2]]), (x.mean(0), np.cov(x.T)), y)
    np.testing.assert_allclose(moments(run)[0], [m for m, _ in analyses], atol=1e-10)


def test_a_function_is_a_linear_system_without_noise():
    system, truth, obs, expected = spring_series(0.0, 1)
    initial = ensemble(system, *START, 5)
    step = Forecast(lambda x, start, stop: system.step(x), tensors=True)
    out = filter(truth, obs, step, method=KalmanFilter(), initial=initial, progress=False)
    assert_same(out, expected["analysis"], 1e-10)


class Decay(DiscreteODE):
    def drift(self, x):
        return -x


def test_noise_of_a_part_of_a_step():
    """An observation between two times, so inexact that it tells nothing."""
    system = Decay(dt=0.5, noise=0.2)
    truth = system.simulate(3, burn_in=0)
    obs = truth.isel(time=[1]).assign_coords(time=[0.7])
    out = filter(
        truth,
        obs,
        system,
        method=KalmanFilter(),
        initial=ensemble(system, [1.0], np.eye(1), 4),
        sigma=1e6,
        progress=False,
    )
    first, second = (sum((-h) ** n / math.factorial(n) for n in range(5)) for h in (0.2, 0.3))  # Runge-Kutta
    whole = sum((-0.5) ** n / math.factorial(n) for n in range(5))
    middle = whole**2 + 0.04
    expected = [1.0, middle, second**2 * (first**2 * middle + 0.04 * 0.4) + 0.04 * 0.6]
    np.testing.assert_allclose(moments(out)[1].ravel(), expected, rtol=1e-9)


def test_kalman_filter_refuses_what_is_not_linear_or_too_large():
    system = Lorenz63(noise=0)
    truth = system.simulate(3)
    with pytest.raises(ValueError, match="the system is not linear"):
        filter(truth, truth[["x"]], system, method=KalmanFilter(), sigma=1.0, progress=False)
    spring = DampedSpring()
    truth = spring.simulate(3)
    energy = {"energy": lambda s: s["position"] ** 2}
    with pytest.raises(ValueError, match="what is observed is not linear"):
        filter(
            truth, truth[["position"]].rename(position="energy"), spring, method=KalmanFilter(), sigma=1.0,
            derived=energy, progress=False,
        )  # fmt: skip
    large = Lorenz96(n=4001)
    truth = large.simulate(2, burn_in=0)
    state = truth.isel(time=[0, 0], drop=True).rename(time="member")
    with pytest.raises(ValueError, match="at most 4000; use LETKF"):
        filter(truth, truth, large, method=KalmanFilter(), sigma=1.0, initial=state, progress=False)

    class Shaken(DampedSpring):
        def transition(self, x, generator):
            return MarkovChain.transition(self, x, generator) * 2

    truth = Shaken().simulate(2, burn_in=0)
    with pytest.raises(ValueError, match="transition of its own"):
        filter(truth, truth, Shaken(), method=KalmanFilter(), sigma=1.0, progress=False)


def test_free_run_is_the_simulation_and_persistence_its_start():
    system = Lorenz63(noise=0)
    runs = system.simulate(12, members=3, seed=2, every=2)
    truth = runs.isel(member=0, drop=True)
    options = {"initial": runs.isel(time=0), "sigma": 1.0, "progress": False, "keep": "both"}
    for method, expected in ((FreeRun(), runs), (Persistence(), xr.full_like(runs, 0) + runs.isel(time=0, drop=True))):
        out = filter(truth, truth, system, method=method, **options)
        for stage in ("forecast", "analysis"):
            for v in "xyz":
                np.testing.assert_allclose(out[v].sel(stage=stage), expected[v].transpose("member", "time"), atol=1e-9)
    one = filter(
        truth, truth, system, method=FreeRun(), initial=runs.isel(time=0, member=[0]), sigma=1.0, progress=False
    )
    np.testing.assert_allclose(one.x.isel(member=0), truth.x, atol=1e-9)


def test_climatology_draws_each_state_equally_often():
    system = Lorenz63(noise=0)
    long = system.simulate(30, seed=5, every=20)
    truth = system.simulate(200, seed=6)
    out = filter(
        truth, truth[["x"]], system, method=Climatology(climatology=long), members=10, sigma=1.0, progress=False
    )
    drawn = np.stack([out[v].values for v in "xyz"], -1)
    states = np.stack([long[v].values for v in "xyz"], -1)
    which = np.abs(drawn[:, :, None] - states).sum(-1)
    assert which.min(-1).max() == 0  # states of the run, with their variables together
    number = which.argmin(-1)
    assert all(len(set(n)) == 10 for n in number.T)  # none twice at a time
    counts = np.bincount(number.ravel(), minlength=30)
    variance = 200 * (1 / 3) * (2 / 3)
    assert ((counts - 200 / 3) ** 2 / variance).sum() < 29 + 4 * np.sqrt(2 * 29)
    more = filter(
        truth.isel(time=slice(3)), truth[["x"]].isel(time=[0]), system, method=Climatology(climatology=long), members=40,
        sigma=1.0, progress=False,
    )  # fmt: skip
    assert more.sizes["member"] == 40


@pytest.mark.parametrize("states", [4, 300])
def test_optimal_interpolation_has_the_closed_form(states):
    """With fewer and with more states than a state has numbers."""
    system = Ring()
    long = system.simulate(states, seed=5)
    truth = system.simulate(3, seed=6)
    obs = truth.isel(x=[0, 2, 3], time=[0, 2])
    correlation = 0.5 ** np.abs(np.subtract.outer(np.arange(3), np.arange(3)))
    members = 4000
    out = filter(
        truth, obs, system, method=OptimalInterpolation(climatology=long), members=members, sigma=0.7, keep="both",
        correlation={"u": correlation}, progress=False,
    )  # fmt: skip
    mean, cov = long.u.values.mean(0), np.cov(long.u.values.T)
    h = np.eye(6)[[0, 2, 3]]
    gain = cov @ h.T @ np.linalg.inv(h @ cov @ h.T + 0.49 * correlation)
    analysed = moments(out.sel(stage="analysis"))
    spread = cov - gain @ h @ cov
    for k in (0, 2):
        y = obs.u.sel(time=truth.time[k]).values
        np.testing.assert_allclose(analysed[0][k], mean + gain @ (y - h @ mean), atol=1e-6)
        error = 4 * np.sqrt((spread**2 + np.outer(np.diag(spread), np.diag(spread))) / members)
        assert (np.abs(analysed[1][k] - spread) < error + 1e-6).all()
    np.testing.assert_allclose(moments(out.sel(stage="forecast"))[0], np.tile(mean, (3, 1)), atol=1e-12)
    np.testing.assert_allclose(analysed[0][1], mean, atol=1e-12)


def test_optimal_interpolation_of_one_member_is_the_mean_and_takes_derived_quantities():
    """A derived quantity that is linear after all comes in as its equivalent does."""
    system = Ring()
    long, truth = system.simulate(100, seed=5), system.simulate(2, seed=6)
    method = OptimalInterpolation(climatology=long)
    initial = truth.isel(time=0, drop=True).expand_dims("member")
    plain = filter(truth, truth, system, method=method, initial=initial, sigma=0.5, progress=False)
    twice = filter(
        truth, (2 * truth).rename(u="twice"), system, method=method, initial=initial, sigma=1.0, progress=False,
        derived={"twice": lambda s: 2 * s["u"]},
    )  # fmt: skip
    np.testing.assert_allclose(twice.u, plain.u, atol=1e-10)
    many = filter(truth, truth, system, method=method, members=30, sigma=0.5, progress=False)
    np.testing.assert_allclose(many.u.mean("member"), plain.u.isel(member=0), atol=1e-10)


def test_climatologies_that_do_not_fit():
    system = Ring()
    long, truth = system.simulate(5), system.simulate(2)
    cases = [
        (long.u, TypeError, "must be a Dataset"),
        (long.rename(u="v"), KeyError, "lacks the variable 'u'"),
        (long.isel(x=slice(3)), ValueError, "along 'x' the grid has 6"),
        (long.assign_coords(x=long.x + 1), ValueError, "other coordinates along 'x'"),
        (long.isel(time=[0]), ValueError, "holds one state"),
        (long.where(long.time > 2), ValueError, "NaN"),
    ]
    for kind in (Climatology, OptimalInterpolation):
        for given, error, match in cases:
            with pytest.raises(error, match=match):
                filter(truth, truth, system, method=kind(climatology=given), sigma=1.0, progress=False)
