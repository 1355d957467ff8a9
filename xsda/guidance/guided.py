r"""Combine the denoiser of a prior and a likelihood into the denoiser of the posterior.

.. math:: E[x_0 | x_t, y] = E[x_0 | x_t] + \frac{\sigma^2}{\alpha} \nabla_{x_t} \log p(y | x_t)

is exact. The methods differ in how they approximate p(y | x_t). The result is again a denoiser, so every sampler works
with every method. Members do not affect each other.
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
    """A way to approximate p(y | x_t); subclasses hold its options."""

    @abstractmethod
    def guide(self, denoiser: Denoiser, likelihood: Likelihood, error: ErrorCurve | None) -> GuidedDenoiser:
        """Build the denoiser of the posterior for one batch, sampled from noise to data.

        Parameters
        ----------
        denoiser
            Denoiser of the prior.
        likelihood
            Operator, observed values and law of their errors.
        error
            Measured error of the denoiser, if the prior stores it.

        Returns
        -------
        GuidedDenoiser
            A denoiser that any sampler can use.
        """

    def __str__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{f.name}={getattr(self, f.name)!r}' for f in fields(self))})"


class GuidedDenoiser(Denoiser):
    """Base class of the guided denoisers.

    One evaluation costs one evaluation of the prior's denoiser with its gradient. Subclasses define ``correction``.

    Parameters
    ----------
    denoiser
        Denoiser of the prior.
    likelihood
        Operator, observed values and law of their errors.
    error
        Measured error of the denoiser, if the prior stores it.
    """

    def __init__(self, denoiser: Denoiser, likelihood: Likelihood, error: ErrorCurve | None = None):
        super().__init__()
        self.denoiser = denoiser
        self.schedule = denoiser.schedule
        self.likelihood = likelihood
        self.curve = error
        self.residual = 0.0  # the largest relative residual of all solves

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        x0, change, _ = self.evaluate(x_t, t)
        return x0 + change

    def evaluate(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return E[x_0 | x_t], the change due to the observations, and H(E[x_0 | x_t])."""
        with torch.enable_grad():
            x_t = x_t.detach().requires_grad_()
            x0 = self.denoiser.linearised(x_t, t)
            predicted = self.likelihood.predict(x0)
        check_prediction(self.likelihood, x0, predicted)
        change = self.correction(x_t, t, x0, predicted)
        return x0.detach(), change.detach(), predicted.detach()

    def correction(self, x_t: Tensor, t: Tensor, x0: Tensor, predicted: Tensor) -> Tensor:
        """Return sigma^2 / alpha times the gradient of log p(y | x_t); ``predicted`` = H(x0) carries the graph."""
        raise TypeError(f"{type(self).__name__} must define correction()")

    def pull(self, weight: Tensor, x_t: Tensor, t: Tensor, predicted: Tensor, *, again: bool = False) -> Tensor:
        """Return V_t H' weight, which is sigma^2 / alpha times the gradient in x_t of weight . H(E[x_0 | x_t]).

        The graph is freed, unless it is needed ``again``.
        """
        gain = (self.schedule.sigma(t) ** 2 / self.schedule.alpha(t)).to(x_t)
        return gain * torch.autograd.grad(predicted, x_t, weight, retain_graph=again)[0]

    def own_error(self, x0: Tensor, t: Tensor) -> Tensor:
        """Return the root mean square error of the denoiser, (channel,).

        It comes from the error curve of the prior. Without one, the data are taken as independent standard normal
        numbers.
        """
        level = self.schedule.noise_level(t)
        error = self.curve(level) if self.curve is not None else _unit_error(level).expand(x0.shape[2])
        return error.to(x0)

    def own_variance(self, x0: Tensor, t: Tensor) -> Tensor:
        """Return the variance of H(x_0) given x_t that follows from this error, (batch, M)."""
        return self.likelihood.spread(x0.detach(), self.own_error(x0, t)) ** 2

    def complaint(self) -> str | None:
        """Return a warning for the user after the samples are drawn, or None."""
        return None

    def note(self, found: Solution) -> None:
        """Record how well a system was solved."""
        worst = float(found.residual.max())
        self.residual = max(self.residual, worst if math.isfinite(worst) else math.inf)

    def log_evidence(self, x0: Tensor, predicted: Tensor, t: Tensor) -> Tensor:
        """Return an estimate of log p(y | x_t) for each member, (batch,)."""
        return self.likelihood.log_evidence(predicted, self.own_variance(x0, t))


def _unit_error(level: Tensor) -> Tensor:
    """Error of the best denoiser of standard normal numbers."""
    return level / torch.sqrt(1 + level**2)


def check_prediction(likelihood: Likelihood, x0: Tensor, predicted: Tensor) -> None:
    """Raise if H, or its derivative, is not finite at a finite state.

    States that are themselves not finite are left to the sampler, which reports them.

    Parameters
    ----------
    likelihood
        Operator and observations.
    x0
        States (batch, time, channel, *space).
    predicted
        H(x0), (batch, M).

    Examples
    --------
    >>> from xsda.guidance.guided import check_prediction
    >>> rooted = xsda.likelihood.Likelihood(lambda x: x[:, 0].sqrt(), torch.ones(1), torch.ones(1), linear=False)
    >>> check_prediction(rooted, torch.ones(1, 1, 1), torch.ones(1, 1))
    """
    finite = torch.isfinite(x0).flatten(1).all(1)
    bad = finite[:, None] & ~torch.isfinite(predicted)
    if bool(bad.any()):
        raise ValueError(
            "the observation operator returned a value that is not finite, for observation "
            f"{int(bad.nonzero()[0, 1])}, from a finite state; a derived function must be defined for all states "
            f"({CARE})"
        )
    if not likelihood.linear:
        state = x0.detach()
        slopes = [likelihood.adjoint(state, torch.ones_like(predicted))]
        with contextlib.suppress(RuntimeError):  # some functions have only a backward derivative
            slopes.append(likelihood.tangent(state, torch.ones_like(state)))
        if any(bool((finite & ~torch.isfinite(s).flatten(1).all(1)).any()) for s in slopes):
            raise ValueError(f"the derivative of a derived function is not finite at a finite state ({CARE})")
