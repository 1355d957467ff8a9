"""Tells which observed positions lie outside the grid or its times."""

from __future__ import annotations

import numpy as np
import xarray as xr

from xsda.labels.axes import axis_numbers, check_calendar
from xsda.labels.grid import Grid
from xsda.observations.compile import grid_axis, matching_coordinate, outside_levels
from xsda.observations.mesh import outside_cells


def outside(grid: Grid, da: xr.DataArray) -> xr.DataArray:
    """Return where the positions of an observed variable lie outside the grid.

    Parameters
    ----------
    grid
        The grid.
    da
        The observed variable, with its coordinates.

    Returns
    -------
    DataArray
        A truth value for each value of the variable. Positions that are NaN are not outside, and neither are averages
        whose centres are inside.

    Examples
    --------
    >>> from xsda.labels import Grid, Layout
    >>> grid = Grid.match(Layout.of(truth), truth)
    >>> x = xr.DataArray([1.0, 2.0, 3.0], {"time": [-1.0, 0.05, 1e6]}, name="x")
    >>> xsda.observations.outside(grid, x).values
    array([ True, False,  True])
    """
    cells, time = outside_cells(grid, da), grid.core_dims[0]
    out = xr.zeros_like(da, dtype=bool).drop_vars(da.coords)
    for away in (cells, outside_levels(grid, da)):
        out = out if away is None else out | away
    for dim in grid.core_dims if cells is None else [time]:
        axis, coord = grid_axis(grid, dim), matching_coordinate(da, grid, dim)
        if coord is None:
            continue
        if dim == time:
            check_calendar(coord, axis.origin is not None, f"the grid's {dim!r}")
        numbers = np.asarray(axis_numbers(coord, axis.origin), dtype=float)
        out = out | xr.DataArray(axis.outside(numbers), dims=coord.dims)
    return out.transpose(*da.dims).assign_coords(da.coords)
