"""Whitening of correlated observation errors, so that every method can treat errors as independent.

Let the errors have the covariance S C S, with the standard deviations S and the correlations C = L L'. Then the errors
of L^-1 S^-1 y are independent with variance one, and the operator of these values is L^-1 S^-1 H.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Whitener(Protocol):
    """The method that a user's own model of correlated errors must have."""

    def whiten(self, values: Tensor) -> Tensor:
        """Apply L^-1.

        Parameters
        ----------
        values
            (batch, n) in units of their standard deviations, in the order of the observations.

        Returns
        -------
        Tensor
            Whitened values, (batch, n).
        """


@dataclass(frozen=True, eq=False)
class Cholesky:
    """A dense correlation matrix L L' of n values.

    Parameters
    ----------
    lower
        L, (n, n).

    Examples
    --------
    >>> from xsda.likelihood.whitening import Cholesky
    >>> errors = Cholesky(torch.linalg.cholesky(torch.tensor([[1.0, 0.6], [0.6, 1.0]])))
    >>> errors.whiten(torch.tensor([[1.0, 1.4]]))
    tensor([[1.0000, 1.0000]])
    """

    lower: Tensor

    def whiten(self, values: Tensor) -> Tensor:
        return torch.linalg.solve_triangular(self.lower.to(values), values.mT, upper=False).mT

    def colour(self, values: Tensor) -> Tensor:
        """Apply L, the inverse of ``whiten``."""
        return values @ self.lower.to(values).mT

    def colour_back(self, values: Tensor) -> Tensor:
        """Apply the transpose of ``colour``."""
        return values @ self.lower.to(values)

    def to(self, device: torch.device, dtype: torch.dtype) -> Cholesky:
        """Return the same matrix on another device."""
        return Cholesky(self.lower.to(device, dtype))


class Whitening:
    """Whiten blocks of observed values and leave the other values unchanged.

    Parameters
    ----------
    blocks
        (start, stop, std, whitener) of each block.
    """

    def __init__(self, blocks: list[tuple[int, int, Tensor, Whitener]]):
        self.blocks = blocks

    def whiten(self, values: Tensor) -> Tensor:
        """Whiten values (batch, M)."""
        parts, last = [], 0
        for start, stop, std, whitener in self.blocks:
            parts += [values[:, last:start], whitener.whiten(values[:, start:stop] / std.to(values))]
            last = stop
        return torch.cat([*parts, values[:, last:]], 1)

    @property
    def invertible(self) -> bool:
        """Whether ``colour`` is known. A user's own whitener need not have an inverse."""
        return all(isinstance(w, Cholesky) for *_, w in self.blocks)

    def colour(self, values: Tensor) -> Tensor:
        """Apply the inverse of ``whiten`` to values (batch, M)."""
        out = values.clone()
        for start, stop, std, w in self.blocks:
            assert isinstance(w, Cholesky)
            out[:, start:stop] = w.colour(values[:, start:stop]) * std.to(values)
        return out

    def colour_back(self, values: Tensor) -> Tensor:
        """Apply the transpose of ``colour``."""
        out = values.clone()
        for start, stop, std, w in self.blocks:
            assert isinstance(w, Cholesky)
            out[:, start:stop] = w.colour_back(values[:, start:stop] * std.to(values))
        return out

    def deviations(self, values: Tensor) -> Tensor:
        """Return the standard deviations of whitened values, and one for the others, (M,)."""
        out = torch.ones_like(values[0])
        for start, stop, std, _ in self.blocks:
            out[start:stop] = std.to(values)
        return out

    def spread_back(self, values: Tensor) -> Tensor:
        """Apply the transpose of ``whiten``."""
        with torch.enable_grad():
            x = torch.zeros_like(values).requires_grad_()
            return torch.autograd.grad(self.whiten(x), x, values)[0]

    def to(self, device: torch.device, dtype: torch.dtype) -> Whitening:
        """Return the same whitening on another device, so that factors are not moved at every evaluation."""
        blocks = [
            (start, stop, std.to(device, dtype), w.to(device, dtype) if isinstance(w, Cholesky) else w)
            for start, stop, std, w in self.blocks
        ]
        return Whitening(blocks)
