"""The loss and its minimiser, on samples whose second moments are exact."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from xsda.diffusion.denoisers import Denoiser, Preconditioned
from xsda.diffusion.loss import WEIGHTINGS, denoising_loss, loss_weight, training_times
from xsda.diffusion.schedules import VE, VP, LinearBeta, SubVP

COV = torch.tensor([[1.5, 0.6, 0.0], [0.6, 0.8, -0.2], [0.0, -0.2, 0.3]], dtype=torch.float64)
EYE = torch.eye(3, dtype=torch.float64)
SCHEDULES = [VP(), SubVP("linear", 1e-2), VE(1e-2, 50.0), LinearBeta()]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def moments():
    """Six pairs (x_0, noise) with exactly E x_0 x_0' = COV, E noise noise' = 1 and E x_0 noise' = 0."""
    z = math.sqrt(6) * torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))[0]
    return z[:, :3] @ torch.linalg.cholesky(COV).T, z[:, 3:]


def gain(schedule, t):
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    return alpha * COV @ torch.linalg.inv(alpha**2 * COV + sigma**2 * EYE)


class Linear(Denoiser):
    def __init__(self, schedule, matrix):
        super().__init__()
        self.schedule, self.matrix = schedule, nn.Parameter(matrix)

    def forward(self, x_t, t):
        return x_t @ self.matrix.T


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_the_minimiser_is_the_posterior_mean(schedule, weighting):
    x0, noise = moments()
    t = torch.tensor(0.4, dtype=torch.float64)

    def loss(matrix):
        denoiser = Linear(schedule, torch.zeros(3, 3, dtype=torch.float64))
        denoiser.forward = lambda x_t, t: x_t @ matrix.reshape(3, 3).T
        return denoising_loss(denoiser, x0, t, noise, weighting=weighting)

    start = torch.zeros(9, dtype=torch.float64)
    slope = torch.autograd.functional.jacobian(loss, start)
    curvature = torch.autograd.functional.hessian(loss, start)
    best = -torch.linalg.solve(curvature, slope)  # the loss is quadratic: one Newton step
    torch.testing.assert_close(best.reshape(3, 3), gain(schedule, t), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("std", [1.0, 0.5])
def test_the_value_at_the_minimiser_is_the_weighted_posterior_variance(schedule, std):
    x0, noise = moments()
    for t in torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64):
        denoiser = Linear(schedule, gain(schedule, t))
        denoiser.data_std = std
        s = float(schedule.sigma(t) / schedule.alpha(t))
        variance = float(torch.trace(torch.linalg.inv(torch.linalg.inv(COV) + EYE / s**2))) / 3
        weights = {"x0": 1.0, "eps": 1 / s**2, "edm": (s**2 + std**2) / (s * std) ** 2}
        for weighting, weight in weights.items():
            value = denoising_loss(denoiser, x0, t, noise, weighting=weighting).item()
            assert value == pytest.approx(weight * variance, rel=1e-6)


def test_eps_weighting_is_the_error_of_the_noise():
    x0, noise = torch.randn(2, 5, 4, 3)
    t = torch.linspace(0.1, 0.9, 5)
    denoiser = Linear(VP(), 0.3 * torch.eye(3))
    error = (denoiser.eps(VP().add_noise(x0, t, noise), t) - noise).square().flatten(1).mean(1)
    loss = denoising_loss(denoiser, x0, t, noise, weighting="eps", reduce=False)
    torch.testing.assert_close(loss, error, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(denoising_loss(denoiser, x0, t, noise, weighting="eps"), loss.mean())


def test_edm_weighting_makes_the_error_of_the_network_output_count_equally():
    """lambda = 1 / c_out^2 in units of the data (Karras et al., B.6)."""
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    for schedule in SCHEDULES:
        s = schedule.noise_level(t)
        out = s * 0.7 / torch.sqrt(s**2 + 0.7**2)
        torch.testing.assert_close(loss_weight(schedule, t, "edm", 0.7), 1 / out**2)


@pytest.mark.parametrize("schedule", [VP(), VE(), LinearBeta()], ids=str)
def test_training_times_are_stratified_uniform_in_log_noise(schedule):
    count = 512
    t = training_times(schedule, count, torch.Generator().manual_seed(0)).double()
    ends = schedule.noise_level(torch.tensor([0.0, 1.0], dtype=torch.float64)).log()
    share = (schedule.noise_level(t).log() - ends[0]) / (ends[1] - ends[0])
    strata = (share * count - 1e-2).clamp(min=0).floor().long().sort().values
    assert (strata - torch.arange(count)).abs().max() <= 1  # one time in each stratum, to single precision
    assert abs(float(torch.corrcoef(torch.stack([t[1:], t[:-1]]))[0, 1])) < 0.15  # in random order


def test_training_times_are_normal_in_log_noise_around_the_center():
    schedule = VE(1e-6, 1e6)
    t = torch.cat(
        [training_times(schedule, 64, torch.Generator().manual_seed(i), center=0.5, width=1.2) for i in range(64)]
    )
    z = (schedule.noise_level(t.double()).log() - math.log(0.5)) / 1.2
    assert stats.kstest(z.numpy(), "norm").pvalue > 1e-3
    narrow = training_times(VE(0.4, 0.6), 1000, torch.Generator().manual_seed(0), center=0.5, width=3.0)
    assert narrow.min() < 1e-12
    assert narrow.max() == 1


def test_same_generator_same_times():
    a, b = (training_times(VP(), 16, torch.Generator().manual_seed(4)) for _ in range(2))
    np.testing.assert_array_equal(a, b)


def test_an_unknown_weighting_is_named():
    with pytest.raises(ValueError, match="weighting='snr'"):
        loss_weight(VP(), torch.tensor(0.5), "snr")


def test_missing_values_and_areas_are_weights():
    """A missing value does not count, and a point of twice the area counts twice."""
    schedule, noise = VE(), torch.randn(4, 3, 1, 5, generator=torch.Generator().manual_seed(0))
    x0, t = torch.randn(4, 3, 1, 5, generator=torch.Generator().manual_seed(1)), torch.rand(4)
    zero = Preconditioned(Zero(), schedule, "x0")  # its error is x0 itself
    area = torch.tensor([1.0, 2.0, 1.0, 0.5, 0.5])
    gappy = x0.clone()
    gappy[:, 1, 0, 3] = torch.nan
    known = torch.isfinite(gappy)
    weight = area * known
    expected = (weight * x0**2).flatten(1).sum(1) / weight.flatten(1).sum(1)
    found = denoising_loss(zero, gappy, t, noise, weighting="x0", area=area, reduce=False)
    torch.testing.assert_close(found, expected)
    even = denoising_loss(zero, gappy, t, noise, weighting="x0", area=torch.ones(5))
    torch.testing.assert_close(even, denoising_loss(zero, gappy, t, noise, weighting="x0"))


class Zero(torch.nn.Module):
    def forward(self, x, log_noise):
        return torch.zeros_like(x)
