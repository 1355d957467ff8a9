"""``ds.sda.filter``: labelled in, labelled out."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from tqdm.auto import tqdm

from xsda.axes import find_axes, is_datelike
from xsda.baselines.base import STAGES, Cycle, Filter, Method
from xsda.baselines.initial import initial_ensemble
from xsda.baselines.model import Forecast, as_forecast
from xsda.baselines.network import Network
from xsda.grid import Grid
from xsda.layout import Layout
from xsda.names import choose
from xsda.observations.compile import Sources
from xsda.observations.operator import Derived
from xsda.provenance import describe
from xsda.systems import MarkovChain

MARKS = {
    "initial_mark": "another initial ensemble",
    "observations_mark": "other observations (values, errors or places)",
}
LONG_NAMES = {
    "inflation": "inflation factor",
    "inflation_variance": "variance of the inflation factor",
    "effective_sample_size": "effective number of particles",
    "iterations": "iterations of the minimisation",
}


def filter(
    ds: xr.Dataset,
    obs: Sources,
    system: Any,
    *,
    method: Method,
    members: int | None = None,
    sigma: Any = None,
    initial: Any = None,
    keep: str | Sequence[str] | None = None,
    correlation: Mapping[str, Any] | None = None,
    derived: Mapping[str, Derived] | None = None,
    seed: int = 0,
    progress: bool | None = None,
    out: str | Path | None = None,
    every: int = 1000,
) -> xr.Dataset:
    """Go through the observations with a forecast model: an ensemble on the axes of ``ds``.

    Parameters
    ----------
    ds
        The grid: its coordinates say what is estimated, and at which times. Its values are not read.
    obs
        Observations at any times within those of ``ds`` (or between those and an earlier initial ensemble), one Dataset or
        several; the ensemble is forecast to each time. NaN is a missing value.
    system
        One of ``xsda.systems``; a function ``step(ds, start, stop)`` on labelled ensembles; or ``xsda.baselines.Forecast``.
    method
        One of ``xsda.baselines``, such as ``LETKF(localization=4.0, inflation=1.04)``.
    members
        Size of the ensemble (default: 20, or that of ``initial``).
    sigma, correlation, derived
        Errors of the observations and functions for derived quantities, as in ``assimilate``. Correlations are between values
        of one time.
    initial
        An ensemble over ``member``, valid at its coordinate ``time`` (default: the first time of ``ds``); a long run over time
        to draw states from; or a prior. Default: states from the climate of the system. A result's last analysis goes on where
        it ended, to the bit: ``initial=result.isel(time=-1)``, with later times in ``ds`` and ``obs``.
    keep
        "analysis", "forecast", "smoothed" (where the method smooths), "both" (forecast and analysis), or several of them, then
        along the dimension ``stage``. Default: what the method is for.
    seed
        Same seed, same numbers.
    progress
        Show a progress bar (default: in a terminal or notebook).
    out, every
        A folder to which each ``every`` times are written as NetCDF, so that long runs fit into memory; the result reads it
        lazily. Called again, a run that was interrupted goes on after what is there (filters only).
    """
    if isinstance(method, type) or not isinstance(method, Method):
        raise _not_a_method(method)
    forecast = as_forecast(system)
    grid = state_grid(ds, forecast)
    stages = _stages(keep, method)
    x, start, memory = initial_ensemble(initial, members, grid, forecast, seed, method)
    own = grid.numbers(grid.core_dims[0])
    network = Network(grid, obs, sigma, derived, correlation, start)
    if start > own[0]:
        raise ValueError(
            f"the initial ensemble is of {forecast.bind(grid).text(start)}, after the first time of the grid; use "
            "ds.sel(time=slice(...)) and obs.sel(time=slice(...)) from there"
        )
    if "analysis" in str(getattr(initial, "attrs", {}).get("stages")) and network.numbers[0] <= start:
        warnings.warn(
            f"the initial ensemble is an analysis of {forecast.bind(grid).text(start)}, and there are observations at that time: have "
            "they been used already? Then leave them out, obs.sel(time=slice(...))",
            RuntimeWarning,
            stacklevel=3,
        )
    times = np.union1d(own, network.numbers)
    cycle = Cycle(grid, forecast.bind(grid), network, times, start, seed, memory=memory)
    method.check(cycle)
    kept = ", ".join(stages)
    attrs = {"method": str(method), "system": _name(forecast), "members": len(x), "seed": seed, "stages": kept}
    record = Record(cycle, method, stages, attrs, out, every)
    x, skip = record.resume(x)
    disable = None if progress is None else not progress
    with (
        tqdm(total=len(times), initial=skip, desc=type(method).__name__, unit="time", disable=disable) as bar,
        torch.no_grad(),
    ):
        try:
            for stage, k, state in method.run(cycle, x) if not skip else method.resume(cycle, x, skip):  # type: ignore[attr-defined]
                record.put(stage, k, state)
                if stage == "analysis":
                    bar.update()
        except Exception as error:
            error.partial = record.partial()  # type: ignore[attr-defined]
            raise
    return record.result()


class Record:
    """What is kept of a run, in pieces of ``every`` times where they go to a folder."""

    def __init__(
        self,
        cycle: Cycle,
        method: Method,
        stages: tuple[str, ...],
        attrs: dict[str, Any],
        out: str | Path | None,
        every: int,
    ):
        if isinstance(every, bool) or not isinstance(every, int | np.integer) or every < 1:
            raise ValueError(
                f"every={every!r} must be an integer of at least 1: it is how many times are written at once"
            )
        self.cycle, self.method, self.stages, self.attrs = cycle, method, stages, attrs
        self.time = cycle.grid.core_dims[0]
        own = cycle.grid.numbers(self.time)
        self.place = {int(k): j for j, k in enumerate(np.searchsorted(cycle.times, own))}
        self.count = len(own)
        self.out = None if out is None else Path(out)
        self.every = self.count if out is None else min(int(every), self.count)
        self.before = dict(cycle.memory)
        self.began = ""
        self.open: dict[int, Tensor] = {}
        self.filled: dict[int, dict[str, int]] = {}
        self.done: list[xr.Dataset] = []

    def put(self, stage: str, k: int, x: Tensor) -> None:
        """Keep the states of a stage of the ``k``-th time, if they are asked for."""
        expected = dict.fromkeys((*self.stages, self.method.stages[-1]), 0)  # with the last all is noted of a time
        if stage not in expected or k not in self.place:
            return
        number, row = divmod(self.place[k], self.every)
        if number not in self.open:
            size = min(self.every, self.count - number * self.every)
            self.open[number] = torch.empty((len(self.stages), len(x), size, *x.shape[1:]), dtype=x.dtype)
            self.filled[number] = expected
        values, filled = self.open[number], self.filled[number]
        if stage in self.stages:
            values[self.stages.index(stage), :, row] = x
        filled[stage] += 1
        if filled[stage] == values.shape[2] and len({*filled.values()}) == 1:
            self._close(number)

    def _close(self, number: int) -> None:
        ds = self._label(self.open.pop(number), number * self.every)
        if self.out is None:
            self.done.append(ds)
        else:
            self.out.mkdir(parents=True, exist_ok=True)
            path = self.out / f"{number:06d}.nc"
            ds = ds.assign_attrs(self._marks(number * self.every, ds.sizes[self.time]))
            ds.to_netcdf(path.with_suffix(".part"), engine="netcdf4")
            path.with_suffix(".part").rename(path)

    def _label(self, values: Tensor, first: int) -> xr.Dataset:
        """``values`` (stage, member, time, channel, *space) from the ``first`` kept time on."""
        grid, size = self.cycle.grid, values.shape[2]
        template = grid.template.isel({self.time: slice(first, first + size)})
        part = Grid(grid.layout, template, grid.dims, grid.names)
        member = xr.DataArray(
            np.arange(values.shape[1]), dims="member", attrs={"standard_name": "realization", "units": "1"}
        )
        stage = xr.DataArray(list(self.stages), dims="stage", attrs={"long_name": "stage of the cycle"})
        if len(self.stages) == 1:
            ds = part.to_dataset(values[0].numpy(), {"member": member})
        else:
            ds = part.to_dataset(values.numpy(), {"stage": stage, "member": member})
        times = list(self.place)[first : first + size]
        for name in dict.fromkeys([*self.method.remembers, *self.cycle.notes]):
            attrs = {"long_name": LONG_NAMES.get(name, name), "units": "1"}
            ds = ds.assign_coords({name: (self.time, self._noted(name, times), attrs)})
        return describe(ds, part, self.attrs)

    def _noted(self, name: str, times: list[int]) -> np.ndarray:
        """What was noted of each time; what is needed to go on holds until it is noted again."""
        noted = self.cycle.notes.get(name, {})
        if name not in self.method.remembers:
            return np.array([noted.get(k, np.nan) for k in times])
        values = np.array([self.before.get(name, np.nan), *noted.values()])
        return values[np.searchsorted([*noted], times, side="right")]

    def partial(self) -> xr.Dataset | None:
        """What was computed of whole times before a run was stopped."""
        pieces = self._written() if self.out is not None else list(self.done)
        for number, values in sorted(self.open.items()):
            whole = min(self.filled[number].values())
            if whole:
                pieces.append(self._label(values[:, :, :whole], number * self.every))
            if whole < values.shape[2]:
                break
        return self._joined(pieces) if pieces else None

    def result(self) -> xr.Dataset:
        return self._joined(self.done if self.out is None else self._written())

    def _joined(self, pieces: list[xr.Dataset]) -> xr.Dataset:
        """Pieces one after another; what only some of them note is NaN in the others."""
        pieces = [ds.assign_attrs() for ds in pieces]
        for ds in pieces:
            for name in MARKS:
                ds.attrs.pop(name, None)
        if len(pieces) == 1:
            return pieces[0]
        noted = {n: ds[n].attrs for ds in pieces for n in ds.coords if n != self.time and ds[n].dims == (self.time,)}
        for i, ds in enumerate(pieces):
            missing = np.full(ds.sizes[self.time], np.nan)
            pieces[i] = ds.assign_coords({n: (self.time, missing, a) for n, a in noted.items() if n not in ds.coords})
        return xr.concat(
            pieces,
            self.time,
            data_vars="minimal",
            coords="minimal",
            compat="override",
            join="override",
            combine_attrs="override",
        )

    def _written(self) -> list[xr.Dataset]:
        """The pieces in the folder, lazily."""
        assert self.out is not None
        times = self.cycle.grid.template[self.time]
        dates = xr.coders.CFDatetimeCoder(use_cftime=times.dtype == object) if is_datelike(times) else False
        lags = times.dtype.kind == "m"
        paths = sorted(self.out.glob("*.nc"))
        return [xr.open_dataset(p, chunks={}, decode_times=dates, decode_timedelta=lags) for p in paths]

    def resume(self, x: Tensor) -> tuple[Tensor, int]:
        """Where an interrupted run goes on: its last analysis, and how many times are done."""
        self.began = hashlib.blake2b(x.contiguous().numpy().tobytes(), digest_size=8).hexdigest()
        pieces = self._written() if self.out is not None else []
        if not pieces:
            return x, 0
        if not isinstance(self.method, Filter) or "analysis" not in self.stages:
            raise ValueError(
                f"{self.out} holds an earlier run, and only filters that keep='analysis' can go on; choose another folder"
            )
        last, first = pieces[-1], (len(pieces) - 1) * self.every
        self._check(last, first)
        final = last.isel({self.time: -1}).load()
        if "stage" in final.dims:
            final = final.sel(stage="analysis")
        self.before = {name: float(final[name]) for name in self.method.remembers if np.isfinite(final[name])}
        self.cycle.memory.update(self.before)
        state = final.drop_vars(self.time, errors="ignore").transpose("member", ...)
        return self.cycle.forecast.tensor(state), list(self.place)[first + last.sizes[self.time] - 1] + 1

    def _marks(self, first: int, size: int) -> dict[str, str]:
        """What pieces follow from besides ``attrs``: in the files alone."""
        stop = float(self.cycle.times[list(self.place)[first + size - 1]])
        return dict(zip(MARKS, (self.began, self.cycle.network.mark(stop)), strict=True))

    def _check(self, piece: xr.Dataset, first: int) -> None:
        """Raise unless a piece is what this run would have written from its ``first`` kept time on."""
        for name, new in self.attrs.items():
            old = piece.attrs.get(name)
            if str(old) != str(new):
                raise ValueError(f"{self.out} holds a run with {name}={old}, now it is {new}; choose another folder")
        expected = self.cycle.grid.template.isel({self.time: slice(first, first + self.every)})
        if not np.array_equal(piece[self.time].values, expected[self.time].values):
            raise ValueError(
                f"{self.out} holds a run over other times, or in pieces of another length than every={self.every}; choose "
                "another folder"
            )
        for name, new in self._marks(first, piece.sizes[self.time]).items():
            if piece.attrs.get(name, new) != new:
                raise ValueError(f"{self.out} holds a run with {MARKS[name]}; choose another folder")


def state_grid(ds: xr.Dataset, forecast: Forecast) -> Grid:
    """The grid with the variables in the order of the model's state, without what an earlier run told of its times."""
    if not isinstance(ds, xr.Dataset):
        raise TypeError(f"the grid must be an xarray.Dataset, got {type(ds).__name__}")
    ds = ds.drop_vars([n for n, text in LONG_NAMES.items() if n in ds.coords and ds[n].attrs.get("long_name") == text])
    time, space = find_axes(ds)
    names = list(forecast.variables or [str(v) for v in ds.data_vars if {time, *space} <= set(ds[v].dims)])
    missing = [v for v in names if v not in ds.data_vars]
    if missing:
        raise KeyError(
            f"{type(forecast.step).__name__} has the variable {missing[0]!r}, which the grid lacks; {choose(missing[0], ds.data_vars)}"
        )
    if not names:
        raise ValueError(f"the grid has no variables over {(time, *space)}, which say what the state is")
    return Grid.match(Layout.of(ds[names], even=False), ds[names])


def _stages(keep: str | Sequence[str] | None, method: Method) -> tuple[str, ...]:
    if keep is None:
        return (method.stages[-1],)
    named = (
        ["forecast", "analysis"]
        if keep == "both"
        else list(keep)
        if isinstance(keep, Sequence) and not isinstance(keep, str)
        else [keep]
    )
    if not named:
        raise ValueError(f"keep names no stage; {choose('', method.stages)}")
    for name in named:
        if name not in method.stages:
            raise ValueError(
                f"keep={name!r}: {type(method).__name__} has {', '.join(method.stages)}; {choose(str(name), [*method.stages, 'both'])}"
            )
    return tuple(s for s in STAGES if s in named)


def _name(forecast: Forecast) -> str:
    step = forecast.step
    return repr(step) if isinstance(step, MarkovChain) else getattr(step, "__name__", type(step).__name__)


def _not_a_method(method: Any) -> Exception:
    import xsda.baselines as room

    names = [n for n in room.__all__ if isinstance(getattr(room, n), type) and issubclass(getattr(room, n), Method)]
    if isinstance(method, type) and issubclass(method, Method):
        return TypeError(f"method is the class {method.__name__}; pass an object of it: {method.__name__}(...)")
    if isinstance(method, str):
        same = next((n for n in names if n.lower() == method.lower()), None)
        hint = f"write xsda.baselines.{same}(...)" if same else choose(method, names)
        return ValueError(f"unknown method {method!r}; {hint}")
    return TypeError(f"method must be one of xsda.baselines ({', '.join(names)}), got {type(method).__name__}")
