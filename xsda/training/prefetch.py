"""Prepare samples ahead in a thread, so that the device does not wait for the data."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Prefetched(Generic[Item]):
    """An endless iterator that is computed ahead.

    ``waited`` counts the seconds that its user has waited.

    Parameters
    ----------
    source
        The iterator.
    depth
        Maximum number of items that are ready.

    Examples
    --------
    >>> import itertools
    >>> from xsda.training.prefetch import Prefetched
    >>> with Prefetched(itertools.count()) as numbers:
    ...     print(next(numbers), next(numbers))
    0 1
    """

    def __init__(self, source: Iterator[Item], depth: int = 2):
        self.waited = 0.0
        self._source = source
        self._ready: queue.Queue[Item | BaseException] = queue.Queue(depth)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True, name="xsda-prefetch")

    def __enter__(self) -> Prefetched[Item]:
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()

    def __iter__(self) -> Prefetched[Item]:
        return self

    def __next__(self) -> Item:
        started = time.perf_counter()
        item = self._ready.get()
        self.waited += time.perf_counter() - started
        if isinstance(item, BaseException):
            raise item
        return item

    def _work(self) -> None:
        try:
            for item in self._source:
                if not self._put(item):
                    return
        except BaseException as error:  # raised by the next call
            self._put(error)

    def _put(self, item: Item | BaseException) -> bool:
        while not self._stop.is_set():
            try:
                self._ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False
