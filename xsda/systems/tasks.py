"""Numbered tasks run by dask: in this process, in several processes, or on a cluster."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool


def run(
    task: Callable[[int], None],
    numbers: Sequence[int],
    *,
    workers: int = 1,
    scheduler: str | None = None,
    advance: Callable[[], object] = lambda: None,
) -> None:
    """Call ``task`` with each number. ``advance`` is called in this process each time a task is done.

    After the first error, running tasks are completed and no new ones are started.

    Parameters
    ----------
    workers
        Number of processes on this machine.
    scheduler
        Address of a dask cluster, used instead of processes on this machine.
    """
    try:
        if numbers and scheduler is not None:
            _on_cluster(task, numbers, scheduler, advance)
        elif numbers:
            _on_this_machine(task, numbers, min(workers, len(numbers)), advance)
    except BrokenProcessPool as error:
        raise RuntimeError(
            "a worker process died: it ran out of memory, or a script starts the work outside `if __name__ == "
            "'__main__':`. Finished work is kept; repeat the call to continue"
        ) from error
    except Exception as error:
        original = getattr(error, "exception", None)  # without the traceback that dask adds to the message
        if isinstance(original, Exception):
            raise original from error
        raise


def _on_this_machine(
    task: Callable[[int], None], numbers: Sequence[int], workers: int, advance: Callable[[], object]
) -> None:
    import dask
    from dask.callbacks import Callback

    nodes = [dask.delayed(task)(i, dask_key_name=f"xsda-task-{i:06d}") for i in numbers]
    with Callback(posttask=lambda *_: advance() and None):
        if workers == 1:
            dask.compute(*nodes, scheduler="synchronous")
            return
        context = multiprocessing.get_context("spawn")  # JAX and torch can hang after a fork
        with ProcessPoolExecutor(workers, context, _begin_worker) as pool:
            dask.compute(*nodes, scheduler="processes", pool=pool, chunksize=1)


def _begin_worker() -> None:
    """Use one thread, print no traceback at Ctrl-C, and end when the parent process ends."""
    import torch

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = multiprocessing.parent_process()

    def end() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=end, daemon=True).start()


def _on_cluster(
    task: Callable[[int], None], numbers: Sequence[int], scheduler: str, advance: Callable[[], object]
) -> None:
    try:
        from distributed import Client, as_completed
    except ImportError as error:
        raise ImportError("a cluster needs distributed; pip install 'xsda[cluster]'") from error
    with Client(scheduler) as client:
        for future in as_completed([client.submit(task, i, pure=False) for i in numbers]):
            future.result()
            advance()
