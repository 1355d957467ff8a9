"""Writes the attributes of results: conventions, history, settings and version."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

import xarray as xr

from xsda.labels.grid import Grid
from xsda.version import __version__


def describe(ds: xr.Dataset, grid: Grid, attrs: Mapping[str, Any]) -> xr.Dataset:
    """Add attributes and encodings to a result, and return it."""
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    line = f"{now} xsda {__version__}: " + ", ".join(f"{k}={v}" for k, v in attrs.items())
    lines = [line, *(f"{now} xsda {__version__}: {text}" for text in grid.converted)]
    history = "\n".join([*lines, *filter(None, [grid.template.attrs.get("history")])])
    own = {k: v for k, v in grid.template.attrs.items() if k != "title"}  # the title describes the data of the grid
    ds.attrs = {
        **own,
        "Conventions": "CF-1.11",
        **attrs,
        "xsda_version": __version__,
        "history": history,
    }
    for name in ds.coords:
        kept = {k: v for k, v in ds[name].encoding.items() if k in ("units", "calendar", "dtype")}
        ds[name].encoding = {**kept, "_FillValue": None}
    return ds
