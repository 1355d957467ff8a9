"""Residual multi-layer perceptrons, for short windows of states that hold few numbers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from xsda.nn.embedding import NoiseEmbedding


class ResMLP(nn.Module):
    """Residual layers between two linear maps.

    Parameters
    ----------
    inputs, outputs
        Numbers in and out.
    width
        Features of the residual layers.
    depth
        Number of residual layers.
    """

    def __init__(self, inputs: int, outputs: int, *, width: int = 128, depth: int = 5):
        super().__init__()
        self.first = nn.Linear(inputs, width)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
            for _ in range(depth)
        )
        self.last = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for layer in self.layers:
            x = x + layer(x)
        return self.last(x)


class WindowMLP(nn.Module):
    """A ``ResMLP`` on windows of states without space, or with few points: (batch, window, channel, *space).

    Parameters
    ----------
    channels
        Channels of a state.
    window
        Number of states.
    size
        Number of points in space.
    width, depth
        Features and number of the residual layers.
    features
        Size of the noise embedding.
    context
        Number of context channels.
    """

    def __init__(
        self,
        channels: int,
        window: int,
        *,
        size: int = 1,
        width: int = 128,
        depth: int = 5,
        features: int = 32,
        context: int = 0,
    ):
        super().__init__()
        self.config = {
            "channels": channels, "window": window, "size": size, "width": width, "depth": depth,
            "features": features, "context": context,
        }  # fmt: skip
        self.embed = NoiseEmbedding(features)
        inner = channels * window * size
        self.mlp = ResMLP(inner + context * window * size + features, inner, width=width, depth=depth)

    def forward(self, x: Tensor, log_noise: Tensor, context: Tensor | None = None) -> Tensor:
        emb = self.embed(log_noise.reshape(-1)).expand(len(x), -1)
        parts = [x.flatten(1), emb]
        if context is not None:
            parts.append(context.expand(len(x), x.shape[1], *context.shape[2:]).flatten(1))
        return self.mlp(torch.cat(parts, dim=1)).reshape(x.shape)
