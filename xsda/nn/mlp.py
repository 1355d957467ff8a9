"""Residual multi-layer perceptron, and its use on short windows of small states."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from xsda.nn.embedding import NoiseEmbedding


class ResMLP(nn.Module):
    """``depth`` residual layers of ``width`` features between two linear maps."""

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
    """A ResMLP on a window of states without space, or of few numbers: ``(batch, window, channel, *space)``."""

    def __init__(self, channels: int, window: int, *, size: int = 1, width: int = 128, depth: int = 5, features: int = 32,
                 context: int = 0):  # fmt: skip
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
