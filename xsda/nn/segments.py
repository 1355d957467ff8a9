"""Evaluate a network on a long trajectory in pieces: the same result, with memory that does not grow with the length.

This works for networks whose value at one time depends only on the states within ``reach``. Each piece is evaluated
with ``reach`` more states on both sides, which is exact and not an approximation. If memory suffices, the whole
trajectory is evaluated at once. For gradients of longer trajectories, activations are kept while there is room; those
of the other pieces are computed again in the backward pass.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Segments(nn.Module):
    """A network that holds the activations of about ``frames`` states in memory at a time.

    Parameters
    ----------
    network
        Network with an attribute ``reach``.
    frames
        Number of states, over all batch items. A piece holds a quarter of them, and is at least as long as the states
        around it.
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
    """Measure the memory that a gradient with respect to the first input keeps.

    Parameters
    ----------
    network
        The network.
    inputs
        Arguments of one call.

    Returns
    -------
    int
        Bytes, without the weights.

    Examples
    --------
    >>> from xsda.nn.segments import activation_bytes
    >>> activation_bytes(torch.nn.Sequential(torch.nn.Tanh(), torch.nn.Tanh()), torch.zeros(10))
    80
    """
    count = _Count(network)
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(count, _given):
        network(inputs[0].detach().requires_grad_(), *inputs[1:])
    return count.total


class _Count:
    """Adds up the memory of the tensors that are kept. Each counts once; weights do not count."""

    def __init__(self, network: nn.Module):
        self.seen = {p.untyped_storage().data_ptr() for p in network.parameters()}
        self.total = 0

    def __call__(self, kept: Tensor) -> Tensor:
        storage = kept.untyped_storage()
        if storage.data_ptr() not in self.seen:
            self.seen.add(storage.data_ptr())
            self.total += storage.nbytes()
        return kept.detach()  # without its graph, which would hold itself


def _given(kept: Tensor) -> Tensor:
    return kept
