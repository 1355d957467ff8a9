"""Colours, labels and positions shared by the pictures."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import xarray as xr

from xsda.labels.axes import axis_numbers, is_datelike
from xsda.labels.cf import is_latitude, is_longitude

TRUTH, ENSEMBLE, OBSERVED = "#222222", "#2a6fbb", "#d1495b"
SEQUENTIAL, DIVERGING, SPREAD = "viridis", "RdBu_r", "magma"
MASKED, HATCHED, COAST = "#d4d1ca", "#b3afa6", "#1c1c1c"
SHORT = {"degrees_north": "°N", "degrees_east": "°E", "degrees": "°", "degree": "°", "um": "µm"}
CELSIUS = ("degC", "celsius", "Celsius", "degree_Celsius", "degrees_Celsius", "degrees_celsius")
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
TAILS = (0.005, 0.995)  # quantiles between which colours vary
ARBITRARY_ZERO = ("degC", "celsius", "degree_Celsius", "degrees_Celsius", "°C", "degF")


def axis_label(da: xr.DataArray) -> str:
    """Name and unit of a variable or coordinate."""
    plain = "latitude" if is_latitude(da) else "longitude" if is_longitude(da) else da.name
    name = str(da.attrs.get("long_name") or str(da.attrs.get("standard_name", plain)).replace("_", " "))
    units = _units(da)
    return f"{name} [{units}]" if units not in ("", "1") else name


def _units(da: xr.DataArray) -> str:
    if da.dtype.kind == "m":
        return "h"
    if da.dtype == object and is_datelike(da):
        return f"days since {da.values.flat[0]}"
    if is_latitude(da):
        return "°N"
    if is_longitude(da):
        return "°E"
    return unit_symbol(str(da.attrs.get("units", "")))


def unit_symbol(units: str) -> str:
    """A unit as it is printed: m s⁻¹ for "m s-1" and "m s**-1", °C for "degC"."""
    if units in SHORT or units in CELSIUS:
        return SHORT.get(units, "°C")
    return re.sub(r"(?<=[A-Za-z])(?<!\d[eE])(?:\*\*|\^)?(-?\d+)(?=$|[\s/*.])", lambda m: m[1].translate(RAISED), units)


def axis_values(coord: xr.DataArray, origin: Any = None) -> np.ndarray:
    """Positions that matplotlib can draw: lags in hours, dates of other calendars in days since ``origin``."""
    if coord.dtype.kind == "m":
        return axis_numbers(coord) / 3600
    if coord.dtype == object and is_datelike(coord):
        return axis_numbers(coord, origin) / 86400
    return coord.values


def state_label(coord: xr.DataArray) -> str:
    """The time of one state, for a title."""
    if is_datelike(coord):
        return str(coord.values[()])[:16].replace("T", " ")
    units = _units(coord)
    value = f"{coord.name} = {float(axis_values(coord)):g}"
    return value if units in ("", "1") else f"{value} {units}"


def is_signed(da: xr.DataArray, low: float, high: float) -> bool:
    """Whether zero divides the values into two kinds: both signs occur, and zero is not just a choice of the unit."""
    named = f"{da.name} {da.attrs.get('long_name')} {da.attrs.get('standard_name')}".lower()
    arbitrary = da.attrs.get("units") in ARBITRARY_ZERO and "anomaly" not in named
    return not arbitrary and min(-low, high) > 0.1 * max(-low, high)


def colour_scale(da: xr.DataArray, values: np.ndarray, cmap: Any = None) -> dict[str, Any]:
    """Colour map and limits: diverging and centred on zero for a signed quantity, sequential otherwise."""
    low, high = np.nanquantile(values, TAILS)
    if is_signed(da, low, high):
        most = max(-low, high)
        return {"cmap": cmap or DIVERGING, "vmin": -most, "vmax": most}
    return {"cmap": cmap or SEQUENTIAL, "vmin": low, "vmax": high}


def error_scale(values: np.ndarray) -> dict[str, Any]:
    """Colour map and limits of an error: diverging and centred on zero."""
    most = float(np.nanquantile(np.abs(values), TAILS[1])) or 1.0
    return {"cmap": DIVERGING, "vmin": -most, "vmax": most}


def spread_scale(values: np.ndarray) -> dict[str, Any]:
    """Colour map and limits of a spread: sequential, from zero."""
    return {"cmap": SPREAD, "vmin": 0.0, "vmax": float(np.nanquantile(values, TAILS[1])) or 1.0}


def aspect_of(y: xr.DataArray, x: xr.DataArray) -> float | None:
    """Height of one unit of ``y`` over the width of one unit of ``x``; None if the panel may have any shape."""
    if is_latitude(y):
        return 1 / max(float(np.cos(np.deg2rad(y.mean()))), 0.1)
    extents = [float(np.ptp(axis_numbers(c))) for c in (y, x)]
    same = y.attrs.get("units") == x.attrs.get("units") and min(extents) > 0.2 * max(extents) > 0
    return 1.0 if same else None
