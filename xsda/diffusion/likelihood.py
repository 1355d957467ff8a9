r"""The likelihood of clean states under a diffusion model.

``log_prob`` follows the probability-flow ODE from data to noise, carrying the change of volume (Song et al. 2021,
arXiv 2011.13456):

.. math:: \log p_0(x) = \log p_1(x_1) + \int_0^1 \nabla\!\cdot v(x_t, t)\, dt, \qquad
   v = \dot\alpha \hat x_0 + \dot\sigma \hat\varepsilon .

``elbo`` is the variational bound in continuous time (Kingma et al. 2021, arXiv 2107.00630): with s = sigma / alpha,

.. math:: -\log p(x_0) \le \tfrac N2 \left(1 + \log 2\pi s_{\min}^2\right)
   + \int E\lVert x_0 - \hat x_0 \rVert^2 s^{-3}\, ds + KL(p(x_1 | x_0) \,\|\, p_1).

Both take the law of x_1 to be normal with the variance of standardised data, and are densities of standardised states.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from xsda.diffusion.denoisers import Denoiser
from xsda.diffusion.error import ErrorCurve
from xsda.diffusion.samplers.base import time_grid
from xsda.diffusion.samplers.ode import velocity

EXACT_LIMIT = 1024  # largest state whose divergence is computed exactly by default


def log_prob(
    denoiser: Denoiser, x0: Tensor, *, steps: int = 64, exact: bool | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """log p of states (batch, ...), by ``steps`` steps of the fourth-order Runge-Kutta method.

    ``exact=False`` estimates the divergence with one random sign vector per state (Hutchinson), drawn once.
    """
    schedule = denoiser.schedule
    exact = x0[0].numel() <= EXACT_LIMIT if exact is None else exact
    probe = None
    if not exact:
        probe = torch.randint(0, 2, x0.shape, generator=generator).to(x0) * 2 - 1
    times = time_grid(schedule, steps + 1).flip(0).to(x0.device)
    x = schedule.alpha(times[0]).to(x0) * x0
    volume = torch.zeros(len(x0), dtype=torch.float64, device=x0.device)
    for a, b in zip(times[:-1], times[1:], strict=True):
        h, middle = (b - a).to(x), (a + b) / 2
        k1, d1 = _flow(denoiser, x, a, probe)
        k2, d2 = _flow(denoiser, x + h / 2 * k1, middle, probe)
        k3, d3 = _flow(denoiser, x + h / 2 * k2, middle, probe)
        k4, d4 = _flow(denoiser, x + h * k3, b, probe)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        volume = volume + (b - a) / 6 * (d1 + 2 * d2 + 2 * d3 + d4)
    variance = _final_variance(denoiser)
    flat = x.double().flatten(1)
    final = -(flat.square().sum(1) / variance + flat.shape[1] * math.log(2 * math.pi * variance)) / 2
    # the first rescaling by alpha(0) is a change of volume too
    return final + volume + flat.shape[1] * math.log(float(schedule.alpha(times[0])))


def _final_variance(denoiser: Denoiser) -> float:
    one = torch.ones((), dtype=torch.float64)
    std = getattr(denoiser, "data_std", 1.0)
    return float((denoiser.schedule.alpha(one) * std) ** 2 + denoiser.schedule.sigma(one) ** 2)


def _flow(denoiser: Denoiser, x: Tensor, t: Tensor, probe: Tensor | None) -> tuple[Tensor, Tensor]:
    """Velocity and its divergence."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        v = velocity(denoiser, x, t)
        if probe is not None:
            divergence = (torch.autograd.grad(v, x, probe)[0] * probe).flatten(1).double().sum(1)
        else:
            n = x[0].numel()
            basis = torch.eye(n, dtype=x.dtype, device=x.device).reshape(n, 1, *x.shape[1:]).expand(n, *x.shape)
            rows = torch.autograd.grad(v, x, basis, is_grads_batched=True)[0].reshape(n, len(x), n)
            divergence = torch.diagonal(rows, dim1=0, dim2=2).double().sum(1)
    return v.detach(), divergence


@torch.no_grad()
def elbo(
    denoiser: Denoiser,
    x0: Tensor,
    *,
    samples: int = 64,
    curve: ErrorCurve | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The bound for states (batch, ...), with ``samples`` noise levels stratified in log(sigma / alpha).

    At small noise the error is made of the noise itself; a control variate takes out how much larger or smaller than
    usual the drawn noise is. With the denoiser's error ``curve`` it does so at all levels; the expectation is the same.
    """
    schedule, n = denoiser.schedule, x0[0].numel()
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    low, high = schedule.noise_level(ends).log().tolist()
    # strata keep a random position of their own in each state
    offsets = torch.rand(samples, len(x0), generator=generator, dtype=torch.float64)
    levels = torch.exp(low + (torch.arange(samples)[:, None] + offsets) / samples * (high - low))
    loss = torch.zeros(len(x0), dtype=torch.float64, device=x0.device)
    for s in levels:
        t = schedule.time(s).to(x0.device)
        noise = torch.randn(x0.shape, generator=generator).to(x0)
        error = denoiser(schedule.add_noise(x0, t, noise), t) - x0
        share = (curve(s) / s.clamp(min=1e-12)[:, None]).square().mean(1) if curve is not None else 1 / (1 + s**2) ** 2
        excess = noise.double().flatten(1).square().sum(1) - n
        loss += error.double().flatten(1).square().sum(1) / s.to(x0.device) ** 2 - share.to(x0.device) * excess
    diffusion = loss * (high - low) / samples
    reconstruction = n / 2 * (1 + math.log(2 * math.pi) + 2 * low)
    variance, one = _final_variance(denoiser), torch.ones((), dtype=torch.float64)
    alpha, sigma = float(schedule.alpha(one)), float(schedule.sigma(one))
    square = x0.double().flatten(1).square().sum(1) * alpha**2
    prior = (square / variance + n * (sigma**2 / variance - 1 - math.log(sigma**2 / variance))) / 2
    return -(reconstruction + diffusion + prior)
