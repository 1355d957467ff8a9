"""3D-Var and 4D-Var: closed forms where things are linear, minima where they are not."""

import numpy as np
import pytest
import scipy.optimize
import torch
from helpers import Ring, ensemble, kalman, moments, rts

from xsda.baselines import Forecast, FourDVar, ThreeDVar, filter, minimise
from xsda.baselines.variational import square_root
from xsda.systems import DampedSpring, Lorenz63, Lorenz96

MEAN, COV = np.array([0.5, -0.2]), np.array([[0.5, 0.1], [0.1, 0.3]])
SIGMA = 0.3
STAGES = ["forecast", "analysis", "smoothed"]


def state(system, mean=MEAN):
    return system.label(mean.reshape(1, 1, *system.state_shape)).isel(time=0, drop=True)


def climate(system, scale=1.0):
    """States with the covariance COV / scale, around something else."""
    return ensemble(system, np.array([3.0, 7.0]), COV / scale, 9, seed=5)


@pytest.fixture(scope="module")
def spring():
    """A spring without noise, the position observed at every third time."""
    system = DampedSpring(noise=0.0)
    truth = system.simulate(14, members=1, seed=3, burn_in=0).isel(member=0, drop=True)
    obs = truth.sda.observe(truth.isel(time=slice(0, None, 3))[["position"]], sigma=SIGMA, seed=4)
    return system, truth, obs, obs.position.reindex(time=truth.time).values[:, None]


def exact(f, y, q=0.0, start=(MEAN, COV)):
    h, r = np.eye(2)[:1], np.array([[SIGMA**2]])
    forecasts, analyses = kalman(f, np.zeros(2), q * np.eye(2), h, r, start, y)
    return {"forecast": forecasts, "analysis": analyses, "smoothed": rts(f, forecasts, analyses)}


def means(parts):
    return np.array([m for m, _ in parts])


def one(ds):
    """The only member, (time, variable)."""
    return np.stack([da.isel(member=0).values for da in ds.data_vars.values()], -1)


def labelled_step(ds, start, stop):
    """The spring as a function on Datasets."""
    system = DampedSpring(noise=0.0, dt=stop - start)
    return system.label(system.step(system.to_tensor(ds.expand_dims("time"))).numpy()).isel(time=0, drop=True)


@pytest.mark.parametrize("count", [5, 200])
def test_the_square_root_is_of_the_climate_s_covariance(count):
    """Anomalies where there are fewer of them than numbers of a state, eigenvectors otherwise."""
    from xsda.labels.grid import Grid
    from xsda.labels.layout import Layout

    ds = Lorenz96(n=12).simulate(count, members=2, seed=1)
    root = square_root(ds, Grid.match(Layout.of(ds, even=False), ds), 0.3).numpy()
    assert len(root) == min(2 * count, 12)
    cov = np.cov(ds.u.values.reshape(-1, 12).T)
    np.testing.assert_allclose(root.T @ root, 0.3 * cov, atol=1e-10)


def test_3dvar_goes_through_kalman_updates_with_the_same_background(spring):
    system, truth, obs, y = spring
    f = system.matrix.numpy()
    b = 0.4 * COV
    gain = b[:, :1] / (b[0, 0] + SIGMA**2)
    expected, x = [], MEAN
    for k, now in enumerate(y[:, 0]):
        x = f @ x if k else x
        x = x if np.isnan(now) else x + gain[:, 0] * (now - x[0])
        expected.append(x)
    method = ThreeDVar(climatology=climate(system), scale=0.4)
    out = filter(truth, obs, system, method=method, initial=state(system), progress=False)
    np.testing.assert_allclose(one(out), expected, atol=1e-12)
    derived = {"position_again": lambda s: s["position"]}
    other = obs.rename(position="position_again")
    method = ThreeDVar(climatology=climate(system), scale=0.4, tolerance=0)
    iterated = filter(
        truth, other, system, method=method, sigma=SIGMA, derived=derived, initial=state(system), progress=False
    )
    np.testing.assert_allclose(one(iterated), expected, atol=1e-8)
    window = FourDVar(climatology=climate(system), scale=0.4, lag=0)
    same = filter(truth, obs, Forecast(labelled_step), method=window, initial=state(system), progress=False)
    np.testing.assert_allclose(one(same), expected, atol=1e-8)


@pytest.mark.parametrize("dense", [2**16, 0])
def test_4dvar_of_one_window_is_the_exact_smoother(spring, dense, monkeypatch):
    """And its analyses are the exact filter: as long as the window has not left its start, B is that of the start."""
    monkeypatch.setattr(minimise, "DENSE", dense)
    system, truth, obs, y = spring
    method = FourDVar(climatology=climate(system, 0.25), scale=0.25, lag=9, tolerance=1e-6)
    out = filter(truth, obs, system, method=method, initial=state(system), keep=STAGES, progress=False)
    for stage, value in exact(system.matrix.numpy(), y).items():
        np.testing.assert_allclose(one(out.sel(stage=stage)), means(value), atol=1e-7)


@pytest.mark.parametrize("dense", [2**16, 0])
@pytest.mark.parametrize("error", [0.2, {"position": 0.2, "velocity": 0.5}], ids=str)
def test_weak_constraint_is_the_smoother_with_model_errors(spring, dense, error, monkeypatch):
    """Errors come in where something is observed: the exact answer goes from one observation time to the next."""
    monkeypatch.setattr(minimise, "DENSE", dense)
    system, truth, obs, y = spring
    method = FourDVar(climatology=climate(system), scale=1.0, lag=9, model_error=error, tolerance=1e-6)
    out = filter(truth, obs, system, method=method, initial=state(system), keep=STAGES, progress=False)
    f = np.linalg.matrix_power(system.matrix.numpy(), 3)
    q = np.diag(np.square(list(error.values()))) if isinstance(error, dict) else error**2 * np.eye(2)
    h, r = np.eye(2)[:1], np.array([[SIGMA**2]])
    forecasts, analyses = kalman(f, np.zeros(2), q, h, r, (MEAN, COV), y[::3])
    for stage, value in (("forecast", forecasts), ("analysis", analyses), ("smoothed", rts(f, forecasts, analyses))):
        np.testing.assert_allclose(one(out.sel(stage=stage))[::3], means(value), atol=1e-7)
    smoothed = one(out.sel(stage="smoothed"))
    np.testing.assert_allclose(smoothed[1], system.matrix.numpy() @ smoothed[0], atol=1e-12)


def slid(f, y, lag, error):
    """Analyses and smoothed states at the observation times of a linear window that slides, one matrix at a time."""
    h, r = np.eye(1, 2), SIGMA**2
    start, x, later, analyses, smoothed = -1, MEAN, {}, [], []
    background = MEAN, {}
    for j in range(len(y)):
        if j - lag > start:
            smoothed += [x] if start >= 0 else []
            x = f @ x + later.pop(start + 1) if start >= 0 else x
            start = j - lag
            background = x, dict(later)
        if j:
            background[1][j] = np.zeros(2)
        fresh = [j] if start >= 0 else range(j + 1)
        parts = [(max(start, 0), background[0], COV)]
        parts += [(i, e, error**2 * np.eye(2)) for i, e in background[1].items()] if error else []
        ahead = [[np.linalg.matrix_power(f, i - at) if i >= at else 0 * f for at, _, _ in parts] for i in fresh]
        g = np.concatenate([h @ np.concatenate(row, 1) for row in ahead])
        z = np.concatenate([e for _, e, _ in parts])
        prior = np.zeros((len(z), len(z)))
        for n, (_, _, cov) in enumerate(parts):
            prior[2 * n : 2 * n + 2, 2 * n : 2 * n + 2] = cov
        z = z + prior @ g.T @ np.linalg.solve(g @ prior @ g.T + r * np.eye(len(g)), y[list(fresh)] - g @ z)
        x, rest = z[:2], z[2:].reshape(-1, 2) if error else np.zeros((len(background[1]), 2))
        later = dict(zip(background[1], rest, strict=True))
        analyses.append(x)
        for i in range(max(start, 0) + 1, j + 1):
            analyses[-1] = f @ analyses[-1] + later[i]
    return np.array(analyses), np.array(smoothed)


@pytest.mark.parametrize("error", [0.0, 0.2])
@pytest.mark.parametrize("lag", [1, 2, 3])
def test_a_window_that_slides_uses_each_observation_once(spring, lag, error):
    """Background: where the last window's best run goes on, model errors included; covariances as ever."""
    system, truth, obs, y = spring
    method = FourDVar(climatology=climate(system), scale=1.0, lag=lag, model_error=error or None, tolerance=1e-6)
    out = filter(truth, obs, system, method=method, initial=state(system), keep=STAGES, progress=False)
    analyses, smoothed = slid(np.linalg.matrix_power(system.matrix.numpy(), 3), y[::3, 0], lag, error)
    np.testing.assert_allclose(one(out.sel(stage="analysis"))[::3], analyses, atol=1e-7)
    np.testing.assert_allclose(one(out.sel(stage="smoothed"))[::3][: len(smoothed)], smoothed, atol=1e-7)
    runs_on = one(out.sel(stage="analysis"))[:-1] @ system.matrix.numpy().T
    np.testing.assert_allclose(one(out.sel(stage="forecast"))[1:], runs_on, atol=1e-12)


@pytest.mark.parametrize("error", [None, 0.2])
def test_members_sample_the_posterior(spring, error):
    """Their mean is the run without perturbations; their covariance is the exact one, as far as there are enough of them."""
    system, truth, obs, y = spring
    method = FourDVar(climatology=climate(system), scale=1.0, lag=9, model_error=error, tolerance=1e-6)
    runs = [
        filter(
            truth,
            obs,
            system,
            method=method,
            initial=ensemble(system, MEAN, COV, members, seed=s),
            seed=s,
            progress=False,
        )
        for members in (100, 1600)
        for s in range(5)
    ]
    f = np.linalg.matrix_power(system.matrix.numpy(), 3)
    smoothed = exact(f, y[::3], (error or 0) ** 2)["smoothed"]
    errors = []
    for run in runs:
        mean, cov = moments(run.isel(time=slice(None, None, 3)))
        np.testing.assert_allclose(mean, means(smoothed), atol=1e-6)
        errors.append(np.mean((cov - np.array([p for _, p in smoothed])) ** 2))
    small, large = np.sqrt(np.mean(errors[:5])), np.sqrt(np.mean(errors[5:]))
    assert large / small == pytest.approx(0.25, abs=0.12)
    assert large < 0.05 * COV[0, 0]


def test_members_of_3dvar_differ_as_much_as_they_err():
    system = Lorenz96()
    truth = system.simulate(450, seed=0, every=4)
    obs = truth.sda.observe(truth, sigma=1.0, seed=1)
    method = ThreeDVar(climatology=system.simulate(2000, seed=9, every=4), scale=0.2)
    out = filter(truth, obs, system, method=method, members=20, keep="analysis", progress=False)
    out, truth = out.u[:, 50:], truth.u[50:]
    error = np.sqrt(((out.mean("member") - truth) ** 2).mean("x")).mean()
    spread = np.sqrt(out.var("member", ddof=1).mean("x")).mean()
    assert 0.7 < error < 0.82
    assert spread / error == pytest.approx(1, abs=0.08)


@pytest.fixture(scope="module")
def chaos():
    """Lorenz-63 with distances from the origin observed; one window."""
    system = Lorenz63(noise=0.0)
    truth = system.simulate(17, seed=1)
    derived = {"distance": lambda s: (s["x"] ** 2 + s["y"] ** 2 + s["z"] ** 2).sqrt()}
    sigma = {"distance": 0.5, "z": 2.0}
    obs = truth.assign(distance=np.sqrt(truth.x**2 + truth.y**2 + truth.z**2))[["distance", "z"]]
    obs = obs.isel(time=slice(4, None, 4)) + 0.3
    climatology = system.simulate(500, seed=2)
    first = state(system, truth.isel(time=0).to_array().values + np.array([1.0, -2.0, 1.5]))
    return system, truth, obs, {"derived": derived, "sigma": sigma}, climatology, first


def cost(chaos, x, scale):
    system, _, obs, options, climatology, first = chaos
    cov = scale * np.cov(climatology.to_array().values)
    off = x - first.to_array().values[:, 0]
    value, now = off @ np.linalg.solve(cov, off), torch.as_tensor(x)
    for k in range(1, 17):
        now = system.step(now)
        if k % 4 == 0:
            seen = obs.isel(time=k // 4 - 1)
            value += ((float(now.norm()) - float(seen.distance)) / options["sigma"]["distance"]) ** 2
            value += ((float(now[2]) - float(seen.z)) / options["sigma"]["z"]) ** 2
    return value


@pytest.mark.parametrize("dense", [2**16, 0])
def test_4dvar_finds_the_minimum(chaos, dense, monkeypatch):
    monkeypatch.setattr(minimise, "DENSE", dense)
    system, truth, obs, options, climatology, first = chaos
    method = FourDVar(climatology=climatology, scale=0.1, lag=4, iterations=50, tolerance=1e-7)
    out = filter(truth, obs, system, method=method, initial=first, progress=False, **options)
    x = one(out)[0]
    found = scipy.optimize.minimize(
        lambda v: cost(chaos, v, 0.1), x, method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-12}
    )
    np.testing.assert_allclose(found.x, x, atol=1e-4)
    assert cost(chaos, x, 0.1) < 0.2 * cost(chaos, first.to_array().values[:, 0], 0.1)
    assert out.iterations.max() < 50


def test_steps_that_would_raise_the_cost_are_halved():
    """Of |w|^2 + |5 - 20 arctan(5 w)|^2 from where Gauss-Newton alone runs away; members do not feel each other."""

    def predicted(w):
        return 20 * torch.arctan(5 * w)

    w = torch.tensor([[0.9], [0.0], [-3.0]], dtype=torch.float64)
    target = torch.full((3, 1), 5.0, dtype=torch.float64)
    found, _ = minimise.minimise(predicted, w, target, 50, 1e-9, 1)
    best = scipy.optimize.minimize_scalar(lambda v: v**2 + (5 - 20 * np.arctan(5 * v)) ** 2, bracket=(0, 0.2)).x
    np.testing.assert_allclose(found[:, 0], best, atol=1e-6)
    assert abs(minimise.dense_step(predicted, w[2:], target[2:] - predicted(w[2:]))) > 3


def test_products_are_those_of_the_tangent_linear_and_its_adjoint(monkeypatch):
    monkeypatch.setattr(minimise, "INNER", 1e-9)
    system, generator = Lorenz96(n=10), torch.Generator().manual_seed(0)

    def predicted(w):
        x = 8 + w
        for _ in range(5):
            x = system.step(x)
        return (x[:, ::2] ** 2).sqrt()

    w, v = (torch.randn(3, 10, dtype=torch.float64, generator=generator) for _ in range(2))
    u = torch.randn(3, 5, dtype=torch.float64, generator=generator)
    adjoint, tangent = minimise.products(predicted, w)
    torch.testing.assert_close((tangent(v) * u).sum(1), (v * adjoint(u)).sum(1))
    torch.testing.assert_close(
        tangent(v), (predicted(w + 1e-5 * v) - predicted(w - 1e-5 * v)) / 2e-5, rtol=1e-6, atol=1e-7
    )
    misfit = 3 * u
    steps = [f(predicted, w, misfit) for f in (minimise.dense_step, minimise.gradient_step)]
    torch.testing.assert_close(*steps, rtol=1e-7, atol=1e-8)


def test_correlated_errors_and_a_model_in_torch():
    """One step of a linear model: the Kalman update with R."""
    ring = Ring(noise=0.0)
    truth = ring.simulate(2, seed=1)
    obs = truth.sda.observe(truth.isel(time=[1]), sigma=0.4, seed=2)
    climatology = ring.label(np.random.default_rng(0).standard_normal((30, 1, 1, 6)))
    method = FourDVar(climatology=climatology, scale=0.5, tolerance=1e-6)
    out = filter(
        truth, obs, Forecast(lambda x, start, stop: ring.step(x), tensors=True), method=method, sigma=0.4,
        correlation={"u": {"x": 2.0}}, initial=truth.isel(time=[0]).expand_dims("member") * 0, progress=False,
    )  # fmt: skip
    b, f = 0.5 * np.cov(climatology.u.values.reshape(30, 6).T), ring.matrix
    x = np.arange(6.0)
    r = 0.16 * np.exp(-abs(x[:, None] - x) / 2)
    gain = b @ f.T @ np.linalg.inv(f @ b @ f.T + r)
    start = gain @ (obs.u.values[0] - 0.05)
    np.testing.assert_allclose(out.u[0], [start, f @ start + 0.05], atol=1e-8)


def test_what_cannot_be_done_is_said(spring):
    system, truth, obs, _ = spring
    climatology = climate(system)
    run = {"initial": state(system), "progress": False}
    with pytest.raises(TypeError, match=r"differentiates.*Forecast\(step, tensors=True\)"):
        filter(truth, obs, Forecast(labelled_step), method=FourDVar(climatology=climatology), **run)
    with pytest.raises(KeyError, match="model_error lacks the variable 'velocity'"):
        filter(truth, obs, system, method=FourDVar(climatology=climatology, model_error={"position": 1.0}), **run)
    wrong = {"position": 1.0, "velocity": 1.0, "speed": 1.0}
    with pytest.raises(KeyError, match="model_error names 'speed'"):
        filter(truth, obs, system, method=FourDVar(climatology=climatology, model_error=wrong), **run)
    with pytest.raises(ValueError, match=r"model_error=-1\.0"):
        filter(truth, obs, system, method=FourDVar(climatology=climatology, model_error=-1.0), **run)
    with pytest.raises(ValueError, match="lag=0"):
        FourDVar(climatology=climatology, model_error=1.0, lag=0)
    for kind in (ThreeDVar, FourDVar):
        for name, value in (("scale", 0.0), ("iterations", 0), ("tolerance", -1.0)):
            with pytest.raises(ValueError, match=f"{name}={value}"):
                kind(climatology=climatology, **{name: value})
        with pytest.raises(KeyError, match="lacks the variable 'velocity'"):
            filter(truth, obs, system, method=kind(climatology=climatology[["position"]]), **run)
        with pytest.raises(ValueError, match="one state"):
            filter(truth, obs, system, method=kind(climatology=climatology.isel(member=[0])), **run)
        with pytest.raises(TypeError, match="climatology must be a Dataset"):
            filter(truth, obs, system, method=kind(climatology=0.1), **run)
        assert "Dataset" not in str(kind(climatology=climatology))
