"""Files that are written whole or not at all, locks that keep two runs apart, and a cache.

A file is written under a temporary name that ends in ``.part`` and is then moved to its place. A process that is killed
leaves its ``.part`` behind; the next process that writes to the folder removes it.
"""

from __future__ import annotations

import importlib.util
import math
import os
import re
import shutil
import socket
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import xarray as xr
from filelock import FileLock, Timeout
from safetensors import SafetensorError

MARK = "complete_states"  # the coordinate of a store that counts the states of each member that are written
CLASSIC_BYTES = (0, 1, 1, 2, 4, 4, 8, 1, 2, 4, 8, 8)  # size of each type of a classic NetCDF file
FORMATS = {".nc": "netcdf4", ".nc4": "netcdf4", ".h5": "h5netcdf", ".hdf5": "h5netcdf", ".zarr": "zarr"}  # engines


def check_format(path: Path) -> str:
    """Return the engine that writes a file of this name; raise if there is none or if it is not installed."""
    if path.suffix not in FORMATS:
        raise ValueError(f"{path} must end in one of {', '.join(FORMATS)}")
    engine = FORMATS[path.suffix]
    if importlib.util.find_spec({"netcdf4": "netCDF4"}.get(engine, engine)) is None:
        raise ImportError(f"{path.suffix} files need {engine}, which is not installed; pip install 'xsda[zarr]'")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"the folder {path.parent} does not exist")
    return engine


def check_output(path: Path, overwrite: bool) -> None:
    """Raise before a long computation, rather than after it, if its result cannot be written."""
    check_format(path)
    check_free(path, overwrite)
    store = path.suffix == ".zarr"
    if store and path.is_symlink():
        raise FileExistsError(f"{path} is a symbolic link, which a store cannot replace; name the folder it points to")
    if path.exists() and path.is_dir() != store:
        raise FileExistsError(f"{path} is a {'folder' if path.is_dir() else 'file'}; take another name")
    check_writable(path)


def check_free(path: Path, overwrite: bool) -> None:
    """Raise if a file is there that must not be replaced."""
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; pass overwrite=True to replace it")


def check_writable(path: Path) -> None:
    """Raise if no file can be written to the folder of ``path``."""
    probe = path.parent / f".{path.name}.probe"
    with replacing(probe):
        pass
    probe.unlink()


def write(ds: xr.Dataset, path: Path) -> None:
    """Write a file or store whole or not at all; what is lazy is computed block by block."""
    if path.suffix == ".zarr":
        with replacing_folder(path) as folder:
            ds.to_zarr(folder, mode="w", consolidated=False)
    else:
        with replacing(path) as temporary:
            ds.to_netcdf(temporary, engine=FORMATS[path.suffix])  # type: ignore[call-overload]


def read(path: str | os.PathLike[str]) -> xr.Dataset:
    """Open a NetCDF, HDF5 or Zarr file."""
    if not Path(path).exists():
        raise FileNotFoundError(f"no file {path}")
    try:
        if Path(path).suffix == ".zarr":
            ds = xr.open_zarr(path, chunks=None, consolidated=False)
            ds = xr.Dataset(
                {n: ds.variables[n] for n in sorted(ds.data_vars, key=str)}, ds.coords, ds.attrs
            )  # no order
            return _finished_part(ds, Path(path)) if MARK in ds.coords else ds
        if (lacking := _classic_size(Path(path)) - Path(path).stat().st_size) > 0:
            raise OSError(f"the last {lacking} bytes are missing")  # which netCDF-C would read as zeros
        return xr.open_dataset(path, engine=FORMATS.get(Path(path).suffix))
    except (OSError, ValueError, IndexError) as error:
        raise ValueError(
            f"{path} cannot be read as NetCDF, HDF5 or Zarr ({error}); it may be truncated or of another format"
        ) from error


def _finished_part(ds: xr.Dataset, path: Path) -> xr.Dataset:
    """Leave out what an unfinished ensemble lacks, members before states, with a warning."""
    done, time = ds[MARK].values, ds[MARK].attrs["dimension"]
    begun = done > 0
    if not begun.any():
        raise ValueError(f"{path} is unfinished and has no member yet; repeat the call that began it")
    states = int(done[begun].min())
    if not begun.all() or states < ds.sizes[time]:
        warnings.warn(
            f"{path} is unfinished; {begun.sum()} of {begun.size} members and {states} of {ds.sizes[time]} states are "
            "read",
            RuntimeWarning,
            stacklevel=3,
        )
    return ds.drop_vars(MARK).isel({"member": begun, time: slice(states)})


def _classic_size(path: Path) -> int:
    """Return the least size of a classic NetCDF file by its header; 0 for other files."""
    with path.open("rb") as file:
        magic = file.read(4)
        if magic not in (b"CDF\x01", b"CDF\x02", b"CDF\x05"):
            return 0
        records, variables = _classic_header(file, magic[3])
    sizes = [size for begin, size, repeated in variables if repeated]
    record = sizes[0] if len(sizes) == 1 else sum(-(-size // 4) * 4 for size in sizes)
    counts = [records if repeated else 1 for *_, repeated in variables]
    ends = [b + (n - 1) * record + size for (b, size, _), n in zip(variables, counts, strict=True) if n]
    return max(ends, default=0)


def _classic_header(file: BinaryIO, version: int) -> tuple[int, list[tuple[int, int, bool]]]:
    """Read the number of records, and where each variable begins, its size, and whether it has records.

    This follows the NetCDF Classic Format Specification (CDF-1, CDF-2 and CDF-5).
    """
    wide = 8 if version == 5 else 4

    def number(width: int = wide) -> int:
        if len(digits := file.read(width)) < width:
            raise OSError("its header is cut off")
        return int.from_bytes(digits, "big")

    def skip(length: int) -> None:
        file.seek(-(-length // 4) * 4, os.SEEK_CUR)

    def entries() -> Iterator[None]:
        number(4)  # the kind of the list
        for _ in range(number()):
            skip(number())  # the name
            yield

    def skip_attributes() -> None:
        for _ in entries():
            skip(CLASSIC_BYTES[number(4)] * number())

    records, variables = number(), []
    lengths = [number() for _ in entries()]
    skip_attributes()
    for _ in entries():
        shape = [lengths[number()] for _ in range(number())]
        skip_attributes()
        repeated = shape[:1] == [0]
        size = CLASSIC_BYTES[number(4)] * math.prod(shape[repeated:])
        number()  # the size with padding, which overflows for large variables
        variables.append((number(4 if version == 1 else 8), size, repeated))
    return 0 if records == 256**wide - 1 else records, variables  # not known while a program writes


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside ``path``. On success move it to ``path``, on any error remove it.

    An existing file stays as it was until the new one is complete.
    """
    path = Path(path)
    _remove_stale_parts(path.absolute().parent)
    try:
        handle, name = tempfile.mkstemp(prefix=_part_prefix(path), suffix=".part", dir=path.parent)
    except OSError as error:
        raise OSError(f"cannot write to {path.parent}: {error.strerror or error}") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        mode = 0o666 & ~_umask()
        temporary.chmod(mode)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except SafetensorError as error:  # what its writer raises when the disk is full
        raise OSError(f"cannot write {path}: {error}; what was there before is kept") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Do the same for a folder, such as a Zarr store. The temporary path does not exist yet."""
    _remove_stale_parts(path.absolute().parent)
    try:
        temporary = Path(tempfile.mkdtemp(prefix=_part_prefix(path), suffix=".part", dir=path.parent))
    except OSError as error:
        raise OSError(f"cannot write to {path.parent}: {error.strerror or error}") from error
    try:
        yield temporary / "new"
        if path.exists():
            path.rename(temporary / "old")
        try:
            (temporary / "new").rename(path)
        except OSError:
            with suppress(OSError):
                (temporary / "old").rename(path)
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


STALE_SECONDS = 24 * 3600.0  # after which a .part that has not changed is removed, whichever process began it


def _part_prefix(path: Path) -> str:
    """Return the start of a temporary name: the name of the file and the process that writes it."""
    return f".{path.name}.{_host()}-{os.getpid()}."


def _host() -> str:
    return f"{zlib.crc32(socket.gethostname().encode()):08x}"


@lru_cache  # once per process, because a folder may hold many files
def _remove_stale_parts(folder: Path) -> None:
    """Remove what killed processes left in a folder. Keep the files of processes that may still be running."""
    for name in os.listdir(folder) if os.access(folder, os.R_OK) else ():
        with suppress(OSError):  # another process may remove it at the same time
            found = re.fullmatch(r"\..+\.([0-9a-f]{8})-(\d+)\.\w+\.part", name)
            if found and (_is_dead(found[1], int(found[2])) or _seconds_untouched(folder / name) > STALE_SECONDS):
                shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink(missing_ok=True)


def _is_dead(host: str, pid: int) -> bool:
    """Return whether a process has ended; for another machine this is unknown, and the answer is False."""
    if host != _host() or os.name != "posix":
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    return False


def _seconds_untouched(path: Path) -> float:
    return time.time() - max(p.lstat().st_mtime for p in (path, *path.rglob("*")))


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file or folder; raise at once if another run holds it, and name that run.

    The operating system releases the lock when a process ends, however it ends. There is no lock where none is
    possible, such as in a folder that cannot be written. The lock of a Zarr store lies beside it.
    """
    folder, name = (path, ".") if path.is_dir() and path.suffix != ".zarr" else (path.parent, f".{path.name}.")
    place, owner = folder / f"{name}lock", folder / f"{name}owner"
    lock = FileLock(place, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise RuntimeError(
            f"another run is at work on {path} ({_owner(owner)}); wait until it ends, or stop it"
        ) from None
    except OSError:  # no lock is possible
        pass
    try:
        if lock.is_locked:
            with suppress(OSError):
                owner.write_text(
                    f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}"
                )
        yield
    finally:
        if lock.is_locked:
            # before the release, so that another run which has just opened the file sees that it is gone
            for file in (owner, place):
                with suppress(OSError):
                    file.unlink()
        lock.release()


def _owner(path: Path) -> str:
    try:
        return path.read_text() or "an unknown process"
    except (OSError, ValueError):
        return "an unknown process"


CACHE_BYTES = 4 * 2**30  # size of a folder of the cache above which its oldest files are removed
CACHE_SECONDS = 3600.0  # for which each file of the cache is kept: another process may be about to read it


def cache_dir() -> Path:
    """Return the folder for downloads and for what workers read: ``$XSDA_CACHE``, or the user's cache folder."""
    import pooch

    return Path(os.environ.get("XSDA_CACHE") or pooch.os_cache("xsda"))


@dataclass(frozen=True)
class SharedFile:
    """A file for workers: at ``path`` if they see it, otherwise in their own cache, if it was sent there."""

    path: str
    folder: str  # of the cache
    name: str  # in the cache, with a hash of the content

    def find(self) -> Path | None:
        """Return where this process finds the file."""
        places = Path(self.path), cache_dir() / self.folder / self.name
        return next((p for p in places if p.is_file()), None)


def cached(folder: str, name: str, write: Callable[[Path], object]) -> Path:
    """Return the file ``name`` of the cache, written by ``write(path)`` if it is not there.

    The name must contain a hash of the content. If the files of the folder take more than ``CACHE_BYTES`` together, the
    least recently used are removed, but none that was used within the last hour.
    """
    path = cache_dir() / folder / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _waiting(path.parent):
            if path.is_file():
                with suppress(OSError):  # the cache may be read-only
                    os.utime(path)
                return path
        with replacing(path) as temporary:
            write(temporary)
    except OSError as error:
        raise OSError(
            f"cannot keep files for the workers in {path.parent} ({error.strerror or error}); set XSDA_CACHE to a "
            "folder with space"
        ) from error
    with _waiting(path.parent):
        _prune(path)
    return path


@contextmanager
def _waiting(folder: Path) -> Iterator[None]:
    """Hold the lock of a cache folder briefly; continue without it if it is not available."""
    lock = FileLock(folder / ".lock", timeout=60)
    with suppress(OSError):
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _prune(newest: Path) -> None:
    """Remove the oldest files from the folder of ``newest``."""
    now, total = newest.stat().st_mtime, 0
    files = [(f.stat().st_mtime, f.stat().st_size, f) for f in newest.parent.glob("*.safetensors")]
    for when, size, file in sorted(files, reverse=True):
        total += size
        if total > CACHE_BYTES and now - when > CACHE_SECONDS:
            file.unlink(missing_ok=True)
