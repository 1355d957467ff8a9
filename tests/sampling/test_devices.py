"""Members go to the devices that are free, and come out the same on each of them."""

import gc
import pickle
import sys
import threading
import weakref
from types import SimpleNamespace

import dask
import fresh
import numpy as np
import pytest
import torch
import xarray as xr
from test_blocks import Small

import xsda
from xsda.sampling import devices, half, task
from xsda.sampling.devices import find_devices, take
from xsda.sampling.graph import lazy

pytestmark = pytest.mark.filterwarnings("ignore:.*do not fit:RuntimeWarning")

FOUR = tuple(torch.device("cpu", i) for i in range(4))  # torch computes on each of them as on the CPU
QUICK = {"steps": 4, "redraw": 0, "progress": False}
IN_WORKERS = """
import torch
from xsda.sampling import devices, task
devices.installed = lambda: tuple(torch.device("cpu", i) for i in range(4))
devices.seen, of = [], task.Placed.of
task.Placed.of = lambda own, device: devices.seen.append(str(device)) or of(own, device)
"""


@pytest.fixture
def gpus(monkeypatch):
    """Four CUDA devices that cannot compute."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)


@pytest.fixture
def four(monkeypatch):
    """Four devices that can compute, and a list of those on which something was placed."""
    monkeypatch.setattr(devices, "installed", lambda: FOUR)
    seen, place = [], task.place
    monkeypatch.setattr(task, "place", lambda *a: seen.append(a[2]) or place(*a))
    return seen


def assimilated(lorenz, **options):
    truth, obs = lorenz
    return truth.sda.assimilate(obs, "lorenz63", members=8, **{**QUICK, **options})


def test_names_of_devices(gpus):
    cuda = [torch.device("cuda", i) for i in range(4)]
    assert find_devices("auto") == find_devices("cuda") == tuple(cuda)
    assert find_devices("cuda:2") == find_devices(torch.device("cuda:2")) == (cuda[2],)
    assert find_devices(["cuda:3", "cpu", "cuda:3", "cuda:1"]) == (cuda[3], torch.device("cpu"), cuda[1])
    assert find_devices("cpu") == (torch.device("cpu"),)


@pytest.mark.parametrize("name", ["cuda:4", ["cuda:0", "cuda:7"], "mps"])
def test_a_device_that_does_not_exist_is_refused_with_those_that_do(gpus, name):
    with pytest.raises(ValueError, match=r"only cuda:0, cuda:1, cuda:2, cuda:3, cpu here"):
        find_devices(name)


def test_the_current_gpu_is_the_first(gpus, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 2)
    assert [d.index for d in find_devices("auto")] == [2, 3, 0, 1]


def test_blocks_use_all_devices_and_each_for_one_block_at_a_time(gpus):
    """Four blocks wait for each other: they could not end if they did not run at once."""
    meeting, running, most, used = threading.Barrier(4, timeout=20), [], [], set()

    class Task(Small):
        device = "auto"

        def __call__(self, members, advance=None):
            own = devices.pick_device("auto")
            running.append(own)
            most.append(running.count(own))
            used.add(own)
            meeting.wait()
            running.remove(own)
            return super().__call__(members, advance)

    values, _ = lazy(Task(100), range(32), chunk=2, batch=2)
    values = values.compute(scheduler="threads", num_workers=8)
    np.testing.assert_array_equal(values[:, 0], np.arange(32))
    assert max(most) == 1
    assert len(used) == 4


def test_a_device_is_free_again_after_an_error():
    for _ in range(2):
        with pytest.raises(KeyError), take("cpu"):
            raise KeyError


@pytest.mark.parametrize("options", [{"batch": 2}, {"chunks": {"member": 3}}, {"device": ["cpu:1", "cpu:3"]}])
def test_members_are_the_same_on_every_device(lorenz, four, options):
    one = assimilated(lorenz, device="cpu:0")
    del four[:]
    several = assimilated(lorenz, **options).compute(scheduler="threads", num_workers=4)
    xr.testing.assert_allclose(several, one, rtol=1e-4, atol=1e-4)
    assert len(set(four)) == len(four) > 1  # each device that was used got the weights once


def test_weights_go_to_a_worker_once_and_leave_with_the_task(lorenz, four, monkeypatch):
    seen = []
    of = task.Placed.of
    monkeypatch.setattr(task.Placed, "of", lambda *a: seen.append(weakref.ref(made := of(*a))) or made)
    lazily = assimilated(lorenz, chunks={"member": 2}, device="cpu:1")
    blocks = [v for k, v in dict(lazily.x.__dask_graph__()).items() if len(k) == 2]
    for block in blocks:
        pickle.loads(pickle.dumps(block))()  # as a worker receives it
    assert len(blocks) == 4
    assert len(four) == 1
    del seen[:], four[:]
    lazily.compute(scheduler="threads", num_workers=4)
    assert four == [FOUR[1]]
    assert seen[0]() is not None
    del lazily, blocks, block
    gc.collect()
    assert seen[0]() is None


@pytest.mark.parametrize("workers", [1, 2, 3, 4, 6])
def test_workers_of_a_host_use_all_of_its_devices(gpus, monkeypatch, workers):
    shares = []
    monkeypatch.setitem(
        sys.modules, "distributed.worker", SimpleNamespace(get_worker=lambda: SimpleNamespace(address=""))
    )
    for rank in range(workers):
        monkeypatch.setattr(devices, "_rank", lambda _, rank=rank: (rank, workers))
        shares.append(find_devices("auto"))
    cuda = devices.installed()[:4]
    counts = [sum(d in share for share in shares) for d in cuda]
    assert all(shares)
    assert min(counts) == max(1, workers // 4)
    assert max(counts) == -(-workers // 4)
    monkeypatch.setitem(sys.modules, "dask_cuda", None)
    assert find_devices("auto") == cuda[:1]  # its workers see their own device first


def test_two_processes_use_two_devices(lorenz, four):
    distributed = pytest.importorskip("distributed")
    fresh.prepare()
    one = assimilated(lorenz, device="cpu:0")
    with (
        dask.config.set({"distributed.worker.multiprocessing-method": fresh.CONTEXT.get_start_method()}),
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        client.run(exec, IN_WORKERS, {})
        shares = [
            client.submit(find_devices, "auto", workers=[w], pure=False) for w in client.scheduler_info()["workers"]
        ]
        assert {tuple(map(str, s)) for s in client.gather(shares)} == {("cpu:0", "cpu:2"), ("cpu:1", "cpu:3")}
        several = assimilated(lorenz, chunks={"member": 1}).compute()
        seen = client.run(eval, "__import__('sys').modules['xsda.sampling.devices'].seen")
    xr.testing.assert_allclose(several, one, rtol=1e-4, atol=1e-4)
    assert sorted(seen.values()) == [["cpu:0"], ["cpu:1"]]


def test_half_precision_is_used_where_it_agrees(lorenz, recwarn):
    plain, rough = assimilated(lorenz), assimilated(lorenz, precision="bf16")
    difference = np.abs(rough.x - plain.x)
    assert 0 < difference.median() < 0.05 * float(plain.x.std())
    assert not [w for w in recwarn if "bf16" in str(w.message)]


@pytest.mark.parametrize("factor", [-1.0, float("nan")])
def test_half_precision_that_disagrees_is_not_used(lorenz, monkeypatch, factor):
    """One value in sixteen is wrong."""
    plain, forward = assimilated(lorenz), half.Half.forward

    def wrong(self, *inputs):
        y = forward(self, *inputs)
        return torch.where(torch.arange(y.numel()).reshape(y.shape) % 16 == 0, factor * y, y)

    monkeypatch.setattr(half.Half, "forward", wrong)
    with pytest.warns(RuntimeWarning, match="precision='bf16' the network differs by") as caught:
        checked = assimilated(lorenz, precision="bf16", batch=2)
    xr.testing.assert_allclose(checked, plain, rtol=1e-4, atol=1e-4)
    assert sum("bf16" in str(w.message) for w in caught) == 1


def test_what_may_differ_is_a_share_of_the_error_of_the_prior():
    """A denoiser that is off by a known constant."""
    prior = xsda.load_model("lorenz63")
    least = float(prior.error(torch.tensor(half.LEVELS[0])).min())

    class Off(torch.nn.Module):
        schedule = prior.schedule

        def linearised(self, x, t):
            return prior.denoiser(x, t) + 0.25 * least

    found = half.disagreement(
        Off(), prior.denoiser, prior.error, xsda.diffusion.MemberNoise(0, [0], (16, 3)), gradient=True
    )
    assert found == pytest.approx(0.25, rel=1e-3)
