"""Reads a record as anomalies of its climatology, in blocks or from memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import xarray as xr

from xsda.labels.area import grid_areas
from xsda.labels.layout import Layout
from xsda.labels.steps import step_numbers, stretches
from xsda.priors.moments import Blocks

LEAST_AREA = 1e-6  # of a point, relative to the mean
HELD_NUMBERS = 2**27  # anomalies of at most this many numbers are kept in memory (single precision)


class Anomalies:
    """Blocks (row, time, point) of anomalies at valid points; a missing value is zero, until it is drawn."""

    def __init__(self, ds: xr.Dataset, layout: Layout):
        assert layout.normals is not None
        self.blocks = Blocks(ds, layout)
        self.grid = self.blocks.grid
        self.valid = layout.normals.valid.ravel()
        area = grid_areas(ds, self.grid.core_dims[1:]).clip(min=LEAST_AREA)
        self.root_area = np.sqrt(np.tile(area.ravel(), layout.channels)[self.valid]).astype(np.float32)
        self.rows, self.states = self.blocks.rows, ds.sizes[layout.time]
        numbers = step_numbers(ds[layout.time]) if layout.time in ds.coords else np.arange(float(self.states))
        self.stretches = stretches(numbers, layout.dt)
        self.small = self.rows * self.states * int(self.valid.sum()) <= HELD_NUMBERS
        self.held: list[tuple[int, np.ndarray]] | None = None
        self.missing: list[np.ndarray] = []  # of the blocks that are held
        self.gaps = False
        self.held = list(self) if self.small else None

    @property
    def points(self) -> int:
        return int(self.valid.sum())

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        if self.held is not None:
            yield from self.held
            return
        for start, x in self.blocks:
            z = self.grid.standardise(x, start).numpy()
            z = z.reshape(*z.shape[:2], -1)[..., self.valid]
            missing = np.isnan(z)
            if self.small:
                self.missing.append(missing)
            self.gaps = self.gaps or bool(missing.any())
            yield start, np.nan_to_num(z, copy=False, nan=0.0)

    def draw_missing(self, patterns: np.ndarray, variance: np.ndarray, rest: float, rng: np.random.Generator) -> None:
        """Draw missing values given the others of their state, from patterns (pattern, point) and a remainder."""
        assert self.held is not None
        for (_, z), missing in zip(self.held, self.missing, strict=True):
            for row, time in np.argwhere(missing.any(2)):
                gap = missing[row, time]
                known = patterns[:, ~gap].astype(np.float64)
                precision = known @ known.T / rest + np.diag(1 / variance)
                factor = np.linalg.cholesky(precision)
                along = np.linalg.solve(precision, known @ z[row, time, ~gap] / rest)
                along += np.linalg.solve(factor.T, rng.standard_normal(len(along)))
                z[row, time, gap] = along @ patterns[:, gap] + rest**0.5 * rng.standard_normal(gap.sum())

    def placed(self) -> Iterator[tuple[slice, slice, np.ndarray]]:
        """Yield the rows and times of each block, and its values."""
        first = stop = 0
        for start, z in self:
            if start == 0:
                first, stop = stop, stop + len(z)
            yield slice(first, stop), slice(start, start + z.shape[1]), z

    def known(self, pick: np.ndarray) -> np.ndarray:
        """Return which values of some points the record has, (row, time, point); all, if it is not kept in memory."""
        out = np.ones((self.rows, self.states, len(pick)), bool)
        for (rows, times, _), missing in zip(self.placed(), self.missing, strict=self.small):
            out[rows, times] = ~missing[..., pick]
        return out

    def states_of(self, keep: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the states (state, point) that ``keep`` (row, time) selects."""
        for rows, times, z in self.placed():
            yield z[keep[rows, times]]

    def map(self, function: Callable[[np.ndarray], np.ndarray], width: int) -> np.ndarray:
        """Apply a function (row, time, point) -> (row, time, width) to all blocks, and join the results."""
        out = np.empty((self.rows, self.states, width), np.float32)
        for rows, times, z in self.placed():
            out[rows, times] = function(z)
        return out
