"""Data sets of many trajectories: what they hold, and what survives interruptions."""

import os
import shutil
import signal
import subprocess
import sys
import time

import fresh
import numpy as np
import pytest
import scipy.linalg
import torch
import xarray as xr

from xsda.systems import DampedSpring, KolmogorovFlow, Lorenz63, Lorenz96, MarkovChain
from xsda.systems.simulation import Request, simulate_to

RING = Lorenz96(n=6, noise=0.1)


def small(path, system=RING, **options):
    return simulate_to(path, system, **{"trajectories": 5, "length": 4, "burn_in": 20, "progress": False, **options})


def load(path):
    with xr.open_dataset(path, engine="h5netcdf" if path.suffix in (".h5", ".hdf5") else None) as ds:
        return ds.load()


def values(path):
    return load(path).u.values


class Fragile(MarkovChain):
    """Squares its state: what begins beyond one is soon infinite."""

    def step(self, x):
        return x * x


@pytest.fixture
def quick(monkeypatch):
    """Workers are forks of an interpreter that has imported torch. The test of a killed run starts them from nothing."""
    monkeypatch.setattr("multiprocessing.get_context", lambda method: fresh.CONTEXT)


@pytest.fixture
def broken(monkeypatch):
    """Makes trajectories fail from the ``after``-th on."""

    def arrange(after, error):
        done = []
        whole = Request.trajectory

        def trajectory(self, number):
            if len(done) == after:
                raise error
            done.append(number)
            return whole(self, number)

        monkeypatch.setattr(Request, "trajectory", trajectory)
        return done

    yield arrange
    monkeypatch.undo()


def test_a_trajectory_does_not_depend_on_how_many_there_are(tmp_path):
    five, two, other = (
        values(small(tmp_path / f"{n}{s}.nc", seed=s, trajectories=n)) for n, s in ((5, 7), (2, 7), (5, 8))
    )
    np.testing.assert_array_equal(two, five[:2])
    assert abs(other - five).min() > 0
    assert sorted(os.listdir(tmp_path)) == ["27.nc", "57.nc", "58.nc"]


@pytest.mark.usefixtures("quick")
def test_a_flow_is_the_same_on_two_workers(tmp_path):
    pytest.importorskip("jax_cfd")
    system = KolmogorovFlow(resolution=16)
    options = {"trajectories": 2, "length": 2, "burn_in": 2, "coarsen": 4, "seed": 1}
    one, two = (load(small(tmp_path / f"{w}.zarr", system, workers=w, **options)) for w in (1, 2))
    xr.testing.assert_equal(one, two)
    assert one.u.dtype == np.float32
    together = system.simulate(2, members=2, burn_in=2, coarsen=4, seed=1).rename(member="trajectory")
    xr.testing.assert_equal(one, together)
    xr.testing.assert_identical(one.forcing, together.forcing)


def test_trajectories_are_the_members_of_a_simulation(tmp_path):
    system = Lorenz96(n=12)
    ds = load(small(tmp_path / "a.nc", system, trajectories=9, every=3, coarsen=2, seed=4))
    members = system.simulate(4, members=16, burn_in=20, every=3, coarsen=2, seed=4)
    expected = members.isel(member=slice(9)).rename(member="trajectory")
    xr.testing.assert_allclose(ds, expected, rtol=1e-12)
    assert ds.trajectory.attrs["long_name"] == "number of the trajectory"
    assert ds.x.attrs == {"axis": "X", "units": "1", "period": 12.0}
    assert ds.u.dims == ("trajectory", "time", "x")


def test_trajectories_are_independent_draws_from_the_law_of_the_system(tmp_path):
    system, n = DampedSpring(damping=1.0, stiffness=2.0), 150
    ds = load(small(tmp_path / "a.nc", system, trajectories=n, length=1, burn_in=40))
    sample = np.stack([ds.position.values[:, 0], ds.velocity.values[:, 0]])
    cov = scipy.linalg.solve_discrete_lyapunov(system.matrix.numpy(), system.noise**2 * np.eye(2))
    np.testing.assert_allclose(np.cov(sample), cov, atol=4 * cov.max() * np.sqrt(2 / n))
    np.testing.assert_allclose(sample.mean(1), 0, atol=4 * np.sqrt(cov.max() / n))
    white = np.linalg.inv(np.linalg.cholesky(cov)) @ sample
    neighbours = (white[:, 1:] @ white[:, :-1].T) / (n - 1)
    np.testing.assert_allclose(neighbours, 0, atol=4 / np.sqrt(n))


def test_formats_hold_the_same(tmp_path):
    reference = load(small(tmp_path / "a.nc", coarsen=2))
    for suffix in (".nc4", ".h5", ".hdf5", ".zarr"):
        xr.testing.assert_identical(load(small(tmp_path / f"a{suffix}", coarsen=2)), reference)
    for suffix in (".nc", ".h5"):
        with xr.open_dataset(tmp_path / f"a{suffix}", engine="h5netcdf") as ds:
            assert ds.u.encoding["chunksizes"] == (1, 4, 3)
    assert xr.open_zarr(tmp_path / "a.zarr").u.chunks[0] == (1, 1, 1, 1, 1)
    assert reference.attrs["seed"] == 0
    assert reference.attrs["system"] == repr(RING)
    assert "trajectories=5, length=4, burn_in=20, every=1, coarsen=2, seed=0" in reference.attrs["history"]


def test_a_killed_run_of_two_workers_goes_on_in_one(tmp_path):
    code = (
        "from xsda.systems.simulation import simulate_to; from xsda.systems import Lorenz96; "
        "simulate_to('a.zarr', Lorenz96(n=6, noise=0.1), trajectories=12, length=2, burn_in=1500, workers=2, progress=False)"
    )
    run = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stderr=subprocess.DEVNULL)
    folder, stop = tmp_path / "a.zarr.partial", time.monotonic() + 60
    while len(list(folder.glob("*.npy"))) < 2:
        assert run.poll() is None
        assert time.monotonic() < stop
        time.sleep(0.01)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    time.sleep(0.5)  # the workers end by themselves
    before = {p.name: p.stat().st_mtime_ns for p in folder.glob("*.npy")}
    assert 2 <= len(before) < 12
    time.sleep(0.5)
    assert before == {p.name: p.stat().st_mtime_ns for p in folder.glob("*.npy")}
    made = []
    whole = Request.make
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Request, "make", lambda self, where, i: made.append(i) or whole(self, where, i))
        path = small(tmp_path / "a.zarr", trajectories=12, length=2, burn_in=1500)
    assert sorted(made) == [i for i in range(12) if f"{i:06d}.npy" not in before]
    assert os.listdir(tmp_path) == ["a.zarr"]
    undisturbed = small(tmp_path / "b.nc", trajectories=12, length=2, burn_in=1500)
    np.testing.assert_array_equal(values(path), values(undisturbed))


def test_an_interruption_keeps_what_is_finished(tmp_path, broken):
    broken(2, KeyboardInterrupt())
    with pytest.raises(
        KeyboardInterrupt, match=r"2 of 5 trajectories are kept in .*a\.nc\.partial; repeat the call to continue"
    ):
        small(tmp_path / "a.nc")
    assert os.listdir(tmp_path) == ["a.nc.partial"]


def test_more_trajectories_extend_and_anything_else_is_named(tmp_path, broken):
    done = broken(2, OSError("disk full"))
    with pytest.raises(OSError, match="disk full"):
        small(tmp_path / "a.nc")
    kept = list(done)
    with pytest.raises(
        FileExistsError, match=r"another request: trajectories was 5, now 4\. Remove that folder, or .*--overwrite"
    ):
        small(tmp_path / "a.nc", trajectories=4)
    other = Lorenz96(n=6, noise=0.2)
    with pytest.raises(
        FileExistsError, match=r"noise was 0\.1, now 0\.2; length was 4, now 3; seed was 0, now 1\. Rem"
    ):
        small(tmp_path / "a.nc", other, length=3, seed=1, trajectories=9)
    with pytest.raises(FileExistsError, match="system was Lorenz96, now Lorenz63"):
        small(tmp_path / "a.nc", Lorenz63())
    done.clear()
    done.append(None)
    with pytest.raises(OSError, match="disk full"):
        small(tmp_path / "a.nc", trajectories=8)
    done.clear()
    done.extend([None] * 3)
    small(tmp_path / "a.nc", trajectories=8)
    assert len(done[3:]) == 8 - 3
    assert not set(done[3:]) & set(kept)
    np.testing.assert_array_equal(values(tmp_path / "a.nc"), values(small(tmp_path / "b.nc", trajectories=8)))


def test_overwriting_drops_another_request_and_keeps_its_own(tmp_path, broken):
    path = small(tmp_path / "a.zarr")
    old = values(path)
    done = broken(2, OSError("disk full"))
    for _ in range(2):
        done.clear()
        with pytest.raises(OSError, match="disk full"):
            small(path, seed=1, trajectories=7, overwrite=True)
    np.testing.assert_array_equal(values(path), old)  # until the new one is whole
    done.clear()
    with pytest.raises(OSError, match="disk full"):
        small(path, seed=2, overwrite=True)
    assert len(list(tmp_path.glob("a.zarr.partial/*.npy"))) == 2
    done[:] = [None] * 3
    small(path, seed=2, overwrite=True)
    assert len(done[3:]) == 3
    assert os.listdir(tmp_path) == ["a.zarr"]
    np.testing.assert_array_equal(values(path), values(small(tmp_path / "b.nc", seed=2)))


@pytest.mark.parametrize("name", ["a.nc", "a.zarr"])
def test_a_finished_file_is_left_alone(tmp_path, name, capsys):
    path = small(tmp_path / name)
    stamp = path.stat().st_mtime_ns
    folder = tmp_path / f"{name}.partial"
    folder.mkdir()  # killed before it could tidy up
    (folder / "request.json").write_text(load(path).attrs["simulation"])
    small(path, progress=True)
    assert "already there" in capsys.readouterr().err
    assert path.stat().st_mtime_ns == stamp
    assert os.listdir(tmp_path) == [name]
    with pytest.raises(FileExistsError, match=r"exists with another request: trajectories was 5, now 6\..*--overwrite"):
        small(path, trajectories=6)
    with pytest.raises(FileExistsError, match="burn_in was 20, now 21"):
        small(path, burn_in=21)
    assert path.stat().st_mtime_ns == stamp


@pytest.mark.parametrize("name", ["a.nc", "a.h5", "a.zarr"])
def test_what_is_not_ours_stays(tmp_path, name):
    path = tmp_path / name
    path.mkdir() if name == "a.zarr" else path.write_text("mine")
    with pytest.raises(FileExistsError, match="not a finished file"):
        small(path)
    if name == "a.zarr":
        xr.Dataset({"a": 1}).to_zarr(path, consolidated=False)
    else:
        xr.Dataset({"a": 1}).to_netcdf(path)
    with pytest.raises(FileExistsError, match="not a finished file"):
        small(path)
    assert os.listdir(tmp_path) == [name]
    assert len(values(small(path, overwrite=True))) == 5


@pytest.mark.parametrize("lost", ["u", "u/c/3", "time", "x/c", "trajectory/c"])
def test_a_copy_with_gaps_is_no_finished_file(tmp_path, lost):
    path = small(tmp_path / "a.zarr")
    shutil.rmtree(path / lost) if (path / lost).is_dir() else (path / lost).unlink()
    with pytest.raises(
        FileExistsError, match=rf"a.zarr lacks \(parts of\) {lost.split('/')[0]}: was it copied only in part"
    ):
        small(path)
    assert len(values(small(path, overwrite=True))) == 5


def test_a_file_that_was_cut_short_is_made_again(tmp_path, broken):
    done = broken(3, OSError("disk full"))
    with pytest.raises(OSError):
        small(tmp_path / "a.nc")
    cut = sorted(tmp_path.glob("a.nc.partial/*.npy"))[0]
    cut.write_bytes(cut.read_bytes()[:-8])
    done.clear()
    small(tmp_path / "a.nc")
    assert len(done) == 3
    assert int(cut.stem) in done


def test_a_folder_of_unknown_origin_stays(tmp_path):
    folder = tmp_path / "a.nc.partial"
    folder.mkdir()
    np.save(folder / "000000.npy", np.zeros((4, 1, 6)))
    with pytest.raises(FileExistsError, match="it does not say which"):
        small(tmp_path / "a.nc")
    assert (folder / "000000.npy").exists()
    assert np.isfinite(values(small(tmp_path / "a.nc", overwrite=True))).all()


def test_one_run_at_a_time(tmp_path, monkeypatch):
    path = small(tmp_path / "a.nc")

    def meanwhile(self, number):
        monkeypatch.undo()
        with pytest.raises(
            RuntimeError, match=rf"another run is at work on .*a\.nc\.partial \(process {os.getpid()} on .* since "
        ):
            small(path, overwrite=True)
        small(path)  # is there, and leaves the other's work alone
        return self.trajectory(number)

    monkeypatch.setattr(Request, "trajectory", meanwhile)
    small(path, overwrite=True)
    assert os.listdir(tmp_path) == ["a.nc"]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_trajectory_that_is_not_finite_is_named(tmp_path, workers):
    starts = torch.stack([Fragile().initial_of(i, 0) for i in range(12)]).flatten()
    wild = [i for i in range(12) if abs(starts[i]) > 1]
    assert 0 < len(wild) < 12
    with pytest.raises(FloatingPointError, match=r"^trajectory \d+ of Fragile\(.* is not finite at time \d") as caught:
        small(tmp_path / "a.nc", Fragile(), trajectories=12, length=30, burn_in=0, workers=workers)
    assert "\n" not in str(caught.value)
    number, when = int(str(caught.value).split()[1]), float(str(caught.value).split("time ")[1].split(";")[0])
    assert number in wild
    x, steps = float(starts[number]), 0
    while np.isfinite(x):
        x, steps = x * x, steps + 1
    assert when == steps
    kept = {int(p.stem) for p in tmp_path.glob("a.nc.partial/*.npy")}
    assert not kept & set(wild)


def test_a_cluster(tmp_path):
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, protocol="tcp", dashboard_address=None
    ) as cluster:
        path = small(tmp_path / "a.zarr", scheduler=cluster.scheduler_address)
    np.testing.assert_array_equal(values(path), values(small(tmp_path / "b.zarr")))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"trajectories": 0}, ValueError, "trajectories=0"),
        ({"trajectories": 2.0}, ValueError, r"trajectories=2\.0"),
        ({"length": "4"}, ValueError, "length='4'"),
        ({"burn_in": -1}, ValueError, "burn_in=-1"),
        ({"every": 1.5}, ValueError, r"every=1\.5"),
        ({"seed": -1}, ValueError, "seed=-1"),
        ({"workers": 0}, ValueError, "workers=0"),
        ({"workers": 2, "scheduler": "tcp://nowhere:1"}, ValueError, "give one of them"),
        ({"coarsen": 4}, ValueError, "possible factors: 2, 3, 6"),
        ({"system": Lorenz63(), "coarsen": 2}, ValueError, "no space"),
        ({"system": Lorenz96}, TypeError, "such as Lorenz96"),
        ({"path": "a.txt"}, ValueError, r"must end in one of \.nc"),
        ({"path": "no/a.nc"}, FileNotFoundError, "the folder .*no does not exist"),
        ({"path": "folder.nc"}, FileExistsError, "is a folder"),
        ({"path": "file.zarr"}, FileExistsError, "is a file"),
    ],
)
def test_impossible_requests_are_named_before_any_work(tmp_path, options, error, message):
    (tmp_path / "folder.nc").mkdir()
    (tmp_path / "file.zarr").write_text("")
    options = {"system": RING, **options}
    with pytest.raises(error, match=message):
        small(tmp_path / options.pop("path", "a.nc"), options.pop("system"), overwrite=True, **options)
    assert sorted(os.listdir(tmp_path)) == ["file.zarr", "folder.nc"]
