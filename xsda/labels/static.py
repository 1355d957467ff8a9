r"""Static fields that a network reads: those of the data, and the position of each grid point.

On the globe the position is the unit vector towards the point,

.. math:: (\cos\varphi \cos\lambda,\; \cos\varphi \sin\lambda,\; \sin\varphi).

It is continuous across the dateline and over the poles, and no convention of longitude changes it. Along other axes the
position is the coordinate. A periodic axis that is no longitude has none, because it has no first point.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from xsda.labels.axes import axis_numbers
from xsda.labels.cf import in_units, is_latitude, is_longitude
from xsda.labels.curvilinear import curvilinear

GLOBE = ("globe_x", "globe_y", "globe_z")  # towards 0 E and 90 E on the equator, and towards the North Pole
ALTITUDES = {"surface_altitude", "surface_geopotential", "geopotential"}
NAMES = {
    "orog",
    "orography",
    "z_surface",
    "surface_altitude",
    "elevation",
    "topo",
    "topography",
    "phis",
    "hsurf",
    "hgt",
}


def find_orography(ds: xr.Dataset, space: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the variables over the space dimensions alone that hold the height of the surface.

    Parameters
    ----------
    ds
        A Dataset.
    space
        Its space dimensions.

    Returns
    -------
    tuple of str
        Variables with the standard name of a surface altitude or of a geopotential, which is that of the surface if it
        has neither time nor levels. Without a standard name, the usual names count, such as "orog".

    Examples
    --------
    >>> from xsda.labels.static import find_orography
    >>> find_orography(xr.Dataset({"orog": ("x", [0.0, 120.0]), "soil": ("x", [1.0, 3.0])}), ["x"])
    ('orog',)
    """
    found = []
    for name, v in ds.variables.items():
        standard = v.attrs.get("standard_name", "unknown")  # which GRIB readers write
        known = str(name).lower() in NAMES if standard == "unknown" else standard in ALTITUDES
        if known and v.dims and set(v.dims) == set(space):
            found.append(str(name))
    return tuple(found)


def positions(ds: xr.Dataset, space: Sequence[str], rings: Collection[str] = ()) -> dict[str, xr.DataArray]:
    """Return the coordinates that say where each grid point lies.

    Parameters
    ----------
    ds
        A Dataset.
    space
        Its space dimensions.
    rings
        Those that are periodic.

    Returns
    -------
    dict
        The unit vector on the globe, if there are longitudes, and the coordinates of other axes that are not periodic.

    Examples
    --------
    >>> from xsda.labels.static import positions
    >>> section = xr.Dataset(coords={"depth": [5.0, 15.0], "lon": [170.0, 190.0]})
    >>> {name: field.dims for name, field in positions(section, ["depth", "lon"]).items()}
    {'globe_x': ('lon',), 'globe_y': ('lon',), 'depth': ('depth',)}
    """
    found = unit_vector(ds, space)
    covered = {str(d) for field in found.values() for d in field.dims}
    plain = [d for d in space if d in ds.coords and d not in rings and d not in covered]
    return found | {d: plain_position(ds, d) for d in plain}


def unit_vector(ds: xr.Dataset, space: Sequence[str]) -> dict[str, xr.DataArray]:
    """Return the components of the unit vector towards each grid point; empty if there are no longitudes.

    Without latitudes, the points lie on the equator and the third component is left out.
    """
    pair = curvilinear(ds, space) if len(space) == 2 else None
    known = [ds[d] for d in space if d in ds.coords]
    lat, lon = pair or (next(filter(is_latitude, known), None), next(filter(is_longitude, known), None))
    if lon is None:
        return {}
    b: Any = np.radians(lon.astype(float))
    if lat is None:
        return dict(zip(GLOBE, (np.cos(b), np.sin(b)), strict=False))
    a: Any = np.radians(lat.astype(float))
    return dict(zip(GLOBE, (np.cos(a) * np.cos(b), np.cos(a) * np.sin(b), np.sin(a)), strict=True))


def plain_position(ds: xr.Dataset, dim: str) -> xr.DataArray:
    """Return a coordinate as a field of numbers."""
    return xr.DataArray(axis_numbers(ds[dim]), dims=dim, name=dim, attrs=ds[dim].attrs)


def read_position(ds: xr.Dataset, dims: Mapping[str, str], name: str, attrs: Mapping[str, Any]) -> xr.DataArray:
    """Return a position that a prior reads, on the grid of a Dataset.

    Parameters
    ----------
    ds
        The Dataset.
    dims
        Its space dimensions by the names of the prior.
    name, attrs
        Name of the position, as ``positions`` returns it, and its attributes, of which the unit counts.

    Returns
    -------
    DataArray
        The position, over some of the space dimensions. It is NaN where a two-dimensional grid has no point.
    """
    if name in GLOBE:
        found = unit_vector(ds, list(dims.values()))
        if name in found:
            return found[name]
        raise ValueError(
            "this prior reads the position on the globe, but the grid has no latitudes and longitudes; add them as "
            "coordinates, marked by standard_name or units"
        )
    if dims[name] not in ds.coords:
        raise ValueError(
            f"this prior reads the position along {name!r}, so the grid needs the coordinate {dims[name]!r}"
        )
    return in_units(plain_position(ds, dims[name]), attrs.get("units"), "the prior")


def read_static(ds: xr.Dataset, space: Sequence[str], name: str, attrs: Mapping[str, Any]) -> xr.DataArray:
    """Return a static field that a prior reads, found by name or by standard name, in the units of the prior.

    Parameters
    ----------
    ds
        The Dataset.
    space
        Its space dimensions.
    name, attrs
        Name and attributes of the field.

    Returns
    -------
    DataArray
        The field, over the space dimensions.
    """
    standard = attrs.get("standard_name")
    alike = [v for v in ds.variables if standard and ds[v].attrs.get("standard_name") == standard]
    if name not in ds and len(alike) != 1:
        raise KeyError(f"the prior needs the static field {name!r}, which the grid lacks; add it as a variable")
    field = ds[name if name in ds else alike[0]]
    if set(field.dims) != set(space):
        raise ValueError(
            f"the static field {name!r} has the dimensions {field.dims}, expected {tuple(space)}; select one entry of "
            "the others"
        )
    if not np.isfinite(field.values).all():
        raise ValueError(f"the static field {name!r} holds NaN or infinite values; fill them")
    return in_units(field, attrs.get("units"), "the prior")
