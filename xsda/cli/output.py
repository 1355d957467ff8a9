"""Files that commands write: checked before the work, written whole or not at all."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure


def check_free(path: Path, overwrite: bool) -> None:
    """Raise if a file is there that must not be replaced."""
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; give --overwrite to replace it")


def check_output(path: Path, overwrite: bool) -> None:
    """Raise before a long computation, rather than after it, if its result cannot be written."""
    from xsda.files import check_format

    check_format(path)
    check_free(path, overwrite)
    store = path.suffix == ".zarr"
    if store and path.is_symlink():
        raise FileExistsError(f"{path} is a symbolic link, which a store cannot replace; name the folder it points to")
    if path.exists() and path.is_dir() != store:
        raise FileExistsError(f"{path} is a {'folder' if path.is_dir() else 'file'}; take another name")
    _check_writable(path)


def check_picture(path: Path, overwrite: bool) -> None:
    """Raise before drawing if the picture cannot be written, and choose the part of matplotlib that needs no screen."""
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
    except ImportError as error:
        raise ImportError("pictures need matplotlib, which is not installed; pip install 'xsda[plot]'") from error
    matplotlib.use("Agg")
    known = FigureCanvasAgg.get_supported_filetypes()
    if path.suffix.removeprefix(".") not in known:
        raise ValueError(f"{path} must end in one of {', '.join(f'.{n}' for n in known)}")
    check_free(path, overwrite)
    _check_writable(path)


def _check_writable(path: Path) -> None:
    from xsda.files import replacing

    probe = path.parent / f".{path.name}.probe"
    with replacing(probe):
        pass
    probe.unlink()


def write(ds: xr.Dataset, path: Path, *, progress: bool = False) -> None:
    """Write a file or store whole or not at all.

    What is lazy is computed block by block, with a bar if ``progress``.
    """
    from xsda.files import FORMATS, replacing, replacing_folder

    with _bar(progress and bool(ds.chunks)):
        if path.suffix == ".zarr":
            with replacing_folder(path) as folder:
                ds.to_zarr(folder, mode="w", consolidated=False)
        else:
            with replacing(path) as temporary:
                ds.to_netcdf(temporary, engine=FORMATS[path.suffix])  # type: ignore[call-overload]


def write_picture(figure: Figure, path: Path) -> None:
    """Write to a temporary name and move."""
    from xsda.files import replacing

    with replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix.removeprefix("."), dpi=150)


@contextmanager
def _bar(shown: bool) -> Iterator[None]:
    from dask.diagnostics import ProgressBar

    with ProgressBar(out=sys.stderr) if shown else nullcontext():
        yield
