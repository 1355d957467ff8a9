"""Areas of latitude bands, the weights of averages over the sphere.

The band between the latitudes a and b has an area proportional to sin(b) - sin(a). This is exact for any width, so a
row on a pole counts as the polar cap that it stands for, where the cosine of its latitude would be zero. On evenly
spaced rows between the poles the areas are proportional to the cosine.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from xsda.labels.cf import is_latitude

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


def _latitudes(da: xr.DataArray, name: object) -> np.ndarray:
    values = np.asarray(da.values, dtype=float)
    if not bool((np.abs(values) <= 90 + TOLERANCE).all()):  # also refuses NaN
        raise ValueError(
            f"the latitudes {name!r} must lie between -90 and 90 degrees, got {values.min():g} to {values.max():g}; "
            "correct them or their units"
        )
    return values.clip(-90, 90)
