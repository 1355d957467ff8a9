r"""Diffusion posterior sampling (Chung et al. 2022, arXiv 2209.14687).

.. math:: \nabla_{x_t} \log p(y | x_t) \approx -\frac{\zeta}{\|y - H(\hat x_0)\|} \nabla_{x_t} \|y - H(\hat x_0)\|^2

The observation error does not appear, and ``zeta`` has to be tuned for every problem. The norm is taken for each member
separately.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from xsda.arguments import real_number
from xsda.diffusion.denoisers import Denoiser
from xsda.diffusion.error import ErrorCurve
from xsda.guidance.guided import Guidance, GuidedDenoiser
from xsda.likelihood.likelihood import Likelihood


@dataclass(frozen=True, kw_only=True)
class DPS(Guidance):
    """Diffusion posterior sampling, for comparison with the literature.

    Parameters
    ----------
    zeta
        Strength of the observations.
    """

    zeta: float = 1.0

    def __post_init__(self) -> None:
        real_number("zeta", self.zeta, "be positive: it is the strength of the observations", above=0)

    def guide(self, denoiser: Denoiser, likelihood: Likelihood, error: ErrorCurve | None) -> GuidedDenoiser:
        if not likelihood.gaussian:
            raise ValueError(
                "DPS does not use observation errors, so it cannot use a law for them; choose another guidance, such "
                "as 'calibrated'"
            )
        return _DPS(denoiser, likelihood, error, self.zeta)


class _DPS(GuidedDenoiser):
    def __init__(self, denoiser: Denoiser, likelihood: Likelihood, error: ErrorCurve | None, zeta: float):
        super().__init__(denoiser, likelihood, error)
        self.zeta = zeta

    def correction(self, x_t: Tensor, t: Tensor, x0: Tensor, predicted: Tensor) -> Tensor:
        innovation = self.likelihood.y - predicted.detach()
        norm = innovation.norm(dim=1, keepdim=True).clamp(min=torch.finfo(innovation.dtype).tiny)
        return self.pull(2 * self.zeta * innovation / norm, x_t, t, predicted)
