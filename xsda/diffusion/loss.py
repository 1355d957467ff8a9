r"""Denoising score matching: the loss that makes a network a denoiser.

For clean states x_0, random times and noises, the loss is the weighted mean of

.. math:: w(t)\, \lVert \hat x_0(\alpha x_0 + \sigma \varepsilon, t) - x_0 \rVert^2 .

Its minimiser is E[x_0 | x_t] whatever the weights; the weights only say where accuracy is spent. The noise levels are
drawn uniformly in log(sigma / alpha) over the schedule's range or from a normal law in it (Karras et al. 2022).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from xsda.diffusion.denoisers import Denoiser
from xsda.diffusion.schedules import Schedule, expand

WEIGHTINGS = ("edm", "eps", "x0")


def loss_weight(schedule: Schedule, t: Tensor, weighting: str, data_std: float = 1.0) -> Tensor:
    """Weight of the squared error of x_0: "x0" is 1, "eps" is alpha^2/sigma^2, "edm" the inverse of the worst case."""
    s = schedule.noise_level(t)
    if weighting == "edm":
        return 1 / s**2 + 1 / data_std**2
    if weighting == "eps":
        return 1 / s**2
    if weighting == "x0":
        return torch.ones_like(s)
    raise ValueError(f"weighting={weighting!r} is unknown; choose one of {WEIGHTINGS}")


def training_times(
    schedule: Schedule,
    count: int,
    generator: torch.Generator,
    *,
    center: float | None = None,
    width: float = 1.5,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Random times, stratified over the batch.

    ``center=None``: log noise levels uniform over the schedule; otherwise normal around ``log(center)`` with standard
    deviation ``width``, clipped to the schedule's range.
    """
    u = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    u = u[torch.randperm(count, generator=generator)].double()
    low, high = (math.log(float(schedule.noise_level(torch.tensor(e, dtype=torch.float64)))) for e in (0.0, 1.0))
    if center is None:
        log_s = low + (high - low) * u
    else:
        log_s = math.log(center) + width * torch.special.ndtri(u.clamp(1e-6, 1 - 1e-6))
    return schedule.time(log_s.clamp(low, high).exp()).float().to(device)


def denoising_loss(
    denoiser: Denoiser, x0: Tensor, t: Tensor, noise: Tensor, *, weighting: str = "edm", reduce: bool = True
) -> Tensor:
    """Weighted denoising error, averaged over everything (or one value per batch item with ``reduce=False``)."""
    x_t = denoiser.schedule.add_noise(x0, t, noise)
    weight = loss_weight(denoiser.schedule, t, weighting, getattr(denoiser, "data_std", 1.0))
    error = expand(weight, x0) * (denoiser(x_t, t) - x0) ** 2
    return error.mean() if reduce else error.flatten(1).mean(1)
