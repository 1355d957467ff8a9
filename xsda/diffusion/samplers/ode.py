r"""Euler and Heun steps of the probability-flow ODE (Song et al. 2021, arXiv 2011.13456), written as

.. math:: \dot x = \dot\alpha(t)\, \hat x_0(x, t) + \dot\sigma(t)\, \hat\varepsilon(x, t).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from xsda.diffusion.denoisers import Denoiser
from xsda.diffusion.samplers.sampler import Draw, Sampler, predict


def velocity(denoiser: Denoiser, x: Tensor, t: Tensor) -> Tensor:
    """Compute dx/dt of the probability flow.

    Parameters
    ----------
    denoiser
        The denoiser.
    x
        State (batch, ...).
    t
        Time.

    Returns
    -------
    Tensor
        Velocity, in the shape of ``x``.

    Examples
    --------

    >>> from xsda.diffusion.samplers import velocity
    >>> from xsda.priors.exact import GaussianDenoiser
    >>> normal = GaussianDenoiser.of(torch.zeros(1, 2), torch.eye(2)[None], torch.ones(1), (2, 1))
    >>> velocity(normal, torch.zeros(1, 2, 1), torch.tensor(0.5)).flatten()
    tensor([0., 0.])
    """
    x0, eps = predict(denoiser, x, t)
    alpha_rate, sigma_rate = denoiser.schedule.rates(t)
    return alpha_rate.to(x) * x0 + sigma_rate.to(x) * eps


@dataclass(frozen=True, kw_only=True)
class Euler(Sampler):
    """Euler steps: first order, one evaluation per step.

    Parameters
    ----------
    steps, grid, high, low, corrections, tau, bounded, resampling
        As for ``Sampler``.
    """

    steps: int = 128

    def transition(
        self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, draw: Draw, memory: dict[str, Any]
    ) -> Tensor:
        return x + (s - t).to(x) * velocity(denoiser, x, t)


@dataclass(frozen=True, kw_only=True)
class Heun(Sampler):
    """Heun steps: second order, two evaluations per step.

    Parameters
    ----------
    steps, grid, high, low, corrections, tau, bounded, resampling
        As for ``Sampler``.
    """

    evaluations_per_step: ClassVar[int] = 2

    def transition(
        self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, draw: Draw, memory: dict[str, Any]
    ) -> Tensor:
        h = (s - t).to(x)
        first = velocity(denoiser, x, t)
        return x + h / 2 * (first + velocity(denoiser, x + h * first, s))
