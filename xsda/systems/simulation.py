"""Data sets of many simulated trajectories, computed by several processes, one trajectory per task.

Each trajectory is written to the folder ``OUT.partial`` as soon as it is finished. If the run is interrupted or killed,
the next call computes only the missing trajectories. When all are there, they are streamed into ``OUT`` and the folder
is removed. A trajectory depends only on its number and the request, not on the process that computes it. One run at a
time can work on a data set.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from tqdm.auto import tqdm

from xsda.files import check_format, locked, replacing
from xsda.systems.chain import MarkovChain, as_count
from xsda.systems.tasks import run
from xsda.version import __version__

SYSTEMS = {  # by the names of the command line
    "lorenz63": "Lorenz63",
    "lorenz96": "Lorenz96",
    "lotkavolterra": "LotkaVolterra",
    "dampedspring": "DampedSpring",
    "kolmogorov": "KolmogorovFlow",
    "wake": "CylinderWake",
}
MARK = "simulation"  # the attribute of a finished file that holds its request


def simulate_to(
    path: str | os.PathLike[str],
    system: MarkovChain,
    *,
    trajectories: int,
    length: int,
    burn_in: int | None = None,
    every: int = 1,
    coarsen: int = 1,
    seed: int = 0,
    workers: int = 1,
    scheduler: str | None = None,
    overwrite: bool = False,
    progress: bool | None = None,
) -> Path:
    """Simulate independent trajectories and write them to a file or store that may be larger than memory.

    They lie along the dimension ``trajectory``. After an interruption, call it again: only the missing trajectories are
    computed, also if you ask for more ``trajectories`` than before. A finished file of the same request is kept as it
    is; a file of another request raises an error.

    Parameters
    ----------
    path
        A name that ends in .nc or .nc4 (NetCDF), .h5 or .hdf5 (HDF5, which h5netcdf reads) or .zarr. Until the run is
        finished, the folder ``path.partial`` beside it takes as much space as the result.
    system
        One of ``xsda.systems``, or your own.
    trajectories
        Number of trajectories. Trajectory ``i`` starts from ``system.initial_of(i, seed)``. This is the start of member
        ``i`` of ``system.simulate`` if ``members`` is a multiple of 16; the transition noise is different.
    length, burn_in, every, coarsen, seed
        As in ``system.simulate``.
    workers
        Processes on this machine. In a script, call it below ``if __name__ == "__main__":``.
    scheduler
        Address of a dask cluster instead, such as "tcp://10.0.0.1:8786"; its workers must see the same files.
    overwrite
        Replace a file of another request, and delete unfinished trajectories of another request.
    progress
        Show a progress bar (default: in a terminal or notebook).

    Returns
    -------
    Path
        The path of the file or store.

    Examples
    --------
    >>> import xsda
    >>> from xsda.systems.simulation import simulate_to
    >>> path = simulate_to("l63.nc", xsda.systems.Lorenz63(), trajectories=2, length=4)  # doctest: +SKIP
    """
    if not isinstance(system, MarkovChain):
        raise TypeError(f"system must be one of xsda.systems, such as Lorenz96(), got {system!r}")
    request = Request(
        system,
        as_count("trajectories", trajectories, 1),
        length=as_count("length", length, 1),
        burn_in=as_count("burn_in", system.burn_in if burn_in is None else burn_in, 0),
        every=as_count("every", every, 1),
        coarsen=system.check_coarsen(coarsen),
        seed=as_count("seed", seed, 0),
    )
    workers = as_count("workers", workers, 1)
    if scheduler is not None and workers > 1:
        raise ValueError("workers are processes of this machine, scheduler is a cluster with its own; give one of them")
    path = Path(path)
    if path.exists() and path.is_dir() != (path.suffix == ".zarr"):
        raise FileExistsError(f"{path} is a {'folder' if path.is_dir() else 'file'}; take another name")
    engine, folder = check_format(path), path.absolute().with_name(f"{path.name}.partial")
    bar = tqdm(
        total=request.trajectories,
        desc=type(system).__name__,
        unit="trajectory",
        disable=None if progress is None else not progress,
    )
    with bar:
        if path.exists() and not overwrite and _is_there(path, engine, request):
            bar.set_description(f"{path} is already there")
            bar.update(request.trajectories)
            if (
                _noted(folder) == request.told
            ):  # an earlier run was killed before it removed the folder, or another run replaces the file
                with suppress(RuntimeError), _working_in(folder, request, overwrite):
                    pass
            return path
        with _working_in(folder, request, overwrite):
            missing = request.missing(folder)
            bar.update(request.trajectories - len(missing))
            run(partial(request.make, folder), missing, workers=workers, scheduler=scheduler, advance=bar.update)
            _join(request, folder, path, engine)
    return path


@dataclass(frozen=True)
class Request:
    """Everything that determines the data."""

    system: MarkovChain
    trajectories: int
    length: int = field(kw_only=True)
    burn_in: int = field(kw_only=True)
    every: int = field(kw_only=True)
    coarsen: int = field(kw_only=True)
    seed: int = field(kw_only=True)

    @property
    def told(self) -> dict[str, Any]:
        """The request in a form that JSON can hold."""
        own = {k: v for k, v in vars(self).items() if k != "system"}
        parameters = {k: _plain(v) for k, v in vars(self.system).items()}
        return json.loads(json.dumps({"system": type(self.system).__name__, "parameters": parameters, **own}))

    def make(self, folder: Path, number: int) -> None:
        """Simulate one trajectory and write its file whole or not at all."""
        values = self.trajectory(number)
        with replacing(_file(folder, number)) as temporary, temporary.open("wb") as file:
            np.save(file, values)

    def trajectory(self, number: int) -> np.ndarray:
        """Simulate one trajectory, ``(time, channel, *space)``."""
        entropy = int(np.random.SeedSequence(self.seed).generate_state(1)[0])
        generator = torch.Generator().manual_seed((entropy + number) % 2**32)  # it takes 32 bits; no two are the same
        x = self.system.initial_of(number, self.seed)[None]
        kept = []
        states = self.system.states(
            x, generator, length=self.length, burn_in=self.burn_in, every=self.every, coarsen=self.coarsen
        )
        for k, state in enumerate(states):
            if not bool(torch.isfinite(state).all()):
                when = f"at time {k * self.every * self.system.dt:g}" if k else "at its first kept time"
                raise FloatingPointError(
                    f"trajectory {number} of {self.system!r} is not finite {when}; {self.system.remedy}"
                )
            kept.append(state[0].numpy())
        return np.stack(kept)

    def missing(self, folder: Path) -> list[int]:
        """Return the numbers of the trajectories that are not in the folder."""
        first, *space = self.system.state_shape
        shape = (self.length, first, *(n // self.coarsen for n in space))
        return [i for i in range(self.trajectories) if not _is_whole(_file(folder, i), shape)]

    def dataset(self, folder: Path) -> xr.Dataset:
        """Return all trajectories lazily, one per chunk."""
        import dask
        import dask.array as da

        one = self.label(folder, 0)
        numbers = np.arange(self.trajectories)
        data: dict[str, Any] = {}
        for name, v in one.data_vars.items():
            if "trajectory" not in v.dims:
                data[str(name)] = v
                continue
            each = [dask.delayed(self._values)(folder, i, name) for i in numbers.tolist()]
            blocks = [da.from_delayed(block, v.shape, v.dtype) for block in each]
            data[str(name)] = (v.dims, da.concatenate(blocks), v.attrs)
        attrs = {"long_name": "number of the trajectory", "units": "1"}
        coords = {**one.drop_vars("trajectory").coords, "trajectory": ("trajectory", numbers, attrs)}
        options = ", ".join(f"{k}={v!r}" for k, v in vars(self).items() if k != "system")
        return xr.Dataset(data, coords, one.attrs).assign_attrs(
            system=repr(self.system),
            seed=self.seed,
            xsda_version=__version__,
            history=f"xsda {__version__}: simulate_to(..., {self.system!r}, {options})",
            **{MARK: json.dumps(self.told)},
        )

    def expected(self) -> xr.Dataset:
        """Return what the file must hold, with zeros for the states."""
        first, *space = self.system.state_shape
        shape = (self.trajectories, self.length, first, *(n // self.coarsen for n in space))
        return self.system.label(np.broadcast_to(np.float32(0), shape), every=self.every).rename(member="trajectory")

    def label(self, folder: Path, number: int) -> xr.Dataset:
        """Return a finished trajectory with its labels; the dimension ``trajectory`` comes first."""
        ds = self.system.label(np.load(_file(folder, number))[None], every=self.every)
        return ds.rename(member="trajectory").transpose("trajectory", ...)

    def _values(self, folder: Path, number: int, name: str) -> np.ndarray:
        return self.label(folder, number)[name].values


def _plain(value: Any) -> Any:
    """Return a parameter of a system in a form that JSON can hold; an array is replaced by its hash."""
    if isinstance(value, (torch.Tensor, np.ndarray)) and value.ndim:
        array = np.ascontiguousarray(value)
        return f"{array.dtype} {array.shape} {hashlib.blake2b(array.tobytes(), digest_size=8).hexdigest()}"
    value = value.item() if isinstance(value, (torch.Tensor, np.ndarray, np.generic)) else value
    return value if value is None or isinstance(value, (bool, int, float, str)) else repr(value)


def _file(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.npy"


def _is_whole(path: Path, shape: tuple[int, ...]) -> bool:
    try:
        return np.load(path, mmap_mode="r").shape == shape
    except (OSError, ValueError, EOFError):  # not there, or cut short
        return False


def _noted(folder: Path) -> dict[str, Any] | None:
    """Return the request to which a folder of unfinished work belongs."""
    try:
        return json.loads((folder / "request.json").read_text())
    except (OSError, ValueError):
        return None


def _differences(old: dict[str, Any], new: dict[str, Any]) -> str:
    if old["system"] != new["system"]:
        return f"system was {old['system']}, now {new['system']}"
    old, new = ({**r["parameters"], **{k: v for k, v in r.items() if k != "parameters"}} for r in (old, new))
    changed = [k for k in {**old, **new} if old.get(k) != new.get(k)]
    return "; ".join(f"{k} was {old.get(k)!r}, now {new.get(k)!r}" for k in changed)


def _is_there(path: Path, engine: str, request: Request) -> bool:
    """Return True if the file is finished and belongs to this request; raise otherwise."""
    try:
        options: dict[str, Any] = {"consolidated": False} if engine == "zarr" else {}
        with xr.open_dataset(path, engine=engine, **options) as ds:
            different = _differences(json.loads(ds.attrs[MARK]), request.told)
            wanted = request.expected()
            lacking = [
                str(name)
                for name, v in wanted.variables.items()
                if name not in ds.variables
                or (name in request.system.variables and engine == "zarr" and _has_gaps(path / str(name)))
                or (name not in request.system.variables and v.dtype.kind in "iuf" and not ds[name].variable.equals(v))
            ]
    except Exception as error:
        raise FileExistsError(
            f"{path} exists and is not a finished file of simulate_to; take another name, or replace it with xsda "
            "simulate --overwrite (overwrite=True)"
        ) from error
    if different:
        raise FileExistsError(
            f"{path} exists with another request: {different}. Take another name, or replace it with xsda simulate "
            "--overwrite (overwrite=True)"
        )
    if lacking:
        raise FileExistsError(
            f"{path} lacks (parts of) {', '.join(lacking)}: was it copied only in part? Take another name, or replace "
            "it with xsda simulate --overwrite (overwrite=True)"
        )
    return True


def _has_gaps(array: Path) -> bool:
    import zarr

    stored = zarr.open_array(str(array), mode="r")
    return stored.nchunks_initialized < stored.nchunks


@contextmanager
def _working_in(folder: Path, request: Request, overwrite: bool) -> Iterator[None]:
    """Lock the folder for unfinished work; remove it at the end if everything or nothing is finished."""
    folder.mkdir(exist_ok=True)
    with locked(folder):
        old = _noted(folder)
        if old is None:
            different = "it does not say which" if any(folder.glob("*.npy")) else ""
        else:
            more = {**old, "trajectories": max(old["trajectories"], request.trajectories)}
            different = _differences(old if more["trajectories"] > request.trajectories else more, request.told)
        if different and not overwrite:
            raise FileExistsError(
                f"{folder} holds unfinished trajectories of another request: {different}. Remove that folder, or "
                "delete them with --overwrite (overwrite=True)"
            )
        if different:
            for path in folder.glob("*.npy"):
                path.unlink()
        with replacing(folder / "request.json") as temporary:
            temporary.write_text(json.dumps(request.told, indent=1))
        finished = False
        try:
            yield
            finished = True
        except KeyboardInterrupt:
            done = request.trajectories - len(request.missing(folder))
            if not done:
                raise
            raise KeyboardInterrupt(
                f"{done} of {request.trajectories} trajectories are kept in {folder}; repeat the call to continue"
            ) from None
        finally:
            if finished or not any(folder.glob("*.npy")):
                shutil.rmtree(folder, ignore_errors=True)


def _join(request: Request, folder: Path, path: Path, engine: str) -> None:
    """Stream all trajectories into the file, which appears only when it is complete."""
    import dask

    missing = request.missing(folder)
    if missing:
        raise FileNotFoundError(f"trajectory {missing[0]} is not in {folder}; do the workers see the same files?")
    whole, old = folder / f"whole{path.suffix}", folder / f"old{path.suffix}"
    ds = request.dataset(folder)
    with dask.config.set(scheduler="synchronous"):
        if engine == "zarr":
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Consolidated metadata")  # not yet in the standard of Zarr 3
                ds.to_zarr(whole, mode="w", consolidated=True)
        else:
            chunks = {n: {"chunksizes": (1, *v.shape[1:])} for n, v in ds.data_vars.items() if "trajectory" in v.dims}
            ds.to_netcdf(whole, engine=engine, encoding=chunks)  # type: ignore[call-overload]
    if path.exists():
        shutil.rmtree(old, ignore_errors=True)
        path.rename(old)
    whole.rename(path)
