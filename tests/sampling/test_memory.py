"""Calls leave no memory behind."""

import gc

import psutil
import pytest


@pytest.mark.filterwarnings("ignore:.*do not fit:RuntimeWarning")
def test_forty_calls_leave_no_memory_behind(lorenz):
    """Without the garbage collector, which would hide reference cycles that hold activations."""
    truth, obs = lorenz

    def call():
        truth.sda.assimilate(obs, "lorenz63", members=1, steps=2, redraw=0, progress=False)

    for _ in range(10):  # what is allocated once
        call()
    gc.collect()
    gc.disable()
    try:
        before = psutil.Process().memory_info().rss
        for _ in range(40):
            call()
        assert psutil.Process().memory_info().rss - before < 8e6
    finally:
        gc.enable()
