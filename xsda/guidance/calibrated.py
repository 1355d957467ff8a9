r"""The Gaussian score with the denoiser's own error in place of gamma.

.. math:: p(y | x_t) \approx N(y;\, H(\hat x_0),\, \mathrm{diag}(\mathrm{std}^2 + r^2(s)))

where r(s)^2 is the denoiser's mean squared error at noise level s, measured on validation data and stored with the prior.
That is an average; where a trajectory is about to branch the error is far larger and innovations of many standard
deviations occur, which would overshoot, and blow up in few steps. They are therefore taken at most ``limit`` standard
deviations long.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from xsda.diffusion.denoisers import Denoiser
from xsda.diffusion.error import ErrorCurve
from xsda.guidance.base import Guidance, GuidedDenoiser
from xsda.guidance.likelihood import Likelihood
from xsda.guidance.solvers import conjugate_gradients


@dataclass(frozen=True, kw_only=True)
class Calibrated(Guidance):
    """Variance of the observations plus the denoiser's own error at each noise level, from the prior's error curve.

    Parameters
    ----------
    limit
        Innovations count at most this many standard deviations.
    correlated
        Take the correlation of the denoiser's errors along time and space into account.
    """

    limit: float = 5.0
    correlated: bool = False

    def __post_init__(self) -> None:
        if not self.limit > 0:
            raise ValueError(f"limit={self.limit} must be positive: it is a number of standard deviations")

    def guide(self, denoiser: Denoiser, likelihood: Likelihood, error: ErrorCurve | None) -> GuidedDenoiser:
        if error is None:
            raise ValueError(
                "guidance='calibrated' needs the prior's error curve, which this prior does not store; use guidance='mmps' "
                "or 'sda', or make the prior with xsda.train"
            )
        if not self.correlated:
            return _Calibrated(denoiser, likelihood, error, self.limit)
        if error.lag is None:
            raise ValueError(
                "this prior does not store how its errors are correlated; use Calibrated(correlated=False)"
            )
        return _Correlated(denoiser, likelihood, error, self.limit)


class _Calibrated(GuidedDenoiser):
    def __init__(self, denoiser: Denoiser, likelihood: Likelihood, error: ErrorCurve, limit: float):
        super().__init__(denoiser, likelihood, error)
        self.limit = limit

    def correction(self, x_t: Tensor, t: Tensor, x0: Tensor, predicted: Tensor) -> Tensor:
        weight = self.likelihood.score(predicted.detach(), self.own_variance(x0, t), self.limit)
        return self.pull(weight, x_t, t, predicted)


class _Correlated(_Calibrated):
    def complaint(self) -> str | None:
        if self.residual <= 0.1:
            return None
        return f"the solves of Calibrated(correlated=True) left relative residuals of up to {self.residual:.2g} after 100 iterations"

    def correction(self, x_t: Tensor, t: Tensor, x0: Tensor, predicted: Tensor) -> Tensor:
        level, state = self.schedule.noise_level(t), x0.detach()
        own = self.own_variance(x0, t)
        innovation, variance = self.likelihood.sites(predicted.detach(), own, self.limit)
        scale = variance.sqrt()
        assert self.curve is not None
        size = self.curve(level).to(x0).reshape(1, 1, -1, *(1,) * (x0.ndim - 3))
        neighbours = self.curve.correlation(level).tolist()

        def product(u: Tensor) -> tuple[Tensor, Tensor]:
            """(nothing, R^-1/2 (R + H D C D H') R^-1/2 u)."""
            back = size * self.likelihood.adjoint(state, u / scale)
            for axis, rho in zip((1, *range(3, x0.ndim)), neighbours, strict=True):
                back = _along(back, rho, axis)
            return u[:, :0], u + self.likelihood.tangent(state, size * back) / scale

        found = conjugate_gradients(product, innovation / scale, None, tolerance=0.02, iterations=100)
        self.note(found)
        return self.pull(found.u / scale, x_t, t, predicted)


def _along(x: Tensor, rho: float, axis: int) -> Tensor:
    """The matrix rho^|i - j| applied along an axis."""
    n = torch.arange(x.shape[axis], device=x.device)
    matrix = torch.pow(torch.tensor(rho, dtype=x.dtype, device=x.device), (n[:, None] - n).abs())
    return (x.transpose(axis, -1) @ matrix).transpose(axis, -1)
