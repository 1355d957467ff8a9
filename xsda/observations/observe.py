"""Applies the observation operator to a labelled Dataset, eagerly or on dask: simulated observations."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import xarray as xr

from xsda.labels.axes import find_axes
from xsda.labels.climatology import Normals
from xsda.labels.grid import Grid
from xsda.labels.layout import Layout
from xsda.observations.masking import on_valid_points
from xsda.observations.operator import Derived, State, VariableOperator, derived_field
from xsda.observations.read import dims_of, read, units_of
from xsda.observations.sources import Source, as_sources

OWN_ATTRS = ("cell_methods", "ancillary_variables", "error_std")  # attributes that observed variables do not inherit


def observe(
    ds: xr.Dataset,
    like: Source,
    *,
    sigma: Any = None,
    seed: int | None = None,
    derived: Mapping[str, Derived] | None = None,
    periodic: tuple[str, ...] = (),
    outside: str = "raise",
) -> xr.Dataset:
    """Compute what would be observed of ``ds`` at the coordinates of ``like``.

    Parameters
    ----------
    ds
        Trajectory or ensemble, on numpy or dask. Other dimensions, such as ``member``, are kept.
    like
        Observations whose variables and coordinates say what to observe: a Dataset, a DataArray or a table. Where they
        are NaN the result is NaN. The result of a table has the dimension ``report``, sorted by time and place.
    sigma
        Standard deviation of the noise to add: a number, a mapping by variable, an array or a Dataset. Default: no
        noise.
    seed
        Seed of the noise. Default: different noise each time.
    derived
        Functions for variables that ``ds`` lacks, as in ``xsda.assimilate``.
    periodic
        Names of periodic dimensions. Not needed for coordinates with the attribute ``period`` and for longitudes around
        the whole globe.
    outside
        What to do with positions outside the grid: "raise" an error, or "drop" them, with a notice of how many.

    Returns
    -------
    xarray.Dataset
        The variables of ``like``, with its coordinates and attributes, in the units of ``ds``. With noise, the
        attribute ``error_std`` or an ancillary variable holds its standard deviation, so that ``assimilate`` finds
        it.

    Examples
    --------
    >>> like = truth[["x"]].isel(time=slice(None, None, 4))
    >>> seen = xsda.observe(truth, like, sigma=0.5, seed=0)
    >>> seen.x.sizes["time"], seen.x.attrs["error_std"]
    (4, 0.5)

    Means over cells, and a station between grid points:

    >>> means = truth[["x"]].coarsen(time=4).mean()
    >>> means.x.attrs["cell_methods"] = "time: mean"
    >>> bool(np.allclose(xsda.observe(truth, means).x, means.x))
    True
    >>> station = weather.isel(member=0).interp(lat=52.5, lon=-4.0)
    >>> xsda.observe(weather, station).t2m.dims
    ('member', 'time')
    """
    ds, grid = _state(ds), grid_of(ds, periodic)
    masked = _masked(grid, ds)
    sources = as_sources(like, [*grid.names.values(), *(derived or {})], dims_of(grid))
    if len(sources) > 1:
        raise TypeError(f"like must be one xarray.Dataset, got {len(sources)} sources; observe each instrument in turn")
    (like,) = sources.values()
    out = {}
    options = {"sigma": sigma, "derived": derived, "errors": sigma is not None, "outside": outside, "grid": grid}
    for observed in read(like, units_of(grid), **options):
        name, template = observed.name, observed.da
        op, _ = on_valid_points(observed.compile(grid, quietly=True), masked)
        field = ds[name] if op.derived is None else _derived(ds, grid, op)
        descending = frozenset(d for d in grid.core_dims[1:] if op.derived is None and grid.descends(d))
        values = op.apply_labelled(field, descending)
        values = values.assign_coords({k: c for k, c in template.coords.items() if set(c.dims) <= set(template.dims)})
        values = values.where(template.notnull())
        attrs = {k: v for k, v in ds[name].attrs.items() if k not in OWN_ATTRS} if name in ds else {}
        out[name] = values.rename(name)
        out[name].attrs = {**attrs, **template.attrs}
        if observed.std is not None:
            out |= _noisy(out[name], xr.DataArray(observed.std, template.coords, template.dims), seed)
    result = xr.Dataset(out, attrs=dict(like.attrs) or dict(ds.attrs))
    bounds = {c.attrs["bounds"] for c in like.coords.values() if "bounds" in c.attrs}
    return result.assign_coords({b: like[b] for b in bounds if b in like})


def grid_of(ds: xr.Dataset, periodic: tuple[str, ...] = ()) -> Grid:
    """The grid of a trajectory or ensemble."""
    ds = _state(ds)
    return Grid.match(Layout.of(ds, periodic=periodic, even=False), ds)


def _masked(grid: Grid, ds: xr.Dataset) -> Grid:
    """The grid with the mask of data in memory: points that are NaN in all states are not read near coasts."""
    if any(v.chunks is not None for v in ds.data_vars.values()):
        return grid
    values = grid.stack(ds)
    valid = np.isfinite(values).any(tuple(range(values.ndim - len(grid.shape) + 1)))
    if valid.all():
        return grid
    shape = valid.shape
    return replace(grid, normals=Normals(np.zeros((1, *shape)), np.ones(shape), valid))


def _state(ds: xr.Dataset) -> xr.Dataset:
    """Keep the variables over time and space; drop static fields and bounds."""
    time, space = find_axes(ds)
    return ds[[v for v in ds.data_vars if {time, *space} <= set(ds[v].dims)]]


def _noisy(da: xr.DataArray, std: xr.DataArray, seed: int | None) -> dict[str, xr.DataArray]:
    """Add noise. The standard deviation becomes an attribute if it is one number, otherwise an ancillary variable."""
    name = str(da.name)
    noise = _noise(da, name, seed) * std.drop_vars(std.coords)
    attrs = {k: v for k, v in da.attrs.items() if k not in ("error_std", "ancillary_variables")}
    if std.size and np.ptp(std.values) == 0:
        return {name: (da + noise).assign_attrs(attrs, error_std=float(std.values.flat[0]))}
    error = f"{name}_error"
    own = {"standard_name": f"{attrs.get('standard_name', name)} standard_error", "units": attrs.get("units", "1")}
    return {name: (da + noise).assign_attrs(attrs, ancillary_variables=error), error: std.assign_attrs(own)}


def _noise(values: xr.DataArray, name: str, seed: int | None) -> xr.DataArray:
    """Standard normal noise, with a stream of its own for each variable."""
    rng = np.random.default_rng(None if seed is None else [seed, zlib.crc32(name.encode())])
    return xr.DataArray(rng.standard_normal(values.shape), dims=values.dims)


def _derived(ds: xr.Dataset, grid: Grid, op: VariableOperator) -> xr.DataArray:
    """Compute a derived variable on the grid, with ascending axes."""
    assert op.derived is not None
    function, names = op.derived, [grid.names[v] for v in grid.layout.names]
    time, *space = grid.core_dims

    def compute(*arrays: np.ndarray) -> np.ndarray:
        outer = np.broadcast_shapes(*(a.shape[: a.ndim - len(core)] for a, core in zip(arrays, dims, strict=True)))
        parts = []
        for a, core in zip(arrays, dims, strict=True):
            a = np.broadcast_to(a, (*outer, *a.shape[a.ndim - len(core) :]))
            parts.append(a if len(core) > 1 + len(space) else np.expand_dims(a, len(outer) + 1))
        x = torch.as_tensor(np.ascontiguousarray(np.concatenate(parts, axis=len(outer) + 1)))
        flat = x.reshape(-1, *x.shape[len(outer) :])
        values = derived_field(op.name, function, State(grid.layout, grid.names, grid.scaling, flat), flat)
        return values.reshape(*outer, *values.shape[1:]).numpy()

    variables = [grid.orient(ds[n]) for n in names]
    dims = [[time, *([v.channel_dim] if v.channel_dim else []), *space] for v in grid.layout.variables]
    return xr.apply_ufunc(
        compute,
        *variables,
        input_core_dims=dims,
        output_core_dims=[[time, *space]],
        dask="parallelized",
        dask_gufunc_kwargs={"allow_rechunk": True},
        output_dtypes=[np.result_type(*(v.dtype for v in variables))],
        keep_attrs=False,
    )
