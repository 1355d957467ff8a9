"""Commands that draw ensembles: ``assimilate`` from a posterior, ``sample`` from a prior."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xsda.cli.reports import choice_options, choices, read_observations
from xsda.cli.shared import (
    FILE,
    draw_options,
    models_option,
    out_option,
    overwrite_option,
    sigma_option,
)
from xsda.cli.values import LAWS, Name, law, settings, standard_deviation

if TYPE_CHECKING:
    import xarray as xr

    from xsda.priors import Pool, Prior


@click.command()
@click.argument("observations", nargs=-1, required=True, type=FILE)
@models_option
@click.option(
    "--grid", default=None, type=FILE,
    help="File whose coordinates say what is estimated [default: the points of the prior, and its time steps from the "
    "first to the last observation].",
)  # fmt: skip
@sigma_option
@click.option(
    "--likelihood", multiple=True, metavar="LAW | NAME=LAW", type=Name(LAWS),
    help=f"Law of the observation errors: {', '.join(LAWS)} [default: gaussian]; may be repeated.",
)  # fmt: skip
@click.option(
    "--correlation", multiple=True, metavar="NAME/COORDINATE=LENGTH",
    help="Correlation length of the observation errors along a coordinate, e.g. t2m/time=6h; may be repeated.",
)  # fmt: skip
@click.option(
    "--background", default=None, type=FILE, metavar="FILE",
    help="File with a first guess on the grid, or on a part of it.",
)  # fmt: skip
@click.option(
    "--background-sigma", multiple=True, metavar="S | NAME=S | FILE",
    help="Standard deviation of the error of the background; may be repeated.",
)  # fmt: skip
@choice_options
@draw_options()
@out_option
@overwrite_option
def assimilate(
    observations: tuple[Path, ...], models: tuple[str, ...], grid: Path | None, sigma: tuple[str, ...],
    likelihood: tuple[str, ...], correlation: tuple[str, ...], background: Path | None,
    background_sigma: tuple[str, ...], quality: tuple[str, ...], outside: str, superobs: str | None, out: Path,
    overwrite: bool, **draw: Any,
) -> None:  # fmt: skip
    """Draw a posterior ensemble given OBSERVATIONS.

    OBSERVATIONS are one or several tables (.csv), or NetCDF, HDF5 or Zarr files. NAME is an observed variable. With
    several files it can be FILE/NAME, where FILE is the name of the file without its ending: --sigma buoys/u=1.5
    """
    from xsda import assimilation
    from xsda.cli.default_grid import default_grid
    from xsda.files import read

    said: dict[str, Any] = {
        "sigma": standard_deviation(sigma, "--sigma"), "likelihood": law(likelihood),
        "correlation": settings(correlation, "--correlation") or None,
        "background": read(background) if background else None,
        "background_sigma": standard_deviation(background_sigma, "--background-sigma"),
        **choices(quality, outside, superobs),
    }  # fmt: skip
    prior = _load(models)
    sources = {path.stem: read_observations(path) for path in observations}
    if len(sources) < len(observations):
        raise ValueError("two observation files have the same name; rename one")
    target = read(grid) if grid else default_grid(_longest(prior), sources)
    obs = sources if len(sources) > 1 else next(iter(sources.values()))
    _finish(assimilation.assimilate(target, obs, prior, **said, **draw, out=out, overwrite=overwrite), out)


@click.command()
@models_option
@click.option("--grid", default=None, type=FILE, help="File whose coordinates say what is sampled.")
@click.option(
    "--length", default=None, type=int, help="Number of states, at the prior's time steps, instead of --grid."
)
@draw_options("guidance", "redraw")
@out_option
@overwrite_option
def sample(
    models: tuple[str, ...], grid: Path | None, length: int | None, out: Path, overwrite: bool, **draw: Any
) -> None:
    """Draw trajectories from a prior, without observations."""
    from xsda.cli.default_grid import own_grid
    from xsda.files import read
    from xsda.sampling import draw as drawing

    if (grid is None) == (length is None):
        raise ValueError("give either --grid, a file with the coordinates wanted, or --length, a number of states")
    prior = _load(models)
    target = read(grid) if grid else own_grid(_longest(prior), length or 0)
    _finish(drawing.sample(target, prior, **draw, out=out, overwrite=overwrite), out)


def _load(models: Sequence[str]) -> Prior | Pool:
    from xsda.priors import load_model

    return load_model(models[0]) if len(models) == 1 else load_model(list(models))


def _longest(prior: Prior | Pool) -> Prior:
    """The prior with the longest window: a grid that suits it suits the others of its pool."""
    from xsda.priors import Pool

    return max(prior.priors, key=lambda p: p.window) if isinstance(prior, Pool) else prior


def _finish(ensemble: xr.Dataset, out: Path) -> None:
    click.echo(f"wrote {out} ({', '.join(f'{d} {n}' for d, n in ensemble.sizes.items())})")
