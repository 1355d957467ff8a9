"""Long trajectories in pieces: the same result, with memory that does not grow with the length.

A network whose value at one time depends only on the states within its ``reach`` may be evaluated piece by piece, each
piece with ``reach`` more states on both sides. That is exact, not an approximation. Where a gradient is needed the pieces
are recomputed in the backward pass.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Segments(nn.Module):
    """``network`` (with an attribute ``reach``) evaluated on about ``frames`` states at a time, and their surroundings.

    The states of all batch items count; a piece is at least as long as its surroundings.
    """

    def __init__(self, network: nn.Module, frames: int):
        super().__init__()
        self.network, self.frames = network, frames
        self.reach = int(network.reach)  # type: ignore[arg-type]

    def forward(self, x: Tensor, log_noise: Tensor, context: Tensor | None = None) -> Tensor:
        """``x``: ``(batch, time, channel, *space)``."""
        length, reach = x.shape[1], self.reach
        frames = max(self.frames // len(x), 2 * reach, 1)
        if length <= frames + 2 * reach:  # as cheap at once
            return self.network(x, log_noise, *(() if context is None else (context,)))
        parts = []
        for start in range(0, length, frames):
            stop = min(start + frames, length)
            first, last = max(start - reach, 0), min(stop + reach, length)
            piece = [x[:, first:last], log_noise]
            if context is not None:
                piece.append(context if context.shape[1] == 1 else context[:, first:last])
            save = torch.is_grad_enabled()
            out = checkpoint(self.network, *piece, use_reentrant=False) if save else self.network(*piece)
            parts.append(out[:, start - first : stop - first])
        return torch.cat(parts, dim=1)
