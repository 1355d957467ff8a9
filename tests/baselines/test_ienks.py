"""The iterative ensemble Kalman smoother: exact where things are linear, and what it is for where they are not."""

from itertools import pairwise

import numpy as np
import pytest
import xarray as xr
from helpers import ensemble, kalman, moments, rts

from xsda.baselines import ETKF, RTPS, AdaptiveInflation, EnKFN, IEnKS, filter
from xsda.baselines.run import Record
from xsda.systems import DampedSpring, Lorenz63, Lorenz96

START = (np.array([0.5, -0.2]), np.array([[0.5, 0.1], [0.1, 0.3]]))
STAGES = ["forecast", "analysis", "smoothed"]
SIGMA = 0.3
SEEN = [1, 4, 7, 10, 13]


@pytest.fixture(scope="module")
def spring():
    """A spring without noise, the position observed at some times; system, grid, observations, and y (time, 1)."""
    system = DampedSpring(noise=0.0)
    truth = system.simulate(16, members=1, seed=3, burn_in=0).isel(member=0, drop=True)
    obs = truth.sda.observe(truth.isel(time=SEEN)[["position"]], sigma=SIGMA, seed=4)
    return system, truth, obs, obs.position.reindex(time=truth.time).values[:, None]


def exact(system, y):
    f = system.matrix.numpy()
    forecasts, analyses = kalman(f, np.zeros(2), 0, np.eye(2)[:1], np.array([[SIGMA**2]]), START, y)
    return {"forecast": forecasts, "analysis": analyses, "smoothed": rts(f, forecasts, analyses)}


def near(truth, spread, members, seed=0):
    """An ensemble around the first state."""
    rng = np.random.default_rng(seed)
    first = truth.isel(time=0, drop=True)
    noise = {v: (("member", *da.dims), spread * rng.standard_normal((members, *da.shape))) for v, da in first.items()}
    return first + xr.Dataset(noise)


def rmse(ds, truth, burn_in):
    error = (ds.mean("member") - truth).isel(time=slice(burn_in, None)).to_array()
    return float(np.sqrt((error**2).mean([d for d in error.dims if d != "time"])).mean())


@pytest.mark.parametrize("iterations", [1, 3])
@pytest.mark.parametrize("lag", [0, 1, 2, 20])
def test_a_linear_system_has_exact_filter_and_fixed_lag_smoother(spring, lag, iterations):
    """From one observation time to the next, smoothed states know those up to ``lag`` later than the first of them."""
    system, truth, obs, y = spring
    out = filter(
        truth, obs, system, method=IEnKS(lag=lag, iterations=iterations), initial=ensemble(system, *START, 7),
        keep=STAGES, progress=False,
    )  # fmt: skip
    smoothed = []
    for j, (start, stop) in enumerate(pairwise([0, *SEEN, len(y)])):
        known = np.isin(np.arange(len(y)), SEEN[: j + lag])[:, None]
        smoothed += exact(system, np.where(known, y, np.nan))["smoothed"][start:stop]
    for stage, value in {**exact(system, y), "smoothed": smoothed}.items():
        mean, cov = moments(out.sel(stage=stage, drop=True))
        np.testing.assert_allclose(mean, [m for m, _ in value], atol=1e-8)
        np.testing.assert_allclose(cov, [p for _, p in value], atol=1e-8)
    if iterations > 1:
        assert (out.iterations.values[SEEN] == 2).all()


def test_observations_between_times_and_at_the_first(spring):
    """All of them inside one window: the smoothed states are those of the smoother with all times."""
    _, truth, _, _ = spring
    system, grid, times = DampedSpring(noise=0.0, dt=0.125), truth.isel(time=slice(9)), np.arange(17) * 0.125
    like = truth[["position"]].interp(time=[0.0, 0.125, 0.5, 0.625, 1.875])
    obs = truth.sda.observe(like, sigma=SIGMA, seed=1)
    out = filter(grid, obs, system, method=IEnKS(lag=9), initial=ensemble(system, *START, 5), progress=False)
    value = exact(system, obs.position.reindex(time=times).values[:, None])["smoothed"][::2]
    mean, cov = moments(out)
    np.testing.assert_allclose(mean, [m for m, _ in value], atol=1e-8)
    np.testing.assert_allclose(cov, [p for _, p in value], atol=1e-8)


@pytest.mark.parametrize("options", [{}, {"inflation": 1.05, "rotate": True}, {"inflation": RTPS(0.4)}], ids=str)
def test_without_window_and_iterations_it_is_the_etkf(options):
    system = Lorenz96(n=12)
    truth = system.simulate(30, seed=1)
    obs = truth.sda.observe(truth.isel(time=slice(1, None, 2), x=slice(None, None, 2)), sigma=0.7, seed=2)
    a, b = (
        filter(truth, obs, system, method=m, initial=near(truth, 0.5, 9), keep="both", progress=False)
        for m in (ETKF(**options), IEnKS(lag=0, iterations=1, **options))
    )
    np.testing.assert_allclose(b.u, a.u, atol=1e-10)


def test_certainty_is_the_finite_size_filter(spring):
    """The minimum over the weights is where the minimum over the effective size is."""
    system, truth, obs, _ = spring
    a, b = (
        filter(truth, obs, system, method=m, initial=ensemble(system, *START, 4), keep="analysis", progress=False)
        for m in (EnKFN(certainty=1.5), IEnKS(lag=0, certainty=1.5, iterations=60, tolerance=1e-9))
    )
    assert abs(a.inflation[SEEN] - 1).max() > 0.01
    np.testing.assert_allclose(b.inflation[SEEN], a.inflation[SEEN], rtol=1e-4)
    np.testing.assert_allclose(b.position, a.position, atol=1e-4)
    np.testing.assert_allclose(b.velocity, a.velocity, atol=1e-4)


@pytest.mark.parametrize("lag", [0, 2])
def test_iterations_find_the_mode_of_nonlinear_observations(lag):
    """With small anomalies, sensitivities are derivatives, and the mean is the mode of the posterior in their span."""
    system = DampedSpring(noise=0.0)
    truth = system.simulate(2, members=1, seed=3, burn_in=0).isel(member=0, drop=True)
    derived = {"energy": lambda s: (s["position"] ** 2 + s["velocity"] ** 2) / 2}
    cov = 1e-6 * START[1]
    obs = xr.Dataset({"energy": ("time", [0.2])}, {"time": truth.time[1:]})
    sigma = 3e-4
    out = filter(
        truth, obs, system, method=IEnKS(lag=lag, iterations=30, tolerance=0), sigma=sigma, derived=derived,
        initial=ensemble(system, START[0], cov, 5), progress=False,
    )  # fmt: skip
    f, x = system.matrix.numpy(), moments(out)[0][1]
    pull = np.linalg.solve(f @ cov @ f.T, x - f @ START[0])
    np.testing.assert_allclose(pull, x * (0.2 - x @ x / 2) / sigma**2, rtol=2e-3)
    assert np.linalg.norm(x - f @ START[0]) > 5e-2  # far outside of the ensemble, where one step is not enough


def test_each_time_comes_once_a_stage_and_in_order(monkeypatch):
    system = Lorenz63(noise=0.0)
    truth = system.simulate(8, seed=1)
    came = {s: [] for s in STAGES}
    put = Record.put
    monkeypatch.setattr(Record, "put", lambda self, stage, k, x: (came[stage].append(k), put(self, stage, k, x)))
    for seen in (truth.time[1:7:2], [0.01, 0.05, 0.06, 0.11], truth.time[:1], truth.time[-1:]):
        obs = truth.sda.observe(truth[["x"]].interp(time=seen), sigma=1.0, seed=1)
        for lag in (0, 1, 2, 9):
            for kept in came.values():
                kept.clear()
            filter(truth, obs, system, method=IEnKS(lag=lag), initial=near(truth, 1.0, 3), progress=False)
            times = np.union1d(truth.time, obs.time)
            assert all(kept == list(range(len(times))) for kept in came.values())


def test_the_score_on_lorenz63():
    """Sakov et al. 2012: observed every 0.25 with variance 2; analysis errors are about half those of an ETKF, 0.3 to 0.6."""
    system = Lorenz63(dt=0.01, noise=0)
    truth = system.simulate(251, seed=2, every=25)
    obs = truth.sda.observe(truth, sigma=2**0.5, seed=12)
    scores = [
        rmse(
            filter(truth, obs, system, method=m, initial=near(truth, 0.3, 10), keep="analysis", progress=False),
            truth,
            50,
        )
        for m in (IEnKS(inflation=1.02, rotate=True), ETKF(inflation=1.02, rotate=True))
    ]
    assert scores[0] < 0.4 < 0.5 < scores[1]


def test_what_cannot_be_done_is_said(spring):
    _, truth, obs, _ = spring
    with pytest.raises(ValueError, match=r"DampedSpring has transition noise \(noise=0.1\).*noise=0\).*ETKF.*EnKS"):
        filter(truth, obs, DampedSpring(), method=IEnKS(), progress=False)
    for name, value in (
        ("lag", -1),
        ("lag", 1.0),
        ("iterations", 0),
        ("iterations", True),
        ("tolerance", -1.0),
        ("certainty", 0.0),
    ):
        with pytest.raises(ValueError, match=f"{name}={value}"):
            IEnKS(**{name: value})
    with pytest.raises(TypeError, match=r"AdaptiveInflation.*certainty"):
        IEnKS(inflation=AdaptiveInflation())
