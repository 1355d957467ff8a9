r"""The likelihood of clean states under a diffusion model: the log-probability and a lower bound.

``log_prob`` follows the probability-flow ODE from data to noise and integrates the change of volume (Song et al. 2021,
arXiv 2011.13456). In the coordinates u = x_t / sqrt(alpha^2 + sigma^2), with s = sigma / alpha and r^2 = 1 + s^2, the
equations are the same for every schedule, and u does not move if the data are standard normal:

.. math:: \frac{du}{d\log s} = \frac1r \left(\frac ur - \hat x_0\right), \qquad
   \log p_0(x) = \log p_1(u_1) + \int \nabla\!\cdot\frac{du}{d\log s}\, d\log s - \tfrac N2 \log r_{\min}^2 .

``elbo`` is the variational bound in continuous time (Kingma et al. 2021, arXiv 2107.00630):

.. math:: -\log p(x_0) \le \tfrac N2 \left(1 + \log 2\pi s_{\min}^2\right)
   + \int E\lVert x_0 - \hat x_0 \rVert^2 s^{-3}\, ds + KL(p(x_1 | x_0) \,\|\, p_1).

Both assume that x_1 is normal with the variance of standardised data, and both are densities of standardised states.
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
    """Compute log p of states with the fourth-order Runge-Kutta method.

    Parameters
    ----------
    denoiser
        Denoiser of the prior.
    x0
        States (batch, ...).
    steps
        Number of Runge-Kutta steps, of four evaluations with a gradient each.
    exact
        Whether to compute the divergence exactly, which costs one gradient per number of the state. ``False``
        estimates it with one random sign vector per state (Hutchinson). Default: exact up to 1024 numbers.
    generator
        Source of the random signs.

    Returns
    -------
    Tensor
        log p of each state, (batch,).

    Examples
    --------

    >>> from xsda.priors.exact import GaussianDenoiser
    >>> normal = GaussianDenoiser.of(torch.zeros(1, 2), torch.eye(2)[None], torch.ones(1), (2, 1))
    >>> xsda.diffusion.log_prob(normal, torch.zeros(1, 2, 1)).round(decimals=2)
    tensor([-1.8400], dtype=torch.float64)
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
    # the first rescaling changes the volume, too
    return final + volume - n / 2 * math.log1p(math.exp(2 * low))


def _log_levels(denoiser: Denoiser) -> tuple[float, float]:
    """Ends of the schedule, as log(sigma / alpha)."""
    low, high = denoiser.schedule.noise_level(torch.tensor([0.0, 1.0], dtype=torch.float64)).log().tolist()
    return low, high


def _final_variance(denoiser: Denoiser) -> float:
    """Variance of u at t = 1."""
    level = math.exp(_log_levels(denoiser)[1])
    return (getattr(denoiser, "data_std", 1.0) ** 2 + level**2) / (1 + level**2)


def _flow(denoiser: Denoiser, u: Tensor, t: Tensor, probe: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return du/dlog s and its divergence."""
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
    """Compute a lower bound of log p of states, with noise levels stratified in log(sigma / alpha).

    At small noise the error depends mostly on the noise that is drawn. A control variate removes how much that noise
    is larger or smaller than usual. With the error curve of the denoiser it does so at all levels; the expectation is
    the same.

    Parameters
    ----------
    denoiser
        Denoiser of the prior.
    x0
        States (batch, ...).
    samples
        Number of noise levels, of one evaluation each.
    curve
        Error curve of the denoiser, for a smaller variance of the estimate.
    generator
        Source of the noise.

    Returns
    -------
    Tensor
        Estimate of the bound for each state, (batch,).

    Examples
    --------

    >>> from xsda.priors.exact import GaussianDenoiser
    >>> normal = GaussianDenoiser.of(torch.zeros(1, 2), torch.eye(2)[None], torch.ones(1), (2, 1))
    >>> bool(xsda.diffusion.elbo(normal, torch.zeros(1, 2, 1), samples=512) < -1.8)
    True
    """
    schedule, n = denoiser.schedule, x0[0].numel()
    low, high = _log_levels(denoiser)
    # each state has its own random position in each stratum
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
    # in the coordinates u, p(x_1 | x_0) and p_1 are normal with the variances 1 - kept and ``variance``
    kept, variance = 1 / (1 + math.exp(2 * high)), _final_variance(denoiser)
    square = kept * x0.double().flatten(1).square().sum(1)
    ratio = (1 - kept) / variance
    prior = (square / variance + n * (ratio - 1 - math.log(ratio))) / 2
    return -(reconstruction + diffusion + prior)
