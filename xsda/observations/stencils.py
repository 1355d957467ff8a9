"""Computes indices and weights of grid points for observed positions along an axis.

A stencil holds, for each of m observed positions, k grid points and their weights. The weights add up to one, so that
selection, linear interpolation and averages all leave a constant field unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from xsda.labels.area import band_edges
from xsda.labels.axes import axis_text

SNAP = 1e-4  # positions closer to a grid point than this, in units of the spacing, are that grid point


@dataclass(frozen=True, eq=False)
class Stencil:
    """Indices and weights, both (position, point), into an ascending axis of ``size`` points."""

    index: np.ndarray
    weight: np.ndarray
    size: int

    @classmethod
    def identity(cls, size: int) -> Stencil:
        return cls(np.arange(size)[:, None], np.ones((size, 1)), size)

    @classmethod
    def mean(cls, weight: np.ndarray) -> Stencil:
        """One position: the average over the whole axis with these weights, which need not add up to one."""
        return cls.weighted(np.arange(len(weight))[None], weight[None] / weight.sum(), len(weight))

    @property
    def trivial(self) -> bool:
        """Whether every position is one grid point."""
        return self.index.shape[1] == 1

    @property
    def contiguous(self) -> bool:
        """Whether the positions are consecutive grid points."""
        steps = np.diff(self.index[:, 0])
        return self.trivial and bool((steps == 1).all() or (steps == -1).all())

    @classmethod
    def weighted(cls, index: np.ndarray, weight: np.ndarray, size: int) -> Stencil:
        """Build a stencil in which points of weight zero are not read: a missing value there has no effect."""
        heaviest = np.take_along_axis(index, weight.argmax(axis=1)[:, None], 1)
        return cls(np.where(weight == 0, heaviest, index), weight, size)

    @classmethod
    def compact(cls, index: np.ndarray, weight: np.ndarray, size: int) -> Stencil:
        """Build a ``weighted`` stencil without the columns that no position needs."""
        order = np.argsort(weight == 0, axis=1, kind="stable")[:, : int((weight != 0).sum(1).max(initial=1))]
        return cls.weighted(np.take_along_axis(index, order, 1), np.take_along_axis(weight, order, 1), size)

    def take(self, rows: np.ndarray) -> Stencil:
        """Select these positions, in this order."""
        return Stencil(self.index[rows], self.weight[rows], self.size)

    def joined(self, other: Stencil) -> Stencil:
        """Combine two stencils, position by position, into one on the flattened pair of axes (self, other)."""
        index = self.index[:, :, None] * other.size + other.index[:, None, :]
        weight = self.weight[:, :, None] * other.weight[:, None, :]
        m = len(index)
        return Stencil(index.reshape(m, -1), weight.reshape(m, -1), self.size * other.size)

    def reversed(self) -> Stencil:
        """The same positions on the reversed axis."""
        return Stencil(self.size - 1 - self.index, self.weight, self.size)


@dataclass(frozen=True, eq=False)
class GridAxis:
    """An ascending axis: its name, its points, and its period if it is a ring.

    Positions that differ by ``wrap`` are the same (360 for longitudes), also on axes that are not rings. If points are
    dates, they are seconds since ``origin``. On a ``latitude`` averages are weighted by area: the sine of the latitude
    takes the place of the coordinate.
    """

    name: str
    points: np.ndarray
    period: float | None = None
    wrap: float | None = None
    origin: Any = None
    latitude: bool = False

    def __post_init__(self) -> None:
        span = self.points[-1] - self.points[0] if len(self.points) else 0.0
        if self.period is not None and span > self.period * (1 + SNAP):
            raise ValueError(f"the axis {self.name!r} spans {span:g}, more than its period {self.period:g}")

    def text(self, value: float) -> str:
        """A position as the user wrote it."""
        return axis_text(value, self.origin)

    @property
    def spacing(self) -> float:
        return float(np.min(np.diff(self.points))) if len(self.points) > 1 else 1.0

    def locate(self, positions: np.ndarray) -> Stencil:
        """Select grid points, interpolate linearly between them, and raise outside the axis."""
        p = np.asarray(positions, dtype=float).ravel()
        if np.isnan(p).any():
            raise ValueError(f"{int(np.isnan(p).sum())} observations have NaN as {self.name!r}; drop them")
        x, n, inside, outside = self.points, len(self.points), self._turned(p), self.outside(p)
        if outside.any():
            values = np.unique(p[outside])
            shown = ", ".join(self.text(v) for v in values[:5]) + (" ..." if len(values) > 5 else "")
            raise ValueError(
                f"observations lie outside the grid along {self.name!r}: {shown}; "
                f"the grid covers {self.text(x[0])} to {self.text(x[-1])}. Use outside='drop', or extend the grid"
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
        return Stencil.weighted(np.stack([left, (left + 1) % n], 1), np.stack([1 - share, share], 1), n)

    def outside(self, positions: np.ndarray) -> np.ndarray:
        """Whether positions lie outside the axis. A position that is NaN is not outside."""
        inside, snap = self._turned(positions), SNAP * self.spacing
        end = self.points[-1] if self.period is None else self.points[0] + self.period
        return (inside < self.points[0] - snap) | (inside > end + snap)

    def _turned(self, positions: np.ndarray) -> np.ndarray:
        """On a cyclic axis, shift positions to the turn that begins at the first point."""
        cycle, first = self.period or self.wrap, self.points[0] - SNAP * self.spacing
        return positions if cycle is None else first + np.mod(positions - first, cycle)

    def average(self, lower: np.ndarray, upper: np.ndarray) -> Stencil:
        """Average over cells [lower, upper]; the weight of a grid point is the overlap of its own cell with them."""
        x, edges = self.points, self.edges()
        if np.isnan(lower).any() or np.isnan(upper).any():
            raise ValueError(
                f"the cell bounds along {self.name!r} hold NaN; every averaged observation needs its bounds"
            )
        slack = 0.5 * self.spacing * (1 + SNAP)
        lower, upper = self._unwrap(lower, upper, edges[0] - slack)
        if self.period is None and ((lower < edges[0] - slack).any() or (upper > edges[-1] + slack).any()):
            raise ValueError(
                f"averages along {self.name!r} reach from {self.text(lower.min())} to {self.text(upper.max())}, "
                f"outside the cells of the grid ({self.text(edges[0])} to {self.text(edges[-1])}); correct the "
                "'bounds' of the coordinate, or extend the grid"
            )
        overlap = np.zeros((len(lower), len(x)))
        for shift in (0.0,) if self.period is None else (-self.period, 0.0, self.period):
            a, b, own = (self._area(p) for p in ((lower + shift)[:, None], (upper + shift)[:, None], edges))
            overlap += np.clip(np.minimum(b, own[1:]) - np.maximum(a, own[:-1]), 0, None)
        total = overlap.sum(1)
        if (total <= 0).any():
            raise ValueError(f"some cells along {self.name!r} are empty; check the 'bounds' of the coordinate")
        weight = overlap / total[:, None]
        weight[weight < 1e-9] = 0
        return Stencil.compact(np.broadcast_to(np.arange(len(x)), weight.shape), weight, len(x))

    def mean(self) -> Stencil:
        """Average over the whole axis: all points alike, or by the area of their bands."""
        return Stencil.mean(np.diff(self._area(self.edges())) if self.latitude else np.ones(len(self.points)))

    def _area(self, positions: np.ndarray) -> np.ndarray:
        """Positions in a coordinate in which cells of the same area have the same length."""
        return np.sin(np.radians(np.clip(positions, -90, 90))) if self.latitude else positions

    def edges(self) -> np.ndarray:
        """Edges of the cells of the grid, halfway between its points."""
        x = self.points
        if self.latitude and len(x) > 1:
            return band_edges(x)
        if self.period is not None:
            first = (x[0] + x[-1] - self.period) / 2
            last = first + self.period
        elif len(x) > 1:
            first, last = x[0] - (x[1] - x[0]) / 2, x[-1] + (x[-1] - x[-2]) / 2
        else:
            first, last = -np.inf, np.inf
        return np.concatenate([[first], (x[1:] + x[:-1]) / 2, [last]])

    def _unwrap(self, lower: np.ndarray, upper: np.ndarray, start: float) -> tuple[np.ndarray, np.ndarray]:
        """Return ascending bounds; on a cyclic axis, shift them to the turn that begins at ``start``."""
        cycle = self.period or self.wrap
        if cycle is not None:
            upper = np.where(lower - upper > cycle / 2, upper + cycle, upper)  # 355 to 5 is a cell of 10 degrees
        lower, upper = np.minimum(lower, upper), np.maximum(lower, upper)
        if cycle is None or not np.isfinite(start):
            return lower, upper
        middle = (lower + upper) / 2
        turn = np.mod(middle - start, cycle) + start - middle
        return lower + turn, upper + turn
