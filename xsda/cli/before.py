"""Commands to run before an assimilation: ``explain`` and ``check`` look at the observations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xsda.cli.reports import choice_options, choices, read_observations
from xsda.cli.shared import FILE, models_option, overwrite_option, sigma_option
from xsda.cli.spoken import spoken
from xsda.cli.values import LAWS, Name, law, model_names, settings, standard_deviation

if TYPE_CHECKING:
    from xsda.observations import Explanation

grid_option = click.option(
    "--grid", default=None, type=FILE,
    help="File whose coordinates say what is estimated [default: the points of the prior, and its time steps from the "
    "first to the last observation].",
)  # fmt: skip


@click.command()
@click.argument("observations", nargs=-1, required=True, type=FILE)
@models_option
@grid_option
@sigma_option
@click.option(
    "--likelihood", multiple=True, metavar="LAW | NAME=LAW", type=Name(LAWS),
    help=f"Law of the observation errors: {', '.join(LAWS)} [default: gaussian]; may be repeated.",
)  # fmt: skip
@click.option(
    "--correlation", multiple=True, metavar="NAME/COORDINATE=LENGTH",
    help="Correlation length of the observation errors along a coordinate, e.g. t2m/time=6h; may be repeated.",
)  # fmt: skip
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
    prior, sources = load_model(list(models)).priors[0], _sources(observations)
    target = read(grid) if grid else default_grid(prior, sources)
    click.echo(repr(_as_command(explanation(target, _given(sources), prior, **options))))


@click.command()
@click.argument("observations", nargs=-1, required=True, type=FILE)
@click.option(
    "--model", required=True, type=Name(model_names, files=True),
    help="Name of a prior (see `xsda models`) or its file.",
)  # fmt: skip
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
    sources = _sources(observations)
    flags = flag(
        _given(sources), model, grid=read(grid) if grid else None, background=read(background) if background else None,
        sigma=standard_deviation(sigma, "--sigma"), limit=limit, repeats=repeats,
        **choices(quality, outside, superobs),
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


def _sources(paths: tuple[Path, ...]) -> dict[str, Any]:
    """The observations by the names of their files."""
    sources = {path.stem: read_observations(path) for path in paths}
    if len(sources) < len(paths):
        raise ValueError("two observation files have the same name; rename one")
    return sources


def _given(sources: dict[str, Any]) -> Any:
    return sources if len(sources) > 1 else next(iter(sources.values()))
