import numpy as np
import pytest
import torch
import xarray as xr
from helpers import Ring, ensemble, kalman, moments, rts

from xsda.baselines import EAKF, ETKF, LETKF, RTPS, AdaptiveInflation, DEnKF, EnKF, EnKFN, filter
from xsda.baselines.kalman import RTSSmoother
from xsda.baselines.regression import ridge_share
from xsda.baselines.smoothers import EnKS, EnRTS
from xsda.systems import DampedSpring, Lorenz96

START = (np.array([0.5, -0.2]), np.array([[0.5, 0.1], [0.1, 0.3]]))
SIGMA = 0.3


@pytest.fixture(scope="module")
def spring():
    """A spring without noise, the position observed at every third time from the second on, and the exact answers."""
    system = DampedSpring(noise=0.0)
    truth = system.simulate(16, members=1, seed=3, burn_in=0).isel(member=0, drop=True)
    obs = truth.sda.observe(truth.isel(time=slice(1, None, 3))[["position"]], sigma=SIGMA, seed=4)
    y = obs.position.reindex(time=truth.time).values[:, None]
    f = system.matrix.numpy()
    forecasts, analyses = kalman(f, np.zeros(2), 0, np.eye(2)[:1], np.array([[SIGMA**2]]), START, y)
    return system, truth, obs, {"analysis": analyses, "smoothed": rts(f, forecasts, analyses)}


def assert_same(ds, expected, tolerance):
    mean, cov = moments(ds)
    np.testing.assert_allclose(mean, [m for m, _ in expected], atol=tolerance, rtol=0)
    np.testing.assert_allclose(cov, [p for _, p in expected], atol=tolerance, rtol=0)


@pytest.mark.parametrize("kind", [EnKS, EnRTS])
@pytest.mark.parametrize("method", [ETKF(), ETKF(rotate=True), EAKF()], ids=["ETKF", "rotated", "EAKF"])
def test_square_root_smoothers_are_exact_for_linear_systems(spring, kind, method):
    system, truth, obs, expected = spring
    out = filter(
        truth, obs, system, method=kind(filter=method), initial=ensemble(system, *START, 7), progress=False,
        keep=["analysis", "smoothed"],
    )  # fmt: skip
    for stage in ("analysis", "smoothed"):
        assert_same(out.sel(stage=stage), expected[stage], 1e-10)


def test_smoothed_members_are_runs_of_a_deterministic_system(spring):
    """The same combinations of members at all times, rotated and inflated or not."""
    system, truth, obs, _ = spring
    for method in (ETKF(rotate=True), EnKF(), DEnKF(), EnKFN()):
        out = filter(truth, obs, system, method=EnKS(filter=method), members=6, progress=False)
        x = np.stack([out.position.values, out.velocity.values], -1)
        np.testing.assert_allclose(x[:, 1:], x[:, :-1] @ system.matrix.numpy().T, atol=1e-10)


FILTERS = [
    EnKF(), DEnKF(), ETKF(), EAKF(), EnKFN(rotate=True), ETKF(inflation=1.1, rotate=True), EAKF(inflation=RTPS(0.5)),
    ETKF(inflation=AdaptiveInflation()),
]  # fmt: skip


@pytest.mark.parametrize("method", FILTERS, ids=str)
@pytest.mark.parametrize("kind", [EnKS, EnRTS])
def test_their_analysis_is_the_filters(kind, method):
    system = Lorenz96(n=8)
    truth = system.simulate(12, seed=1)
    obs = truth.sda.observe(truth.isel(time=slice(1, None, 2), x=slice(None, None, 2)), sigma=1.0, seed=2)
    options = {"members": 5, "seed": 3, "progress": False, "keep": "both"}
    alone = filter(truth, obs, system, method=method, **options)
    out = filter(truth, obs, system, method=kind(filter=method), **options)
    np.testing.assert_allclose(out.u, alone.u, atol=1e-8)
    for name in alone.coords:
        xr.testing.assert_allclose(out[name], alone[name], atol=1e-8)
    last = filter(truth, obs, system, method=kind(filter=method), **{**options, "keep": "smoothed"})
    np.testing.assert_array_equal(last.u[:, -1], out.u.sel(stage="analysis")[:, -1])


def test_a_lag_takes_so_many_later_observation_times():
    system = Ring()
    truth = system.simulate(14, seed=1)
    obs = truth.sda.observe(truth.isel(time=slice(1, None, 3)), sigma=0.5, seed=2)  # times 1, 4, 7, 10, 13
    options = {"members": 20, "seed": 3, "progress": False}
    full = filter(truth, obs, system, method=EnKS(), **options)
    for lag in (1, 2, 5):
        out = filter(truth, obs, system, method=EnKS(lag=lag), **options)
        for k in range(14):
            later = [t for t in range(1, 14, 3) if t > k]
            stop = later[min(lag, len(later)) - 1] if later else 13
            short = filter(
                truth.isel(time=slice(stop + 1)),
                obs.sel(time=slice(None, float(stop))),
                system,
                method=EnKS(),
                **options,
            )
            np.testing.assert_allclose(out.u[:, k], short.u[:, k], atol=1e-12)
        if lag == 5:
            np.testing.assert_allclose(out.u, full.u, atol=1e-12)


@pytest.mark.parametrize("kind", [EnKS(), EnRTS(), EnRTS(filter=ETKF(rotate=True))], ids=str)
def test_noise_of_the_system_is_smoothed_as_members_grow(kind):
    """Forecast noise is drawn, so that the answer is exact in the limit of many members."""
    system = DampedSpring(noise=0.2)
    truth = system.simulate(10, seed=5)
    obs = truth.sda.observe(truth[["position"]].isel(time=slice(None, None, 2)), sigma=0.4, seed=6)
    exact = filter(truth, obs, system, method=RTSSmoother(), initial=ensemble(system, *START, 3), progress=False)
    mean, cov = moments(exact)
    errors = []
    for n in (25, 400):
        runs = [
            moments(
                filter(truth, obs, system, method=kind, initial=ensemble(system, *START, n), seed=s, progress=False)
            )
            for s in range(4)
        ]
        errors.append([np.sqrt(np.mean([(r[i] - e) ** 2 for r in runs])) for i, e in enumerate((mean, cov))])
    assert (np.abs(np.log(np.divide(*errors)) / np.log(16) - 0.5) < 0.15).all()


@pytest.mark.parametrize("method", FILTERS, ids=str)
def test_both_are_the_same_with_fewer_members_than_numbers(method):
    """Raanes (2016); neither takes inflation for information, and both rotate all times alike."""
    system = Lorenz96(n=8)
    truth = system.simulate(12, seed=1)
    obs = truth.sda.observe(truth.isel(time=slice(1, None, 2), x=slice(None, None, 2)), sigma=1.0, seed=2)
    ks, rts = (
        filter(truth, obs, system, method=kind(filter=method), members=5, seed=3, progress=False)
        for kind in (EnKS, EnRTS)
    )
    np.testing.assert_allclose(rts.u, ks.u, atol=1e-6)


@pytest.mark.parametrize(
    "method",
    [
        EnKS(filter=ETKF(inflation=1.05), lag=8),
        EnRTS(filter=ETKF(inflation=1.05)),
        EnRTS(filter=ETKF(inflation=RTPS(0.3), rotate=True)),
        EnRTS(filter=LETKF(localization=3.0, inflation=1.05), decay=0.9),
    ],
    ids=str,
)
def test_later_observations_improve_a_chaotic_system(method):
    system = Lorenz96(n=20)
    truth = system.simulate(60, seed=1)
    obs = truth.sda.observe(truth.isel(x=slice(None, None, 2)), sigma=1.0, seed=2)
    near = xr.DataArray(np.random.default_rng(0).normal(size=(14, 20)), dims=("member", "x")) + truth.isel(
        time=0, drop=True
    )
    out = filter(truth, obs, system, method=method, initial=near, progress=False, keep=["analysis", "smoothed"])
    error = np.sqrt(((out.u.mean("member") - truth.u) ** 2)[:, 10:-5].mean(("time", "x")))
    assert error.sel(stage="smoothed") < 0.9 * error.sel(stage="analysis")


def test_without_being_passed_back_nothing_is_smoothed(spring):
    system, truth, obs, _ = spring
    out = filter(truth, obs, system, method=EnRTS(decay=0.0), members=5, progress=False, keep=["analysis", "smoothed"])
    np.testing.assert_allclose(out.position[0], out.position[1], atol=1e-12)


def test_filters_that_will_not_do():
    with pytest.raises(TypeError, match=r"use EnRTS\(filter=LETKF"):
        EnKS(filter=LETKF(localization=2.0))
    for kind in (EnKS, EnRTS):
        with pytest.raises(TypeError, match="got the class ETKF"):
            kind(filter=ETKF)
        with pytest.raises(TypeError, match="got EnRTS"):
            kind(filter=EnRTS())
    with pytest.raises(ValueError, match=r"decay=1\.5 must lie between 0"):
        EnRTS(decay=1.5)
    for lag in (0, 2.5, True):
        with pytest.raises(ValueError, match="must be an integer of at least 1"):
            EnKS(lag=lag)


def lorenz_ensemble(members, sites=40, seed=0):
    """A Lorenz-96 trajectory, every second site observed, and an ensemble around its first state."""
    system = Lorenz96(n=sites)
    truth = system.simulate(60, seed=seed + 1)
    obs = truth.sda.observe(truth.isel(x=slice(None, None, 2)), sigma=1.0, seed=seed + 2)
    noise = np.random.default_rng(seed).normal(size=(members, sites))
    return system, truth, obs, xr.DataArray(noise, dims=("member", "x")) + truth.isel(time=0, drop=True)


@pytest.mark.parametrize("members", [10, 20, 38, 40, 41, 44, 80])
def test_a_local_filter_is_improved_whatever_the_number_of_members(members):
    """Near the number of sites the smallest singular values of the ensemble are chance."""
    system, truth, obs, near = lorenz_ensemble(members)
    method = EnRTS(filter=LETKF(localization=4.0, inflation=1.05))
    out = filter(truth, obs, system, method=method, initial=near, progress=False, keep=["analysis", "smoothed"])
    error = np.sqrt(((out.u.mean("member") - truth.u) ** 2)[:, 10:-5].mean(("time", "x")))
    assert error.sel(stage="smoothed") < 0.95 * error.sel(stage="analysis")
    variance = out.u.var("member", ddof=1).mean("x")
    assert (variance.sel(stage="smoothed") < 1.01 * variance.sel(stage="analysis")).all()


def test_smoothing_that_widens_the_ensemble_is_told(monkeypatch):
    monkeypatch.setattr("xsda.baselines.regression.STRENGTH", 1e-10)
    system, truth, obs, near = lorenz_ensemble(40)
    method = EnRTS(filter=LETKF(localization=4.0, inflation=1.05))
    with pytest.warns(RuntimeWarning, match=r"times the variance of the analysis, .* use EnRTS\(decay=0\.9\)"):
        filter(truth, obs, system, method=method, initial=near, progress=False)


def test_with_many_members_the_smoother_of_a_local_filter_is_exact():
    """Localization over a distance much longer than the ring: one analysis for all, whose ridge vanishes as 1 / members."""
    system = Ring(noise=0.0)
    truth = system.simulate(3, seed=1)
    obs = truth.sda.observe(truth.isel(time=slice(1, None, 2), x=[0, 3]), sigma=0.5, seed=2)
    cov = np.exp(-np.abs(np.subtract.outer(np.arange(6), np.arange(6))) / 2)
    errors = []
    for members in (200, 1600):
        start = ensemble(system, np.zeros(6), cov, members)
        out, exact = (
            moments(filter(truth, obs, system, method=m, initial=start, progress=False))
            for m in (EnRTS(filter=LETKF(localization=1e4)), RTSSmoother())
        )
        errors.append([np.abs(a - b).max() for a, b in zip(out, exact, strict=True)])
    fewer, many = np.array(errors)
    assert (np.abs(np.log(many / fewer) / np.log(8) + 1) < 0.2).all()
    assert (many < 1e-3).all()


@pytest.mark.parametrize("members", [5, 12, 30])
def test_the_ridge_does_not_depend_on_units(members):
    rng = np.random.default_rng(members)
    increment, after = (torch.as_tensor(rng.normal(size=(members, 12))) for _ in range(2))
    after -= after.mean(0)
    after[:, 3] = 0
    units = torch.as_tensor(10.0 ** rng.integers(-6, 6, 12))
    share = ridge_share(increment, after)
    torch.testing.assert_close(ridge_share(increment * units, after * units), share, rtol=1e-8, atol=1e-8)
