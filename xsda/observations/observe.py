"""H applied to labelled Datasets: what an instrument at these coordinates would have seen."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr

from xsda.labels.axes import find_axes
from xsda.labels.grid import Grid
from xsda.labels.layout import Layout
from xsda.observations.operator import Derived, State, VariableOperator, derived_field
from xsda.observations.read import read, units_of
from xsda.observations.sources import as_sources

OWN_ATTRS = ("cell_methods", "ancillary_variables", "error_std")  # what one variable says of itself only


def observe(
    ds: xr.Dataset,
    like: xr.Dataset,
    *,
    sigma: Any = None,
    seed: int | None = None,
    derived: Mapping[str, Derived] | None = None,
    periodic: tuple[str, ...] = (),
) -> xr.Dataset:
    """What would be observed of ``ds`` at the coordinates of ``like``.

    Parameters
    ----------
    ds
        Trajectory or ensemble (extra dimensions stay), numpy- or dask-backed.
    like
        Observations whose variables and coordinates say what to observe. Where they are NaN the result is NaN.
    sigma
        Standard deviation of the noise to add; None adds none. Number, mapping by variable, array or Dataset.
    seed
        Seed of the noise (None: different each time).
    derived
        Functions for variables that ``ds`` lacks, as in ``assimilate``.
    periodic
        Names of periodic dimensions that do not say so themselves (attribute ``period``, or longitudes all around).
    """
    sources = as_sources(like)
    if len(sources) > 1:
        raise TypeError(f"like must be one xarray.Dataset, got {len(sources)} sources; observe each instrument in turn")
    (like,) = sources.values()
    ds = _state(ds)
    grid = Grid.match(Layout.of(ds, periodic=periodic, even=False), ds)
    out = {}
    for observed in read(like, units_of(grid), sigma=sigma, derived=derived, errors=sigma is not None):
        name, template = observed.name, observed.da
        op = observed.compile(grid, quietly=True)
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


def _state(ds: xr.Dataset) -> xr.Dataset:
    """The variables over time and space; others (static fields, bounds) are not observed."""
    time, space = find_axes(ds)
    return ds[[v for v in ds.data_vars if {time, *space} <= set(ds[v].dims)]]


def _noisy(da: xr.DataArray, std: xr.DataArray, seed: int | None) -> dict[str, xr.DataArray]:
    """The variable with its noise, and its standard error where one number does not say it."""
    name = str(da.name)
    noise = _noise(da, name, seed) * std.drop_vars(std.coords)
    attrs = {k: v for k, v in da.attrs.items() if k not in ("error_std", "ancillary_variables")}
    if std.size and np.ptp(std.values) == 0:
        return {name: (da + noise).assign_attrs(attrs, error_std=float(std.values.flat[0]))}
    error = f"{name}_error"
    own = {"standard_name": f"{attrs.get('standard_name', name)} standard_error", "units": attrs.get("units", "1")}
    return {name: (da + noise).assign_attrs(attrs, ancillary_variables=error), error: std.assign_attrs(own)}


def _noise(values: xr.DataArray, name: str, seed: int | None) -> xr.DataArray:
    rng = np.random.default_rng(None if seed is None else [seed, zlib.crc32(name.encode())])
    return xr.DataArray(rng.standard_normal(values.shape), dims=values.dims)


def _derived(ds: xr.Dataset, grid: Grid, op: VariableOperator) -> xr.DataArray:
    """A derived quantity on the grid, its axes ascending."""
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
        values = derived_field(op.name, function, State(grid.layout, grid.names, flat), flat)
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
