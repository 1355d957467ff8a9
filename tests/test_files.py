"""Files: whole or not at all, by one run at a time, and a cache that forgets the oldest."""

import os
import signal
import socket
import threading
import time
from pathlib import Path

import fresh
import netCDF4
import numpy as np
import pytest

from xsda import files
from xsda.files import cached, locked, replacing, replacing_folder

HOLD = """
import time
from xsda import files
with getattr(files, how)(path) as part:
    if how == "replacing_folder":
        part.mkdir()
    pipe.send("ready")
    time.sleep(600)
"""


@pytest.fixture
def other():
    """Starts processes that hold a file until they are killed."""
    running = []

    def start(how, path):
        process, pipe = fresh.start(HOLD, how=how, path=path)
        running.append(process)
        assert pipe.recv() == "ready"
        return process

    yield start
    for process in running:
        process.kill()
        process.join()


@pytest.fixture(autouse=True)
def forgetful():
    """As in a new process."""
    files._remove_stale_parts.cache_clear()


def parts(folder):
    return [p for p in folder.iterdir() if p.name.endswith(".part")]


# --- locks ---


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_lock_names_its_owner_and_ends_with_it(tmp_path, other, kind):
    path = tmp_path / "a.checkpoint"
    if kind == "folder":
        path.mkdir()
    before = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*"))
    process = other("locked", path)
    owner = rf"at work on {path} \(process {process.pid} on {socket.gethostname()} since 2\d\d\d-\d\d-\d\d \d\d:"
    start = time.monotonic()
    with pytest.raises(RuntimeError, match=owner), locked(path):
        pass
    assert time.monotonic() - start < 1  # it does not wait
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with locked(path):
        with pytest.raises(RuntimeError, match=rf"process {os.getpid()} on"), locked(path):
            pass
        with pytest.raises(RuntimeError, match="another run"), locked(path):  # a refusal has not taken the lock away
            pass
    assert sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*")) == before
    with locked(path):
        pass


def test_a_lock_is_never_held_twice_though_its_file_comes_and_goes(tmp_path):
    inside, most, held = [], [], []

    def work():
        for _ in range(100):
            try:
                with locked(tmp_path / "a"):
                    inside.append(None)
                    most.append(len(inside))
                    held.append(None)
                    time.sleep(1e-4)
                    inside.pop()
            except RuntimeError:
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert held
    assert max(most) == 1
    assert not list(tmp_path.iterdir())


# --- what killed processes leave ---


@pytest.mark.parametrize("how", ["replacing", "replacing_folder"])
def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path, other, how):
    path = tmp_path / "a.zarr"
    dead, alive = other(how, path), other(how, path)
    dead.kill()
    dead.join()
    foreign = tmp_path / f".a.zarr.0badcafe-{dead.pid}.abcdefgh.part"  # of another machine: it may be alive
    foreign.write_text("")
    mine = tmp_path / ".mine.part"
    mine.write_text("")
    assert len(parts(tmp_path)) == 4
    with replacing(tmp_path / "b"):
        left = parts(tmp_path)
        assert len(left) == 4  # its own, and those of the living
        assert not [p for p in left if f"-{dead.pid}." in p.name and p != foreign]
        assert [p for p in left if f"-{alive.pid}." in p.name]
    os.utime(foreign, (time.time() - 86_500,) * 2)
    files._remove_stale_parts.cache_clear()
    with replacing_folder(tmp_path / "c") as new:
        new.mkdir()
    assert not foreign.exists()
    assert mine.exists()
    assert (tmp_path / "c").is_dir()


def test_a_folder_that_is_still_written_to_is_kept(tmp_path):
    folder = tmp_path / ".a.zarr.0badcafe-1.abcdefgh.part"
    (folder / "new" / "u").mkdir(parents=True)
    for path in (folder, folder / "new"):
        os.utime(path, (time.time() - 1e6,) * 2)
    with replacing(tmp_path / "b"):
        assert folder.exists()
    os.utime(folder / "new" / "u", (time.time() - 1e6,) * 2)
    files._remove_stale_parts.cache_clear()
    with replacing(tmp_path / "b"):
        assert not folder.exists()


def test_an_error_leaves_the_old_folder(tmp_path):
    path = tmp_path / "a.zarr"
    path.mkdir()
    (path / "old").write_text("old")
    with pytest.raises(FileNotFoundError), replacing_folder(path):
        pass  # writes nothing
    assert (path / "old").read_text() == "old"
    with replacing_folder(path) as new:
        new.mkdir()
    assert not list(path.iterdir())
    assert os.listdir(tmp_path) == ["a.zarr"]


# --- the cache ---


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Stores files of a hundred bytes, by name, where 350 bytes have room; ``hours`` sets their ages."""
    monkeypatch.setenv("XSDA_CACHE", str(tmp_path))
    monkeypatch.setattr(files, "CACHE_BYTES", 350)

    def store(name, hours=0.0):
        written = []
        path = cached("things", f"{name}.safetensors", lambda p: written.append(p.write_bytes(bytes(100))))
        if hours:
            os.utime(path, (time.time() - 3600 * hours,) * 2)
        return bool(written)

    return store


def names():
    return sorted(p.stem for p in Path(os.environ["XSDA_CACHE"]).glob("things/*.safetensors"))


def test_the_oldest_leave_the_cache_first(cache):
    for name, hours in (("b", 3), ("a", 4), ("c", 2)):
        assert cache(name, hours)
    assert names() == ["a", "b", "c"]
    assert cache("d")
    assert names() == ["b", "c", "d"]


def test_what_is_used_stays_in_the_cache(cache):
    for name, hours in (("a", 4), ("b", 3), ("c", 2)):
        cache(name, hours)
    assert not cache("a")  # is there, and is now the newest
    cache("d")
    assert names() == ["a", "c", "d"]


def test_what_was_asked_for_within_the_hour_stays_in_the_cache(cache):
    """Another process may be about to read it."""
    for name in "abcdef":
        cache(name, 0.9)
    assert names() == [*"abcdef"]
    cache("g", 1.1)
    cache("h")
    assert names() == [*"abcdefh"]


def test_a_file_larger_than_the_cache_is_kept_for_who_wrote_it(cache, monkeypatch):
    monkeypatch.setattr(files, "CACHE_BYTES", 50)
    monkeypatch.setattr(files, "CACHE_SECONDS", 0.0)
    assert cache("a")
    assert names() == ["a"]
    assert cache("b")
    assert names() == ["b"]


def test_processes_share_the_cache(cache, tmp_path):
    """They use, write and prune the same files at once, and none is without a file that it asked for."""
    for i in range(7):
        cache(i, 0.5)
    for path in (tmp_path / "things").glob("*.safetensors"):
        os.utime(path, (time.time() - 7200,) * 2)
    code = (
        "import os\nfrom xsda import files\nos.environ['XSDA_CACHE'] = folder\nfiles.CACHE_BYTES = 350\n"
        "for i in range(70):\n"
        "    path = files.cached('things', f'{i % 10}.safetensors', lambda p: p.write_bytes(bytes(100)))\n"
        "    assert path.read_bytes() == bytes(100)\n"
        "pipe.send('done')\n"
    )
    running = [fresh.start(code, folder=str(tmp_path)) for _ in range(3)]
    assert [pipe.recv() for _, pipe in running] == ["done"] * 3  # an error would end the process without a word
    for process, _ in running:
        process.join()
        assert process.exitcode == 0
    assert not parts(tmp_path / "things")


@pytest.mark.parametrize("kind", ["NETCDF3_CLASSIC", "NETCDF3_64BIT_OFFSET", "NETCDF3_64BIT_DATA"])
@pytest.mark.parametrize("variables", [["day"], ["day", "t"], ["place"], ["place", "day", "t", "flag"]])
def test_a_classic_file_that_was_cut_is_not_read(tmp_path, kind, variables):
    """netCDF-C gives zeros for what is missing. Files that are whole are read, with and without records and padding."""
    path = tmp_path / "a.nc"
    with netCDF4.Dataset(path, "w", format=kind) as nc:
        nc.title = "odd"
        nc.createDimension("time", None)
        nc.createDimension("x", 3)
        for name, code, dims in (
            ("place", "f8", ("x",)),
            ("day", "i2", ("time",)),
            ("t", "f4", ("time", "x")),
            ("flag", "S1", ("time", "x")),
        ):
            if name in variables:
                nc.createVariable(name, code, dims).units = "K"
                nc[name][:] = np.full([5 if d == "time" else 3 for d in dims], b"a" if code == "S1" else 7)
    whole = path.read_bytes()
    with files.read(path) as ds:
        assert set(ds.data_vars) == set(variables)
    for lost in (4, len(whole) // 3, len(whole) - 60):  # at most three bytes are padding
        path.write_bytes(whole[:-lost])
        with pytest.raises(
            ValueError, match=r"\((the last \d+ bytes are missing|its header is cut off)\); it may be truncated"
        ):
            files.read(path)
