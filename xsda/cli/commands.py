"""The commands that read and write files."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import click
import xarray as xr

from xsda.arguments import check_names, choose
from xsda.files import FORMATS, check_format, read, replacing

out_option = click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="File to write (.nc, .h5 or .zarr)."
)
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace the output if it exists.")
quiet_option = click.option("--quiet", is_flag=True, help="No progress bar.")


def check_output(path: Path, overwrite: bool) -> None:
    """Fail before a long computation rather than after it."""
    check_format(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; give --overwrite to replace it")
    if path.suffix != ".zarr":
        with replacing(path.parent / f".{path.name}.probe"):
            pass
        (path.parent / f".{path.name}.probe").unlink()


def write(ds: xr.Dataset, path: Path) -> None:
    """Write to a temporary name and move."""
    if path.suffix != ".zarr":
        with replacing(path) as temporary:
            ds.to_netcdf(temporary, engine=FORMATS[path.suffix])  # type: ignore[call-overload]
        return
    import shutil
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        ds.to_zarr(folder / "part", mode="w", consolidated=False)
        if path.exists():
            shutil.rmtree(path)
        (folder / "part").rename(path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def parse_settings(pairs: tuple[str, ...], what: str) -> dict[str, Any]:
    """``name=value`` pairs; values are read as JSON where they can be."""
    out: dict[str, Any] = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator or not name:
            raise ValueError(f"{what} {pair!r} must have the form name=value")
        try:
            out[name] = json.loads(value)
        except json.JSONDecodeError:
            out[name] = value
    return out


def parse_sigma(values: tuple[str, ...]) -> float | dict[str, float] | None:
    """One number for everything, or name=number pairs."""
    if not values:
        return None
    try:
        if len(values) == 1 and "=" not in values[0]:
            return float(values[0])
        return {k: float(v) for k, v in parse_settings(values, "--sigma").items()}
    except (TypeError, ValueError) as error:
        raise ValueError(f"--sigma {' '.join(values)}: give one number, or name=number for each variable") from error


@click.command()
@click.argument("system")
@click.option("--length", default=256, show_default=True, help="Number of states kept.")
@click.option("--members", default=None, type=int, help="Number of independent trajectories, in memory [default: one].")
@click.option("--trajectories", default=None, type=int, help="Number of independent trajectories, written one by one.")
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--burn-in", default=None, type=int, help="Steps before the first kept state [default: the system's own]."
)
@click.option("--every", default=1, show_default=True, help="Keep every so many-th step.")
@click.option("--coarsen", default=1, show_default=True, help="Keep means over blocks of so many points a side.")
@click.option(
    "--set", "settings", multiple=True, metavar="NAME=VALUE", help="Parameter of the system, e.g. --set rho=28."
)
@click.option("--workers", default=1, show_default=True, help="Processes that share the --trajectories.")
@click.option(
    "--scheduler", default=None, metavar="ADDRESS", help="Dask cluster that makes the --trajectories instead."
)
@out_option
@overwrite_option
@quiet_option
def simulate(
    system: str, length: int, members: int | None, trajectories: int | None, seed: int, burn_in: int | None, every: int,
    coarsen: int, settings: tuple[str, ...], workers: int, scheduler: str | None, out: Path, overwrite: bool, quiet: bool,
) -> None:  # fmt: skip
    """Simulate labelled trajectories of a SYSTEM: lorenz63, lorenz96, lotkavolterra, dampedspring, kolmogorov.

    With --trajectories they need not fit into memory, and the same command goes on where it was interrupted.
    """
    from xsda import systems
    from xsda.systems.simulation import SYSTEMS, simulate_to

    if system.lower() not in SYSTEMS:
        raise ValueError(f"unknown system {system!r}; {choose(system, SYSTEMS)}")
    if trajectories is None:
        check_output(out, overwrite)
    make, parameters = getattr(systems, SYSTEMS[system.lower()]), parse_settings(settings, "--set")
    check_names("--set", parameters, inspect.signature(make).parameters)
    try:
        simulator = make(**parameters)
    except TypeError as error:
        raise ValueError(f"{system} does not take these settings: {error}") from error
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
        out, simulator, trajectories=trajectories, length=length, burn_in=burn_in, every=every, coarsen=coarsen, seed=seed,
        workers=workers, scheduler=scheduler, overwrite=overwrite, progress=False if quiet else None,
    )  # fmt: skip
    click.echo(f"{out} is already there" if there else f"wrote {out}")


@click.command()
@click.argument("data", metavar="DATA | RECIPE.toml")
@click.option(
    "--out",
    default=None,
    type=click.Path(path_type=Path),
    help="File of the prior (.safetensors) [default for a recipe: its name].",
)
@click.option("--window", default=5, show_default=True, help="Consecutive states in a training sample.")
@click.option("--network", default="temporal", show_default=True, help="temporal, spacetime or markov.")
@click.option("--width", default=None, type=int, help="Features of the network.")
@click.option("--periodic", multiple=True, help="Name of a periodic dimension; may be repeated.")
@click.option("--context", multiple=True, help="Static field that the network reads; may be repeated.")
@click.option("--steps", default=10_000, show_default=True, help="Optimiser steps.")
@click.option("--batch-size", default=64, show_default=True)
@click.option("--learning-rate", default=1e-3, show_default=True)
@click.option(
    "--patience", default=0, show_default=True, help="Validations without improvement before stopping; 0: never."
)
@click.option("--precision", default="float32", show_default=True, help="float32, bf16 or fp16 (GPU).")
@click.option(
    "--checkpoint", default=None, type=click.Path(path_type=Path), help="Checkpoint file; goes on from it if it exists."
)
@click.option("--log", default=None, type=click.Path(path_type=Path), help="CSV file of losses.")
@click.option("--seed", default=0, show_default=True)
@click.option("--device", default="auto", show_default=True)
@click.option("--name", default=None, help="Name of the prior [default: the output's].")
@click.option("--workers", default=1, show_default=True, help="Processes that simulate the data of a recipe.")
@overwrite_option
@quiet_option
@click.pass_context
def train(ctx: click.Context, data: str, out: Path | None, window: int, network: str, width: int | None, periodic: tuple[str, ...], context: tuple[str, ...],
          steps: int, batch_size: int, learning_rate: float, patience: int, precision: str, checkpoint: Path | None,
          log: Path | None, seed: int, device: str, name: str | None, workers: int, overwrite: bool, quiet: bool) -> None:  # fmt: skip
    """Train a prior on trajectories in DATA (NetCDF, HDF5 or Zarr: time, space, optionally trajectory), or as a recipe says.

    A recipe holds all but --out, --workers, --device, --overwrite and --quiet. On several GPUs:
    torchrun --nproc-per-node 4 -m xsda train recipe.toml
    """
    from xsda.training import train as fit
    from xsda.training.parallel import leads

    recipe = None
    if Path(data).suffix == ".toml":
        from xsda.training.recipe import Recipe

        recipe = Recipe.read(data)
        out = out or Path(f"{recipe.name}.safetensors")
        for option in ctx.params:
            given = ctx.get_parameter_source(option) == click.core.ParameterSource.COMMANDLINE
            if given and option not in ("data", "out", "workers", "device", "overwrite", "quiet"):
                raise ValueError(f"--{option.replace('_', '-')} is the recipe's to say; change it in {data}")
    if out is None:
        raise ValueError("--out is missing: the file of the prior (.safetensors)")
    if out.exists() and not overwrite:
        raise FileExistsError(f"{out} exists; give --overwrite to replace it")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"the folder {out.parent} does not exist")
    if out.is_dir():
        raise IsADirectoryError(f"{out} is a folder; --out names a file")
    if out.suffix != ".safetensors":
        raise ValueError(f"--out {out} must end in .safetensors")
    if recipe is not None:
        prior = recipe.cook(out, workers=workers, device=device, progress=not quiet, overwrite=overwrite)
        if leads():
            click.echo(f"{prior}\nwrote {out}")
        return
    prior = fit(
        read(data), window=window, network=network, width=width, periodic=periodic, context=context, steps=steps,
        batch_size=batch_size, learning_rate=learning_rate, patience=patience, precision=precision, checkpoint=checkpoint,
        log=log, seed=seed, device=device, name=name or out.stem, progress=not quiet,
    )  # fmt: skip
    prior.info["data"] = Path(data).name
    if leads():
        prior.save(out, overwrite=overwrite)
        click.echo(f"{prior}\nwrote {out}")


@click.command()
@click.argument("observations", nargs=-1, required=True)
@click.option("--model", "models", required=True, multiple=True, help="Name of a prior (see `xsda models`) or its file; several share out the members.")  # fmt: skip
@click.option("--grid", default=None, help="File whose coordinates say what is estimated [default: the prior's step from the first to the last observation].")  # fmt: skip
@click.option("--members", default=16, show_default=True)
@click.option("--sigma", multiple=True, metavar="S | NAME=S", help="Standard deviation of the observation error.")
@click.option("--likelihood", default=None, help="Law of the errors: gaussian [default], huber or student_t.")
@click.option("--background", default=None, help="File with a first guess on (a part of) the grid.")
@click.option("--background-sigma", multiple=True, metavar="S | NAME=S", help="Standard deviation of its error.")
@click.option("--guidance", default="auto", show_default=True, help="auto, calibrated, mmps, sda, dps, pigdm, tmpd, projection or proximal.")  # fmt: skip
@click.option("--sampler", default="auto", show_default=True, help="auto, dpmpp2m_sde, dpmpp2m, tds, pc, ddim, ddpm, heun or euler.")  # fmt: skip
@click.option("--steps", default=None, type=int, help="Steps of the sampler.")
@click.option("--seed", default=0, show_default=True)
@click.option("--device", default="auto", show_default=True)
@out_option
@overwrite_option
@quiet_option
def assimilate(observations: tuple[str, ...], models: tuple[str, ...], grid: str | None, members: int, sigma: tuple[str, ...],
               likelihood: str | None, background: str | None, background_sigma: tuple[str, ...], guidance: str, sampler: str, steps: int | None,
               seed: int, device: str, out: Path, overwrite: bool, quiet: bool) -> None:  # fmt: skip
    """Draw a posterior ensemble given OBSERVATIONS (one or several NetCDF or Zarr files)."""
    from xsda.assimilation import assimilate as run
    from xsda.cli.default_grid import default_grid
    from xsda.priors import load_model
    from xsda.priors.pool import Pool

    check_output(out, overwrite)
    prior = load_model(models[0]) if len(models) == 1 else load_model(models)
    sources = {Path(p).stem: read(p) for p in observations}
    if len(sources) < len(observations):
        raise ValueError("two observation files have the same name; rename one")
    longest = max(prior.priors, key=lambda p: p.window) if isinstance(prior, Pool) else prior
    target = read(grid) if grid else default_grid(longest, list(sources.values()))
    post = run(
        target, sources if len(sources) > 1 else next(iter(sources.values())), prior, members=members,
        sigma=parse_sigma(sigma), likelihood=likelihood, background=read(background) if background else None,
        background_sigma=parse_sigma(background_sigma), guidance=guidance, sampler=sampler, steps=steps, seed=seed, device=device,
        progress=False if quiet else None,
    )  # fmt: skip
    write(post.compute(), out)
    click.echo(f"wrote {out}: {dict(post.sizes)}")


@click.command()
@click.argument("ensemble")
@click.argument("truth")
@click.option("--obs", default=None, help="Observations, for the chi-square.")
@click.option("--sigma", multiple=True, metavar="S | NAME=S", help="Standard deviation of the observation error.")
def evaluate(ensemble: str, truth: str, obs: str | None, sigma: tuple[str, ...]) -> None:
    """Print the scores of an ENSEMBLE file against a TRUTH file."""
    from xsda.metrics import evaluate as score

    scored, reference = xr.align(read(ensemble), read(truth), join="inner")
    sizes = {d: n for d, n in scored.sizes.items() if d in reference.sizes}
    if 0 in sizes.values():
        raise ValueError(
            f"{ensemble} and {truth} share no coordinates; compare {ensemble} with a truth on its own grid"
        )
    click.echo(f"scored over the shared {', '.join(f'{d} ({n})' for d, n in sizes.items())}")
    table = score(scored, reference, obs=read(obs) if obs else None, sigma=parse_sigma(sigma))
    click.echo(table.to_dataframe().to_string(float_format=lambda v: f"{v:.4g}"))


@click.command()
def models() -> None:
    """List the priors that can be loaded by name."""
    from xsda.priors import load_model
    from xsda.priors import models as known

    for name, where in known().items():
        click.echo(repr(load_model(name)) if where == "embedded" else f"{name}: {where}")
