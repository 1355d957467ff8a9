"""``assimilate``: labelled observations in, a labelled posterior ensemble out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from xsda.sampling.choose import default_sampler, pick_guidance, pick_sampler
from xsda.sampling.draw import draw_ensemble
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
    device: str = "auto",
    precision: str = "auto",
    progress: bool | None = None,
    derived: Mapping[str, Derived] | None = None,
) -> xr.Dataset:
    """Draw an ensemble from the posterior p(trajectory | observations).

    Parameters
    ----------
    ds
        The grid: its coordinates say what is estimated. Its values are not read.
    obs
        Observations: a Dataset, or a list or mapping of them (several instruments). Their coordinates are the
        observation operator; NaN is a missing observation.
    model
        A prior, the path of one, or a name ("lorenz63"); a list of them pools their posteriors.
    members
        Size of the ensemble, or the numbers of the members wanted: ``range(16, 32)`` adds to an ensemble of 16.
    sigma
        Standard deviation of the observation error, in the units of the variable: a number, a mapping by variable, an
        array or a Dataset. Default: the CF ancillary variable ``<standard_name> standard_error``, or the attribute
        ``error_std``.
    guidance
        "auto" (by the prior: "mmps" where the denoiser is a closed form, "calibrated" where it is a network), "mmps",
        "calibrated", "sda", "dps", "pigdm", "tmpd", "projection", "proximal", or a configured object such as
        ``xsda.guidance.GaussianScore(gamma=0.03)``.
    sampler, steps
        "auto", "dpmpp2m", "dpmpp2m_sde", "ddim", "ddpm", "pc", "euler", "heun", "tds" (weighted particles), or a
        configured object; number of steps.
    likelihood
        The law of the observation errors: "gaussian" (default), "student_t", "huber", an object such as
        ``xsda.likelihood.Censored(lower=0.1)``, or a mapping of observed variables, or of sources, to these.
    correlation
        Correlated errors, by observed variable (or source, and variable): a correlation matrix over its values
        (ravelled), a mapping of its coordinates to correlation lengths, e.g. ``{"t2m": {"time": "6h", "x": 200.0}}``,
        or an object with ``whiten``.
    background, background_sigma
        A first guess on (a part of) the grid, and the standard deviation of its error: one more source of observations.
    redraw
        How often at most a member is drawn again that fits the observations far worse than the second best of members 0
        to 7, or whose mode does, if the prior is a network (these eight are drawn for that if they were not asked for).
        0: never.
    seed
        Each member's noise is keyed by (seed, member): the same whatever the chunks, the scheduler or the device.
    chunks
        ``{"member": 8}`` gives a lazy, dask-backed result. Default: computed at once, unless ``ds`` is dask-backed.
    batch
        Members sampled at once (default: by the size of the state). Smaller needs less memory.
    device
        "auto", "cpu", "cuda".
    precision
        "auto" (float32), "float32", "float64", "bf16", "fp16"; the half precisions are for networks.
    progress
        Show a progress bar (default: where there is a terminal or a notebook).
    derived
        Functions for observed variables that the prior lacks, e.g. ``{"wind_speed": lambda s: (s["u"]**2 +
        s["v"]**2).sqrt()}``; ``s[name]`` is a tensor ``(member, time, *space)`` in the variable's units, axes
        ascending.

    Returns
    -------
    xarray.Dataset
        The variables of the prior over (member, time, ...), with the coordinates, names and attributes of ``ds``.
    """
    if not isinstance(ds, xr.Dataset):
        raise TypeError(f"the grid must be an xarray.Dataset, got {type(ds).__name__}")
    how: dict[str, Any] = {
        "guidance": guidance, "sampler": sampler, "steps": steps, "redraw": redraw, "seed": seed, "chunks": chunks,
        "batch": batch, "device": device, "precision": precision, "progress": progress,
    }  # fmt: skip
    what: dict[str, Any] = {
        "sigma": sigma, "likelihood": likelihood, "correlation": correlation, "background": background,
        "background_sigma": background_sigma, "derived": derived,
    }  # fmt: skip
    options, prior, ds = SamplingOptions(members=members, **how), load_model(model), _without_ensemble(ds)
    if isinstance(prior, Pool):
        return share(prior, ds, members, lambda one, numbers: assimilate(ds, obs, one, members=numbers, **how, **what))
    chosen = pick_guidance(guidance, prior)
    stepper = pick_sampler(sampler, steps, default_sampler(prior, guided=True))
    grid = prior.bind(ds)
    compiled = compile_observations(grid, obs, **what)
    attrs = {
        "guidance": str(chosen),
        "observations": int(compiled.y.numel()),
        **_told(compiled, correlation, background, redraw),
    }
    return draw_ensemble(prior, grid, options, stepper, guidance=chosen, likelihood=compiled, attrs=attrs)


def _told(likelihood: Likelihood, correlation: Any, background: Any, redraw: int) -> dict[str, Any]:
    """What else went into the result, for its attributes."""
    laws = {g.name: str(g.law) for g in likelihood.groups if not isinstance(g.law, Normal)}
    told = {"likelihood": "; ".join(f"{name}: {law}" for name, law in laws.items()) or "gaussian", "redraw": redraw}
    if correlation:
        told["correlated_errors"] = ", ".join(map(str, correlation))
    if background is not None:
        told["background"] = ", ".join(map(str, background.data_vars))
    return told


def _without_ensemble(ds: xr.Dataset) -> xr.Dataset:
    """An ensemble serves as a grid as well: its members are not read."""
    return ds.isel(member=0, drop=True) if "member" in ds.dims else ds
