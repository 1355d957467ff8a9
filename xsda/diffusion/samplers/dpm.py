r"""DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095), as an ODE and as an SDE.

With lambda = log(alpha / sigma), its step h, and the denoised state D extrapolated linearly from two evaluations,

.. math:: x_s = \tfrac{\sigma_s}{\sigma_t} e^{-\eta h} x_t + \alpha_s (1 - e^{-(1+\eta) h}) D
   + \sigma_s \sqrt{1 - e^{-2\eta h}}\, z

with eta = 0 for the ODE and 1 for the reverse SDE. With eta > 1, Langevin noise is added and removed along the way, in
the same evaluations. Errors of earlier steps and of an approximate guidance are then forgotten sooner, and members can
leave trajectories that the observations exclude. It is of second order and takes one evaluation per step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xsda.arguments import real_number
from xsda.diffusion.denoisers import Denoiser
from xsda.diffusion.samplers.sampler import Draw, Sampler
from xsda.diffusion.schedules import Schedule


@dataclass(frozen=True, kw_only=True)
class DPMpp2M(Sampler):
    """DPM-Solver++(2M): deterministic, second order, one evaluation per step.

    Parameters
    ----------
    steps, grid, high, low, corrections, tau, bounded, resampling
        As for ``Sampler``.
    """

    def transition(
        self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, draw: Draw, memory: dict[str, Any]
    ) -> Tensor:
        mean, _, _ = multistep(denoiser.schedule, x, denoiser(x, t), t, s, memory, eta=0.0)
        return mean


@dataclass(frozen=True, kw_only=True)
class DPMpp2MSDE(Sampler):
    """DPM-Solver++(2M) of the reverse SDE: new noise at every step damps earlier errors.

    Parameters
    ----------
    steps, grid, high, low, corrections, tau, bounded, resampling
        As for ``Sampler``.
    eta
        Amount of noise: 1 for the reverse SDE, more for Langevin noise as well.
    """

    eta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        real_number("eta", self.eta, "be positive: it is the amount of noise", above=0)

    def transition(
        self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, draw: Draw, memory: dict[str, Any]
    ) -> Tensor:
        mean, spread, _ = multistep(denoiser.schedule, x, denoiser(x, t), t, s, memory, eta=self.eta)
        return mean + spread * draw()


def multistep(
    schedule: Schedule, x: Tensor, x0: Tensor, t: Tensor, s: Tensor, memory: dict[str, Any], *, eta: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute one transition of DPM-Solver++(2M).

    Parameters
    ----------
    schedule
        The diffusion process.
    x, x0
        State at time ``t`` and its denoised estimate.
    t, s
        Times before and after the transition, s < t.
    memory
        The previous evaluation, which is updated.
    eta
        Amount of noise: 0 for the ODE, 1 for the reverse SDE.

    Returns
    -------
    mean, spread, weight : Tensor
        Mean and standard deviation of x_s, and the weight of ``x0`` in the mean.

    Examples
    --------
    >>> from xsda.diffusion.samplers.dpm import multistep
    >>> schedule, x = xsda.diffusion.VE(), torch.ones(1, 1)
    >>> t, s = torch.tensor(0.6), torch.tensor(0.5)
    >>> mean, _, weight = multistep(schedule, x, torch.ones(1, 1), t, s, {}, eta=0.0)
    >>> mean, bool(0 < weight < 1)
    (tensor([[1.]]), True)
    """
    h = schedule.log_snr(s) - schedule.log_snr(t)
    slope = torch.zeros_like(x0)
    if "x0" in memory:
        slope = (memory.pop("arrived", x0) - memory["x0"]) * (h / memory["h"]).to(x)
    memory["x0"], memory["h"] = x0, h
    keep = schedule.sigma(s) / schedule.sigma(t) * torch.exp(-eta * h)
    weight = -(schedule.alpha(s) * torch.expm1(-(1 + eta) * h)).to(x)
    spread = (schedule.sigma(s) * torch.sqrt(-torch.expm1(-2 * eta * h))).to(x)
    return keep.to(x) * x + weight * (x0 + slope / 2), spread, weight
