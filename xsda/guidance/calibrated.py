r"""The Gaussian score with the denoiser's own error in place of gamma.

.. math:: p(y | x_t) \approx N(y;\, H(\hat x_0),\, \mathrm{diag}(\mathrm{std}^2 + r^2(s)))

where r(s)^2 is the denoiser's mean squared error at noise level s, measured on validation data and stored with the prior.
That is an average; where a trajectory is about to branch the error is far larger and innovations of many standard
deviations occur, which would overshoot, and blow up in few steps. They are therefore taken at most ``limit`` standard
deviations long.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from xsda.diffusion.denoisers import Denoiser
from xsda.diffusion.error import ErrorCurve
from xsda.guidance.base import Guidance, GuidedDenoiser
from xsda.guidance.likelihood import Likelihood


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

    def guide(self, denoiser: Denoiser, likelihood: Likelihood, error: ErrorCurve | None) -> GuidedDenoiser:
        if error is None:
            raise ValueError(
                "guidance='calibrated' needs the prior's error curve, which this prior does not store; use guidance='mmps' "
                "or 'sda', or make the prior with xsda.train"
            )
        return _Calibrated(denoiser, likelihood, error, self.limit)


class _Calibrated(GuidedDenoiser):
    def __init__(self, denoiser: Denoiser, likelihood: Likelihood, error: ErrorCurve, limit: float):
        super().__init__(denoiser, likelihood, error)
        self.limit = limit

    def correction(self, x_t: Tensor, t: Tensor, x0: Tensor, predicted: Tensor) -> Tensor:
        weight = self.likelihood.score(predicted.detach(), self.own_variance(x0, t), self.limit)
        return self.pull(weight, x_t, t, predicted)
