"""What proves that something is lazy: a scheduler that refuses to compute."""

from contextlib import contextmanager

import dask


def _refuse(graph, keys, **options):
    raise AssertionError("dask computed something that should have stayed lazy")


@contextmanager
def computes_nothing():
    """Fail if dask computes anything inside the block."""
    with dask.config.set(scheduler=_refuse):
        yield
