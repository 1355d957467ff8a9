r"""The score of a long trajectory from the scores of short windows (Rozet & Louppe 2023, arXiv 2306.10574, section 3.1).

If a state depends on the others only through its 2k neighbours, then the score at time i of the whole trajectory is
the score at the centre of the window x_{i-k}, ..., x_{i+k}; the first and last k states come from the first and last
window. The score's entries are picked, not mixed, so the same rule composes noises, denoised states or any other
parameterisation. At noise > 0 the Markov property only holds approximately: larger k, better composition.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Local = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def compose_windows(
    local: Local, x: Tensor, log_noise: Tensor, context: Tensor | None, *, order: int, windows: int | None = None
) -> Tensor:
    """Evaluate ``local`` on every window of ``x`` (batch, time, ...) and put the centres together.

    The activations of ``windows`` windows are in memory at a time; where a gradient is needed, those of further windows are
    computed again in the backward pass, so that memory does not grow with the trajectory.
    """
    width = 2 * order + 1
    batch, length = x.shape[:2]
    if length < width:
        raise ValueError(
            f"the trajectory has {length} states, the window of this prior {width}; use a longer trajectory "
            f"(at least {width} time steps) or a prior of smaller order"
        )
    count = length - width + 1
    unfolded = _unfold(x, width)
    levels = log_noise if log_noise.numel() == 1 else log_noise.repeat_interleave(count)
    contexts = None if context is None else _unfold(context.expand(batch, length, *context.shape[2:]), width)
    windows = windows or len(unfolded)
    size = windows if windows >= len(unfolded) else max(windows // 4, 1)
    parts = []
    for start in range(0, len(unfolded), size):
        group = slice(start, start + size)
        arguments = (
            unfolded[group],
            levels if levels.numel() == 1 else levels[group],
            None if contexts is None else contexts[group],
        )
        again = torch.is_grad_enabled() and start + 2 * size > windows and size < len(unfolded)
        parts.append(checkpoint(local, *arguments, use_reentrant=False) if again else local(*arguments))
    out = torch.cat(parts).unflatten(0, (batch, count))
    return torch.cat([out[:, 0, :order], out[:, :, order], out[:, -1, order + 1 :]], dim=1)


def _unfold(x: Tensor, width: int) -> Tensor:
    """All windows of (batch, time, ...), as (batch * count, width, ...)."""
    return x.unfold(1, width, 1).movedim(-1, 2).flatten(0, 1)


class MarkovNet(nn.Module):
    """A network on windows of ``2 * order + 1`` states, applied to trajectories of any length from there on.

    ``local(x, log_noise, context)`` takes ``(batch, window, channel, *space)`` and returns the same shape. ``windows`` is
    the number of windows whose activations are kept (None: all).
    """

    def __init__(self, local: nn.Module, order: int, *, windows: int | None = 1024):
        super().__init__()
        if order < 1:
            raise ValueError(f"order={order} must be at least 1: the window holds 2 * order + 1 states")
        self.local = local
        self.order = order
        self.windows = windows

    def forward(self, x: Tensor, log_noise: Tensor, context: Tensor | None = None) -> Tensor:
        return compose_windows(self.local, x, log_noise, context, order=self.order, windows=self.windows)
