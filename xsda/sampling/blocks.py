"""Members in blocks: at once with a progress bar, or lazily as dask arrays.

A block is computed by a task, ``task(members, advance)``, that depends on nothing but the numbers of its members. It
returns one array (member, ...) for each variable, and one number a member for each of its ``notes``. Blocks depend on no
other node of the graph, so that all workers start at once; weights and observations are not in it, but references to them.
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, Protocol

import numpy as np
import torch
import xarray as xr
from tqdm.auto import tqdm

from xsda.arguments import warn
from xsda.labels.grid import Field
from xsda.sampling.devices import out_of_memory

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
    def token(self) -> str: ...  # a hash of all that its results depend on

    @property
    def shape(self) -> tuple[int, ...]: ...  # of one member, as a tensor

    @property
    def fields(self) -> tuple[Field, ...]: ...  # what comes out: one variable each

    @property
    def steps(self) -> int: ...

    @property
    def notes(self) -> tuple[str, ...]: ...

    @property
    def group(self) -> int: ...  # members that are sampled together

    @property
    def shared(self) -> Shared: ...

    def __call__(self, members: Sequence[int], advance: Callable[[int], None] | None = None) -> list[np.ndarray]: ...


def outputs(task: Task) -> list[tuple[tuple[int, ...], np.dtype]]:
    """Shape of one member, and precision, of each array that a task gives."""
    note = ((), np.dtype(np.float32))
    return [(f.shape, f.dtype) for f in task.fields] + [note] * len(task.notes)


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


def compute(task: Task, members: Sequence[int], *, batch: int, progress: bool | None, label: str) -> list[np.ndarray]:
    """All members now, ``batch`` at a time."""
    out = [np.empty((len(members), *shape), dtype) for shape, dtype in outputs(task)]
    known = task.shared
    batch = min(batch, known.room or batch)
    disable = None if progress is None else not progress
    with tqdm(total=-(-len(members) // batch) * task.steps, desc=label, unit="step", disable=disable) as bar:
        start = 0
        while start < len(members):
            part = slice(start, start + batch)
            try:
                found = task(members[part], _counter(bar, task.steps))
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                short = min(batch, len(members))
            else:
                for whole, some in zip(out, found, strict=True):
                    whole[part] = some
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
                    warn(
                        f"the device ran out of memory with {short} member{'s' * (short > 1)}; going on with shorter pieces of "
                        "the trajectory at once, which takes longer"
                    )
                known.halved += 1
                continue
            if known.room is None:  # the first time
                warn(
                    f"the device ran out of memory with {short} members at once; going on with fewer (a smaller batch=... "
                    "from the start saves the detour)"
                )
            batch = known.room = max(task.group, short // 2 // task.group * task.group)
            bar.total = bar.n + -(-(len(members) - start) // batch) * task.steps
    return out


def lazy(task: Task, members: Sequence[int], *, chunk: int, batch: int) -> list[Any]:
    """The same as dask arrays with ``chunk`` members a block; nothing runs until it is asked for."""
    import dask.array as da
    from dask.base import tokenize
    from dask.highlevelgraph import HighLevelGraph, MaterializedLayer

    name = f"xsda-{tokenize(task.token, list(members), chunk, batch)}"
    parts = [members[start : start + chunk] for start in range(0, len(members), chunk)]
    blocks = MaterializedLayer({(name, i): (partial(_block, task, batch, part),) for i, part in enumerate(parts)})
    rows = tuple(len(part) for part in parts)
    found = []
    for k, (shape, dtype) in enumerate(outputs(task)):
        own, whole = f"{name}-{k}", (0,) * len(shape)
        picks = {(own, i, *whole): (operator.getitem, (name, i), k) for i in range(len(parts))}
        graph = HighLevelGraph({name: blocks, own: MaterializedLayer(picks)}, {name: set(), own: {name}})
        found.append(_kept_whole(da.Array)(graph, own, chunks=(rows, *((n,) for n in shape)), dtype=dtype))
    return found


@lru_cache(maxsize=1)
def _kept_whole(base: type) -> type:
    """A dask array whose graph is culled, not fused, when computed: fusion drops the annotations of its layer."""

    class Ensemble(base):
        __slots__ = ()
        __dask_optimize__ = staticmethod(_cull)

    return Ensemble


def _cull(graph: Any, keys: Any, **_: Any) -> Any:
    from dask.core import flatten

    return graph.cull(set(flatten([keys])))


def _block(task: Task, batch: int, part: Sequence[int]) -> list[np.ndarray]:
    with DEVICE_LOCK:
        return compute(task, part, batch=batch, progress=False, label="")
