"""Observations on the command line: files of them, and which of their values are used."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

OPTIONS = (
    click.option(
        "--quality", multiple=True, metavar="FLAG",
        help="Use only values with this quality flag; may be repeated.",
    ),
    click.option(
        "--outside", default="raise", show_default=True, metavar="raise | drop",
        help="What to do with observations outside the grid: stop, or leave them out and count them.",
    ),
    click.option(
        "--superobs", default=None, metavar="LENGTH | cell",
        help="Average reports of one place within a length of time such as 1h, or those of one grid cell.",
    ),
)  # fmt: skip


def choice_options(command: Command) -> Command:
    """Options that say which values are used, and which are averaged."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def choices(quality: tuple[str, ...], outside: str, superobs: str | None) -> dict[str, Any]:
    """These options as arguments of the library. Flags are read as JSON where they can be."""
    return {"quality": [_flag(q) for q in quality] or None, "outside": outside, "superobs": superobs}


def _flag(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def read_observations(path: Path) -> Any:
    """Open a file of observations: a table (.csv), or a Dataset."""
    if path.suffix.lower() != ".csv":
        from xsda.files import read

        return read(path)
    import pandas as pd

    if not path.exists():
        raise FileNotFoundError(f"no file {path}")
    try:
        table = pd.read_csv(path, skipinitialspace=True)
        if len(table.columns) == 1 and ";" in table.columns[0]:
            raise ValueError("its columns are separated by semicolons")
        return table
    except (ValueError, OSError) as error:  # those of pandas are ValueErrors
        raise ValueError(f"{path} cannot be read as a table with commas: {str(error).strip()}") from error


def read_sources(paths: tuple[Path, ...]) -> dict[str, Any]:
    """Open several files of observations, by their names."""
    sources = {path.stem: read_observations(path) for path in paths}
    if len(sources) < len(paths):
        raise ValueError("two observation files have the same name; rename one")
    return sources


def as_given(sources: dict[str, Any]) -> Any:
    """All sources by name, or the only one as it is."""
    return sources if len(sources) > 1 else next(iter(sources.values()))
