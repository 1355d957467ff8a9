"""A UNet over space whose blocks also mix neighbouring states in time; each state is evaluated once.

Every block convolves each state over space, multiplies two convolutions (because the dynamics of fluids consists of
products), and mixes the result with those of the states before and after. One state costs as much as a whole window of
states as the channels of a UNet (``xsda.nn.markov``). But information reaches as many states as there are blocks, and
no windows need to be composed. Normalisation is per position, so the value at one time depends only on the states
within ``reach``. A long trajectory is therefore treated like the segments that the network was trained on.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from xsda.nn.boundary import BoundaryConv, convolve
from xsda.nn.embedding import NoiseEmbedding
from xsda.nn.extension import Extension, check_signs
from xsda.nn.gate import gated
from xsda.nn.norm import ChannelNorm, along_channels
from xsda.nn.tiles import Tiles, few_tiles, tile_by_tile

AT_ONCE = 2**16  # positions in one tensor: the allocator reuses the memory of small tensors, but not of large ones


class SpaceTimeBlock(nn.Module):
    """Residual block on states in the order of time, (time * batch, channel, *space); initially the identity.

    Parameters
    ----------
    width
        Features.
    features
        Size of the noise embedding.
    kernel
        Size of the convolutions in space.
    boundaries
        Boundary of each space axis.
    """

    def __init__(self, width: int, features: int, kernel: int, boundaries: Sequence[str]):
        super().__init__()
        rank = len(boundaries)
        self.norm = ChannelNorm()
        self.modulate = nn.Linear(features, 3 * width)
        self.space = BoundaryConv(width, 2 * width, (kernel,) * rank, boundaries)
        self.time = BoundaryConv(
            3 * width, width, (1,) * rank, boundaries
        )  # of the states before, now and after; see _mixed
        for layer in (self.modulate, self.time.conv):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, pieces: list[Tensor], emb: Tensor, batch: int) -> list[Tensor]:
        """Take ``pieces``, consecutive groups of states, and ``emb`` (batch or 1, features)."""
        parts = self.modulate(emb)
        hs, gains = [], []
        for x in pieces:
            each = parts if len(emb) == 1 else parts.repeat(len(x) // batch, 1)
            scale, shift, gain = each.chunk(3, dim=1)
            hs.append(gated(self.space(self.norm(x, 1 + scale, shift))))
            gains.append(along_channels(1 + gain, x))
        nothing = torch.zeros_like(hs[0][:batch])
        ends = [_ends(h, batch) for h in hs]
        past = [nothing, *(last for _, last in ends[:-1])]
        future = [*(first for first, _ in ends[1:]), nothing]
        out = []
        for x, gain, h, last, following in zip(pieces, gains, hs, past, future, strict=True):
            out.append(torch.addcmul(x, gain, self._mixed(torch.cat([last, h, following]), batch)))
        return out

    def _mixed(self, h: Tensor, batch: int) -> Tensor:
        """Convolve each state but the first and the last with its two neighbours in time."""
        states = h.movedim(1, -1)  # channels last, as they are in memory
        line = states.reshape(1, len(h) // batch, -1, states.shape[-1]).movedim(-1, 1)  # (1, channel, time, all else)
        width = self.time.conv.weight.shape[0]
        kernel = self.time.conv.weight.reshape(width, 3, width, 1).transpose(1, 2).contiguous()
        mixed = convolve(line, kernel, self.time.conv.bias, (1, 1), (0, 0), (1, 1))
        return mixed.movedim(1, -1).reshape(len(h) - 2 * batch, *states.shape[1:]).movedim(-1, 1)


class SpaceTimeUNet(nn.Module):
    """Encoder and decoder over space with skip connections; every block mixes neighbours in time.

    Parameters
    ----------
    channels
        Channels of a state.
    boundaries
        Boundary of each of the one or two space axes: "periodic", "reflect" or "zeros", or "on_poles" or
        "between_poles" for the latitudes of a globe (see ``xsda.nn.extension``). Time is padded with zeros.
    hidden, blocks
        Features and number of blocks of each level, on the way down and again on the way up.
    kernel
        Size of the convolutions in space.
    patch
        Side of the squares of points that the first level treats as one.
    features
        Size of the noise embedding.
    context
        Number of context channels.
    signs
        Sign of each channel of a state beyond a pole: -1 for components of vectors. Default: 1 for all.
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
        signs: Sequence[int] = (),
        recompute: bool = False,
    ):
        super().__init__()
        if len(hidden) != len(blocks):
            raise ValueError(f"hidden={tuple(hidden)} and blocks={tuple(blocks)} must have the same length")
        if len(boundaries) not in (1, 2):
            raise ValueError(f"the network takes one or two space axes, got {len(boundaries)}")
        self.config = {
            "channels": channels, "boundaries": list(boundaries), "hidden": list(hidden), "blocks": list(blocks),
            "kernel": kernel, "patch": patch, "features": features, "context": context,
        }  # fmt: skip
        signs = check_signs(signs, channels)
        if signs:
            self.config["signs"] = list(signs)
        self.extension = Extension(boundaries, halo=patch * 2 ** (len(hidden) - 1), multiple=patch, signs=signs)
        boundaries = self.extension.inner
        rank, size = len(boundaries), (kernel,) * len(boundaries)
        self.patch, self.recompute = patch, recompute
        self.margin = kernel // 2  # the reach of a block in space
        reaches = [n + (level == 0) + (level + 1 < len(blocks)) for level, n in enumerate(blocks)]  # with other layers
        self.halo = max(patch * 2**level * self.margin * n for level, n in enumerate(reaches))
        self.tiles: Tiles | None = None
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
        emb = self.embed(log_noise.reshape(-1))
        if context is not None:
            x = torch.cat([x, context.expand(batch, length, *context.shape[2:])], dim=2)
        h = _fold(self.extension(x.transpose(0, 1).flatten(0, 1)), self.patch)
        if h.ndim == 4:
            h = h.contiguous(memory_format=torch.channels_last)
        hs, skips = list(_groups(h, batch)), []
        for level, down in zip(self.encode, (*self.down, None), strict=True):
            hs = self._level(level, hs, emb, batch)
            if down is not None:
                skips.append(hs)
                hs = [down(h) for h in hs]
        for level, up, skip in zip(reversed(self.decode), reversed(self.up), reversed(skips), strict=True):
            hs = self._level(level, [*hs, *skip], emb, batch, up)
        out = _unfold(torch.cat(hs), self.patch)
        return self.extension.cut(out, space).unflatten(0, (length, batch)).transpose(0, 1)

    def tiled(self, tiles: Tiles) -> SpaceTimeUNet:
        """Return the same network with levels that are evaluated tile by tile; weights are shared."""
        other = copy.copy(self)
        other.tiles = tiles
        return other

    def _level(
        self, level: nn.Module, hs: list[Tensor], emb: Tensor, batch: int, up: nn.Module | None = None
    ) -> list[Tensor]:
        """Evaluate a level: its blocks, what precedes them, and at the end of the network the last layer.

        On the way ``up``, the second half of ``hs`` is what the level gave on the way down.
        """
        first = level is self.encode[0]
        last = level is self.decode[0] if len(self.decode) else first

        def part(hs: Sequence[Tensor]) -> list[Tensor]:
            if first:
                hs = [self.lift(h) for h in hs]
            if up is not None:
                count = len(hs) // 2
                pairs = zip(hs[:count], hs[count:], strict=True)
                hs = [up(torch.cat([_enlarged(h, skip), skip], dim=1)) for h, skip in pairs]
            hs = self._run(level, list(hs), emb, batch)
            return [self.out(self.norm(h)) for h in hs] if last else hs

        if self.tiles is None:
            return part(hs)
        blocks, boundaries = len(level), self.extension.inner  # type: ignore[arg-type]
        # tiles of all levels hold as many numbers
        width = self.lift.conv.out_channels if first else hs[-1].shape[1]
        points = self.patch * (width / self.lift.conv.out_channels) ** (1 / len(boundaries))
        reach = self.margin * (blocks + first + last + (up is not None))
        time = self.tiles.along_time(0, blocks, batch, unit=batch)
        cuts = [time, *self.tiles.along_space(2, boundaries, reach, points)]
        fields = [hs] if up is None else [hs[: len(hs) // 2], hs[len(hs) // 2 :]]
        groups = [len(h) for h in fields[-1]]
        if not (first or last) and few_tiles(cuts, (sum(groups), *hs[-1].shape[1:])):
            return part(hs)

        def joined(*pieces: Tensor) -> Tensor:
            return torch.cat(part([h for piece in pieces for h in _groups(piece, batch)]))

        value = tile_by_tile(joined, cuts, *(torch.cat(f) for f in fields))
        return list(value.split(groups))

    def _run(self, level: nn.Module, hs: list[Tensor], emb: Tensor, batch: int) -> list[Tensor]:
        save = self.recompute and torch.is_grad_enabled()
        for block in level:  # type: ignore[attr-defined]
            hs = checkpoint(block, hs, emb, batch, use_reentrant=False) if save else block(hs, emb, batch)
        return hs


def _ends(h: Tensor, batch: int) -> tuple[Tensor, Tensor]:
    """Return the first and the last of the states of a group."""
    if len(h) == batch:
        return h, h
    first, *_, last = h.split([batch, len(h) - 2 * batch, batch])  # faster than slices in the backward pass
    return first, last


def _enlarged(h: Tensor, like: Tensor) -> Tensor:
    return h if h.shape[2:] == like.shape[2:] else functional.interpolate(h, size=like.shape[2:], mode="nearest")


def _groups(h: Tensor, batch: int) -> tuple[Tensor, ...]:
    """Split states in the order of time, (time * batch, ...), into consecutive groups."""
    return h.split(max(1, AT_ONCE // (batch * h.shape[2:].numel())) * batch)


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
