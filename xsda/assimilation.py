"""Draws a labelled posterior ensemble from a prior and labelled observations: ``assimilate``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import xarray as xr

from xsda.diffusion.samplers import Sampler
from xsda.guidance import Guidance
from xsda.likelihood import ErrorLaw, Likelihood, Normal
from xsda.observations.joint import compile_observations
from xsda.observations.operator import Derived
from xsda.observations.sources import Sources
from xsda.priors.pool import Pool
from xsda.priors.registry import Model, Models, load_model
from xsda.sampling.choose import default_sampler, pick_guidance, pick_sampler, quick_sampler
from xsda.sampling.draw import draw_ensemble
from xsda.sampling.evidence import variance_factor
from xsda.sampling.keep import check_out, write_out
from xsda.sampling.options import SamplingOptions
from xsda.sampling.pooling import share


def assimilate(
    ds: xr.Dataset,
    obs: Sources,
    model: Model | Models,
    *,
    members: int | Sequence[int] = 16,
    sigma: Any = None,
    guidance: str | Guidance = "auto",
    sampler: str | Sampler = "auto",
    steps: int | None = None,
    likelihood: str | ErrorLaw | Mapping[str, str | ErrorLaw] | None = None,
    correlation: Mapping[str, Any] | None = None,
    background: xr.Dataset | None = None,
    background_sigma: Any = None,
    redraw: int = 16,
    seed: int = 0,
    chunks: Any = None,
    batch: int | None = None,
    tiles: Mapping[str, int] | None = None,
    device: str | Sequence[str] = "auto",
    precision: str = "auto",
    progress: bool | None = None,
    derived: Mapping[str, Derived] | None = None,
    quality: Any = None,
    outside: str = "raise",
    superobs: Any = None,
    out: str | Path | None = None,
    overwrite: bool = False,
) -> xr.Dataset:
    """Draw an ensemble from the posterior p(trajectory | observations).

    Parameters
    ----------
    ds
        The grid: its coordinates define what is estimated. Its values are not read.
    obs
        Observations: a Dataset, a DataArray or a table (a DataFrame of pandas or polars), or a list or mapping of them
        (several instruments). Their coordinates define the observation operator. NaN is a missing observation.
    model
        A prior, the path of one, or a name ("lorenz63"). A list of them shares the members out among several priors.
    members
        Size of the ensemble, or the numbers of the members: ``range(16, 32)`` adds to an ensemble of 16.
    sigma
        Standard deviation of the observation error, in the units of the observed variable: a number, an array, a
        Dataset, or a mapping of variables or sources to these. Default: the CF ancillary variable ``<standard_name>
        standard_error``, then the attribute ``error_std``.
    guidance
        How observations enter the denoiser: "mmps", "calibrated", "sda", "dps", "pigdm", "tmpd", "projection",
        "proximal", or an object such as ``xsda.guidance.GaussianScore(gamma=0.03)``. "auto" is "mmps" for priors in
        closed form and "calibrated" for networks.
    sampler
        How the reverse process is integrated: "dpmpp2m", "dpmpp2m_sde", "ddim", "ddpm", "pc", "euler", "heun", "tds"
        (weighted particles), or an object. "auto" chooses by the prior.
    steps
        Number of steps of the sampler. Default: the sampler's own.
    likelihood
        Law of the observation errors: "gaussian" (default), "student_t", "huber", an object such as
        ``xsda.likelihood.Censored(lower=0.1)`` with limits in the units of the observed variable, or a mapping of
        variables or sources to these.
    correlation
        Correlated errors, by variable, or by source and variable: a correlation matrix over all values of the
        variable (ravelled), a mapping of its coordinates to correlation lengths such as ``{"t2m": {"time": "6h", "x":
        200.0}}``, or an object with ``whiten``. Default: independent errors.
    background
        A first guess on the grid, or on part of it. It is one more source of observations.
    background_sigma
        Standard deviation of the error of the background, in the forms of ``sigma``.
    redraw
        For networks: how often at most a member is drawn again if it, or its mode, fits the observations far worse
        than the second best of members 0 to 7. These eight are drawn for comparison if they are not among
        ``members``. 0: never.
    seed
        Seed of the noise. The noise of each member depends on the seed and on the number of the member only.
    chunks
        ``{"member": 8}`` gives a lazy, dask-backed result. Default: computed at once, unless ``ds`` is dask-backed.
    batch
        Members sampled at once. Default: by the size of the state. A smaller number needs less memory.
    tiles
        ``{"lat": 256, "lon": 256}`` evaluates the network tile by tile, with this many points along these dimensions.
        The result is the same up to rounding, and the activations of few tiles at a time are in memory. Use it if one
        member does not fit into memory; it takes up to twice as long. For networks.
    device
        "auto" (all GPUs, or the CPU if there is none), "cpu", "cuda" (all CUDA devices), one GPU such as "cuda:1", or a
        list of devices. Each block of members goes to a device that is free. The workers of a dask cluster share the
        GPUs of their host among them.
    precision
        "auto" (float32), "float32", "float64", "bf16" or "fp16". The half precisions are for networks. They are tried
        on one trajectory first: if they change the denoised states by more than a third of the error of the prior,
        there is a warning, and float32 is used.
    progress
        Show a progress bar. Default: in a terminal or notebook.
    derived
        Functions for observed variables that the prior lacks, such as ``{"wind_speed": lambda s: (s["u"]**2 +
        s["v"]**2).sqrt()}``. ``s[name]`` is a tensor ``(member, time, *space)`` in the units of the variable, with
        ascending axes.
    quality
        Use only values with one of these quality flags: a flag, or a list of flags such as ``["good", "suspect"]``. The
        flags of ``t2m`` are its ancillary variable with the CF standard name ``t2m quality_flag``, or ``t2m_quality``,
        or ``quality``. Default: all values are used.
    outside
        What to do with observations outside the grid: "raise" an error, or "drop" them. A notice counts those that are
        dropped.
    superobs
        Average reports of one variable and source that lie close together: "1h" (or another length of time) averages
        those of one place, "cell" those that have the same nearest grid point and time. Their errors must be
        independent. Default: no averages.
    out
        Draw now, write the ensemble to this file (.nc, .h5 or .zarr), and return it opened lazily. A .zarr store is
        written in blocks of ``chunks`` members, also on a cluster; only this process writes. The same call continues
        after an interruption, and other ``members`` are added to the store. Its coordinate ``complete_states`` counts
        for each member the states that are written. Another file, or the ensemble of several priors, is written once at
        the end.
    overwrite
        Replace a file ``out`` that exists, or a store of another run. Default: raise an error.

    Returns
    -------
    xarray.Dataset
        The variables of the prior over (member, time, ...), with the coordinates, names and attributes of ``ds``. Each
        variable has the dtype it has in ``ds``.

    Notes
    -----
    A member is the same whatever the chunks, the scheduler or the batch: to about 1e-4 of a standard deviation in
    float32, and to rounding (about 1e-12) in float64.

    Compatible units are converted. Results are in the units of ``ds``, and the attribute ``history`` records what was
    converted.

    A Gaussian prior that ``GaussianPrior.fit`` made of a short record lets the observations change its variance, by one
    factor, which the attribute ``variance_factor`` records.

    Several grids in a DataTree are assimilated node by node. Groups without data are passed on as they are:
    ``tree.map_over_datasets(lambda ds: ds.sda.assimilate(obs, model) if ds else ds)``.

    Examples
    --------
    ``obs`` holds x at every fourth time of a Lorenz-63 trajectory, with the attribute ``error_std``:

    >>> post = xsda.assimilate(truth, obs, "lorenz63", members=4, steps=24, redraw=0, progress=False)
    >>> dict(post.x.sizes)
    {'member': 4, 'time': 16}

    Two instruments with errors of their own, and a lazy result:

    >>> both = {"buoy": obs, "ship": truth[["y"]].isel(time=[3])}
    >>> lazy = xsda.assimilate(truth, both, "lorenz63", sigma={"buoy": 0.5, "ship": 2.0}, chunks={"member": 8})
    >>> lazy.x.chunks
    ((8, 8), (16,))

    A table of reports, averaged over the steps of the grid:

    >>> import pandas as pd
    >>> table = pd.DataFrame({"time": [0.10, 0.11, 0.30], "x": [1.2, 1.4, 2.0]})
    >>> post = xsda.assimilate(truth, table, "lorenz63", sigma=0.5, superobs="cell", steps=8, progress=False)
    >>> post.attrs["observations"]
    2
    """
    if not isinstance(ds, xr.Dataset):
        raise TypeError(f"the grid must be an xarray.Dataset, got {type(ds).__name__}")
    how: dict[str, Any] = {
        "guidance": guidance, "sampler": sampler, "steps": steps, "redraw": redraw, "seed": seed, "chunks": chunks,
        "batch": batch, "tiles": tiles, "device": device, "precision": precision, "progress": progress,
    }  # fmt: skip
    what: dict[str, Any] = {
        "sigma": sigma, "likelihood": likelihood, "correlation": correlation, "background": background,
        "background_sigma": background_sigma, "derived": derived, "quality": quality, "outside": outside,
        "superobs": superobs,
    }  # fmt: skip
    options, prior, ds = SamplingOptions(members=members, **how), load_model(model), _without_ensemble(ds)
    path = check_out(out, overwrite, pieces=not isinstance(prior, Pool))
    if isinstance(prior, Pool):
        pooled = share(
            prior, ds, members, lambda one, numbers: assimilate(ds, obs, one, members=numbers, **how, **what)
        )
        return pooled if path is None else write_out(pooled, path, progress)
    chosen = pick_guidance(guidance, prior)
    stepper = pick_sampler(sampler, steps, default_sampler(prior, guided=True))
    grid = prior.bind(ds)
    compiled = compile_observations(grid, obs, **what)
    attrs = {
        "guidance": str(chosen),
        "observations": int(compiled.y.numel()),
        **_settings(compiled, correlation, background, redraw),
        **({} if superobs is None else {"superobs": str(superobs)}),
    }
    alone = sampler != "auto" or steps is not None or not redraw  # no other sampler is to be used
    quick = None if alone else quick_sampler(prior, chosen, compiled, grid.shape)
    factor = variance_factor(prior, compiled, grid.shape)
    if factor != 1.0:
        attrs["variance_factor"] = round(factor, 4)
    return draw_ensemble(
        prior, grid, options, stepper, quick=quick, guidance=chosen, likelihood=compiled, attrs=attrs, factor=factor,
        out=path, overwrite=overwrite,
    )  # fmt: skip


def _settings(likelihood: Likelihood, correlation: Any, background: Any, redraw: int) -> dict[str, Any]:
    """Describe errors and background for the attributes of the result."""
    laws = {g.name: str(g.law) for g in likelihood.groups if not isinstance(g.law, Normal)}
    attrs = {"likelihood": "; ".join(f"{name}: {law}" for name, law in laws.items()) or "gaussian", "redraw": redraw}
    if correlation:
        attrs["correlated_errors"] = ", ".join(map(str, correlation))
    if background is not None:
        attrs["background"] = ", ".join(map(str, background.data_vars))
    return attrs


def _without_ensemble(ds: xr.Dataset) -> xr.Dataset:
    """Drop the dimension ``member`` of a grid that is an ensemble; its values are not read."""
    return ds.isel(member=0, drop=True) if "member" in ds.dims else ds
