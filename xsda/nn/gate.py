"""The gate of the residual blocks: a product of two halves of the features, which keeps little for its gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def gated(x: Tensor) -> Tensor:
    """Return silu(a) b, where a and b are the halves of the channels of ``x`` (batch, channel, ...).

    For the gradient only ``x`` is kept; silu(a) is computed again.

    Parameters
    ----------
    x
        Features, (batch, 2 * width, ...).

    Returns
    -------
    Tensor
        The product, (batch, width, ...).

    Examples
    --------
    >>> from xsda.nn.gate import gated
    >>> gated(torch.tensor([[1.0, 2.0]])).round(decimals=4)
    tensor([[1.4621]])
    """
    return _Gate.apply(x)


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        a, b = _halves(x)
        return functional.silu(a) * b

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        a, b = _halves(ctx.saved_tensors[0])
        return torch.cat([torch.ops.aten.silu_backward(grad * b, a), grad * functional.silu(a)], 1)


def _halves(x: Tensor) -> tuple[Tensor, Tensor]:
    a, b = x.chunk(2, dim=1)
    if x.dtype in (torch.bfloat16, torch.float16):  # these are slow on strided memory
        a = a.movedim(1, -1).contiguous().movedim(-1, 1)
    return a, b
