"""Observations near and inside the mask of a prior, such as land for an ocean model.

Points of the mask have no values. The weights of the other points are scaled so that they add up to one. An observation
with less than a quarter of its weight on valid points lies inside the mask: the nearest point of a bilinear
interpolation has at least that weight.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from xsda.labels.grid import Grid
from xsda.observations.operator import Gather, VariableOperator
from xsda.observations.stencils import Stencil

LEAST = 0.25 - 1e-9  # weight on valid points


def on_valid_points(op: VariableOperator, grid: Grid) -> tuple[VariableOperator, np.ndarray]:
    """Let an operator read valid points only; also return which of its values lie outside the mask.

    Parameters
    ----------
    op
        The operator of one variable.
    grid
        The grid, with its mask.

    Returns
    -------
    operator, valid
        The operator, which is the same if nothing that it reads is masked, and a truth value for each ravelled value.
    """
    everywhere = np.ones(int(np.prod(op.shape)), bool)
    if grid.mask is None:
        return op, everywhere
    sizes = dict(zip((grid.core_dims[0], *grid.core_dims[1:]), (grid.shape[0], *grid.shape[2:]), strict=True))
    mask = grid.mask if op.channels is None else grid.mask[op.channels]
    if op.channel_dim is None:
        mask = np.asarray(mask.all(0))  # a derived variable needs all variables
    else:
        sizes[op.channel_dim] = len(mask)
    index, weight = op.stencil(sizes)
    known = mask[tuple(index[d] for d in op.grid_dims[1:])]
    if known[weight > 0].all():
        return op, everywhere
    total = (weight * known).sum(1)
    weight = np.where(total[:, None] > 0, weight * known / np.where(total > 0, total, 1)[:, None], weight)
    lengths = [sizes[d] for d in op.grid_dims]
    flat = np.ravel_multi_index([index[d] for d in op.grid_dims], lengths)
    stencil = Stencil.weighted(flat, weight, int(np.prod(lengths)))
    gather = Gather(op.grid_dims, op.dims, op.shape, stencil)
    return replace(op, gathers=(gather,), _tensors={}), total >= LEAST
