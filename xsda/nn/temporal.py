"""A network that is convolutional in time (and in space, if there is any); each state is evaluated once, at any length.

Dilated residual blocks give a wide reach in time. Their units are gated, a product of two convolutions, because the
dynamics of fluids consists of products. Normalisation is per position, so the value at one time depends only on the
states within ``reach``. A long trajectory is therefore treated like the segments that the network was trained on.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from xsda.nn.boundary import CONVOLUTIONS, BoundaryConv, convolve
from xsda.nn.embedding import NoiseEmbedding
from xsda.nn.extension import Extension, check_signs
from xsda.nn.gate import gated
from xsda.nn.norm import ChannelNorm
from xsda.nn.tiles import Tiles, tile_by_tile


class GatedBlock(nn.Module):
    """Residual block: normalise, modulate by the noise level, convolve, gate, project. Initially the identity.

    Parameters
    ----------
    width
        Features.
    features
        Size of the noise embedding.
    kernel, dilation, boundaries
        Size and dilation of the convolution, and boundary, for each axis.
    """

    def __init__(
        self, width: int, features: int, kernel: Sequence[int], dilation: Sequence[int], boundaries: Sequence[str]
    ):
        super().__init__()
        self.norm = ChannelNorm()
        self.modulate = nn.Linear(features, 3 * width)
        self.mix = BoundaryConv(width, 2 * width, kernel, boundaries, dilation=dilation)
        self.project = CONVOLUTIONS[len(kernel)](width, width, 1)
        for layer in (self.modulate, self.project):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        scale, shift, gain = self.modulate(emb).reshape(len(emb), -1, *(1,) * (x.ndim - 2)).chunk(3, dim=1)
        h = gated(self.mix(self.norm(x) * (1 + scale) + shift))
        one, none = (1,) * (x.ndim - 2), (0,) * (x.ndim - 2)
        h = convolve(h, self.project.weight, self.project.bias, one, none, one)
        return x + (1 + gain) * h


class TemporalNet(nn.Module):
    """Convolutions over (time, *space).

    Parameters
    ----------
    channels
        Channels of a state.
    boundaries
        Boundary of each space axis: "periodic", "reflect" or "zeros", or "on_poles" or "between_poles" for the
        latitudes of a globe (see ``xsda.nn.extension``). Empty if states have no space. Time is padded with zeros.
    width
        Features per position.
    kernel, dilations
        Size of the convolutions in time, and their dilation in each block. 0 is a block without reach in time.
    space_kernel
        Size of the convolutions in space.
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
        boundaries: Sequence[str] = (),
        width: int = 64,
        kernel: int = 5,
        dilations: Sequence[int] = (1, 2, 4, 8, 1, 2, 4, 8),
        space_kernel: int = 3,
        features: int = 64,
        context: int = 0,
        signs: Sequence[int] = (),
        recompute: bool = False,
    ):
        super().__init__()
        rank = 1 + len(boundaries)
        if rank not in CONVOLUTIONS:
            raise ValueError(f"the network takes at most two space axes, got {len(boundaries)}")
        self.config = {
            "channels": channels, "boundaries": list(boundaries), "width": width, "kernel": kernel,
            "dilations": list(dilations), "space_kernel": space_kernel, "features": features, "context": context,
        }  # fmt: skip
        signs = check_signs(signs, channels)
        if signs:
            self.config["signs"] = list(signs)
        self.halo = len(dilations) * ((space_kernel - 1) // 2)  # the reach in space
        self.extension = Extension(boundaries, halo=self.halo, signs=signs)
        self.tiles: Tiles | None = None
        self.recompute = recompute
        self.reach = sum(d * (kernel - 1) // 2 for d in dilations)
        self.embed = NoiseEmbedding(features)
        self.lift = CONVOLUTIONS[rank](channels + context, width, 1)
        self.blocks = nn.ModuleList(
            GatedBlock(
                width,
                features,
                (kernel if dilation else 1, *(space_kernel,) * (rank - 1)),
                (dilation or 1, *(1,) * (rank - 1)),
                ("zeros", *self.extension.inner),
            )
            for dilation in dilations
        )
        self.norm = ChannelNorm()
        self.out = CONVOLUTIONS[rank](width, channels, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, log_noise: Tensor, context: Tensor | None = None) -> Tensor:
        """``x``: ``(batch, time, channel, *space)``."""
        emb, sizes = self.embed(log_noise.reshape(-1)), x.shape[3:]
        if context is not None:
            x = torch.cat([x, context.expand(len(x), x.shape[1], *context.shape[2:])], dim=2)
        h = self.extension(x).transpose(1, 2)
        if self.tiles is None:
            h = self._local(h, emb)
        else:
            cuts = self.tiles.along_space(3, self.extension.inner, self.halo)
            cuts.append(self.tiles.along_time(2, self.reach, len(x)))
            h = tile_by_tile(lambda h: self._local(h, emb), cuts, h)
        return self.extension.cut(h.transpose(1, 2), sizes)

    def tiled(self, tiles: Tiles) -> TemporalNet:
        """Return the same network, evaluated tile by tile; weights are shared."""
        other = copy.copy(self)
        other.tiles = tiles
        return other

    def _local(self, h: Tensor, emb: Tensor) -> Tensor:
        """All layers, on (batch, channel, time, *space)."""
        h = self.lift(h)
        for block in self.blocks:
            save = self.recompute and torch.is_grad_enabled()
            h = checkpoint(block, h, emb, use_reentrant=False) if save else block(h, emb)
        return self.out(self.norm(h))
