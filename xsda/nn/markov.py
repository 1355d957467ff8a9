"""Compose the score of a long trajectory from the scores of short windows.

If a state depends on the others only through its 2k neighbours, the score of the whole trajectory at time i is the
score at the centre of the window x_{i-k}, ..., x_{i+k}. The first and last k states come from the first and last
window. The entries of the score are picked and not mixed, so the same rule composes noises, denoised states or any
other parameterisation (Rozet & Louppe 2023, arXiv 2306.10574, section 3.1). At noise > 0 the Markov property holds
only approximately. A larger k gives a better composition.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from xsda.nn.tiles import Tiles

Local = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def compose_windows(
    local: Local, x: Tensor, log_noise: Tensor, context: Tensor | None, *, order: int, windows: int | None = None
) -> Tensor:
    """Evaluate ``local`` on every window of a trajectory and put the centres together.

    Memory holds the activations of ``windows`` windows at a time. If a gradient is needed, the activations of further
    windows are computed again in the backward pass, so that memory does not grow with the length of the trajectory.

    Parameters
    ----------
    local
        Function of (window, log_noise, context) that returns the shape of the window.
    x
        Trajectories (batch, time, ...).
    log_noise
        log(sigma / alpha): one value, or one per batch item.
    context
        Context fields (batch or 1, time or 1, ...), or None.
    order
        Windows hold ``2 * order + 1`` states.
    windows
        Number of windows whose activations are kept (None: all).

    Returns
    -------
    Tensor
        The composed result, in the shape of ``x``.

    Examples
    --------
    >>> x = torch.arange(5.0).reshape(1, 5, 1)
    >>> local = lambda window, log_noise, context: window - window.mean(1, keepdim=True)
    >>> xsda.nn.compose_windows(local, x, torch.zeros(()), None, order=1).flatten()
    tensor([-1.,  0.,  0.,  0.,  1.])
    """
    width = 2 * order + 1
    batch, length = x.shape[:2]
    if length < width:
        raise ValueError(
            f"the trajectory has {length} states, but the window of this prior has {width}; use a trajectory of at "
            f"least {width} states or a prior of smaller order"
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

    Parameters
    ----------
    local
        Network that takes (x, log_noise, context) with x (batch, window, channel, *space) and returns the shape of x.
    order
        Number of neighbours on each side.
    windows
        Number of windows whose activations are kept (None: all).
    """

    def __init__(self, local: nn.Module, order: int, *, windows: int | None = 1024):
        super().__init__()
        if order < 1:
            raise ValueError(f"order={order} must be at least 1: the window holds 2 * order + 1 states")
        self.local = local
        self.order = order
        self.windows = windows

    def tiled(self, tiles: Tiles) -> MarkovNet:
        """Return the same network with windows that are evaluated tile by tile; weights are shared."""
        return MarkovNet(self.local.tiled(tiles), self.order, windows=None)  # type: ignore[operator]

    def forward(self, x: Tensor, log_noise: Tensor, context: Tensor | None = None) -> Tensor:
        return compose_windows(self.local, x, log_noise, context, order=self.order, windows=self.windows)
