"""Divides a long record into windows, each of which goes on from the states that the previous one settled.

A window has ``overlap`` known states, then states that it settles, then ``lag`` states that are drawn to use the later
observations but are settled by the next window only (fixed-lag smoothing)::

    window 1   |====== settled ======|==lag==|
    window 2                   |known|====== settled ======|==lag==|

All windows have the same length. The last one ends with the record, knows more states, and settles all others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import xarray as xr
from torch import Tensor

from xsda.arguments import warn
from xsda.diffusion.samplers import Sampler
from xsda.guidance import Guidance
from xsda.labels.grid import Field, Grid
from xsda.likelihood import Likelihood
from xsda.observations.joint import compile_observations
from xsda.observations.observed import NothingObserved
from xsda.observations.sources import known_names
from xsda.priors.prior import Prior
from xsda.priors.reference import PriorReference
from xsda.sampling.blocks import compute
from xsda.sampling.choose import quick_sampler
from xsda.sampling.evidence import variance_factor
from xsda.sampling.options import SamplingOptions
from xsda.sampling.shipping import Shipment
from xsda.sampling.task import SamplingTask

APART = 64  # bits of a seed; windows have seeds beyond those of users


@dataclass(frozen=True)
class Stretch:
    """States [start, stop) of a record: the first ``known`` are known, those up to ``settled`` are kept."""

    number: int
    start: int
    stop: int
    known: int
    settled: int


def plan_windows(observed: int, states: int, window: int, lag: int, overlap: int) -> list[Stretch]:
    """Divide a record into windows.

    Parameters
    ----------
    observed
        Number of states of the record.
    states
        The same with the states of a forecast, which is drawn without a lag.
    window, lag, overlap
        Number of states of a window, and of those that it draws again, and knows.

    Returns
    -------
    list of Stretch
        The windows in their order.

    Examples
    --------
    >>> from xsda.sampling.long_records import plan_windows
    >>> [(w.start, w.known, w.settled, w.stop) for w in plan_windows(20, 20, 10, 3, 2)]
    [(0, 0, 7, 10), (5, 2, 12, 15), (10, 2, 20, 20)]
    """
    found: list[Stretch] = []
    settled = 0
    while settled < states:
        end = observed if settled < observed else states
        start = max(0, min(settled - overlap, end - window))
        stop = min(start + window, end)
        after = stop if stop == end else stop - (lag if end == observed else 0)
        found.append(Stretch(len(found), start, stop, settled - start, after))
        settled = after
    return found


class Trajectories(Protocol):
    """Where settled states are kept: in memory, or in a store."""

    def complete(self, members: Sequence[int]) -> np.ndarray: ...

    def read(self, members: Sequence[int], start: int, stop: int) -> dict[str, np.ndarray]: ...

    def write(self, values: Mapping[str, np.ndarray], members: Sequence[int], start: int = 0) -> None: ...


@dataclass(frozen=True, eq=False)
class Chain:
    """Draws members through a record. It can be sent to other processes.

    Parameters
    ----------
    prior
        The prior, or where to find it.
    record
        The coordinates of the record, with variables without values.
    windows
        The windows, in their order.
    opened
        Returns the observations of a grid whose first states are known, by source (``xsda.observations.during``).
    reading
        How they are read: options of ``compile_observations``.
    options, sampler, guidance
        How members are drawn.
    tries
        Whether a quicker sampler may be tried first (``xsda.sampling.choose.quick_sampler``).
    """

    prior: Prior | PriorReference
    record: xr.Dataset
    time: str
    windows: Sequence[Stretch]
    opened: Callable[[Grid, int], Mapping[str, xr.Dataset]]
    reading: Mapping[str, Any]
    options: SamplingOptions
    sampler: Sampler
    guidance: Guidance
    tries: bool = False
    warned: set[str] = field(default_factory=set)  # keys of warnings that were given, for all windows

    def drawn(self, members: Sequence[int], kept: Trajectories) -> Iterator[float]:
        """Draw the windows of these members that are not settled yet, and keep them; yield how many members that makes.

        A window is drawn for all members even if some have it: a member is the same to the last bit only beside the
        same batch mates.
        """
        prior = self.prior.load() if isinstance(self.prior, PriorReference) else self.prior
        for window in self.windows:
            missing = [m for m, n in zip(members, kept.complete(members), strict=True) if n < window.settled]
            if missing:
                try:
                    values = self.settled(prior, window, members, kept)
                except Exception as error:
                    first, last = self.record[self.time].to_index()[[window.start, window.stop - 1]]
                    error.add_note(f"This was in the window from {first} to {last}")
                    raise
                rows = [members.index(m) for m in missing]
                kept.write({n: v[rows] for n, v in values.items()}, missing, window.start + window.known)
            yield len(members) / len(self.windows)

    def settled(
        self, prior: Prior, window: Stretch, members: Sequence[int], kept: Trajectories
    ) -> dict[str, np.ndarray]:
        """Return the states that one window settles, by variable."""
        grid = prior.bind(self.record.isel({self.time: slice(window.start, window.stop)}))
        likelihood = self.likelihood(grid, window.known)
        factor = 1.0 if likelihood is None else variance_factor(prior, likelihood, grid.shape)
        quick = None
        if self.tries and likelihood is not None:
            quick = quick_sampler(prior, self.guidance, likelihood, grid.shape)
        task = SamplingTask(
            prior, grid.shape, grid.fields, self.sampler, self.guidance,
            Shipment((likelihood, grid.context(), grid.scaling)), self.options.seed + (window.number << APART),
            self.options.device, self.options.precision, self.options.redraw, factor,
            self._past(grid, window, members, kept) if window.known else None, quick=quick,
        )  # fmt: skip
        task.shared.warned = self.warned
        batch = min(self.options.at_once(grid.shape), len(members))
        arrays = compute(task, members, batch=batch, progress=False, label="")
        states = slice(window.known, window.settled - window.start)
        values = {}
        for variable, array in zip(grid.fields, arrays, strict=False):  # notes come last
            place = tuple(states if d == self.time else slice(None) for d in variable.dims)
            values[variable.name] = array[(slice(None), *place)]
        return values

    def likelihood(self, grid: Grid, known: int) -> Likelihood | None:
        """Return the likelihood of the observations of a window that do not belong to known states alone."""
        sources = self.opened(grid, known)
        if not sources:
            return None
        named = {n: known_names(self.reading.get(n), sources, n) for n in ("sigma", "likelihood", "correlation")}
        try:
            return compile_observations(grid, sources, **{**self.reading, **named})
        except NothingObserved as reason:
            warn(f"some windows are drawn without observations: {str(reason).partition(';')[0]}")
            return None

    def _past(self, grid: Grid, window: Stretch, members: Sequence[int], kept: Trajectories) -> dict[int, Tensor]:
        """Return the known states of each member, standardised."""
        first = grid.part(slice(0, window.known))
        values = kept.read(members, window.start, window.start + window.known)
        ds = first.label([values[f.name] for f in first.fields], {"member": xr.DataArray(list(members), dims="member")})
        return dict(zip(members, first.to_tensor(ds).nan_to_num(nan=0.0), strict=True))  # NaN: the mask


class Memory:
    """Keeps settled states in memory, in arrays (member, ...) by variable.

    Parameters
    ----------
    fields
        The variables of the whole record.
    members
        Numbers of the members.
    time
        Name of the time dimension.
    """

    def __init__(self, fields: Sequence[Field], members: Sequence[int], time: str):
        self.arrays = {f.name: np.empty((len(members), *f.shape), f.dtype) for f in fields}
        self.axes = {f.name: f.dims.index(time) for f in fields}
        self.rows = {m: row for row, m in enumerate(members)}
        self.done = np.zeros(len(members), int)

    def parts(self, members: Sequence[int], size: int) -> list[list[int]]:
        """Divide members into parts of ``size``."""
        return [list(members[i : i + size]) for i in range(0, len(members), size)]

    def complete(self, members: Sequence[int]) -> np.ndarray:
        """Return how many states of these members are settled."""
        return self.done[[self.rows[m] for m in members]]

    def read(self, members: Sequence[int], start: int, stop: int) -> dict[str, np.ndarray]:
        """Return states of some members, by variable."""
        rows = [self.rows[m] for m in members]
        return {n: a[rows][(slice(None),) * (1 + self.axes[n]) + (slice(start, stop),)] for n, a in self.arrays.items()}

    def write(self, values: Mapping[str, np.ndarray], members: Sequence[int], start: int = 0) -> None:
        """Keep states of some members, from the state ``start`` on."""
        rows = [self.rows[m] for m in members]
        for name, array in self.arrays.items():
            stop = start + values[name].shape[1 + self.axes[name]]
            place: Any = (rows, *(slice(None),) * self.axes[name], slice(start, stop))
            array[place] = values[name]
        self.done[rows] = stop
