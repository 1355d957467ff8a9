import re
import warnings

import numpy as np
import pytest
import torch
from helpers import Ring, ensemble, kalman, moments, rts
from scipy.stats import multivariate_normal

from xsda.baselines import filter
from xsda.baselines.particle import ParticleFilter, ParticleSmoother, effective_sample_size, kernel_root, systematic
from xsda.systems import DampedSpring

START = (np.zeros(2), np.array([[0.5, 0.1], [0.1, 0.3]]))
SIGMA = 0.5


def spring_series(length=12, noise=0.3):
    """The position observed at every second time from the first on, and the exact answers."""
    system = DampedSpring(noise=noise)
    truth = system.simulate(length, seed=3)
    obs = truth.sda.observe(truth.isel(time=slice(None, None, 2))[["position"]], sigma=SIGMA, seed=4)
    y = obs.position.reindex(time=truth.time).values[:, None]
    f, q = system.matrix.numpy(), noise**2 * np.eye(2)
    forecasts, analyses = kalman(f, np.zeros(2), q, np.eye(2)[:1], np.array([[SIGMA**2]]), START, y)
    return system, truth, obs, analyses, rts(f, forecasts, analyses) if noise else None


def drawn(system, members, seed):
    """An initial ensemble of random draws."""
    values = np.random.default_rng(seed).multivariate_normal(*START, members).reshape(members, 1, 2)
    return system.label(values).isel(time=0, drop=True)


def test_systematic_resampling_is_unbiased():
    weight = torch.tensor([0.0, 0.31, 0.02, 0.17, 0.0, 0.4, 0.1, 0.0], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    counts = torch.stack([torch.bincount(systematic(weight, generator), minlength=8) for _ in range(4000)]).double()
    expected = 8 * weight
    assert (counts >= expected.floor()).all()
    assert (counts <= expected.ceil()).all()
    share = expected - expected.floor()
    error = (share * (1 - share) / 4000).sqrt()
    assert ((counts.mean(0) - expected).abs() <= 4 * error).all()


def test_even_weights_leave_members_as_they_are():
    for n in (7, 100, 1001):
        index = systematic(torch.full((n,), 1 / n, dtype=torch.float64), torch.Generator().manual_seed(n))
        torch.testing.assert_close(index, torch.arange(n))


@pytest.mark.parametrize("method", [ParticleFilter(), ParticleSmoother()], ids=["filter", "smoother"])
def test_converges_to_the_kalman_filter(method):
    """Like 1 / sqrt(members)."""
    system, truth, obs, analyses, _ = spring_series()
    mean, cov = np.array([m for m, _ in analyses]), np.array([p for _, p in analyses])
    sizes, errors = (100, 1600, 25600), []
    for n in sizes:
        found = [
            moments(
                filter(
                    truth,
                    obs,
                    system,
                    method=method,
                    initial=drawn(system, n, s),
                    seed=s,
                    keep="analysis",
                    progress=False,
                )
            )
            for s in range(4)
        ]
        errors.append([np.sqrt(np.mean([(f[i] - e) ** 2 for f in found])) for i, e in enumerate((mean, cov))])
    slope = np.diff(np.log(errors), axis=0) / np.log(16)
    assert (np.abs(slope.mean(0) + 0.5) < 0.08).all()


def test_smoothed_trajectories_have_the_exact_distribution():
    system, truth, obs, _, smoothed = spring_series(10)
    out = filter(
        truth, obs, system, method=ParticleSmoother(), initial=drawn(system, 40_000, 1), seed=1, progress=False
    )
    mean, cov = moments(out)
    np.testing.assert_allclose(mean, [m for m, _ in smoothed], atol=0.03)
    np.testing.assert_allclose(cov, [p for _, p in smoothed], atol=0.03)
    x = np.stack([out.position.values, out.velocity.values], -1)
    step = x[:, 1:] - system.step(torch.as_tensor(x[:, :-1])).numpy()
    # given all observations the noise that a trajectory took is not centred, but its size is that of the system
    assert abs(step.std() / system.noise - 1) < 0.1


def test_smoothed_trajectories_are_runs_of_the_system():
    system, truth, obs, *_ = spring_series(12, noise=0.0)
    initial = drawn(system, 500, 2)
    out = filter(truth, obs, system, method=ParticleSmoother(resample_below=0.7), initial=initial, progress=False)
    x = torch.as_tensor(np.stack([out.position.values, out.velocity.values], -1))
    torch.testing.assert_close(x[:, 1:], system.step(x[:, :-1]), atol=1e-12, rtol=0)


def test_without_resampling_it_is_importance_sampling():
    system, truth, obs, *_ = spring_series(12, noise=0.0)
    initial = drawn(system, 500, 2)
    method = ParticleSmoother(resample_below=0.0)
    out = filter(truth, obs, system, method=method, initial=initial, progress=False)
    x, log = torch.as_tensor(np.stack([initial.position, initial.velocity], -1)), np.zeros(500)
    for k in range(12):
        if k % 2 == 0:
            log -= ((x[:, 0].numpy() - obs.position.values[k // 2]) / SIGMA) ** 2 / 2
        x = system.step(x)
    weight = np.exp(log - log.max())
    weight /= weight.sum()
    np.testing.assert_allclose(out.effective_sample_size[10], 1 / (weight**2).sum(), rtol=1e-10)
    start = out.position.isel(time=0).values
    counts = (initial.position.values[:, None] == start).sum(1)
    assert (np.abs(counts - 500 * weight) < 1).all()


def test_effective_sample_size_has_its_closed_forms():
    weight = torch.zeros(10, dtype=torch.float64)
    weight[3:7] = 0.25
    assert effective_sample_size(weight) == pytest.approx(4)
    # prior N(0, 1) and an observation of 0 with variance r: (E w)^2 / E w^2
    system, members, r = Ring(n=4), 200_000, 0.3
    initial = system.label(np.random.default_rng(0).standard_normal((members, 1, 1, 4))).isel(time=0, drop=True)
    grid = 0 * system.simulate(1)
    out = filter(grid, grid.isel(x=[1]), system, method=ParticleFilter(), initial=initial, sigma=r**0.5, progress=False)
    expected = np.sqrt(r * (2 + r)) / (1 + r)
    assert float(out.effective_sample_size[0]) / members == pytest.approx(expected, rel=0.01)


def test_weights_of_correlated_errors_and_derived_quantities():
    system = Ring(n=4)
    grid = system.simulate(1, seed=1)
    initial = ensemble(system, np.zeros(4), np.eye(4), 6)
    correlation = 0.7 ** np.abs(np.subtract.outer(np.arange(4), np.arange(4)))
    out = filter(
        grid, grid.rename(u="square"), system, method=ParticleFilter(), initial=initial, sigma=2.0,
        correlation={"square": correlation}, derived={"square": lambda s: s["u"] ** 2}, progress=False,
    )  # fmt: skip
    weight = multivariate_normal(grid.u.values[0], 4 * correlation).pdf(initial.u.values**2)
    expected = weight.sum() ** 2 / (weight**2).sum()
    assert float(out.effective_sample_size[0]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("shape", [(50, 3), (5, 40)], ids=["tall", "wide"])
def test_the_kernel_has_the_weighted_covariance(shape):
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal(shape) @ rng.standard_normal((shape[1], shape[1])), rng.random(shape[0])
    weight /= weight.sum()
    root = kernel_root(torch.as_tensor(x), torch.as_tensor(weight)).numpy()
    assert root.shape == (min(shape), shape[1])
    np.testing.assert_allclose(root.T @ root, np.cov(x.T, aweights=weight), atol=1e-10)
    lost = np.zeros(shape[0])
    lost[1] = 1.0
    root = kernel_root(torch.as_tensor(x), torch.as_tensor(lost)).numpy()
    np.testing.assert_allclose(root.T @ root, np.cov(x.T), atol=1e-10)


def test_jitter_moves_copies_but_the_first():
    system = Ring(n=4)
    grid = system.simulate(1, seed=1)
    initial = ensemble(system, np.zeros(4), np.eye(4), 5000)
    options = {"initial": initial, "sigma": 1.0, "progress": False}
    plain, noisy = (filter(grid, grid, system, method=ParticleFilter(jitter=j), **options).u[:, 0] for j in (0.0, 0.5))
    moved = (plain != noisy).any("x").values
    copies = np.concatenate([[False], (plain.values[1:] == plain.values[:-1]).all(1)])
    np.testing.assert_array_equal(moved, copies)
    weight = np.exp(-((initial.u.values - grid.u.values[0]) ** 2).sum(1) / 2)
    kernel = 0.25 * 5000 ** (-2 / 8) * np.cov(initial.u.values.T, aweights=weight)
    noise = (noisy - plain).values[moved]
    np.testing.assert_allclose(np.cov(noise.T), kernel, atol=5 * kernel.max() / np.sqrt(len(noise)))


def test_a_filter_goes_on_where_it_ended():
    system, truth, obs, *_ = spring_series()
    method = ParticleFilter(jitter=0.5)
    whole = filter(truth, obs, system, method=method, members=30, seed=5, progress=False)
    half = filter(
        truth.isel(time=slice(5)), obs.sel(time=slice(None, 1.0)), system, method=method, members=30, seed=5, progress=False
    )  # fmt: skip
    rest = filter(
        truth.isel(time=slice(5, None)), obs.sel(time=slice(1.2, None)), system, method=method, initial=half.isel(time=-1),
        seed=5, progress=False,
    )  # fmt: skip
    np.testing.assert_array_equal(rest.position, whole.position[:, 5:])


def test_warns_of_few_ancestors():
    system, truth, obs, *_ = spring_series(12, noise=0.0)
    with pytest.warns(RuntimeWarning, match="initial members") as caught:
        out = filter(
            truth, obs, system, method=ParticleSmoother(), initial=drawn(system, 20, 2), sigma=0.1, progress=False
        )
    (number,) = re.findall(r"descend from (\d+) of the 20", str(caught[0].message))
    assert len(np.unique(out.position.isel(time=0))) == int(number) < 10
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        filter(truth, obs, system, method=ParticleSmoother(), initial=drawn(system, 2000, 2), progress=False)


def test_options_that_cannot_be():
    for kind in (ParticleFilter, ParticleSmoother):
        with pytest.raises(ValueError, match=r"jitter=-1\.0 must not be negative"):
            kind(jitter=-1.0)
    with pytest.raises(ValueError, match="resample_below=2 must lie between 0"):
        ParticleSmoother(resample_below=2)
