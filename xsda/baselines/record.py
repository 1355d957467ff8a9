"""The results that a run keeps, in memory or in files from which an interrupted run resumes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from xsda.baselines.cycle import Cycle
from xsda.baselines.method import Filter, Method
from xsda.files import locked, replacing
from xsda.labels.axes import is_datelike
from xsda.labels.grid import Grid
from xsda.labels.provenance import describe

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


class Record:
    """The results that a run keeps. With a folder ``out`` they are written in pieces of ``every`` times.

    Each piece is a NetCDF file, written whole or not at all. The folder is locked during the run.
    """

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
        """Keep the states of a stage at the ``k``-th time, if the caller asked for them."""
        expected = dict.fromkeys(
            (*self.stages, self.method.stages[-1]), 0
        )  # after the last stage, all notes of a time are there
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
            ds = ds.assign_attrs(self._marks(number * self.every, ds.sizes[self.time]))
            with replacing(self.out / f"{number:06d}.nc") as temporary:
                ds.to_netcdf(temporary, engine="netcdf4")

    def _label(self, values: Tensor, first: int) -> xr.Dataset:
        """Label ``values`` (stage, member, time, channel, *space), which start at the ``first`` kept time."""
        grid, size = self.cycle.grid, values.shape[2]
        template = grid.template.isel({self.time: slice(first, first + size)})
        part = Grid(grid.layout, template, grid.dims, grid.names)
        member = xr.DataArray(
            np.arange(values.shape[1]), dims="member", attrs={"standard_name": "realization", "units": "1"}
        )
        if len(self.stages) == 1:
            ds = part.to_dataset(values[0].numpy(), {"member": member})
        else:
            stage = xr.DataArray(list(self.stages), dims="stage", attrs={"long_name": "stage of the cycle"})
            stage.encoding["dtype"] = "S1"  # NetCDF's texts of any length crash the library if their file was cut short
            ds = part.to_dataset(values.numpy(), {"stage": stage, "member": member})
        times = list(self.place)[first : first + size]
        for name in dict.fromkeys([*self.method.remembers, *self.cycle.notes]):
            attrs = {"long_name": LONG_NAMES.get(name, name), "units": "1"}
            ds = ds.assign_coords({name: (self.time, self._noted(name, times), attrs)})
        return describe(ds, part, self.attrs)

    def _noted(self, name: str, times: list[int]) -> np.ndarray:
        """Return what was noted at each time; values that a resumed run needs are carried forward to the next note."""
        noted = self.cycle.notes.get(name, {})
        if name not in self.method.remembers:
            return np.array([noted.get(k, np.nan) for k in times])
        values = np.array([self.before.get(name, np.nan), *noted.values()])
        return values[np.searchsorted([*noted], times, side="right")]

    def partial(self) -> xr.Dataset | None:
        """Return the times that were complete when a run stopped."""
        pieces = self._written() if self.out is not None else list(self.done)
        for number, values in sorted(self.open.items()):
            whole = min(self.filled[number].values())
            if whole:
                pieces.append(self._label(values[:, :, :whole], number * self.every))
            if whole < values.shape[2]:
                break
        return self._joined(pieces) if pieces else None

    def result(self) -> xr.Dataset:
        """Return the whole run; pieces in files are read lazily."""
        return self._joined(self.done if self.out is None else self._written())

    def _joined(self, pieces: list[xr.Dataset]) -> xr.Dataset:
        """Concatenate pieces; a note that a piece lacks is NaN there."""
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
        """Open the pieces in the folder lazily."""
        assert self.out is not None
        times = self.cycle.grid.template[self.time]
        dates = xr.coders.CFDatetimeCoder(use_cftime=times.dtype == object) if is_datelike(times) else False
        lags = times.dtype.kind == "m"
        pieces = []
        for number, path in enumerate(sorted(self.out.glob("*.nc"))):
            if path.name != f"{number:06d}.nc":
                raise ValueError(
                    f"{self.out} holds {path.name} but not {number:06d}.nc; delete {path.name} and all later pieces, "
                    "or choose another folder"
                )
            try:
                pieces.append(
                    xr.open_dataset(path, engine="netcdf4", chunks={}, decode_times=dates, decode_timedelta=lags)
                )
            except (OSError, ValueError) as error:
                raise ValueError(
                    f"{path} is not a whole NetCDF file ({error}); delete it and all later pieces, and the same call "
                    "computes them again"
                ) from error
        return pieces

    @contextmanager
    def resume(self, x: Tensor) -> Iterator[tuple[Tensor, int]]:
        """Lock the folder; give the state from which the run continues and the number of times that are done."""
        if self.out is None:
            yield self._resumed(x)
            return
        self.out.mkdir(parents=True, exist_ok=True)
        with locked(self.out):
            yield self._resumed(x)

    def _resumed(self, x: Tensor) -> tuple[Tensor, int]:
        self.began = hashlib.blake2b(x.contiguous().numpy().tobytes(), digest_size=8).hexdigest()
        pieces = self._written() if self.out is not None else []
        if not pieces:
            return x, 0
        if not isinstance(self.method, Filter) or "analysis" not in self.stages:
            raise ValueError(
                f"{self.out} holds an earlier run, and only filters that keep='analysis' can resume; choose another "
                "folder"
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
        """Return what else determines a piece, besides ``attrs``; it is stored only in the files."""
        stop = float(self.cycle.times[list(self.place)[first + size - 1]])
        return dict(zip(MARKS, (self.began, self.cycle.network.mark(stop)), strict=True))

    def _check(self, piece: xr.Dataset, first: int) -> None:
        """Raise unless this run would have written the piece, which starts at the ``first`` kept time."""
        for name, new in self.attrs.items():
            old = piece.attrs.get(name)
            if str(old) != str(new):
                raise ValueError(f"{self.out} holds a run with {name}={old}, now it is {new}; choose another folder")
        expected = self.cycle.grid.template.isel({self.time: slice(first, first + self.every)})
        if not np.array_equal(piece[self.time].values, expected[self.time].values):
            raise ValueError(
                f"{self.out} holds a run over other times, or in pieces of another length than every={self.every}; "
                "choose another folder"
            )
        for name, new in self._marks(first, piece.sizes[self.time]).items():
            if piece.attrs.get(name, new) != new:
                raise ValueError(f"{self.out} holds a run with {MARKS[name]}; choose another folder")
