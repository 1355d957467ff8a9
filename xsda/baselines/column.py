"""Sorts one observed variable by time, with the state indices, weights and position of each value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr

from xsda.labels.cf import cell_method
from xsda.labels.grid import Grid
from xsda.likelihood.laws import Normal
from xsda.likelihood.whitening import Whitener
from xsda.observations.compile import grid_axis, matching_coordinate
from xsda.observations.correlation import whitener
from xsda.observations.mesh import Mesh
from xsda.observations.observed import Observed
from xsda.observations.operator import Derived


@dataclass(eq=False)
class Column:
    """One observed variable, sorted by time. ``time`` holds the number of each value's time.

    ``index`` and ``weight`` (value, point) refer to a flattened state. ``position`` is (value, space), in the
    coordinates of the grid (latitude and longitude if these are two-dimensional). ``pick`` are the ravelled positions
    of the values in ``da``.
    """

    name: str
    derived: Derived | None
    correlation: Any
    da: xr.DataArray
    pick: np.ndarray
    time: np.ndarray
    index: np.ndarray
    weight: np.ndarray
    position: np.ndarray
    y: np.ndarray
    std: np.ndarray
    time_dim: str = ""
    _white: tuple[bytes, Whitener] | None = None

    def key(self, span: slice) -> bytes:
        """A key of the places of these values."""
        return b"|".join([self.name.encode(), self.index[span].tobytes(), self.weight[span].tobytes()])

    def whitener(self, span: slice) -> Whitener:
        """Return the whitener of the values of one time. ``correlation`` includes missing values of that time."""
        values = list(np.unravel_index(self.pick[span], self.da.shape))
        when = values.pop(self.da.dims.index(self.time_dim))[0]
        now = self.da.isel({self.time_dim: int(when)})
        pick = np.ravel_multi_index(values, now.shape) if values else np.zeros(1, int)
        key = pick.tobytes()
        if self._moves:
            key += np.int64(when).tobytes()
        if self._white is None or self._white[0] != key:
            self._white = key, whitener(now, pick, self.correlation, torch.float64)
        return self._white[1]

    @property
    def _moves(self) -> bool:
        """Whether the correlation may change from time to time."""
        along = self.correlation if isinstance(self.correlation, Mapping) else ()
        return any(c in self.da.coords and self.time_dim in self.da[c].dims for c in along)


def check_instrument(observed: Observed) -> None:
    """Raise unless the errors are Gaussian."""
    if not isinstance(observed.law, Normal):
        raise ValueError(
            f"{observed.name!r} has errors of the law {observed.law}; filters need Gaussian errors (assimilate "
            "accepts others)"
        )


def column(grid: Grid, observed: Observed) -> Column:
    """Build the column of a variable on a grid whose times are the observation times."""
    name, da, correlation, (time, *space) = observed.name, observed.da, observed.correlation, grid.core_dims
    coord = matching_coordinate(da, grid, time)
    assert coord is not None
    _check_instant(da, coord, grid)
    if correlation is not None:
        _check_within_times(da, coord, correlation)
    op = observed.compile(grid)
    sizes = {d: grid.template.sizes[d] for d in grid.core_dims}
    if op.channel_dim is not None:
        sizes[op.channel_dim] = op.channels.stop - op.channels.start  # type: ignore[union-attr]
    index, weight = op.stencil(sizes)
    position = _position(grid, index, weight) if space else np.empty((da.size, 0))
    flat = np.zeros_like(weight, dtype=np.int64)
    if op.channels is not None:
        flat += op.channels.start + (index[op.channel_dim] if op.channel_dim is not None else 0)
    for d in space:
        flat = flat * sizes[d] + index[d]
    rows = np.argsort(index[time][observed.pick, 0], kind="stable")
    order = observed.pick[rows]
    return Column(
        name, op.derived, correlation, da, order, index[time][order, 0], flat[order], weight[order], position[order],
        observed.values[rows], observed.errors[rows].astype(np.float64), str(coord.name),
    )  # fmt: skip


def _check_instant(da: xr.DataArray, coord: xr.DataArray, grid: Grid) -> None:
    """Raise if the observations are averages over time, which depend on several states."""
    time = grid.core_dims[0]
    names = {time, str(coord.name), str(coord.attrs.get("standard_name", time))}
    template = grid.template.get(da.name)
    own = None if template is None else cell_method(template, names)
    method = cell_method(da, names)
    if method == "mean" and (own != method or "bounds" in coord.attrs):
        raise ValueError(
            f"observed variable {da.name!r} is an average over {time!r} (cell_methods); filters need observations of "
            "one time each (assimilate accepts both)"
        )


def _check_within_times(da: xr.DataArray, coord: xr.DataArray, correlation: Any) -> None:
    """Raise if errors are correlated from one time to another, or if there is no time dimension."""
    if coord.dims != (coord.name,):
        raise ValueError(
            f"{da.name!r} has correlated errors and no time dimension; filters accept correlated errors of variables "
            "over (time, ...), correlated within each time"
        )
    along = correlation if isinstance(correlation, Mapping) else ()
    alone = [c for c in along if c in da.coords and da[c].dims == coord.dims]
    if alone:
        others = [repr(str(d)) for d in da.dims if d != coord.name]
        raise ValueError(
            f"the errors of {da.name!r} are correlated along {alone[0]!r}; filters accept correlations within each "
            f"time only (assimilate accepts both), along {' and '.join(others) or 'other dimensions'}"
        )


def _position(grid: Grid, index: Mapping[str, np.ndarray], weight: np.ndarray) -> np.ndarray:
    """Return the centre of each observation, (value, space); NaN along a dimension that it covers."""
    space, mesh = grid.core_dims[1:], Mesh.of(grid)
    if mesh is None:
        return np.stack([_centre(grid, d, index[d], weight) for d in space], 1)
    centre = mesh.centre(np.ravel_multi_index([index[d] for d in space], mesh.shape), weight)
    whole = [_covers(index[d], size) for d, size in zip(space, mesh.shape, strict=True)]
    return np.where((whole[0] | whole[1])[:, None], np.nan, centre)


def _centre(grid: Grid, dim: str, index: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return the centre of each observation along one dimension; NaN if it covers the whole dimension."""
    axis = grid_axis(grid, dim)
    x = axis.points[index]
    offset = x - x[:, :1]
    if axis.period is not None:
        offset -= axis.period * np.round(offset / axis.period)
    centre = x[:, 0] + (offset * np.abs(weight)).sum(1) / np.abs(weight).sum(1)
    return np.where(_covers(index, len(axis.points)), np.nan, centre)


def _covers(index: np.ndarray, size: int) -> np.ndarray:
    """Whether observations use all points of an axis (of more than two)."""
    return ((np.diff(np.sort(index, axis=1)) > 0).sum(1) == size - 1) & (size > 2)
