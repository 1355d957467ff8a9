"""What of a Dataset is drawn: its variables, one of its times, the observations that belong there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from xsda.arguments import choose
from xsda.labels.axes import (
    SPACE_NAMES,
    TIME_NAMES,
    axis_numbers,
    check_calendar,
    check_same_kind,
    find_axes,
    is_datelike,
    own_period,
)
from xsda.labels.cf import find_scale, in_units, is_latitude, is_longitude
from xsda.labels.curvilinear import LATITUDES, LONGITUDES, curvilinear
from xsda.observations.compile import SYNONYMS
from xsda.observations.errors import error_std
from xsda.observations.sources import as_sources, observed_variables
from xsda.plot.style import state_label

Interval = tuple[float, float]
PLACE_NAMES = {*TIME_NAMES, *(name for names in SPACE_NAMES.values() for name in names)}


def find_drawn_axes(ds: xr.Dataset) -> tuple[str | None, tuple[str, ...]]:
    """The time dimension (None if one state was selected) and the space dimensions."""
    try:
        return find_axes(ds)
    except ValueError:
        return None, find_axes(ds.drop_vars("time", errors="ignore").expand_dims("time"))[1]


def drawn_coords(ds: xr.Dataset, dims: Sequence[str]) -> list[xr.DataArray]:
    """The coordinates of the dimensions, or the two-dimensional latitudes and longitudes that lie along them."""
    pair = curvilinear(ds, dims) if len(dims) == 2 else None
    if pair is None:
        return [ds[d] for d in dims]
    degrees = [in_units(c.astype(float), "degrees" if c.attrs.get("units") else None, "the map") for c in pair]
    names = ("latitude", "degrees_north"), ("longitude", "degrees_east")
    return [
        c.transpose(*dims).assign_attrs(standard_name=name, units=unit)
        for c, (name, unit) in zip(degrees, names, strict=True)
    ]


def drawable(
    ds: Any, truth: Any, variable: str | Sequence[str] | None = None, *, first: bool = False
) -> tuple[xr.Dataset, xr.Dataset | None]:
    """The states to draw, without the dimension ``member`` if there is only one, and the truth in their units.

    ``first`` means that by default the first variable alone is drawn.
    """
    if not isinstance(ds, xr.Dataset):
        raise TypeError(f"expected a Dataset of states to plot, got {type(ds).__name__}; use .to_dataset(name='...')")
    if "stage" in ds.dims:
        raise ValueError("the ensemble has the dimension 'stage'; choose one with .sel(stage='analysis')")
    if truth is not None:
        truth = _check_truth(ds, truth, drawn_variables(ds, variable)[: 1 if first and variable is None else None])
    return (ds.isel(member=0) if ds.sizes.get("member") == 1 else ds), truth


def _check_truth(ds: xr.Dataset, truth: Any, names: Sequence[str]) -> xr.Dataset:
    """The truth in the units of the states; raises unless it holds a drawn variable on the dimensions of the states."""
    if not isinstance(truth, xr.Dataset):
        raise TypeError(f"truth= must be a Dataset, got {type(truth).__name__}")
    if "member" in truth.dims:
        raise ValueError(
            "truth= has the dimension 'member'; pass one trajectory, for example .isel(member=0), and plot an ensemble "
            "with ensemble.sda.plot()"
        )
    check_same_kind(ds, truth, ("ensemble", "truth"))
    shared = [name for name in names if name in truth]
    if not shared:
        raise KeyError(f"no variable {names[0]!r} in the truth; it holds {_listed(truth)}")
    for name in shared:
        own, other = ({str(d) for d in x[name].dims} for x in (ds, truth))
        lacking = [d for d in find_drawn_axes(ds)[1] if d in own and d not in other]
        if lacking:
            raise ValueError(
                f"truth= must hold {name!r} on the grid of the states; it has the dimensions {truth[name].dims} and "
                f"lacks {lacking}. Pass a trajectory, and observations at stations as obs="
            )
    return truth.assign({v: in_units(truth[v], ds[v].attrs.get("units"), "the ensemble") for v in ds if v in truth})


def check_obs(obs: Any, ds: xr.Dataset) -> None:
    """Raise unless the observations hold a variable of the states."""
    sources = as_sources(obs) if obs is not None else {}
    if sources and not any(name in source for source in sources.values() for name in ds.data_vars):
        held = [name for source in sources.values() for name in observed_variables(source)]
        raise KeyError(f"no variable {next(iter(ds.data_vars))!r} in the observations; they hold {_listed(held)}")


def _listed(names: Iterable[Any]) -> str:
    return ", ".join(dict.fromkeys(repr(str(name)) for name in names)) or "none"


def drawn_variables(ds: xr.Dataset, variable: str | Sequence[str] | None) -> list[str]:
    """The variables asked for, or all of them."""
    names = [variable] if isinstance(variable, str) else list(ds.data_vars if variable is None else variable)
    for name in names:
        if name not in ds.data_vars:
            raise KeyError(f"no variable {name!r} to plot; {choose(name, ds.data_vars)}")
    if not names:
        raise ValueError("there is no variable to plot; variable= is empty, or the Dataset is")
    return [str(name) for name in names]


def find_state(coord: xr.DataArray, time: Any) -> int:
    """Position of a state: an integer counts the states, anything else is a time and selects the nearest one."""
    time = time.values[()] if isinstance(time, xr.DataArray) else time
    if isinstance(time, (int, np.integer)) and not isinstance(time, (bool, np.timedelta64)):
        if not -coord.size <= time < coord.size:
            raise ValueError(f"time={time} is not among the {coord.size} states; give a position below that, or a time")
        return int(time) % coord.size
    values = coord.values
    origin = values[0] if is_datelike(coord) else None
    numbers = axis_numbers(coord, origin)
    wanted = float(axis_numbers(_as_kind_of(coord, time), origin))
    if not numbers.min() <= wanted <= numbers.max():
        raise ValueError(
            f"time={str(time)!r} lies outside of the axis {coord.name!r}, which runs from {_text(values[0])} to "
            f"{_text(values[-1])}; choose a time in that range"
        )
    return int(np.abs(numbers - wanted).argmin())


def _as_kind_of(coord: xr.DataArray, time: Any) -> xr.DataArray:
    """``time`` as a number, a date or a lag, whichever the axis holds."""
    number, kind = isinstance(time, Real), coord.dtype.kind
    try:
        if kind == "m" and not number:
            return xr.DataArray(pd.Timedelta(time).to_timedelta64())
        if kind == "M" and not number:
            return xr.DataArray(pd.Timestamp(str(time)).to_datetime64())
        if kind == "O" and not number:
            return xr.DataArray(type(coord.values[0])(*[int(n) for n in re.findall(r"\d+", str(time))[:6]]))
        if kind not in "mMO":
            return xr.DataArray(float(time), name="time")
    except (TypeError, ValueError):
        pass
    raise ValueError(
        f"time={time!r} cannot be compared with {coord.name!r}, which runs from {_text(coord.values[0])} to "
        f"{_text(coord.values[-1])}; give such a value, or the position of a state as an integer"
    )


def _text(value: Any) -> str:
    return str(value)[:16] if isinstance(value, np.datetime64) else str(value)


@dataclass(frozen=True, eq=False)
class Drawn:
    """The states to draw, the truth, the label of their time and the times of their observations."""

    states: xr.Dataset
    truth: xr.Dataset | None
    label: str = ""
    window: Mapping[str, Interval] = field(default_factory=dict)


def one_state(post: xr.Dataset, truth: xr.Dataset | None, axis: str | None, time: Any) -> Drawn:
    """The state at ``time``, in an ensemble that may hold but one."""
    truth = None if truth is None else on_axes_of(post, truth)
    if axis is None:
        if time is not None:
            raise ValueError("these states have no time dimension to choose from; omit time=")
        return Drawn(post, truth, state_label(post["time"]) if "time" in post.coords else "")
    index = find_state(post[axis], -1 if time is None else time)
    state, numbers = post.isel({axis: index}), axis_numbers(post[axis])
    edges = [numbers[0], *(numbers[1:] + numbers[:-1]) / 2, numbers[-1]]  # nearer to this state than to any other
    at_that_time = None if truth is None else truth.isel({axis: index}, missing_dims="ignore")
    return Drawn(state, at_that_time, state_label(state[axis]), {axis: (edges[index], edges[index + 1])})


def observed_points(
    obs: Any, name: str, shown: xr.Dataset, dims: Sequence[str], *, state: Mapping[str, Interval] | None = None,
    sigma: Any = None, named: bool = False,
) -> Iterator[xr.Dataset]:  # fmt: skip
    """Observations of a variable that can be marked, one Dataset over the dimension ``point`` for each source.

    It holds ``value`` and ``error`` (NaN if unknown) in the units of the states, and a position along each of ``dims``.
    Left out are NaN and what lies elsewhere: outside of the intervals ``state``, or not at the place or time that was
    selected from the ensemble.

    Parameters
    ----------
    obs
        Observations as in ``assimilate``, or None.
    shown
        The states, before one of them was selected.
    dims
        Dimensions of the picture.
    state
        For the time dimension, the interval in which observations belong to the state that is drawn.
    sigma
        Standard deviation of the observation error as in ``assimilate``, instead of what the observations say.
    named
        Also give the names of the stations, or their numbers if they have none, as ``station``.
    """
    places = {str(d) for d, c in shown.coords.items() if c.ndim == 0 and d in PLACE_NAMES}
    sources = as_sources(obs, [str(v) for v in shown.data_vars]) if obs is not None else {}
    for source, ds in sources.items():
        if name not in ds:
            continue
        units = shown[name].attrs.get("units")
        da = in_units(ds[name], units, "the ensemble")
        found = {d: _coordinate(da, shown, d) for d in (*dims, *places, *(state or {}))}
        if any(found[d] is None for d in dims):
            continue  # an average over a whole axis has no place in the picture
        try:
            factor, _ = find_scale(name, ds[name].attrs.get("units"), units, "the ensemble")
            error = abs(factor) * error_std(ds, name, sigma, source, sources)
        except ValueError:
            error = np.full(da.shape, np.nan)
        known = {d: c for d, c in found.items() if c is not None}
        for d in known.keys() & shown.coords.keys():
            check_calendar(known[d], is_datelike(shown[d]), f"the ensemble's {d!r}")
        columns = {"value": da, "error": xr.DataArray(error, dims=da.dims), **known}
        if named:
            columns["station"] = _station_names(da, [known[d] for d in dims[1:]])
        points = _flat(columns)
        keep = ~pd.isnull(points["value"])
        for d in found.keys() & points.keys():
            if d in places:
                keep &= _inside(points[d], shown[d], None)
            elif state and d in state:
                keep &= _inside(points[d], shown[d], state[d])
            else:
                points[d] = _on_ring(points[d], shown, d)
        shown_columns = ("value", "error", *(["station"] if named else []), *dims)
        yield xr.Dataset({k: ("point", points[k][keep]) for k in shown_columns})


def _station_names(da: xr.DataArray, places: Sequence[xr.DataArray]) -> xr.DataArray:
    """The name of the station of each value: the coordinate ``station``, that of the places, or the place's number."""
    if "station" in da.coords:
        return da["station"]
    lie = list(dict.fromkeys(d for place in places for d in place.dims))
    if len(lie) == 1 and lie[0] in da.coords:
        return da[lie[0]]
    places = xr.broadcast(*(place.drop_vars(list(place.coords)) for place in places))
    _, numbers = np.unique(np.stack([place.values.ravel() for place in places]), axis=1, return_inverse=True)
    return xr.DataArray(numbers.reshape(places[0].shape), dims=places[0].dims)


def _coordinate(da: xr.DataArray, shown: xr.Dataset, dim: str) -> xr.DataArray | None:
    """The coordinate of the observations along a dimension of the picture: by name, synonym or standard name."""
    if dim in da.coords:
        return da[dim]
    if dim in da.dims:
        return shown[dim] if da.sizes[dim] == shown.sizes.get(dim) else None
    names = next((n for n in (*SYNONYMS, TIME_NAMES) if dim.lower() in n), ())
    standard = shown[dim].attrs.get("standard_name") if dim in shown.coords else None
    if dim in shown.coords and shown[dim].ndim == 2:
        across = is_longitude(shown[dim]) or dim.lower() in LONGITUDES
        test, names = (is_longitude, LONGITUDES) if across else (is_latitude, LATITUDES)
        return next((c for c in da.coords.values() if test(c) or str(c.name).lower() in names), None)
    found = [
        c
        for c in da.coords.values()
        if str(c.name).lower() in names or (standard and c.attrs.get("standard_name") == standard)
    ]
    return found[0] if len(found) == 1 else None


def _flat(columns: Mapping[str, xr.DataArray]) -> dict[str, np.ndarray]:
    """Each column broadcast over the dimensions of all, as one axis."""
    bare = xr.broadcast(*(c.drop_vars(list(c.coords)) for c in columns.values()))
    return {name: c.values.ravel() for name, c in zip(columns, bare, strict=True)}


def _inside(positions: np.ndarray, coord: xr.DataArray, interval: Interval | None) -> np.ndarray:
    """Which positions lie in the interval, or (None) at the one value of the coordinate."""
    origin = coord.values.flat[0] if is_datelike(coord) else None
    x = axis_numbers(xr.DataArray(positions, dims="point", name=coord.name), origin)
    low, high = (float(axis_numbers(coord, origin)),) * 2 if interval is None else sorted(interval)
    slack = 1e-6 * max(abs(low), abs(high), high - low)
    return (x >= low - slack) & (x <= high + slack)


def _on_ring(positions: np.ndarray, shown: xr.Dataset, dim: str) -> np.ndarray:
    """Positions on a periodic axis, moved by whole periods to where the picture shows them."""
    coord = shown[dim]
    if dim not in shown.coords or coord.ndim != 1 or coord.size < 2 or is_datelike(coord):
        return positions
    spacing = abs(float(coord[1] - coord[0]))
    period = own_period(shown, dim, spacing) or (360.0 if is_longitude(coord) else None)
    if period is None:
        return positions
    low, high = float(coord.min()), float(coord.max())
    return np.where((positions < low) | (positions > high), low + (positions - low) % period, positions)


def at_place_of(post: xr.Dataset, truth: xr.Dataset) -> xr.Dataset:
    """The truth at the place or time that was selected from the states."""
    for dim in [str(d) for d in truth.indexes if d in post.coords and post[d].ndim == 0]:
        value = post[dim].values[()]
        if value not in truth.indexes[dim]:
            raise ValueError(
                f"the truth has no value at {dim} = {_text(value)}, where the states to plot lie; put it there first, "
                f"for example with .interp({dim}=...)"
            )
        truth = truth.sel({dim: value})
    return truth


def on_axes_of(post: xr.Dataset, truth: xr.Dataset) -> xr.Dataset:
    """The truth at the coordinates of the states, NaN where it has none; raises if no coordinate is shared."""
    truth = at_place_of(post, truth)
    for dim in set(post.indexes) & set(truth.indexes) - {"member"}:
        if not post.indexes[dim].isin(truth.indexes[dim]).any():
            raise ValueError(
                f"the truth has no value at any {dim!r} of the states to plot; put it there first, for example with "
                ".interp_like(post)"
            )
    return truth.reindex({d: c for d, c in post.indexes.items() if d in truth.indexes and d != "member"})
