"""The loss of a training as a module, and the input of one evaluation of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from xsda.diffusion.denoisers import Preconditioned
from xsda.diffusion.loss import denoising_loss
from xsda.training.training_options import PRECISIONS, TrainingOptions


class Sample(NamedTuple):
    """The input of one evaluation of the loss, with one noise level for each item of the batch."""

    x0: Tensor
    context: Tensor | None
    t: Tensor
    noise: Tensor

    def each(self, change: Callable[[Tensor], Tensor]) -> Sample:
        """Apply a function to every tensor."""
        context = None if self.context is None else change(self.context)
        return Sample(change(self.x0), context, change(self.t), change(self.noise))

    def to(self, device: torch.device) -> Sample:
        """Return the sample on another device."""
        return self.each(lambda v: v.to(device, non_blocking=True))

    def parts(self, count: int) -> Iterator[tuple[float, Sample]]:
        """Yield ``count`` parts of the batch (at most one per item), each with its fraction of the batch."""
        size = len(self.t)
        for rows in torch.arange(size).tensor_split(min(count, size)):
            yield len(rows) / size, self.each(lambda v: v[rows[0] : rows[-1] + 1])  # noqa: B023


class Objective(nn.Module):
    """The loss as a module, which is what torch distributes over processes.

    Parameters
    ----------
    denoiser
        The denoiser to train.
    options
        Weighting and precision.
    area
        Weights of the grid points, *space; None if they are equal.
    """

    area: Tensor | None

    def __init__(self, denoiser: Preconditioned, options: TrainingOptions, area: Tensor | None = None):
        super().__init__()
        self.register_buffer("area", area, persistent=False)
        self.denoiser, self.weighting, self.precision = denoiser, options.weighting, PRECISIONS[options.precision]

    def forward(self, x0: Tensor, context: Tensor | None, t: Tensor, noise: Tensor) -> Tensor:
        seen = self.denoiser if context is None else self.denoiser.conditioned(context)
        with torch.autocast(x0.device.type, dtype=self.precision, enabled=self.precision is not None):
            return denoising_loss(seen, x0, t, noise, weighting=self.weighting, area=self.area)
