r"""Guidance: from a denoiser of the prior and a likelihood to the denoiser of the posterior.

.. math:: E[x_0 | x_t, y] = E[x_0 | x_t] + \frac{\sigma^2}{\alpha} \nabla_{x_t} \log p(y | x_t)

is exact; the methods differ in how they approximate p(y | x_t). The result is again a denoiser, so every sampler works
with every method. Members never see each other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from xsda.diffusion.denoisers import Denoiser
from xsda.diffusion.error import ErrorCurve
from xsda.guidance.likelihood import GaussianLikelihood


@dataclass(frozen=True, kw_only=True)
class Guidance(ABC):
    """A way to approximate p(y | x_t)."""

    @abstractmethod
    def guide(self, denoiser: Denoiser, likelihood: GaussianLikelihood, error: ErrorCurve | None) -> Denoiser:
        """The denoiser of the posterior, for one batch of trajectories sampled from noise to data."""

    def __str__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in asdict(self).items())})"


class GuidedDenoiser(Denoiser):
    """Base of the guided denoisers: one evaluation of the prior's denoiser, with its graph, per evaluation."""

    def __init__(self, denoiser: Denoiser, likelihood: GaussianLikelihood):
        super().__init__()
        self.denoiser = denoiser
        self.schedule = denoiser.schedule
        self.likelihood = likelihood

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        with torch.enable_grad():
            x_t = x_t.detach().requires_grad_()
            x0 = self.denoiser(x_t, t)
            predicted = self.likelihood.operator(x0)
        return (x0 + self.correction(x_t, t, x0, predicted)).detach()

    def correction(self, x_t: Tensor, t: Tensor, x0: Tensor, predicted: Tensor) -> Tensor:
        """sigma^2 / alpha times the gradient of log p(y | x_t); ``predicted`` = H(x0) carries the graph."""
        raise TypeError(f"{type(self).__name__} must define correction()")

    def gain(self, t: Tensor, like: Tensor) -> Tensor:
        """sigma^2 / alpha."""
        return (self.schedule.sigma(t) ** 2 / self.schedule.alpha(t)).to(like)
