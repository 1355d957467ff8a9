"""Selects the observations of one period of a long record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from xsda.arguments import warn
from xsda.labels.axes import axis_numbers, axis_text
from xsda.labels.cf import cell_method, standard_error
from xsda.labels.grid import Grid
from xsda.observations.compile import cell_edges, check_places, matching_coordinate, swapped
from xsda.observations.errors import error_std
from xsda.observations.observed import NothingObserved
from xsda.observations.quality import NothingAccepted
from xsda.observations.read import dims_of, read, units_of
from xsda.observations.selected import Selection
from xsda.observations.sources import Sources, as_sources, observed_variables

READ_LATER = ("derived", "likelihood", "correlation", "outside", "superobs")  # options that each period needs
ROUNDING = 1e-6  # of a time step
Opener = Callable[[Any, Any], Sources]


@dataclass(frozen=True, eq=False)
class Period:
    """Opens the observations of a part of a record, by source. It can be sent to other processes.

    Parameters
    ----------
    obs
        All observations by source, or a function of two times.
    whole
        The grid of the whole record. Observations outside it are left out.
    quality
        The flags of values that are used, if ``obs`` is a function.
    """

    obs: Mapping[str, xr.Dataset] | Opener
    whole: Grid
    quality: Any = None

    def __call__(self, grid: Grid, known: int = 0) -> dict[str, xr.Dataset]:
        """Return the observations of the states of ``grid``, the first of which are ``known``.

        Observations up to the last known state are left out. An average over time belongs to the last state in it. The
        result is empty if there is no observation; otherwise it has all sources.
        """
        time, origin = grid.core_dims[0], self.whole.origin
        states, record = (axis_numbers(g.template[time], origin) for g in (grid, self.whole))
        slack = ROUNDING * (record[1] - record[0])
        if known and states[known - 1] >= record[-1] - slack:  # a forecast
            return {}
        start = states[known - 1] + slack if known else states[0] - slack
        found, count, near = {}, 0, 0
        for source, ds in self._sources(grid).items():
            coord = _times(source, ds, grid)
            first, last = _extent(source, ds, coord, self.whole)
            near += int(((last >= states[0] - slack) & (last <= states[-1] + slack)).sum())
            keep = (last >= start) & (last <= states[-1] + slack)
            if known and (early := keep & (first < states[0] - slack)).any():
                least = int(np.ceil((last - first)[early].max() / (record[1] - record[0]) - ROUNDING))
                raise ValueError(
                    f"averages of {source} over time are longer than the {known} known states of a window; use "
                    f"overlap={least} or more"
                )
            count += int(keep.sum())
            ds = ds if coord.dims else ds.expand_dims(str(coord.name))
            found[source] = ds.isel({d: np.flatnonzero(keep) for d in coord.dims or (coord.name,)})
        if not near:
            a, b = (grid.template[time].to_index()[i] for i in (0, -1))
            warn(f"there are no observations from {a} to {b}, a whole window; members follow the prior there")
        return found if count else {}

    def _sources(self, grid: Grid) -> Mapping[str, xr.Dataset]:
        if not callable(self.obs):
            return self.obs
        times = grid.template[grid.core_dims[0]].to_index()  # pandas Timestamps, if they are dates
        opened = self.obs(times[0], times[-1])
        if opened is None or (isinstance(opened, list | tuple | Mapping) and not len(opened)):
            return {}  # nothing in this period
        return self._good(as_sources(opened, units_of(grid), dims_of(grid)))

    def _good(self, sources: Mapping[str, xr.Dataset]) -> dict[str, xr.Dataset]:
        """Mark values whose flags are not accepted as missing, which all of one period may be."""
        selection, kept = Selection(self.quality), dict(sources)
        for source, ds in sources.items():
            for name in observed_variables(ds):
                try:
                    ds = selection.keep_good(ds, name, source)
                except NothingAccepted as reason:
                    warn(f"in some windows {reason}", UserWarning)
                    ds = ds.assign({name: xr.full_like(ds[name], np.nan, dtype=float)})
            kept[source] = ds
        if selection.texts:
            warn("; ".join(selection.texts), UserWarning)
        return kept


def divided(obs: Sources | Opener, whole: Grid, reading: Mapping[str, Any]) -> tuple[Period, dict[str, Any]]:
    """Prepare observations for being read period by period.

    Errors and quality flags, which may be arrays over all observations, are applied to all of them.

    Parameters
    ----------
    obs
        All observations, or a function of two times.
    whole
        The grid of the whole record.
    reading
        Options of ``read``.

    Returns
    -------
    period, reading
        The observations, and the options that are left for each period.
    """
    if callable(obs):
        return Period(obs, whole, reading["quality"]), {**reading, "quality": None}
    sources, selection = as_sources(obs, units_of(whole), dims_of(whole)), Selection(reading["quality"])
    _check_within(sources, whole, drop=reading["outside"] == "drop")
    prepared = {}
    for source, ds in sources.items():
        own = ds
        for name in observed_variables(ds):
            if reading["sigma"] is not None:
                own = _with_error(own, name, error_std(ds, name, reading["sigma"], source, sources))
            own = selection.keep_good(own, name, source)
        prepared[source] = own
    selection.say()
    _check_places(prepared, whole, reading)
    return Period(prepared, whole), {**reading, "sigma": None, "quality": None}


def _with_error(ds: xr.Dataset, name: str, std: np.ndarray) -> xr.Dataset:
    """Give a variable this standard error, in its own units, instead of one that it has."""
    old, da = standard_error(ds, ds[name]), ds[name]
    ds = ds if old is None else ds.drop_vars(str(old.name))
    others = [v for v in str(da.attrs.get("ancillary_variables", "")).split() if old is None or v != old.name]
    own = f"{name}_error_of_reanalyse"
    attrs = {"standard_name": f"{da.attrs.get('standard_name', da.name)} standard_error"}
    attrs |= {"units": da.attrs["units"]} if "units" in da.attrs else {}
    named = da.assign_attrs(ancillary_variables=" ".join([*others, own]))
    return ds.assign({name: named, own: (da.dims, std, attrs)})


def _check_within(sources: Mapping[str, xr.Dataset], whole: Grid, *, drop: bool) -> None:
    """Raise if observations lie before or after a record, or have no time; with ``drop``, only tell."""
    numbers = whole.numbers(whole.core_dims[0])
    slack = ROUNDING * float(numbers[1] - numbers[0])
    for source, ds in sources.items():
        coord = _times(source, ds, whole)
        values = axis_numbers(coord, whole.origin)
        away = np.ravel(~((values >= numbers[0] - slack) & (values <= numbers[-1] + slack)))
        if not away.any():
            continue
        first = axis_text(np.ravel(values)[np.flatnonzero(away)[0]], whole.origin)
        text = f"{int(away.sum())} of {away.size} times of {source} lie outside the record (the first is {first})"
        if not drop:
            raise ValueError(f"{text}; extend the record, or pass outside='drop'")
        warn(f"{text} and are not used", UserWarning)


def _check_places(sources: Mapping[str, xr.Dataset], whole: Grid, reading: Mapping[str, Any]) -> None:
    """Raise if observations lie outside the grid, or with ``outside="drop"`` if all do, or if options do not fit them.

    No value is read.
    """
    places = {source: _places(source, ds, whole) for source, ds in sources.items()}
    options: dict[str, Any] = {name: reading.get(name) for name in READ_LATER}
    found = read(places, units_of(whole), errors=False, grid=whole, **options)
    if not any(o.da.size for o in found):
        given = [ds[n] for ds in sources.values() for n in observed_variables(ds)]
        if not any(da.size for da in given):
            raise NothingObserved("there are no observations; for samples of the prior use ds.sda.sample")
        hint = ", but inside if latitude and longitude are swapped" if any(swapped(whole, da) for da in given) else ""
        raise NothingObserved(
            f"no observation lies inside the grid and the times of the record{hint}; check units, positions and times"
        )
    for o in found:
        check_places(whole, o.ds, o.name, o.derived)


def _places(source: str, ds: xr.Dataset, whole: Grid) -> xr.Dataset:
    """Return observations in the record without their values, at one time if they do not move."""
    coord = _times(source, ds, whole)
    inside = np.flatnonzero(~np.isnan(_extent(source, ds, coord, whole)[0]))
    moving = {d for c in ds.coords.values() if c.name != coord.name for d in c.dims}
    ds = ds.isel({d: inside if d in moving else inside[:1] for d in coord.dims})
    return ds.assign({n: xr.full_like(ds[n], np.nan, dtype=float) for n in observed_variables(ds)})


def _extent(source: str, ds: xr.Dataset, coord: xr.DataArray, whole: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Return the times of the first and the last state that observations need: their own, or the ends of averages.

    They are NaN outside the record.
    """
    time, origin = whole.core_dims[0], whole.origin
    record, values = axis_numbers(whole.template[time], origin), axis_numbers(coord, origin)
    half = (record[1] - record[0]) / 2
    inside = (values >= record[0] - ROUNDING * half) & (values <= record[-1] + ROUNDING * half)
    first = last = np.where(inside, values, np.nan)
    if not any(_averaged(ds[n], coord, whole) for n in observed_variables(ds)):
        return first, last
    if "bounds" not in coord.attrs:
        raise ValueError(
            f"{source} holds averages over time, whose bounds are needed to divide them into periods: add a variable "
            f"'{coord.name}_bnds' with two columns and set ds[{str(coord.name)!r}].attrs['bounds'] to its name"
        )
    lower, upper = (np.clip(e.reshape(values.shape), *record[[0, -1]]) for e in _inner(ds, coord, origin, half))
    return np.where(inside, np.minimum(lower, values), np.nan), np.where(inside, np.maximum(upper, values), np.nan)


def _inner(ds: xr.Dataset, coord: xr.DataArray, origin: Any, half: float) -> tuple[np.ndarray, np.ndarray]:
    """The ends of averages, by half a step inside: the cells of the states reach as far."""
    edges = cell_edges(ds, coord, origin)
    return np.minimum(*edges) + half, np.maximum(*edges) - half


def _averaged(da: xr.DataArray, coord: xr.DataArray, whole: Grid) -> bool:
    """Whether a variable is an average over time and the grid is not, as ``compile_variable`` decides it."""
    names = {whole.core_dims[0], str(coord.name), str(coord.attrs.get("standard_name", coord.name))}
    template = whole.template.get(da.name)
    same = template is not None and cell_method(template, names) == "mean"
    return cell_method(da, names) == "mean" and not (same and "bounds" not in coord.attrs)


def _times(source: str, ds: xr.Dataset, grid: Grid) -> xr.DataArray:
    """Return the times of a source."""
    time = grid.core_dims[0]
    names = observed_variables(ds)
    coord = matching_coordinate(ds[names[0]], grid, time) if names else None
    if coord is None:
        raise ValueError(f"{source} has no times by which it can be divided into periods; add the coordinate {time!r}")
    if coord.ndim > 1:
        raise ValueError(f"the times of {source} have the dimensions {coord.dims}; stack them to one dimension")
    return coord
