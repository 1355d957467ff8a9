"""Where an observation lies on an axis, as indices and weights.

A stencil says, for each of m observed positions, which k grid points it is made of and with which weights. Weights add
up to one: selection, linear interpolation and averages all leave a constant field as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SNAP = 1e-4  # positions this close to a grid point, in units of the spacing, are on it


@dataclass(frozen=True, eq=False)
class Stencil:
    """``index`` and ``weight``, both (position, point), into an ascending axis of ``size`` points."""

    index: np.ndarray
    weight: np.ndarray
    size: int

    @classmethod
    def identity(cls, size: int) -> Stencil:
        return cls(np.arange(size)[:, None], np.ones((size, 1)), size)

    @classmethod
    def mean(cls, size: int) -> Stencil:
        """One position: the average over the whole axis."""
        return cls(np.arange(size)[None], np.full((1, size), 1 / size), size)

    @property
    def trivial(self) -> bool:
        """Whether every position is one grid point."""
        return self.index.shape[1] == 1

    def joined(self, other: Stencil) -> Stencil:
        """The stencil on the flattened pair of axes (self, other), position by position."""
        index = self.index[:, :, None] * other.size + other.index[:, None, :]
        weight = self.weight[:, :, None] * other.weight[:, None, :]
        m = len(index)
        return Stencil(index.reshape(m, -1), weight.reshape(m, -1), self.size * other.size)

    def reversed(self) -> Stencil:
        """The same positions on the axis read the other way round."""
        return Stencil(self.size - 1 - self.index, self.weight, self.size)


@dataclass(frozen=True, eq=False)
class GridAxis:
    """An ascending axis: its name, its points, and its period if it is a ring.

    ``wrap`` is what may be added to a position without changing it (360 for longitudes), also on axes that are not
    rings.
    """

    name: str
    points: np.ndarray
    period: float | None = None
    wrap: float | None = None

    @property
    def spacing(self) -> float:
        return float(np.min(np.diff(self.points))) if len(self.points) > 1 else 1.0

    def locate(self, positions: np.ndarray) -> Stencil:
        """Selection where a position is a grid point, linear interpolation between two, an error outside."""
        p = np.asarray(positions, dtype=float).ravel()
        if np.isnan(p).any():
            raise ValueError(f"{int(np.isnan(p).sum())} observations have NaN as their {self.name!r}; drop them")
        x, n, snap = self.points, len(self.points), SNAP * self.spacing
        cycle = self.period or self.wrap
        inside = p if cycle is None else x[0] - snap + np.mod(p - x[0] + snap, cycle)
        end = x[-1] if self.period is None else x[0] + self.period
        outside = (inside < x[0] - snap) | (inside > end + snap)
        if outside.any():
            shown = ", ".join(f"{v:g}" for v in np.unique(p[outside])[:5])
            raise ValueError(
                f"observations lie outside the grid along {self.name!r}: {shown}{' ...' if outside.sum() > 5 else ''}; "
                f"the grid covers {x[0]:g} to {x[-1]:g}. Drop them, or extend the grid"
            )
        extended = x if self.period is None else np.append(x, x[0] + self.period)
        left = np.clip(np.searchsorted(extended, inside, side="right") - 1, 0, max(len(extended) - 2, 0))
        if len(extended) == 1:
            return Stencil(np.zeros((len(p), 1), int), np.ones((len(p), 1)), n)
        width = extended[left + 1] - extended[left]
        share = np.clip((inside - extended[left]) / width, 0, 1)
        share = np.where(share < SNAP, 0, np.where(share > 1 - SNAP, 1, share))
        if np.isin(share, (0, 1)).all():
            index = (left + share.astype(int)) % n
            return Stencil(index[:, None], np.ones((len(p), 1)), n)
        return Stencil(np.stack([left, (left + 1) % n], 1), np.stack([1 - share, share], 1), n)

    def average(self, lower: np.ndarray, upper: np.ndarray) -> Stencil:
        """Averages over cells [lower, upper], each grid point weighing as its own cell overlaps."""
        x = self.points
        middle = (x[1:] + x[:-1]) / 2
        if self.period is None:
            first = x[0] - (x[1] - x[0]) / 2 if len(x) > 1 else -np.inf
            last = x[-1] + (x[-1] - x[-2]) / 2 if len(x) > 1 else np.inf
        else:
            first = (x[0] + x[-1] - self.period) / 2
            last = first + self.period
        edges = np.concatenate([[first], middle, [last]])
        lower, upper = np.minimum(lower, upper), np.maximum(lower, upper)
        if np.isnan(lower).any() or np.isnan(upper).any():
            raise ValueError(f"the cell bounds along {self.name!r} hold NaN; every averaged observation needs its bounds")
        slack = 0.5 * self.spacing * (1 + SNAP)
        if self.period is None and ((lower < first - slack).any() or (upper > last + slack).any()):
            raise ValueError(
                f"averages along {self.name!r} reach from {lower.min():g} to {upper.max():g}, outside the grid's cells "
                f"({first:g} to {last:g}); give the coordinate its true 'bounds', or extend the grid"
            )
        overlap = np.zeros((len(lower), len(x)))
        for shift in (0.0,) if self.period is None else (-self.period, 0.0, self.period):
            a, b = (lower + shift)[:, None], (upper + shift)[:, None]
            overlap += np.clip(np.minimum(b, edges[1:]) - np.maximum(a, edges[:-1]), 0, None)
        total = overlap.sum(1)
        if (total <= 0).any():
            raise ValueError(f"some cells along {self.name!r} are empty; check the 'bounds' of the coordinate")
        weight = overlap / total[:, None]
        weight[weight < 1e-9] = 0
        points = int((weight > 0).sum(1).max())
        index = np.argsort(weight == 0, axis=1, kind="stable")[:, :points]
        return Stencil(index, np.take_along_axis(weight, index, 1), len(x))
