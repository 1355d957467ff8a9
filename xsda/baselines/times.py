"""Collects the times of all observations, and merges those that differ by rounding only."""

from __future__ import annotations

import numpy as np
import xarray as xr

from xsda.labels.axes import axis_numbers, axis_text, check_calendar
from xsda.labels.grid import Grid
from xsda.labels.layout import SAMPLE_DIMS
from xsda.observations.compile import matching_coordinate

SAME = 1e-4  # times closer than this, in units of the shortest step of the grid, are the same


def times_of(grid: Grid, da: xr.DataArray) -> np.ndarray:
    """Return the times of an observed variable: dates, or numbers in the units of the grid."""
    name = grid.core_dims[0]
    coord = matching_coordinate(da, grid, name)
    if coord is None:
        if name in da.dims and da.sizes[name] == grid.template.sizes[name]:
            return np.asarray(grid.template[name].values if name in grid.template.coords else grid.numbers(name))
        raise ValueError(
            f"observed variable {da.name!r} has no {name!r}; filters need the time of every observation, so use "
            f".assign_coords({name}=...)"
        )
    check_calendar(coord, grid.origin is not None, f"the grid's {name!r}")
    numbers = np.atleast_1d(axis_numbers(coord, grid.origin))
    if not np.isfinite(numbers).all():
        raise ValueError(f"the times of the observed {da.name!r} hold NaN or NaT; drop those observations")
    if coord.dims == (coord.name,) and (np.diff(numbers) <= 0).any():
        raise ValueError(
            f"the times of the observed {da.name!r} do not increase; use .sortby({str(coord.name)!r}) and drop "
            "duplicates"
        )
    return np.atleast_1d(coord.values).ravel()


def union(grid: Grid, times: list[np.ndarray], start: float) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Merge observation times; return them as labels and as numbers of the grid, and the number of each given time.

    Times that are very close to each other, or to a time of the grid, are the same.
    """
    time, own = grid.core_dims[0], grid.numbers(grid.core_dims[0])
    labels = np.concatenate(times)
    if not len(labels):
        raise ValueError("the observations are empty along time, so there is nothing to assimilate")
    given = axis_numbers(xr.DataArray(labels, dims=time, name=time), grid.origin)
    close = SAME * float(np.diff(own).min()) if len(own) > 1 else 1e-9 * max(1.0, abs(own[0]))
    nearest = _nearest(own, given)
    given = np.where(np.abs(nearest - given) <= close, nearest, given)
    numbers, first = np.unique(given, return_index=True)
    keep = [0]
    for i in range(1, len(numbers)):
        if numbers[i] - numbers[keep[-1]] > close:
            keep.append(i)
    labels, numbers = labels[first[keep]], numbers[keep]
    places = np.split(np.searchsorted(numbers, given, side="right") - 1, np.cumsum([len(t) for t in times])[:-1])
    _check_range(grid, numbers, start)
    return labels, numbers, places


def _check_range(grid: Grid, numbers: np.ndarray, start: float) -> None:
    """Raise if there are observations before the first state (of the grid, or at ``start``) or after the last."""
    time, own = grid.core_dims[0], grid.numbers(grid.core_dims[0])
    early, late = numbers[0] < own[0] and not numbers[0] > start, numbers[-1] > own[-1]
    if not early and not late:
        return
    where, number = ("before the first", numbers[0]) if early else ("after the last", numbers[-1])
    at, first, last, valid = (axis_text(n, grid.origin) for n in (number, own[0], own[-1], start))
    initial = f", and the initial ensemble is valid at {valid}" if start < own[0] else ""
    raise ValueError(
        f"there are observations {where} state, at {at}; the grid goes from {first} to {last}{initial}. Use "
        f"obs.sel({time}=slice(...)), or a longer grid"
    )


def _nearest(own: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """The nearest of the ascending numbers ``own`` to each of ``numbers``."""
    right = np.searchsorted(own, numbers).clip(max=len(own) - 1)
    left = (right - 1).clip(min=0)
    return np.where(numbers - own[left] < own[right] - numbers, own[left], own[right])


def at_times(ds: xr.Dataset, name: str, grid: Grid, labels: np.ndarray) -> xr.Dataset:
    """Give the observations the merged times ``labels``."""
    time = grid.core_dims[0]
    coord = matching_coordinate(ds[name], grid, time)
    if coord is None:
        return ds.assign_coords({time: (time, labels)})
    return ds.assign_coords({coord.name: (coord.dims, labels.reshape(coord.shape), coord.attrs)})


def on_times(grid: Grid, labels: np.ndarray) -> Grid:
    """Return the grid with other times. Its values are zeros that take no memory."""
    time = grid.core_dims[0]
    old = grid.template
    data = {}
    for name in grid.names.values():
        da = old[name]
        dims = [d for d in da.dims if d not in SAMPLE_DIMS]
        shape = [len(labels) if d == time else old.sizes[d] for d in dims]
        data[name] = xr.DataArray(np.broadcast_to(np.float32(0), shape), dims=dims, attrs=da.attrs)
    attrs = old[time].attrs if time in old.coords else {}
    coords = {k: c for k, c in old.coords.items() if time not in c.dims and not set(c.dims) & set(SAMPLE_DIMS)}
    return Grid(grid.layout, xr.Dataset(data, {**coords, time: (time, labels, attrs)}), grid.dims, grid.names)
