"""Recognises fill values, values in a wrong unit, and sensors that repeat one value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from xsda.labels.axes import TIME_NAMES, axis_numbers, is_datelike
from xsda.labels.cf import find_scale, unit_scale
from xsda.observations.read import Observed

HUGE = 1e15  # larger values are fill values
FILLS = (-99.0, -99.9, -999.0, -999.9, -9999.0, -9999.9, -99999.0, 999.0, 9999.0, 99999.0, -32767.0, -32768.0, 32767.0)
UNITS = (
    "K", "degC", "degF", "Pa", "hPa", "m", "cm", "mm", "km", "m s-1", "km h-1", "knot", "kg kg-1", "g kg-1", "percent",
    "1",
)  # fmt: skip
MOST, FITS = 0.5, 0.9  # share of gross errors that arouses suspicion; share that must fit after a change of unit
FREQUENT = 0.1  # a value that makes up so much of the values elsewhere is not a sign of a stuck sensor


def is_fill(values: np.ndarray) -> np.ndarray:
    """Whether values look like marks of missing values.

    Parameters
    ----------
    values
        Values as they came, not converted.
    """
    huge = np.abs(values) >= HUGE
    return huge | np.isin(np.where(huge, 0, values).astype(np.float32), np.asarray(FILLS, np.float32))


def unit_mistake(
    observed: Observed, ds: xr.Dataset, units: Mapping[str, str | None], raw: np.ndarray, mean: np.ndarray,
    joint: np.ndarray, limit: float,
) -> str:  # fmt: skip
    """Say which change of unit makes the values of a source fit; an empty string if none is needed or none does.

    Parameters
    ----------
    observed, ds
        The variable and its source.
    units
        Units of the variables of the grid.
    raw, mean, joint
        Values as they came, and the mean and joint spread that are expected, (M,).
    limit
        Departures above it are gross errors, in joint spreads.
    """
    name, given = observed.name, ds[observed.name].attrs.get("units")
    wanted = None if name in (observed.derived or {}) else units.get(name)
    own = find_scale(name, given, wanted, "the grid") if wanted else (1.0, 0.0)

    def departures(scale: tuple[float, float]) -> np.ndarray:
        return np.abs(raw * scale[0] + scale[1] - mean) / joint

    if not len(raw) or (departures(own) > limit).mean() < MOST:
        return ""
    best = ("", np.inf)
    for unit, scale in _scales(wanted).items():
        z = departures(scale)
        if scale != own and (z <= limit).mean() >= FITS and np.median(z) < best[1]:
            best = (unit, float(np.median(z)))
    stated = f"{given}" if given else f"{wanted or 'the unit of the prior'}, as taken"
    return f"the values fit if they are in {best[0]}, not in {stated}" if best[0] else ""


def _scales(wanted: str | None) -> dict[str, tuple[float, float]]:
    """Conversions (factor, offset) to the unit of the grid; of temperatures if that is not known."""
    if wanted is None:
        return {"degC (for K)": (1.0, 273.15), "K (for degC)": (1.0, -273.15)}
    return {u: scale for u in UNITS if (scale := unit_scale(u, wanted)) is not None}


def stuck(da: xr.DataArray, repeats: int) -> np.ndarray:
    """Whether values belong to a run of at least ``repeats`` equal values of one station, ravelled.

    Parameters
    ----------
    da
        The observed variable.
    repeats
        Shortest run.
    """
    values = np.asarray(da.values, float).ravel()
    time, series = _series(da)
    present = np.flatnonzero(~np.isnan(values))
    out = np.zeros(len(values), bool)
    if time is None or len(present) < repeats:
        return out
    order = present[np.lexsort((time[present], series[present]))]
    v, s = values[order], series[order]
    number = np.concatenate([[0], np.cumsum((v[1:] != v[:-1]) | (s[1:] != s[:-1]))])
    length = np.bincount(number)[number]
    out[order] = (length >= repeats) & (_share_elsewhere(v, s) < FREQUENT)
    return out


def _share_elsewhere(values: np.ndarray, series: np.ndarray) -> np.ndarray:
    """For each value, the share of equal values among those of all other stations; 0 if there are none."""
    _, value = np.unique(values, return_inverse=True)
    _, pair = np.unique(value * (series.max() + 1) + series, return_inverse=True)
    equal = np.bincount(value)[value] - np.bincount(pair)[pair]
    others = len(values) - np.bincount(series)[series]
    return equal / np.maximum(others, 1)


def _series(da: xr.DataArray) -> tuple[Any, np.ndarray]:
    """The time of each ravelled value (None if there is none), and the number of its station."""
    times = [c for n, c in da.coords.items() if c.ndim and (str(n).lower() in TIME_NAMES or is_datelike(c))]
    if not times:
        return None, np.zeros(da.size, int)

    def ravelled(coord: xr.DataArray) -> np.ndarray:
        flat = coord.drop_vars(coord.coords).broadcast_like(da.drop_vars(da.coords))
        return np.asarray(flat.transpose(*da.dims).values).ravel()

    time = min(times, key=lambda c: str(c.name).lower() not in TIME_NAMES)
    numbers = np.asarray(axis_numbers(time, time.values.ravel()[0] if is_datelike(time) else None), float)
    keys = [xr.DataArray(np.arange(da.sizes[d]), dims=(d,)) for d in da.dims if d not in time.dims]
    shared = [c for n, c in da.coords.items() if c.ndim and set(c.dims) <= set(time.dims) and n != time.name]
    named = [c for c in shared if str(c.name).lower() == "station"]
    keys += named or [c for c in shared if c.dtype.kind in "iuf" and c.name not in da.dims]
    series = np.zeros(da.size, int)
    for key in keys:
        _, own = np.unique(ravelled(key), return_inverse=True)
        _, series = np.unique(series * (own.max() + 1) + own.reshape(-1), return_inverse=True)
    return ravelled(xr.DataArray(numbers.reshape(time.shape), dims=time.dims)), series.reshape(-1)
