"""The observations of each time, as tensors: what a filter sees when it gets there."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from xsda.axes import axis_numbers, axis_text, is_datelike
from xsda.baselines.model import ForecastError
from xsda.grid import Grid
from xsda.layout import SAMPLE_DIMS
from xsda.observations.compile import (
    Sources,
    as_sources,
    cell_method,
    compile_variable,
    grid_axis,
    matching_coordinate,
    observed_variables,
)
from xsda.observations.correlation import Whitener, whitener
from xsda.observations.errors import check_positive, error_std
from xsda.observations.operator import Derived, State, derived_field

SAME = 1e-4  # times this close, in units of the shortest step of the grid, are one
KEPT = 32  # geometries that are kept for later times that have the same


@dataclass(frozen=True, eq=False)
class Part:
    """Observations of one variable: which numbers of its field each is made of, with which weights, both (M, points)."""

    name: str
    derived: Derived | None
    index: Tensor
    weight: Tensor

    def read(self, field: Tensor) -> Tensor:
        """``field`` (member, numbers) -> (member, M)."""
        if self.index.shape[1] == 1:
            return field.index_select(1, self.index[:, 0])
        values = field.index_select(1, self.index.ravel()).unflatten(1, self.index.shape)
        return (values * self.weight).sum(-1)


@dataclass(frozen=True, eq=False)
class Geometry:
    """Where the M observations of a time are; the same object for all times that have the same ones.

    ``position`` (M, space) in the numbers of the grid; NaN along a dimension that was averaged away. ``cache`` is for what
    methods derive from it.
    """

    grid: Grid
    parts: tuple[Part, ...]
    position: np.ndarray
    cache: dict[Any, Any] = field(default_factory=dict, repr=False)

    def observe(self, x: Tensor) -> Tensor:
        """H of states (member, channel, *space), (member, M)."""
        flat, seen = x.flatten(1), []
        for part in self.parts:
            if part.derived is None:
                seen.append(part.read(flat))
            else:
                state = State(self.grid.layout, self.grid.names, x[:, None])
                seen.append(part.read(derived_field(part.name, part.derived, state, x[:, None]).flatten(1)))
                _check_finite(part.name, seen[-1])
        return seen[0] if len(seen) == 1 else torch.cat(seen, 1)

    @property
    def linear(self) -> bool:
        return all(p.derived is None for p in self.parts)

    def matrix(self, shape: tuple[int, ...]) -> Tensor:
        """H as a matrix (M, numbers of the state ``shape``), where it is linear."""
        size = int(np.prod(shape))
        return self.observe(torch.eye(size, dtype=torch.float64).reshape(size, *shape)).T


@dataclass(frozen=True, eq=False)
class Batch:
    """The observations of one time: values and standard errors (M,), and whiteners of spans whose errors are correlated."""

    geometry: Geometry
    y: Tensor
    std: Tensor
    whiteners: tuple[tuple[slice, Whitener], ...] = ()

    @property
    def correlated(self) -> bool:
        return bool(self.whiteners)

    def scaled(self, values: Tensor) -> Tensor:
        """R^-1/2 of differences (..., M)."""
        values = values / self.std
        for span, white in self.whiteners:
            part, values = values[..., span], values.clone()
            values[..., span] = white.whiten(part.reshape(-1, part.shape[-1])).reshape(part.shape)
        return values

    def innovations(self, x: Tensor) -> Tensor:
        """R^-1/2 (y - H(x)) of each member, (member, M)."""
        return self.scaled(self.y - self.geometry.observe(x))


class Network:
    """All observations, by time: from the first to the last of the grid, or from ``start`` on if that is earlier."""

    def __init__(
        self,
        grid: Grid,
        obs: Sources,
        sigma: Any = None,
        derived: Mapping[str, Derived] | None = None,
        correlation: Mapping[str, Any] | None = None,
        start: float = np.inf,
    ):
        self.grid = grid
        self._geometries: OrderedDict[bytes, Geometry] = OrderedDict()
        sources = as_sources(obs)
        wanted = [(s, n) for s, ds in sources.items() for n in observed_variables(ds)]
        if not wanted:
            raise ValueError(f"{' and '.join(sources)} hold no variables; there is nothing to assimilate")
        unknown = [c for c in correlation or {} if c not in {n for _, n in wanted}]
        if unknown:
            raise KeyError(f"correlation names {unknown[0]!r}, which is not observed ({[n for _, n in wanted]})")
        times = [_times(grid, sources[s][n]) for s, n in wanted]
        labels, self.numbers, places = _union(grid, times, start)
        self._wanted = wanted
        axis = _on_times(grid, labels)
        self._columns = []
        for (s, n), place in zip(wanted, places, strict=True):
            ds, std = _at_times(sources[s], n, grid, labels[place]), error_std(sources[s], n, sigma, s, sources)
            self._columns.append(_column(axis, ds, n, std, derived, (correlation or {}).get(n)))
        if not any(len(c.y) for c in self._columns):
            raise ValueError("all observations are missing (NaN); there is nothing to assimilate")

    def __call__(self, number: int) -> Batch | None:
        """The observations of the ``number``-th time; None if all are missing."""
        spans = [(c, slice(*np.searchsorted(c.time, [number, number + 1]))) for c in self._columns]
        spans = [(c, s) for c, s in spans if s.stop > s.start]
        if not spans:
            return None
        key = b"".join(c.key(s) for c, s in spans)
        if key not in self._geometries:
            parts = tuple(
                Part(c.name, c.derived, torch.as_tensor(c.index[s]), torch.as_tensor(c.weight[s])) for c, s in spans
            )
            self._geometries[key] = Geometry(self.grid, parts, np.concatenate([c.position[s] for c, s in spans]))
            if len(self._geometries) > KEPT:
                self._geometries.popitem(last=False)
        self._geometries.move_to_end(key)
        y, std = (torch.from_numpy(np.concatenate([getattr(c, k)[s] for c, s in spans])) for k in ("y", "std"))
        whiteners, start = [], 0
        for c, s in spans:
            stop = start + s.stop - s.start
            if c.correlation is not None:
                whiteners.append((slice(start, stop), c.whitener(s)))
            start = stop
        return Batch(self._geometries[key], y, std, tuple(whiteners))

    def mark(self, stop: float) -> str:
        """A number that tells the observations up to a time from others: their values, errors, places and times."""
        last = int(np.searchsorted(self.numbers, stop, side="right"))
        mark = hashlib.blake2b(self.numbers[:last].tobytes(), digest_size=8)
        for c in self._columns:
            span = slice(0, int(np.searchsorted(c.time, last)))
            for part in (c.key(span), c.time[span].tobytes(), c.y[span].tobytes(), c.std[span].tobytes()):
                mark.update(part)
        return mark.hexdigest()

    def ordered(self, number: int, seen: Mapping[str, xr.Dataset]) -> Tensor:
        """Labelled H of an ensemble, by source, as a tensor (member, M) in the order of the batch of that time."""
        parts = []
        for (source, name), c in zip(self._wanted, self._columns, strict=True):
            values = seen[source][name].transpose("member", *c.da.dims).values
            parts.append(values.reshape(len(values), -1)[:, c.pick[c.time == number]])
        return torch.as_tensor(np.concatenate(parts, 1), dtype=torch.float64)


@dataclass(eq=False)
class Column:
    """One observed variable: its values in the order of their times (numbers of times, ascending)."""

    name: str
    derived: Derived | None
    correlation: Any
    da: xr.DataArray
    pick: np.ndarray
    time: np.ndarray
    index: np.ndarray
    weight: np.ndarray
    position: np.ndarray
    y: np.ndarray
    std: np.ndarray
    time_dim: str = ""
    _white: tuple[bytes, Whitener] | None = None

    def key(self, span: slice) -> bytes:
        return b"|".join([self.name.encode(), self.index[span].tobytes(), self.weight[span].tobytes()])

    def whitener(self, span: slice) -> Whitener:
        """That of the values of one time; ``correlation`` is of all values of a time, missing ones too."""
        values = list(np.unravel_index(self.pick[span], self.da.shape))
        when = values.pop(self.da.dims.index(self.time_dim))[0]
        now = self.da.isel({self.time_dim: int(when)})
        pick = np.ravel_multi_index(values, now.shape) if values else np.zeros(1, int)
        key = pick.tobytes()
        if self._moves:
            key += np.int64(when).tobytes()
        if self._white is None or self._white[0] != key:
            self._white = key, whitener(now, pick, self.correlation, torch.float64)
        return self._white[1]

    @property
    def _moves(self) -> bool:
        """Whether what the correlation depends on may change from time to time."""
        along = self.correlation if isinstance(self.correlation, Mapping) else ()
        return any(c in self.da.coords and self.time_dim in self.da[c].dims for c in along)


def _at_times(ds: xr.Dataset, name: str, grid: Grid, labels: np.ndarray) -> xr.Dataset:
    """The observations with the times that stand for theirs."""
    time = grid.core_dims[0]
    coord = matching_coordinate(ds[name], grid, time)
    if coord is None:
        return ds.assign_coords({time: (time, labels)})
    return ds.assign_coords({coord.name: (coord.dims, labels.reshape(coord.shape), coord.attrs)})


def _column(
    grid: Grid,
    ds: xr.Dataset,
    name: str,
    std: np.ndarray,
    derived: Mapping[str, Derived] | None,
    correlation: Any,
) -> Column:
    """``grid``: with the observation times as its time axis."""
    da, (time, *space) = ds[name], grid.core_dims
    coord = matching_coordinate(da, grid, time)
    assert coord is not None
    _check_instant(da, coord, grid)
    if correlation is not None:
        _check_within_times(da, coord, correlation)
    values = np.asarray(da.values, dtype=np.float64).ravel()
    if np.isinf(values).any():
        raise ValueError(f"observed variable {name!r} holds infinite values; mark missing values as NaN")
    op = compile_variable(grid, ds, name, derived)
    sizes = {d: grid.template.sizes[d] for d in grid.core_dims}
    if op.channel_dim is not None:
        sizes[op.channel_dim] = op.channels.stop - op.channels.start  # type: ignore[union-attr]
    index, weight = op.stencil(sizes)
    position = np.stack([_centre(grid, d, index[d], weight) for d in space], 1) if space else np.empty((len(values), 0))
    flat = np.zeros_like(weight, dtype=np.int64)
    if op.channels is not None:
        flat += op.channels.start + (index[op.channel_dim] if op.channel_dim is not None else 0)
    for d in space:
        flat = flat * sizes[d] + index[d]
    pick = np.flatnonzero(~np.isnan(values))
    order = pick[np.argsort(index[time][pick, 0], kind="stable")]
    check_positive(std.ravel()[order], name)
    return Column(
        name, op.derived, correlation, da, order, index[time][order, 0], flat[order], weight[order], position[order],
        values[order], std.ravel()[order].astype(np.float64), str(coord.name),
    )  # fmt: skip


def _check_instant(da: xr.DataArray, coord: xr.DataArray, grid: Grid) -> None:
    """Raise if the observations are averages over time, which no single state knows."""
    time = grid.core_dims[0]
    names = {time, str(coord.name), str(coord.attrs.get("standard_name", time))}
    template = grid.template.get(da.name)
    own = None if template is None else cell_method(template, names)
    method = cell_method(da, names)
    if method == "mean" and (own != method or "bounds" in coord.attrs):
        raise ValueError(
            f"observed variable {da.name!r} is an average over {time!r} (cell_methods); a filter needs observations of one "
            "time each (assimilate takes both)"
        )


def _check_within_times(da: xr.DataArray, coord: xr.DataArray, correlation: Any) -> None:
    """Raise unless errors can be correlated within each time, and are not from one time to another."""
    if coord.dims != (coord.name,):
        raise ValueError(
            f"{da.name!r} has correlated errors and no time dimension; a filter takes correlated errors of values over (time, "
            "...), correlated within each time"
        )
    along = correlation if isinstance(correlation, Mapping) else ()
    alone = [c for c in along if c in da.coords and da[c].dims == coord.dims]
    if alone:
        raise ValueError(
            f"the errors of {da.name!r} are correlated along {alone[0]!r}; a filter takes correlations within each time only "
            f"(assimilate takes both), so give {', '.join(repr(str(d)) for d in da.dims if d != coord.name) or 'other dimensions'}"
        )


def _check_finite(name: str, seen: Tensor) -> None:
    finite = torch.isfinite(seen).all(1)
    if not bool(finite.all()):
        member = int((~finite).nonzero()[0])
        raise ForecastError(
            f"the derived variable {name!r} is not finite for member {member}; its function must hold for every state that the "
            "ensemble may take, such as torch.clamp(..., min=0) below a root"
        )


def _centre(grid: Grid, dim: str, index: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Where observations made of several grid points are along one dimension; NaN where they are of all of it."""
    axis = grid_axis(grid, dim)
    x = axis.points[index]
    offset = x - x[:, :1]
    if axis.period is not None:
        offset -= axis.period * np.round(offset / axis.period)
    centre = x[:, 0] + (offset * np.abs(weight)).sum(1) / np.abs(weight).sum(1)
    everywhere = (np.diff(np.sort(index, axis=1)) > 0).sum(1) == len(axis.points) - 1
    return np.where(everywhere & (len(axis.points) > 2), np.nan, centre)


def _times(grid: Grid, da: xr.DataArray) -> np.ndarray:
    """The times of an observed variable as the user wrote them."""
    name = grid.core_dims[0]
    coord = matching_coordinate(da, grid, name)
    if coord is None:
        if name in da.dims and da.sizes[name] == grid.template.sizes[name]:
            return np.asarray(grid.template[name].values if name in grid.template.coords else grid.numbers(name))
        raise ValueError(
            f"observed variable {da.name!r} does not say its {name!r}; a filter needs the time of every observation"
        )
    if is_datelike(coord) != (grid.origin is not None):
        kinds = ("plain numbers", "dates")
        raise ValueError(
            f"the observations' {coord.name!r} holds {kinds[is_datelike(coord)]}, the grid's {name!r} "
            f"{kinds[grid.origin is not None]}; make them alike"
        )
    numbers = np.atleast_1d(axis_numbers(coord, grid.origin))
    if not np.isfinite(numbers).all():
        raise ValueError(f"the times of the observed {da.name!r} hold NaN or NaT; drop those observations")
    if coord.dims == (coord.name,) and (np.diff(numbers) <= 0).any():
        raise ValueError(
            f"the times of the observed {da.name!r} do not increase; use .sortby({str(coord.name)!r}), and drop duplicates"
        )
    return np.atleast_1d(coord.values).ravel()


def _union(grid: Grid, times: list[np.ndarray], start: float) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """All observation times in their order, as labels and as numbers of the grid, and which of them each given one is.

    Times next to each other, or to one of the grid, are one.
    """
    time, own = grid.core_dims[0], grid.numbers(grid.core_dims[0])
    labels = np.concatenate(times)
    if not len(labels):
        raise ValueError("the observations have no times; there is nothing to assimilate")
    given = axis_numbers(xr.DataArray(labels, dims=time, name=time), grid.origin)
    close = SAME * float(np.diff(own).min()) if len(own) > 1 else 1e-9 * max(1.0, abs(own[0]))
    nearest = _nearest(own, given)
    given = np.where(np.abs(nearest - given) <= close, nearest, given)
    numbers, first = np.unique(given, return_index=True)
    keep = [0]
    for i in range(1, len(numbers)):
        if numbers[i] - numbers[keep[-1]] > close:
            keep.append(i)
    labels, numbers = labels[first[keep]], numbers[keep]
    places = np.split(np.searchsorted(numbers, given, side="right") - 1, np.cumsum([len(t) for t in times])[:-1])
    for number, past in (
        (numbers[0], numbers[0] < own[0] and not numbers[0] > start),
        (numbers[-1], numbers[-1] > own[-1]),
    ):
        if past:
            which = "before the first" if number < own[0] else "after the last"
            from_ = f" and the initial ensemble is of {axis_text(start, grid.origin)}" if start < own[0] else ""
            raise ValueError(
                f"there are observations {which} state: at {axis_text(number, grid.origin)}, where the grid goes from "
                f"{axis_text(own[0], grid.origin)} to {axis_text(own[-1], grid.origin)}{from_}; use obs.sel({time}=slice(...)), or "
                "a longer grid"
            )
    return labels, numbers, places


def _nearest(own: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    right = np.searchsorted(own, numbers).clip(max=len(own) - 1)
    left = (right - 1).clip(min=0)
    return np.where(numbers - own[left] < own[right] - numbers, own[left], own[right])


def _on_times(grid: Grid, labels: np.ndarray) -> Grid:
    """The grid with other times; its values are placeholders that take no memory."""
    time = grid.core_dims[0]
    old = grid.template
    data = {}
    for name in grid.names.values():
        da = old[name]
        dims = [d for d in da.dims if d not in SAMPLE_DIMS]
        shape = [len(labels) if d == time else old.sizes[d] for d in dims]
        data[name] = xr.DataArray(np.broadcast_to(np.float32(0), shape), dims=dims, attrs=da.attrs)
    attrs = old[time].attrs if time in old.coords else {}
    coords = {k: c for k, c in old.coords.items() if time not in c.dims and not set(c.dims) & set(SAMPLE_DIMS)}
    return Grid(grid.layout, xr.Dataset(data, {**coords, time: (time, labels, attrs)}), grid.dims, grid.names)
