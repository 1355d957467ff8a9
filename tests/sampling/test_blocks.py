"""Members in blocks, on devices that are too small."""

import warnings
from types import SimpleNamespace

import dask
import numpy as np
import pytest
import torch
from lazy import computes_nothing

from xsda.sampling.blocks import Shared, compute
from xsda.sampling.graph import lazy


class Small:
    """A task on a device with room for ``room`` members; a member's value is its number."""

    shape, notes, steps, token, device = (3,), ("count",), 2, "small", "cpu"
    fields = (SimpleNamespace(shape=(3,), dtype=np.dtype(np.float32)),)

    def __init__(self, room, group=1):
        self.room, self.group, self.done, self.tries, self.shared = room, group, [], [], Shared()

    def __call__(self, members, advance=None):
        advance(0)
        self.tries.append(len(members))
        if len(members) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        advance(1)
        self.done += list(members)
        return [np.repeat(np.array(members, np.float32)[:, None], 3, 1), np.full(len(members), 7.0)]


@pytest.mark.parametrize(("room", "batch"), [(1, 16), (2, 5), (3, 11), (100, 4)])
def test_the_batch_is_halved_until_it_fits_with_one_notice(room, batch):
    task, members = Small(room), range(3, 14)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        values, notes = compute(task, members, batch=batch, progress=False, label="")
    np.testing.assert_array_equal(values, np.repeat(np.arange(3.0, 14)[:, None], 3, 1))
    assert (notes == 7).all()
    assert task.done == list(members)  # each once
    assert len(caught) == (room < min(batch, 11))
    assert not caught or "out of memory with" in str(caught[0].message)


@pytest.mark.parametrize("room", [16, 20, 33, 47])
def test_what_is_sampled_together_stays_together(room):
    """Populations of 16: each is computed once, whole."""
    task = Small(room, group=16)
    with pytest.warns(RuntimeWarning, match="out of memory"):
        compute(task, range(64), batch=64, progress=False, label="")
    assert task.done == list(range(64))
    task = Small(15, group=16)
    with pytest.raises(MemoryError, match="for 16 members"), pytest.warns(RuntimeWarning, match="out of memory"):
        compute(task, range(64), batch=64, progress=False, label="")


def test_a_member_that_does_not_fit_is_taken_in_shorter_pieces():
    class Long(Small):
        def __call__(self, members, advance=None):
            if self.shared.halved < 3:
                raise RuntimeError("CUDA error: out of memory")
            return super().__call__(members, advance)

    task = Long(1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        compute(task, range(4), batch=2, progress=False, label="")
    assert task.done == list(range(4))
    assert ["shorter pieces" in str(w.message) for w in caught] == [
        False,
        True,
    ]  # fewer members first; each is told once


def test_a_member_that_does_not_fit_is_an_error():
    with pytest.raises(MemoryError, match="for 1 member of"), pytest.warns(RuntimeWarning, match="out of memory"):
        compute(Small(0), range(4), batch=4, progress=False, label="")


def test_a_processor_without_memory_is_a_small_device():
    class Tight(Small):
        def __call__(self, members, advance=None):
            if len(members) > self.room:
                raise RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory")
            return super().__call__(members, advance)

    task = Tight(2)
    with pytest.warns(RuntimeWarning, match="out of memory with 5 members"):
        compute(task, range(5), batch=5, progress=False, label="")
    assert task.done == list(range(5))


def test_blocks_wait_for_nothing():
    """Each carries the task: a worker that has none of it yet starts as soon as the others."""
    task, members = Small(4), range(3, 14)
    with computes_nothing():
        values, notes = lazy(task, members, chunk=3, batch=2)
    needs = values.dask.get_all_dependencies()
    assert sum(not keys for keys in needs.values()) == 4
    assert all(len(keys) <= 1 for keys in needs.values())
    values, notes = dask.compute(values, notes, scheduler="synchronous")
    np.testing.assert_array_equal(values, np.repeat(np.arange(3.0, 14)[:, None], 3, 1))
    assert (notes == 7).all()
    assert sorted(task.done) == list(members)  # each once


def test_blocks_learn_from_each_other_what_fits():
    """One notice for all, and no block tries again what was too much before."""
    task = Small(2)
    with computes_nothing():
        values, _ = lazy(task, range(12), chunk=6, batch=6)
    with pytest.warns(RuntimeWarning, match="out of memory with 6 members") as caught:
        values = values.compute(scheduler="synchronous")
    np.testing.assert_array_equal(values[:, 0], np.arange(12))
    assert len(caught) == 1
    assert task.shared.room == 1
    assert task.tries == [6, 3, *12 * [1]]
