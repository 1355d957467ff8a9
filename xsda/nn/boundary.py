"""Convolutions that respect the ends of the domain: each axis is periodic, reflecting, or padded with zeros."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

BOUNDARIES = ("periodic", "reflect", "zeros")
CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
CONVOLVE = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
TRANSPOSED = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}


def check_boundaries(boundaries: Sequence[str], rank: int) -> tuple[str, ...]:
    """Check that there is one known boundary per axis.

    Parameters
    ----------
    boundaries
        "periodic", "reflect" or "zeros", one per axis.
    rank
        Number of axes.

    Returns
    -------
    tuple of str
        The boundaries.

    Examples
    --------
    >>> from xsda.nn.boundary import check_boundaries
    >>> check_boundaries(["periodic", "zeros"], 2)
    ('periodic', 'zeros')
    """
    if len(boundaries) != rank:
        raise ValueError(f"{rank} axes need {rank} boundaries, got {tuple(boundaries)}")
    for name in boundaries:
        if name not in BOUNDARIES:
            raise ValueError(f"boundary {name!r} is unknown; choose one of {BOUNDARIES}")
    return tuple(boundaries)


def pad(x: Tensor, amounts: Sequence[int], boundaries: Sequence[str]) -> Tensor:
    """Pad the last axes of a field on both sides.

    Parameters
    ----------
    x
        (batch, channel, *axes).
    amounts
        Number of points added to each end of the last axes.
    boundaries
        "periodic", "reflect" or "zeros", one per padded axis.

    Returns
    -------
    Tensor
        The larger field.

    Examples
    --------
    >>> from xsda.nn.boundary import pad
    >>> pad(torch.tensor([[[1.0, 2.0, 3.0]]]), [1], ["periodic"])
    tensor([[[3., 1., 2., 3., 1.]]])
    """
    first = x.ndim - len(amounts)
    for i, (amount, boundary) in enumerate(zip(amounts, boundaries, strict=True)):
        if amount:
            x = pad_axis(x, first + i, amount, amount, boundary)
    return x


def pad_axis(x: Tensor, axis: int, before: int, after: int, boundary: str) -> Tensor:
    """Pad one axis of a field.

    Parameters
    ----------
    x
        The field.
    axis
        Index of the axis, counted from the first.
    before, after
        Number of points added to each end.
    boundary
        "periodic", "reflect" or "zeros".

    Returns
    -------
    Tensor
        The larger field.

    Examples
    --------
    >>> from xsda.nn.boundary import pad_axis
    >>> pad_axis(torch.tensor([1.0, 2.0, 3.0]), 0, 0, 2, "reflect")
    tensor([1., 2., 3., 2., 1.])
    """
    size = x.shape[axis]
    if boundary == "zeros":
        return functional.pad(x, [0, 0] * (x.ndim - 1 - axis) + [before, after])
    if boundary == "periodic" and before == after and 2 * after <= size:
        # split is faster than slices or an index, above all in the backward pass
        first, middle, last = x.split([before, size - 2 * after, after], axis)
        return torch.cat([last, first, middle, last, first], axis)
    if boundary == "reflect" and max(before, after) < size:
        first, last = x.narrow(axis, 1, before), x.narrow(axis, size - 1 - after, after)
        return torch.cat([first.flip(axis), x, last.flip(axis)], axis)
    position = torch.arange(-before, size + after, device=x.device)
    if boundary == "periodic":
        return x.index_select(axis, position % size)
    fold = position.abs() % max(2 * (size - 1), 1)
    return x.index_select(axis, torch.where(fold < size, fold, 2 * (size - 1) - fold))


class BoundaryConv(nn.Module):
    """A convolution with its own boundary on each axis.

    It keeps the size of the field, or divides it by ``stride``.

    Parameters
    ----------
    inputs, outputs
        Channels in and out.
    kernel
        Odd size along each axis.
    boundaries
        "periodic", "reflect" or "zeros", one per axis.
    stride
        Step of the convolution along every axis.
    dilation
        Distance between the points of the kernel along each axis (default: 1).
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: Sequence[int],
        boundaries: Sequence[str],
        *,
        stride: int = 1,
        dilation: Sequence[int] | None = None,
    ):
        super().__init__()
        rank = len(kernel)
        if any(k % 2 == 0 for k in kernel):
            raise ValueError(f"kernel={tuple(kernel)} must be odd along every axis")
        dilation = tuple(dilation or (1,) * rank)
        self.boundaries = check_boundaries(boundaries, rank)
        half = [d * (k - 1) // 2 for k, d in zip(kernel, dilation, strict=True)]
        inner = [h if b == "zeros" else 0 for h, b in zip(half, self.boundaries, strict=True)]
        self.outer = [h - i for h, i in zip(half, inner, strict=True)]
        self.conv = CONVOLUTIONS[rank](
            inputs,
            outputs,
            tuple(kernel),  # type: ignore[arg-type]
            stride=stride,
            padding=tuple(inner),  # type: ignore[arg-type]
            dilation=dilation,  # type: ignore[arg-type]
        )

    def forward(self, x: Tensor) -> Tensor:
        conv, x = self.conv, pad(x, self.outer, self.boundaries)
        return convolve(x, conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation)  # type: ignore[arg-type]


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
) -> Tensor:
    """Convolve; if the weights are fixed, the input is not kept for a gradient.

    Torch keeps the input of each convolution for the gradient of its weights, even if there is none. Without it,
    sampling needs half the memory.

    Parameters
    ----------
    x
        Fields, (batch, channel, *axes).
    weight, bias, stride, padding, dilation
        As for ``torch.nn.functional.conv2d``.

    Returns
    -------
    Tensor
        The convolved fields.

    Examples
    --------
    >>> from xsda.nn.boundary import convolve
    >>> convolve(torch.tensor([[[1.0, 2.0, 4.0]]]), torch.ones(1, 1, 2), None, (1,), (0,), (1,))
    tensor([[[3., 6.]]])
    """
    if weight.requires_grad or not (torch.is_grad_enabled() and x.requires_grad):
        return CONVOLVE[x.ndim - 2](x, weight, bias, stride, padding, dilation)
    return _FixedConvolution.apply(x, weight, bias, stride, padding, dilation)


class _FixedConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, *how: Any) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.how, ctx.sizes, ctx.dtype = how, x.shape[2:], x.dtype
        return CONVOLVE[x.ndim - 2](x, weight, bias, *how)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (weight,), (stride, padding, dilation) = ctx.saved_tensors, ctx.how
        axes = zip(ctx.sizes, grad.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
        lost = tuple(n - ((m - 1) * s - 2 * p + d * (k - 1) + 1) for n, m, k, s, p, d in axes)
        transposed = TRANSPOSED[grad.ndim - 2]
        found = transposed(grad, weight.to(grad.dtype), None, stride, padding, lost, 1, dilation)
        return found.to(ctx.dtype), None, None, None, None, None
