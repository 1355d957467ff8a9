r"""Denoising score matching: the loss that trains a network to be a denoiser.

For clean states x_0, random times and noises, the loss is the weighted mean of

.. math:: w(t)\, \lVert \hat x_0(\alpha x_0 + \sigma \varepsilon, t) - x_0 \rVert^2 .

Its minimiser is E[x_0 | x_t] for any weights. The weights decide at which noise levels accuracy counts most. The noise
levels are uniform in log(sigma / alpha) over the range of the schedule, or normal in it (Karras et al. 2022).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from xsda.diffusion.anchored import Anchored
from xsda.diffusion.denoisers import Denoiser
from xsda.diffusion.schedules import Schedule, expand

TINY = 1e-6  # so that a batch without values has the loss zero
WEIGHTINGS = ("edm", "eps", "x0")


def loss_weight(schedule: Schedule, t: Tensor, weighting: str, data_std: float = 1.0) -> Tensor:
    """Return the weight of the squared error of x_0.

    Parameters
    ----------
    schedule
        The diffusion process.
    t
        Times.
    weighting
        "x0" is one, "eps" is alpha^2 / sigma^2, and "edm" is the inverse of the largest squared error to be expected.
    data_std
        Standard deviation of the data, for "edm".

    Returns
    -------
    Tensor
        One weight for each time.

    Examples
    --------
    >>> from xsda.diffusion.loss import loss_weight
    >>> loss_weight(xsda.diffusion.VE(sigma_max=10.0), torch.tensor(1.0), "edm").round(decimals=3)
    tensor(1.0100)
    """
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
    """Draw random times, stratified over the batch.

    Parameters
    ----------
    schedule
        The diffusion process.
    count
        Number of times.
    generator
        Source of the random numbers.
    center, width
        Log noise levels are normal around ``log(center)`` with the standard deviation ``width``, clipped to the range
        of the schedule. By default they are uniform over that range.
    device
        Device of the result.

    Returns
    -------
    Tensor
        Times, (count,).

    Examples
    --------
    >>> xsda.diffusion.training_times(xsda.diffusion.VP(), 4, torch.Generator().manual_seed(0)).shape
    torch.Size([4])
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
    denoiser: Denoiser,
    x0: Tensor,
    t: Tensor,
    noise: Tensor,
    *,
    weighting: str = "edm",
    area: Tensor | None = None,
    reduce: bool = True,
) -> Tensor:
    """Compute the weighted denoising error.

    Parameters
    ----------
    denoiser
        The denoiser.
    x0
        Clean states, (batch, ...). NaN is a missing value: it does not count.
    t
        Times, (batch,).
    noise
        Standard normal numbers, in the shape of ``x0``.
    weighting
        "edm", "eps" or "x0"; see ``loss_weight``.
    area
        Weights of the points, which broadcast to ``x0`` (default: equal).
    reduce
        Average over the batch. ``False`` returns one value per batch item.

    Returns
    -------
    Tensor
        The loss.

    Examples
    --------

    >>> from xsda.priors.exact import GaussianDenoiser
    >>> normal = GaussianDenoiser.of(torch.zeros(1, 2), torch.eye(2)[None], torch.ones(1), (2, 1))
    >>> x0, t = torch.randn(5, 2, 1), torch.rand(5)
    >>> xsda.diffusion.denoising_loss(normal, x0, t, torch.randn(5, 2, 1), reduce=False).shape
    torch.Size([5])
    """
    known = torch.isfinite(x0)
    counted = known if area is None else known * area
    x0 = torch.where(known, x0, 0.0)
    x_t = denoiser.schedule.add_noise(x0, t, noise)
    if weighting == "edm" and isinstance(denoiser, Anchored):
        weight = denoiser.expected(t).to(x0).reshape(len(t), 1, x0.shape[2], *(1,) * (x0.ndim - 3)) ** -2
    else:
        weight = expand(loss_weight(denoiser.schedule, t, weighting, getattr(denoiser, "data_std", 1.0)), x0)
    error = weight * counted * (denoiser(x_t, t) - x0) ** 2
    if reduce:
        return error.sum() / counted.sum().clamp(min=TINY)
    return error.flatten(1).sum(1) / counted.flatten(1).sum(1).clamp(min=TINY)
