r"""The reverse process, from noise to a sample, with any denoiser.

A sampler follows a decreasing grid of times. Every transition costs one or two evaluations of the denoiser, and the
last evaluation returns E[x_0 | x_t] at the smallest noise. After each transition, ``corrections`` Langevin steps can
reduce errors of the transition or of an approximate guidance:

.. math:: x \leftarrow x - \delta\, \sigma\, \hat\varepsilon + \sqrt{2\delta}\, \sigma z,
   \qquad \delta = \tau / \max(1, \overline{\hat\varepsilon^2}).

The bound on delta matters. Well-observed numbers have a small eps, so the usual tau / mean(eps^2) makes their steps far
too large and inflates their spread.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor

from xsda.arguments import real_number
from xsda.diffusion.denoisers import Denoiser, noise_estimate
from xsda.diffusion.samplers.grids import GRIDS, time_grid
from xsda.diffusion.schedules import Schedule

Draw = Callable[[], Tensor]


class NonFiniteSampleError(FloatingPointError):
    """A member of the ensemble became NaN or infinite."""


@dataclass(frozen=True, kw_only=True)
class Sampler(ABC):
    """Base class of all samplers.

    Parameters
    ----------
    steps
        Number of times on the grid.
    grid
        Spacing of the times: "log_snr", "centered", "linear" or "karras"; see ``time_grid``.
    high, low
        Noise levels at which to start and to end, in standard deviations of the data. Default: those of the schedule.
    corrections
        Number of Langevin corrections after each transition. Each costs one evaluation.
    tau
        Size of a correction.
    bounded
        Bound the size of the corrections (see the introduction of this module). ``False`` gives the usual rule.
    resampling
        Number of times that every transition is repeated, going back by adding noise in between (the time travel of
        RePaint).
    """

    steps: int = 32
    grid: str = "log_snr"
    high: float | None = None
    low: float | None = None
    corrections: int = 0
    tau: float = 0.1
    bounded: bool = True
    resampling: int = 0

    evaluations_per_step: ClassVar[int] = 1
    notes: ClassVar[tuple[str, ...]] = ()  # names of what ``sample`` records about each member

    @property
    def population(self) -> int:
        """Number of members that depend on each other; more than one for weighted particles."""
        return 1

    def complaint(self, notes: Mapping[str, Tensor]) -> str | None:
        """Return a warning for the user about ``notes``, or None."""
        return None

    def __post_init__(self) -> None:
        for name in ("steps", "corrections", "resampling"):
            if isinstance(getattr(self, name), bool) or not isinstance(getattr(self, name), int):
                raise ValueError(f"{name}={getattr(self, name)!r} must be an integer")
        if self.steps < 2:
            raise ValueError(f"steps={self.steps} must be at least 2")
        for name in ("corrections", "resampling"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must not be negative")
        if not self.tau > 0:
            raise ValueError(f"tau={self.tau} must be positive: it is the size of a Langevin correction")
        if self.grid not in GRIDS:
            raise ValueError(f"grid={self.grid!r} is unknown; choose one of {GRIDS}")
        for name in ("high", "low"):
            if getattr(self, name) is not None:
                real_number(name, getattr(self, name), "be positive: it is a noise level", above=0)

    @abstractmethod
    def transition(
        self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, draw: Draw, memory: dict[str, Any]
    ) -> Tensor:
        """Move from time ``t`` to the smaller time ``s``; ``memory`` lasts for one trajectory."""

    def integrate(
        self,
        denoiser: Denoiser,
        x: Tensor,
        times: Tensor,
        draw: Draw,
        *,
        callback: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Carry x from ``times[0]`` to ``times[-1]``.

        Parameters
        ----------
        denoiser
            The denoiser, guided or not.
        x
            States at ``times[0]``, (batch, ...).
        times
            Decreasing times.
        draw
            Function that returns standard normal numbers in the shape of ``x``.
        callback
            Called with the number of each step.

        Returns
        -------
        Tensor
            States at ``times[-1]``.
        """
        memory: dict[str, Any] = {}
        for i, (t, s) in enumerate(pairwise(times)):
            before = dict(memory)
            for again in range(self.resampling + 1):
                if again:
                    x, memory = _back(denoiser.schedule, x, s, t, draw), dict(before)
                x = self.transition(denoiser, x, t, s, draw, memory)
                if "x0" in before:
                    # a multistep method extrapolates from its first state at t: added noise is not part of its path
                    before.setdefault("arrived", memory["x0"])
                for _ in range(self.corrections):
                    x0, eps = predict(denoiser, x, s)
                    # a multistep method extrapolates from here: the noise of corrections is not part of its path
                    memory.setdefault("arrived", x0)
                    x = langevin(denoiser.schedule, x, eps, s, draw, self.tau, bounded=self.bounded)
            check_finite(x, i, len(times), draw)
            if callback is not None:
                callback(i)
        return x

    def sample(
        self,
        denoiser: Denoiser,
        draw: Draw,
        *,
        callback: Callable[[int], None] | None = None,
        notes: dict[str, Tensor] | None = None,
    ) -> Tensor:
        """Draw samples: start from noise at t = 1, integrate to t = 0, and denoise.

        Parameters
        ----------
        denoiser
            The denoiser, guided or not.
        draw
            Function that returns standard normal numbers (batch, ...), such as ``MemberNoise``.
        callback
            Called with the number of each step.
        notes
            Receives what the sampler records about each member (see ``TDS``).

        Returns
        -------
        Tensor
            Samples, (batch, ...).
        """
        z = draw()
        times = self.times(denoiser.schedule).to(z.device)
        scale = torch.sqrt(denoiser.schedule.alpha(times[0]) ** 2 + denoiser.schedule.sigma(times[0]) ** 2)
        with torch.no_grad():
            x = self.integrate(denoiser, z * scale.to(z), times, draw, callback=callback)
            x = denoiser(x, times[-1])
        check_finite(x, self.steps - 1, self.steps, draw)
        if callback is not None:
            callback(self.steps - 1)
        return x

    def times(self, schedule: Schedule) -> Tensor:
        """Return the times at which the denoiser is evaluated."""
        return time_grid(schedule, self.steps, self.grid, high=self.high, low=self.low)

    @property
    def evaluations(self) -> int:
        """Number of evaluations of the denoiser in one call of ``sample``."""
        return (self.steps - 1) * (self.evaluations_per_step + self.corrections) * (self.resampling + 1) + 1

    def __str__(self) -> str:
        shown = {k: v for k, v in asdict(self).items() if k == "steps" or v != _default(type(self), k)}
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in shown.items())})"


def _default(cls: type[Sampler], name: str) -> Any:
    return next(f.default for f in fields(cls) if f.name == name)


def _back(schedule: Schedule, x: Tensor, s: Tensor, t: Tensor, draw: Draw) -> Tensor:
    """Go from time ``s`` to the larger time ``t`` by adding noise."""
    step = schedule.alpha(t) / schedule.alpha(s)
    return step.to(x) * x + torch.sqrt(schedule.sigma(t) ** 2 - (step * schedule.sigma(s)) ** 2).to(x) * draw()


def langevin(schedule: Schedule, x: Tensor, eps: Tensor, t: Tensor, draw: Draw, tau: float, *, bounded: bool) -> Tensor:
    """Make one Langevin step at time ``t``.

    Parameters
    ----------
    schedule
        The diffusion process.
    x, eps
        States and E[eps | x_t], (batch, ...).
    t
        Time.
    draw
        Function that returns standard normal numbers in the shape of ``x``.
    tau
        Size of the step.
    bounded
        Whether to bound the size of the step. Each member has its own size.

    Returns
    -------
    Tensor
        New states.

    Examples
    --------
    >>> from xsda.diffusion.samplers import langevin
    >>> x, t = torch.ones(1, 4), torch.tensor(0.5)
    >>> langevin(xsda.diffusion.VE(), x, torch.zeros(1, 4), t, lambda: torch.zeros(1, 4), 0.1, bounded=True)
    tensor([[1., 1., 1., 1.]])
    """
    mean_square = eps.flatten(1).square().mean(1)
    delta = tau / (mean_square.clamp(min=1) if bounded else mean_square)
    delta = delta.reshape(-1, *(1,) * (x.ndim - 1))
    sigma = schedule.sigma(t).to(x)
    return x - delta * sigma * eps + torch.sqrt(2 * delta) * sigma * draw()


def check_finite(x: Tensor, step: int, steps: int, draw: Draw) -> None:
    """Raise if a member is not finite.

    Parameters
    ----------
    x
        States (batch, ...).
    step, steps
        Number of this step, and of all steps.
    draw
        Source of the noise, which knows the numbers of the members.

    Examples
    --------
    >>> from xsda.diffusion.samplers.sampler import check_finite
    >>> check_finite(torch.zeros(2, 3), 0, 10, None)
    """
    bad = ~torch.isfinite(x.flatten(1)).all(1)
    if bool(bad.any()):
        names = getattr(draw, "members", list(range(len(x))))
        members = [names[i] for i in torch.nonzero(bad).flatten().tolist()]
        raise NonFiniteSampleError(
            f"member {', '.join(map(str, members[:8]))} became non-finite at step {step + 1} of {steps}. Try more "
            "steps, corrections (sampler=DPMpp2MSDE(steps=128, corrections=1)) or the default guidance ('auto'), and "
            "check that sigma is not far too small for the observations."
        )


def time_posterior(schedule: Schedule, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the distribution of x_s given x_t and x_0, for s < t.

    Parameters
    ----------
    schedule
        The diffusion process.
    t, s
        Times.

    Returns
    -------
    a, b, variance : Tensor
        The mean is a x_t + b x_0.

    Examples
    --------
    >>> from xsda.diffusion.samplers.sampler import time_posterior
    >>> a, b, variance = time_posterior(xsda.diffusion.VE(), torch.tensor(0.5), torch.tensor(0.4))
    >>> round(float(a + b), 5)
    1.0
    """
    alpha_t, sigma_t, alpha_s, sigma_s = schedule.alpha(t), schedule.sigma(t), schedule.alpha(s), schedule.sigma(s)
    step = alpha_t / alpha_s
    variance = sigma_t**2 - (step * sigma_s) ** 2
    return step * sigma_s**2 / sigma_t**2, alpha_s * variance / sigma_t**2, variance * sigma_s**2 / sigma_t**2


def predict(denoiser: Denoiser, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Return (E[x_0 | x_t], E[eps | x_t]) from one evaluation.

    Parameters
    ----------
    denoiser
        The denoiser.
    x
        Noisy states.
    t
        Time.

    Returns
    -------
    x0, eps : Tensor
        Estimates of the clean state and of the noise.

    Examples
    --------

    >>> from xsda.diffusion.samplers.sampler import predict
    >>> from xsda.priors.exact import GaussianDenoiser
    >>> normal = GaussianDenoiser.of(torch.zeros(1, 2), torch.eye(2)[None], torch.ones(1), (2, 1))
    >>> x0, eps = predict(normal, torch.zeros(1, 2, 1), torch.tensor(0.5))
    >>> x0.flatten()
    tensor([0., 0.])
    """
    x0 = denoiser(x, t)
    return x0, noise_estimate(denoiser.schedule, x, x0, t)
