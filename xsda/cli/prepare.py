"""Commands that make data and priors: ``simulate``, ``fit`` and ``train``."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import click

from xsda.cli.shared import FILE, out_option, overwrite_option, progress_option, shows_progress
from xsda.cli.values import DEVICES, NETWORKS, SYSTEMS, Name, settings

SCALINGS, STRUCTURES = ("auto", "point", "variable"), ("eof", "separable")


@click.command()
@click.argument("system", type=Name(SYSTEMS))
@click.option("--length", default=256, show_default=True, help="Number of states kept.")
@click.option("--members", default=None, type=int, help="Number of independent trajectories, in memory [default: one].")
@click.option("--trajectories", default=None, type=int, help="Number of independent trajectories, written one by one.")
@click.option("--seed", default=0, show_default=True, help="Seed of the random numbers.")
@click.option(
    "--burn-in", default=None, type=int, help="Steps before the first kept state [default: the system's own]."
)
@click.option("--every", default=1, show_default=True, help="Keep one state in so many.")
@click.option(
    "--coarsen", default=1, show_default=True, help="Keep means over blocks of so many points along each side."
)
@click.option(
    "--set", "pairs", multiple=True, metavar="NAME=VALUE",
    help="Parameter of the system, e.g. --set rho=28; may be repeated.",
)  # fmt: skip
@click.option("--workers", default=1, show_default=True, help="Processes that share the --trajectories.")
@click.option(
    "--scheduler", default=None, metavar="ADDRESS", help="Dask cluster that makes the --trajectories instead."
)
@out_option
@overwrite_option
@progress_option
def simulate(
    system: str, length: int, members: int | None, trajectories: int | None, seed: int, burn_in: int | None, every: int,
    coarsen: int, pairs: tuple[str, ...], workers: int, scheduler: str | None, out: Path, overwrite: bool,
    progress: bool | None,
) -> None:  # fmt: skip
    """Simulate labelled trajectories of a SYSTEM.

    SYSTEM is lorenz63, lorenz96, lotkavolterra, dampedspring, kolmogorov or wake. With --trajectories they need not
    fit into memory, and the same command continues after an interruption.
    """
    from xsda.arguments import choose
    from xsda.files import check_output, write
    from xsda.systems.simulation import SYSTEMS as classes
    from xsda.systems.simulation import simulate_to

    if system.lower() not in classes:
        raise ValueError(f"unknown system {system!r}; {choose(system, classes)}")
    if trajectories is None:
        check_output(out, overwrite)
    simulator = _simulator(classes[system.lower()], settings(pairs, "--set"))
    if trajectories is None:
        if workers != 1 or scheduler is not None:
            raise ValueError("--workers and --scheduler share out --trajectories, which is not given")
        write(simulator.simulate(length, members, seed=seed, burn_in=burn_in, every=every, coarsen=coarsen), out)
        click.echo(f"wrote {out}")
        return
    if members is not None:
        raise ValueError(
            "--members is for data in memory, --trajectories for data written one by one; give one of them"
        )
    there = out.exists() and not overwrite  # then it is left as it is, or an error
    simulate_to(
        out, simulator, trajectories=trajectories, length=length, burn_in=burn_in, every=every, coarsen=coarsen,
        seed=seed, workers=workers, scheduler=scheduler, overwrite=overwrite, progress=progress,
    )  # fmt: skip
    click.echo(f"{out} is already there" if there else f"wrote {out}")


def _simulator(name: str, parameters: Mapping[str, Any]) -> Any:
    """The system of this name, with its parameters checked against their defaults."""
    from xsda import systems
    from xsda.arguments import check_names

    make = getattr(systems, name)
    known = inspect.signature(make).parameters
    check_names("--set", parameters, known)
    for key, value in parameters.items():
        expected, kind = _expected(known[key].default)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ValueError(f"--set {key}={value} must be {expected}")
    return make(**parameters)


def _expected(default: Any) -> tuple[str, type]:
    """What a parameter with this default must be, in words and as a type."""
    if isinstance(default, str):
        return "a name", str
    return ("a whole number", Integral) if isinstance(default, int) else ("a number", Real)


@click.command()
@click.argument("data", metavar="DATA | RECIPE.toml", type=click.Path())
@click.option(
    "--out", default=None, type=FILE, help="File of the prior (.safetensors) [default for a recipe: its name]."
)  # fmt: skip
@click.option(
    "--window", default=None, type=int,
    help="Consecutive states in a training sample [default: 5; a day of hourly regional fields].",
)  # fmt: skip
@click.option(
    "--network", default="auto", show_default=True, type=Name(NETWORKS), help=f"One of {', '.join(NETWORKS)}."
)  # fmt: skip
@click.option("--width", default=None, type=int, help="Features of the network [default: by the network].")
@click.option(
    "--anchor/--no-anchor", default=None,
    help="Whether the network corrects a Gaussian of the same data [default: for regional fields].",
)  # fmt: skip
@click.option("--periodic", multiple=True, help="Name of a periodic dimension; may be repeated.")
@click.option(
    "--context", multiple=True,
    help="Static field that the network reads, or geo: position, hour, season, orography; may be repeated.",
)  # fmt: skip
@click.option(
    "--time-features", multiple=True, help="Date that the network reads: hour_of_day, day_of_year; may be repeated."
)
@click.option(
    "--scaling", default="auto", show_default=True, type=Name(SCALINGS),
    help="Mean and spread of each grid point, or of each variable.",
)  # fmt: skip
@click.option("--steps", default=None, type=int, help="Optimiser steps [default: 10000; 1000 for regional fields].")
@click.option("--minutes", default=None, type=float, help="Time for the training, in place of --steps.")
@click.option("--batch-size", default=None, type=int, help="Windows in a step [default: 64; 4 for regional fields].")
@click.option(
    "--learning-rate", default=None, type=float,
    help="Largest learning rate [default: 0.001; 0.01 for regional fields, with another optimiser].",
)  # fmt: skip
@click.option(
    "--patience", default=None, type=int,
    help="Validations without improvement before stopping; 0: never [default: 0; 4 for regional fields].",
)  # fmt: skip
@click.option(
    "--precision", default="float32", show_default=True, type=Name(("float32", "bf16", "fp16")),
    help="float32, bf16 or fp16 (GPU).",
)  # fmt: skip
@click.option("--checkpoint", default=None, type=FILE, help="Checkpoint file. Training continues from it if it exists.")
@click.option("--log", default=None, type=FILE, help="CSV file of losses.")
@click.option("--seed", default=0, show_default=True, help="Seed of the random numbers.")
@click.option(
    "--device", default="auto", show_default=True, type=Name(DEVICES), help="auto takes a GPU if there is one."
)
@click.option("--name", default=None, help="Name of the prior [default: the output's].")
@click.option("--workers", default=1, show_default=True, help="Processes that simulate the data of a recipe.")
@overwrite_option
@progress_option
@click.pass_context
def train(
    ctx: click.Context, data: str, out: Path | None, name: str | None, workers: int, device: str, overwrite: bool,
    progress: bool | None, **options: Any,
) -> None:  # fmt: skip
    """Train a prior on DATA, or as a recipe says.

    DATA is a NetCDF, HDF5 or Zarr file of trajectories with the dimension time, space dimensions if states are fields,
    and the dimension trajectory if there are several. A recipe holds every option but --out, --workers, --device,
    --overwrite and --progress. On several GPUs: torchrun --nproc-per-node 4 -m xsda train recipe.toml
    """
    from xsda.files import read
    from xsda.training import Recipe
    from xsda.training import train as fit
    from xsda.training.parallel import leads

    shown = shows_progress(progress)
    if Path(data).suffix == ".toml":
        recipe = Recipe.read(data)
        _check_left_to_recipe(ctx, data)
        out = out or Path(f"{recipe.name}.safetensors")
        _check_prior_file(out, overwrite)
        prior = recipe.cook(out, workers=workers, device=device, progress=shown, overwrite=overwrite)
    else:
        if out is None:
            raise ValueError("--out is missing: the file of the prior (.safetensors)")
        _check_prior_file(out, overwrite)
        given = {k: v for k, v in options.items() if v is not None and v != ()}
        prior = fit(read(data), device=device, name=name or out.stem, progress=shown, **given)
        prior.info["data"] = Path(data).name
        if leads():
            prior.save(out, overwrite=overwrite)
    if leads():
        click.echo(f"{prior}\nwrote {out}")


@click.command()
@click.argument("data", type=click.Path())
@click.option("--out", required=True, type=FILE, help="File of the prior (.safetensors).")
@click.option("--length", required=True, type=int, help="Number of states of the trajectories that it describes.")
@click.option("--structure", default="eof", show_default=True, type=Name(STRUCTURES), help="eof or separable.")
@click.option("--modes", default=None, type=int, help="Number of patterns [default: 256, or all].")
@click.option("--periodic", multiple=True, help="Name of a periodic dimension; may be repeated.")
@click.option("--name", default=None, help="Name of the prior [default: the output's].")
@overwrite_option
def fit(
    data: str, out: Path, length: int, structure: str, modes: int | None, periodic: tuple[str, ...], name: str | None,
    overwrite: bool,
) -> None:  # fmt: skip
    """Fit a Gaussian prior to DATA: climatology and patterns, without training.

    DATA is a NetCDF, HDF5 or Zarr file of a series, such as a reanalysis. Points without values are masked.
    """
    from xsda.files import read
    from xsda.priors import GaussianPrior

    _check_prior_file(out, overwrite)
    prior = GaussianPrior.fit(
        read(data), length=length, structure=structure, modes=modes, periodic=periodic, name=name or out.stem
    )
    prior.info["data"] = f"{Path(data).name}, {prior.info['data']}"
    prior.save(out, overwrite=overwrite)
    click.echo(f"{prior}\nwrote {out}")


def _check_left_to_recipe(ctx: click.Context, recipe: str) -> None:
    """Raise if an option was given that the recipe decides."""
    for option in ctx.params:
        given = ctx.get_parameter_source(option) == click.core.ParameterSource.COMMANDLINE
        if given and option not in ("data", "out", "workers", "device", "overwrite", "progress"):
            raise ValueError(f"--{option.replace('_', '-')} is set by the recipe; change it in {recipe}")


def _check_prior_file(out: Path, overwrite: bool) -> None:
    """Raise before the training if the prior cannot be saved as ``out``."""
    from xsda.files import check_free

    check_free(out, overwrite)
    if not out.parent.is_dir():
        raise FileNotFoundError(f"the folder {out.parent} does not exist")
    if out.is_dir():
        raise IsADirectoryError(f"{out} is a folder; --out names a file")
    if out.suffix != ".safetensors":
        raise ValueError(f"--out {out} must end in .safetensors")
