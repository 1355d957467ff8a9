"""Likelihoods of several variables: each with its law, what H makes of an error, and when a member does not fit."""

import numpy as np
import pytest
import torch
from scipy import stats

from xsda.likelihood import Censored, Group, Huber, Likelihood, Normal, StudentT

Y = torch.tensor([0.4, -2.0, 0.0, 3.0, 0.5])
STD = torch.tensor([0.1, 1.0, 0.3, 0.3, 2.0])
GROUPS = (
    Group(2, "a", StudentT(df=3)),
    Group(2, "b", Censored(lower=0.0).bind(np.array([0.0, 3.0]))),
    Group(1, "c", Normal()),
)


def flat(x):
    return x.flatten(1)


def likelihoods():
    """All groups together, and each alone with its columns."""
    together, parts, start = Likelihood(flat, Y, STD, groups=GROUPS), [], 0
    for g in GROUPS:
        own = slice(start, start + g.count)
        parts.append((own, Likelihood(lambda x, s=own: flat(x)[:, s], Y[own], STD[own], groups=(g,))))
        start += g.count
    return together, parts


def test_groups_are_the_sum_of_each_alone():
    together, parts = likelihoods()
    generator = torch.Generator().manual_seed(0)
    predicted, variance = torch.randn(4, 5, generator=generator), torch.rand(4, 5, generator=generator)
    total = sum(p.log_evidence(predicted[:, s], variance[:, s]) for s, p in parts)
    torch.testing.assert_close(together.log_evidence(predicted, variance), total)
    x = predicted[:, :, None]
    torch.testing.assert_close(together.log_prob(x), sum(p.log_prob(x) for _, p in parts))
    score, sites = together.score(predicted, variance), together.sites(predicted, variance)
    for s, p in parts:
        torch.testing.assert_close(score[:, s], p.score(predicted[:, s], variance[:, s]))
        for a, b in zip(sites, p.sites(predicted[:, s], variance[:, s]), strict=True):
            torch.testing.assert_close(a[:, s], b)


def test_the_score_is_the_gradient_of_the_evidence():
    together, _ = likelihoods()
    predicted = torch.randn(3, 5, generator=torch.Generator().manual_seed(1)).requires_grad_()
    variance = torch.full((3, 5), 0.2)
    slope = torch.autograd.grad(together.log_evidence(predicted, variance).sum(), predicted)[0]
    torch.testing.assert_close(together.score(predicted.detach(), variance), slope, rtol=1e-4, atol=1e-5)


def test_limit_clips_innovations_at_so_many_standard_deviations():
    likelihood = Likelihood(flat, torch.zeros(3), torch.tensor([3.0, 3.0, 3.0]))
    predicted, variance = torch.tensor([[-1e6, -4.0, 30.0]]), torch.full((1, 3), 16.0)  # standard deviation 5
    innovation, own = likelihood.sites(predicted, variance, limit=2.0)
    torch.testing.assert_close(innovation, torch.tensor([[10.0, 4.0, -10.0]]))
    torch.testing.assert_close(own, torch.full((1, 3), 9.0))


@pytest.mark.parametrize("limit", [0.3, 1.0, 4.0])
def test_limit_bounds_the_score_of_any_law_and_of_its_site(limit):
    likelihood, _ = likelihoods()
    predicted = 5 * torch.randn(50, 5, generator=torch.Generator().manual_seed(6))
    variance = torch.full_like(predicted, 0.5)
    free, reach = likelihood.score(predicted, variance), limit / torch.sqrt(STD**2 + 0.5)
    bounded = torch.minimum(torch.maximum(free, -reach), reach)
    innovation, own = likelihood.sites(predicted, variance, limit=limit)
    torch.testing.assert_close(innovation / (own + variance), bounded, rtol=1e-4, atol=1e-6)


def test_spread_adds_the_channels_and_keeps_averages():
    """An error of (0.3, 0.4): shared over an average, independent from channel to channel."""
    rows = [
        lambda x: x[:, 0, 0],
        lambda x: x[:, :, 1].mean(1),
        lambda x: 3 * x[:, 0, 0] + 2 * x[:, 4, 1],
    ]
    likelihood = Likelihood(lambda x: torch.stack([r(x) for r in rows], 1), torch.zeros(3), torch.ones(3))
    spread = likelihood.spread(torch.zeros(2, 10, 2), torch.tensor([0.3, 0.4]))
    torch.testing.assert_close(spread, torch.tensor([[0.3, 0.4, (0.9**2 + 0.8**2) ** 0.5]]).expand(2, 3))


def test_spread_of_differences_is_that_of_independent_errors():
    """Differences and second differences cancel what is shared; whitening takes such differences."""
    kernel = torch.tensor([[1.0, -1, 0, 0], [1.0, -2, 1, 0], [3.0, 0, 0, 4]])
    rows = kernel.repeat(1, 8)  # of 32 numbers

    class Differences:
        def whiten(self, values):
            return values @ rows.T

    likelihood = Likelihood(flat, torch.zeros(3), torch.ones(3), whitening=Differences())
    spread = likelihood.spread(torch.zeros(1, 32, 1), torch.tensor([0.5]))[0]
    independent = 0.5 * rows.norm(dim=1)
    torch.testing.assert_close(spread[:2], independent[:2], rtol=0.4, atol=0)  # estimated with 8 patterns of signs
    assert float(spread[2]) == pytest.approx(0.5 * 7 * 8)  # where nothing cancels, the shared error is the larger one
    without = Likelihood(lambda x: flat(x) @ rows.T, likelihood.y, likelihood.std)
    torch.testing.assert_close(without.spread(torch.zeros(1, 32, 1), torch.tensor([0.5]))[0, :2], torch.zeros(2))


def test_spread_of_a_nonlinear_operator_follows_its_slope():
    likelihood = Likelihood(lambda x: flat(x) ** 2, torch.zeros(3), torch.ones(3), linear=False)
    x = torch.tensor([[1.0, -2.0, 0.5]])[..., None]
    torch.testing.assert_close(likelihood.spread(x, torch.tensor([0.1])), torch.tensor([[0.2, 0.4, 0.1]]))


def test_tangent_and_adjoint_are_transposed():
    likelihood = Likelihood(
        lambda x: flat(x).sin()[:, :2] * flat(x)[:, 1:], torch.zeros(2), torch.ones(2), linear=False
    )
    x, direction = torch.tensor([[[0.3], [1.0], [-2.0]]]), torch.tensor([[[1.0], [0.2], [-0.4]]])
    u = torch.tensor([[0.7, -1.3]])
    h = 1e-3
    difference = (likelihood.operator(x + h * direction) - likelihood.operator(x - h * direction)) / (2 * h)
    torch.testing.assert_close(likelihood.tangent(x, direction), difference, rtol=1e-3, atol=1e-3)
    left = (likelihood.tangent(x, direction) * u).sum()
    torch.testing.assert_close(left, (direction * likelihood.adjoint(x, u)).sum())


@pytest.mark.parametrize("n", [1, 5, 50, 1000, 100_000])
def test_misfit_is_chi_square_and_its_tail(n):
    z = torch.tensor([1.0, 0.5]) * float(np.sqrt(stats.chi2.isf(1e-6, n) / n))
    likelihood = Likelihood(flat, torch.full((n,), 4.0), torch.full((n,), 0.5))
    chi_square, probability, count = likelihood.misfit(4.0 - 0.5 * z[:, None, None].expand(2, n, 1))
    assert count == n
    np.testing.assert_allclose(chi_square, n * z**2, rtol=1e-5)
    np.testing.assert_allclose(probability, stats.chi2.sf(n * z**2, n), rtol=2e-2)


def test_right_members_fit():
    """With standard normal errors the probability has a uniform law."""
    n, count = 5, 200_000
    z = torch.randn(count, n, 1, generator=torch.Generator().manual_seed(3))
    probability = Likelihood(flat, torch.zeros(n), torch.ones(n)).misfit(z)[1]
    assert stats.kstest(probability.numpy(), "uniform").pvalue > 0.01
    assert float((probability < 1e-3).double().mean()) == pytest.approx(1e-3, rel=0.25)  # 200 of them


def test_misfit_counts_gaussian_errors_only():
    groups = (Group(2, "a", StudentT()), Group(1, "b", Normal()), Group(2, "c", Huber()))
    mixed = Likelihood(flat, torch.zeros(5), torch.ones(5), groups=groups)
    alone = Likelihood(lambda x: flat(x)[:, 2:3], torch.zeros(1), torch.ones(1))
    x = torch.tensor([[100.0, 100, 3, 100, 100], [0, 0, 6, 0, 0]])[..., None]
    torch.testing.assert_close(mixed.misfit(x), alone.misfit(x))
    none = Likelihood(flat, torch.zeros(5), torch.ones(5), groups=(Group(5, "a", StudentT()),))
    torch.testing.assert_close(none.misfit(x)[1], torch.ones(2).double())  # nothing to say against any
