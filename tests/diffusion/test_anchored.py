"""A network on a denoiser in closed form: what the gate lets through, and what guidance takes for the covariance."""

import pytest
import torch
from torch import nn

from xsda.diffusion.anchored import Anchored, measure_gate
from xsda.diffusion.error import ErrorCurve
from xsda.diffusion.loss import denoising_loss
from xsda.priors.exact import GaussianDenoiser

SHAPE = (3, 1, 5)
NUMBERS = 15


def gaussian(scale, factor=1.0):
    """Independent numbers of mean zero; the first half has the variance ``scale``, the others one; times a factor."""
    variance = factor * torch.ones(NUMBERS, dtype=torch.float64)
    variance[: NUMBERS // 2] *= scale
    return GaussianDenoiser.of(
        torch.zeros(1, NUMBERS, dtype=torch.float64), torch.diag(variance)[None], torch.ones(1), SHAPE
    )


class Change(nn.Module):
    """A network that knows the best denoiser, or that knows nothing."""

    def __init__(self, base, best, error, knows):
        super().__init__()
        self.parts, self.error, self.knows = (base, best), error, knows
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, inputs, log_noise, context):
        noise = log_noise.exp()
        t = self.parts[0].schedule.time(noise.double()).to(inputs)
        x_t = inputs * (1 + noise**2).sqrt()
        if not self.knows:
            return self.weight * torch.sin(1e3 * x_t)
        size = self.error(noise).to(inputs)[..., None]
        return self.weight * (self.parts[1](x_t, t) - context[:, :, :1]) / size


@pytest.fixture
def pair():
    base, best = gaussian(0.05), gaussian(4.0)
    levels = torch.logspace(-4, 2, 60)
    error = ErrorCurve(levels, torch.stack([base.mean_square(s) for s in levels.double()]).sqrt().float())
    return base, best, error


def batches(denoiser, best, count=4):
    g = torch.Generator().manual_seed(0)
    return [(denoiser, best.draw(200 - 10 * k, g)) for k in range(count)]  # the last batch of a record may be smaller


def test_the_gate_opens_for_what_holds_and_shuts_for_what_does_not(pair):
    base, best, error = pair
    for knows in (True, False):
        denoiser = Anchored(Change(base, best, error, knows), base, error)
        gate, share = measure_gate(denoiser, batches(denoiser, best))
        inside = (denoiser.levels > 0.05) & (denoiser.levels < 20)
        if knows:  # the regression of the base's error on the best correction is one
            assert float(gate[inside].min()) > 0.9
            assert share > 0.5
        else:
            assert float(gate.max()) < 0.05
            assert abs(share) < 1e-3
        assert not gate[(denoiser.levels < 4e-3) | (denoiser.levels > 250)].any()


def test_with_the_best_correction_it_is_the_best_denoiser_and_guidance_takes_the_covariance_of_the_base(pair):
    base, best, error = pair
    denoiser = Anchored(Change(base, best, error, True), base, error)
    x = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(1)).requires_grad_()
    t = base.schedule.time(torch.tensor(0.7))
    torch.testing.assert_close(denoiser(x, t), best(x, t), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(denoiser.linearised(x, t), denoiser(x, t))
    probe = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(2))
    (found,) = torch.autograd.grad((denoiser.linearised(x, t) * probe).sum(), x)
    (expected,) = torch.autograd.grad((base(x, t) * probe).sum(), x)
    torch.testing.assert_close(found, expected)
    shut = Anchored(denoiser.network, base, error, torch.zeros(len(error.levels)))
    torch.testing.assert_close(shut(x, t), base(x, t))


def test_the_denoiser_of_larger_states(pair):
    """With all variances four times as large, it is the denoiser of that Gaussian, in value and derivative."""
    base, _, error = pair
    shut = Anchored(nn.Identity(), base, error, torch.zeros(len(error.levels))).times(4.0)
    larger = gaussian(0.05, 4.0)
    x = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(1)).requires_grad_()
    t = base.schedule.time(torch.tensor(0.7))
    probe = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(2))
    found, expected = (torch.autograd.grad((d.linearised(x, t) * probe).sum(), x)[0] for d in (shut, larger))
    torch.testing.assert_close(shut(x, t), larger(x, t), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_gaussians_of_the_training_follow_to_another_precision_or_device(pair):
    base, _, error = pair
    denoiser = Anchored(nn.Identity(), base, error)
    denoiser.others = [gaussian(2.0)]
    before = [b.dtype for b in denoiser.others[0].buffers()]
    denoiser.double()
    after = [b.dtype for b in denoiser.others[0].buffers()]
    assert torch.float32 in before
    assert torch.float32 not in after


def test_the_loss_is_relative_to_the_error_of_the_base(pair):
    """Without a correction it is one at each noise level, for data of the base."""
    base, best, error = pair
    denoiser = Anchored(Change(base, best, error, False), base, error, torch.zeros(len(error.levels)))
    x0 = base.draw(20_000, torch.Generator().manual_seed(3))
    for level in (0.1, 3.0):
        t = base.schedule.time(torch.tensor(level)).expand(len(x0))
        noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(4))
        assert float(denoising_loss(denoiser, x0, t, noise)) == pytest.approx(1, abs=0.03)
