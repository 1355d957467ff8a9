r"""Interpolates observed anomalies by inverse distance: a yardstick that needs no covariance and no model.

An anomaly is an observed value minus the mean m that the prior expects there. The prediction at another place is

.. math:: m + \sum_i w_i (y_i - m_i), \qquad w_i \propto d_i^{-2},

over the nearest observations of the same variable. The distance d counts steps of the grid in space and time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from xsda.labels.grid import Grid
from xsda.observations.expected import expected
from xsda.observations.operator import VariableOperator
from xsda.observations.read import Observed
from xsda.observations.survey import survey
from xsda.priors.prior import Prior

NEAREST, NEAR, AT_ONCE = 8, 1e-3, 256  # neighbours; smallest distance; places that are predicted at once

Key = tuple[str, str]


@dataclass(frozen=True, eq=False)
class InverseDistance:
    """Interpolates the anomalies of some observations to the places of others.

    Parameters
    ----------
    places
        Positions of the values in steps of the grid, (value, dimension), by source and variable.
    values, means
        Observed and expected values, (value,).
    rings
        Number of points along periodic dimensions, infinity along others.
    """

    places: Mapping[Key, np.ndarray]
    values: Mapping[Key, np.ndarray]
    means: Mapping[Key, np.ndarray]
    rings: np.ndarray

    @classmethod
    def of(cls, observed: Sequence[Observed], grid: Grid, prior: Prior) -> InverseDistance:
        """Find the places and anomalies of observations.

        Parameters
        ----------
        observed
            All observed variables.
        grid
            The grid.
        prior
            The prior, for the expected values.
        """
        dims = grid.core_dims
        sizes = {d: grid.template.sizes[d] for d in dims}
        rings = np.array([np.inf, *(sizes[d] if grid.period(d) else np.inf for d in dims[1:])])
        places, values, means = {}, {}, {}
        for o in observed:
            key = o.source, o.name
            found = survey(grid, o)
            if found.operator is None:
                raise ValueError(f"all values of {o.name!r} in {o.source} lie outside the grid; drop them")
            places[key] = _centres(found.operator, sizes, dims, rings)
            values[key] = np.asarray(o.da.values, float).ravel()
            mean = expected(found, grid, prior)[0]
            means[key] = np.where(np.isnan(mean), 0.0, mean)  # a variable without an expectation is its own anomaly
        return cls(places, values, means, rings)

    def predict(self, key: Key, where: np.ndarray, known: Mapping[Key, np.ndarray]) -> np.ndarray:
        """Predict the values ``where`` of one variable from those that are ``known``; NaN elsewhere.

        Parameters
        ----------
        key
            Source and variable.
        where
            Which of its values to predict.
        known
            Which values may be used, for each source and variable.
        """
        use = {k: known[k] & ~np.isnan(v) for k, v in self.values.items() if k[1] == key[1]}
        sources = np.concatenate([self.places[k][m] for k, m in use.items()])
        anomalies = np.concatenate([(self.values[k] - self.means[k])[m] for k, m in use.items()])
        out = np.full(len(where), np.nan)
        wanted = np.flatnonzero(where) if len(anomalies) else np.zeros(0, int)
        for first in range(0, len(wanted), AT_ONCE):
            rows = wanted[first : first + AT_ONCE]
            apart = np.abs(self.places[key][rows, None] - sources)
            square = (np.minimum(apart, np.abs(self.rings - apart)) ** 2).sum(-1) + NEAR**2
            last = min(NEAREST, len(anomalies)) - 1
            farthest = np.partition(square, last, axis=1)[:, last, None] * (1 + 1e-9)
            weight = np.where(square <= farthest, 1 / square, 0)  # all neighbours at the same distance, in any order
            out[rows] = weight @ anomalies / weight.sum(1)
        return out + self.means[key]


def _centres(op: VariableOperator, sizes: Mapping[str, int], dims: Sequence[str], rings: np.ndarray) -> np.ndarray:
    """The middle of the grid points that each value reads, (value, dimension)."""
    lengths = dict(sizes)
    if op.channel_dim is not None and op.channels is not None:
        lengths[op.channel_dim] = op.channels.stop - op.channels.start
    index, weight = op.stencil(lengths)
    columns = []
    for d, ring in zip(dims, rings, strict=True):
        first = index[d][:, :1]
        steps = index[d] - first
        if np.isfinite(ring):
            steps = (steps + ring / 2) % ring - ring / 2
        columns.append(first[:, 0] + (weight * steps).sum(1))
    return np.stack(columns, 1)
