"""Recognises a globe: rows that reach both poles, components of vectors, and a meridian that is there twice."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import xarray as xr

from xsda.labels.axes import axis_numbers, own_period
from xsda.labels.cf import is_latitude, is_longitude

NEAR = 0.25  # a row that lies closer to a pole, in spacings, stands on it
FAR = 0.9  # a pole that lies farther from the last row lacks a row; on a Gaussian grid it lies at .77
DIRECTIONS = {"eastward", "northward", "westward", "southward", "x", "y"}
NAMES = re.compile(r"(^|_)[uv]_component|^[uv](\d+m?|o|a|as|wnd)?$")


def find_poles(ds: xr.Dataset, dim: str, around: str) -> str | None:
    """Say whether the rows along ``dim`` reach both poles.

    Parameters
    ----------
    ds
        Dataset with the coordinates.
    dim
        Dimension of the rows.
    around
        The other space dimension.

    Returns
    -------
    str or None
        "on_poles" if the first and the last row lie on the poles, "between_poles" if they lie about half a spacing
        before them. None if ``dim`` holds no latitudes, if it ends elsewhere, or if ``around`` is not an even number of
        longitudes around the whole globe.

    Examples
    --------
    >>> from xsda.labels.sphere import find_poles
    >>> globe = xr.Dataset(coords={"lat": np.arange(-90, 91, 30), "lon": np.arange(0, 360, 30)})
    >>> find_poles(globe, "lat", "lon")
    'on_poles'
    """
    if not {dim, around} <= set(ds.coords) or not (is_latitude(ds[dim]) and is_longitude(ds[around])):
        return None
    rows, columns = (np.sort(axis_numbers(ds[d])) for d in (dim, around))
    if len(rows) < 2 or len(columns) < 2 or len(columns) % 2:
        return None
    if own_period(ds, around, float(np.median(np.diff(columns)))) != 360:
        return None
    steps = np.diff(rows)
    gaps = (90 + rows[0]) / steps[0], (90 - rows[-1]) / steps[-1]
    if max(map(abs, gaps)) < NEAR:
        return "on_poles"
    return "between_poles" if min(gaps) >= NEAR and max(gaps) < FAR else None


def component_sign(name: str, attrs: Mapping[str, str]) -> int:
    """Return -1 for a component of a vector along longitude or latitude, which changes sign beyond a pole; otherwise 1.

    Parameters
    ----------
    name
        Name of the variable, such as "u10". It only counts without a standard name.
    attrs
        Attributes. A standard name with one direction, such as "eastward_wind", belongs to a component. With two
        directions it belongs to a product, which keeps its sign.

    Returns
    -------
    int
        The sign.

    Examples
    --------
    >>> from xsda.labels.sphere import component_sign
    >>> component_sign("a", {"standard_name": "northward_sea_water_velocity"}), component_sign("t", {})
    (-1, 1)
    """
    standard = attrs.get("standard_name", "unknown")
    if standard == "unknown":  # which GRIB readers write
        return -1 if NAMES.search(name) else 1
    return (-1) ** sum(word in DIRECTIONS for word in standard.split("_"))


def check_meridians(ds: xr.Dataset, dim: str) -> None:
    """Raise if longitudes hold one meridian twice, such as 0 and 360, or jump, such as from 2 to 350.

    Parameters
    ----------
    ds
        Dataset with the coordinates.
    dim
        A dimension, of longitudes or of anything else.

    Examples
    --------
    >>> from xsda.labels.sphere import check_meridians
    >>> check_meridians(xr.Dataset(coords={"lon": [0.0, 90.0, 180.0, 270.0]}), "lon")
    """
    if dim not in ds.coords or ds.sizes[dim] < 3 or not is_longitude(ds[dim]):
        return
    x = axis_numbers(ds[dim])
    first, last = float(x.min()), float(x.max())
    if abs(last - first - 360) < 1e-2 * 360 / len(x):
        raise ValueError(
            f"the longitudes {dim!r} hold the same meridian twice, {first:g} and {last:g}; "
            f"use .isel({dim}=slice(None, -1))"
        )
    x = np.sort(x)
    gap = int(np.diff(x).argmax())
    if x[gap + 1] - x[gap] > 180:
        start = x[gap + 1] - 360 * (x[gap + 1] > 180)
        raise ValueError(
            f"the longitudes {dim!r} jump between {x[gap]:g} and {x[gap + 1]:g}, so neighbours are far apart; count "
            f"them from {start:g}: .assign_coords({dim}=(ds.{dim} {-start:+g}) % 360 {start:+g}).sortby({dim!r})"
        )
