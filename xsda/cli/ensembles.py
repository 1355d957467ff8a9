"""Commands that draw ensembles: ``assimilate`` and ``reanalyse`` from a posterior, ``sample`` from a prior."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xsda.cli.reports import as_given, choice_options, choices, read_sources
from xsda.cli.shared import (
    FILE,
    correlation_option,
    draw_options,
    grid_option,
    likelihood_option,
    model_option,
    models_option,
    out_option,
    overwrite_option,
    sigma_option,
)
from xsda.cli.values import law, number_or_text, settings, standard_deviation

if TYPE_CHECKING:
    import xarray as xr

    from xsda.priors import Pool, Prior

WINDOWS = {  # as in the docstring of ``xsda.reanalyse``, which cannot be read without torch
    "window": "Number of states that are sampled together, or a length of time such as 2D. Default: the length of the "
    "prior if that is fixed, otherwise 32, or four times the window of its network.",
    "lag": "Number of states at the end of a window that are drawn again with later observations, or a length of time "
    "such as 6h. Zero uses observations up to the end of each window only. Default: a quarter of the window.",
    "overlap": "Number of settled states at the beginning of a window, or a length of time. A process without memory "
    "needs one. Default: those that a network sees on one side, or a third of the rest of the window for Gaussians.",
    "horizon": "How far to continue after the end of the record, without observations: a number of states, or a length "
    "of time such as 2D.",
    "redraw": "For networks: how often at most a member is drawn again in one window if it does not fit the "
    "observations. Few members that failed so often succeed later, because what they know of the past does not fit.",
}


@click.command()
@click.argument("observations", nargs=-1, required=True, type=FILE)
@models_option
@grid_option
@sigma_option
@likelihood_option
@correlation_option
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
    sources = read_sources(observations)
    target = read(grid) if grid else default_grid(_longest(prior), sources)
    obs = as_given(sources)
    _finish(assimilation.assimilate(target, obs, prior, **said, **draw, out=out, overwrite=overwrite), out)


@click.command()
@click.argument("observations", nargs=-1, required=True, type=FILE)
@model_option
@grid_option
@click.option("--window", default=None, metavar="N | LENGTH", type=number_or_text, help=WINDOWS["window"])
@click.option("--lag", default=None, metavar="N | LENGTH", type=number_or_text, help=WINDOWS["lag"])
@click.option("--overlap", default=None, metavar="N | LENGTH", type=number_or_text, help=WINDOWS["overlap"])
@click.option(
    "--horizon", default=0, show_default=True, metavar="N | LENGTH", type=number_or_text, help=WINDOWS["horizon"]
)
@sigma_option
@likelihood_option
@correlation_option
@choice_options
@draw_options("tiles", "redraw")
@click.option("--redraw", default=4, show_default=True, help=WINDOWS["redraw"])
@click.option("--out", required=True, type=FILE, help="Folder of a Zarr store (.zarr). The same command continues it.")
@overwrite_option
def reanalyse(
    observations: tuple[Path, ...], model: str, grid: Path | None, sigma: tuple[str, ...], likelihood: tuple[str, ...],
    correlation: tuple[str, ...], quality: tuple[str, ...], outside: str, superobs: str | None, out: Path,
    **how: Any,
) -> None:  # fmt: skip
    """Draw continuous trajectories through a long record of OBSERVATIONS, window by window.

    OBSERVATIONS are files as of `xsda assimilate`. Settled states are written as they come. After an interruption, or
    if the record has become longer, the same command continues.
    """
    from xsda import reanalysis
    from xsda.cli.default_grid import default_grid
    from xsda.files import read
    from xsda.priors import load_model

    prior, sources = load_model(model), read_sources(observations)
    run = reanalysis.reanalyse(
        read(grid) if grid else default_grid(prior, sources, long=True), as_given(sources), prior,
        sigma=standard_deviation(sigma, "--sigma"), likelihood=law(likelihood),
        correlation=settings(correlation, "--correlation") or None, **choices(quality, outside, superobs), out=out,
        **how,
    )  # fmt: skip
    _finish(run, out)


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
