"""Normalisation that uses the values at one position only."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels at each position of (batch, channel, ...), without parameters of its own.

    Unlike group normalisation it does not mix positions, so a network keeps its finite reach.
    """

    def forward(self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        """Normalise, then multiply with ``scale`` and add ``shift``, (batch or 1, channel)."""
        if not (x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)):
            y = x - x.mean(1, keepdim=True)
            return _modulated(y * torch.rsqrt(y.square().mean(1, keepdim=True) + 1e-5), scale, shift)
        last = x.movedim(1, -1)  # channels are contiguous
        if scale is not None and shift is not None and len(scale) == 1:
            return functional.layer_norm(last, x.shape[1:2], scale[0], shift[0], 1e-5).movedim(-1, 1)
        return _modulated(functional.layer_norm(last, x.shape[1:2], eps=1e-5).movedim(-1, 1), scale, shift)


def _modulated(x: Tensor, scale: Tensor | None, shift: Tensor | None) -> Tensor:
    if scale is None or shift is None:
        return x
    return torch.addcmul(along_channels(shift, x), x, along_channels(scale, x))


def along_channels(v: Tensor, x: Tensor) -> Tensor:
    """Give values (batch or 1, channel) the axes of a field (batch, channel, ...).

    Examples
    --------
    >>> from xsda.nn.norm import along_channels
    >>> along_channels(torch.ones(1, 3), torch.ones(2, 3, 5, 6)).shape
    torch.Size([1, 3, 1, 1])
    """
    return v.reshape(*v.shape, *(1,) * (x.ndim - 2))
