"""Draws labelled ensembles: ``sample`` without observations, ``draw_ensemble`` for any prior and likelihood."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from xsda.diffusion.samplers import Sampler
from xsda.guidance import Guidance
from xsda.labels.grid import Grid
from xsda.labels.provenance import describe
from xsda.likelihood import Likelihood
from xsda.priors.pool import Pool
from xsda.priors.prior import Prior
from xsda.priors.reference import refer
from xsda.priors.registry import Model, Models, load_model
from xsda.sampling.blocks import check_core_chunks, compute, member_chunks, outputs
from xsda.sampling.choose import default_sampler, pick_sampler
from xsda.sampling.devices import find_devices
from xsda.sampling.finished import current_client
from xsda.sampling.keep import check_out, draw_into_store, write_out
from xsda.sampling.options import SamplingOptions
from xsda.sampling.pieces import tile_sizes
from xsda.sampling.pooling import share
from xsda.sampling.shipping import Shipment, fingerprint, pack
from xsda.sampling.spread import compute_on
from xsda.sampling.task import SamplingTask

NOTES = {
    "effective_sample_size": {
        "long_name": "smallest effective number of particles in the population of this member",
        "units": "1",
    }
}


def sample(
    ds: xr.Dataset,
    model: Model | Models,
    *,
    members: int | Sequence[int] = 16,
    sampler: str | Sampler = "auto",
    steps: int | None = None,
    seed: int = 0,
    chunks: Any = None,
    batch: int | None = None,
    tiles: Mapping[str, int] | None = None,
    device: str | Sequence[str] = "auto",
    precision: str = "auto",
    progress: bool | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
) -> xr.Dataset:
    """Draw trajectories from a prior, without observations.

    Parameters
    ----------
    ds
        The grid: its coordinates define what is sampled. Its values are not read; a Dataset of coordinates is enough.
    model
        A prior, the path of one, or a name ("lorenz63"). A list of them shares the members out among several priors.
    members, sampler, steps, seed, chunks, batch, tiles, device, precision, progress, out, overwrite
        As in ``xsda.assimilate``.

    Returns
    -------
    xarray.Dataset
        The variables of the prior over (member, time, ...), with the coordinates, names and attributes of ``ds``.

    Examples
    --------
    >>> free = xsda.sample(truth, "lorenz63", members=2, steps=8, progress=False)
    >>> dict(free.x.sizes)
    {'member': 2, 'time': 16}
    """
    prior = load_model(model)
    own: dict[str, Any] = {
        "sampler": sampler, "steps": steps, "seed": seed, "chunks": chunks, "batch": batch, "tiles": tiles,
        "device": device, "precision": precision, "progress": progress,
    }  # fmt: skip
    options = SamplingOptions(members=members, redraw=0, **own)
    path = check_out(out, overwrite, pieces=not isinstance(prior, Pool))
    if isinstance(prior, Pool):
        pooled = share(prior, ds, members, lambda one, numbers: sample(ds, one, members=numbers, **own))
        return pooled if path is None else write_out(pooled, path, progress)
    chosen = pick_sampler(sampler, steps, default_sampler(prior, guided=False))
    return draw_ensemble(
        prior, prior.bind(ds), options, chosen, attrs={"guidance": "none"}, out=path, overwrite=overwrite
    )


def draw_ensemble(
    prior: Prior,
    grid: Grid,
    options: SamplingOptions,
    sampler: Sampler,
    *,
    quick: Sampler | None = None,
    guidance: Guidance | None = None,
    likelihood: Likelihood | None = None,
    attrs: Mapping[str, Any],
    factor: float = 1.0,
    out: Path | None = None,
    overwrite: bool = False,
) -> xr.Dataset:
    """Draw an ensemble, at once or lazily, and label it; ``factor`` multiplies the variances of patterns.

    With ``out`` it is drawn at once, and written to this file or store.
    """
    numbers, batch = options.numbers, options.at_once(grid.shape)
    check_core_chunks(grid.template, grid.core_dims)
    tiles = tile_sizes(prior, options.tiles, grid.core_dims[1:])
    chunk = member_chunks(len(numbers), options.chunks, grid.core_dims)
    if sampler.population > 1:
        _check_populations(numbers, chunk, options.batch, sampler.population)
        batch = -(-batch // sampler.population) * sampler.population
    chunk = chunk or min(batch, len(numbers))
    store = out if out is not None and out.suffix == ".zarr" else None
    chunked = options.chunks is not None or any(v.chunks is not None for v in grid.template.data_vars.values())
    client = current_client() if store or chunked else None
    away = client is not None or (chunked and not store)  # other processes may compute
    devices = () if away else find_devices(options.device)  # raises if there is no such device
    content = (likelihood, grid.context(), grid.scaling)
    task = SamplingTask(
        refer(prior) if away else prior, grid.shape, grid.fields, sampler, guidance,
        pack(content) if away else Shipment(content), options.seed, options.device, options.precision,
        options.redraw, factor, tiles=tiles, quick=quick,
    )  # fmt: skip
    if client is not None:
        from xsda.sampling.sending import send

        send(client, task.files)
    attrs = {
        "prior": prior.name, "prior_hash": prior.hash, "sampler": str(sampler), "steps": sampler.steps,
        "denoiser_evaluations": sampler.evaluations, "seed": options.seed, **attrs,
        **({} if quick is None else {"quick_sampler": str(quick), "quick_evaluations": quick.evaluations}),
    }  # fmt: skip
    label = partial(_label, grid, task, numbers, attrs)
    own: dict[str, Any] = {
        "batch": batch, "progress": options.progress, "label": "assimilating" if likelihood else "sampling",
    }  # fmt: skip
    if store:
        empty = [np.broadcast_to(np.zeros((), dtype), (len(numbers), *shape)) for shape, dtype in outputs(task)]
        run, time = _run(prior, content, task), grid.core_dims[0]
        return draw_into_store(
            task, numbers, label(empty), path=store, overwrite=overwrite, time=time, run=run, chunk=chunk, **own
        )
    arrays: Sequence[Any]
    if chunked:
        from xsda.sampling.graph import lazy

        arrays = lazy(task, numbers, chunk=chunk, batch=batch)
    else:
        draw = partial(compute_on, devices) if len(devices) > 1 else compute
        arrays = draw(task, numbers, **own)
    ds = label(arrays)
    return ds if out is None else write_out(ds, out, options.progress)


def _label(
    grid: Grid, task: SamplingTask, numbers: Sequence[int], attrs: Mapping[str, Any], arrays: Sequence[Any]
) -> xr.Dataset:
    """Label what a task returned (numpy or dask)."""
    member = xr.DataArray(np.array(numbers), dims="member", attrs={"standard_name": "realization", "units": "1"})
    ds = grid.label(arrays[: len(task.fields)], {"member": member})
    for name, values in zip(task.notes, arrays[len(task.fields) :], strict=True):
        ds = ds.assign_coords({name: ("member", values, NOTES[name])})
    return describe(ds, grid, attrs)


def _run(prior: Prior, content: tuple[Any, ...], task: SamplingTask) -> dict[str, str]:
    """Describe what the members depend on, besides their numbers and the coordinates of the grid."""
    likelihood, *fields = content
    return {
        "prior_hash": prior.hash,
        "observations": fingerprint(likelihood),
        "static fields or climatology": fingerprint(fields),
        "states": str(task.shape[0]),
        "guidance": str(task.guidance),
        "sampler": str(task.sampler),
        "quick_sampler": str(task.quick),
        "seed": str(task.seed),
        "redraw": str(task.redraw),
        "precision": task.precision,
        "variance_factor": f"{task.factor:.6g}",
    }


def _check_populations(numbers: Sequence[int], chunk: int | None, batch: int | None, size: int) -> None:
    """Raise unless the members and chunks are whole populations of ``size`` particles."""
    count = len(numbers)
    if list(numbers) != list(range(numbers[0], numbers[0] + count)) or numbers[0] % size:
        raise ValueError(
            f"TDS samples populations of {size} particles, so members must be a number, or a range from a multiple of "
            f"{size}; a pool of priors cannot share them out"
        )
    if batch is not None and batch < size:
        raise ValueError(
            f"batch={batch} is smaller than a population of {size} particles, which is sampled at once; use "
            f"sampler=TDS(particles={max(batch, 2)}), or omit batch"
        )
    if chunk is not None and chunk < count and chunk % size:
        raise ValueError(
            f"chunks of {chunk} members divide populations of {size} particles; use a multiple of them, such as "
            f"chunks={{'member': {size}}}"
        )
