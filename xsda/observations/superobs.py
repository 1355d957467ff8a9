r"""Super-observations: averages of reports that lie close together.

Reports of one variable and source are grouped by time window or by grid cell. A group of n reports with independent
errors becomes one report: the mean of the values at the mean of the positions, with the standard error

.. math:: \sigma = \frac{1}{n} \sqrt{\sigma_1^2 + \dots + \sigma_n^2}.

This is the error of the instruments. If reports of one place share an error, such as one of representativeness, the
average keeps it; add it with ``sigma``, or describe it with ``correlation`` and no super-observations.
"""

from __future__ import annotations

import datetime
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from xsda.labels.axes import axis_numbers, check_calendar, is_datelike
from xsda.labels.cf import cell_method
from xsda.labels.grid import Grid
from xsda.likelihood.laws import Normal
from xsda.observations.compile import grid_axis, matching_coordinate
from xsda.observations.mesh import Mesh, sphere_positions
from xsda.observations.observed import Observed
from xsda.observations.stencils import Stencil

SPHERE = ("latitude", "longitude")  # keys of positions on two-dimensional coordinates


def superobs(observed: Observed, grid: Grid, how: Any) -> Observed:
    """Average the reports of one variable that lie close together.

    Parameters
    ----------
    observed
        The variable, with all its positions inside the grid.
    grid
        The grid.
    how
        A length of time, such as "1h" (a number if the times of the grid are numbers): reports of one place are
        averaged over windows of this length around the first time of the grid, the time one length later, and so on.
        "cell": reports that have the same nearest grid point in space and time are averaged.

    Returns
    -------
    Observed
        The averages along the dimension ``report``, or ``observed`` itself if no two reports belong together.
    """
    width = None if how == "cell" else _width(how, grid)
    coords = _positions(observed, grid)
    if not len(observed.pick):
        return observed
    time, numbers = grid.core_dims[0], {d: _numbers(c, d, grid) for d, c in coords.items()}
    keys = []
    if width is None and set(SPHERE) <= set(numbers):
        keys.append(_nearest_on_sphere(numbers[SPHERE[0]], numbers[SPHERE[1]], grid))
    for dim, x in numbers.items():
        if width is None and dim in SPHERE:
            continue
        if dim not in grid.core_dims:  # a place on the sphere, or a channel, such as a level
            keys.append(x)
        elif width is None:
            keys.append(_nearest(x, grid, dim))
        else:
            keys.append(np.floor((x - grid.numbers(time)[0]) / width + 0.5) if dim == time else x)
    _, first, group, count = np.unique(
        np.stack(keys, 1), axis=0, return_index=True, return_inverse=True, return_counts=True
    )
    if (count == 1).all():
        return observed
    group = group.ravel()

    def mean(x: np.ndarray, cycle: float | None = None) -> np.ndarray:
        """Mean of each group minus its first value, so that equal values stay what they are."""
        away = x - x[first][group]
        if cycle is not None:
            away = (away + cycle / 2) % cycle - cycle / 2
        return np.bincount(group, weights=away) / count

    values = observed.values[first] + mean(observed.values)
    std = None if observed.std is None else np.sqrt(np.bincount(group, weights=observed.errors**2)) / count
    placed = {}
    for dim, coord in coords.items():
        axis = grid_axis(grid, dim) if dim in grid.core_dims else None
        cycle = (360.0 if dim == SPHERE[1] else None) if axis is None else axis.period or axis.wrap
        placed[str(coord.name)] = ("report", _moved(coord.values[first], mean(numbers[dim], cycle)), coord.attrs)
    attrs = {k: v for k, v in observed.da.attrs.items() if k != "ancillary_variables"}
    ds = xr.Dataset({observed.name: ("report", values, attrs)}, placed, attrs=observed.ds.attrs)
    return replace(observed, ds=ds, std=std, pick=np.arange(len(values)))


def _width(how: Any, grid: Grid) -> float:
    """The length of the windows in seconds, or in units of a time axis of numbers."""
    try:
        if grid.origin is None:
            width = float(how)
        elif isinstance(how, int | float):
            raise ValueError("a length of time without a unit")
        else:
            width = pd.Timedelta(how).total_seconds()
    except (TypeError, ValueError):
        kind = "a number, as the times of the grid are" if grid.origin is None else "a length of time such as '1h'"
        raise ValueError(f"superobs={how!r} must be 'cell' or {kind}") from None
    if not width > 0:
        raise ValueError(f"superobs={how!r} must be a positive length of time")
    return width


def _positions(observed: Observed, grid: Grid) -> dict[str, xr.DataArray]:
    """The coordinate of each report along each dimension of the grid (or on the sphere) and of its channels."""
    name, da = observed.name, observed.da
    if not isinstance(observed.law, Normal) or observed.correlation is not None:
        raise ValueError(
            f"superobs averages independent Gaussian errors, but those of {name!r} have another law or are correlated; "
            "omit superobs, or likelihood and correlation"
        )
    found, mesh = {}, Mesh.of(grid)
    places = None if mesh is None else sphere_positions(mesh, grid, da)
    for dim in grid.core_dims if places is None else grid.core_dims[:1]:
        coord = matching_coordinate(da, grid, dim)
        if coord is None or cell_method(da, {dim, str(coord.name)}) == "mean":
            raise ValueError(f"superobs needs point values, but {name!r} is an average along {dim!r}; omit superobs")
        if dim == grid.core_dims[0]:
            check_calendar(coord, grid.origin is not None, f"the grid's {dim!r}")
        found[dim] = coord
    found |= dict(zip(SPHERE, places or (), strict=False))
    own = [v.channel_dim for v in grid.layout.variables if grid.names[v.name] == name and v.channel_dim in da.coords]
    found |= {str(d): da[d] for d in own}
    bare = da.drop_vars(da.coords)
    spread = {d: c.drop_vars(c.coords).broadcast_like(bare).transpose(*da.dims) for d, c in found.items()}
    return {
        d: xr.DataArray(c.values.ravel()[observed.pick], dims="report", name=found[d].name, attrs=found[d].attrs)
        for d, c in spread.items()
    }


def _numbers(coord: xr.DataArray, dim: str, grid: Grid) -> np.ndarray:
    return axis_numbers(coord, grid.origin if dim == grid.core_dims[0] else None)


def _nearest(x: np.ndarray, grid: Grid, dim: str) -> np.ndarray:
    """The number of the nearest grid point."""
    return _heaviest(grid_axis(grid, dim).locate(x))


def _nearest_on_sphere(lat: np.ndarray, lon: np.ndarray, grid: Grid) -> np.ndarray:
    """The number of the nearest grid point, on two-dimensional coordinates."""
    mesh = Mesh.of(grid)
    assert mesh is not None
    return _heaviest(mesh.locate(lat, lon))


def _heaviest(stencil: Stencil) -> np.ndarray:
    """The point with the largest weight at each position."""
    return np.take_along_axis(stencil.index, stencil.weight.argmax(1)[:, None], 1)[:, 0]


def _moved(values: np.ndarray, away: np.ndarray) -> np.ndarray:
    """Positions moved by numbers, which are seconds where positions are dates."""
    if not is_datelike(xr.DataArray(values)):
        return values + away if values.dtype.kind in "iuf" else values
    if values.dtype.kind == "M":
        return values.astype("datetime64[ns]") + np.round(away * 1e9).astype("timedelta64[ns]")
    return np.array([v + datetime.timedelta(seconds=a) for v, a in zip(values, away, strict=True)], dtype=object)
