"""One Gaussian, four parameterisations, the same denoiser."""

import pytest
import torch
from torch import nn

from xsda.diffusion.denoisers import PARAMETERIZATIONS, Denoiser, Preconditioned, noise_estimate
from xsda.diffusion.schedules import VE, VP, LinearBeta, SubVP

COV = torch.tensor([[1.5, 0.6, 0.0], [0.6, 0.8, -0.2], [0.0, -0.2, 0.3]], dtype=torch.float64)
MEAN = torch.tensor([0.5, -1.0, 0.2], dtype=torch.float64)
SCHEDULES = [VP(), SubVP("linear", 1e-2), VE(1e-2, 50.0), LinearBeta()]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def optimal(x, alpha, sigma):
    """E[x_0 | x_t] of N(MEAN, COV)."""
    gain = alpha * COV @ torch.linalg.inv(alpha**2 * COV + sigma**2 * torch.eye(3, dtype=torch.float64))
    return MEAN + (x - alpha * MEAN) @ gain.T


class Oracle(nn.Module):
    """The optimal network of each parameterisation, written from its definition."""

    def __init__(self, schedule, parameterization, data_std=1.0):
        super().__init__()
        self.schedule, self.parameterization, self.std = schedule, parameterization, data_std

    def forward(self, inputs, log_noise):
        t = self.schedule.time(log_noise.exp())
        alpha, sigma = (c.reshape(-1, 1) for c in (self.schedule.alpha(t), self.schedule.sigma(t)))
        std = self.std if self.parameterization == "edm" else 1.0
        x = inputs * torch.sqrt(alpha**2 * std**2 + sigma**2)
        x0 = (
            optimal(x, alpha[0], sigma[0])
            if len(alpha) == 1
            else torch.cat([optimal(x[i : i + 1], alpha[i], sigma[i]) for i in range(len(x))])
        )
        eps = (x - alpha * x0) / sigma
        if self.parameterization == "edm":
            s = sigma / alpha  # Karras et al. (7), in units of the data: skip and out of y = x / alpha
            skip, out = std**2 / (s**2 + std**2), s * std / torch.sqrt(s**2 + std**2)
            return (x0 - skip * x / alpha) / out
        v = (alpha * eps - sigma * x0) / torch.sqrt(alpha**2 + sigma**2)
        return {"x0": x0, "eps": eps, "v": v}[self.parameterization]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
def test_every_parameterization_gives_the_same_denoiser(schedule, parameterization):
    denoiser = Preconditioned(Oracle(schedule, parameterization, 0.7), schedule, parameterization, data_std=0.7)
    x = torch.randn(4, 3, dtype=torch.float64)
    eye = torch.eye(3, dtype=torch.float64)
    for t in torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64):
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        x0 = optimal(x, alpha, sigma)
        torch.testing.assert_close(denoiser(x, t), x0, rtol=1e-6, atol=1e-6)
        score = -(x - alpha * MEAN) @ torch.linalg.inv(alpha**2 * COV + sigma**2 * eye)
        torch.testing.assert_close(denoiser.score(x, t), score, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(alpha * x0 + sigma * denoiser.eps(x, t), x, rtol=1e-5, atol=1e-5)
    times = torch.tensor([0.2, 0.4, 0.6, 0.8], dtype=torch.float64)
    one_by_one = torch.cat([denoiser(x[i : i + 1], times[i]) for i in range(4)])
    torch.testing.assert_close(denoiser(x, times), one_by_one, rtol=1e-6, atol=1e-6)


class Bounded(nn.Module):
    """A network whose outputs are at most one."""

    def forward(self, inputs, log_noise):
        return torch.tanh(100 * inputs)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_v_is_edm_of_standardised_data_with_the_opposite_sign(schedule):
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    edm, v = (Preconditioned(nn.Identity(), schedule, p).coefficients(t) for p in ("edm", "v"))
    for a, b, sign in zip(edm, v, (1, -1, 1), strict=True):
        torch.testing.assert_close(a, sign * b)


@pytest.mark.parametrize("schedule", [VP(), VP("linear"), SubVP(), VE(), LinearBeta()], ids=str)
def test_edm_and_v_stay_bounded_at_the_largest_noise(schedule):
    one = torch.ones((), dtype=torch.float64)
    x = torch.sqrt(schedule.alpha(one) ** 2 + schedule.sigma(one) ** 2) * torch.randn(64, 5, dtype=torch.float64)
    largest = {p: float(Preconditioned(Bounded(), schedule, p)(x, one).abs().max()) for p in PARAMETERIZATIONS}
    # skip * x is below the data's own scale, out below one
    assert largest["edm"] < 1.1
    assert largest["v"] < 1.1
    assert largest["eps"] > 0.5 * float(schedule.noise_level(one))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_edm_feeds_the_network_unit_variance_and_asks_it_for_unit_variance(schedule):
    """For data of variance data_std^2 the inputs and the optimal outputs have variance 1 (Karras et al., B.6)."""
    t, std = torch.linspace(0, 1, 11, dtype=torch.float64), 1.7
    skip, out, scale = Preconditioned(nn.Identity(), schedule, "edm", std).coefficients(t)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    ones = torch.ones_like(t)
    torch.testing.assert_close(scale**2 * (alpha**2 * std**2 + sigma**2), ones)
    # the variance of (x_0 - skip x_t) / out
    torch.testing.assert_close(((1 - skip * alpha) ** 2 * std**2 + (skip * sigma) ** 2) / out**2, ones)


def test_conditioning_shares_the_weights_and_leaves_the_original_alone():
    class Adds(nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = nn.Parameter(torch.tensor(2.0))

        def forward(self, x, log_noise, context=None):
            return self.gain * (x if context is None else x + context)

    free = Preconditioned(Adds(), VP(), "x0")
    bound = free.conditioned(torch.full((1, 1, 1), 3.0))
    x, t = torch.randn(2, 4, 1), torch.tensor(0.5)
    torch.testing.assert_close(bound(x, t) - free(x, t), torch.full_like(x, 6.0))
    assert bound.network is free.network


def test_noise_estimate_inverts_add_noise():
    x0, noise, t = torch.randn(3, 4), torch.randn(3, 4), torch.tensor([0.2, 0.5, 0.9])
    x_t = VP().add_noise(x0, t, noise)
    torch.testing.assert_close(noise_estimate(VP(), x_t, x0, t), noise, rtol=1e-4, atol=1e-5)


def test_errors_say_what_is_wrong():
    with pytest.raises(ValueError, match="parameterization='score'"):
        Preconditioned(nn.Identity(), VP(), "score")
    with pytest.raises(TypeError, match="must define forward"):
        Denoiser()(torch.zeros(1), torch.tensor(0.5))
