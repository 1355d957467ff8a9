"""Long trajectories in pieces: the same result, with memory that does not grow with the length.

A network whose value at one time depends only on the states within its ``reach`` may be evaluated piece by piece, each
piece with ``reach`` more states on both sides. That is exact, not an approximation. What there is room for is evaluated
at once. Where a longer one needs a gradient, what it takes is kept while there is room, and computed again in the
backward pass for the other pieces.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Segments(nn.Module):
    """``network`` (with an attribute ``reach``) with the activations of about ``frames`` states in memory at a time.

    The states of all batch items count; pieces hold a quarter of them, and are at least as long as their surroundings.
    """

    def __init__(self, network: nn.Module, frames: int):
        super().__init__()
        self.network, self.frames = network, frames
        self.reach = int(network.reach)  # type: ignore[arg-type]

    def forward(self, x: Tensor, log_noise: Tensor, context: Tensor | None = None) -> Tensor:
        """``x``: ``(batch, time, channel, *space)``."""
        length, reach, room = x.shape[1], self.reach, self.frames // len(x)
        size = max(room // 4, 2 * reach, 1)
        if length <= max(room, size + 2 * reach):
            return self.network(x, log_noise, *(() if context is None else (context,)))
        parts = []
        for start in range(0, length, size):
            stop = min(start + size, length)
            first, last = max(start - reach, 0), min(stop + reach, length)
            piece = [x[:, first:last], log_noise]
            if context is not None:
                piece.append(context if context.shape[1] == 1 else context[:, first:last])
            again = torch.is_grad_enabled() and stop + size > room
            out = checkpoint(self.network, *piece, use_reentrant=False) if again else self.network(*piece)
            parts.append(out[:, start - first : stop - first])
        return torch.cat(parts, dim=1)


def activation_bytes(network: nn.Module, *inputs: Tensor) -> int:
    """What a gradient with respect to the first input keeps in memory."""
    count = _Count(network)
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(count, _given):
        network(inputs[0].detach().requires_grad_(), *inputs[1:])
    return count.total


class _Count:
    """Adds up the memory of the tensors that are kept, each once, the weights not at all."""

    def __init__(self, network: nn.Module):
        self.seen = {p.untyped_storage().data_ptr() for p in network.parameters()}
        self.total = 0

    def __call__(self, kept: Tensor) -> Tensor:
        storage = kept.untyped_storage()
        if storage.data_ptr() not in self.seen:
            self.seen.add(storage.data_ptr())
            self.total += storage.nbytes()
        return kept.detach()  # of the graph: it would hold itself


def _given(kept: Tensor) -> Tensor:
    return kept
