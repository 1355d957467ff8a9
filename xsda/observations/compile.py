"""Coordinates are the operator: from a labelled observed variable to its map from the grid.

For each observed variable, dimension by dimension of the grid: a coordinate of its own is selected, interpolated or
averaged over; a coordinate along a shared dimension (stations) is taken point by point; a scalar coordinate is selected;
a dimension that is gone is averaged over, if cell_methods says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import xarray as xr

from xsda.arguments import choose
from xsda.labels.axes import SPACE_NAMES, TIME_NAMES, axis_numbers, check_calendar, is_datelike
from xsda.labels.cf import cell_bounds, cell_method, find_scale, in_units, is_longitude
from xsda.labels.grid import Grid
from xsda.labels.layout import Variable
from xsda.observations.operator import Derived, Gather, VariableOperator
from xsda.observations.stencils import GridAxis, Stencil

SYNONYMS = (("lat", "latitude", "nav_lat"), ("lon", "longitude", "nav_lon"))


def grid_axis(grid: Grid, dim: str) -> GridAxis:
    """An axis of the grid with what makes positions on it equivalent."""
    points = grid.numbers(dim)
    if dim == grid.core_dims[0]:
        return GridAxis(dim, points, origin=grid.origin)
    longitude = dim in grid.template.coords and is_longitude(grid.template[dim])
    return GridAxis(dim, points, grid.period(dim), 360.0 if longitude else None)


@dataclass(frozen=True, eq=False)
class Place:
    """Where the observations lie along the grid dimension ``dim``: a stencil position by position of ``dims``."""

    dim: str
    dims: tuple[str, ...]
    stencil: Stencil


def compile_variable(
    grid: Grid, ds: xr.Dataset, name: str, derived: Mapping[str, Derived] | None = None
) -> VariableOperator:
    """H for the variable ``name`` of the observations ``ds``."""
    da = ds[name]
    function = (derived or {}).get(name)
    variable = None if function else _variable(grid, name, derived or {})
    places = [_place(grid, ds, da, dim) for dim in grid.core_dims]
    grid_dims, channels, channel_dim = grid.core_dims, None, None
    if variable is not None:
        channels, channel_dim = grid.layout.slices()[variable.name], variable.channel_dim
    if variable is not None and channel_dim is not None:
        places.append(_place_channels(da, variable, channel_dim))
        grid_dims = (grid_dims[0], channel_dim, *grid_dims[1:])
    strange = [d for d in da.dims if not any(d in p.dims for p in places)]
    if strange:
        raise ValueError(
            f"observed variable {name!r} has the dimension {strange[0]!r}, which the grid ({', '.join(grid.core_dims)}) lacks; "
            f"give it coordinates of the grid along {strange[0]!r} (stations), or reduce it"
        )
    gathers = [_gather(da, group) for group in _groups(places)]
    gathers.sort(key=lambda g: len(g.stencil.index) / g.stencil.size)  # what shrinks the field most comes first
    dims = tuple(str(d) for d in da.dims)
    return VariableOperator(name, grid_dims, tuple(gathers), dims, da.shape, channels, function, channel_dim)


def _variable(grid: Grid, name: str, derived: Mapping[str, Derived]) -> Variable:
    """The prior's variable that the user calls ``name``."""
    for v in grid.layout.variables:
        if grid.names[v.name] == name:
            return v
    options = [*grid.names.values(), *derived]
    raise KeyError(
        f"observed variable {name!r} is neither a variable of the prior nor in derived=...; {choose(name, options)}"
    )


def _groups(places: list[Place]) -> list[list[Place]]:
    """Grid dimensions whose observed dimensions overlap belong together: stations, tracks."""
    groups: list[list[Place]] = []
    for place in places:
        shared = [g for g in groups if any(set(place.dims) & set(p.dims) for p in g)]
        groups = [g for g in groups if g not in shared]
        groups.append([*(p for g in shared for p in g), place])
    return groups


def _gather(da: xr.DataArray, group: list[Place]) -> Gather:
    """One stencil for the grid dimensions of a group, over the observed dimensions that any of them has."""
    dims = tuple(str(d) for d in da.dims if any(d in p.dims for p in group))
    sizes = {d: da.sizes[d] for d in dims}
    joined = reduce(Stencil.joined, [_spread(p, sizes) for p in group])
    return Gather(tuple(p.dim for p in group), dims, tuple(sizes.values()), joined)


def _spread(place: Place, sizes: Mapping[str, int]) -> Stencil:
    """The stencil repeated along the dimensions that its coordinate lacks."""
    rows = np.arange(len(place.stencil.index)).reshape([sizes[d] for d in place.dims])
    own = [d for d in sizes if d in place.dims]
    rows = rows.transpose([place.dims.index(d) for d in own]).reshape([sizes[d] if d in own else 1 for d in sizes])
    return place.stencil.take(np.broadcast_to(rows, tuple(sizes.values())).ravel())


def _place(grid: Grid, ds: xr.Dataset, da: xr.DataArray, dim: str) -> Place:
    axis, coord = grid_axis(grid, dim), matching_coordinate(da, grid, dim)
    template = grid.template.get(da.name)
    names = {dim} if coord is None else {dim, str(coord.name), str(coord.attrs.get("standard_name", dim))}
    method, own = cell_method(da, names), None if template is None else cell_method(template, names)
    kept = method == own and coord is not None  # the grid's values are made that way already
    if method not in (None, "point", "mean") and not kept:
        raise ValueError(
            f"observed variable {da.name!r} has the cell method '{dim}: {method}'; only 'mean' can be observed. "
            "Compute it with derived=..., or correct the attribute cell_methods"
        )
    if coord is None:
        return _place_without_coordinate(da, dim, axis, method)
    dims = tuple(str(d) for d in coord.dims)
    if dim == grid.core_dims[0]:
        check_calendar(coord, axis.origin is not None, f"the grid's {dim!r}")
    if method == "mean" and not (kept and "bounds" not in coord.attrs):
        return Place(dim, dims, axis.average(*_bounds(ds, coord, axis.origin)))
    stencil = axis.locate(axis_numbers(coord, axis.origin))
    if method == "mean" and not stencil.contiguous:
        raise ValueError(
            f"both the grid's values of {da.name!r} and the observations are means along {dim!r} (cell_methods), and nothing "
            f"says over which cells the observations are: give {coord.name!r} 'bounds', or delete the attribute "
            "cell_methods of the observations to select"
        )
    return Place(dim, dims, stencil)


def matching_coordinate(da: xr.DataArray, grid: Grid, dim: str) -> xr.DataArray | None:
    """The coordinate of the observations that belongs to a grid dimension, in the units of the grid's coordinate."""
    coord = _find_coordinate(da, grid, dim)
    if coord is None or dim not in grid.template.coords or coord.dtype.kind not in "iuf":
        return coord
    units = grid.template[dim].attrs.get("units")
    if find_scale(str(coord.name), coord.attrs.get("units"), units, "the grid") == (1.0, 0.0):
        return coord
    return in_units(coord.astype(float), units, "the grid")


def _find_coordinate(da: xr.DataArray, grid: Grid, dim: str) -> xr.DataArray | None:
    """That coordinate by name, CF attributes, or custom."""
    if dim in da.coords:
        return da[dim]
    others = [c for c in da.coords.values() if c.name not in grid.core_dims]
    attrs = grid.template[dim].attrs if dim in grid.template.coords else {}
    for key in ("standard_name", "axis"):
        for coord in others:
            if key in attrs and coord.attrs.get(key) == attrs[key]:
                return coord
    if dim == grid.core_dims[0]:
        named = [c for c in others if str(c.name).lower() in TIME_NAMES] or [
            c for c in others if c.ndim and is_datelike(c)
        ]
        return named[0] if len(named) == 1 else None
    near = next((n for n in SPACE_NAMES.values() if dim.lower() in n), ())
    same = next((n for n in SYNONYMS if dim.lower() in n), ())
    found = next((c for c in others if str(c.name).lower() in same), None)
    foreign = next((c for c in others if str(c.name).lower() in near), None)
    if found is None and foreign is not None and dim not in da.dims:
        raise ValueError(
            f"observed variable {da.name!r} has the coordinate {foreign.name!r} where the grid has {dim!r}; .rename it if they "
            f"are the same, otherwise give it the coordinate {dim!r} of the grid (or drop {foreign.name!r} to average)"
        )
    return found


def _place_without_coordinate(da: xr.DataArray, dim: str, axis: GridAxis, method: str | None) -> Place:
    size = len(axis.points)
    if dim not in da.dims:
        if method != "mean" and size > 1:
            raise ValueError(
                f"observed variable {da.name!r} does not say its {dim!r}. If it has one, add it: .assign_coords({dim}=...), or "
                f".set_coords({dim!r}) where it is a variable. If it is an average over all of {dim!r}, say so: "
                f"obs[{str(da.name)!r}].attrs['cell_methods'] = '{dim}: mean'"
            )
        return Place(dim, (), Stencil.mean(size))
    if da.sizes[dim] != size:
        raise ValueError(
            f"observed variable {da.name!r} has {da.sizes[dim]} values along {dim!r} but no coordinate there, and the grid "
            f"has {size}; assign_coords({dim}=...) to say where they are"
        )
    return Place(dim, (dim,), Stencil.identity(size))


def _bounds(ds: xr.Dataset, coord: xr.DataArray, origin: Any) -> tuple[np.ndarray, np.ndarray]:
    """Cell bounds: those the coordinate names, or midpoints between its values."""
    bounds = cell_bounds(ds, coord)
    if bounds is not None:
        came = bounds.attrs.get("units", ds[coord.name].attrs.get("units"))
        factor, offset = find_scale(str(coord.name), came, coord.attrs.get("units"), "the grid")
        values = axis_numbers(bounds, origin).reshape(-1, 2) * factor + offset
        return values[:, 0], values[:, 1]
    centers = np.atleast_1d(axis_numbers(coord, origin))
    if len(centers) < 2 or coord.dims != (coord.name,):
        raise ValueError(
            f"the average along {coord.name!r} needs cell bounds: add a variable '{coord.name}_bnds' with two columns and "
            f"set ds[{str(coord.name)!r}].attrs['bounds'] = '{coord.name}_bnds'"
        )
    middle = (centers[1:] + centers[:-1]) / 2
    edges = np.concatenate([[2 * centers[0] - middle[0]], middle, [2 * centers[-1] - middle[-1]]])
    return edges[:-1], edges[1:]


def _place_channels(da: xr.DataArray, v: Variable, channel_dim: str) -> Place:
    if channel_dim not in da.coords:
        if da.sizes.get(channel_dim) == v.channels:
            return Place(channel_dim, (channel_dim,), Stencil.identity(v.channels))
        raise ValueError(f"observed variable {da.name!r} must say which {channel_dim!r} it is: one of {list(v.labels)}")
    wanted = np.ravel(da[channel_dim].values).tolist()
    labels = list(v.labels) or list(range(v.channels))
    unknown = [w for w in wanted if w not in labels]
    if unknown:
        raise ValueError(f"{channel_dim}={unknown[0]!r} is not among the prior's {labels}")
    index = np.array([labels.index(w) for w in wanted], dtype=int)[:, None]
    dims = tuple(str(d) for d in da[channel_dim].dims)
    return Place(channel_dim, dims, Stencil(index, np.ones(index.shape), v.channels))
