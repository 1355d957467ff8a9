r"""The likelihood of observations y = H(x) + error, error ~ N(0, diag(std^2)), as tensors.

``operator`` maps standardised trajectories (batch, time, channel, *space) to (batch, M), differentiably.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Operator = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class GaussianLikelihood:
    """M observed values ``y`` with independent errors of standard deviation ``std``; both (M,)."""

    operator: Operator
    y: Tensor
    std: Tensor
    linear: bool = True

    def log_prob(self, x0: Tensor) -> Tensor:
        """log p(y | x_0) of each member, (batch,)."""
        z = (self.y - self.operator(x0)) / self.std
        return -(z.square() / 2 + self.std.log() + 0.5 * torch.log(torch.tensor(2 * torch.pi))).sum(-1)

    def tangent(self, x0: Tensor, direction: Tensor) -> Tensor:
        """The derivative of H at ``x0`` applied to ``direction``, (batch, M)."""
        if self.linear:
            return self.operator(direction) - self.operator(torch.zeros_like(direction[:1]))
        return torch.func.jvp(self.operator, (x0,), (direction,))[1]

    def spread(self, x0: Tensor, error: Tensor) -> Tensor:
        """Standard deviation of H(x_0) when x_0 has errors ``error`` that are the same across what H averages.

        ``error``: (channel,), one standard deviation per channel. Fully correlated errors are the safe assumption: an
        average over a block does not make a shared error smaller. Where H takes differences, the shared error
        cancels, and independent errors, estimated with a few random sign patterns, are the safe side.
        """
        shape = (1, 1, -1, *(1,) * (x0.ndim - 3))
        field = error.to(x0).reshape(shape).expand_as(x0)
        shared = self.tangent(x0, field)
        if self.linear:
            return shared.abs()
        generator = torch.Generator().manual_seed(0)
        signs = torch.randint(0, 2, (8, *x0.shape[1:]), generator=generator).to(x0) * 2 - 1
        independent = torch.stack([self.tangent(x0, field * s).square() for s in signs]).mean(0)
        return torch.maximum(shared.square(), independent).sqrt()

    def to(self, device: torch.device, dtype: torch.dtype) -> GaussianLikelihood:
        """The same likelihood on another device."""
        move = getattr(self.operator, "to", None)
        operator = move(device, dtype) if move is not None else self.operator
        return GaussianLikelihood(operator, self.y.to(device, dtype), self.std.to(device, dtype), self.linear)
