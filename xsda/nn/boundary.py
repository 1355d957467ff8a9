"""Convolutions that know where the domain ends: per axis periodic, reflecting or zero."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

BOUNDARIES = ("periodic", "reflect", "zeros")
CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def check_boundaries(boundaries: Sequence[str], rank: int) -> tuple[str, ...]:
    """One valid boundary per axis, or an error."""
    if len(boundaries) != rank:
        raise ValueError(f"{rank} axes need {rank} boundaries, got {tuple(boundaries)}")
    for name in boundaries:
        if name not in BOUNDARIES:
            raise ValueError(f"boundary {name!r} is unknown; choose one of {BOUNDARIES}")
    return tuple(boundaries)


def pad(x: Tensor, amounts: Sequence[int], boundaries: Sequence[str]) -> Tensor:
    """Pad the last axes of (batch, channel, *axes) by ``amounts`` on both sides."""
    first = x.ndim - len(amounts)
    for i, (amount, boundary) in enumerate(zip(amounts, boundaries, strict=True)):
        if amount:
            x = _pad_axis(x, first + i, amount, boundary)
    return x


def _pad_axis(x: Tensor, axis: int, amount: int, boundary: str) -> Tensor:
    size = x.shape[axis]
    if boundary == "zeros":
        return functional.pad(x, [0, 0] * (x.ndim - 1 - axis) + [amount, amount])
    if boundary == "periodic" and 2 * amount <= size:  # parts are cheaper than slices or an index, above all backwards
        first, middle, last = x.split([amount, size - 2 * amount, amount], axis)
        return torch.cat([last, first, middle, last, first], axis)
    position = torch.arange(-amount, size + amount, device=x.device)
    if boundary == "periodic":
        return x.index_select(axis, position % size)
    fold = position.abs() % max(2 * (size - 1), 1)
    return x.index_select(axis, torch.where(fold < size, fold, 2 * (size - 1) - fold))


class BoundaryConv(nn.Module):
    """Convolution that keeps the size (or divides it by ``stride``), with its own boundary on each axis."""

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
        return self.conv(pad(x, self.outer, self.boundaries))
