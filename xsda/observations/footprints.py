"""Of which grid points observed values are made, and how much of a correlated error is left in them.

An average over a block is known better than a point, by how much its points' errors hang together. Most values are alike
but for their place, blocks of one size above all, and are looked at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from xsda.observations.operator import VariableOperator

LARGE = 2**22  # points of all values, and pairs of points of all kinds


@dataclass(frozen=True, eq=False)
class Footprints:
    """Weights and channels (kind, point) of values of several kinds, the distances of their points, and the kind of each value."""

    weight: Tensor
    channel: Tensor
    distance: Tensor  # along time and each space axis: (axis, kind, point, point)
    kind: Tensor

    @classmethod
    def of(cls, op: VariableOperator, pick: np.ndarray, shape: Sequence[int]) -> Footprints | None:
        """Of the values ``pick`` of a variable, on trajectories (time, channel, *space); None if they are too large or derived."""
        points = math.prod(g.stencil.weight.shape[1] for g in op.gathers)
        if op.channels is None or math.prod(op.shape) * points > LARGE:
            return None
        space = [d for d in op.grid_dims[1:] if d != op.channel_dim]
        dims = [op.grid_dims[0], *space]
        sizes = dict(zip(dims, (shape[0], *shape[2:]), strict=True))
        if op.channel_dim is not None:
            sizes[op.channel_dim] = op.channels.stop - op.channels.start
        index, weight = op.stencil(sizes)
        places = np.stack([index[d][pick] for d in dims], 1)
        places -= places[:, :, :1]
        channel = op.channels.start + (index[op.channel_dim][pick] if op.channel_dim else np.zeros_like(places[:, 0]))
        _, first, kind = np.unique(
            np.concatenate([places.reshape(len(places), -1), channel, weight[pick].round(9)], 1),
            axis=0, return_index=True, return_inverse=True,
        )  # fmt: skip
        if len(first) * points**2 > LARGE:
            return None
        places = np.moveaxis(places[first], 1, 0)
        distance = np.abs(places[..., None] - places[..., None, :])
        arrays = weight[pick][first], channel[first], distance, kind.reshape(-1)
        return cls(*(torch.as_tensor(a) for a in arrays))

    def variance(self, std: Tensor, rho: Sequence[float]) -> Tensor:
        """Of each value, (value,), if errors have ``std`` (channel,) and correlate by rho^distance along each axis; channels do not."""
        std = std.double().cpu()
        share = (self.channel[:, :, None] == self.channel[:, None]).double()
        for r, distance in zip(rho, self.distance, strict=True):
            share *= (torch.tensor(r, dtype=torch.float64) ** torch.arange(int(distance.max()) + 1))[distance]
        weight = self.weight.double() * std[self.channel]
        return torch.einsum("kp,kpq,kq->k", weight, share, weight)[self.kind]
