"""Gaussians whose first states are known: the dense formula, the conditional distribution, and other scales."""

import numpy as np
import pytest
import torch
from torch import nn

from xsda.diffusion.anchored import Anchored
from xsda.diffusion.error import ErrorCurve
from xsda.likelihood import Group, Likelihood, StudentT
from xsda.priors.eof import EofDenoiser, time_factors
from xsda.priors.exact import GaussianDenoiser
from xsda.priors.held import Held
from xsda.priors.separable import SeparableDenoiser
from xsda.sampling.hold import HELD_ERROR, hold

TIME, SPACE, KNOWN = 6, (2, 3), 2
SHAPE, POINTS = (TIME, 1, *SPACE), 6
FIRST = KNOWN * POINTS


def correlation(n, rho):
    return rho ** np.abs(np.subtract.outer(np.arange(n), np.arange(n)))


def single(cov):
    mean = torch.zeros(1, len(cov), dtype=torch.float64)
    return GaussianDenoiser.of(mean, torch.as_tensor(cov)[None], torch.ones(1), SHAPE)


def gaussian():
    rng = np.random.default_rng(0)
    cov = np.cov(rng.standard_normal((TIME * POINTS, 3 * TIME * POINTS)))
    return single(cov), cov


def separable():
    parts = [correlation(TIME, 0.8), np.array([[2.0]]), correlation(2, 0.3), correlation(3, 0.6)]
    cov = np.kron(parts[0], np.kron(parts[1], np.kron(parts[2], parts[3])))
    return SeparableDenoiser.of(torch.full((1, 1, 1, 1), 0.7), [torch.as_tensor(c) for c in parts]), cov


def patterns(count, masked):
    """Patterns in two groups and a remainder; the masked points vary by nothing."""
    valid = np.arange(POINTS) >= masked
    e = np.linalg.qr(np.random.default_rng(1).standard_normal((valid.sum(), count)))[0].T
    variance, rest, rho = 4.0 / (1 + np.arange(count)), 0.3, (0.9, 0.6, 0.2)
    rows = [torch.as_tensor(correlation(TIME, r)[0]) for r in rho]
    values, vectors = time_factors(rows)
    groups = [(slice(0, 1), rho[0]), (slice(1, count), rho[1])]
    cov = rest * np.kron(correlation(TIME, rho[2]), np.eye(valid.sum()) - e.T @ e)
    cov += sum(np.kron(correlation(TIME, r), (e[s].T * variance[s]) @ e[s]) for s, r in groups)
    whole, where = np.zeros((TIME * POINTS,) * 2), np.flatnonzero(np.tile(valid, TIME))
    whole[np.ix_(where, where)] = cov
    tensors = (torch.as_tensor(e), torch.as_tensor(variance), torch.tensor([1, count]), values, vectors)
    return EofDenoiser(*tensors, torch.tensor(rest), torch.as_tensor(valid), torch.tensor(SHAPE)), whole


@pytest.mark.parametrize("level", [0.02, 1.0, 30.0])
@pytest.mark.parametrize(
    "made",
    [gaussian(), separable(), patterns(3, 0), patterns(3, 2), patterns(POINTS, 0)],
    ids=["gaussian", "separable", "patterns", "masked", "all patterns"],
)
def test_known_states_change_the_others_as_in_the_dense_formula(made, level):
    denoiser, cov = made
    left = cov - cov @ np.linalg.solve(cov + level**2 * np.eye(len(cov)), cov)
    varies = np.diag(cov)[:FIRST] > 0
    first = torch.randn(4, KNOWN, 1, *SPACE, generator=torch.Generator().manual_seed(0))
    given = first.flatten(1).double().numpy() * varies
    weight = np.linalg.pinv(left[:FIRST, :FIRST], rcond=1e-10, hermitian=True) @ given.T
    found = denoiser.extended(first, torch.tensor(level)).flatten(1).double().numpy()
    np.testing.assert_allclose(found, (left[:, :FIRST] @ weight).T, atol=2e-4)
    np.testing.assert_allclose(found[:, :FIRST], given, atol=2e-5)


def test_a_gaussian_with_known_states_is_the_conditional_gaussian():
    """Its estimate is that of the conditional distribution; its Jacobian is the covariance over the noise variance."""
    denoiser, cov = gaussian()
    level = 0.8
    past = torch.randn(1, KNOWN, 1, *SPACE, generator=torch.Generator().manual_seed(1))
    x_t = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(2))
    t = denoiser.schedule.time(torch.tensor(level, dtype=torch.float64))
    onward = cov[FIRST:, :FIRST] @ np.linalg.inv(cov[:FIRST, :FIRST])
    mean, own = onward @ past.flatten().double().numpy(), cov[FIRST:, FIRST:] - onward @ cov[:FIRST, FIRST:]
    gain = own @ np.linalg.inv(own + level**2 * np.eye(len(own)))
    held = Held(denoiser, past)
    found = held(x_t, t).flatten().numpy()
    np.testing.assert_allclose(found[:FIRST], past.flatten().numpy(), atol=1e-5)
    np.testing.assert_allclose(found[FIRST:], mean + gain @ (x_t.flatten().numpy()[FIRST:] - mean), atol=1e-4)
    jacobian = torch.autograd.functional.jacobian(lambda x: held(x, t).flatten(), x_t).flatten(1).numpy()
    np.testing.assert_allclose(jacobian[FIRST:, FIRST:], gain, atol=1e-4)  # its covariance is level^2 gain
    assert np.abs(jacobian[:, :FIRST]).max() < 1e-4
    assert np.abs(jacobian[:FIRST]).max() < 1e-4


def test_a_network_that_adds_nothing_is_the_wider_gaussian():
    base, cov = gaussian()
    error = ErrorCurve(torch.tensor([0.01, 100.0]), torch.ones(2, 1))
    anchored = Anchored(nn.Identity(), base, error, gate=torch.zeros(2), root=torch.tensor(1.2))
    wide = single(1.44 * cov)
    past = torch.randn(3, KNOWN, 1, *SPACE, generator=torch.Generator().manual_seed(1))
    x_t = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(2))
    for level in (0.05, 1.0, 10.0):
        t = base.schedule.time(torch.tensor(level, dtype=torch.float64))
        expected = Held(wide, past)(x_t, t)
        torch.testing.assert_close(Held(anchored, past)(x_t, t), expected, rtol=1e-3, atol=3e-4)
        torch.testing.assert_close(Held(anchored, past).linearised(x_t, t), expected, rtol=1e-3, atol=3e-4)


def test_a_network_observes_the_last_known_state_beside_the_observations():
    """The log-likelihoods add up, each member with its own past and with the law of each observation."""
    g = torch.Generator().manual_seed(0)
    x, past = torch.randn(3, *SHAPE, generator=g), torch.randn(3, KNOWN, 1, *SPACE, generator=g)
    near = past + 2 * HELD_ERROR * torch.randn(past.shape, generator=g)
    x = torch.cat([near, x[:, KNOWN:]], 1)
    groups = (Group(1), Group(1, "t", StudentT(df=4)))
    obs = Likelihood(lambda x: x[:, 4, 0, 0, :2], torch.tensor([0.3, 2.0]), torch.tensor([0.5, 0.1]), groups=groups)
    last = torch.distributions.Normal(past[:, -1].flatten(1), HELD_ERROR).log_prob(near[:, -1].flatten(1)).sum(1)
    for own, expected, blocks in ((None, last, ()), (obs, last + obs.log_prob(x), (2, POINTS))):
        _, joined = hold(nn.Identity(), own, past)
        assert joined is not None
        torch.testing.assert_close(joined.log_prob(x), expected, rtol=1e-4, atol=1e-4)
        assert joined.blocks == blocks
