r"""Twisted sequential Monte Carlo, TDS (Wu et al. 2023, arXiv 2306.17775).

Every guidance is an approximation; weights undo it. A population of particles follows the guided reverse process
q(x_s | x_t), and each particle is weighted by

.. math:: w_s = w_t \frac{p(x_s | x_t)\, \hat p(y | x_s)}{q(x_s | x_t)\, \hat p(y | x_t)},

with p the unguided process of the same sampler (that of DPM-Solver++(2M) as an SDE) and p_hat an estimate of the
likelihood (Gaussian, with the denoiser's own error added), replaced by the true one at the end. Populations are resampled (systematically) when their effective
size falls below ``threshold``. As particles grow the result is exact for any H, any law of errors and any prior, up to the
steps of the unguided sampler. Each population is independent of the others; its particles become members. They share
ancestors, and where observations tell much many of them: then the spread is too small, and some may be copies. A whole
population is evaluated at once, which is what large fields need memory for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from xsda.diffusion.denoisers import Denoiser
from xsda.diffusion.samplers.dpm import DPMpp2MSDE, multistep
from xsda.diffusion.samplers.sampler import check_finite, time_grid
from xsda.diffusion.schedules import Schedule


@runtime_checkable
class Twistable(Protocol):
    """What TDS asks of a guided denoiser (``xsda.guidance.GuidedDenoiser``)."""

    schedule: Schedule
    likelihood: Any

    def evaluate(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]: ...

    def log_evidence(self, x0: Tensor, predicted: Tensor, t: Tensor) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class TDS(DPMpp2MSDE):
    """Weighted particles around any guidance.

    Parameters
    ----------
    particles
        Particles in a population. They become members; ask for a multiple of them.
    threshold
        Resample when the effective sample size is below this share of the particles.
    """

    steps: int = 64
    grid: str = "centered"
    particles: int = 64
    threshold: float = 0.5

    notes: ClassVar[tuple[str, ...]] = ("effective_sample_size",)

    @property
    def population(self) -> int:
        return self.particles

    def complaint(self, notes: Mapping[str, Tensor]) -> str | None:
        size = float(notes["effective_sample_size"].min())
        if size >= 0.1 * self.particles:
            return None
        return (
            f"the weights of TDS gathered on {size:.1f} of {self.particles} particles. Members share ancestors, some may be copies of "
            "each other, and their spread is too small. Use more particles, fewer or less precise observations, or another sampler"
        )

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.particles, bool) or not isinstance(self.particles, int) or self.particles < 2:
            raise ValueError(f"particles={self.particles!r} must be an integer of at least 2")
        if not 0 < self.threshold <= 1:
            raise ValueError(f"threshold={self.threshold} must lie between 0 and 1: it is a share of the particles")
        if self.corrections or self.resampling:
            raise ValueError("TDS takes no corrections and no resampling: the weights correct what guidance gets wrong")

    def sample(
        self,
        denoiser: Denoiser,
        draw: Any,
        *,
        callback: Callable[[int], None] | None = None,
        notes: dict[str, Tensor] | None = None,
    ) -> Tensor:
        """As every sampler; the batch holds whole populations. Notes the least ``effective_sample_size`` on the way."""
        if not isinstance(denoiser, Twistable):
            raise ValueError(
                "TDS weighs particles by observations: it samples posteriors only; choose another sampler here"
            )
        z = draw()
        if len(z) % self.particles:
            raise ValueError(f"a batch of {len(z)} does not divide into populations of {self.particles} particles")
        schedule = denoiser.schedule
        times = time_grid(schedule, self.steps, self.grid).to(z.device)
        x = z * torch.sqrt(schedule.alpha(times[0]) ** 2 + schedule.sigma(times[0]) ** 2).to(z)
        log_w = x.new_zeros(len(x), dtype=torch.float64)
        least = torch.full((len(x) // self.particles,), float(self.particles))
        memory: dict[str, Any] = {}
        earlier: Tensor | float = 0.0
        for i, (t, s) in enumerate(pairwise(times)):
            x0, change, predicted = denoiser.evaluate(x, t)
            evidence = denoiser.log_evidence(x0, predicted, t).double()
            log_w = log_w + evidence - earlier
            chosen, log_w = self._resample(log_w, draw, least)
            x, x0, change, evidence = x[chosen], x0[chosen], change[chosen], evidence[chosen]
            memory = {k: v[chosen] if k == "x0" else v for k, v in memory.items()}
            mean, spread, weight = multistep(schedule, x, x0, t, s, memory, stochastic=True)
            shift, noise = weight * change / spread, draw()
            x = mean + spread * (shift + noise)
            # log p / q of the step: the unguided mean is ``shift`` away, in units of the spread
            log_w = log_w - (shift * (shift / 2 + noise)).flatten(1).sum(1)
            earlier = evidence
            check_finite(x, i, len(times), draw)
            if callback is not None:
                callback(i)
        x0, _, predicted = denoiser.evaluate(x, times[-1])
        log_w = log_w + denoiser.likelihood.log_prob(x0).double() - earlier
        chosen, _ = self._resample(log_w, draw, least, always=True)
        if callback is not None:
            callback(self.steps - 1)
        if notes is not None:
            notes["effective_sample_size"] = least.repeat_interleave(self.particles)
        return x0[chosen]

    def _resample(self, log_w: Tensor, draw: Any, least: Tensor, always: bool = False) -> tuple[Tensor, Tensor]:
        """Indices of the particles that live on, and their log weights; each population on its own."""
        log_w = log_w.reshape(-1, self.particles)
        weight = log_w.softmax(1)
        size = 1 / weight.square().sum(1)
        torch.minimum(least, size.to(least), out=least)
        uniform = draw.uniform().reshape(log_w.shape).to(weight)  # drawn in any case: populations stay independent
        points = (torch.arange(self.particles).to(weight) + uniform[:, :1]) / self.particles
        index = torch.searchsorted(weight.cumsum(1), points).clamp(max=self.particles - 1)
        index = torch.gather(index, 1, uniform.argsort(1))  # shuffled: neighbours would be siblings
        poor = ((size < self.threshold * self.particles) | always)[:, None]
        own = torch.arange(self.particles).to(index)
        start = self.particles * torch.arange(len(index)).to(index)[:, None]
        return (torch.where(poor, index, own) + start).flatten(), torch.where(poor, 0, log_w).flatten()
