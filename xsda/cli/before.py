"""Commands to run before an assimilation: ``explain`` and ``check`` look at the observations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xsda.cli.reports import as_given, choice_options, choices, read_sources
from xsda.cli.shared import (
    FILE,
    correlation_option,
    grid_option,
    likelihood_option,
    model_option,
    models_option,
    overwrite_option,
    sigma_option,
)
from xsda.cli.spoken import spoken
from xsda.cli.values import law, settings, standard_deviation

if TYPE_CHECKING:
    from xsda.observations import Explanation


@click.command()
@click.argument("observations", nargs=-1, required=True, type=FILE)
@models_option
@grid_option
@sigma_option
@likelihood_option
@correlation_option
@choice_options
def explain(
    observations: tuple[Path, ...], models: tuple[str, ...], grid: Path | None, sigma: tuple[str, ...],
    likelihood: tuple[str, ...], correlation: tuple[str, ...], quality: tuple[str, ...], outside: str,
    superobs: str | None,
) -> None:  # fmt: skip
    """Print what an assimilation would do with each value of OBSERVATIONS.

    The options are those of `xsda assimilate`. Nothing is assimilated.
    """
    from xsda.cli.default_grid import default_grid
    from xsda.files import read
    from xsda.observations import explain as explanation
    from xsda.priors import load_model

    options: dict[str, Any] = {
        "sigma": standard_deviation(sigma, "--sigma"), "likelihood": law(likelihood),
        "correlation": settings(correlation, "--correlation") or None, **choices(quality, outside, superobs),
    }  # fmt: skip
    prior, sources = load_model(list(models)).priors[0], read_sources(observations)
    target = read(grid) if grid else default_grid(prior, sources)
    click.echo(repr(_as_command(explanation(target, as_given(sources), prior, **options))))


@click.command()
@click.argument("observations", nargs=-1, required=True, type=FILE)
@model_option
@click.option(
    "--grid", default=None, type=FILE,
    help="File with the coordinates of the grid. Without it values are compared with the whole region.",
)  # fmt: skip
@click.option(
    "--background", default=None, type=FILE, help="File with a field or an ensemble that values are compared with."
)
@sigma_option
@click.option(
    "--limit", default=5.0, show_default=True, help="Values farther away than this many joint spreads are gross errors."
)
@click.option(
    "--repeats", default=12, show_default=True, help="A sensor is stuck if it repeats a value so many times in a row."
)
@choice_options
@click.option("--out", default=None, type=FILE, help="File to write: the observations, NaN where they are flagged.")
@overwrite_option
def check(
    observations: tuple[Path, ...], model: str, grid: Path | None, background: Path | None, sigma: tuple[str, ...],
    limit: float, repeats: int, quality: tuple[str, ...], outside: str, superobs: str | None, out: Path | None,
    overwrite: bool,
) -> None:  # fmt: skip
    """Compare OBSERVATIONS with what a prior expects, and print what is probably wrong."""
    from xsda.files import check_output, read, write
    from xsda.observations import check as flag

    if out is not None:
        check_output(out, overwrite)
        if len(observations) > 1:
            raise ValueError(
                f"--out writes one file, but there are {len(observations)} files of observations; check each"
            )
    sources = read_sources(observations)
    flags = flag(
        as_given(sources), model, grid=read(grid) if grid else None,
        background=read(background) if background else None, sigma=standard_deviation(sigma, "--sigma"), limit=limit,
        repeats=repeats, **choices(quality, outside, superobs),
    )  # fmt: skip
    click.echo(repr(flags))
    if out is not None:
        write(next(iter(flags.accepted.values())), out)
        click.echo(f"wrote {out}")


def _as_command(found: Explanation) -> Explanation:
    """The same explanation, with options of the command in place of Python arguments."""
    command = click.get_current_context().command
    advice = found.table["sigma from"].map(lambda text: spoken(text, command))
    notes = tuple(spoken(note, command) for note in found.notes)
    return replace(found, table=found.table.assign(**{"sigma from": advice}), notes=notes)
