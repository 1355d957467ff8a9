"""Tells what happens to each observed value: used, missing, outside the grid, or inside the mask of the prior.

``explain`` and ``check`` share it. Positions outside the grid are set aside before the operator is built, so they are
counted instead of raising an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from xsda.labels.cf import cell_bounds, find_scale, standard_error
from xsda.labels.grid import Grid
from xsda.observations.compile import matching_coordinate
from xsda.observations.errors import error_std
from xsda.observations.masking import on_valid_points
from xsda.observations.observed import MANY, Observed
from xsda.observations.operator import VariableOperator
from xsda.observations.outside import outside
from xsda.observations.selected import Selection

NO_SIGMA = "not given"


@dataclass(frozen=True, eq=False)
class Survey:
    """What happens to the values of one variable of one source.

    Parameters
    ----------
    observed
        The variable. Its positions outside the grid are replaced by positions inside.
    operator
        H of all values; None if all of them lie outside.
    readable
        The same without points of the mask.
    missing, outside, masked
        A truth value for each ravelled value; at most one of the three is true.
    """

    observed: Observed
    operator: VariableOperator | None
    readable: VariableOperator | None
    missing: np.ndarray
    outside: np.ndarray
    masked: np.ndarray

    @property
    def used(self) -> np.ndarray:
        """Whether each ravelled value is used."""
        return ~(self.missing | self.outside | self.masked)

    def averaged(self, grid: Grid, selection: Selection, std: np.ndarray | None) -> Survey:
        """Average what lies close together and inside the grid, with the errors ``std``, and sort the averages."""
        if self.operator is None:
            return self
        inside = replace(self.observed, std=std, pick=np.flatnonzero(~(self.missing | self.outside)))
        mean = selection.average(inside, grid)
        return self if mean is inside else survey(grid, mean)

    def duplicates(self, grid: Grid) -> int | None:
        """Count the used values at the place and time of another used value; None if there are too many to search."""
        op = self.operator
        if op is None:
            return 0
        if int(np.prod([*op.shape, *(g.stencil.weight.shape[1] for g in op.gathers)])) > MANY:
            return None
        sizes = {d: grid.template.sizes[d] for d in grid.core_dims}
        if op.channel_dim is not None and op.channels is not None:
            sizes[op.channel_dim] = op.channels.stop - op.channels.start
        index, weight = op.stencil(sizes)
        rows = np.concatenate([*(i[self.used] for i in index.values()), weight[self.used].round(6)], axis=1)
        return len(rows) - len(np.unique(rows, axis=0))


def survey(grid: Grid, observed: Observed) -> Survey:
    """Sort the values of one observed variable, and build H for them.

    Parameters
    ----------
    grid
        The grid.
    observed
        The variable, as ``read`` returns it.

    Returns
    -------
    Survey
        The operator, and what happens to each value.
    """
    da = observed.da
    values = np.asarray(da.values, dtype=np.float64)
    beyond = outside(grid, da) | _without_position(grid, da)
    away = np.broadcast_to(beyond.transpose(*da.dims).values, da.shape)
    missing, away = np.isnan(values).ravel(), away.ravel()
    none = np.zeros(len(missing), bool)
    if away.all() and len(away):
        return Survey(observed, None, None, missing, away & ~missing, none)
    if away.any():
        observed = replace(observed, ds=_inside(observed.ds, da, away.reshape(da.shape)))
    op = observed.compile(grid, quietly=True)
    readable, valid = on_valid_points(op, grid)
    return Survey(observed, op, readable, missing, away & ~missing, ~valid & ~missing & ~away)


def without_positions(observed: Observed) -> Survey:
    """Sort the values of a variable where no grid is known: they are missing or used.

    Parameters
    ----------
    observed
        The variable, as ``read`` returns it.
    """
    missing = np.isnan(np.asarray(observed.da.values, dtype=np.float64)).ravel()
    none = np.zeros(len(missing), bool)
    return Survey(observed, None, None, missing, none, none)


def _without_position(grid: Grid, da: xr.DataArray) -> xr.DataArray:
    """Whether values have NaN as a coordinate along a dimension of the grid."""
    out = xr.zeros_like(da, dtype=bool).drop_vars(da.coords)
    for dim in grid.core_dims:
        if dim in grid.template.coords and grid.template[dim].ndim == 1:
            coord = matching_coordinate(da, grid, dim)
            out = out if coord is None else out | coord.isnull().drop_vars(coord.coords)
    return out


def _inside(ds: xr.Dataset, da: xr.DataArray, away: np.ndarray) -> xr.Dataset:
    """Replace the coordinates that only values outside have, and their cells, by those of a value inside."""
    inside = np.unravel_index(int(np.flatnonzero(~away.ravel())[0]), away.shape)
    at = {d: int(i) for d, i in zip(da.dims, inside, strict=True)}
    replaced, cells = {}, {}
    for name, coord in da.coords.items():
        if not coord.ndim:
            continue
        others = tuple(i for i, d in enumerate(da.dims) if d not in coord.dims)
        order = [d for d in da.dims if d in coord.dims]
        bad = xr.DataArray(away.all(axis=others), dims=order).transpose(*coord.dims).values
        if bad.any():
            one = tuple(at[d] for d in coord.dims)
            replaced[name] = (coord.dims, _with(coord.values, bad, one), coord.attrs)
            bounds = cell_bounds(ds, coord) if coord.attrs.get("bounds") in ds.variables else None
            if bounds is not None:
                cells[str(bounds.name)] = (bounds.dims, _with(bounds.values, bad, one), bounds.attrs)
    return ds.assign(cells).assign_coords(replaced)


def _with(values: np.ndarray, bad: np.ndarray, one: tuple[int, ...]) -> np.ndarray:
    """Replace some entries by another."""
    values = values.copy()
    values[bad] = values[one]
    return values


def sigma_of(observed: Observed, sigma: Any, sources: Mapping[str, xr.Dataset]) -> tuple[str, np.ndarray | None]:
    """Say where the standard deviation of the errors comes from, and return it in the units of the grid.

    Parameters
    ----------
    observed
        The variable, read without errors.
    sigma
        What the user passed.
    sources
        All sources by name.

    Returns
    -------
    origin, std
        "argument", the ancillary variable, "attribute error_std" or "not given"; and one number for each value, or
        None.
    """
    source, name, ds = observed.source, observed.name, sources[observed.source]
    ancillary, da = standard_error(ds, ds[name]), ds[name]
    bare = ds if ancillary is None else ds.drop_vars(str(ancillary.name))
    std = error_std(bare.assign({name: da.assign_attrs(error_std=np.nan)}), name, sigma, source, sources)
    if not np.isnan(std).all():
        origin = "argument"
    elif ancillary is not None or "error_std" in da.attrs:
        origin = "attribute error_std" if ancillary is None else f"variable {ancillary.name}"
        std = error_std(ds, name, None, source, sources)
    else:
        return NO_SIGMA, None
    return origin, std * abs(find_scale(name, da.attrs.get("units"), observed.da.attrs.get("units"), "the grid")[0])


def list_values(da: xr.DataArray, columns: Mapping[str, Any]) -> pd.DataFrame:
    """Make a table with one row for each value of a variable, with its coordinates.

    Parameters
    ----------
    da
        The variable.
    columns
        Arrays of its shape. They come before the coordinates.
    """
    out = pd.DataFrame({k: np.ravel(v) for k, v in columns.items()})
    for name, coord in da.coords.items():
        flat = coord.drop_vars(coord.coords).broadcast_like(da.drop_vars(da.coords))
        out[str(name)] = np.ravel(flat.transpose(*da.dims).values)
    return out
