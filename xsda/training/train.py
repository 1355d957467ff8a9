"""Train a prior on your own data: ``xsda.train(ds)``."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
import xarray as xr
from torch import Tensor, nn
from tqdm.auto import tqdm

from xsda.arguments import choose
from xsda.diffusion.denoisers import PARAMETERIZATIONS, Denoiser, Preconditioned
from xsda.diffusion.error import measure_error
from xsda.diffusion.schedules import VE, Schedule
from xsda.files import locked
from xsda.labels.area import grid_areas
from xsda.labels.layout import Layout
from xsda.labels.steps import tell_of_gaps
from xsda.nn import MarkovNet, network_identity
from xsda.priors.normals import chosen_cycles, fit_normals, point_scaling
from xsda.priors.prior import Prior
from xsda.training.balancing import balance as balanced
from xsda.training.balancing import check_balance
from xsda.training.geo import training_layout
from xsda.training.loop import Callback, Trainer, run
from xsda.training.networks import make_network
from xsda.training.parallel import Team, leads
from xsda.training.training_options import TrainingOptions
from xsda.training.windows import Windows, fit_scaling, split


def train(
    ds: xr.Dataset,
    *,
    window: int = 5,
    network: str | Mapping[str, Any] | nn.Module = "temporal",
    width: int | None = None,
    periodic: Sequence[str] = (),
    space: Sequence[str] | None = None,
    context: str | Sequence[str] = (),
    time_features: Sequence[str] = (),
    scaling: str = "auto",
    climatology: str | Sequence[str] | None = "auto",
    mask: xr.DataArray | None = None,
    validation: xr.Dataset | None = None,
    schedule: Schedule | None = None,
    parameterization: str = "edm",
    balance: int = 0,
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
        Number of consecutive states of a training sample.
    network
        "temporal": convolutions in time. It is trained on segments of ``window`` states and applies to all trajectories
        of at least that length (or of at least ``shortest`` states). Each state sees half a window to either side.
        "spacetime": the same for large fields, a UNet over space whose blocks mix neighbours in time. "markov": a
        network on windows of ``window`` states (an odd number), whose results are composed. A mapping chooses a class
        and its parameters: ``{"name": "SpaceTimeUNet", "hidden": (32, 64, 128)}``. Or pass your own network, called as
        ``network(x, log_noise)`` on ``(batch, time, channel, *space)``.
    width
        Features of the network (default: 64; 32 for "spacetime"; 128 for "markov" without space).
    periodic, space
        Names of the periodic dimensions. Names of the space dimensions, needed if their attributes do not mark them.
    context
        Variables of ``ds`` without time that the network reads but does not predict (soil type, land mask). "geo"
        stands for what the data have of: the position on the globe or along axes that are not periodic, the hour and
        the season, as far as the dates resolve and cover them, and the orography. Both: ``("geo", "soil_type")``.
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
        Validation data. Without it, ``ds`` is split 80/10/10 into training, validation and (unused) test data.
    schedule, parameterization
        The diffusion process, and the prediction of the network ("edm", "v", "x0", "eps").
    balance
        Number of free samples to draw at the end, to measure and correct the variance that samples lack at each
        wavenumber (see ``xsda.balance``). Only for fields that are periodic along all space axes.
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
    for what, data in (("training", ds), ("validation", validation)):
        if not isinstance(data, xr.Dataset) and (data is not None or what == "training"):
            hint = "open it with xr.open_dataset" if isinstance(data, (str, os.PathLike)) else "use .to_dataset()"
            raise TypeError(f"the {what} data must be an xarray.Dataset, got {type(data).__name__}; {hint}")
        empty = [str(d) for d, n in data.sizes.items() if n == 0] if data is not None else []
        if empty:
            raise ValueError(f"the {what} data are empty along {empty[0]!r}; give data with at least one entry there")
    ds = ds[sorted(ds.data_vars, key=str)]  # the order in a Zarr store may differ each time it is opened
    settings, layout = planned(
        ds, window=window, width=width, periodic=periodic, space=space, context=context, time_features=time_features,
        parameterization=parameterization, balance=balance, **options,
    )  # fmt: skip
    for path in (checkpoint, log):
        if path is not None and not Path(path).absolute().parent.is_dir():
            raise FileNotFoundError(f"the folder of {path} does not exist; make it first")
    tell_of_gaps(ds[layout.time], layout.dt)
    with nullcontext() if checkpoint is None or not leads() else locked(Path(checkpoint)):
        if validation is None:
            ds, validation, _ = split(ds, layout, window)
        layout = fit_layout(ds, layout, scaling, climatology, mask)
        denoiser = _untrained(network, layout, settings, window, width, schedule, parameterization)
        trainer = _trainer(denoiser, layout, settings, Team.join(device), window, _areas(ds, layout))
        training, held_out = Windows(ds, layout, window), Windows(validation, layout, window)
        summary = run(
            trainer,
            training,
            held_out,
            checkpoint=None if checkpoint is None else Path(checkpoint),
            log=None if log is None else Path(log),
            progress=progress,
            callback=callback,
        )
        prior = _prior(trainer, layout, held_out, summary, window, name, progress and trainer.team.leads)
        if not balance:
            return prior
        return balanced(
            prior,
            ds,
            members=balance,
            device=str(trainer.team.device),
            precision=settings.precision,
            progress=progress and trainer.team.leads,
        )


def _untrained(
    network: str | Mapping[str, Any] | nn.Module,
    layout: Layout,
    settings: TrainingOptions,
    window: int,
    width: int | None,
    schedule: Schedule | None,
    parameterization: str,
) -> Preconditioned:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)  # initial weights
        net = make_network(network, layout, window, width)
    masked = layout.normals is not None and layout.normals.masked
    return Preconditioned(net, schedule or VE(sigma_min=2e-3, sigma_max=80.0), parameterization, masked=masked)


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
    network = final.network
    error = measure_error(final, _batches(final, held_out, team.device, progress))
    return Prior(
        final.cpu(),
        layout,
        window=window if isinstance(network, MarkovNet) else window // (window // (settings.shortest or window)),
        error=error,
        info={
            "parameters": sum(p.numel() for p in network.parameters()),
            "training_steps": summary["steps"],
            "batch_size": trainer.setup["windows_a_step"],
            "training_window": window,
            "seed": settings.seed,
            "validation_loss": round(summary["validation_loss"], 6),
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


def planned(
    ds: xr.Dataset,
    *,
    window: int = 5,
    width: int | None = None,
    periodic: Sequence[str] = (),
    space: Sequence[str] | None = None,
    context: str | Sequence[str] = (),
    time_features: Sequence[str] = (),
    parameterization: str = "edm",
    balance: int = 0,
    **options: Any,
) -> tuple[TrainingOptions, Layout]:
    """Check the options and return them, with the layout of data like these."""
    unknown = [k for k in options if k not in TrainingOptions.__dataclass_fields__]
    if unknown:
        raise TypeError(f"unknown option {unknown[0]!r}; {choose(unknown[0], TrainingOptions.__dataclass_fields__)}")
    for key, number, least in (
        ("window", window, 1),
        ("width", 1 if width is None else width, 1),
        ("balance", balance, 0),
    ):
        if isinstance(number, bool) or not isinstance(number, int) or number < least:
            raise ValueError(f"{key}={number!r} must be an integer of at least {least}")
    if parameterization not in PARAMETERIZATIONS:
        raise ValueError(
            f"parameterization={parameterization!r} is unknown; {choose(parameterization, PARAMETERIZATIONS)}"
        )
    settings = TrainingOptions(**options)
    if settings.shortest is not None and not 1 <= settings.shortest <= window:
        raise ValueError(f"shortest={settings.shortest} must lie between 1 and window={window}")
    periodic, context, time_features = (
        (n,) if isinstance(n, str) else tuple(n) for n in (periodic, context, time_features)
    )
    layout = training_layout(ds, periodic=periodic, space=space, context=context, time_features=time_features)
    if balance:
        check_balance(layout)
    return settings, layout


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
