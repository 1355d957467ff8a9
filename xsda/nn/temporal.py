"""A network that is convolutional in time (and in space, if there is any); each state is evaluated once, at any length.

Dilated residual blocks give a wide reach in time. They multiply features, because the dynamics of fluids consists of
products. Series without space are convolved twice, and one result gates the other. Fields are multiplied with their
convolution in space and then convolved in time, which costs a fifth of two convolutions in time and space and learns as
well. Normalisation is per position, so the value at one time depends only on the
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
from xsda.nn.norm import ChannelNorm, along_channels
from xsda.nn.tiles import Tiles, tile_by_tile


class GatedBlock(nn.Module):
    """Residual block of series: normalise, modulate by the noise, convolve, gate, project. Initially the identity.

    Parameters
    ----------
    width
        Features.
    features
        Size of the noise embedding.
    kernel, dilation
        Size and dilation of the convolution.
    """

    def __init__(self, width: int, features: int, kernel: int, dilation: int):
        super().__init__()
        self.norm = ChannelNorm()
        self.modulate = nn.Linear(features, 3 * width)
        self.mix = BoundaryConv(width, 2 * width, (kernel,), ("zeros",), dilation=(dilation,))
        self.project = nn.Conv1d(width, width, 1)
        for layer in (self.modulate, self.project):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        scale, shift, gain = self.modulate(emb).chunk(3, dim=1)
        h = gated(self.mix(self.norm(x, 1 + scale, shift)))
        h = convolve(h, self.project.weight, self.project.bias, (1,), (0,), (1,))
        return torch.addcmul(x, along_channels(1 + gain, x), h)


class ProductBlock(nn.Module):
    """Residual block of fields: normalise, modulate by the noise level, multiply with a convolution of the result in
    space, convolve in time. Initially the identity.

    Parameters
    ----------
    width
        Features.
    features
        Size of the noise embedding.
    kernel, dilation
        Size and dilation of the convolution in time.
    space_kernel, boundaries
        Size of the convolution in space, and boundary of each space axis.
    """

    def __init__(
        self, width: int, features: int, kernel: int, dilation: int, space_kernel: int, boundaries: Sequence[str]
    ):
        super().__init__()
        rank, both = len(boundaries), ("zeros", *boundaries)
        self.norm = ChannelNorm()
        self.modulate = nn.Linear(features, 3 * width)
        self.space = BoundaryConv(width, width, (1, *(space_kernel,) * rank), both)
        self.time = BoundaryConv(width, width, (kernel, *(1,) * rank), both, dilation=(dilation, *(1,) * rank))
        for layer in (self.modulate, self.time.conv):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        scale, shift, gain = self.modulate(emb).chunk(3, dim=1)
        h = self.norm(x, 1 + scale, shift)
        h = h * self.space(h)
        return torch.addcmul(x, along_channels(1 + gain, x), self.time(h))


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
        sizes = (space_kernel, self.extension.inner) if boundaries else ()
        block = ProductBlock if boundaries else GatedBlock
        self.blocks = nn.ModuleList(
            block(width, features, kernel if dilation else 1, dilation or 1, *sizes) for dilation in dilations
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
        if h.ndim == 4:
            h = h.contiguous(memory_format=torch.channels_last)
        for block in self.blocks:
            save = self.recompute and torch.is_grad_enabled()
            h = checkpoint(block, h, emb, use_reentrant=False) if save else block(h, emb)
        return self.out(self.norm(h))
