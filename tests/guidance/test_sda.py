"""The Gaussian score and its calibrated form, on one number where everything is known."""

import pytest
import torch

from xsda.diffusion.error import ErrorCurve
from xsda.diffusion.noise import MemberNoise
from xsda.diffusion.samplers import DPMpp2M
from xsda.guidance import Calibrated, GaussianScore
from xsda.likelihood import Likelihood
from xsda.priors.exact import EXACT_SCHEDULE, GaussianDenoiser

UNIT = GaussianDenoiser.of(torch.zeros(1, 1), torch.ones(1, 1, 1), torch.ones(1), (1, 1))
LIKELIHOOD = Likelihood(lambda x: x.flatten(1), torch.tensor([2.0]), torch.tensor([0.5]))
LEVELS = torch.logspace(-3, 2, 100)
CURVE = ErrorCurve(LEVELS, (LEVELS / torch.sqrt(1 + LEVELS**2))[:, None])  # the exact error of UNIT


@pytest.mark.parametrize("gamma", [0.0, 1e-2, 1.0])
def test_score_is_the_gradient_of_its_own_log_likelihood(gamma):
    t = torch.tensor(0.6)
    s = EXACT_SCHEDULE.noise_level(t)
    guided = GaussianScore(gamma=gamma).guide(UNIT, LIKELIHOOD, None)
    x = torch.tensor([[[0.3]], [[4.0]]])
    x0 = x / (1 + s**2)
    expected = x0 + s**2 * (2 - x0) / (0.25 + gamma * s**2) / (1 + s**2)
    torch.testing.assert_close(guided(x, t), expected)


def test_detach_takes_the_jacobian_as_the_identity():
    t = torch.tensor(0.5)
    s = EXACT_SCHEDULE.noise_level(t)
    x = torch.tensor([[[0.3]]])
    x0 = x / (1 + s**2)
    guided = GaussianScore(gamma=0.1, detach=True).guide(UNIT, LIKELIHOOD, None)
    torch.testing.assert_close(guided(x, t), x0 + s**2 * (2 - x0) / (0.25 + 0.1 * s**2))


def test_calibrated_is_exact_where_the_error_is_the_same_everywhere():
    samples = DPMpp2M(steps=64).sample(
        Calibrated().guide(UNIT, LIKELIHOOD, CURVE), MemberNoise(0, range(20_000), (1, 1))
    )
    variance = 1 / (1 + 1 / 0.25)
    assert float(samples.mean()) == pytest.approx(2 * variance / 0.25, abs=0.015)
    assert float(samples.var()) == pytest.approx(variance, rel=0.04)


def test_a_gross_innovation_counts_as_limit_standard_deviations():
    t = torch.tensor(0.5)
    s = EXACT_SCHEDULE.noise_level(t)
    far = Likelihood(LIKELIHOOD.operator, torch.tensor([1e6]), LIKELIHOOD.std)
    x = torch.zeros(1, 1, 1)
    r = s**2 / (1 + s**2)
    expected = s**2 * 5 / torch.sqrt(0.25 + r) / (1 + s**2)
    torch.testing.assert_close(
        Calibrated(limit=5).guide(UNIT, far, CURVE)(x, t).flatten(), expected.reshape(1), rtol=1e-3, atol=0
    )


def test_averages_do_not_average_the_error_away():
    likelihood = Likelihood(lambda x: x.mean((1, 2))[:, None], torch.zeros(1), torch.ones(1))
    spread = likelihood.spread(torch.zeros(2, 10, 1), torch.tensor([0.3]))
    torch.testing.assert_close(spread, torch.full((2, 1), 0.3))


def test_differences_keep_an_error():
    likelihood = Likelihood(lambda x: (x[:, 1:] - x[:, :-1]).flatten(1), torch.zeros(9), torch.ones(9), linear=False)
    spread = likelihood.spread(torch.zeros(1, 10, 1), torch.tensor([0.3]))
    assert float(spread.square().mean().sqrt()) == pytest.approx(0.3 * 2**0.5, rel=0.35)


def test_errors():
    with pytest.raises(ValueError, match="gamma=-1"):
        GaussianScore(gamma=-1)
    with pytest.raises(ValueError, match="limit=0"):
        Calibrated(limit=0)
    with pytest.raises(ValueError, match="error curve"):
        Calibrated().guide(UNIT, LIKELIHOOD, None)
