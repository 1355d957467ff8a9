"""Train a prior on your own data: ``xsda.train(ds)``."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
import xarray as xr
from torch import Tensor, nn
from tqdm.auto import tqdm

from xsda.arguments import real_number
from xsda.diffusion.anchored import Anchored
from xsda.diffusion.denoisers import Denoiser, Preconditioned
from xsda.diffusion.error import measure_error
from xsda.diffusion.schedules import VE, Schedule
from xsda.files import locked
from xsda.labels.area import grid_areas
from xsda.labels.layout import Layout
from xsda.labels.steps import tell_of_gaps
from xsda.nn import MarkovNet, network_identity
from xsda.priors.exact import ExactDenoiser
from xsda.priors.gaussian import error_curve
from xsda.priors.normals import chosen_cycles, fit_normals, point_scaling
from xsda.priors.prior import Prior
from xsda.training.anchor import anchored, leave_blocks, opened, refitted, rehearse, widened
from xsda.training.balancing import balance as balanced
from xsda.training.loop import Callback, Trainer, run
from xsda.training.networks import make_network
from xsda.training.parallel import Team, leads
from xsda.training.plan import Plan, planned
from xsda.training.training_options import TrainingOptions
from xsda.training.windows import Folds, Windows, fit_scaling, split


def train(
    ds: xr.Dataset,
    *,
    window: int | None = None,
    network: str | Mapping[str, Any] | nn.Module = "auto",
    width: int | None = None,
    anchor: bool | str = "auto",
    periodic: Sequence[str] = (),
    space: Sequence[str] | None = None,
    context: str | Sequence[str] | None = None,
    time_features: Sequence[str] = (),
    scaling: str = "auto",
    climatology: str | Sequence[str] | None = "auto",
    mask: xr.DataArray | None = None,
    validation: xr.Dataset | None = None,
    schedule: Schedule | None = None,
    parameterization: str = "edm",
    balance: int = 0,
    rehearsals: int | None = None,
    minutes: float | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    log: str | os.PathLike[str] | None = None,
    callback: Callback | None = None,
    progress: bool = True,
    device: str = "auto",
    name: str = "unnamed",
    **options: Any,
) -> Prior:
    """Train a diffusion prior of trajectories.

    Parameters
    ----------
    ds
        Variables over ``time``, up to two space dimensions and optionally ``trajectory``. Data backed by dask, NetCDF,
        Zarr or HDF5 are read in pieces.
    window
        Number of consecutive states of a training sample. Default: 5; for regional fields (see ``network``) a day of
        hourly data, otherwise 12 states, and at most a fifteenth of the record.
    network
        "auto": for regional fields, which are those whose points have their own mean (``scaling``), a small
        "spacetime" network that is anchored (see ``anchor``) and quickly trained; otherwise "temporal".
        "temporal": convolutions in time. It is trained on segments of ``window`` states and applies to all trajectories
        of at least that length (or of at least ``shortest`` states). Each state sees half a window to either side.
        "spacetime": the same for large fields, a UNet over space whose blocks mix neighbours in time. "markov": a
        network on windows of ``window`` states (an odd number), whose results are composed. A mapping chooses a class
        and its parameters: ``{"name": "SpaceTimeUNet", "hidden": (32, 64, 128)}``. Or pass your own network, called as
        ``network(x, log_noise)`` on ``(batch, time, channel, *space)``.
    width
        Features of the network (default: 64; 32 for "spacetime"; 128 for "markov" without space; 16 for regional
        fields).
    anchor
        Whether the network corrects a Gaussian of the same data (see ``GaussianPrior.fit``), by as much as it proves
        right in blocks of the record that are left out. Few data then give ensembles with an honest spread. The prior
        describes trajectories of ``window`` states on the grid of ``ds``. "auto": if ``network`` is "auto" and the
        fields are regional.
    periodic, space
        Names of the periodic dimensions. Names of the space dimensions, needed if their attributes do not mark them.
    context
        Variables of ``ds`` without time that the network reads but does not predict (soil type, land mask). "geo"
        stands for those of these that the data have: the position on the globe or along axes that are not periodic, the
        hour and the season, if the dates resolve and cover them, and the orography. Both: ``("geo", "soil_type")``.
        Default: "geo" if anchored, otherwise none.
    time_features
        Any of "hour_of_day" and "day_of_year": the network reads them too. The data must have dates.
    scaling
        "point": each grid point has its own mean and standard deviation, and its own regular cycles, and missing values
        are left out. "variable": one mean and standard deviation of each variable. "auto" is "point" for latitudes and
        longitudes and for fields with missing values.
    climatology
        Cycles of each grid point, for ``scaling="point"``: any of "hour_of_day" and "day_of_year". "auto" takes those
        that the dates resolve and cover; None takes none.
    mask
        True where there are values, over the space dimensions. Default: where the data have some. The network reads
        it, and results are NaN elsewhere.
    validation
        Validation data. Without it, ``ds`` is split 80/10/10 into training, validation and (unused) test data. For an
        anchored network a fifth is left out, in four blocks.
    schedule, parameterization
        The diffusion process, and the prediction of the network ("edm", "v", "x0", "eps").
    balance
        Number of free samples to draw at the end, to measure and correct the variance that samples lack at each
        wavenumber (see ``xsda.balance``). Only for fields that are periodic along all space axes.
    rehearsals
        Number of windows of the data left out for which ensembles are drawn at the end, from values at a few points.
        ``info`` of the prior then has the spread over the error to expect. If anchored, the prior is first widened
        where the spread is smaller than the error. Default: 4 if anchored, otherwise none.
    minutes
        Approximate time for the whole training, from which the number of steps follows. Only for a single process.
        Default: ``steps`` decides.
    checkpoint
        File for checkpoints. If it exists, training resumes from it, and the result is the same as without the
        interruption. Only one training at a time can use a checkpoint.
    log
        CSV file to which the losses are written.
    callback
        Called as ``callback(step, values)`` at each validation, for example to feed an experiment tracker.
    progress
        Show a progress bar.
    device
        "auto", "cpu" or "cuda".
    name
        Name of the prior in results.
    options
        Fields of ``xsda.training.TrainingOptions``: steps, batch_size, learning_rate, ema, patience, precision, seed,
        ...

    Returns
    -------
    Prior
        The averaged network with the best validation loss, with its error measured on the validation data.

    Examples
    --------
    >>> import xsda
    >>> ds = xsda.systems.Lorenz63().simulate(64, 16, seed=0)
    >>> model = xsda.train(ds, window=8, width=16, steps=20, progress=False)
    >>> model.layout.names
    ('x', 'y', 'z')
    """
    began = time.perf_counter()
    for what, data in (("training", ds), ("validation", validation)):
        if not isinstance(data, xr.Dataset) and (data is not None or what == "training"):
            hint = "open it with xr.open_dataset" if isinstance(data, (str, os.PathLike)) else "use .to_dataset()"
            raise TypeError(f"the {what} data must be an xarray.Dataset, got {type(data).__name__}; {hint}")
        empty = [str(d) for d, n in data.sizes.items() if n == 0] if data is not None else []
        if empty:
            raise ValueError(f"the {what} data are empty along {empty[0]!r}; give data with at least one entry there")
    ds = ds[sorted(ds.data_vars, key=str)]  # the order in a Zarr store may differ each time it is opened
    plan = planned(
        ds, window=window, network=network, width=width, anchor=anchor, periodic=periodic, space=space,
        context=context, time_features=time_features, scaling=scaling, mask=mask, parameterization=parameterization,
        balance=balance, rehearsals=rehearsals, **options,
    )  # fmt: skip
    if minutes is not None:
        minutes = real_number("minutes", minutes, "be positive: the time for the training", above=0)
    settings, layout, window = plan.settings, plan.layout, plan.window
    if plan.anchored and schedule is not None:
        raise ValueError("an anchored network has the schedule of its Gaussian; omit schedule, or pass anchor=False")
    for path in (checkpoint, log):
        if path is not None and not Path(path).absolute().parent.is_dir():
            raise FileNotFoundError(f"the folder of {path} does not exist; make it first")
    tell_of_gaps(ds[layout.time], layout.dt)
    with nullcontext() if checkpoint is None or not leads() else locked(Path(checkpoint)):
        whole = ds
        if validation is None and plan.anchored:
            ds, validation = leave_blocks(ds, layout, window)
        elif validation is None:
            ds, validation, _ = split(ds, layout, window)
        layout = fit_layout(ds, layout, scaling, climatology, mask)
        denoiser, training = _untrained(plan, ds, layout, schedule, parameterization)
        trainer = _trainer(denoiser, layout, settings, Team.join(device), window, _areas(ds, layout))
        held_out = Windows(validation, layout, window)
        if minutes is not None:
            trainer.limit(60 * minutes - (time.perf_counter() - began), training, checkpoint)
        summary = run(
            trainer,
            training,
            held_out,
            checkpoint=None if checkpoint is None else Path(checkpoint),
            log=None if log is None else Path(log),
            progress=progress,
            callback=callback,
        )
        shown, on = progress and trainer.team.leads, str(trainer.team.device)
        if isinstance(trainer.average, Anchored):
            summary["removed"] = opened(trainer.average, held_out)
        prior = _prior(trainer, layout, held_out, summary, window, name, shown)
        if plan.rehearsals and plan.anchored:
            widened(prior, validation, plan.rehearsals, device=on, progress=shown)
        elif plan.rehearsals:
            ratio = rehearse(prior, validation, plan.rehearsals, device=on, progress=shown)
            prior.info["spread over error"] = round(ratio, 2)
        if isinstance(prior.denoiser, Anchored) and whole is not ds:
            prior.denoiser, prior.error = refitted(prior.denoiser, whole, layout, window)
        if not balance:
            return prior
        return balanced(
            prior,
            ds,
            members=balance,
            device=on,
            precision=settings.precision,
            progress=shown,
        )


def _untrained(
    plan: Plan, ds: xr.Dataset, layout: Layout, schedule: Schedule | None, parameterization: str
) -> tuple[Preconditioned, Windows | Folds]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.settings.seed)  # initial weights
        extra = layout.channels if plan.anchored else 0  # the network also reads the estimate of the Gaussian
        net = make_network(plan.network, layout, plan.window, plan.width, extra)
    masked = layout.normals is not None and layout.normals.masked
    if plan.anchored:
        return anchored(net, ds, layout, plan.window, masked)
    plain = Preconditioned(net, schedule or VE(sigma_min=2e-3, sigma_max=80.0), parameterization, masked=masked)
    return plain, Windows(ds, layout, plan.window)


def _areas(ds: xr.Dataset, layout: Layout) -> Tensor | None:
    """The areas of the grid points, *space; None if no axis is a latitude."""
    areas = grid_areas(ds, [a.name for a in layout.space])
    return None if (areas == 1).all() else torch.as_tensor(areas.copy(), dtype=torch.float32)


def _trainer(
    denoiser: Preconditioned, layout: Layout, settings: TrainingOptions, team: Team, window: int, area: Tensor | None
) -> Trainer:
    setup = {
        "diffusion": denoiser.schedule.config(),
        "parameterization": denoiser.parameterization,
        "window": window,
        "data": layout.to_json(),
        "windows_a_step": settings.batch_size * settings.accumulate * team.size,
        "network": network_identity(denoiser.network),
    }
    return Trainer(denoiser, settings, team, setup, area)


def _prior(
    trainer: Trainer,
    layout: Layout,
    held_out: Windows,
    summary: dict[str, Any],
    window: int,
    name: str,
    progress: bool,
) -> Prior:
    """The averaged network as a prior, with its error on the validation data."""
    final, team, settings = trainer.average, trainer.team, trainer.options
    network, length = final.network, None
    if not isinstance(final, Anchored):
        error = measure_error(final, _batches(final, held_out, team.device, progress))
    final = final.cpu()
    if isinstance(final, Anchored):
        assert isinstance(final.base, ExactDenoiser)
        error, length = error_curve(final.base), window
    return Prior(
        final,
        layout,
        window=window if isinstance(network, MarkovNet) else window // (window // (settings.shortest or window)),
        length=length,
        error=error,
        info={
            "parameters": sum(p.numel() for p in network.parameters()),
            "training_steps": summary["steps"],
            "batch_size": trainer.setup["windows_a_step"],
            "training_window": window,
            "seed": settings.seed,
            "validation_loss": round(summary["validation_loss"], 6),
            **({"error removed by the network": f"{100 * summary['removed']:.1f} %"} if length else {}),
            "options": {f.name: v for f in fields(settings) if (v := getattr(settings, f.name)) != f.default},
            "processes": team.size,
            "device": team.device.type,
            "torch": torch.__version__.split("+")[0],
        },
        name=name,
    )


def fit_layout(
    ds: xr.Dataset, layout: Layout, scaling: str, climatology: str | Sequence[str] | None, mask: xr.DataArray | None
) -> Layout:
    """Fit the scaling of each variable, or of each grid point."""
    if mask is not None or point_scaling(ds, layout, scaling):
        return fit_normals(ds, layout, chosen_cycles(ds, layout, climatology), mask)
    return fit_scaling(ds, layout)


def _batches(
    denoiser: Preconditioned, windows: Windows, device: torch.device, progress: bool
) -> Iterator[tuple[Denoiser, Tensor]]:
    """Yield 256 windows, or as many as make two million numbers."""
    wanted = min(256, max(8, 2**21 // (windows.window * math.prod(windows.grid.shape[1:]))))
    size = min(wanted, 64)
    source = windows.batches(size, seed=2)
    for _ in tqdm(range(wanted // size), desc="measuring the error", unit="batch", disable=not progress):
        x0, context = next(source)
        yield denoiser if context is None else denoiser.conditioned(context.to(device)), x0.to(device)
