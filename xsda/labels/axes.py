"""Finds the time and space dimensions of a Dataset and turns their coordinates into numbers."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from xsda.labels.cf import is_longitude
from xsda.labels.curvilinear import curvilinear

TIME_NAMES = ("time", "t")
SPACE_NAMES = {
    "Y": ("y", "lat", "latitude", "rlat", "nav_lat"),
    "X": ("x", "lon", "longitude", "rlon", "nav_lon"),
}


def is_datelike(coord: xr.DataArray) -> bool:
    """Whether the values are datetime64 or cftime dates."""
    return coord.dtype.kind == "M" or (
        coord.dtype == object and coord.size > 0 and hasattr(coord.values.flat[0], "calendar")
    )


def axis_numbers(coord: xr.DataArray, origin: Any = None) -> np.ndarray:
    """Return coordinate values in double precision.

    Dates become seconds since ``origin`` (default: the first date). Time differences become seconds.
    """
    values = np.asarray(coord.values)
    if is_datelike(coord):
        origin = values.flat[0] if origin is None else origin
        try:
            if values.dtype.kind == "M":
                if not isinstance(origin, np.datetime64):
                    raise TypeError("numpy ignores the calendar of the origin")
                return (values - origin) / np.timedelta64(1, "s")
            return np.vectorize(lambda d: (d - origin).total_seconds(), otypes=[float])(values)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"the dates of {coord.name!r} ({type(values.flat[0]).__name__}) and of the grid "
                f"({type(origin).__name__}) belong to different calendars; convert one with .convert_calendar"
            ) from error
    if values.dtype.kind == "m":
        return values / np.timedelta64(1, "s")
    try:
        return values.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the coordinate {coord.name!r} holds {_kind(values)}") from error


def _kind(values: np.ndarray) -> str:
    """Say what a coordinate holds instead of numbers or dates, and what to do."""
    first = values.flat[0] if values.size else None
    if isinstance(first, str):
        return f"text such as {str(first)!r}, expected numbers or dates; convert it (dates with pd.to_datetime)"
    if getattr(first, "tzinfo", None) is not None:
        return (
            "dates with a time zone, which xarray does not support; use .tz_convert('UTC').tz_localize(None) of the "
            "pandas index"
        )
    return f"{values.dtype}, expected numbers or dates"


def check_calendar(coord: xr.DataArray, dates: bool, whose: str) -> None:
    """Raise unless a time coordinate holds dates if ``dates`` is true, and plain numbers otherwise."""
    if is_datelike(coord) == dates:
        return
    kinds = ("plain numbers", "dates")
    hint = ""
    if coord.dtype.kind in "OUS" and coord.size and isinstance(coord.values.flat[0], str):
        hint = f". These are strings: use .assign_coords({coord.name}=pd.to_datetime(...)) first"
    raise ValueError(
        f"{str(coord.name)!r} holds {kinds[is_datelike(coord)]}, {whose} holds {kinds[dates]}; convert one of "
        f"them{hint}"
    )


def check_same_kind(a: Any, b: Any, names: tuple[str, str]) -> None:
    """Raise unless each dimension of two Datasets or variables holds values of the same kind: dates, numbers, text."""
    for dim in a.indexes:
        if dim in b.indexes and (ours := _kind_of(a[dim])) != (theirs := _kind_of(b[dim])):
            raise ValueError(
                f"{str(dim)!r} of the {names[0]} holds {ours}, that of the {names[1]} holds {theirs}; convert one of "
                "them"
            )


def _kind_of(coord: xr.DataArray) -> str:
    if is_datelike(coord):
        return "dates"
    return {"m": "time differences", "O": "text", "U": "text", "S": "text"}.get(coord.dtype.kind, "numbers")


def axis_text(value: float, origin: Any = None) -> str:
    """Write a position on an axis as a number, or as a date if ``origin`` is a date."""
    if origin is None or not np.isfinite(value):
        return f"{value:g}"
    if isinstance(origin, np.datetime64):
        return str((origin + np.timedelta64(round(value), "s")).astype("datetime64[s]"))
    return str(origin + datetime.timedelta(seconds=round(value)))


def check_sorted(values: np.ndarray, name: str) -> None:
    """Raise unless the coordinates of a grid are finite and strictly ascending or descending."""
    if not np.isfinite(values).all():
        raise ValueError(f"the coordinate {name!r} of the grid holds NaN or NaT; every grid point needs a position")
    repeated = len(values) - len(np.unique(values))
    if repeated:
        raise ValueError(
            f"the coordinate {name!r} of the grid repeats values ({repeated} of {len(values)} points); use "
            f".drop_duplicates({name!r})"
        )
    steps = np.diff(values)
    if len(steps) and not ((steps > 0).all() or (steps < 0).all()):
        raise ValueError(
            f"the coordinate {name!r} of the grid is neither ascending nor descending; use .sortby({name!r})"
        )


def uniform_step(values: np.ndarray, name: str) -> float:
    """Return the step of an axis; raise if the axis is not evenly spaced."""
    steps = np.diff(values)
    step = float(np.median(steps))
    if not np.isfinite(steps).all() or np.abs(steps - step).max() > 1e-3 * abs(step):
        raise ValueError(
            f"the axis {name!r} must be evenly spaced; its steps lie between {steps.min():g} and {steps.max():g}. "
            "Interpolate the trajectory to a regular axis (observations may lie anywhere)."
        )
    return step


def find_axes(ds: xr.Dataset, prefer: Sequence[str] = ()) -> tuple[str, tuple[str, ...]]:
    """Find the time dimension and the space dimensions (y before x) of a Dataset.

    The names in ``prefer`` (time first, then space) come first, then CF attributes, then customary names and dates,
    then the dimensions of two-dimensional latitudes and longitudes.
    """
    dims = [str(d) for d in ds.dims]
    if prefer and all(name in dims for name in prefer):
        return prefer[0], tuple(prefer[1:])
    found = _cf_axes(ds)
    time = next((n for n in (*prefer[:1], "time") if n in dims), None) or found.get("T")
    if time is None:
        dated = [d for d in dims if d in ds.coords and is_datelike(ds[d])]
        if len(dated) != 1:
            raise ValueError(
                f"no time dimension found among {dims}; call it 'time' or give its coordinate the attribute axis='T'"
            )
        time = dated[0]
    space = []
    for letter, names in SPACE_NAMES.items():
        name = found.get(letter) or next((d for d in dims if d.lower() in names and d != time), None)
        if name is not None and name != time and name in dims:
            space.append(name)
    if len(space) < 2 and (pair := curvilinear(ds)) is not None and time not in pair[0].dims:
        space = [str(d) for d in pair[0].dims]
    return time, tuple(space)


def _cf_axes(ds: xr.Dataset) -> dict[str, str]:
    """Find CF axes with exactly one dimension each; cf_xarray is only imported if there are CF attributes."""
    if not any({"axis", "standard_name", "units"} & set(ds[d].attrs) for d in ds.dims if d in ds.coords):
        return {}
    import cf_xarray  # noqa: F401  (registers ds.cf)

    axes: dict[str, str] = {}
    for key, names in {**ds.cf.coordinates, **ds.cf.axes}.items():
        letter = {"latitude": "Y", "longitude": "X", "time": "T"}.get(key, key)
        dims = [str(n) for n in names if n in ds.dims]
        if len(dims) == 1:
            axes[letter] = dims[0]
    return axes


def own_period(ds: xr.Dataset, dim: str, spacing: float) -> float | None:
    """Return the attribute ``period``, or 360 for longitudes around the whole globe; otherwise None."""
    if dim not in ds.coords:
        return None
    attrs, span = ds[dim].attrs, spacing * ds.sizes[dim]
    if "period" in attrs:
        return float(attrs["period"])
    return 360.0 if is_longitude(ds[dim]) and abs(span - 360) < 0.5 * spacing else None


TIME_FEATURES = ("hour_of_day", "day_of_year")


def check_time_features(features: Sequence[str], dates: bool) -> None:
    """Raise unless every time feature is known and the time axis holds dates."""
    for name in features:
        if name not in TIME_FEATURES:
            raise ValueError(f"time feature {name!r} is unknown; choose among {TIME_FEATURES}")
    if features and not dates:
        raise ValueError(f"time features {tuple(features)} need a time axis of dates; this one holds plain numbers")


def time_feature_waves(time: xr.DataArray, features: Sequence[str], harmonic: int = 1) -> np.ndarray:
    """Return sine and cosine of each time feature, (time, 2 * features)."""
    date = time.dt
    hours = date.hour + date.minute / 60
    phases = {"hour_of_day": hours / 24, "day_of_year": (date.dayofyear - 1 + hours / 24) / 365.25}
    angles = [2 * np.pi * harmonic * phases[name].values for name in features]
    return np.stack([wave(a) for a in angles for wave in (np.sin, np.cos)], axis=1)
