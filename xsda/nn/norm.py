"""Normalisation that looks at one position only."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels of each position of (batch, channel, ...); no parameters.

    Unlike group normalisation it does not mix positions, so a network keeps its finite reach.
    """

    def forward(self, x: Tensor) -> Tensor:
        x = x - x.mean(1, keepdim=True)
        return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-5)
