"""Energy balance, on stationary Gaussian fields, where the best denoiser and the rate are known.

The denoiser c D, with D the best and c < 1, loses energy in every mode; samples keep the spectrum S at the noise s if they
are given kappa = (1 - c) S / (S + s^2).
"""

import numpy as np
import pytest
import torch

from xsda.diffusion import VE
from xsda.diffusion.balance import Balance, measure_balance, power, wavenumber
from xsda.diffusion.denoisers import Denoiser
from xsda.diffusion.noise import MemberNoise
from xsda.diffusion.samplers import DPMpp2M, DPMpp2MSDE

SIZE = (32, 32)
SHELL = (wavenumber(SIZE) * 32).round().long().clamp(max=16)
K = torch.arange(17.0).double()
SPECTRUM = torch.stack([1 / (1 + (K / 3) ** 4), 0.3 / (1 + (K / 6) ** 4)])
SPECTRUM[:, 0] = 0  # the mean of the fields is known
SHAPE = (4, 2, *SIZE)


class Timid(Denoiser):
    """The best denoiser of fields with SPECTRUM, times ``share``."""

    schedule = VE(sigma_min=2e-3, sigma_max=80.0)

    def __init__(self, share, balance=None):
        super().__init__()
        self.share, self.balance = share, balance

    def forward(self, x, t):
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        s = SPECTRUM[:, SHELL]
        gain = (self.share * alpha * s / (alpha**2 * s + sigma**2)).to(x)
        x0 = torch.fft.irfftn(gain * torch.fft.rfftn(x, dim=(3, 4)), s=SIZE, dim=(3, 4))
        return (
            x0 if self.balance is None else x0 + self.balance.correction(x / alpha.to(x), self.schedule.noise_level(t))
        )


def noise(seed, members=48):
    return MemberNoise(seed, range(members), SHAPE)


@pytest.fixture(scope="module")
def measured():
    return {share: measure_balance(Timid(share), SPECTRUM, SHAPE, noise(0)) for share in (1.0, 0.9)}


@pytest.mark.parametrize("share", [1.0, 0.9])
def test_the_rate_is_what_the_denoiser_lacks(measured, share):
    """The largest scales have four modes a field, the others many; nothing is owed to the best denoiser."""
    found = measured[share]
    right = (1 - share) * SPECTRUM / (SPECTRUM + found.levels[:, None, None].double() ** 2)
    off = (found.rate - right).abs()
    assert off.max() < 0.05
    assert off[..., 3:].mean() < 0.003
    assert (found.rate[..., 0] == 0).all()


@pytest.mark.parametrize("sampler", [DPMpp2MSDE(steps=48), DPMpp2M(steps=48)], ids=str)
def test_samples_get_their_spectrum_back(measured, sampler):
    """Without it, a tenth too little at each noise level leaves a tenth to a half of the energy."""
    lost = (power(sampler.sample(Timid(0.9), noise(1))) / SPECTRUM)[:, 1:]
    kept = (power(sampler.sample(Timid(0.9, measured[0.9]), noise(1))) / SPECTRUM)[:, 1:]
    assert lost.max() < 0.5
    assert (kept - 1).abs().max() < 0.12
    assert (kept[:, 3:] - 1).abs().mean() < 0.02


def test_it_acts_on_each_mode_alone():
    k = torch.tensor([0.0, 0.25, 0.5])
    balance = Balance(torch.tensor([0.1, 1.0]), k, torch.tensor([[[0.0, 0.2, 0.4]], [[0.0, 1.0, 2.0]]]))
    wave = torch.cos(2 * np.pi * 4 * torch.arange(32) / 32).expand(1, 1, 1, 8, 32)  # 4 / 32 of a cycle a point
    for level, rate in ((0.01, 0.1), (0.1, 0.1), (10**-0.5, 0.3), (1.0, 0.5), (7.0, 0.5)):
        torch.testing.assert_close(balance.correction(wave, torch.tensor(level)), rate * wave)
    levels = torch.tensor([0.1, 1.0])
    torch.testing.assert_close(
        balance.correction(wave.expand(2, -1, -1, -1, -1), levels)[:, 0, 0, 0, 0], torch.tensor([0.1, 0.5])
    )
    torch.testing.assert_close(balance.times(0.5).correction(wave, levels[:1]), 0.05 * wave)


@pytest.mark.parametrize("size", [(16,), (15,), (16, 16), (8, 16), (9, 15)], ids=str)
def test_power_counts_every_mode_once(size):
    """Parseval: the powers of all modes add up to the sum of squares; white noise has one everywhere."""
    x = torch.randn(500, 2, 1, *size, generator=torch.Generator().manual_seed(0))
    full = torch.stack([k.square() for k in torch.meshgrid(*map(torch.fft.fftfreq, size), indexing="ij")]).sum(0).sqrt()
    shell = (full * min(size)).round().long().clamp(max=min(size) // 2).flatten()
    count = torch.bincount(shell).double()
    torch.testing.assert_close(
        (power(x)[0] * count).sum(), x.double().square().mean((0, 1)).sum(), rtol=1e-6, atol=1e-6
    )
    assert ((power(x)[0] - 1).abs() < 6 / (1000 * count).sqrt()).all()
    torch.testing.assert_close(power(x, -2 * x), -2 * power(x))
