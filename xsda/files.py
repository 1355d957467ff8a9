"""Files that are written whole or not at all."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Iterator
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
