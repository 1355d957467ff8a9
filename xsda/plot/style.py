"""Colours and labels shared by the pictures."""

from __future__ import annotations

import xarray as xr

TRUTH, ENSEMBLE, OBSERVED = "#222222", "#2a6fbb", "#d1495b"


def axis_label(da: xr.DataArray) -> str:
    """Name and unit of a variable or coordinate."""
    name = str(da.attrs.get("long_name") or str(da.attrs.get("standard_name", da.name)).replace("_", " "))
    units = da.attrs.get("units", "")
    return f"{name} [{units}]" if units not in ("", "1") else name
