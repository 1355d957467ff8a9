"""The likelihood of states whose law is known in closed form."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal

from xsda.diffusion import elbo, log_prob, measure_error
from xsda.diffusion.schedules import VE, VP, LinearBeta, SubVP
from xsda.priors.exact import GaussianDenoiser, MixtureDenoiser

COV = torch.tensor([[1.2, 0.5, 0.0], [0.5, 0.6, 0.1], [0.0, 0.1, 0.3]], dtype=torch.float64)
EYE = torch.eye(3, dtype=torch.float64)
SCHEDULES = [VP(), SubVP("linear"), VE(), VE(1e-2, 10.0), LinearBeta()]
X = torch.tensor([[0.3, -1.0, 0.4], [2.0, 0.5, -0.6], [0.0, 0.0, 0.0]], dtype=torch.float64)


def exact(schedule, cov=COV):
    values, vectors = torch.linalg.eigh(cov)
    one, zeros = torch.ones(1, dtype=torch.float64), torch.zeros(1, len(cov), dtype=torch.float64)
    return GaussianDenoiser(zeros, values[None], vectors[None], one, torch.tensor((len(cov),)), schedule)


def smoothed(schedule, x=X, cov=COV):
    """log p of states blurred by the smallest noise, which is where the flow begins."""
    low = schedule.noise_level(torch.zeros((), dtype=torch.float64))
    return MultivariateNormal(torch.zeros(len(cov), dtype=torch.float64), cov + low**2 * torch.eye(len(cov))).log_prob(
        x
    )


def end_effect(schedule):
    """What is left of the data at t = 1, where the law is taken for that of standardised data."""
    return 5 / float(schedule.noise_level(torch.ones((), dtype=torch.float64))) ** 2


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_the_flow_gives_the_log_density_of_a_gaussian(schedule):
    atol = 1e-4 + end_effect(schedule)
    torch.testing.assert_close(log_prob(exact(schedule), X, steps=64), smoothed(schedule), rtol=0, atol=atol)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_the_flow_converges_with_fourth_order(schedule):
    denoiser = exact(schedule)
    fine = log_prob(denoiser, X, steps=256)
    errors = [float((log_prob(denoiser, X, steps=n) - fine).abs().max()) for n in (16, 32, 64)]
    for coarse, finer in pairwise(errors):
        assert 3.7 < math.log2(coarse / finer) < 5


def test_a_standard_normal_is_exact_in_one_step():
    """Nothing moves: all of it is in the two ends."""
    eye = torch.eye(3, dtype=torch.float64)
    for schedule in SCHEDULES:
        # the smoothing by the smallest noise remains
        exactly = smoothed(schedule, cov=eye)
        torch.testing.assert_close(log_prob(exact(schedule, eye), X, steps=1), exactly, rtol=0, atol=1e-9)


def test_the_random_probe_is_unbiased_and_exact_for_diagonal_flows():
    denoiser = exact(VP())
    truth = log_prob(denoiser, X[:1], steps=16)
    many = X[:1].expand(4000, 3).contiguous()
    estimates = log_prob(denoiser, many, steps=16, exact=False, generator=torch.Generator().manual_seed(0))
    error = estimates.std() / math.sqrt(len(many))
    assert error > 0
    assert abs(float(estimates.mean() - truth)) < 3.5 * float(error)
    diagonal = exact(VP(), COV.diagonal().diag())
    torch.testing.assert_close(log_prob(diagonal, X, steps=8, exact=False), log_prob(diagonal, X, steps=8))


def test_large_states_use_the_probe_and_small_ones_do_not():
    cov = torch.eye(1100, dtype=torch.float64)
    cov[0, 1] = cov[1, 0] = 0.5
    x, generator = torch.zeros(2, 1100, dtype=torch.float64), torch.Generator().manual_seed(0)
    by_default = log_prob(exact(VP(), cov), x, steps=2, generator=generator)
    forced = log_prob(exact(VP(), cov), x, steps=2, exact=False, generator=generator.manual_seed(0))
    assert torch.equal(by_default, forced)


MEANS = torch.tensor([[-1.2, 0.5], [0.8, -0.4]], dtype=torch.float64)
COVS = torch.tensor([[[0.2, 0.1], [0.1, 0.3]], [[0.4, -0.1], [-0.1, 0.1]]], dtype=torch.float64)
WEIGHTS = torch.tensor([0.3, 0.7], dtype=torch.float64)


def test_the_flow_gives_the_log_density_of_a_mixture():
    denoiser = MixtureDenoiser.of(MEANS, COVS, WEIGHTS, (2,), VP()).double()
    x = torch.tensor([[-1.0, 0.3], [0.9, -0.5], [0.0, 0.0], [-2.0, -1.5]], dtype=torch.float64)
    each = torch.stack([MultivariateNormal(m, c).log_prob(x) for m, c in zip(MEANS, COVS, strict=True)], 1)
    closed = torch.logsumexp(each + WEIGHTS.log(), 1)
    torch.testing.assert_close(denoiser.log_prob(x), closed, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(log_prob(denoiser, x, steps=128), closed, rtol=0, atol=2e-3)


def gap(schedule, x):
    """E[log p - bound] for the exact denoiser: the decoder at the smallest noise, and the two ends."""
    low, high = (float(schedule.noise_level(torch.tensor(e, dtype=torch.float64))) for e in (0.0, 1.0))
    values, vectors = torch.linalg.eigh(COV)
    z2 = (x @ vectors).square()
    level = np.geomspace(low, high, 4001)
    # E|x_0 - E[x_0 | x_t]|^2 given x_0: bias and variance
    shrink = values.numpy() / (values.numpy() + level[:, None] ** 2)
    errors = ((1 - shrink) ** 2)[:, None] * z2.numpy() + (shrink * level[:, None])[:, None] ** 2
    diffusion = np.trapezoid(errors.sum(-1) / level[:, None] ** 2, np.log(level), axis=0)
    final = 1 + high**2
    ends = (z2.sum(1).numpy() / final + 3 * (high**2 / final - 1 - math.log(high**2 / final))) / 2
    return -(1.5 * (1 + math.log(2 * math.pi * low**2)) + diffusion + ends)


@pytest.mark.parametrize("schedule", [VP(), VE(1e-2, 30.0)], ids=str)
def test_the_bound_has_its_closed_form_and_stays_below_the_log_density(schedule):
    expected = gap(schedule, X)
    assert (expected < smoothed(schedule).numpy() + 1e-3).all()
    np.testing.assert_allclose(expected, smoothed(schedule), atol=0.01)  # tight: the denoiser is exact
    repeats = 400
    many = X.repeat_interleave(repeats, 0)
    estimates = elbo(exact(schedule), many, samples=64, generator=torch.Generator().manual_seed(0)).reshape(3, repeats)
    error = estimates.std(1) / math.sqrt(repeats)
    assert ((estimates.mean(1) - torch.from_numpy(expected)).abs() < 4 * error).all()
    assert float(error.max()) < 0.05


def test_a_wrong_denoiser_loosens_the_bound():
    generator = torch.Generator().manual_seed(0)
    many = exact(VP()).draw(2000, generator)
    right = elbo(exact(VP()), many, generator=generator.manual_seed(1)).mean()
    wrong = elbo(exact(VP(), 2 * COV), many, generator=generator.manual_seed(1)).mean()
    # the bound of a wrong Gaussian is that Gaussian's own: the difference is their divergence
    divergence = (3 / 2 - 3 + 3 * math.log(2)) / 2
    assert float(right - wrong) == pytest.approx(divergence, rel=0.1)


def test_the_error_curve_lowers_the_variance_and_keeps_the_mean():
    class Series(GaussianDenoiser):
        """The same states as trajectories of one number, (batch, time, channel)."""

        def forward(self, x_t, t):
            return super().forward(x_t.flatten(1), t).reshape(x_t.shape)

    inner = exact(VP(), 0.1 * EYE)
    denoiser = Series(inner.means, inner.values, inner.vectors, inner.weights, inner.shape, VP())
    generator = torch.Generator().manual_seed(0)
    data = inner.draw(4000, generator)[..., None]
    curve = measure_error(denoiser, [(denoiser, data)], count=24)
    s = curve.levels.double()[:, None]
    values = inner.values[0]
    # the root mean square error of an exact denoiser is that of the posterior
    torch.testing.assert_close(
        curve.rms.double().squeeze(1), (values * s**2 / (values + s**2)).mean(1).sqrt(), rtol=0.05, atol=0
    )
    many, truth = data[:2000], inner.log_prob(data[:2000])
    plain = elbo(denoiser, many, samples=32, generator=generator.manual_seed(1)) - truth
    helped = elbo(denoiser, many, samples=32, generator=generator.manual_seed(2), curve=curve) - truth
    spread = math.hypot(float(plain.std()), float(helped.std())) / math.sqrt(2000)
    assert abs(float(plain.mean() - helped.mean())) < 4 * spread
    assert helped.std() < 0.75 * plain.std()
    # at the mean of the data all of the error is noise, and nothing of it is left
    at_mean = elbo(denoiser, 0 * many, samples=32, generator=generator, curve=curve)
    assert at_mean.std() < 0.15 * plain.std()
