"""Computes members in blocks, with a progress bar.

``task(members, advance)`` computes a block. Its result depends only on the numbers of the members. It returns one
array (member, ...) for each variable, and one number per member for each of its ``notes``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch
import xarray as xr
from tqdm.auto import tqdm

from xsda.arguments import warn
from xsda.labels.grid import Field
from xsda.sampling.devices import out_of_memory, take

Block = tuple[Sequence[int], list[np.ndarray]]  # members, and what a task returned for them
HALVINGS = 6  # how often the memory for activations is halved before one member counts as too large


@dataclass
class Shared:
    """What the blocks of one ensemble share within a process."""

    warned: set[str] = field(default_factory=set)  # keys of warnings that were given
    best: tuple[float, float] | None = None  # second smallest deviance of the first members, and of their modes
    careful: bool = False  # whether members are drawn again by the careful sampler from the start
    room: int | None = None  # how many members at once fit into the memory of the device, once it was too small
    halved: int = 0  # how often the memory for activations was halved


@lru_cache(maxsize=256)
def shared(key: str) -> Shared:
    """Return what the blocks of the ensemble ``key`` share."""
    return Shared()


class Task(Protocol):
    """Computes a block of members."""

    @property
    def token(self) -> str: ...  # a hash of everything that its results depend on

    @property
    def shape(self) -> tuple[int, ...]: ...  # shape of one member as a tensor

    @property
    def fields(self) -> tuple[Field, ...]: ...  # one for each variable of the result

    @property
    def steps(self) -> int: ...

    @property
    def notes(self) -> tuple[str, ...]: ...

    @property
    def group(self) -> int: ...  # number of members that must be sampled together

    @property
    def device(self) -> str | Sequence[str]: ...  # where to compute

    @property
    def shared(self) -> Shared: ...

    def __call__(self, members: Sequence[int], advance: Callable[[int], None] | None = None) -> list[np.ndarray]: ...


def outputs(task: Task) -> list[tuple[tuple[int, ...], np.dtype]]:
    """Return the shape of one member and the dtype of each array that a task returns."""
    note = ((), np.dtype(np.float32))
    return [(f.shape, f.dtype) for f in task.fields] + [note] * len(task.notes)


def member_chunks(members: int, chunks: Any, core_dims: Sequence[str]) -> int | None:
    """Return the block size that ``chunks`` asks for; None if it leaves it open."""
    if chunks is None:
        return None
    if isinstance(chunks, dict):
        for dim in chunks:
            if dim != "member" and dim not in core_dims:
                raise ValueError(
                    f"chunks names {dim!r}, but the result has the dimensions {('member', *core_dims)}; use one of them"
                )
        split = {d: -1 for d in core_dims if chunks.get(d, -1) not in (-1, None)}
        if split:
            raise ValueError(
                f"chunks={chunks!r} divides {', '.join(map(repr, split))}, but a trajectory is sampled whole; use "
                f"{split!r} there{_instead(split, core_dims)}"
            )
        chunks = chunks.get("member", "auto")
    if chunks == "auto":
        return None
    if not isinstance(chunks, (int, np.integer)) or (chunks < 1 and chunks != -1):
        raise ValueError(f"chunks={chunks!r} for 'member' must be a positive integer, -1 or 'auto'")
    return members if chunks == -1 else min(int(chunks), members)


def check_core_chunks(ds: xr.Dataset, core_dims: Sequence[str]) -> None:
    """Raise if a dask-backed grid is chunked along time or space."""
    divided = {d: -1 for d in core_dims for v in ds.data_vars.values() if len(v.chunksizes.get(d, ())) > 1}
    if divided:
        raise ValueError(
            f"the grid is chunked along {list(divided)}, but a trajectory is sampled whole; use .chunk({divided!r})"
            f"{_instead(divided, core_dims)}"
        )


def _instead(divided: Iterable[str], core_dims: Sequence[str]) -> str:
    """Say what keeps memory small along dimensions that cannot be divided into chunks."""
    time, *space = core_dims
    hints = []
    if found := [d for d in divided if d in space]:
        hints.append(f"tiles={dict.fromkeys(found, 256)!r} if the grid does not fit into memory")
    if time in divided:
        hints.append("reanalyse a long record window by window")
    return f" ({', and '.join(hints)})"


def member_bar(total: int, *, done: int = 0, label: str, progress: bool | None) -> tqdm:
    """Return a progress bar that counts members, with their rate and the time that is left."""
    return tqdm(
        total=total, initial=done, desc=label, unit="member", disable=None if progress is None else not progress,
        bar_format="{l_bar}{bar}| {n:.0f}/{total} members [{elapsed}<{remaining}, {rate_fmt}]",
    )  # fmt: skip


def compute(task: Task, members: Sequence[int], *, batch: int, progress: bool | None, label: str) -> list[np.ndarray]:
    """Compute all members now, ``batch`` at a time; with fewer at a time if memory runs out."""
    with member_bar(len(members), label=label, progress=progress) as bar:
        return fill(task, members, batch=batch, bar=bar)


def fill(task: Task, members: Sequence[int], *, batch: int, bar: tqdm) -> list[np.ndarray]:
    """Do the same and move a bar that may count the members of other blocks, too."""
    out = [np.empty((len(members), *shape), dtype) for shape, dtype in outputs(task)]
    known = task.shared
    batch = min(batch, known.room or batch)
    start, before = 0, bar.n
    while start < len(members):
        part = slice(start, start + batch)
        try:
            found = task(members[part], _counter(bar, len(members[part]), task.steps))
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
        else:
            for whole, some in zip(out, found, strict=True):
                whole[part] = some
            start += batch
            bar.update(before + min(start, len(members)) - bar.n)
            continue
        torch.cuda.empty_cache()  # the memory of the failed call is free now
        bar.update(before + start - bar.n)
        batch = _fewer(task, min(batch, len(members)))
    return out


def _counter(bar: tqdm, members: int, steps: int) -> Callable[[int], None]:
    """Return a function that moves the bar at each step, but not at the steps of members that are drawn again."""
    left = steps

    def advance(_: int) -> None:
        nonlocal left
        left -= 1
        if left >= 0:
            bar.update(members / steps)

    return advance


def _fewer(task: Task, tried: int) -> int:
    """Return how many members to try after memory ran out with ``tried``.

    If no fewer can be tried, the memory for activations is halved instead.
    """
    known, members = task.shared, f"{tried} member{'s' * (tried > 1)}"
    if tried > task.group:
        if known.room is None:  # the first time
            warn(
                f"the device ran out of memory with {members} at once; continuing with fewer (a smaller batch=... "
                "avoids this attempt)"
            )
        known.room = max(task.group, tried // 2 // task.group * task.group)
        return known.room
    if known.halved == HALVINGS:
        raise MemoryError(
            f"the device has too little memory for {members} of shape {task.shape} at once; use precision='bf16', a "
            "shorter trajectory or a larger device"
        )
    if not known.halved:
        warn(
            f"the device ran out of memory with {members}; continuing with shorter pieces of the trajectory at once, "
            "which takes longer"
        )
    known.halved += 1
    return tried


def block(task: Task, batch: int, part: Sequence[int]) -> list[np.ndarray]:
    """Compute one block of members; on a device that is free."""
    with take(task.device):
        return compute(task, part, batch=batch, progress=False, label="")
