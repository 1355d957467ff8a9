"""Computes the variance that correlated errors of a field leave in observed values, such as block averages.

Each value is a weighted sum of grid points. If the errors of these points are weakly correlated, averaging reduces
them. Values with the same weights and the same relative positions (blocks of one size) are of one kind; each kind is
computed once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from xsda.observations.operator import VariableOperator

LARGE = 2**22  # most points of all values together, and most pairs of points of all kinds together


@dataclass(frozen=True, eq=False)
class Footprints:
    """The grid points of observed values, kind by kind.

    ``weight`` and ``channel`` are (kind, point). ``distance`` is (axis, kind, point, point), in grid steps along time
    and each space axis. ``kind`` is the kind of each value.
    """

    weight: Tensor
    channel: Tensor
    distance: Tensor
    kind: Tensor

    @classmethod
    def of(
        cls, op: VariableOperator, pick: np.ndarray, shape: Sequence[int], relative: np.ndarray | None = None
    ) -> Footprints | None:
        """Find the points of the values ``pick`` on trajectories of ``shape`` (time, channel, *space).

        ``relative`` holds standard deviations of points over that of their channel, (channel, *space). The result is
        None if the variable is derived, or if there are too many points.
        """
        points = math.prod(g.stencil.weight.shape[1] for g in op.gathers)
        if op.channels is None or math.prod(op.shape) * points > LARGE:
            return None
        space = [d for d in op.grid_dims[1:] if d != op.channel_dim]
        dims = [op.grid_dims[0], *space]
        sizes = dict(zip(dims, (shape[0], *shape[2:]), strict=True))
        if op.channel_dim is not None:
            sizes[op.channel_dim] = op.channels.stop - op.channels.start
        index, weight = op.stencil(sizes)
        places, weight = np.stack([index[d][pick] for d in dims], 1), weight[pick]
        channel = op.channels.start + (index[op.channel_dim][pick] if op.channel_dim else np.zeros_like(places[:, 0]))
        if relative is not None:
            weight = weight * relative[(channel, *(index[d][pick] for d in space))]
        places = places - places[:, :, :1]
        _, first, kind = np.unique(
            np.concatenate([places.reshape(len(places), -1), channel, weight.round(9)], 1),
            axis=0, return_index=True, return_inverse=True,
        )  # fmt: skip
        if len(first) * points**2 > LARGE:
            return None
        places = np.moveaxis(places[first], 1, 0)
        distance = np.abs(places[..., None] - places[..., None, :])
        arrays = weight[first], channel[first], distance, kind.reshape(-1)
        return cls(*(torch.as_tensor(a) for a in arrays))

    def variance(self, std: Tensor, rho: Sequence[float]) -> Tensor:
        """Return the variance of each value, (value,).

        The errors have the standard deviations ``std`` (channel,) and the correlation rho^distance along each axis.
        Errors of different channels are independent.
        """
        std = std.double().cpu()
        share = (self.channel[:, :, None] == self.channel[:, None]).double()
        for r, distance in zip(rho, self.distance, strict=True):
            share *= (torch.tensor(r, dtype=torch.float64) ** torch.arange(int(distance.max()) + 1))[distance]
        weight = self.weight.double() * std[self.channel]
        return ((weight[:, None] @ share)[:, 0] * weight).sum(1)[self.kind]
