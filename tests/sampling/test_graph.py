"""The graph of 100,000 members is small, and only the blocks that are asked for are computed."""

import time

import cloudpickle
import dask
import numpy as np
import pytest
from dask._expr import HLGExpr
from lazy import computes_nothing
from test_blocks import Small

from xsda.sampling.graph import lazy

COUNT, CHUNK = 100_000, 10


@pytest.fixture
def many():
    """A task, its lazy values (member's number, three times), and notes."""
    task = Small(CHUNK)
    with computes_nothing(), dask.annotate(resources={"GPU": 1}):
        return task, *lazy(task, range(COUNT), chunk=CHUNK, batch=CHUNK)


def test_the_graph_is_small_and_quickly_made(many):
    _, values, notes = many
    start = time.process_time()
    optimised = dask.optimize(values, notes)
    assert time.process_time() - start < 5
    assert len(optimised[0].__dask_graph__()) == 3 * COUNT / CHUNK  # one for each block, and for each pick
    assert len(cloudpickle.dumps((values.__dask_graph__(), notes.__dask_graph__()))) < 50_000


@pytest.mark.parametrize(
    "way",
    [
        lambda x: x[99_985:].compute(scheduler="synchronous"),
        lambda x: x[99_985:].persist(scheduler="synchronous").compute(scheduler="synchronous"),
        lambda x: (x + 1).map_blocks(lambda b: b - 1, dtype=x.dtype)[99_985:].compute(scheduler="synchronous"),
        lambda x: dask.compute(x.blocks[9998:], scheduler="synchronous")[0][5:],
    ],
    ids=["compute", "persist", "map_blocks", "blocks"],
)
def test_only_what_is_asked_for_is_computed(many, way):
    task, values, _ = many
    np.testing.assert_array_equal(way(values), np.repeat(np.arange(99_985.0, COUNT)[:, None], 3, 1))
    assert sorted(task.done) == list(range(99_980, COUNT))


def test_each_block_is_computed_once_for_all_arrays(many):
    task, values, notes = many
    a, b = dask.compute(values[:35], notes[:35], scheduler="synchronous")
    assert (len(a), len(b), sorted(task.done)) == (35, 35, list(range(40)))


def test_annotations_hold_for_all_blocks(many):
    _, values, _ = many
    found = HLGExpr.from_collection(values, optimize_graph=True).optimize().__dask_annotations__()["resources"]
    assert sum(len(key) == 2 for key in found) == COUNT / CHUNK
    assert all(resources == {"GPU": 1} for resources in found.values())
