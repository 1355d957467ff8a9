r"""DDIM (Song et al. 2021, arXiv 2010.02502), the ancestral sampler of DDPM, and the predictor-corrector of SDA.

.. math:: x_s = \alpha_s \hat x_0 + \sqrt{\sigma_s^2 - \tilde\sigma^2}\, \hat\varepsilon + \tilde\sigma z

with :math:`\tilde\sigma` = ``eta`` times the standard deviation of x_s given x_t and x_0: ``eta=0`` is deterministic,
``eta=1`` is ancestral sampling.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xsda.diffusion.denoisers import Denoiser
from xsda.diffusion.samplers.sampler import Draw, Sampler, predict, time_posterior


@dataclass(frozen=True, kw_only=True)
class DDIM(Sampler):
    """DDIM, a sampler of first order.

    Parameters
    ----------
    eta
        From 0 (deterministic) to 1 (ancestral sampling).
    steps, grid, high, low, corrections, tau, bounded, resampling
        As for ``Sampler``.
    """

    steps: int = 64
    eta: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta={self.eta} must lie between 0 (deterministic) and 1 (ancestral)")

    def transition(
        self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, draw: Draw, memory: dict[str, Any]
    ) -> Tensor:
        x0, eps = predict(denoiser, x, t)
        alpha, sigma = denoiser.schedule.alpha(s), denoiser.schedule.sigma(s)
        if self.eta == 0:
            return alpha.to(x) * x0 + sigma.to(x) * eps
        variance = self.eta**2 * time_posterior(denoiser.schedule, t, s)[2]
        return alpha.to(x) * x0 + torch.sqrt(sigma**2 - variance).to(x) * eps + variance.sqrt().to(x) * draw()


@dataclass(frozen=True, kw_only=True)
class DDPM(DDIM):
    """Ancestral sampling: draw x_s from its distribution given x_t and the estimate of x_0.

    Parameters
    ----------
    steps, grid, high, low, corrections, tau, bounded, resampling, eta
        As for ``DDIM``.
    """

    steps: int = 256
    eta: float = 1.0


@dataclass(frozen=True, kw_only=True)
class PredictorCorrector(DDIM):
    """The sampler of the SDA paper: deterministic steps uniform in t, each followed by unbounded Langevin corrections.

    Parameters
    ----------
    steps, grid, high, low, corrections, tau, bounded, resampling, eta
        As for ``DDIM``.
    """

    steps: int = 256
    grid: str = "linear"
    corrections: int = 1
    tau: float = 0.25
    bounded: bool = False
