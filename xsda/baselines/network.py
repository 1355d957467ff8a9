"""Provides filters with the observations of each time, as tensors."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from xsda.baselines.bound import ForecastError
from xsda.baselines.column import check_instrument, column
from xsda.baselines.times import at_times, on_times, times_of, union
from xsda.labels.grid import Grid
from xsda.likelihood.whitening import Whitener
from xsda.observations.observed import Observed
from xsda.observations.operator import Derived, State, derived_field
from xsda.observations.read import read, units_of
from xsda.observations.sources import Sources

KEPT = 32  # number of geometries kept for later times with the same places


@dataclass(frozen=True, eq=False)
class Part:
    """Observations of one variable: indices into its flattened field, and weights, both (M, points)."""

    name: str
    derived: Derived | None
    index: Tensor
    weight: Tensor

    def read(self, field: Tensor) -> Tensor:
        """Observe a flattened field (member, numbers); returns (member, M)."""
        if self.index.shape[1] == 1:
            return field.index_select(1, self.index[:, 0])
        values = field.index_select(1, self.index.ravel()).unflatten(1, self.index.shape)
        return (values * self.weight).sum(-1)


@dataclass(frozen=True, eq=False)
class Geometry:
    """The places of the M observations of one time. Times with the same places share one object.

    ``position`` is (M, space) in the coordinates of the grid, and NaN along a dimension that was averaged. Methods
    keep in ``cache`` what they compute from the places.
    """

    grid: Grid
    parts: tuple[Part, ...]
    position: np.ndarray
    cache: dict[Any, Any] = field(default_factory=dict, repr=False)

    def observe(self, x: Tensor) -> Tensor:
        """Apply H to states (member, channel, *space); returns (member, M)."""
        flat, seen = x.flatten(1), []
        for part in self.parts:
            if part.derived is None:
                seen.append(part.read(flat))
            else:
                state = State(self.grid.layout, self.grid.names, self.grid.scaling, x[:, None])
                seen.append(part.read(derived_field(part.name, part.derived, state, x[:, None]).flatten(1)))
                _check_finite(part.name, seen[-1])
        return seen[0] if len(seen) == 1 else torch.cat(seen, 1)

    @property
    def linear(self) -> bool:
        return all(p.derived is None for p in self.parts)

    def matrix(self, shape: tuple[int, ...]) -> Tensor:
        """Return a linear H as a matrix (M, numbers of a state of ``shape``)."""
        size = int(np.prod(shape))
        return self.observe(torch.eye(size, dtype=torch.float64).reshape(size, *shape)).T


@dataclass(frozen=True, eq=False)
class Batch:
    """The observations of one time: values and standard errors (M,), and whiteners of spans with correlated errors."""

    geometry: Geometry
    y: Tensor
    std: Tensor
    whiteners: tuple[tuple[slice, Whitener], ...] = ()

    @property
    def correlated(self) -> bool:
        return bool(self.whiteners)

    def scaled(self, values: Tensor) -> Tensor:
        """Multiply differences (..., M) by R^-1/2."""
        values = values / self.std
        for span, white in self.whiteners:
            part, values = values[..., span], values.clone()
            values[..., span] = white.whiten(part.reshape(-1, part.shape[-1])).reshape(part.shape)
        return values

    def innovations(self, x: Tensor) -> Tensor:
        """Return R^-1/2 (y - H(x)) of each member, (member, M)."""
        return self.scaled(self.y - self.geometry.observe(x))


class Network:
    """All observations in the order of their times.

    Times must lie within those of the grid, or after ``start`` if that is earlier.
    """

    def __init__(self, grid: Grid, observed: Sequence[Observed], start: float = np.inf):
        self.grid = grid
        self._geometries: OrderedDict[bytes, Geometry] = OrderedDict()
        for o in observed:
            check_instrument(o)
        times = [times_of(grid, o.da) for o in observed]
        labels, self.numbers, places = union(grid, times, start)
        axis = on_times(grid, labels)
        self._columns = [
            column(axis, replace(o, ds=at_times(o.ds, o.name, grid, labels[place])))
            for o, place in zip(observed, places, strict=True)
        ]
        self._observed = list(observed)
        if not any(len(c.y) for c in self._columns):
            raise ValueError("all observations are missing (NaN); there is nothing to assimilate")

    @classmethod
    def of(cls, grid: Grid, obs: Sources, *, start: float = np.inf, **options: Any) -> Network:
        """Read labelled observations; ``options`` are those of ``xsda.observations.read``."""
        return cls(grid, read(obs, units_of(grid), grid=grid, start=start, **options), start)

    def __call__(self, number: int) -> Batch | None:
        """Return the observations of time number ``number``; None if all are missing."""
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
        """Return a hash of values, errors, places and times of the observations up to a time."""
        last = int(np.searchsorted(self.numbers, stop, side="right"))
        mark = hashlib.blake2b(self.numbers[:last].tobytes(), digest_size=8)
        for c in self._columns:
            span = slice(0, int(np.searchsorted(c.time, last)))
            for part in (c.key(span), c.time[span].tobytes(), c.y[span].tobytes(), c.std[span].tobytes()):
                mark.update(part)
        return mark.hexdigest()

    def ordered(self, number: int, seen: Mapping[str, xr.Dataset]) -> Tensor:
        """Convert labelled H of an ensemble to a tensor (member, M), in the order of the batch of that time."""
        parts = []
        for o, c in zip(self._observed, self._columns, strict=True):
            values = seen[o.source][o.name].transpose("member", *c.da.dims).values
            parts.append(values.reshape(len(values), -1)[:, c.pick[c.time == number]])
        return torch.as_tensor(np.concatenate(parts, 1), dtype=torch.float64)


def _check_finite(name: str, seen: Tensor) -> None:
    """Raise if a derived variable is not finite, naming the first such member."""
    finite = torch.isfinite(seen).all(1)
    if not bool(finite.all()):
        member = int((~finite).nonzero()[0])
        raise ForecastError(
            f"the derived variable {name!r} is not finite for member {member}; its function must accept every state "
            "of the ensemble, for example with torch.clamp(..., min=0) under a square root",
            members=(member,),
        )
