r"""Tweedie moment projected diffusion, TMPD (Boys et al. 2023, arXiv 2310.06721), in its diagonal form.

.. math:: p(y | x_t) \approx N(y;\, H \hat x_0,\, R + \mathrm{diag}(H V_t H' 1)), \qquad
   V_t = \frac{\sigma^2}{\alpha} \frac{\partial \hat x_0}{\partial x_t}

One product with the Jacobian gives the row sums of H V_t H'. They count correlated errors as large errors.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from xsda.diffusion.denoisers import Denoiser
from xsda.diffusion.error import ErrorCurve
from xsda.guidance.guided import Guidance, GuidedDenoiser
from xsda.likelihood.likelihood import Likelihood


@dataclass(frozen=True, kw_only=True)
class TMPD(Guidance):
    """Moment projection with the row sums of the Jacobian; two backward passes per step."""

    def guide(self, denoiser: Denoiser, likelihood: Likelihood, error: ErrorCurve | None) -> GuidedDenoiser:
        return _TMPD(denoiser, likelihood, error)


class _TMPD(GuidedDenoiser):
    def correction(self, x_t: Tensor, t: Tensor, x0: Tensor, predicted: Tensor) -> Tensor:
        back = self.pull(torch.ones_like(predicted), x_t, t, predicted, again=True)
        rows = self.likelihood.tangent(x0.detach(), back).clamp(min=0)
        return self.pull(self.likelihood.score(predicted.detach(), rows), x_t, t, predicted)
