"""Options that several commands share. Those of a draw are the fields of ``SamplingOptions``."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, TypeVar

import click

from xsda.cli.values import DEVICES, GUIDANCE, LAWS, SAMPLERS, Members, Name, Names, Sizes, model_names
from xsda.sampling.options import PRECISIONS, SamplingOptions

Command = TypeVar("Command", bound=Callable[..., Any])

FILE = click.Path(path_type=Path)
TYPES: dict[str, click.ParamType] = {
    "members": Members(), "guidance": Name(GUIDANCE), "sampler": Name(SAMPLERS), "steps": click.INT,
    "redraw": click.INT, "seed": click.INT, "chunks": click.IntRange(min=1), "batch": click.INT,
    "tiles": Sizes(),
    "device": Names(DEVICES), "precision": Name(PRECISIONS),
}  # fmt: skip
METAVARS = {
    "members": "N | FIRST:END | N,N,...", "chunks": "N", "tiles": "NAME=N,NAME=N", "device": "NAME | NAME,NAME,...",
}  # fmt: skip
HELPS = {  # where a shell says it differently from Python
    "members": "Size of the ensemble, or the numbers of the members wanted: 16:32 adds to an ensemble of 16.",
    "chunks": "Members that are computed and written together (default: all). Smaller numbers need less memory.",
}

out_option = click.option("--out", required=True, type=FILE, help="File to write (.nc, .h5 or .zarr).")
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace the output if it exists.")
progress_option = click.option(
    "--progress/--quiet", default=None, help="Show a progress bar, or none [default: a bar in a terminal]."
)
sigma_option = click.option(
    "--sigma",
    multiple=True,
    metavar="S | NAME=S | FILE",
    help="Standard deviation of the observation error; may be repeated.",
)
models_option = click.option(
    "--model", "models", required=True, multiple=True, type=Name(model_names, files=True),
    help="Name of a prior (see `xsda models`) or its file. Several priors share the members among them.",
)  # fmt: skip
model_option = click.option(
    "--model", required=True, type=Name(model_names, files=True),
    help="Name of a prior (see `xsda models`) or its file.",
)  # fmt: skip
grid_option = click.option(
    "--grid", default=None, type=FILE,
    help="File whose coordinates say what is estimated [default: the points of the prior, and its time steps from the "
    "first to the last observation].",
)  # fmt: skip
likelihood_option = click.option(
    "--likelihood", multiple=True, metavar="LAW | NAME=LAW", type=Name(LAWS),
    help=f"Law of the observation errors: {', '.join(LAWS)} [default: gaussian]; may be repeated.",
)  # fmt: skip
correlation_option = click.option(
    "--correlation", multiple=True, metavar="NAME/COORDINATE=LENGTH",
    help="Correlation length of the observation errors along a coordinate, e.g. t2m/time=6h; may be repeated.",
)  # fmt: skip


def draw_options(*without: str) -> Callable[[Command], Command]:
    """The fields of ``SamplingOptions`` as options, but those named; defaults and help texts are the dataclass's."""

    def decorate(command: Command) -> Command:
        texts = descriptions(SamplingOptions)
        for field in reversed(fields(SamplingOptions)):
            if field.name == "progress":
                command = progress_option(command)
            elif field.name not in without:
                command = _option(field, texts.get(field.name, ""))(command)
        return command

    return decorate


def _option(field: Field[Any], text: str) -> Callable[[Command], Command]:
    kind, text = TYPES[field.name], HELPS.get(field.name, text).replace("``", "")
    if type(kind) is Name:
        text = f"{text} One of {', '.join(kind.names)}."
    return click.option(
        f"--{field.name}", default=field.default, show_default=field.default is not None, type=kind,
        metavar=METAVARS.get(field.name), help=text,
    )  # fmt: skip


def descriptions(documented: type) -> dict[str, str]:
    """What a numpydoc docstring says of each parameter."""
    _, _, section = (inspect.getdoc(documented) or "").partition("Parameters\n----------\n")
    out: dict[str, str] = {}
    name = ""
    for line in section.splitlines():
        if line and not line.startswith(" "):
            name = line.strip()
        elif name:
            out[name] = f"{out.get(name, '')} {line.strip()}".strip()
    return out


def shows_progress(progress: bool | None) -> bool:
    """Whether to show a bar: as asked for, or where someone looks at a terminal."""
    return sys.stderr.isatty() if progress is None else progress
