"""Draws an ensemble into a Zarr store, block by block, or writes a whole ensemble to a file."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import xarray as xr

from xsda.files import FORMATS, check_output, write
from xsda.sampling.blocks import Task, member_bar
from xsda.sampling.finished import as_finished
from xsda.sampling.store import open_store


def check_out(out: str | Path | None, overwrite: bool, *, pieces: bool = True) -> Path | None:
    """Return the path of a result that can be written; with ``pieces``, an existing store may be continued."""
    if out is None:
        return None
    path = Path(out)
    check_output(path, overwrite or (pieces and path.suffix == ".zarr"))
    return path


def draw_into_store(
    task: Task,
    members: Sequence[int],
    template: xr.Dataset,
    *,
    path: Path,
    overwrite: bool,
    time: str,
    run: Mapping[str, str],
    chunk: int,
    batch: int,
    label: str,
    progress: bool | None,
) -> xr.Dataset:
    """Draw the members that a store lacks, ``chunk`` at a time, and return the ensemble as it is in the store.

    A block is computed as a whole even if some of its members are there: a member is the same to the last bit only
    beside the same batch mates.
    """
    parts = [members[i : i + chunk] for i in range(0, len(members), chunk)]
    names = [*(field.name for field in task.fields), *task.notes]
    with open_store(path, template, time=time, run=run, chunks={"member": chunk}, overwrite=overwrite) as store:
        missing = set(np.array(members)[store.complete(members) < template.sizes[time]].tolist())
        left = [part for part in parts if not missing.isdisjoint(part)]
        done = len(members) - sum(map(len, left))
        with member_bar(len(members), done=done, label=label, progress=progress) as bar:
            try:
                for part, arrays in as_finished(task, left, batch=batch, bar=bar):
                    rows = [i for i, m in enumerate(part) if m in missing]
                    own = [part[i] for i in rows]
                    store.write({n: a[rows] for n, a in zip(names, arrays, strict=True)}, own)
                    missing.difference_update(own)
            except BaseException as error:
                kept = len(members) - len(missing)
                error.add_note(f"{kept} of {len(members)} members are kept in {path}; the same call continues")
                raise
        ds = store.dataset()
    place = {m: row for row, m in enumerate(ds["member"].values.tolist())}
    rows = [place[m] for m in members]
    return ds if rows == list(range(len(place))) else ds.isel(member=rows)


def write_out(ds: xr.Dataset, path: Path, progress: bool | None) -> xr.Dataset:
    """Write a whole ensemble, with a bar if its blocks are computed only now, and open the file lazily."""
    from dask.diagnostics import ProgressBar

    shown = sys.stderr.isatty() if progress is None else progress
    with ProgressBar(out=sys.stderr) if shown and ds.chunks else nullcontext():
        write(ds, path)
    if path.suffix == ".zarr":
        return xr.open_zarr(path, chunks={}, consolidated=False)
    return xr.open_dataset(path, engine=FORMATS[path.suffix], chunks={})
