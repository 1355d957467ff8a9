"""Commands that look at results and priors: ``evaluate``, ``plot`` and ``models``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from xsda.cli.output import check_picture, write_picture
from xsda.cli.reports import choice_options, choices, read_observations
from xsda.cli.shared import FILE, overwrite_option, sigma_option
from xsda.cli.values import settings, standard_deviation


@click.command()
@click.argument("ensemble", type=FILE)
@click.argument("truth", type=FILE)
@click.option("--obs", default=None, type=FILE, help="Table (.csv) or file of observations, for the chi-square.")
@sigma_option
@choice_options
def evaluate(
    ensemble: Path, truth: Path, obs: Path | None, sigma: tuple[str, ...], quality: tuple[str, ...], outside: str,
    superobs: str | None,
) -> None:  # fmt: skip
    """Print the scores of an ENSEMBLE file against a TRUTH file."""
    import xarray as xr

    from xsda.files import read
    from xsda.labels.axes import check_same_kind
    from xsda.metrics import evaluate as score

    scored, reference = read(ensemble), read(truth)
    check_same_kind(scored, reference, ("ensemble", "truth"))
    scored, reference = xr.align(scored, reference, join="inner")
    sizes = {d: n for d, n in scored.sizes.items() if d in reference.sizes}
    if 0 in sizes.values():
        raise ValueError(
            f"{ensemble} and {truth} share no coordinates; compare {ensemble} with a truth on its own grid"
        )
    click.echo(f"scored over the shared {', '.join(f'{d} ({n})' for d, n in sizes.items())}")
    table = score(
        scored, reference, obs=read_observations(obs) if obs else None,
        sigma=standard_deviation(sigma, "--sigma"), **choices(quality, outside, superobs),
    )  # fmt: skip
    click.echo(table.to_dataframe().to_string(float_format=lambda v: f"{v:.4g}"))


@click.command()
@click.argument("file", type=FILE)
@click.option("--truth", default=None, type=FILE, help="File of the true trajectory, drawn as well.")
@click.option(
    "--obs", multiple=True, type=FILE, help="Table (.csv) or file of observations, drawn as well; may be repeated."
)
@click.option(
    "--variable",
    "variables",
    multiple=True,
    help="Variable to draw [default: all, or the first on a map]; may be repeated.",
)
@click.option(
    "--time",
    default=None,
    help="State to draw: a position (0 is the first, -1 the last), or a time such as 2026-03-01T06:00.",
)
@click.option(
    "--projection", default=None, metavar="NAME[,PARAMETER=VALUE...]",
    help="Projection of cartopy for a map, e.g. Orthographic,central_longitude=-3 [default: one that fits the domain].",
)  # fmt: skip
@click.option("--coastlines/--no-coastlines", default=True, show_default=True, help="Draw coastlines on a map.")
@click.option(
    "--out", default=None, type=FILE, help="Picture to write (.png, .pdf, .svg) [default: FILE with the ending .png]."
)
@overwrite_option
def plot(
    file: Path, truth: Path | None, obs: tuple[Path, ...], variables: tuple[str, ...], time: str | None,
    projection: str | None, coastlines: bool, out: Path | None, overwrite: bool,
) -> None:  # fmt: skip
    """Draw the ensemble in FILE as series or maps.

    The picture is that of ds.sda.plot: series where states have no space dimension, maps where they have two.
    """
    from xsda.files import read
    from xsda.plot import ensemble

    out = out or file.with_suffix(".png")
    check_picture(out, overwrite)
    figure = ensemble(
        read(file), truth=read(truth) if truth else None, obs=[read_observations(o) for o in obs] or None,
        variable=list(variables) or None, time=None if time is None else _position_or_time(time),
        projection=_projection(projection) if projection else None, coastlines=coastlines,
    )  # fmt: skip
    write_picture(figure, out)
    click.echo(f"wrote {out}")


def _position_or_time(text: str) -> int | float | str:
    try:
        return float(text) if "." in text else int(text)
    except ValueError:
        return text


def _projection(text: str) -> Any:
    """A projection by its name and parameters."""
    from xsda.plot.maps import named_projection

    name, *parameters = text.split(",")
    return named_projection(name, **settings(parameters, "--projection"))


@click.command()
def models() -> None:
    """List the priors that can be loaded by name."""
    from xsda.priors import load_model
    from xsda.priors import models as known

    for name, where in known().items():
        click.echo(repr(load_model(name)) if where == "embedded" else f"{name}: {where}")
