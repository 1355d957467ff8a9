r"""Twisted sequential Monte Carlo, TDS (Wu et al. 2023, arXiv 2306.17775): weights correct approximate guidance.

A population of particles follows the guided reverse process q(x_s | x_t), and each particle has the weight

.. math:: w_s = w_t \frac{p(x_s | x_t)\, \hat p(y | x_s)}{q(x_s | x_t)\, \hat p(y | x_t)}.

Here p is the unguided process of the same sampler, DPM-Solver++(2M) as an SDE. p_hat is an estimate of the likelihood,
which uses the error of the denoiser; at the end the true likelihood replaces it. A population is resampled
(systematically) when its effective size falls below ``threshold``. With more particles the result converges to the
exact posterior for any H, any law of errors and any prior, up to the step size of the unguided sampler.

Populations are independent of each other. The particles of a population become members. They share ancestors, and if
the observations are informative they share many of them. The spread is then too small, and some members may be copies.
A whole population is evaluated at once, which takes memory for large fields.
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
from xsda.diffusion.samplers.sampler import check_finite
from xsda.diffusion.schedules import Schedule


@runtime_checkable
class Twistable(Protocol):
    """What TDS needs of a guided denoiser (``xsda.guidance.GuidedDenoiser``)."""

    schedule: Schedule
    likelihood: Any

    def evaluate(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]: ...

    def log_evidence(self, x0: Tensor, predicted: Tensor, t: Tensor) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class TDS(DPMpp2MSDE):
    """Weighted particles around any guidance.

    Use it to check an approximate guidance, or for few observations of strongly nonlinear quantities.

    Parameters
    ----------
    particles
        Number of particles in a population. They become members, so ask for a multiple of them.
    threshold
        Resample if the effective sample size is below this fraction of the particles.
    steps, grid
        As for ``Sampler``.
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
            f"the effective sample size of TDS fell to {size:.1f} of {self.particles} particles. Members share "
            "ancestors, some may be copies of each other, and their spread is too small. Use more particles, fewer or "
            "less precise observations, or another sampler"
        )

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.particles, bool) or not isinstance(self.particles, int) or self.particles < 2:
            raise ValueError(f"particles={self.particles!r} must be an integer of at least 2")
        if not 0 < self.threshold <= 1:
            raise ValueError(f"threshold={self.threshold} must lie between 0 and 1: it is a fraction of the particles")
        if self.corrections or self.resampling:
            raise ValueError("TDS takes no corrections and no resampling, because the weights correct the guidance")

    def sample(
        self,
        denoiser: Denoiser,
        draw: Any,
        *,
        callback: Callable[[int], None] | None = None,
        notes: dict[str, Tensor] | None = None,
    ) -> Tensor:
        """Draw samples; the batch holds whole populations.

        ``notes`` receives the smallest ``effective_sample_size`` of each population. The parameters are those of
        ``Sampler.sample``.
        """
        if not isinstance(denoiser, Twistable):
            raise ValueError(
                "TDS weights particles by observations, so it samples posteriors only; choose another sampler here"
            )
        z = draw()
        if len(z) % self.particles:
            raise ValueError(f"a batch of {len(z)} cannot be divided into populations of {self.particles} particles")
        schedule = denoiser.schedule
        times = self.times(schedule).to(z.device)
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
            mean, spread, weight = multistep(schedule, x, x0, t, s, memory, eta=1.0)
            shift, noise = weight * change / spread, draw()
            x = mean + spread * (shift + noise)
            # log p / q of the step, whose unguided mean is ``shift`` away in units of the spread
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
        """Return the indices of the particles that survive, and their log weights, for each population."""
        log_w = log_w.reshape(-1, self.particles)
        weight = log_w.softmax(1)
        size = 1 / weight.square().sum(1)
        torch.minimum(least, size.to(least), out=least)
        uniform = draw.uniform().reshape(log_w.shape).to(weight)  # always drawn, so that populations stay independent
        points = (torch.arange(self.particles).to(weight) + uniform[:, :1]) / self.particles
        index = torch.searchsorted(weight.cumsum(1), points).clamp(max=self.particles - 1)
        index = torch.gather(index, 1, uniform.argsort(1))  # shuffled, because neighbours would be siblings
        poor = ((size < self.threshold * self.particles) | always)[:, None]
        own = torch.arange(self.particles).to(index)
        start = self.particles * torch.arange(len(index)).to(index)[:, None]
        return (torch.where(poor, index, own) + start).flatten(), torch.where(poor, 0, log_w).flatten()
