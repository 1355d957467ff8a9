"""A store says correctly what it holds, whenever its writer is killed, and holds one run only."""

import pickle

import fresh
import numpy as np
import pytest
import torch
import xarray as xr
import zarr

from xsda.files import read
from xsda.sampling import devices
from xsda.sampling.store import MARK, open_store

RUN = {"prior": "lorenz63 (0a1b)", "seed": "0"}
RNG = np.random.default_rng(0)
LAT = xr.DataArray([50.0, 51.0, 52.0], dims="lat", attrs={"units": "degrees_north"})


def field(members, states=6):
    """Variables in two orders of dimensions, a note on each member, dates with bounds, and scalars as in GRIB files."""
    time = np.datetime64("2026-03-01", "ns") + np.arange(states) * np.timedelta64(6, "h")
    bounds = (("time", "bnds"), np.stack([time - np.timedelta64(3, "h"), time + np.timedelta64(3, "h")], 1))
    coords = {"member": list(members), "time": time, "lat": LAT, "time_bnds": bounds}
    coords |= {"surface": 0.0, "step": np.timedelta64(6, "h").astype("m8[ns]")}
    coords["particles"] = ("member", RNG.random(len(members)).astype("f4"))
    t2m = (("member", "lat", "time"), RNG.standard_normal((len(members), 3, states)).astype("f4"), {"units": "K"})
    ice = (("member", "time"), RNG.standard_normal((len(members), states)))
    return xr.Dataset({"t2m": t2m, "ice": ice}, coords, {"title": "weather"})


def write(store, ds, start=0, stop=None):
    part = ds.isel(time=slice(start, stop))
    store.write({n: part[n].values for n in ("t2m", "ice", "particles")}, part.member.values.tolist(), start)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.zarr"


def opened(path, ds, **options):
    return open_store(path, ds, **{"time": "time", "run": RUN, "chunks": {"member": 2, "time": 4}, **options})


def test_members_come_back_as_they_were_written(path):
    """In the order of the first call, then of the second; those that are not written are missing."""
    ds = field([4, 5, 0, 1, 2, 9])
    with opened(path, ds.isel(member=slice(3))) as store:
        write(store, ds.isel(member=[0, 2]))
    with opened(path, ds.isel(member=[2, 3, 4, 5])) as store:
        assert store.complete([4, 5, 0, 9]).tolist() == [6, 0, 6, 0]
        write(pickle.loads(pickle.dumps(store)), ds.isel(member=[5, 3]))
        written = ~ds.member.isin([5, 2])
        xr.testing.assert_identical(
            store.dataset().load(),
            ds.assign({n: v.where(written).transpose(*v.dims) for n, v in ds.data_vars.items()}).assign_coords(
                particles=ds.particles.where(written)
            ),
        )
    seen = xr.open_zarr(path, consolidated=False)
    assert seen[MARK].values.tolist() == [6, 0, 6, 6, 0, 6]
    assert seen.t2m.encoding["chunks"] == (2, 3, 4)


def test_a_record_grows_and_its_last_states_are_replaced(path):
    ds = field([0, 1], states=10)
    with opened(path, ds.isel(time=slice(6))) as store:
        write(store, ds, 0, 3)
        write(store, ds.isel(member=[0]), 3, 6)
        with pytest.raises(ValueError, match=r"member 1 of .* is complete up to state 3 only"):
            write(store, ds, 6, 7)
    with opened(path, ds) as store:
        assert store.complete([0, 1]).tolist() == [6, 3]
        write(store, ds + 1, 2, 5)  # 6 states of member 0 were complete, now 5
        assert store.complete([0, 1]).tolist() == [5, 5]
        write(store, ds, 2, 10)
        xr.testing.assert_identical(store.dataset().load(), ds)


@pytest.mark.parametrize("allowed", range(7))
def test_a_killed_writer_leaves_no_wrong_mark(path, allowed, monkeypatch):
    """Stop after any number of writes to the disk: what is marked is what was given."""
    old, new = field([0, 1, 2]), field([0, 1, 2])
    with opened(path, old) as store:
        write(store, old)
    count, put = iter(range(allowed)), zarr.Array.__setitem__

    def counted(array, *arguments):
        if next(count, None) is None:
            raise KeyboardInterrupt
        put(array, *arguments)

    monkeypatch.setattr(zarr.Array, "__setitem__", counted)
    with pytest.raises(KeyboardInterrupt), opened(path, old) as store:
        write(store, new.isel(member=[0, 2]), 2)
    mixed = old.where(old.time < old.time[2], new.drop_vars("particles"))
    with opened(path, old) as store:
        done, seen = store.complete([0, 1, 2]).tolist(), store.dataset().load()
    assert done[1] == 6
    for row, stop in enumerate(done):
        got, *possible = (x.drop_vars("particles").isel(member=row, time=slice(stop)) for x in (seen, old, mixed))
        assert any(bool((got == p).to_array().all()) for p in possible)


def test_a_run_that_was_killed_while_it_added_members_or_times(path):
    ds = field(range(5), states=8)
    short = ds.isel(member=slice(3), time=slice(6))
    with opened(path, short) as store:
        write(store, short)
    group = zarr.open_group(path, mode="r+")
    group["t2m"].resize((5, 3, 8))
    group["member"].resize((5,))  # whose numbers were not written
    with opened(path, ds) as store:
        assert store.complete(range(5)).tolist() == [6, 6, 6, 0, 0]
        assert store.dataset().member.values.tolist() == [0, 1, 2, 3, 4]
        write(store, ds.isel(member=slice(3)), 6)
        write(store, ds.isel(member=slice(3, None)))
        xr.testing.assert_identical(store.dataset().load(), ds)


@pytest.mark.parametrize(
    ("change", "run", "message"),
    [
        (
            {},
            {**RUN, "seed": "1"},
            "a.zarr holds another run: seed was 0, now 1; take another name, or pass overwrite=True",
        ),
        ({}, {**RUN, "sampler": "ddim"}, "sampler was None, now ddim"),
        ({"lat": LAT + 1}, RUN, "'lat' has other values"),
        ({"time": field([0]).time + np.timedelta64(1, "h")}, RUN, "'time' has other values"),
        ({"height": 2.0}, RUN, "'height' is in only one of them"),
    ],
)
def test_another_run_is_refused(path, change, run, message):
    ds = field([0, 1])
    with opened(path, ds):
        pass
    with pytest.raises(FileExistsError) as caught, opened(path, ds.assign_coords(change), run=run):
        pass
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_shorter_record_is_refused_for_one_reason(path):
    with opened(path, field([0, 1])):
        pass
    reason = r"another run: its record and horizon are 2 states longer; take another name"
    with pytest.raises(FileExistsError, match=reason), opened(path, field([0, 1], states=4)):
        pass


def test_what_is_no_store_of_a_run_is_refused(path):
    ds = field([0, 1])
    ds.to_zarr(path, consolidated=False)
    with pytest.raises(FileExistsError, match="is no store that a run can continue"), opened(path, ds):
        pass
    xr.testing.assert_identical(xr.open_zarr(path, consolidated=False).load(), ds)


def test_two_runs_do_not_write_to_one_store(path):
    ds = field([0, 1])
    with opened(path, ds), pytest.raises(RuntimeError, match=r"another run is at work on .*a\.zarr"), opened(path, ds):
        pass


def test_a_full_disk_is_one_sentence(path, monkeypatch):
    ds = field([0, 1])
    with opened(path, ds) as store:
        write(store, ds.isel(member=[0]))

        def full(*_, **__):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr("zarr.storage._local._put", full)
            with pytest.raises(
                OSError, match=r"cannot write to .*a\.zarr: No space left .* continues with the others$"
            ):
                write(store, ds.isel(member=[1]))
        assert store.complete([0, 1]).tolist() == [6, 0]
        write(store, ds.isel(member=[1]))
        xr.testing.assert_identical(store.dataset().load(), ds)


DRAW = """
import os, xarray as xr, xsda
from xsda.sampling.store import EnsembleStore
write, count = EnsembleStore.write, []
def dies(store, *arguments):
    if len(count) == 2:
        os.kill(os.getpid(), 9)
    count.append(write(store, *arguments))
EnsembleStore.write = dies
truth, obs = xr.load_dataset(folder + "/truth.nc"), xr.load_dataset(folder + "/obs.nc")
truth.sda.assimilate(obs, "lorenz63", out=folder + "/a.zarr", **options)
"""
OPTIONS = {"members": 8, "steps": 8, "seed": 2, "redraw": 0, "chunks": {"member": 2}, "progress": False}


@pytest.fixture
def observed(lorenz, tmp_path):
    for name, ds in zip(("truth", "obs"), lorenz, strict=True):
        ds.to_netcdf(tmp_path / f"{name}.nc")
    return xr.load_dataset(tmp_path / "truth.nc"), xr.load_dataset(tmp_path / "obs.nc")


@pytest.mark.filterwarnings("ignore:.*do not fit:RuntimeWarning")
def test_a_killed_run_continues_to_the_last_bit(observed, path, capsys):
    """In another process, to which the observations are the same; then more members are added."""
    truth, obs = observed
    process, _ = fresh.start(DRAW, folder=str(path.parent), options=OPTIONS)
    process.join(fresh.LIMIT)
    assert process.exitcode == -9
    with pytest.warns(RuntimeWarning, match="is unfinished; 4 of 8 members and 32 of 32 states are read"):
        seen = read(path)
    assert seen.member.values.tolist() == [0, 1, 2, 3]
    post = truth.sda.assimilate(obs, "lorenz63", out=path, **OPTIONS | {"progress": True})
    assert "4/8 members" in capsys.readouterr().err
    whole = truth.sda.assimilate(obs, "lorenz63", **OPTIONS, batch=2).compute()
    xr.testing.assert_equal(post, whole)
    more = truth.sda.assimilate(obs, "lorenz63", out=path, **OPTIONS | {"members": [9, 3]})
    assert more.member.values.tolist() == [9, 3]
    np.testing.assert_array_equal(more.x[1], whole.x[3])
    assert read(path).member.values.tolist() == [*range(8), 9]
    with pytest.raises(FileExistsError, match=r"holds another run: seed was 2, now 3; take another name"):
        truth.sda.assimilate(obs, "lorenz63", out=path, **OPTIONS | {"seed": 3})
    with pytest.raises(FileExistsError, match=r"holds another run: observations was \w+, now \w+; take"):
        truth.sda.assimilate(obs + 1, "lorenz63", out=path, **OPTIONS)
    new = truth.sda.assimilate(obs, "lorenz63", out=path, overwrite=True, **OPTIONS | {"seed": 3})
    assert new.attrs["seed"] == 3
    assert not np.array_equal(new.x, whole.x)


@pytest.mark.filterwarnings("ignore:.*do not fit:RuntimeWarning")
@pytest.mark.parametrize(("name", "model"), [("a.nc", "lorenz63"), ("a.zarr", ["lorenz63", "lorenz63"])])
def test_other_results_are_written_whole_at_the_end(observed, tmp_path, name, model):
    truth, obs = observed
    expected = truth.sda.assimilate(obs, model, **OPTIONS | {"chunks": None, "members": 2})
    for chunks in (None, {"member": 1}):
        post = truth.sda.assimilate(
            obs, model, out=tmp_path / name, overwrite=chunks is not None, **OPTIONS | {"chunks": chunks, "members": 2}
        )
        xr.testing.assert_allclose(post, expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(FileExistsError, match="pass overwrite=True to replace it"):
        truth.sda.assimilate(obs, model, out=tmp_path / name, **OPTIONS)


@pytest.mark.filterwarnings("ignore:.*do not fit:RuntimeWarning")
def test_several_devices_write_to_one_store(observed, path, monkeypatch):
    truth, obs = observed
    expected = truth.sda.assimilate(obs, "lorenz63", **OPTIONS).compute()
    monkeypatch.setattr(devices, "installed", lambda: tuple(torch.device("cpu", i) for i in range(4)))
    post = truth.sda.assimilate(obs, "lorenz63", out=path, device=["cpu:0", "cpu:1"], **OPTIONS)
    xr.testing.assert_equal(post, expected)
