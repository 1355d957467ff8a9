"""Coordinates are the operator: from labelled observations to (operator, y, sigma).

For each observed variable, dimension by dimension of the grid: a coordinate of its own is selected, interpolated or
averaged over; a coordinate along a shared dimension (stations) is taken point by point; a scalar coordinate is selected;
a dimension that is gone is averaged over.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr

from xsda.axes import SPACE_NAMES, axis_numbers, is_datelike
from xsda.guidance.likelihood import GaussianLikelihood
from xsda.layout import Grid
from xsda.names import choose
from xsda.observations.errors import error_std, helper_variables
from xsda.observations.operator import Derived, Gather, ObservationOperator, VariableOperator
from xsda.observations.stencils import GridAxis, Stencil

Sources = xr.Dataset | xr.DataArray | Sequence[xr.Dataset] | Mapping[str, xr.Dataset]


def as_sources(obs: Sources) -> dict[str, xr.Dataset]:
    """Several instruments, each with a name."""
    if isinstance(obs, xr.DataArray):
        if obs.name is None:
            raise ValueError("the observed DataArray has no name; use .rename('variable') or .to_dataset(name='variable')")
        obs = obs.to_dataset()
    if isinstance(obs, xr.Dataset):
        return {"obs": obs}
    named = dict(obs) if isinstance(obs, Mapping) else {f"obs[{i}]": o for i, o in enumerate(obs)}
    for name, source in named.items():
        if not isinstance(source, xr.Dataset):
            raise TypeError(f"{name} is a {type(source).__name__}, expected an xarray.Dataset")
    if not named:
        raise ValueError("no observations were given")
    return named


def grid_axis(grid: Grid, dim: str) -> GridAxis:
    """An axis of the grid with what makes positions on it equivalent."""
    axes = {d: a for d, a in zip(grid.core_dims[1:], grid.layout.space, strict=True)}
    points = grid.numbers(dim)
    period = axes[dim].period if dim in axes else None
    attrs = grid.template[dim].attrs if dim in grid.template.coords else {}
    wrap = 360.0 if attrs.get("standard_name") == "longitude" or attrs.get("units") == "degrees_east" else None
    return GridAxis(dim, points, period, wrap)


def compile_variable(
    grid: Grid, ds: xr.Dataset, name: str, derived: Mapping[str, Derived] | None = None
) -> VariableOperator:
    """H for the variable ``name`` of the observations ``ds``."""
    da = ds[name]
    known = {user: prior for prior, user in grid.names.items()}
    channels, channel_dim = None, None
    if derived and name in derived:
        function = derived[name]
    elif name in known:
        function = None
        channels = grid.layout.slices()[known[name]]
        channel_dim = next(v.channel_dim for v in grid.layout.variables if v.name == known[name])
    else:
        options = [*known, *(derived or {})]
        raise KeyError(
            f"observed variable {name!r} is neither a variable of the prior nor in derived=...; {choose(name, options)}"
        )
    gathers: list[Gather] = []
    pointwise: dict[tuple[str, ...], list[tuple[str, Stencil]]] = {}
    used: set[str] = set()
    for dim in grid.core_dims:
        coord = _matching_coordinate(ds, da, grid, dim)
        axis = grid_axis(grid, dim)
        if coord is None:
            gathers.append(_without_coordinate(da, dim, axis))
            used.update(gathers[-1].target)
            continue
        dims = tuple(str(d) for d in coord.dims)
        stencil = _stencil(ds, da, coord, axis, grid)
        used.update(dims)
        if dims == (dim,) or not dims:
            gathers.append(Gather((dim,), dims, tuple(coord.shape), stencil))
        else:
            pointwise.setdefault(dims, []).append((dim, stencil))
    for dims, parts in pointwise.items():
        joined = parts[0][1]
        for _, stencil in parts[1:]:
            joined = joined.joined(stencil)
        gathers.append(Gather(tuple(d for d, _ in parts), dims, tuple(da.sizes[d] for d in dims), joined))
    grid_dims = grid.core_dims
    if channel_dim is not None:
        gathers.append(_channel_gather(grid, da, known[name], channel_dim))
        used.update(gathers[-1].target)
        grid_dims = (grid_dims[0], channel_dim, *grid_dims[1:])
    gathers.sort(key=lambda g: int(np.prod(g.stencil.index.shape[0])) / np.prod([_size(grid, d) for d in g.source]))
    strange = [d for d in da.dims if d not in used]
    if strange:
        raise ValueError(
            f"observed variable {name!r} has the dimension {strange[0]!r}, which the grid ({', '.join(grid.core_dims)}) lacks; "
            f"give it coordinates of the grid along {strange[0]!r} (stations), or reduce it"
        )
    dims = tuple(str(d) for d in da.dims)
    return VariableOperator(name, grid_dims, tuple(gathers), dims, da.shape, channels, function, channel_dim)


def _size(grid: Grid, dim: str) -> int:
    return grid.template.sizes.get(dim, 1)


def _matching_coordinate(ds: xr.Dataset, da: xr.DataArray, grid: Grid, dim: str) -> xr.DataArray | None:
    """The coordinate of the observations that belongs to a grid dimension: by name, standard name, or custom."""
    if dim in da.coords:
        return da[dim]
    attrs = grid.template[dim].attrs if dim in grid.template.coords else {}
    for key in ("standard_name", "axis"):
        for coord in da.coords.values():
            if key in attrs and coord.attrs.get(key) == attrs[key]:
                return coord
    for names in SPACE_NAMES.values():
        if dim.lower() in names:
            for coord in da.coords.values():
                if str(coord.name).lower() in names and coord.name not in grid.core_dims:
                    return coord
    return None


def _without_coordinate(da: xr.DataArray, dim: str, axis: GridAxis) -> Gather:
    size = len(axis.points)
    if dim not in da.dims:
        return Gather((dim,), (), (), Stencil.mean(size))
    if da.sizes[dim] != size:
        raise ValueError(
            f"observed variable {da.name!r} has {da.sizes[dim]} values along {dim!r} but no coordinate there, and the grid "
            f"has {size}; assign_coords({dim}=...) to say where they are"
        )
    return Gather((dim,), (dim,), (size,), Stencil.identity(size))


def _stencil(ds: xr.Dataset, da: xr.DataArray, coord: xr.DataArray, axis: GridAxis, grid: Grid) -> Stencil:
    time = axis.name == grid.core_dims[0]
    origin = grid.origin if time else None
    if time and is_datelike(coord) != (origin is not None):
        kinds = ("plain numbers", "dates")
        raise ValueError(
            f"the observations' {coord.name!r} holds {kinds[is_datelike(coord)]}, the grid's {axis.name!r} "
            f"{kinds[origin is not None]}; make them alike"
        )
    if _averaged(da, str(coord.name)):
        lower, upper = _bounds(ds, coord, origin)
        return axis.average(lower, upper)
    return axis.locate(axis_numbers(coord, origin))


def _averaged(da: xr.DataArray, name: str) -> bool:
    methods = re.findall(r"((?:\w+:\s+)+)(\w+)", str(da.attrs.get("cell_methods", "")))
    return any(method == "mean" and name in re.findall(r"\w+", names) for names, method in methods)


def _bounds(ds: xr.Dataset, coord: xr.DataArray, origin: Any) -> tuple[np.ndarray, np.ndarray]:
    """Cell bounds: those the coordinate names, or midpoints between its values."""
    name = coord.attrs.get("bounds")
    if name is not None:
        if name not in ds.variables:
            raise ValueError(f"the coordinate {coord.name!r} names its bounds {name!r}, which are not in the Dataset")
        bounds = ds[name]
        last = next(d for d in bounds.dims if d not in coord.dims)
        values = axis_numbers(bounds.transpose(..., last), origin).reshape(-1, 2)
        return values[:, 0], values[:, 1]
    centers = np.atleast_1d(axis_numbers(coord, origin))
    if len(centers) < 2 or coord.ndim != 1:
        raise ValueError(
            f"the average along {coord.name!r} needs cell bounds: add a variable '{coord.name}_bnds' with two columns and "
            f"set ds[{str(coord.name)!r}].attrs['bounds'] = '{coord.name}_bnds'"
        )
    middle = (centers[1:] + centers[:-1]) / 2
    edges = np.concatenate([[2 * centers[0] - middle[0]], middle, [2 * centers[-1] - middle[-1]]])
    return edges[:-1], edges[1:]


def _channel_gather(grid: Grid, da: xr.DataArray, prior_name: str, channel_dim: str) -> Gather:
    v = next(v for v in grid.layout.variables if v.name == prior_name)
    if channel_dim not in da.coords:
        if da.sizes.get(channel_dim) == v.channels:
            return Gather((channel_dim,), (channel_dim,), (v.channels,), Stencil.identity(v.channels))
        raise ValueError(f"observed variable {da.name!r} must say which {channel_dim!r} it is: one of {v.labels}")
    wanted = np.atleast_1d(da[channel_dim].values).tolist()
    labels = list(v.labels) or list(range(v.channels))
    unknown = [w for w in wanted if w not in labels]
    if unknown:
        raise ValueError(f"{channel_dim}={unknown[0]!r} is not among the prior's {labels}")
    index = np.array([labels.index(w) for w in wanted])[:, None]
    target = (channel_dim,) if channel_dim in da.dims else ()
    return Gather((channel_dim,), target, tuple(len(wanted) for _ in target), Stencil(index, np.ones(index.shape), v.channels))


def compile_observations(
    grid: Grid, obs: Sources, sigma: Any = None, derived: Mapping[str, Derived] | None = None
) -> GaussianLikelihood:
    """The likelihood of one or several observation Datasets."""
    sources = as_sources(obs)
    operators, picks, ys, stds = [], [], [], []
    for source, ds in sources.items():
        names = observed_variables(ds)
        if not names:
            raise ValueError(f"{source} holds no variables")
        for name in names:
            op = compile_variable(grid, ds, name, derived)
            values = np.asarray(ds[name].values, dtype=np.float64).ravel()
            if np.isinf(values).any():
                raise ValueError(f"observed variable {name!r} holds infinite values; mark missing values as NaN")
            pick = np.flatnonzero(~np.isnan(values))
            std = error_std(ds, name, sigma, source, sources).ravel()[pick]
            bad = ~(std > 0) | ~np.isfinite(std)
            if bad.any():
                raise ValueError(
                    f"sigma of {name!r} must be positive and finite where there is an observation, got {std[bad][0]:g}"
                )
            mean, scale = _scaling(grid, op, ds[name])
            operators.append(op)
            picks.append(pick)
            ys.append((values[pick] - mean[pick]) / scale[pick])
            stds.append(std / scale[pick])
    if sum(len(p) for p in picks) == 0:
        raise ValueError("all observations are missing (NaN); there is nothing to assimilate. For prior samples use model.sample")
    operator = ObservationOperator(grid.layout, grid.names, operators, picks)
    y, std = (torch.as_tensor(np.concatenate(a), dtype=torch.float32) for a in (ys, stds))
    return GaussianLikelihood(operator, y, std, linear=operator.linear)


def observed_variables(ds: xr.Dataset) -> list[str]:
    """The variables that are observations, not bounds or errors of others."""
    helpers = helper_variables(ds)
    return [str(v) for v in ds.data_vars if v not in helpers]


def _scaling(grid: Grid, op: VariableOperator, da: xr.DataArray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the channel of each observed value."""
    if op.channels is None:
        return np.zeros(da.size), np.ones(da.size)
    mean, std = grid.layout.mean[op.channels], grid.layout.std[op.channels]
    gather = next((g for g in op.gathers if g.source == (op.channel_dim,)), None)
    if gather is None:
        return np.full(da.size, mean[0]), np.full(da.size, std[0])
    shape = [da.sizes[d] if d in gather.target else 1 for d in da.dims]
    picked = gather.stencil.index[:, 0]
    return tuple(np.broadcast_to(a[picked].reshape(shape), da.shape).ravel() for a in (mean, std))  # type: ignore[return-value]
