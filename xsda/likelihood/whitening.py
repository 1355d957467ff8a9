"""Correlated observation errors: operator and observations are whitened, so that every method sees independent ones.

With errors of covariance S C S (S their standard deviations, C = L L' their correlation), L^-1 S^-1 y has independent errors of
variance one, and its operator is L^-1 S^-1 H.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Whitener(Protocol):
    """What a user's own model of correlated errors must offer."""

    def whiten(self, values: Tensor) -> Tensor:
        """L^-1 of ``values`` (batch, n), in units of their standard deviations, in the order of the observations."""


@dataclass(frozen=True, eq=False)
class Cholesky:
    """The dense correlation matrix L L' of n values."""

    lower: Tensor

    def whiten(self, values: Tensor) -> Tensor:
        return torch.linalg.solve_triangular(self.lower.to(values), values.mT, upper=False).mT

    def colour(self, values: Tensor) -> Tensor:
        """L of ``values``: the inverse of ``whiten``."""
        return values @ self.lower.to(values).mT

    def colour_back(self, values: Tensor) -> Tensor:
        """The transpose of ``colour``."""
        return values @ self.lower.to(values)

    def to(self, device: torch.device, dtype: torch.dtype) -> Cholesky:
        """The same on another device."""
        return Cholesky(self.lower.to(device, dtype))


class Whitening:
    """Whitens blocks (start, stop, std, whitener) of observed values, and leaves the others as they are."""

    def __init__(self, blocks: list[tuple[int, int, Tensor, Whitener]]):
        self.blocks = blocks

    def whiten(self, values: Tensor) -> Tensor:
        """Of (batch, M)."""
        parts, last = [], 0
        for start, stop, std, whitener in self.blocks:
            parts += [values[:, last:start], whitener.whiten(values[:, start:stop] / std.to(values))]
            last = stop
        return torch.cat([*parts, values[:, last:]], 1)

    @property
    def invertible(self) -> bool:
        """Whether ``colour`` is known: a user's own whitener need not have an inverse."""
        return all(isinstance(w, Cholesky) for *_, w in self.blocks)

    def colour(self, values: Tensor) -> Tensor:
        """The inverse of ``whiten``, of (batch, M)."""
        out = values.clone()
        for start, stop, std, w in self.blocks:
            assert isinstance(w, Cholesky)
            out[:, start:stop] = w.colour(values[:, start:stop]) * std.to(values)
        return out

    def colour_back(self, values: Tensor) -> Tensor:
        """The transpose of ``colour``."""
        out = values.clone()
        for start, stop, std, w in self.blocks:
            assert isinstance(w, Cholesky)
            out[:, start:stop] = w.colour_back(values[:, start:stop] * std.to(values))
        return out

    def deviations(self, values: Tensor) -> Tensor:
        """The standard deviations of what is whitened, one elsewhere, (M,) like ``values`` (batch, M)."""
        out = torch.ones_like(values[0])
        for start, stop, std, _ in self.blocks:
            out[start:stop] = std.to(values)
        return out

    def spread_back(self, values: Tensor) -> Tensor:
        """The transpose of ``whiten``."""
        with torch.enable_grad():
            x = torch.zeros_like(values).requires_grad_()
            return torch.autograd.grad(self.whiten(x), x, values)[0]

    def to(self, device: torch.device, dtype: torch.dtype) -> Whitening:
        """The same on another device, so that factors are not moved at every evaluation."""
        blocks = [
            (start, stop, std.to(device, dtype), w.to(device, dtype) if isinstance(w, Cholesky) else w)
            for start, stop, std, w in self.blocks
        ]
        return Whitening(blocks)
