"""Reads CF attributes: units, latitude and longitude, cell bounds, cell methods and standard errors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import xarray as xr

LATITUDE_UNITS = ("degrees_north", "degree_north", "degree_N", "degrees_N")
LONGITUDE_UNITS = ("degrees_east", "degree_east", "degree_E", "degrees_E")
TEMPERATURES = {"c": "degC", "celsius": "degC", "centigrade": "degC", "f": "degF", "fahrenheit": "degF", "k": "K"}
PRESSURES = {"mb": "millibar", "mbs": "millibar"}


def is_latitude(coord: xr.DataArray) -> bool:
    """Whether the values are latitudes: by standard name, by units, or by name where no units are given."""
    return _is(coord, ("latitude", "grid_latitude"), LATITUDE_UNITS, ("lat", "latitude"))


def is_longitude(coord: xr.DataArray) -> bool:
    """Whether the values are longitudes: by standard name, by units, or by name where no units are given."""
    return _is(coord, ("longitude",), LONGITUDE_UNITS, ("lon", "longitude"))


def _is(coord: xr.DataArray, standard: Sequence[str], units: Sequence[str], names: Sequence[str]) -> bool:
    own = coord.attrs.get("units")
    named = own is None and str(coord.name).lower() in names
    return coord.attrs.get("standard_name") in standard or own in units or named


@lru_cache(maxsize=256)
def _unit(text: str) -> Any:
    """Parse a unit with pint, as it is written or else in small letters (Kelvin, PSU); None if that fails."""
    from cf_xarray.units import units  # also reads m s**-1, m s-1, degC

    for spelling in (_customary(text), text.lower()):
        try:
            return units.Unit(spelling)
        except Exception:  # pint raises errors of many classes for what it cannot parse
            continue
    return None


def _customary(text: str) -> str:
    """Return what pint calls a unit that people write as deg C, degrees_Celsius, °C, C or mb."""
    temperature = re.fullmatch(r"(?:(?:degrees?|deg|°|º)[\s_.]*)?(\w+)", text.strip().replace("℃", "°C").lower())
    found = temperature and TEMPERATURES.get(temperature[1])
    return found or PRESSURES.get(text.strip(), text)


@lru_cache(maxsize=256)
def unit_scale(came: str, expected: str) -> tuple[float, float] | None:
    """Return (factor, offset) of the linear conversion from one unit to another; None if there is none.

    Units that cannot be parsed only convert to units with the same spelling.

    Examples
    --------
    >>> from xsda.labels.cf import unit_scale
    >>> unit_scale("degC", "K")
    (1.0, 273.15)
    >>> unit_scale("m s**-1", "m/s")
    (1.0, 0.0)
    >>> unit_scale("m", "K") is None
    True
    """
    if came == expected:
        return 1.0, 0.0
    a, b = _unit(came), _unit(expected)
    if a is None or b is None:
        return None
    if a == b:
        return 1.0, 0.0
    registry = a._REGISTRY
    try:
        zero, one, two = (float(registry.Quantity(v, a).to(b).magnitude) for v in (0.0, 1.0, 2.0))
    except Exception:  # different dimensions, or no linear relation
        return None
    factor = one - zero
    if not np.isclose(two - one, factor, rtol=1e-9, atol=0):
        return None  # logarithmic units
    digits = 12 if zero else 15  # with an offset, one - zero loses digits to cancellation
    return float(f"{factor:.{digits}g}"), float(f"{zero:.14g}")


def find_scale(name: str, came: Any, expected: Any, whose: str) -> tuple[float, float]:
    """Return (factor, offset) from the unit ``came`` to ``expected``; raise if there is no conversion.

    If one of the units is not known, numbers are left as they are: (1, 0).
    """
    if not came or not expected:
        return 1.0, 0.0
    found = unit_scale(str(came), str(expected))
    if found is None:
        raise ValueError(
            f"{name!r} is in {came!r}, {whose} in {expected!r}, and one cannot be converted to the other; correct the "
            "attribute units"
        )
    return found


def in_units(da: xr.DataArray, expected: Any, whose: str) -> xr.DataArray:
    """Convert values to the unit ``expected``, if both units are known and differ."""
    factor, offset = find_scale(str(da.name), da.attrs.get("units"), expected, whose)
    if (factor, offset) == (1.0, 0.0):
        return da
    return (da.astype(np.result_type(da.dtype, np.float32)) * factor + offset).assign_attrs(da.attrs, units=expected)


def check_units(name: str, came: Any, expected: Any, whose: str) -> None:
    """Raise if both units are known and differ in more than spelling."""
    if find_scale(name, came, expected, whose) != (1.0, 0.0):
        raise ValueError(f"{name!r} is in {came!r}, {whose} in {expected!r}; convert it and set its attribute units")


def cell_method(da: xr.DataArray, names: set[str]) -> str | None:
    """Return the cell method of a dimension with one of these names; None if there is none."""
    methods = re.findall(r"((?:\w+:\s+)+)(\w+)", str(da.attrs.get("cell_methods", "")))
    return next((method for dims, method in methods if names & set(re.findall(r"\w+", dims))), None)


def cell_bounds(ds: xr.Dataset, coord: xr.DataArray) -> xr.DataArray | None:
    """Return the bounds of a coordinate, over its dimensions and one of size 2; None if it names none."""
    name = coord.attrs.get("bounds")
    if name is None:
        return None
    if name not in ds.variables:
        raise ValueError(
            f"the coordinate {coord.name!r} names its bounds {name!r}, which are not in the Dataset; add them (the "
            "cells of the averages), or delete the attribute cell_methods to select grid points"
        )
    bounds = ds[name]
    extra = [d for d in bounds.dims if d not in coord.dims]
    if len(extra) != 1 or bounds.sizes[extra[0]] != 2:
        raise ValueError(
            f"the bounds {name!r} have the sizes {dict(bounds.sizes)}, expected those of {coord.name!r} and 2"
        )
    return bounds.transpose(*coord.dims, extra[0])


def standard_error(ds: xr.Dataset, da: xr.DataArray) -> xr.DataArray | None:
    """Return the ancillary variable with the standard name ``<name> standard_error``; None if there is none."""
    own = da.attrs.get("standard_name", da.name)
    listed = str(da.attrs.get("ancillary_variables", "")).split()
    for v in ds.data_vars.values():
        if v.attrs.get("standard_name") == f"{own} standard_error" and (not listed or v.name in listed):
            return v
    return None


def helper_variables(ds: xr.Dataset) -> set[str]:
    """Names of variables that describe others: cell bounds, standard errors, ancillary variables, map projections."""
    helpers = {str(c.attrs["bounds"]) for c in ds.variables.values() if "bounds" in c.attrs}
    for v in ds.data_vars.values():
        helpers.update(str(v.attrs.get("ancillary_variables", "")).split())
        helpers.update(re.findall(r"\w+", str(v.attrs.get("grid_mapping", v.encoding.get("grid_mapping", "")))))
        if str(v.attrs.get("standard_name", "")).endswith(" standard_error"):
            helpers.add(str(v.name))
    return helpers
