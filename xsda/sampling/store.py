"""An ensemble in a Zarr store that is written in regions, and from which an interrupted run continues.

The coordinate ``complete_states`` tells for each member how many of its states, from the first on, are complete. It is
raised after values are written, and lowered before values are replaced. A process that is killed at any moment leaves a
store that says correctly what it holds. The store also keeps a description of its run, and refuses any other run.

Several processes can write to one store at the same time if no two of them write members of the same chunk.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from xsda.files import MARK, check_output, locked, replacing_folder

ABSENT = -1  # number of a member that the store has room for, but that was not added


@dataclass(frozen=True)
class EnsembleStore:
    """A store that is open for writing. It can be sent to other processes.

    Parameters
    ----------
    path
        The folder of the store.
    time
        Name of the time dimension.
    names
        The variables of the result, in order.

    Examples
    --------
    >>> from xsda.sampling.store import open_store
    >>> template = post[["x"]].isel(member=slice(2)).assign_coords(member=[0, 1])  # only its labels are read
    >>> with open_store("ensemble.zarr", template, time="time", run={"seed": "0"}) as store:
    ...     store.write({"x": post.x.values[1:2]}, members=[1])
    ...     store.complete([0, 1])
    array([ 0, 16], dtype=int32)
    """

    path: Path
    time: str
    names: tuple[str, ...]

    def __reduce__(self) -> tuple[Any, ...]:  # without what is cached; other processes may be in another folder
        return type(self), (self.path.absolute(), self.time, self.names)

    @cached_property
    def _arrays(self) -> dict[str, Any]:
        return _arrays(self.path)

    @cached_property
    def _rows(self) -> dict[int, int]:
        return {int(m): row for row, m in enumerate(self._arrays["member"][:])}

    @property
    def notes(self) -> MutableMapping[str, Any]:
        """What a run notes about itself beside its description; changes are written at once."""
        return self._arrays[MARK].attrs

    @property
    def members(self) -> list[int]:
        """Numbers of all members of the store."""
        return list(self._rows)

    def parts(self, members: Sequence[int], size: int) -> list[list[int]]:
        """Divide members into parts of about ``size``, no two of which write to the same chunk."""
        chunk = self._arrays[MARK].chunks[0]
        blocks: dict[int, list[int]] = {}
        for m in members:
            blocks.setdefault(self._rows[m] // chunk, []).append(m)
        parts: list[list[int]] = []
        for block in blocks.values():
            if parts and len(parts[-1]) + len(block) <= size:
                parts[-1] += block
            else:
                parts.append(block)
        return parts

    def complete(self, members: Sequence[int]) -> np.ndarray:
        """Return how many states of these members are complete."""
        rows, marks = np.array([self._rows[m] for m in members]), self._arrays[MARK]
        return np.concatenate([marks[place] for _, place in _runs(rows)])

    def read(self, members: Sequence[int], start: int, stop: int) -> dict[str, np.ndarray]:
        """Return states of some members, by variable."""
        rows = np.array([self._rows[m] for m in members])
        found = {}
        for name in self.names:
            dims = self._arrays[name].metadata.dimension_names
            parts = [
                self._arrays[name][
                    tuple({"member": place, self.time: slice(start, stop)}.get(d, slice(None)) for d in dims)
                ]
                for _, place in _runs(rows)
            ]
            found[name] = np.concatenate(parts, dims.index("member"))
        return found

    def write(self, values: Mapping[str, np.ndarray], members: Sequence[int], start: int = 0) -> None:
        """Write states of some members, from the state ``start`` on, and mark them as complete up to the last of them.

        Parameters
        ----------
        values
            By variable, an array with the dimensions of the variable in the store.
        members
            Numbers of the members, in the order of the arrays.
        start
            The first state that is written. All states before it must be complete. States that were complete from
            there on are replaced.
        """
        axes = {name: self._arrays[name].metadata.dimension_names for name in values}
        (count,) = {values[n].shape[d.index(self.time)] for n, d in axes.items() if self.time in d}
        rows = np.array([self._rows[m] for m in members])
        marks, states = self._arrays[MARK], slice(start, start + count)
        try:
            for own, place in _runs(rows):
                done = marks[place]
                if done.min() < start:
                    raise ValueError(
                        f"member {members[own.start + int(done.argmin())]} of {self.path} is complete up to state "
                        f"{done.min()} only; write its states from there on before those from {start} on"
                    )
                if done.max() > start:
                    marks[place] = np.full(len(done), start)
                for name, dims in axes.items():
                    region = {"member": place, self.time: states}
                    part = values[name][tuple(own if d == "member" else slice(None) for d in dims)]
                    self._arrays[name][tuple(region.get(d, slice(None)) for d in dims)] = part
                marks[place] = np.full(len(done), states.stop)
        except OSError as error:
            raise OSError(
                f"cannot write to {self.path}: {error.strerror or error}; the complete members are kept, and the same "
                "call continues with the others"
            ) from error

    def dataset(self) -> xr.Dataset:
        """Open the store lazily, with one dask chunk for each chunk of the store."""
        ds = xr.open_zarr(self.path, chunks={}, consolidated=False).drop_vars(MARK)
        return xr.Dataset({n: ds.variables[n] for n in self.names}, ds.coords, ds.attrs)


@contextmanager
def open_store(
    path: str | Path,
    template: xr.Dataset,
    *,
    time: str,
    run: Mapping[str, str],
    chunks: Mapping[str, int] | None = None,
    overwrite: bool = False,
) -> Iterator[EnsembleStore]:
    """Create a store, or open the store of an earlier call to continue it; no other run can open it meanwhile.

    Members that the store lacks are added. If ``template`` continues the times of the store, these are added too.

    Parameters
    ----------
    path
        The folder of the store. Its name ends in .zarr.
    template
        Coordinates and attributes of the result, and its variables with their dimensions and dtypes. The values of what
        has the dimension ``member`` are not read. They are missing until they are written.
    time
        Name of the time dimension.
    run
        What else the values depend on, as short texts under names that a user understands, such as ``{"seed": "0"}``.
        A store with another ``run`` or other coordinates raises an error that says what differs.
    chunks
        Sizes of the chunks of the store, by dimension. Default: one member, and whole dimensions otherwise. Those of an
        earlier call are kept.
    overwrite
        Replace what is there if this run cannot continue it.

    Yields
    ------
    EnsembleStore
        The store, for writing.
    """
    path, chunks = Path(path), {"member": 1, **(chunks or {})}
    if path.suffix != ".zarr":
        raise ValueError(f"{path} must end in .zarr to be written in pieces")
    check_output(path, overwrite=True)
    with locked(path):
        try:
            arrays = _continued(path, template, time, run) if path.exists() else None
        except FileExistsError:
            if not overwrite:
                raise
            arrays = None
        if arrays is None:
            _create(path, template, time, run, chunks)
        else:
            _grow(path, arrays, template, time)
        yield EnsembleStore(path, time, tuple(map(str, template.data_vars)))


def _arrays(path: Path) -> dict[str, Any]:
    import zarr

    return dict(zarr.open_group(str(path), mode="r+", use_consolidated=False).arrays())


def _create(path: Path, template: xr.Dataset, time: str, run: Mapping[str, str], chunks: Mapping[str, int]) -> None:
    """Write the labels of an empty store."""
    import dask.array as da

    attrs = {"long_name": "number of states that are complete, from the first on", "units": "1", "dimension": time}
    marks = ("member", np.zeros(template.sizes["member"], np.int32), {**attrs, "run": json.dumps(dict(run))})
    ds = template.assign_coords({MARK: marks})
    encoding: dict[Any, dict[str, Any]] = {"member": {"fill_value": ABSENT}}
    for name, v in ds.variables.items():
        if "member" in v.dims and name != "member":
            ds[name] = v.copy(data=da.zeros(v.shape, dtype=v.dtype, chunks=v.shape))  # nothing is computed
            own = tuple(min(chunks.get(str(d), n), n) for d, n in v.sizes.items())
            encoding[name] = {"chunks": own, "fill_value": np.nan if v.dtype.kind == "f" else 0}
    with replacing_folder(path) as folder:
        ds.to_zarr(folder, mode="w", compute=False, encoding=encoding, consolidated=False, zarr_format=3)


def _continued(path: Path, template: xr.Dataset, time: str, run: Mapping[str, str]) -> dict[str, Any]:
    """Return the arrays of a store if it belongs to this run; undo what a call that was killed began to add."""
    try:
        arrays = _arrays(path)
        json.loads(arrays[MARK].attrs["run"])
        members = arrays["member"][:]
    except Exception as error:  # not a store, not of this package, or written at once
        raise FileExistsError(
            f"{path} exists, and is no store that a run can continue; take another name, or pass overwrite=True to "
            "replace it"
        ) from error
    sizes = {"member": int((members != ABSENT).sum())}
    if time in arrays:
        sizes[time] = arrays[time].shape[0]
    _resize(arrays, sizes)
    with xr.open_zarr(path, chunks=None, consolidated=False) as old:
        _check(path, old, template, time, run)
    return arrays


def _resize(arrays: Mapping[str, Any], sizes: Mapping[str, int]) -> None:
    """Give arrays with the dimension ``member`` these sizes, the coordinate of the members last."""
    for array in sorted(arrays.values(), key=lambda a: a.basename == "member"):
        dims = array.metadata.dimension_names or ()  # none for scalars
        shape = tuple(sizes.get(d, n) for d, n in zip(dims, array.shape, strict=True))
        if "member" in dims and shape != array.shape:
            array.resize(shape)


def _check(path: Path, old: xr.Dataset, new: xr.Dataset, time: str, run: Mapping[str, str]) -> None:
    """Raise unless the store belongs to this run."""
    was = json.loads(old[MARK].attrs["run"])
    different = [f"{k} was {was.get(k)}, now {run.get(k)}" for k in {**was, **run} if was.get(k) != run.get(k)]
    if (lost := old.sizes.get(time, 0) - new.sizes[time]) > 0:
        different.append(f"its record and horizon are {lost} states longer")
    for name in {**new.variables, **old.variables}:
        if name != MARK and (how := _difference(old.variables.get(name), new.variables.get(name), time)):
            different.append(f"{name!r} {how}")
    if different:
        raise FileExistsError(
            f"{path} holds another run: {'; '.join(map(str, different))}; take another name, or pass overwrite=True to "
            "replace it"
        )


def _difference(old: xr.Variable | None, new: xr.Variable | None, time: str) -> str:
    """Say how a variable of the store differs from what is expected."""
    if old is None or new is None:
        return "is in only one of them"
    if old.dims != new.dims:
        return f"had the dimensions {old.dims}, now {new.dims}"
    if "member" in old.dims:
        return "" if old.dtype == new.dtype else f"was {old.dtype}, now {new.dtype}"
    common = {time: slice(min(old.sizes[time], new.sizes[time]))} if time in old.dims else {}
    a, b = old.isel(common).values, new.isel(common).values
    if a.shape == b.shape and a.dtype.kind == b.dtype.kind == "f":
        return "" if np.allclose(a, b, rtol=1e-6, atol=0, equal_nan=True) else "has other values"
    return "" if np.array_equal(a, b) else "has other values"


def _grow(path: Path, arrays: Mapping[str, Any], template: xr.Dataset, time: str) -> None:
    """Add the members and the times that the store lacks."""
    known = arrays["member"][:]
    fresh = np.setdiff1d(template["member"].values, known)
    fresh = template["member"].values[np.isin(template["member"].values, fresh)]  # in the order of the caller
    _resize(arrays, {"member": len(known) + len(fresh), time: template.sizes[time]})
    if len(fresh):
        arrays["member"][len(known) :] = fresh
    if time in arrays and (old := arrays[time].shape[0]) < template.sizes[time]:
        later = template.drop_dims("member").isel({time: slice(old, None)})
        later = later.drop_vars([n for n, v in later.variables.items() if time not in v.dims])
        later.to_zarr(path, append_dim=time, consolidated=False)


def _runs(rows: np.ndarray) -> Iterator[tuple[slice, slice]]:
    """Divide rows of the store into contiguous runs: where each is among ``rows``, and where in the store."""
    for _, group in groupby(enumerate(rows.tolist()), key=lambda pair: pair[1] - pair[0]):
        (first, row), *more = group
        yield slice(first, first + 1 + len(more)), slice(row, row + 1 + len(more))
