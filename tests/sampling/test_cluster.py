"""Two worker processes that share no files with us, and fail: the same numbers come out, or one sentence."""

import os
import signal
import sys

import cloudpickle
import dask
import fresh
import numpy as np
import pytest
import xarray as xr

import xsda
from xsda.diffusion.samplers import DPMpp2M, NonFiniteSampleError
from xsda.files import cache_dir
from xsda.sampling import sending
from xsda.sampling.store import MARK, EnsembleStore

distributed = pytest.importorskip("distributed")
pytest.importorskip("zarr")
pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs Linux")
cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers do not know the tests


class Wild(DPMpp2M):
    """Member 7 diverges."""

    def sample(self, denoiser, noise, **options):
        x = super().sample(denoiser, noise, **options)
        x[[i for i, m in enumerate(noise.members) if m == 7]] = 1e6
        return x


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """A cluster whose workers have another cache. The path of ours goes by a number that only this process knows."""
    fresh.prepare()
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "ours").mkdir()
    ours = os.open(folder / "ours", os.O_RDONLY)
    settings = {"distributed.worker.multiprocessing-method": fresh.CONTEXT.get_start_method()}
    with pytest.MonkeyPatch.context() as patch, dask.config.set(settings):
        patch.chdir(folder)
        patch.setenv("XSDA_CACHE", f"/proc/self/fd/{ours}")
        with (
            distributed.LocalCluster(
                n_workers=2, threads_per_worker=1, dashboard_address=None, env={"XSDA_CACHE": str(folder / "theirs")}
            ) as cluster,
            distributed.Client(cluster) as client,
        ):
            yield client
    os.close(ours)


@pytest.fixture(scope="module")
def draw():
    """Draw from a prior that is only in memory, with 2,000 observations, which are too many for the graph."""
    grid = xr.Dataset({"u": (("time", "y"), np.zeros((40, 50)))}, {"time": np.arange(40.0), "y": np.arange(50.0)})
    near = [np.exp(-np.abs(np.subtract.outer(np.arange(n), np.arange(n))) / 8) for n in (40, 50)]
    prior = xsda.GaussianPrior.separable(grid, *near)

    def draw(level=1.0, **options):
        return grid.sda.assimilate(
            grid + level, prior, **{"members": 12, "sigma": 0.5, "steps": 8, "progress": False, **options}
        )

    return draw


@pytest.fixture(scope="module")
def expected(draw):
    return draw(batch=2)


def interrupted(monkeypatch, after, interruption):
    """Call a function instead of a write to a store."""
    write, done = EnsembleStore.write, []

    def counted(store, *arguments, **options):
        if len(done) == after:
            interruption()
        done.append(write(store, *arguments, **options))

    monkeypatch.setattr(EnsembleStore, "write", counted)


def kill(client):
    pid = next(iter(client.run(os.getpid).values()))
    os.kill(pid, signal.SIGKILL)


def test_a_prior_in_memory_and_many_observations_reach_the_workers_once(client, draw, expected, monkeypatch):
    sent = []
    monkeypatch.setattr(
        client,
        "register_plugin",
        lambda plugin: sent.append(plugin.name) or type(client).register_plugin(client, plugin),
    )
    post = draw(chunks={"member": 2})
    assert len(sent) == 2
    assert len(cloudpickle.dumps(post.u.__dask_graph__())) < 50_000
    xr.testing.assert_allclose(post.compute(), expected, rtol=1e-4, atol=1e-4)
    draw(chunks={"member": 3})
    assert len(sent) == 2
    monkeypatch.setattr(sending, "KEPT_BYTES", 0)
    draw(chunks={"member": 3}, level=2.0)  # other observations, and the same prior
    assert len(sent) == 3
    known = client.run_on_scheduler(
        lambda dask_scheduler: [n for n in dask_scheduler.worker_plugins if n.startswith("xsda/")]
    )
    assert sorted(known) == sorted([sent[0], sent[2]])


def test_a_killed_worker_changes_nothing(client, draw, expected, monkeypatch, capsys):
    """Its successor receives the files, too."""
    interrupted(monkeypatch, 1, lambda: kill(client))
    post = draw(chunks={"member": 2}, out="killed.zarr", progress=True)
    np.testing.assert_array_equal(post.u, expected.u)
    assert "12/12 members" in capsys.readouterr().err


def test_workers_that_die_of_a_block_are_one_sentence(client, draw, expected, monkeypatch):
    monkeypatch.setattr(client.cluster.scheduler, "allowed_failures", 0)
    interrupted(monkeypatch, 1, lambda: kill(client))
    with pytest.raises(
        RuntimeError, match=r"^1 workers? died while .* members \d+ to \d+, most likely for lack of memory"
    ):
        draw(chunks={"member": 2}, out="dead.zarr")


def test_a_member_that_diverges_is_named_and_the_others_are_kept(client, draw):
    options = {"chunks": {"member": 2}, "out": "wild.zarr", "sampler": Wild(steps=8)}
    with pytest.raises(NonFiniteSampleError, match=r"^member 7 diverged") as caught:
        draw(**options)
    assert "members are kept in wild.zarr" in caught.value.__notes__[0]
    others = [m for m in range(12) if m != 7]
    post = draw(**options, members=others)
    assert post.member.values.tolist() == others
    assert np.isfinite(post.u).all()
    seen = xr.open_zarr("wild.zarr", consolidated=False).load()
    assert seen.member[seen[MARK] == 0].values.tolist() == [7]


def test_a_worker_without_room_for_the_prior_is_one_sentence(client, draw):
    theirs = next(iter(client.run(cache_dir).values()))
    client.run(lambda: os.environ.update(XSDA_CACHE="/dev/null/full"))
    try:
        with pytest.raises(OSError, match=r"^cannot keep files .* set XSDA_CACHE .*, on the worker tcp") as caught:
            draw(chunks={"member": 2})
        assert "\n" not in str(caught.value)
    finally:
        client.run(lambda: os.environ.update(XSDA_CACHE=str(theirs)))


def test_a_scheduler_that_ends_is_one_sentence_and_the_call_continues(client, draw, expected, monkeypatch):
    """Without a cluster, then: the same numbers."""
    with monkeypatch.context() as patch:
        interrupted(patch, 2, client.cluster.close)
        with pytest.raises(RuntimeError, match=r"^the scheduler lost this computation"):
            draw(chunks={"member": 2}, out="lost.zarr")
    with pytest.raises(RuntimeError, match="has lost its scheduler; connect a new one"):
        draw(chunks={"member": 2}, out="lost.zarr")
    with dask.config.set(scheduler="threads"):
        assert (xr.open_zarr("lost.zarr", consolidated=False)[MARK] == 40).sum() == 6
        np.testing.assert_array_equal(draw(chunks={"member": 2}, out="lost.zarr").u, expected.u)
