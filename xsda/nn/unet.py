"""A UNet in one, two or three dimensions, modulated by the noise level.

Every axis has its own boundary, and any size works. Each level halves the size, rounding up, and the way back
interpolates to exactly the size before.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from xsda.nn.boundary import BoundaryConv
from xsda.nn.embedding import NoiseEmbedding
from xsda.nn.extension import Extension, check_signs
from xsda.nn.norm import ChannelNorm


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
        "periodic", "reflect" or "zeros" for each axis, or "on_poles" or "between_poles" for the latitudes of a globe
        (see ``xsda.nn.extension``). Their number is the number of dimensions.
    hidden, blocks
        Features and number of residual blocks of each level.
    kernel
        Size of the convolutions.
    features
        Size of the noise embedding.
    signs
        Sign of each input beyond a pole: -1 for components of vectors. Default: 1 for all.
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
        signs: Sequence[int] = (),
        recompute: bool = False,
    ):
        super().__init__()
        if len(hidden) != len(blocks):
            raise ValueError(f"hidden={tuple(hidden)} and blocks={tuple(blocks)} must have the same length")
        self.extension = Extension(boundaries, halo=2 ** (len(hidden) - 1), signs=check_signs(signs, inputs))
        boundaries = self.extension.inner
        size = (kernel,) * len(boundaries)
        self.recompute = recompute
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
        emb, sizes = self.embed(log_noise.reshape(-1)), x.shape[2:]
        x = self.extension(x)
        if x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        h = self._run(self.encode[0], self.lift(x), emb)
        skips = []
        for down, level in zip(self.down, self.encode[1:], strict=True):
            skips.append(h)
            h = self._run(level, down(h), emb)
        h = self._run(self.decode[-1], h, emb)
        for up, level, skip in zip(reversed(self.up), reversed(self.decode[:-1]), reversed(skips), strict=True):
            h = functional.interpolate(h, size=skip.shape[2:], mode="nearest")
            h = self._run(level, up(torch.cat([h, skip], dim=1)), emb)
        return self.extension.cut(self.out(h), sizes)

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
    boundaries, hidden, blocks, kernel, features, recompute
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
        if -1 in signs:
            self.config["signs"] = list(signs)
        self.unet = UNet(
            window * (channels + context),
            window * channels,
            boundaries=boundaries,
            hidden=hidden,
            blocks=blocks,
            kernel=kernel,
            features=features,
            signs=(*signs * window, *(1,) * (context * window)),
            recompute=recompute,
        )

    def forward(self, x: Tensor, log_noise: Tensor, context: Tensor | None = None) -> Tensor:
        parts = [x.flatten(1, 2)]
        if context is not None:
            parts.append(context.expand(len(x), x.shape[1], *context.shape[2:]).flatten(1, 2))
        return self.unet(torch.cat(parts, dim=1), log_noise).reshape(x.shape)
