"""Computes blocks of members and returns them as they finish: in this process, or on the cluster of a dask client."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from tqdm.auto import tqdm

from xsda.sampling.blocks import Block, Task, block, fill
from xsda.sampling.devices import find_devices
from xsda.sampling.spread import on_devices


def current_client() -> Any:
    """Return the ``dask.distributed.Client`` on which dask would compute now, or None."""
    if "distributed" not in sys.modules:
        return None
    from dask.base import get_scheduler

    try:
        client = getattr(get_scheduler(), "__self__", None)
    except RuntimeError:  # it is asynchronous: only its own ``compute`` uses it
        return None
    if client is not None and client.status == "closed":
        raise RuntimeError(
            "the dask Client has lost its scheduler; connect a new one, or compute in this process within "
            "dask.config.set(scheduler='threads')"
        )
    return client


def as_finished(task: Task, parts: Sequence[Sequence[int]], *, batch: int, bar: tqdm) -> Iterator[Block]:
    """Compute the ``parts`` of an ensemble, ``batch`` members at a time, and give each when it is finished.

    The bar counts members. On a cluster, or on several devices, the order is that in which they finish.
    """
    client = current_client()
    if client is not None:
        yield from on_cluster(client, partial(block, task, batch), parts, bar)
    elif len(devices := find_devices(task.device)) > 1:
        yield from on_devices(devices, task, parts, batch=batch, bar=bar)
    else:
        for part in parts:
            yield part, fill(task, part, batch=batch, bar=bar)


def on_cluster(client: Any, compute: Any, parts: Sequence[Sequence[int]], bar: tqdm) -> Iterator[Block]:
    """Yield each part of an ensemble with what ``compute`` returned for it, as the workers finish."""
    from distributed import as_completed
    from distributed.client import FutureCancelledError
    from distributed.scheduler import KilledWorker

    waiting = {
        future.key: (future, part)
        for future, part in zip(client.map(compute, parts, pure=False, key="xsda-members"), parts, strict=True)
    }
    try:
        for future in as_completed([future for future, _ in waiting.values()]):
            values = future.result()
            _, part = waiting.pop(future.key)
            del future  # the worker forgets the block
            bar.update(len(part))
            yield part, values
    except KilledWorker as error:
        raise RuntimeError(
            f"{error.allowed_failures + 1} workers died while they computed {_span(waiting[error.task][1])}, most "
            "likely for lack of memory; use a smaller batch, or workers with more memory"
        ) from error
    except FutureCancelledError as error:
        raise RuntimeError(
            "the scheduler lost this computation: it was restarted, or the connection to it broke; connect a Client "
            "and repeat the call"
        ) from error
    finally:
        if client.status == "running":
            client.cancel([future for future, _ in waiting.values()])


def _span(members: Sequence[int]) -> str:
    return f"member {members[0]}" if len(members) == 1 else f"members {min(members)} to {max(members)}"
