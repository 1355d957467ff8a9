"""The optimiser Muon (Jordan et al. 2024), which makes steps of equal length in every direction of a weight matrix.

The averaged gradient of a matrix is replaced by the nearest orthogonal matrix, so directions with small gradients move
as far as those with large ones. At first, networks for fields learn several times faster than with AdamW
(docs/kolmogorov.md has numbers). In a long training the difference is smaller.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class Muon(torch.optim.Optimizer):
    """Muon for the weights of convolutions (as matrices: outputs x all else), Adam for all other parameters.

    Parameters
    ----------
    params
        Parameters to train.
    lr, weight_decay
        As for AdamW. The update of a matrix has the root mean square 0.2 lr, which is that of Adam (Liu et al. 2025,
        arXiv 2502.16982).
    momentum
        Momentum of the averaged gradient of the matrices.
    betas
        Coefficients of Adam.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        *,
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.99),
    ):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "betas": betas})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                update = (self._orthogonal if p.ndim > 2 else self._adam)(p, p.grad, group)
                p.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"])

    def _orthogonal(self, p: nn.Parameter, gradient: Tensor, group: dict[str, Any]) -> Tensor:
        state = self.state[p]
        if not state:
            state["average"] = torch.zeros_like(p)
        average = state["average"].lerp_(gradient, 1 - group["momentum"])
        ahead = torch.lerp(gradient, average, group["momentum"]).flatten(1)
        return (orthogonal(ahead) * (0.2 * max(ahead.shape) ** 0.5)).view_as(p)

    def _adam(self, p: nn.Parameter, gradient: Tensor, group: dict[str, Any]) -> Tensor:
        state = self.state[p]
        if not state:
            state |= {"step": torch.zeros(()), "first": torch.zeros_like(p), "second": torch.zeros_like(p)}
        a, b = group["betas"]
        state["step"] += 1
        first = state["first"].lerp_(gradient, 1 - a) / (1 - a ** state["step"])
        second = state["second"].lerp_(gradient.square(), 1 - b) / (1 - b ** state["step"])
        return first / (second.sqrt() + 1e-8)


def orthogonal(m: Tensor) -> Tensor:
    """Approximate the nearest orthogonal matrix, U V^T of ``m = U S V^T``.

    Five iterations of a polynomial move the singular values to between 0.7 and 1.2.

    Parameters
    ----------
    m
        A matrix.

    Returns
    -------
    Tensor
        A nearly orthogonal matrix.

    Examples
    --------
    >>> from xsda.training.muon import orthogonal
    >>> values = torch.linalg.svdvals(orthogonal(torch.diag(torch.tensor([3.0, 1.0, 0.1]))))
    >>> bool((values > 0.5).all() and (values < 1.3).all())
    True
    """
    wide = m if m.shape[0] <= m.shape[1] else m.T
    x = wide.bfloat16()
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.775 * square + 2.0315 * square @ square) @ x
    return (x if wide is m else x.T).to(m.dtype)
