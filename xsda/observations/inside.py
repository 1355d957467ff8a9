"""Keeps the reports that lie inside the grid, and leaves out the others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import xarray as xr

from xsda.labels.axes import axis_numbers, is_datelike
from xsda.labels.cf import cell_method
from xsda.labels.grid import Grid
from xsda.observations.compile import grid_axis, matching_coordinate, outside_levels
from xsda.observations.mesh import outside_cells
from xsda.observations.observed import Observed
from xsda.observations.stencils import GridAxis


def drop_outside(observed: Observed, grid: Grid, start: float = np.inf) -> tuple[Observed | None, dict[str, int]]:
    """Leave out the values at positions outside the grid.

    Averages over cells are left as they are.

    Parameters
    ----------
    observed
        An observed variable.
    grid
        The grid.
    start
        For filters: the time of the initial ensemble, as a number of the grid. Observations may lie between it and the
        grid.

    Returns
    -------
    observed : Observed or None
        The variable without these values; None if none is left.
    outside : dict
        How many values lie outside, by dimension (``y, x`` on two-dimensional coordinates). A value that lies outside
        along two dimensions counts for the first.
    """
    da, counts = observed.da, {}
    keep, there = xr.ones_like(da, dtype=bool).drop_vars(da.coords), da.notnull().drop_vars(da.coords)
    cells, levels = outside_cells(grid, da), outside_levels(grid, da)
    for away in (cells, levels):
        if away is not None:
            counts[str(away.name or ", ".join(grid.core_dims[1:]))] = int((there & keep & away).sum())
            keep = (keep & ~away).transpose(*da.dims)
    for dim in grid.core_dims if cells is None else grid.core_dims[:1]:
        coord = matching_coordinate(da, grid, dim)
        if coord is None or cell_method(da, {dim, str(coord.name)}) == "mean":
            continue
        inside = _inside(coord, grid, dim, start)
        counts[dim] = int((there & keep & ~inside).sum())
        keep = (keep & inside).transpose(*da.dims)
    counts = {d: n for d, n in counts.items() if n}
    if bool(keep.all()):
        return observed, counts
    return (_select(observed, keep) if bool(keep.any()) else None), counts


def _inside(coord: xr.DataArray, grid: Grid, dim: str, start: float) -> xr.DataArray:
    """Whether each position of a coordinate is on the axis, or is none at all (an error for later)."""
    axis = grid_axis(grid, dim)
    if dim == grid.core_dims[0] and is_datelike(coord) != (axis.origin is not None):
        return xr.DataArray(np.ones(coord.shape, bool), dims=coord.dims)  # compiling says why that is wrong
    inside = ~beyond(axis, axis_numbers(coord, axis.origin), start if dim == grid.core_dims[0] else np.inf)
    return xr.DataArray(inside.reshape(coord.shape), dims=coord.dims)


def beyond(axis: GridAxis, positions: np.ndarray, start: float = np.inf) -> np.ndarray:
    """Whether each position lies outside an axis. After ``start`` none is too early."""
    early = (positions > start) & (positions < axis.points[0])
    return axis.outside(positions) & ~early


def _select(observed: Observed, keep: xr.DataArray) -> Observed:
    """Keep some values: along each dimension if possible, otherwise as a list of reports."""
    rows = {d: keep.any([e for e in keep.dims if e != d]).values for d in keep.dims}
    size = int(np.prod([r.sum() for r in rows.values()]))
    ds, flat = observed.ds, keep.values.ravel()
    if int(flat.sum()) == size:
        ds = ds.isel({d: np.flatnonzero(r) for d, r in rows.items()})
        shape: tuple[int, ...] = ds[observed.name].shape
    else:
        one = ds[[observed.name]].stack(kept=keep.dims, create_index=False)
        ds, shape = one.isel(kept=np.flatnonzero(flat)), (int(flat.sum()),)
    std = None if observed.std is None else np.asarray(observed.std).ravel()[flat].reshape(shape)
    correlation = observed.correlation
    if isinstance(correlation, np.ndarray) and correlation.shape == (len(flat), len(flat)):
        correlation = correlation[np.ix_(flat, flat)]
    values = np.asarray(ds[observed.name].values, dtype=np.float64).ravel()
    pick = np.flatnonzero(~np.isnan(values))
    return replace(observed, ds=ds, std=std, pick=pick, law=observed.law.bind(values[pick]), correlation=correlation)
