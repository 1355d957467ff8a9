"""Converts tables of reports to Datasets of observations.

A table is *long*, with one value in each row (``time, lat, lon, variable, observation``), or *wide*, with one column
for each variable (``time, lat, lon, t2m, u10``). Both give the same Dataset, whatever the order of the rows: its
dimension is ``report``, its coordinates are the positions, and its rows are sorted by time and place. Standard errors
and quality flags become CF ancillary variables.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from xsda.arguments import choose, warn

SPELLINGS = {
    "time": ("time", "valid_time", "datetime", "date_time", "timestamp", "date"),
    "lat": ("lat", "latitude", "nav_lat"),
    "lon": ("lon", "longitude", "long", "lng", "nav_lon"),
    "y": ("y",),
    "x": ("x",),
    "variable": ("variable", "parameter"),
    "observation": ("observation", "value", "observed", "obs"),
    "error": ("error", "sigma", "std", "error_std", "standard_error"),
    "station": ("station", "station_id", "station_name"),
    "source": ("source", "instrument"),
    "quality": ("quality", "quality_flag", "qc", "flag"),
    "units": ("units", "unit"),
}
POSITIONS = ("time", "lat", "lon", "y", "x")
OPTIONAL = ("station", "source", "quality")  # roles that are kept as they are
SUFFIXES = {"error": ("_error", "_sigma", "_std"), "quality": ("_quality", "_qc", "_flag")}  # columns of one variable


def is_table(obs: Any) -> bool:
    """Whether an object is a pandas DataFrame, or a frame that converts itself to one, such as that of polars."""
    return isinstance(obs, pd.DataFrame) or (
        hasattr(obs, "to_pandas") and hasattr(obs, "columns") and not isinstance(obs, xr.DataArray | xr.Dataset)
    )


def has_sources(table: Any) -> bool:
    """Whether a table has a column that names the source of each report."""
    return _find([str(c) for c in table.columns], SPELLINGS["source"]) is not None


def join_tables(tables: Sequence[Any]) -> pd.DataFrame:
    """Put tables under one another. Their units are merged."""
    frames = [_pandas(t) for t in tables]
    joined = pd.concat(frames)
    units = [f.attrs["units"] for f in frames if "units" in f.attrs]
    if any(u != units[0] for u in units) or 0 < len(units) < len(frames):
        raise ValueError("the tables of one list have different df.attrs['units']; convert them to the same units")
    joined.attrs = {"units": units[0]} if units else {}
    return joined


def datasets_of(
    table: Any, name: str = "obs", variables: Collection[str] | None = None, dims: Collection[str] | None = None
) -> dict[str, xr.Dataset]:
    """Convert a table to one Dataset for each source.

    Parameters
    ----------
    table
        A pandas DataFrame, or an object with ``to_pandas()``.
    name
        The name of the source if the table has no column of sources.
    variables
        Variables that can be observed. Others are left out, with a notice. Default: all.
    dims
        Dimensions of the grid, for which the table must have columns. Default: time only.
    """
    df = _with_index_as_columns(_pandas(table))
    columns = _roles(df, variables, dims)
    _check_columns(name, df, columns, variables, dims)
    rows = pd.DataFrame(index=df.index)
    for role, column in columns.items():
        if role == "time":
            rows[role] = _times(df[column], name)
        elif role in OPTIONAL:
            rows[role] = df[column].astype(object).where(df[column].notna(), None)
        elif role not in ("variable", "observation", "error", "units"):
            rows[role] = _numbers(df[column], name)
    reports, units = _long(df, rows, columns, name, variables)
    reports = reports[reports["value"].notna()]
    _check_positions(name, reports)
    known = variables or sorted(units)
    names = [v for v in known if v in units]
    sources = reports["source"].fillna(name).astype(str) if "source" in reports else pd.Series(name, reports.index)
    if reports.empty:
        return {name: _dataset(reports, names, units, name)}
    return {s: _dataset(reports[(sources == s).to_numpy()], names, units, s) for s in sorted(sources.unique())}


def _pandas(table: Any) -> pd.DataFrame:
    """The table as a DataFrame of pandas, with names of columns as text."""
    df = table if isinstance(table, pd.DataFrame) else table.to_pandas()
    twice = df.columns[df.columns.duplicated()]
    if len(twice):
        raise ValueError(f"a table of observations has two columns {twice[0]!r}; rename or drop one")
    return df.rename(columns=str)


def _with_index_as_columns(df: pd.DataFrame) -> pd.DataFrame:
    """Turn named levels of the index, and dates in it, into columns."""
    if isinstance(df.index, pd.DatetimeIndex) and df.index.name is None:
        df = df.rename_axis("time")
    levels = [n for n in df.index.names if n is not None and str(n) not in df.columns]
    return df.reset_index(level=levels) if levels else df


def _find(columns: Sequence[str], spellings: Sequence[str]) -> str | None:
    """The first column with one of these names, in any case."""
    lower = {c.lower().strip(): c for c in reversed(columns)}
    return next((lower[s] for s in spellings if s in lower), None)


def _roles(df: pd.DataFrame, variables: Collection[str] | None, dims: Collection[str] | None) -> dict[str, str]:
    """Columns by what they hold. A variable that can be observed is not anything else."""
    free = [c for c in df.columns if variables is None or c not in variables]
    found = {role: column for role, names in SPELLINGS.items() if (column := _find(free, names)) is not None}
    if dims is None and not {"x", "y"} <= set(found):  # perhaps the variables of a system without space
        found = {role: c for role, c in found.items() if role not in ("x", "y")}
    for dim in dims or ():
        if not any(dim.lower() in SPELLINGS[p] for p in POSITIONS) and (own := _find(free, (dim.lower(),))) is not None:
            found[dim] = own
    if not {"variable", "observation"} <= set(found) and "observation" in found:
        found.pop("observation")
    return found


def _check_columns(
    name: str, df: pd.DataFrame, columns: Mapping[str, str], variables: Collection[str] | None,
    dims: Collection[str] | None,
) -> None:  # fmt: skip
    """Raise unless there are columns for time and for the dimensions of the grid."""
    wanted = [next((p for p in POSITIONS if d.lower() in SPELLINGS[p]), d) for d in dims or ("time",)]
    given = {"lat", "lon"} & set(columns)
    if len(given) == 1:
        wanted += ["lat", "lon"]
    elif given:  # positions on a grid with two-dimensional latitudes and longitudes
        wanted = [w for w in wanted if w not in ("y", "x")]
    for role in wanted:
        if role not in columns:
            free = [c for c in df.columns if c not in columns.values() and c not in (variables or ())]
            near = difflib.get_close_matches(role, free, n=1, cutoff=0.4)
            came = ", ".join(map(repr, df.columns)) or "none"
            raise ValueError(
                f"the table {name} has no column {role!r}; its columns are {came}; rename the one that holds it: "
                f"df.rename(columns={{{near[0] if near else '...'!r}: {role!r}}})"
            )


def _numbers(values: pd.Series, name: str) -> np.ndarray:
    """A column as numbers; raise if there is text in it. Blanks are missing values."""
    if not pd.api.types.is_numeric_dtype(values):
        values = values.where(values.astype(str).str.strip() != "")
    found = pd.to_numeric(values, errors="coerce")
    _check_all_read(values, found, name, "a number; correct it, or leave the cell empty if the value is missing")
    return found.to_numpy(np.float64, na_value=np.nan)


def _check_all_read(values: pd.Series, found: pd.Series, name: str, expected: str) -> None:
    """Raise, and name the row, if a cell that is not empty could not be read."""
    bad = np.flatnonzero(found.isna().to_numpy() & values.notna().to_numpy())
    if len(bad):
        raise ValueError(
            f"the column {values.name!r} of {name} holds {values.iloc[bad[0]]!r} in row {values.index[bad[0]]}, "
            f"expected {expected}"
        )


def _times(values: pd.Series, name: str) -> Any:
    """A column of times as dates without a time zone, as cftime dates, or as plain numbers."""
    some = values.dropna()
    if pd.api.types.is_numeric_dtype(values) or (len(some) and hasattr(some.iloc[0], "calendar")):
        return values.to_numpy()
    if isinstance(values.dtype, pd.DatetimeTZDtype):
        return in_utc(values)
    if values.dtype.kind == "M":
        return values.to_numpy()
    found = pd.to_datetime(values, errors="coerce", format="ISO8601", utc=True)
    _check_all_read(
        values,
        found,
        name,
        "a date such as '2026-03-01T06:00'; use pd.to_datetime(..., format=...)",
    )
    offsets = some.astype(str).str.extract(r"\d([+-](?!00:?00$)\d\d:?\d\d)$")[0].dropna()
    if len(offsets):
        _say_utc(f"offsets such as {offsets.iloc[0]!r}")
    return found.dt.tz_localize(None).to_numpy()


def in_utc(values: Any) -> np.ndarray:
    """Convert dates with a time zone to UTC, with a notice unless they are in UTC."""
    zone = str(values.dtype.tz if isinstance(values.dtype, pd.DatetimeTZDtype) else np.ravel(values)[0].tzinfo)
    if zone not in ("UTC", "UTC+00:00", "Etc/UTC", "GMT"):
        _say_utc(f"the time zone {zone}")
    return pd.DatetimeIndex(pd.to_datetime(values, utc=True)).tz_localize(None).to_numpy()


def _say_utc(zone: str) -> None:
    warn(f"the times of the observations have {zone}; they are converted to UTC", UserWarning)


def _long(
    df: pd.DataFrame, rows: pd.DataFrame, columns: Mapping[str, str], name: str, variables: Collection[str] | None
) -> tuple[pd.DataFrame, dict[str, str | None]]:
    """One row for each value, and the units of each variable."""
    if "variable" not in columns:
        return _melted(df, rows, columns, name, variables)
    if "observation" not in columns:
        raise ValueError(
            f"the table {name} has a column {columns['variable']!r} but none of values; rename it: "
            "df.rename(columns={...: 'observation'})"
        )
    of = df[columns["variable"]].astype(str)
    names = sorted(of.unique())
    kept = [v for v in names if variables is None or v in variables]
    _say_unused(name, [v for v in names if v not in kept], kept, variables)
    rows = rows.assign(variable=of, value=_numbers(df[columns["observation"]], name))
    if "error" in columns:
        rows["error"] = _numbers(df[columns["error"]], name)
    units = {v: _units(df[(of == v).to_numpy()], columns, name, v) for v in kept}
    return rows[of.isin(kept).to_numpy()], units


def _melted(
    df: pd.DataFrame, rows: pd.DataFrame, columns: Mapping[str, str], name: str, variables: Collection[str] | None
) -> tuple[pd.DataFrame, dict[str, str | None]]:
    """The columns of a wide table under one another."""
    rest = [c for c in df.columns if c not in columns.values()]
    own = {c for c in rest for role in SUFFIXES for s in SUFFIXES[role] if c.removesuffix(s) in rest and c.endswith(s)}
    numeric = [c for c in rest if c not in own and pd.api.types.is_numeric_dtype(df[c]) and df[c].dtype != bool]
    names = numeric if variables is None else [c for c in rest if c in variables]
    _say_unused(name, [c for c in numeric if c not in names], names, variables)
    if "error" in columns and len(names) > 1:
        raise ValueError(
            f"the table {name} has one column {columns['error']!r} and the variables {', '.join(map(repr, names))}; "
            f"give each an error column, such as '{names[0]}_error'"
        )
    parts = []
    for v in names:
        part = rows.assign(variable=v, value=_numbers(df[v], name))
        error = _find(list(own), [v.lower() + s for s in SUFFIXES["error"]]) or columns.get("error")
        quality = _find(list(own), [v.lower() + s for s in SUFFIXES["quality"]])
        if error is not None:
            part["error"] = _numbers(df[error], name)
        if quality is not None:
            part["quality"] = df[quality].astype(object).where(df[quality].notna(), None)
        parts.append(part)
    return pd.concat(parts), {v: _units(df, columns, name, v) for v in names}


def _say_unused(name: str, unused: Sequence[str], used: Sequence[str], variables: Collection[str] | None) -> None:
    """Say which numbers of the table are not used; raise if none is."""
    came = ", ".join(map(repr, unused))
    if not used:
        wanted = ", ".join(map(repr, variables or ()))
        raise ValueError(
            f"the table {name} holds no variable{f' of the grid ({wanted})' if wanted else ''}"
            f"{f', but {came}' if came else ''}; "
            + (choose(unused[0], variables) if unused and variables else "add a column for each variable")
        )
    if unused:
        warn(f"not used of {name}, because the grid has no such variable: {came}", UserWarning)


def _units(df: pd.DataFrame, columns: Mapping[str, str], name: str, variable: str) -> str | None:
    """Units of a variable: those of its rows, otherwise those in ``df.attrs``."""
    if "units" in columns:
        found = df[columns["units"]].dropna().unique()
        if len(found) > 1:
            raise ValueError(
                f"{variable!r} of {name} has the units {', '.join(map(repr, found))}; convert it to one of them"
            )
        return str(found[0]) if len(found) else None
    given = df.attrs.get("units")
    return given.get(variable) if isinstance(given, Mapping) else given


def _check_positions(name: str, reports: pd.DataFrame) -> None:
    """Raise if a value has no position, or a latitude that is none."""
    for role in [c for c in reports if c not in (*OPTIONAL, "variable", "value", "error")]:
        lacking = reports.index[reports[role].isna()]
        if len(lacking):
            raise ValueError(
                f"{len(lacking)} of {len(reports)} values of {name} have no {role}, the first in row {lacking[0]}; "
                "fill it in, or drop these rows"
            )
    if "lat" in reports and (beyond := reports["lat"].abs() > 90).any():
        raise ValueError(
            f"{name} has the latitude {reports['lat'][beyond].iloc[0]:g} in row {reports.index[beyond][0]}, outside of "
            "-90 to 90; are latitudes and longitudes swapped?"
        )


def _dataset(reports: pd.DataFrame, names: Sequence[str], units: Mapping[str, str | None], source: str) -> xr.Dataset:
    """Build the Dataset: one report for each place and time, and further ones for duplicates."""
    helpers = ("source", "variable", "value", "error", "quality")
    keys = [c for c in reports if c not in helpers]
    order = [k for k in (*keys, "variable", "value", "error") if k in reports]
    reports = reports.assign(station=reports["station"].fillna("").astype(str)) if "station" in reports else reports
    reports = reports.sort_values(order, kind="stable", ignore_index=True)
    place = reports.groupby(keys, sort=True, dropna=False).ngroup()
    turn = reports.groupby([place, "variable"]).cumcount()
    code = (place * (turn.max() + 1) + turn).to_numpy() if len(reports) else np.zeros(0, int)
    distinct, first, where = np.unique(code, return_index=True, return_inverse=True)
    ds = xr.Dataset(coords={k: ("report", reports[k].to_numpy()[first]) for k in keys})
    for name in names:
        mine = (reports["variable"] == name).to_numpy()
        attrs = {"units": units[name]} if units[name] else {}
        ancillary = {}
        if "error" in reports and ((error := reports["error"][mine]).notna().any() or error.empty):
            if error.isna().any():
                raise ValueError(
                    f"{int(error.isna().sum())} of {len(error)} values of {name!r} in {source} have no error; give "
                    "each value an error, or pass sigma=... and drop the column"
                )
            ancillary["error"] = _column(len(distinct), where[mine], error.to_numpy(), np.nan)
        if "quality" in reports:
            ancillary["quality"] = _column(len(distinct), where[mine], reports["quality"][mine].to_numpy(), None)
        values = _column(len(distinct), where[mine], reports["value"][mine].to_numpy(), np.nan)
        listed = {"ancillary_variables": " ".join(f"{name}_{a}" for a in ancillary)} if ancillary else {}
        ds[name] = "report", values, {**attrs, **listed}
        for kind, column in ancillary.items():
            standard = {"error": "standard_error", "quality": "quality_flag"}[kind]
            ds[f"{name}_{kind}"] = "report", column, {"standard_name": f"{name} {standard}"}
            if kind == "error":
                ds[f"{name}_{kind}"].attrs |= attrs
    return ds


def _column(size: int, where: np.ndarray, values: np.ndarray, missing: Any) -> np.ndarray:
    """Values at their reports; the others are missing."""
    out = np.full(size, missing, dtype=object if missing is None else np.float64)
    out[where] = values
    return out
