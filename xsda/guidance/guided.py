r"""Guidance: from a denoiser of the prior and a likelihood to the denoiser of the posterior.

.. math:: E[x_0 | x_t, y] = E[x_0 | x_t] + \frac{\sigma^2}{\alpha} \nabla_{x_t} \log p(y | x_t)

is exact; the methods differ in how they approximate p(y | x_t). The result is again a denoiser, so every sampler works
with every method. Members never see each other.
"""

from __future__ import annotations

import contextlib
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from xsda.diffusion.denoisers import Denoiser
from xsda.diffusion.error import ErrorCurve
from xsda.guidance.solvers import Solution
from xsda.likelihood.likelihood import CARE, Likelihood


@dataclass(frozen=True, kw_only=True)
class Guidance(ABC):
    """A way to approximate p(y | x_t)."""

    @abstractmethod
    def guide(self, denoiser: Denoiser, likelihood: Likelihood, error: ErrorCurve | None) -> GuidedDenoiser:
        """The denoiser of the posterior, for one batch of trajectories sampled from noise to data."""

    def __str__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{f.name}={getattr(self, f.name)!r}' for f in fields(self))})"


class GuidedDenoiser(Denoiser):
    """Base of the guided denoisers: one evaluation of the prior's denoiser, with its graph, per evaluation."""

    def __init__(self, denoiser: Denoiser, likelihood: Likelihood, error: ErrorCurve | None = None):
        super().__init__()
        self.denoiser = denoiser
        self.schedule = denoiser.schedule
        self.likelihood = likelihood
        self.curve = error
        self.residual = 0.0  # the largest relative residual that a solve has left

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        x0, change, _ = self.evaluate(x_t, t)
        return x0 + change

    def evaluate(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """E[x_0 | x_t], what the observations add to it, and H(E[x_0 | x_t])."""
        with torch.enable_grad():
            x_t = x_t.detach().requires_grad_()
            x0 = self.denoiser(x_t, t)
            predicted = self.likelihood.predict(x0)
        check_prediction(self.likelihood, x0, predicted)
        change = self.correction(x_t, t, x0, predicted)
        return x0.detach(), change.detach(), predicted.detach()

    def correction(self, x_t: Tensor, t: Tensor, x0: Tensor, predicted: Tensor) -> Tensor:
        """sigma^2 / alpha times the gradient of log p(y | x_t); ``predicted`` = H(x0) carries the graph."""
        raise TypeError(f"{type(self).__name__} must define correction()")

    def pull(self, weight: Tensor, x_t: Tensor, t: Tensor, predicted: Tensor, *, again: bool = False) -> Tensor:
        """sigma^2 / alpha times the gradient in x_t of weight . H(E[x_0 | x_t]): V_t H' weight.

        What it takes is freed on the way, unless it will be asked for ``again``.
        """
        gain = (self.schedule.sigma(t) ** 2 / self.schedule.alpha(t)).to(x_t)
        return gain * torch.autograd.grad(predicted, x_t, weight, retain_graph=again)[0]

    def own_error(self, x0: Tensor, t: Tensor) -> Tensor:
        """The denoiser's root mean square error, (channel,).

        From the prior's error curve; where it has none, as if the data were independent standard normal numbers.
        """
        level = self.schedule.noise_level(t)
        error = self.curve(level) if self.curve is not None else _unit_error(level).expand(x0.shape[2])
        return error.to(x0)

    def own_variance(self, x0: Tensor, t: Tensor) -> Tensor:
        """Variance of H(x_0) given x_t that follows from it, (batch, M)."""
        return self.likelihood.spread(x0.detach(), self.own_error(x0, t)) ** 2

    def complaint(self) -> str | None:
        """What the user should know once the samples are drawn."""
        return None

    def note(self, found: Solution) -> None:
        """Remember how well a system was solved."""
        worst = float(found.residual.max())
        self.residual = max(self.residual, worst if math.isfinite(worst) else math.inf)

    def log_evidence(self, x0: Tensor, predicted: Tensor, t: Tensor) -> Tensor:
        """An estimate of log p(y | x_t) of each member, (batch,)."""
        return self.likelihood.log_evidence(predicted, self.own_variance(x0, t))


def _unit_error(level: Tensor) -> Tensor:
    """Error of the best denoiser of standard normal numbers."""
    return level / torch.sqrt(1 + level**2)


def check_prediction(likelihood: Likelihood, x0: Tensor, predicted: Tensor) -> None:
    """Raise where H makes NaN of a finite state, or its derivative does; what the sampler does wrong is found by the sampler."""
    finite = torch.isfinite(x0).flatten(1).all(1)
    bad = finite[:, None] & ~torch.isfinite(predicted)
    if bool(bad.any()):
        raise ValueError(
            f"the observation operator returned a value that is not finite, for observation {int(bad.nonzero()[0, 1])}, from a finite "
            f"state; a derived function must be defined for all states ({CARE})"
        )
    if not likelihood.linear:
        state = x0.detach()
        slopes = [likelihood.adjoint(state, torch.ones_like(predicted))]
        with contextlib.suppress(RuntimeError):  # some functions have only a backward derivative
            slopes.append(likelihood.tangent(state, torch.ones_like(state)))
        if any(bool((finite & ~torch.isfinite(s).flatten(1).all(1)).any()) for s in slopes):
            raise ValueError(f"the derivative of a derived function is not finite at a finite state ({CARE})")
