"""Normalisation that uses the values at one position only."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels at each position of (batch, channel, ...), without parameters.

    Unlike group normalisation it does not mix positions, so a network keeps its finite reach.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):  # channels are contiguous
            return functional.layer_norm(x.movedim(1, -1), x.shape[1:2], eps=1e-5).movedim(-1, 1)
        x = x - x.mean(1, keepdim=True)
        return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-5)
