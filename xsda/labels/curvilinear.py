"""Finds two-dimensional latitudes and longitudes (rotated pole, tripolar and ROMS grids)."""

from __future__ import annotations

from collections.abc import Iterable

import xarray as xr

from xsda.labels.cf import is_latitude, is_longitude

LATITUDES, LONGITUDES = ("lat", "latitude", "nav_lat"), ("lon", "longitude", "nav_lon")


def curvilinear(ds: xr.Dataset | xr.DataArray, dims: Iterable[str] = ()) -> tuple[xr.DataArray, xr.DataArray] | None:
    """Return the latitude and longitude that share two dimensions.

    Parameters
    ----------
    ds
        A Dataset or variable.
    dims
        The two dimensions. Default: any two.

    Returns
    -------
    tuple of DataArray, or None
        Latitude and longitude with the same order of dimensions; None if there is no such pair.

    Examples
    --------
    >>> from xsda.labels.curvilinear import curvilinear
    >>> places = {"lat": (("j", "i"), [[50.0, 51.0], [60.0, 61.0]]), "lon": (("j", "i"), [[0.0, 9.0], [1.0, 12.0]])}
    >>> [c.name for c in curvilinear(xr.Dataset(coords=places))]
    ['lat', 'lon']
    >>> curvilinear(weather) is None
    True
    """
    wanted, bounds = set(dims), {c.attrs.get("bounds", c.encoding.get("bounds")) for c in ds.coords.values()}
    for lat in ds.coords.values():
        fits = lat.ndim == 2 and lat.name not in bounds and wanted in (set(), set(lat.dims))
        if not (fits and (is_latitude(lat) or _named(lat, LATITUDES))):
            continue
        for lon in ds.coords.values():
            if set(lon.dims) == set(lat.dims) and (is_longitude(lon) or _named(lon, LONGITUDES)):
                return lat, lon.transpose(*lat.dims)
    return None


def check_set_as_coordinates(ds: xr.Dataset) -> None:
    """Raise if two-dimensional latitudes and longitudes are variables instead of coordinates.

    Parameters
    ----------
    ds
        A Dataset without time.

    Examples
    --------
    >>> from xsda.labels.curvilinear import check_set_as_coordinates
    >>> fields = {"lat": (("j", "i"), [[50.0, 51.0]]), "lon": (("j", "i"), [[0.0, 9.0]])}
    >>> check_set_as_coordinates(xr.Dataset(coords=fields))
    >>> check_set_as_coordinates(xr.Dataset(fields))
    Traceback (most recent call last):
    ValueError: the Dataset holds 'lat' and 'lon' as variables; use ds.set_coords(['lat', 'lon'])
    """
    pair = curvilinear(xr.Dataset(coords=ds.data_vars))
    if pair is not None:
        names = [str(c.name) for c in pair]
        raise ValueError(f"the Dataset holds {names[0]!r} and {names[1]!r} as variables; use ds.set_coords({names})")


def _named(coord: xr.DataArray, names: tuple[str, ...]) -> bool:
    return str(coord.name).lower() in names
