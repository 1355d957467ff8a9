"""Moment matching, where the posterior mean is known."""

import pytest
import torch

from xsda.diffusion.noise import MemberNoise
from xsda.diffusion.samplers import DPMpp2M
from xsda.guidance import MMPS
from xsda.likelihood import Likelihood
from xsda.priors.exact import GaussianDenoiser


def test_guided_denoiser_equals_the_posterior_mean():
    """E[x_0 | x_t, y] of a Gaussian is known: condition on x_t and y at once."""
    generator = torch.Generator().manual_seed(1)
    b = torch.randn(5, 5, generator=generator)
    cov = b @ b.T + 0.1 * torch.eye(5)
    rows, std = torch.randn(3, 5, generator=generator), torch.tensor([0.2, 0.5, 0.1])
    y = torch.randn(3, generator=generator)
    denoiser = GaussianDenoiser.of(torch.zeros(1, 5), cov[None], torch.ones(1), (5, 1))
    likelihood = Likelihood(lambda x: x.flatten(1) @ rows.T, y, std)
    guided = MMPS(tolerance=1e-5).guide(denoiser, likelihood, None)
    for t in (0.2, 0.5, 0.8):
        t = torch.tensor(t, dtype=torch.float64)
        s = denoiser.schedule.noise_level(t).float()
        x_t = torch.randn(4, 5, 1, generator=generator) * (1 + s)
        all_rows = torch.cat([torch.eye(5), rows])
        noise = torch.diag(torch.cat([s.expand(5) ** 2, std**2]))
        gain = (cov @ all_rows.T @ torch.linalg.inv(all_rows @ cov @ all_rows.T + noise)).T
        expected = torch.cat([x_t.flatten(1), y.expand(4, 3)], 1) @ gain
        torch.testing.assert_close(guided(x_t, t).flatten(1), expected, rtol=2e-3, atol=2e-3)


def test_few_products_a_step(rotation):
    denoiser = rotation[2].denoiser
    likelihood = Likelihood(lambda x: x[:, ::4, 0], torch.zeros(8), torch.full((8,), 0.1))
    guided = MMPS().guide(denoiser, likelihood, None)
    DPMpp2M(steps=32).sample(guided, MemberNoise(0, range(8), (32, 2)))
    assert guided.products <= 4 * 32


def test_the_first_solve_takes_what_it_needs_and_the_others_start_from_it():
    """Many accurate observations of patterns whose variances differ by a factor of a million."""
    n = 240
    basis = torch.linalg.qr(torch.randn(n, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
    cov = ((basis * torch.logspace(3, -3, n, dtype=torch.float64)) @ basis.T).float()
    denoiser = GaussianDenoiser.of(torch.zeros(1, n), cov[None], torch.ones(1), (n, 1))
    likelihood = Likelihood(lambda x: x.flatten(1), torch.ones(n), torch.full((n,), 0.05))
    for options in ({}, {"iterations": 100}):
        guided = MMPS(**options).guide(denoiser, likelihood, None)
        DPMpp2M(steps=24).sample(guided, MemberNoise(0, range(2), (n, 1)))
        assert (guided.complaint() is None) == (not options)


@pytest.mark.parametrize("options", [{"tolerance": 0.0}, {"iterations": 0}])
def test_options(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        MMPS(**options)
    with pytest.raises(TypeError):
        MMPS(tolerence=1.0)
