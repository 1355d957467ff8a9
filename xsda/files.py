"""Files that are written whole or not at all."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import xarray as xr
from safetensors import SafetensorError

FORMATS = {".nc": "netcdf4", ".nc4": "netcdf4", ".h5": "h5netcdf", ".hdf5": "h5netcdf", ".zarr": "zarr"}  # engines


def check_format(path: Path) -> str:
    """The engine that writes a file of this name; raises if there is none, or if it is not installed."""
    if path.suffix not in FORMATS:
        raise ValueError(f"{path} must end in one of {', '.join(FORMATS)}")
    engine = FORMATS[path.suffix]
    if importlib.util.find_spec({"netcdf4": "netCDF4"}.get(engine, engine)) is None:
        raise ImportError(f"{path.suffix} files need {engine}, which is not installed; pip install 'xsda[zarr]'")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"the folder {path.parent} does not exist")
    return engine


def read(path: str | os.PathLike[str]) -> xr.Dataset:
    """Open a NetCDF, HDF5 or Zarr file."""
    if not Path(path).exists():
        raise FileNotFoundError(f"no file {path}")
    try:
        if Path(path).suffix == ".zarr":
            ds = xr.open_zarr(path, chunks=None, consolidated=False)
            return ds[sorted(ds.data_vars, key=str)]  # a store has no order
        return xr.open_dataset(path, engine="h5netcdf" if FORMATS.get(Path(path).suffix) == "h5netcdf" else None)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as NetCDF, HDF5 or Zarr: {error}") from error


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside ``path``; on success move it there, on any error remove it.

    An existing file stays as it was until the new one is complete.
    """
    path = Path(path)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
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


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


CACHE_BYTES = 4 * 2**30  # of what xsda keeps for workers by itself, before the oldest is removed


def cache_dir() -> Path:
    """Where downloads and what workers read go: ``$XSDA_CACHE``, or the user's cache folder."""
    import pooch

    return Path(os.environ.get("XSDA_CACHE") or pooch.os_cache("xsda"))


def cached(folder: str, name: str, write: Callable[[Path], object]) -> Path:
    """The file ``name`` of the cache, written by ``write(path)`` if it is not there; the name must hold a hash of its content.

    The least recently used files of the folder are removed once they take more than ``CACHE_BYTES`` together.
    """
    path = cache_dir() / folder / name
    if path.is_file():
        os.utime(path)
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"cannot keep files for the workers in {path.parent} ({error}); set XSDA_CACHE") from error
    with replacing(path) as temporary:
        write(temporary)
    by_age = sorted(((f.stat().st_mtime, f.stat().st_size, f) for f in path.parent.glob("*.safetensors")), reverse=True)
    total = 0
    for _, size, file in by_age:
        total += size
        if total > CACHE_BYTES and file != path:
            file.unlink(missing_ok=True)
    return path
