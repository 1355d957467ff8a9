"""Members in blocks: at once with a progress bar, or lazily as a dask array.

A block is computed by a task, ``task(members, advance)``, that depends on nothing but the numbers of its members. It
returns the members (member, ...) and one number a member for each of its ``notes``. Every block of the graph carries the
task and depends on no other node, so that all workers start at once; the weights of a network are not in it.
"""

from __future__ import annotations

import threading
import uuid
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, Protocol

import numpy as np
import torch
import xarray as xr
from tqdm.auto import tqdm

from xsda.arguments import whole_number
from xsda.devices import out_of_memory

HALVINGS = 6  # of the room for activations of one member, before that is too large
DEVICE_LOCK = threading.Lock()  # one block at a time in a process: torch uses the cores, or the GPU, by itself


@dataclass
class Shared:
    """What the blocks of one ensemble know of each other, in a process."""

    warned: set[str] = field(default_factory=set)  # warnings that were given
    best: tuple[float, float] | None = None  # deviance of the second best of the first members, and of their modes
    room: int | None = None  # members that the device's memory was found to have room for
    halved: int = 0  # how often the room for activations was halved, since it had none for one member


@lru_cache(maxsize=256)
def shared(key: str) -> Shared:
    """That of the ensemble ``key``."""
    return Shared()


class Task(Protocol):
    """What a block is computed by."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def steps(self) -> int: ...

    @property
    def notes(self) -> tuple[str, ...]: ...

    @property
    def group(self) -> int: ...  # members that are sampled together

    @property
    def shared(self) -> Shared: ...

    def __call__(
        self, members: Sequence[int], advance: Callable[[int], None] | None = None
    ) -> tuple[np.ndarray, np.ndarray]: ...


def member_numbers(members: int | Sequence[int]) -> Sequence[int]:
    """The numbers of the members that are wanted."""
    if not isinstance(members, Sequence) or isinstance(members, str):
        return range(whole_number("members", members, least=1))
    numbers = [whole_number("members", m, least=0) for m in members]
    if not numbers or len(set(numbers)) < len(numbers):
        raise ValueError(f"members={members!r} must name each member once, and at least one")
    return numbers


def member_chunks(members: int, chunks: Any, core_dims: Sequence[str]) -> int | None:
    """The block size that ``chunks`` asks for; None if it does not ask."""
    if chunks is None:
        return None
    if isinstance(chunks, dict):
        for dim in chunks:
            if dim != "member" and dim not in core_dims:
                raise ValueError(f"chunks names {dim!r}; the result has the dimensions {('member', *core_dims)}")
        split = {d: -1 for d in core_dims if chunks.get(d, -1) not in (-1, None)}
        if split:
            raise ValueError(
                f"chunks={chunks!r} divides {', '.join(map(repr, split))}, but a trajectory is sampled whole; use {split!r} there"
            )
        chunks = chunks.get("member", "auto")
    if chunks == "auto":
        return None
    if not isinstance(chunks, (int, np.integer)) or (chunks < 1 and chunks != -1):
        raise ValueError(f"chunks={chunks!r} for 'member' must be a positive integer, -1 or 'auto'")
    return members if chunks == -1 else min(int(chunks), members)


def check_core_chunks(ds: xr.Dataset, core_dims: Sequence[str]) -> None:
    """Raise if a dask-backed grid is divided along a dimension that must be whole."""
    divided = {d: -1 for d in core_dims for v in ds.data_vars.values() if len(v.chunksizes.get(d, ())) > 1}
    if divided:
        raise ValueError(
            f"the grid is chunked along {list(divided)}, but a trajectory is sampled whole; use .chunk({divided!r})"
        )


def _counter(bar: tqdm, steps: int) -> Callable[[int], None]:
    """Moves the bar by a step; where members are drawn again, its total grows by the steps of a draw."""
    due = bar.n + steps

    def advance(_: int) -> None:
        nonlocal due
        if bar.n >= due:
            due += steps
            bar.total += steps
        bar.update()

    return advance


def compute(
    task: Task, members: Sequence[int], *, batch: int, progress: bool | None, label: str
) -> tuple[np.ndarray, np.ndarray]:
    """All members now, ``batch`` at a time: their values, and notes (member, note)."""
    out = np.empty((len(members), *task.shape), np.float32)
    notes = np.empty((len(members), len(task.notes)), np.float32)
    known = task.shared
    batch = min(batch, known.room or batch)
    disable = None if progress is None else not progress
    with tqdm(total=-(-len(members) // batch) * task.steps, desc=label, unit="step", disable=disable) as bar:
        start = 0
        while start < len(members):
            part = slice(start, start + batch)
            try:
                out[part], notes[part] = task(members[part], _counter(bar, task.steps))
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                short = min(batch, len(members))
            else:
                start += batch
                continue
            torch.cuda.empty_cache()  # what the failed call held is free by now
            if short <= task.group:
                if known.halved == HALVINGS:
                    raise MemoryError(
                        f"the device has too little memory for {short} member{'s' * (short > 1)} of shape {task.shape} at once; use "
                        "precision='bf16', a shorter trajectory or a larger device"
                    )
                if not known.halved:
                    warnings.warn(
                        f"the device ran out of memory with {short} member{'s' * (short > 1)}; going on with shorter pieces of "
                        "the trajectory at once, which takes longer",
                        RuntimeWarning,
                        stacklevel=2,
                    )
                known.halved += 1
                continue
            if known.room is None:  # the first time
                warnings.warn(
                    f"the device ran out of memory with {short} members at once; going on with fewer (a smaller batch=... "
                    "from the start saves the detour)",
                    RuntimeWarning,
                    stacklevel=2,
                )
            batch = known.room = max(task.group, short // 2 // task.group * task.group)
            bar.total = bar.n + -(-(len(members) - start) // batch) * task.steps
    return out, notes


def lazy(task: Task, members: Sequence[int], *, chunk: int, batch: int) -> tuple[Any, Any]:
    """The same as dask arrays with ``chunk`` members a block; nothing runs until it is asked for."""
    import dask
    import dask.array as da

    run = dask.delayed(partial(_block, task, batch), nout=2, name="xsda-block", traverse=False)
    name = f"xsda-ensemble-{uuid.uuid4().hex}"
    values, notes = [], []
    for start in range(0, len(members), chunk):
        part = list(members[start : start + chunk])
        block = run(part, dask_key_name=f"{name}-{start:08d}")
        values.append(da.from_delayed(block[0], (len(part), *task.shape), np.float32, meta=np.empty(0, np.float32)))
        notes.append(da.from_delayed(block[1], (len(part), len(task.notes)), np.float32, meta=np.empty(0, np.float32)))
    return da.concatenate(values), da.concatenate(notes)


def _block(task: Task, batch: int, part: list[int]) -> tuple[np.ndarray, np.ndarray]:
    with DEVICE_LOCK:
        return compute(task, part, batch=batch, progress=False, label="")
