"""Builds the observation operator H of one variable from its coordinates.

For each dimension of the grid:

- Along a coordinate of their own, observations are grid points, interpolated values or cell averages.
- Along a shared dimension (stations, a track) each observation has its own position.
- A scalar coordinate is one position.
- A missing dimension is averaged over, if ``cell_methods`` says so.

On a grid with two-dimensional latitudes and longitudes, positions given by these are found for both dimensions together
(``mesh``).
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
from xsda.labels.cf import cell_bounds, cell_method, find_scale, in_units, is_latitude, is_longitude
from xsda.labels.curvilinear import LATITUDES, LONGITUDES
from xsda.labels.grid import Grid
from xsda.labels.layout import Variable
from xsda.observations.levels import between_levels, beyond_levels
from xsda.observations.mesh import Mesh, sphere_positions
from xsda.observations.operator import Derived, Gather, VariableOperator
from xsda.observations.stencils import GridAxis, Stencil

SYNONYMS = (LATITUDES, LONGITUDES)


def grid_axis(grid: Grid, dim: str) -> GridAxis:
    """One axis of the grid: its points, its period, and the origin of its dates."""
    points = grid.numbers(dim)
    if dim == grid.core_dims[0]:
        return GridAxis(dim, points, origin=grid.origin)
    coord = grid.template.coords.get(dim)
    wrap = 360.0 if coord is not None and is_longitude(coord) else None
    return GridAxis(dim, points, grid.period(dim), wrap, latitude=coord is not None and is_latitude(coord))


@dataclass(frozen=True, eq=False)
class Place:
    """Positions of the observations along grid dimensions; one row of the stencil per entry of ``dims``.

    With several grid dimensions, the stencil is on their flattened axes.
    """

    source: tuple[str, ...]
    dims: tuple[str, ...]
    stencil: Stencil


def compile_variable(
    grid: Grid, ds: xr.Dataset, name: str, derived: Mapping[str, Derived] | None = None
) -> VariableOperator:
    """Build H for one observed variable.

    Parameters
    ----------
    grid
        The grid.
    ds
        Observations, with cell bounds where they are averages.
    name
        The observed variable.
    derived
        Functions for variables that the grid lacks, as in ``xsda.assimilate``.

    Returns
    -------
    VariableOperator
        The linear map from the grid to all values of the variable, including missing ones.

    Examples
    --------
    >>> from xsda.labels import Grid, Layout
    >>> grid = Grid.match(Layout.of(truth), truth)
    >>> operator = xsda.observations.compile_variable(grid, obs, "x")
    >>> operator.grid_dims, operator.dims, operator.shape
    (('time',), ('time',), (4,))
    """
    da = ds[name]
    function = (derived or {}).get(name)
    variable = None if function else _variable(grid, name, derived or {})
    places = _places(grid, ds, da)
    grid_dims, channels, channel_dim = grid.core_dims, None, None
    if variable is not None:
        channels, channel_dim = grid.layout.slices()[variable.name], variable.channel_dim
    if variable is not None and channel_dim is not None:
        places.append(_place_channels(da, variable, channel_dim, grid))
        grid_dims = (grid_dims[0], channel_dim, *grid_dims[1:])
    unknown = [d for d in da.dims if not any(d in p.dims for p in places)]
    if unknown:
        raise ValueError(
            f"observed variable {name!r} has the dimension {unknown[0]!r}, which the grid "
            f"({', '.join(grid.core_dims)}) lacks; give it coordinates of the grid along {unknown[0]!r} (stations), "
            "or reduce it"
        )
    gathers = [_gather(da, group) for group in _groups(places)]
    # the strongest reduction first: later ones then cost less
    gathers.sort(key=lambda g: len(g.stencil.index) / g.stencil.size)
    dims = tuple(str(d) for d in da.dims)
    return VariableOperator(name, grid_dims, tuple(gathers), dims, da.shape, channels, function, channel_dim)


def _variable(grid: Grid, name: str, derived: Mapping[str, Derived]) -> Variable:
    """The variable of the prior that the user calls ``name``."""
    for v in grid.layout.variables:
        if grid.names[v.name] == name:
            return v
    options = [*grid.names.values(), *derived]
    raise KeyError(
        f"observed variable {name!r} is neither a variable of the prior nor in derived=...; {choose(name, options)}"
    )


def _groups(places: list[Place]) -> list[list[Place]]:
    """Group the grid dimensions that share observed dimensions (stations, tracks)."""
    groups: list[list[Place]] = []
    for place in places:
        shared = [g for g in groups if any(set(place.dims) & set(p.dims) for p in g)]
        groups = [g for g in groups if g not in shared]
        groups.append([*(p for g in shared for p in g), place])
    return groups


def _gather(da: xr.DataArray, group: list[Place]) -> Gather:
    """Join the stencils of a group of grid dimensions into one, over all observed dimensions of the group."""
    dims = tuple(str(d) for d in da.dims if any(d in p.dims for p in group))
    sizes = {d: da.sizes[d] for d in dims}
    joined = reduce(Stencil.joined, [_spread(p, sizes) for p in group])
    return Gather(tuple(d for p in group for d in p.source), dims, tuple(sizes.values()), joined)


def _spread(place: Place, sizes: Mapping[str, int]) -> Stencil:
    """Repeat the stencil along the observed dimensions that its coordinate lacks."""
    rows = np.arange(len(place.stencil.index)).reshape([sizes[d] for d in place.dims])
    own = [d for d in sizes if d in place.dims]
    rows = rows.transpose([place.dims.index(d) for d in own]).reshape([sizes[d] if d in own else 1 for d in sizes])
    return place.stencil.take(np.broadcast_to(rows, tuple(sizes.values())).ravel())


def check_places(grid: Grid, ds: xr.Dataset, name: str, derived: Mapping[str, Derived] | None = None) -> None:
    """Raise what ``compile_variable`` raises if an observed variable lies outside the grid in space.

    Times are not looked at.

    Parameters
    ----------
    grid, ds, name, derived
        As in ``compile_variable``.

    Examples
    --------
    >>> from xsda.labels import Grid, Layout
    >>> from xsda.observations.compile import check_places
    >>> grid = Grid.match(Layout.of(weather), weather)
    >>> check_places(grid, weather.isel(lat=[0]).assign_coords(lat=[-80.0]), "t2m")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: observations lie outside the grid along 'lat': -80; ...
    """
    _in_space(grid, ds, ds[name])
    variable = None if name in (derived or {}) else _variable(grid, name, derived or {})
    if variable is not None and variable.channel_dim is not None:
        _place_channels(ds[name], variable, variable.channel_dim, grid)


def _places(grid: Grid, ds: xr.Dataset, da: xr.DataArray) -> list[Place]:
    """Find where the observations lie on the grid."""
    return [_place(grid, ds, da, grid.core_dims[0]), *_in_space(grid, ds, da)]


def _in_space(grid: Grid, ds: xr.Dataset, da: xr.DataArray) -> list[Place]:
    """Find where the observations lie along the dimensions of space."""
    mesh, space = Mesh.of(grid), grid.core_dims[1:]
    if mesh is not None:
        positions = sphere_positions(mesh, grid, da)
        if positions is not None:
            lat, lon = positions
            stencil = mesh.locate(lat.values.ravel(), lon.values.ravel())
            return [Place(tuple(space), tuple(map(str, lat.dims)), stencil)]
        if all(matching_coordinate(da, grid, d) is None and _averaged(da, d) for d in space):
            return [Place(tuple(space), (), Stencil.mean(mesh.areas()))]
    if _swapped_axes(grid, da):
        raise ValueError(
            f"the positions of {da.name!r} lie outside the grid, and inside if latitude and longitude are swapped; "
            "exchange their names"
        )
    return [_place(grid, ds, da, dim) for dim in space]


def swapped(grid: Grid, da: xr.DataArray) -> bool:
    """Whether all positions outside the grid would lie inside if latitude and longitude were swapped.

    Parameters
    ----------
    grid
        The grid.
    da
        The observed variable, with its coordinates.

    Examples
    --------
    >>> from xsda.labels import Grid, Layout
    >>> from xsda.observations.compile import swapped
    >>> ship = {"lat": ("obs", [-5.0]), "lon": ("obs", [52.0]), "time": weather.time[0]}
    >>> swapped(Grid.match(Layout.of(weather), weather), xr.DataArray([280.0], ship, "obs", "t2m"))
    True
    """
    mesh = Mesh.of(grid)
    places = None if mesh is None else sphere_positions(mesh, grid, da)
    if mesh is not None and places is not None:
        lat, lon = (c.values.ravel() for c in places)
        away = mesh.outside(lat, lon)
        return bool(away.any()) and not mesh.outside(lon[away], lat[away]).any()
    return _swapped_axes(grid, da)


def _swapped_axes(grid: Grid, da: xr.DataArray) -> bool:
    """The same where latitude and longitude are dimensions of the grid."""
    found = {}
    for dim in grid.core_dims[1:]:
        template, coord = grid.template.coords.get(dim), matching_coordinate(da, grid, dim)
        if template is not None and coord is not None and coord.dtype.kind in "iuf":
            found[is_latitude(template), is_longitude(template)] = grid_axis(grid, dim), coord
    if set(found) != {(True, False), (False, True)}:
        return False
    (rows, lat), (columns, lon) = found[True, False], found[False, True]
    if lat.dims != lon.dims:
        return False
    away = rows.outside(lat.values) | columns.outside(lon.values)
    return bool(away.any()) and not (rows.outside(lon.values) | columns.outside(lat.values))[away].any()


def _averaged(da: xr.DataArray, dim: str) -> bool:
    """Whether a variable is an average over a dimension that it has no more."""
    return dim not in da.dims and cell_method(da, {dim}) == "mean"


def _place(grid: Grid, ds: xr.Dataset, da: xr.DataArray, dim: str) -> Place:
    """Find where the observations lie along one dimension of the grid."""
    axis, coord = grid_axis(grid, dim), matching_coordinate(da, grid, dim)
    template = grid.template.get(da.name)
    names = {dim} if coord is None else {dim, str(coord.name), str(coord.attrs.get("standard_name", dim))}
    method, own = cell_method(da, names), None if template is None else cell_method(template, names)
    kept = method == own and coord is not None  # the values of the grid are such averages already
    if method not in (None, "point", "mean") and not kept:
        raise ValueError(
            f"observed variable {da.name!r} has the cell method '{dim}: {method}', but only 'mean' can be observed; "
            "compute it with derived=..., or correct the attribute cell_methods"
        )
    if coord is None:
        return _place_without_coordinate(da, dim, axis, method)
    dims = tuple(str(d) for d in coord.dims)
    if dim == grid.core_dims[0]:
        check_calendar(coord, axis.origin is not None, f"the grid's {dim!r}")
    if method == "mean" and not (kept and "bounds" not in coord.attrs):
        return Place((dim,), dims, axis.average(*cell_edges(ds, coord, axis.origin)))
    stencil = axis.locate(axis_numbers(coord, axis.origin))
    if method == "mean" and not stencil.contiguous:
        raise ValueError(
            f"{da.name!r} is a mean along {dim!r} (cell_methods) on the grid and in the observations, and the cells "
            f"of the observations are not known; give {coord.name!r} 'bounds', or delete the attribute cell_methods "
            "of the observations to select grid points"
        )
    return Place((dim,), dims, stencil)


def matching_coordinate(da: xr.DataArray, grid: Grid, dim: str) -> xr.DataArray | None:
    """Find the coordinate of the observations for a grid dimension; return it in the units of the grid's coordinate."""
    coord = _find_coordinate(da, grid, dim)
    if coord is None or dim not in grid.template.coords or coord.dtype.kind not in "iuf":
        return coord
    units = grid.template[dim].attrs.get("units")
    if find_scale(str(coord.name), coord.attrs.get("units"), units, "the grid") == (1.0, 0.0):
        return coord
    return in_units(coord.astype(float), units, "the grid")


def _find_coordinate(da: xr.DataArray, grid: Grid, dim: str) -> xr.DataArray | None:
    """Find it by name, by CF attributes, or by a customary name; None if there is none."""
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
        plane = dim not in grid.template.coords and any(str(foreign.name).lower() in n for n in SYNONYMS)
        hint = "; if the grid has two-dimensional ones as variables, use ds.set_coords(['lat', 'lon'])" if plane else ""
        raise ValueError(
            f"observed variable {da.name!r} has the coordinate {foreign.name!r} where the grid has {dim!r}; .rename "
            f"it if they are the same, otherwise add the coordinate {dim!r} of the grid (or drop {foreign.name!r} to "
            f"average){hint}"
        )
    return found


def _place_without_coordinate(da: xr.DataArray, dim: str, axis: GridAxis, method: str | None) -> Place:
    """Average over a missing dimension, or take a dimension of the same size point by point."""
    size = len(axis.points)
    if dim not in da.dims:
        if method != "mean" and size > 1:
            raise ValueError(
                f"observed variable {da.name!r} has no {dim!r}. If it has one position, add it: "
                f".assign_coords({dim}=...), or .set_coords({dim!r}) where it is a variable. If it is an average over "
                f"all of {dim!r}, set obs[{str(da.name)!r}].attrs['cell_methods'] = '{dim}: mean'"
            )
        return Place((dim,), (), axis.mean())
    if da.sizes[dim] != size:
        raise ValueError(
            f"observed variable {da.name!r} has {da.sizes[dim]} values along {dim!r} but no coordinate, and the grid "
            f"has {size}; use .assign_coords({dim}=...) to give their positions"
        )
    return Place((dim,), (dim,), Stencil.identity(size))


def cell_edges(ds: xr.Dataset, coord: xr.DataArray, origin: Any) -> tuple[np.ndarray, np.ndarray]:
    """Cell bounds: those that the coordinate names, otherwise the midpoints between its values."""
    bounds = cell_bounds(ds, coord)
    if bounds is not None:
        came = bounds.attrs.get("units", ds[coord.name].attrs.get("units"))
        factor, offset = find_scale(str(coord.name), came, coord.attrs.get("units"), "the grid")
        values = axis_numbers(bounds, origin).reshape(-1, 2) * factor + offset
        return values[:, 0], values[:, 1]
    centers = np.atleast_1d(axis_numbers(coord, origin))
    if len(centers) < 2 or coord.dims != (coord.name,):
        raise ValueError(
            f"the average along {coord.name!r} needs cell bounds: add a variable '{coord.name}_bnds' with two columns "
            f"and set ds[{str(coord.name)!r}].attrs['bounds'] = '{coord.name}_bnds'"
        )
    middle = (centers[1:] + centers[:-1]) / 2
    edges = np.concatenate([[2 * centers[0] - middle[0]], middle, [2 * centers[-1] - middle[-1]]])
    return edges[:-1], edges[1:]


def _place_channels(da: xr.DataArray, v: Variable, channel_dim: str, grid: Grid) -> Place:
    """Select the channels that are observed, or interpolate between levels."""
    if channel_dim not in da.coords:
        if da.sizes.get(channel_dim) == v.channels:
            return Place((channel_dim,), (channel_dim,), Stencil.identity(v.channels))
        raise ValueError(
            f"observed variable {da.name!r} has no {channel_dim!r}; use .assign_coords({channel_dim}=...) with one of "
            f"{list(v.labels)}"
        )
    dims = tuple(str(d) for d in da[channel_dim].dims)
    return Place((channel_dim,), dims, between_levels(da[channel_dim], *_levels(v, channel_dim, grid)))


def _levels(v: Variable, channel_dim: str, grid: Grid) -> tuple[list[Any], str | None]:
    """The levels of a variable of the grid, and their units."""
    own = grid.template.coords.get(channel_dim)
    return list(v.labels) or list(range(v.channels)), None if own is None else own.attrs.get("units")


def outside_levels(grid: Grid, da: xr.DataArray) -> xr.DataArray | None:
    """Return which positions lie outside the levels of an observed variable, named by the dimension of the levels.

    Parameters
    ----------
    grid
        The grid.
    da
        The observed variable, with its coordinates.

    Returns
    -------
    DataArray or None
        A truth value for each position; None if the variable has no levels, or the observations do not say theirs.
    """
    v = next((v for v in grid.layout.variables if grid.names[v.name] == da.name), None)
    if v is None or v.channel_dim is None or v.channel_dim not in da.coords:
        return None
    coord = da[v.channel_dim]
    away = beyond_levels(coord, *_levels(v, v.channel_dim, grid)).reshape(coord.shape)
    return xr.DataArray(away, dims=coord.dims, name=v.channel_dim)
