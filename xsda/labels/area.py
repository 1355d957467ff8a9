"""Areas of latitude bands and of cells, the weights of averages over the sphere.

The band between the latitudes a and b has an area proportional to sin(b) - sin(a). This is exact for any width, so a
row on a pole counts as the polar cap that it stands for, where the cosine of its latitude would be zero. On evenly
spaced rows between the poles the areas are proportional to the cosine.

On a grid with two-dimensional coordinates, a cell is spanned by the steps a and b to its neighbours, as vectors in
space, and its area is |a x b|.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from xsda.labels.cf import is_latitude
from xsda.labels.curvilinear import curvilinear

TOLERANCE = 1e-6  # degrees


def area_weights(coord: xr.DataArray, bounds: xr.DataArray | None = None) -> np.ndarray:
    """Weight each row of a grid by the area that it stands for.

    Rows may come in any order. Repeated latitudes share one band.

    Parameters
    ----------
    coord
        Coordinate of one dimension. If it is not a latitude, all weights are 1.
    bounds
        Limits of the bands (row, 2), in degrees. Default: bands end half-way between rows. The outermost bands reach
        half a spacing outwards, or to the pole if no further row would fit before it.

    Returns
    -------
    ndarray
        One weight per row, with mean 1.

    Examples
    --------
    >>> from xsda.labels.area import area_weights
    >>> area_weights(xr.DataArray([-90.0, 0.0, 90.0], dims="lat", name="lat")).round(3)
    array([0.439, 2.121, 0.439])
    """
    if coord.ndim != 1:
        raise ValueError(f"the coordinate {coord.name!r} has the dimensions {coord.dims}, expected one")
    if not is_latitude(coord):
        return np.ones(coord.size)
    rows = _latitudes(coord, coord.name)
    if bounds is not None:
        limits = np.sin(np.deg2rad(_latitudes(bounds, bounds.name)))
        areas = np.abs(limits[:, 1] - limits[:, 0])
        if not areas.all():
            raise ValueError(f"the bounds {bounds.name!r} hold a band without area; correct them")
    else:
        values, which, count = np.unique(rows, return_inverse=True, return_counts=True)
        areas = (np.diff(np.sin(np.deg2rad(band_edges(values)))) / count)[which]
    return areas / areas.mean()


def band_edges(rows: np.ndarray) -> np.ndarray:
    """Limits of the bands around ascending latitudes.

    Parameters
    ----------
    rows
        Ascending latitudes in degrees.

    Returns
    -------
    ndarray
        One number more than rows. A single row has a band one degree wide.

    Examples
    --------
    >>> from xsda.labels.area import band_edges
    >>> band_edges(np.array([-90.0, -30.0, 30.0, 80.0]))
    array([-90., -60.,   0.,  55.,  90.])
    """
    if len(rows) == 1:
        return np.clip(rows[0] + np.array([-0.5, 0.5]), -90, 90)
    middle = (rows[1:] + rows[:-1]) / 2
    south, north = rows[1] - rows[0], rows[-1] - rows[-2]  # spacings at the ends
    first = -90.0 if rows[0] - south < -90 - TOLERANCE else rows[0] - south / 2
    last = 90.0 if rows[-1] + north > 90 + TOLERANCE else rows[-1] + north / 2
    return np.concatenate([[first], middle, [last]])


def cell_areas(lat: xr.DataArray, lon: xr.DataArray) -> np.ndarray:
    """Weight each cell of a grid with two-dimensional coordinates by its area.

    Parameters
    ----------
    lat, lon
        Coordinates of the cells in degrees, over the same two dimensions. They may be NaN where there are no cells.

    Returns
    -------
    ndarray
        One weight per cell, with mean 1. It is 0 where there is no cell.

    Examples
    --------
    >>> from xsda.labels.area import cell_areas
    >>> lat, lon = xr.broadcast(xr.DataArray([0.0, 30.0, 60.0], dims="y"), xr.DataArray([0.0, 1.0], dims="x"))
    >>> cell_areas(lat, lon)[:, 0].round(3)
    array([1.284, 1.074, 0.642])
    """
    if lat.ndim != 2 or lat.dims != lon.dims:
        raise ValueError(f"the coordinates have the dimensions {lat.dims} and {lon.dims}, expected the same two")
    y, x = np.deg2rad(_latitudes(lat, lat.name)), np.deg2rad(np.asarray(lon.values, dtype=float))
    place = np.stack([np.cos(y) * np.cos(x), np.cos(y) * np.sin(x), np.sin(y)])
    areas = np.linalg.norm(np.cross(_steps(place, 1), _steps(place, 2), axis=0), axis=0)
    areas = np.nan_to_num(areas, nan=0.0)
    if not areas.any():
        raise ValueError(f"a grid of {dict(lat.sizes)} points has no cells; it needs two rows and two columns")
    return areas / areas.mean()


def grid_areas(ds: xr.Dataset, space: Sequence[str]) -> np.ndarray:
    """Weight each point of a grid by its area.

    Parameters
    ----------
    ds
        A Dataset with the coordinates.
    space
        Its space dimensions.

    Returns
    -------
    ndarray
        The weights, (*space), along ascending axes as in a tensor. They are 1 where no dimension holds latitudes, and 0
        where a grid with two-dimensional coordinates has no cell.

    Examples
    --------
    >>> from xsda.labels.area import grid_areas
    >>> grid_areas(xr.Dataset(coords={"lat": [60.0, 0.0, -60.0], "lon": [0.0, 1.0]}), ["lat", "lon"])[:, 0].round(3)
    array([0.75, 1.5 , 0.75])
    """
    pair = curvilinear(ds, space) if len(space) == 2 else None
    areas = np.ones(())
    if pair is not None:
        areas = cell_areas(*(c.transpose(*space) for c in pair))
    else:
        for d in space:
            areas = areas[..., None] * (area_weights(ds[d]) if d in ds.coords else np.ones(ds.sizes[d]))
    turned = (d in ds.coords and ds.sizes[d] > 1 and bool(ds[d][0] > ds[d][-1]) for d in space)
    return areas[tuple(slice(None, None, -1 if t else 1) for t in turned)]


def _steps(place: np.ndarray, axis: int) -> np.ndarray:
    """Mean of the steps from the cell before and to the next one; the only one there is at an edge."""
    step = np.diff(place, axis=axis)
    edge = np.full_like(place.take([0], axis), np.nan)
    before, after = np.concatenate([edge, step], axis), np.concatenate([step, edge], axis)
    both = (before + after) / 2
    return np.where(np.isnan(both), np.where(np.isnan(before), after, before), both)


def _latitudes(da: xr.DataArray, name: object) -> np.ndarray:
    values = np.asarray(da.values, dtype=float)
    known = values if da.ndim == 1 else values[~np.isnan(values)]
    if not bool((np.abs(known) <= 90 + TOLERANCE).all()):  # also refuses NaN
        raise ValueError(
            f"the latitudes {name!r} must lie between -90 and 90 degrees, got {np.min(known):g} to {np.max(known):g}; "
            "correct them or their units"
        )
    return values.clip(-90, 90)
