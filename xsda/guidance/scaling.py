"""Rules from practice for a changing number of observations N.

The likelihood gradient of the Gaussian score is a sum over observations and grows with N. With many observations it
explodes, and if it is divided by N, few observations have hardly any effect. With the variance std^2 + gamma s^2 at
noise level s, the rules are

===========  ==========================================================================================
sum          nothing is changed (the SDA paper)
mean         the whole variance is multiplied by N: the gradient of Gaussian errors is divided by N
std          std is multiplied by sqrt(N / N_ref): tempered observations, while gamma s^2 still dominates at high noise
dual         the whole variance is multiplied by N / N_ref, at every noise level
adaptive     the gradient is rescaled to xi times the norm of the prior's score
===========  ==========================================================================================

All but the first change the posterior that is sampled. They are meant for comparisons; use ``Calibrated`` or ``MMPS``
for results.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from xsda.arguments import real_number, whole_number

RULES = ("sum", "mean", "std", "dual", "adaptive")


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """How the likelihood gradient depends on the number of observations.

    Parameters
    ----------
    rule
        "sum", "mean", "std", "dual" or "adaptive".
    reference
        N_ref, the number of observations at which "std" and "dual" change nothing.
    xi
        Norm of the likelihood gradient divided by that of the prior's score, for "adaptive".
    """

    rule: str = "sum"
    reference: int | None = None
    xi: float = 1.0

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ValueError(f"rule={self.rule!r} is unknown; choose one of {RULES}")
        if self.reference is None and self.rule in ("std", "dual"):
            raise ValueError(
                f"rule={self.rule!r} needs reference=..., the number of observations at which it changes nothing"
            )
        if self.reference is not None:
            whole_number("reference", self.reference, least=1)
        real_number("xi", self.xi, "be positive: it is a ratio of norms", above=0)

    def variances(self, observed: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """Return the variances of the observations and of the prediction after scaling."""
        factor = observed.numel() / (1 if self.rule == "mean" or self.reference is None else self.reference)
        return (
            observed * factor if self.rule in ("mean", "std", "dual") else observed,
            own * factor if self.rule in ("mean", "dual") else own,
        )

    def rescale(self, gradient: Tensor, score: Tensor) -> Tensor:
        """Return the rescaled likelihood gradient of each member, given the prior's score."""
        if self.rule != "adaptive":
            return gradient

        def norm(x: Tensor) -> Tensor:
            return x.flatten(1).norm(dim=1).reshape(-1, *(1,) * (x.ndim - 1))

        return gradient * self.xi * norm(score) / norm(gradient).clamp(min=torch.finfo(gradient.dtype).tiny)
