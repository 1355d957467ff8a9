"""The ensemble smoother with multiple data assimilation."""

import numpy as np
import pytest
import torch
from helpers import ensemble, kalman, moments, rts

from xsda.baselines import ESMDA, Forecast, FreeRun, filter
from xsda.systems import DampedSpring, Lorenz63

SIGMA = 0.3
START = (np.array([0.5, -0.2]), np.array([[0.5, 0.1], [0.1, 0.3]]))


@pytest.fixture(scope="module")
def spring():
    system = DampedSpring(noise=0.0)
    truth = system.simulate(16, members=1, seed=3, burn_in=0).isel(member=0, drop=True)
    obs = truth.sda.observe(truth.isel(time=slice(1, None, 3))[["position"]], sigma=SIGMA, seed=4)
    f, y = system.matrix.numpy(), obs.position.reindex(time=truth.time).values[:, None]
    parts = kalman(f, np.zeros(2), 0, np.eye(2)[:1], np.array([[SIGMA**2]]), START, y)
    return system, truth, obs, rts(f, *parts)


@pytest.mark.parametrize("iterations", [1, 4])
def test_linear_runs_have_the_moments_of_the_exact_smoother(spring, iterations):
    """Whatever the number of iterations, as members grow: a quarter of the error with 16 times the members."""
    system, truth, obs, exact = spring
    errors = []
    for members in (200, 3200):
        runs = [
            filter(
                truth, obs, system, method=ESMDA(iterations=iterations), seed=seed, progress=False,
                initial=ensemble(system, *START, members, seed=seed),
            )
            for seed in range(6)
        ]  # fmt: skip
        means, covs = zip(*map(moments, runs), strict=True)
        parts = [[m - np.array([e[i] for e in exact]) for m in values] for i, values in enumerate((means, covs))]
        errors.append([np.sqrt(np.mean(np.square(p))) for p in parts])
    assert errors[1][1] / errors[0][1] == pytest.approx(0.25, abs=0.1)
    assert errors[1][1] < 0.02 * START[1][0, 0]
    if iterations == 1:  # perturbations add up to zero
        assert errors[0][0] < 1e-10
    else:
        assert errors[1][0] / errors[0][0] == pytest.approx(0.25, abs=0.1)


def test_the_last_iteration_is_a_run_of_the_model_and_the_first_knows_nothing(spring):
    system, truth, obs, _ = spring
    first = ensemble(system, *START, 6)
    out = filter(truth, obs, system, method=ESMDA(), initial=first, keep=["forecast", "smoothed"], progress=False)
    free = filter(truth, obs, system, method=FreeRun(), initial=first, progress=False)
    np.testing.assert_array_equal(out.sel(stage="forecast").velocity, free.velocity)
    x = np.stack([out.position, out.velocity], -1)
    np.testing.assert_allclose(x[..., 1:, :], x[..., :-1, :] @ system.matrix.numpy().T, atol=1e-10)


def test_published_code_does_the_same_with_the_same_perturbations(monkeypatch):
    oracle = pytest.importorskip("iterative_ensemble_smoother")
    system, members, iterations = Lorenz63(noise=0.0), 12, 3
    truth = system.simulate(9, seed=1)
    sigma = {"x": 0.5, "z": 2.0}
    obs = truth.sda.observe(truth.isel(time=slice(2, None, 2))[["x", "z"]], sigma=sigma, seed=2)
    x = truth.isel(time=0, drop=True).to_array().values + np.random.default_rng(0).standard_normal((members, 3))
    noise = np.random.default_rng(1).standard_normal((iterations, members, 4, 2))  # (.., time, variable)
    monkeypatch.setattr(
        ESMDA, "_perturbations", lambda self, cycle, number, k, like: torch.as_tensor(noise[number, :, k // 2 - 1])
    )
    first = system.label(x[:, None]).isel(time=0, drop=True)
    out = filter(truth, obs, system, method=ESMDA(iterations=iterations), sigma=sigma, initial=first, progress=False)

    std = np.tile([0.5, 2.0], 4)
    y = obs.to_array().transpose("time", "variable").values.ravel()
    smoother = oracle.ESMDA(std**2, y, alpha=iterations)
    for number in range(iterations):
        states, seen = torch.as_tensor(x), []
        for k in range(9):
            states = system.step(states) if k else states
            if k in (2, 4, 6, 8):
                seen.append(states[:, [0, 2]].numpy())
        perturbations = noise[number].reshape(members, 8).T * std[:, None]
        smoother.prepare_assimilation(
            Y=np.concatenate(seen, 1).T.copy(), truncation=1.0, observation_perturbations=perturbations
        )
        x = smoother.assimilate_batch(X=x.T.copy()).T
    np.testing.assert_allclose(out.isel(time=0).to_array().values, x.T, atol=1e-8)


def test_several_steps_fit_nonlinear_runs_better_than_one():
    system = Lorenz63(noise=0.0)
    scores = {}
    for iterations in (1, 6):
        found = []
        for seed in range(6):
            truth = system.simulate(41, seed=seed)
            obs = truth.sda.observe(truth.isel(time=slice(8, None, 8)), sigma=1.0, seed=seed)
            first = system.label(
                truth.isel(time=0).to_array().values + 3 * np.random.default_rng(seed).standard_normal((100, 1, 3))
            ).isel(time=0, drop=True)
            out = filter(truth, obs, system, method=ESMDA(iterations=iterations), initial=first, progress=False)
            seen = (out.mean("member") - obs).to_array().values
            found.append(np.mean(seen**2))
        scores[iterations] = np.mean(found)
    assert scores[6] < 0.5 * scores[1]
    assert scores[6] < 1.5  # the errors of the observations are 1


def test_what_cannot_be_done_is_said(spring):
    _, truth, obs, _ = spring
    with pytest.raises(ValueError, match=r"transition noise.*ESMDA needs forecasts"):
        filter(truth, obs, DampedSpring(), method=ESMDA(), progress=False)
    for value in (0, 2.5, True):
        with pytest.raises(ValueError, match=f"iterations={value}"):
            ESMDA(iterations=value)
    with pytest.raises(ValueError, match=r"keep='analysis'.*forecast, smoothed"):
        filter(truth, obs, Forecast(DampedSpring(noise=0)), method=ESMDA(), keep="analysis", progress=False)
