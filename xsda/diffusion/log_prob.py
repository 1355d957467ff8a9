r"""The likelihood of clean states under a diffusion model.

``log_prob`` follows the probability-flow ODE from data to noise, carrying the change of volume (Song et al. 2021,
arXiv 2011.13456). In the coordinates u = x_t / sqrt(alpha^2 + sigma^2) and with s = sigma / alpha, r^2 = 1 + s^2, it
reads the same for every schedule, and stands still where the data are standard normal:

.. math:: \frac{du}{d\log s} = \frac1r \left(\frac ur - \hat x_0\right), \qquad
   \log p_0(x) = \log p_1(u_1) + \int \nabla\!\cdot\frac{du}{d\log s}\, d\log s - \tfrac N2 \log r_{\min}^2 .

``elbo`` is the variational bound in continuous time (Kingma et al. 2021, arXiv 2107.00630):

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

EXACT_LIMIT = 1024  # largest state whose divergence is computed exactly by default


def log_prob(
    denoiser: Denoiser,
    x0: Tensor,
    *,
    steps: int = 64,
    exact: bool | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """log p of states (batch, ...), by ``steps`` steps of the fourth-order Runge-Kutta method.

    ``exact=False`` estimates the divergence with one random sign vector per state (Hutchinson), drawn once.
    """
    schedule = denoiser.schedule
    exact = x0[0].numel() <= EXACT_LIMIT if exact is None else exact
    probe = None
    if not exact:
        probe = torch.randint(0, 2, x0.shape, generator=generator).to(x0) * 2 - 1
    low, high = _log_levels(denoiser)
    h = (high - low) / steps
    # the two ends and the middle of every step
    levels = torch.exp(torch.linspace(low, high, 2 * steps + 1, dtype=torch.float64))
    times = schedule.time(levels).to(x0.device)
    u = x0 / math.sqrt(1 + math.exp(2 * low))
    volume = torch.zeros(len(x0), dtype=torch.float64, device=x0.device)
    for a, middle, b in zip(times[:-2:2], times[1::2], times[2::2], strict=True):
        k1, d1 = _flow(denoiser, u, a, probe)
        k2, d2 = _flow(denoiser, u + h / 2 * k1, middle, probe)
        k3, d3 = _flow(denoiser, u + h / 2 * k2, middle, probe)
        k4, d4 = _flow(denoiser, u + h * k3, b, probe)
        u = u + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        volume = volume + h / 6 * (d1 + 2 * d2 + 2 * d3 + d4)
    n = x0[0].numel()
    variance = _final_variance(denoiser)
    final = -(u.double().flatten(1).square().sum(1) / variance + n * math.log(2 * math.pi * variance)) / 2
    # the first rescaling is a change of volume too
    return final + volume - n / 2 * math.log1p(math.exp(2 * low))


def _log_levels(denoiser: Denoiser) -> tuple[float, float]:
    """The ends of the schedule, as log(sigma / alpha)."""
    low, high = denoiser.schedule.noise_level(torch.tensor([0.0, 1.0], dtype=torch.float64)).log().tolist()
    return low, high


def _final_variance(denoiser: Denoiser) -> float:
    """The variance of u at t = 1."""
    level = math.exp(_log_levels(denoiser)[1])
    return (getattr(denoiser, "data_std", 1.0) ** 2 + level**2) / (1 + level**2)


def _flow(denoiser: Denoiser, u: Tensor, t: Tensor, probe: Tensor | None) -> tuple[Tensor, Tensor]:
    """du/dlog s and its divergence."""
    schedule = denoiser.schedule
    r = torch.sqrt(1 + schedule.noise_level(t) ** 2).to(u)
    with torch.enable_grad():
        u = u.detach().requires_grad_()
        v = (u / r - denoiser(schedule.alpha(t).to(u) * r * u, t)) / r
        if probe is not None:
            divergence = (torch.autograd.grad(v, u, probe)[0] * probe).flatten(1).double().sum(1)
        else:
            n = u[0].numel()
            basis = torch.eye(n, dtype=u.dtype, device=u.device).reshape(n, 1, *u.shape[1:]).expand(n, *u.shape)
            rows = torch.autograd.grad(v, u, basis, is_grads_batched=True)[0].reshape(n, len(u), n)
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
    low, high = _log_levels(denoiser)
    # strata keep a random position of their own in each state
    offsets = torch.rand(samples, len(x0), generator=generator, dtype=torch.float64)
    levels = torch.exp(low + (torch.arange(samples)[:, None] + offsets) / samples * (high - low))
    loss = torch.zeros(len(x0), dtype=torch.float64, device=x0.device)
    for s in levels:
        t = schedule.time(s).to(x0.device)
        noise = torch.randn(x0.shape, generator=generator).to(x0)
        error = denoiser(schedule.add_noise(x0, t, noise), t) - x0
        share = (curve(s) / s[:, None]).pow(4).mean(1) if curve is not None else 1 / (1 + s**2) ** 2
        excess = noise.double().flatten(1).square().sum(1) - n
        loss += error.double().flatten(1).square().sum(1) / s.to(x0.device) ** 2 - share.to(x0.device) * excess
    diffusion = loss * (high - low) / samples
    reconstruction = n / 2 * (1 + math.log(2 * math.pi) + 2 * low)
    # p(x_1 | x_0) and p_1 in the coordinates u: normal with variances 1 - kept and the final one
    kept, variance = 1 / (1 + math.exp(2 * high)), _final_variance(denoiser)
    square = kept * x0.double().flatten(1).square().sum(1)
    ratio = (1 - kept) / variance
    prior = (square / variance + n * (ratio - 1 - math.log(ratio))) / 2
    return -(reconstruction + diffusion + prior)
