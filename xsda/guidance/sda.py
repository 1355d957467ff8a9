r"""The Gaussian score of SDA (Rozet & Louppe 2023, arXiv 2306.10574) and its calibrated form.

.. math:: p(y | x_t) \approx N(y;\, H(\hat x_0),\, \mathrm{diag}(\mathrm{std}^2 + v_t))

with :math:`v_t = \gamma\,\sigma^2/\alpha^2` in the paper. ``Calibrated`` needs no gamma: v_t is the denoiser's own mean
squared error at that noise level, measured on validation data and stored with the prior. That is an average; where a
trajectory is about to branch the error is far larger and innovations of many standard deviations occur, which would
overshoot, and blow up in few steps. They are therefore taken at most ``limit`` standard deviations long.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from xsda.diffusion.denoisers import Denoiser
from xsda.diffusion.error import ErrorCurve
from xsda.guidance.base import Guidance, GuidedDenoiser
from xsda.guidance.likelihood import GaussianLikelihood


@dataclass(frozen=True, kw_only=True)
class GaussianScore(Guidance):
    """The paper's recipe.

    Parameters
    ----------
    gamma
        Variance added to that of the observations, in units of the noise level squared (scaled variables).
    detach
        Take the denoiser's Jacobian as the identity over alpha: no backward pass through the network.
    """

    gamma: float = 1e-2
    detach: bool = False

    def __post_init__(self) -> None:
        if not self.gamma >= 0:
            raise ValueError(f"gamma={self.gamma} must not be negative: it is a variance")

    def guide(self, denoiser: Denoiser, likelihood: GaussianLikelihood, error: ErrorCurve | None) -> Denoiser:
        return _GaussianScore(denoiser, likelihood, self.gamma, self.detach)


class _GaussianScore(GuidedDenoiser):
    def __init__(self, denoiser: Denoiser, likelihood: GaussianLikelihood, gamma: float, detach: bool):
        super().__init__(denoiser, likelihood)
        self.gamma, self.detach = gamma, detach

    def correction(self, x_t: Tensor, t: Tensor, x0: Tensor, predicted: Tensor) -> Tensor:
        variance = self.likelihood.std**2 + (self.gamma * self.schedule.noise_level(t) ** 2).to(x0)
        weight = (self.likelihood.y - predicted.detach()) / variance
        if self.detach:
            return self.gain(t, x0) * torch.autograd.grad(predicted, x0, weight)[0] / self.schedule.alpha(t).to(x0)
        return self.gain(t, x0) * torch.autograd.grad(predicted, x_t, weight)[0]


@dataclass(frozen=True, kw_only=True)
class Calibrated(Guidance):
    """Variance of the observations plus the denoiser's own error at each noise level, from the prior's error curve.

    Parameters
    ----------
    limit
        Innovations count at most this many standard deviations.
    """

    limit: float = 5.0

    def __post_init__(self) -> None:
        if not self.limit > 0:
            raise ValueError(f"limit={self.limit} must be positive: it is a number of standard deviations")

    def guide(self, denoiser: Denoiser, likelihood: GaussianLikelihood, error: ErrorCurve | None) -> Denoiser:
        if error is None:
            raise ValueError(
                "guidance='calibrated' needs the prior's error curve, which this prior does not store; use guidance='mmps' "
                "or 'sda', or make the prior with xsda.train"
            )
        return _Calibrated(denoiser, likelihood, error, self.limit)


class _Calibrated(GuidedDenoiser):
    def __init__(self, denoiser: Denoiser, likelihood: GaussianLikelihood, error: ErrorCurve, limit: float):
        super().__init__(denoiser, likelihood)
        self.curve, self.limit = error, limit

    def correction(self, x_t: Tensor, t: Tensor, x0: Tensor, predicted: Tensor) -> Tensor:
        own = self.likelihood.spread(x0.detach(), self.curve(self.schedule.noise_level(t)))
        variance = self.likelihood.std**2 + own**2
        innovation = self.likelihood.y - predicted.detach()
        reach = self.limit * variance.sqrt()
        weight = innovation.clamp(-reach, reach) / variance
        return self.gain(t, x0) * torch.autograd.grad(predicted, x_t, weight)[0]
