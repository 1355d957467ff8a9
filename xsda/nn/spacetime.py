"""A UNet over space in which neighbouring states speak to each other: each state of a trajectory passes once.

Every block convolves each state by itself over space, multiplies two convolutions (the dynamics of fluids is made of
products), and mixes the result with that of the states before and after. A state costs what a window of states costs
as the channels of one UNet (``xsda.nn.markov``), but what it tells reaches as many states as there are blocks, and
nothing is composed. Normalisation is per position, so that the value at one time depends only on the states within
``reach``: a long trajectory is treated like the segments the network was trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from xsda.nn.boundary import BoundaryConv, check_boundaries
from xsda.nn.embedding import NoiseEmbedding
from xsda.nn.norm import ChannelNorm


class SpaceTimeBlock(nn.Module):
    """Residual block on states in order of time, (time * batch, channel, *space). Starts as the identity."""

    def __init__(self, width: int, features: int, kernel: int, boundaries: Sequence[str]):
        super().__init__()
        rank = len(boundaries)
        self.norm = ChannelNorm()
        self.modulate = nn.Linear(features, 3 * width)
        self.space = BoundaryConv(width, 2 * width, (kernel,) * rank, boundaries)
        self.time = BoundaryConv(3 * width, width, (1,) * rank, boundaries)
        for layer in (self.modulate, self.time.conv):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, emb: Tensor, length: int) -> Tensor:
        """``emb``: (batch or 1, features)."""
        parts = self.modulate(emb).reshape(len(emb), -1, *(1,) * (x.ndim - 2))
        scale, shift, gain = (parts if len(emb) == 1 else parts.repeat(length, *(1,) * (x.ndim - 1))).chunk(3, dim=1)
        a, b = self.space(torch.addcmul(shift, self.norm(x), 1 + scale)).chunk(2, dim=1)
        h = functional.silu(a) * b
        nothing = torch.zeros_like(h[: len(h) // length])
        before, after = torch.cat([nothing, h])[: len(h)], torch.cat([h, nothing])[-len(h) :]
        return torch.addcmul(x, 1 + gain, self.time(torch.cat([before, h, after], dim=1)))


class SpaceTimeUNet(nn.Module):
    """Encoder and decoder over space with skips; every block mixes neighbours in time.

    Parameters
    ----------
    channels
        Channels of a state.
    boundaries
        Boundary of each of the one or two space axes: "periodic", "reflect" or "zeros". Time ends in zeros.
    hidden, blocks
        Features and number of blocks of each level, on the way down and again on the way up.
    kernel
        Size of the convolutions in space.
    patch
        Side of the squares of points that the first level holds as one; the sizes must be multiples of it.
    features
        Size of the noise embedding.
    context
        Number of context channels.
    recompute
        Recompute activations in the backward pass: less memory, a third more time.
    """

    def __init__(
        self,
        channels: int,
        *,
        boundaries: Sequence[str],
        hidden: Sequence[int] = (32, 64, 128),
        blocks: Sequence[int] = (2, 2, 2),
        kernel: int = 3,
        patch: int = 2,
        features: int = 64,
        context: int = 0,
        recompute: bool = False,
    ):
        super().__init__()
        if len(hidden) != len(blocks):
            raise ValueError(f"hidden={tuple(hidden)} and blocks={tuple(blocks)} must have the same length")
        if len(boundaries) not in (1, 2):
            raise ValueError(f"one or two space axes are possible, got {len(boundaries)}")
        self.config = {
            "channels": channels, "boundaries": list(boundaries), "hidden": list(hidden), "blocks": list(blocks),
            "kernel": kernel, "patch": patch, "features": features, "context": context,
        }  # fmt: skip
        boundaries = check_boundaries(boundaries, len(boundaries))
        rank, size = len(boundaries), (kernel,) * len(boundaries)
        self.patch, self.recompute = patch, recompute
        self.reach = sum(blocks) + sum(blocks[:-1])
        self.embed = NoiseEmbedding(features)
        self.lift = BoundaryConv((channels + context) * patch**rank, hidden[0], size, boundaries)
        self.down = nn.ModuleList(BoundaryConv(a, b, size, boundaries, stride=2) for a, b in pairwise(hidden))
        self.up = nn.ModuleList(BoundaryConv(b + a, a, size, boundaries) for a, b in pairwise(hidden))
        self.encode, self.decode = (
            nn.ModuleList(
                nn.ModuleList(SpaceTimeBlock(width, features, kernel, boundaries) for _ in range(count))
                for width, count in zip(hidden[:levels], blocks[:levels], strict=True)
            )
            for levels in (len(hidden), len(hidden) - 1)
        )
        self.norm = ChannelNorm()
        self.out = BoundaryConv(hidden[0], channels * patch**rank, size, boundaries)
        nn.init.zeros_(self.out.conv.weight)
        nn.init.zeros_(self.out.conv.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, log_noise: Tensor, context: Tensor | None = None) -> Tensor:
        """``x``: ``(batch, time, channel, *space)``."""
        batch, length, _, *space = x.shape
        if any(n % self.patch for n in space):
            raise ValueError(f"the sizes {tuple(space)} must be multiples of {self.patch}: the network reads patches")
        emb = self.embed(log_noise.reshape(-1))
        if context is not None:
            x = torch.cat([x, context.expand(batch, length, *context.shape[2:])], dim=2)
        h = _fold(x.transpose(0, 1).flatten(0, 1), self.patch)
        if h.ndim == 4:
            h = h.contiguous(memory_format=torch.channels_last)
        h = self.lift(h)
        skips = []
        for level, down in zip(self.encode, (*self.down, None), strict=True):
            h = self._run(level, h, emb, length)
            if down is not None:
                skips.append(h)
                h = down(h)
        for level, up, skip in zip(reversed(self.decode), reversed(self.up), reversed(skips), strict=True):
            h = functional.interpolate(h, size=skip.shape[2:], mode="nearest")
            h = self._run(level, up(torch.cat([h, skip], dim=1)), emb, length)
        out = _unfold(self.out(self.norm(h)), self.patch)
        return out.unflatten(0, (length, batch)).transpose(0, 1)

    def _run(self, level: nn.Module, h: Tensor, emb: Tensor, length: int) -> Tensor:
        save = self.recompute and torch.is_grad_enabled()
        for block in level:  # type: ignore[attr-defined]
            h = checkpoint(block, h, emb, length, use_reentrant=False) if save else block(h, emb, length)
        return h


def _fold(x: Tensor, patch: int) -> Tensor:
    """(n, channel, *space) -> (n, channel * points of a patch, *patches)."""
    if patch == 1:
        return x
    return (
        functional.pixel_unshuffle(x, patch)
        if x.ndim == 4
        else x.unflatten(-1, (-1, patch)).movedim(-1, 2).flatten(1, 2)
    )


def _unfold(x: Tensor, patch: int) -> Tensor:
    """The inverse of ``_fold``."""
    if patch == 1:
        return x
    return functional.pixel_shuffle(x, patch) if x.ndim == 4 else x.unflatten(1, (-1, patch)).movedim(2, -1).flatten(-2)
