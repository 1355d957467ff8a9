"""A UNet in one, two or three dimensions, modulated by the noise level.

Every axis has its own boundary, and any size works. Each level halves the size, rounding up, and the way back
interpolates to exactly the size before.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from xsda.nn.boundary import BoundaryConv, check_boundaries
from xsda.nn.embedding import NoiseEmbedding
from xsda.nn.extension import Extension, check_signs
from xsda.nn.norm import ChannelNorm
from xsda.nn.tiles import Cut, Tiles, few_tiles, tile_by_tile


class ModulatedBlock(nn.Module):
    """Residual block of two convolutions, modulated by the noise embedding.

    Parameters
    ----------
    width
        Features.
    features
        Size of the noise embedding.
    kernel
        Size of the convolutions.
    boundaries
        Boundary of each axis.
    """

    def __init__(self, width: int, features: int, kernel: int, boundaries: Sequence[str]):
        super().__init__()
        size = (kernel,) * len(boundaries)
        self.modulate = nn.Linear(features, 2 * width)
        self.norm = ChannelNorm()
        self.first = BoundaryConv(width, width, size, boundaries)
        self.second = BoundaryConv(width, width, size, boundaries)
        nn.init.zeros_(self.second.conv.weight)
        nn.init.zeros_(self.second.conv.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        scale, shift = self.modulate(emb).reshape(len(emb), -1, *(1,) * (x.ndim - 2)).chunk(2, dim=1)
        h = functional.silu(self.first(torch.addcmul(shift, self.norm(x), 1 + scale)))
        return x + self.second(h)


class UNet(nn.Module):
    """Encoder and decoder with skip connections.

    Parameters
    ----------
    inputs, outputs
        Channels in and out.
    boundaries
        "periodic", "reflect" or "zeros" for each axis. Their number is the number of dimensions.
    hidden, blocks
        Features and number of residual blocks of each level.
    kernel
        Size of the convolutions.
    features
        Size of the noise embedding.
    recompute
        Recompute activations in the backward pass: less memory, a third more time.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        boundaries: Sequence[str],
        hidden: Sequence[int] = (32, 64, 128),
        blocks: Sequence[int] = (2, 2, 2),
        kernel: int = 3,
        features: int = 64,
        recompute: bool = False,
    ):
        super().__init__()
        if len(hidden) != len(blocks):
            raise ValueError(f"hidden={tuple(hidden)} and blocks={tuple(blocks)} must have the same length")
        self.boundaries = check_boundaries(boundaries, len(boundaries))
        size = (kernel,) * len(boundaries)
        self.hidden, self.recompute = tuple(hidden), recompute
        self.margin = 2 * (kernel // 2)  # the reach of a block
        self.halo = max(2**level * self.margin * count for level, count in enumerate(blocks))
        self.tiles: Tiles | None = None
        self.embed = NoiseEmbedding(features)
        self.lift = BoundaryConv(inputs, hidden[0], size, boundaries)
        self.down = nn.ModuleList(BoundaryConv(a, b, size, boundaries, stride=2) for a, b in pairwise(hidden))
        self.up = nn.ModuleList(BoundaryConv(b + a, a, size, boundaries) for a, b in pairwise(hidden))
        self.encode, self.decode = (
            nn.ModuleList(
                nn.ModuleList(ModulatedBlock(width, features, kernel, boundaries) for _ in range(count))
                for width, count in zip(hidden, blocks, strict=True)
            )
            for _ in range(2)
        )
        self.out = BoundaryConv(hidden[0], outputs, size, boundaries)
        nn.init.zeros_(self.out.conv.weight)
        nn.init.zeros_(self.out.conv.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, log_noise: Tensor) -> Tensor:
        """``x``: ``(batch, channel, *space)``; ``log_noise``: one value, or one per batch item."""
        emb = self.embed(log_noise.reshape(-1))
        if x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        h = self._level(self.encode[0], self.lift(x), emb)
        skips = []
        for down, level in zip(self.down, self.encode[1:], strict=True):
            skips.append(h)
            h = self._level(level, down(h), emb)
        h = self._level(self.decode[-1], h, emb)
        for up, level, skip in zip(reversed(self.up), reversed(self.decode[:-1]), reversed(skips), strict=True):
            h = functional.interpolate(h, size=skip.shape[2:], mode="nearest")
            h = self._level(level, up(torch.cat([h, skip], dim=1)), emb)
        return self.out(h)

    def tiled(self, tiles: Tiles) -> UNet:
        """Return the same network with levels that are evaluated tile by tile; weights are shared."""
        other = copy.copy(self)
        other.tiles = tiles
        return other

    def _level(self, level: nn.Module, h: Tensor, emb: Tensor) -> Tensor:
        """Evaluate the blocks of a level, tile by tile if there are tiles."""
        if self.tiles is None:
            return self._run(level, h, emb)
        # tiles of all levels hold as many numbers
        points = (h.shape[1] / self.hidden[0]) ** (1 / len(self.boundaries))
        cuts = self.tiles.along_space(2, self.boundaries, self.margin * len(level), points)  # type: ignore[arg-type]
        if len(emb) == 1:  # otherwise fields and noise levels would have to be divided together
            cuts.append(Cut(0, self.tiles.states, 0))
        if level is not self.encode[0] and level is not self.decode[0] and few_tiles(cuts, h.shape):
            return self._run(level, h, emb)
        return tile_by_tile(lambda h: self._run(level, h, emb), cuts, h)

    def _run(self, level: nn.Module, h: Tensor, emb: Tensor) -> Tensor:
        save = self.recompute and torch.is_grad_enabled()
        for block in level:  # type: ignore[attr-defined]
            h = checkpoint(block, h, emb, use_reentrant=False) if save else block(h, emb)
        return h


class WindowUNet(nn.Module):
    """A UNet on windows of fields: the states of a window are its channels, (batch, window, channel, *space).

    Parameters
    ----------
    channels
        Channels of a state.
    window
        Number of states.
    boundaries
        As for ``UNet``, or "on_poles" or "between_poles" for the latitudes of a globe (see ``xsda.nn.extension``).
    hidden, blocks, kernel, features, recompute
        As for ``UNet``.
    context
        Number of context channels.
    signs
        Sign of each channel of a state beyond a pole: -1 for components of vectors. Default: 1 for all.
    """

    def __init__(
        self,
        channels: int,
        window: int,
        *,
        boundaries: Sequence[str],
        hidden: Sequence[int] = (32, 64, 128),
        blocks: Sequence[int] = (2, 2, 2),
        kernel: int = 3,
        features: int = 64,
        context: int = 0,
        signs: Sequence[int] = (),
        recompute: bool = False,
    ):
        super().__init__()
        self.config = {
            "channels": channels, "window": window, "boundaries": list(boundaries), "hidden": list(hidden),
            "blocks": list(blocks), "kernel": kernel, "features": features, "context": context,
        }  # fmt: skip
        signs = check_signs(signs, channels)
        if signs:
            self.config["signs"] = list(signs)
        self.extension = Extension(boundaries, halo=2 ** (len(hidden) - 1), signs=signs)
        self.unet = UNet(
            window * (channels + context),
            window * channels,
            boundaries=self.extension.inner,
            hidden=hidden,
            blocks=blocks,
            kernel=kernel,
            features=features,
            recompute=recompute,
        )
        self.halo = self.unet.halo

    def tiled(self, tiles: Tiles) -> WindowUNet:
        """Return the same network with levels that are evaluated tile by tile; weights are shared."""
        other = copy.copy(self)
        other._modules = {**self._modules, "unet": self.unet.tiled(tiles)}
        return other

    def forward(self, x: Tensor, log_noise: Tensor, context: Tensor | None = None) -> Tensor:
        parts = [x] if context is None else [x, context.expand(len(x), x.shape[1], *context.shape[2:])]
        extended = self.extension(torch.cat(parts, dim=2)).split([p.shape[2] for p in parts], dim=2)
        out = self.unet(torch.cat([p.flatten(1, 2) for p in extended], dim=1), log_noise)
        return self.extension.cut(out, x.shape[3:]).reshape(x.shape)
