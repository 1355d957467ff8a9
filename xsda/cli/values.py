"""Values of options: how they are read, and how a shell completes them. Nothing here imports torch or xarray."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from xsda.arguments import choose

if TYPE_CHECKING:
    import xarray as xr

# The library's own tables of names import torch. A test compares these with them.
SYSTEMS = ("lorenz63", "lorenz96", "lotkavolterra", "dampedspring", "kolmogorov", "wake")
NETWORKS = ("auto", "temporal", "spacetime", "markov")
GUIDANCE = ("auto", "calibrated", "mmps", "sda", "dps", "pigdm", "tmpd", "projection", "proximal")
SAMPLERS = ("auto", "dpmpp2m_sde", "dpmpp2m", "tds", "pc", "ddim", "ddpm", "heun", "euler")
LAWS = ("gaussian", "student_t", "huber")
DEVICES = ("auto", "cpu", "cuda")
FILE_ENDINGS = (".nc", ".nc4", ".h5", ".hdf5", ".zarr")


class Name(click.ParamType):
    """A word that a shell completes from those known. The library checks it, since it may accept others as well."""

    name = "name"

    def __init__(self, known: Iterable[str] | Callable[[], Iterable[str]], *, files: bool = False):
        self.known, self.files = known, files

    @property
    def names(self) -> list[str]:
        return list(self.known() if callable(self.known) else self.known)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        found = [CompletionItem(n) for n in self.names if n.startswith(incomplete)]
        return found if found or not self.files else [CompletionItem(incomplete, type="file")]


class Names(Name):
    """One word, or several with commas between them."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value.split(",") if isinstance(value, str) and "," in value else value


class Members(click.ParamType):
    """The size of an ensemble, or the numbers of its members: ``16``, ``16:32`` or ``0,3,5``."""

    name = "members"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            if ":" in value:
                first, end = map(int, value.split(":"))
                if end <= first:
                    self.fail(f"{value!r} is empty; 16:32 means the members 16 to 31.", param, ctx)
                return range(first, end)
            return [int(n) for n in value.split(",")] if "," in value else int(value)
        except ValueError:
            self.fail(
                f"{value!r} is not a number of members, a range such as 16:32, or a list such as 0,3,5.", param, ctx
            )


class Sizes(click.ParamType):
    """A number of points for each dimension: ``lat=256,lon=256``."""

    name = "sizes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return {name: int(size) for name, size in (pair.split("=") for pair in value.split(","))}
        except ValueError:
            self.fail(f"{value!r} is not a number of points for each dimension, such as lat=256,lon=256.", param, ctx)


def model_names() -> list[str]:
    """Names of priors: those in the package, and those of the registry in ``XSDA_REGISTRY``."""
    weights = resources.files("xsda") / "priors" / "weights"
    names = sorted(p.name.removesuffix(".safetensors") for p in weights.iterdir() if p.name.endswith(".safetensors"))
    try:
        return [*names, *json.loads(Path(os.environ["XSDA_REGISTRY"]).read_text())["priors"]]
    except (KeyError, OSError, ValueError, TypeError):  # completion must not fail; a command that needs it says so
        return names


def number_or_text(value: str) -> int | str:
    """A whole number, or the text where it is none."""
    try:
        return int(value)
    except ValueError:
        return value


def settings(pairs: Iterable[str], option: str) -> dict[str, Any]:
    """``NAME=VALUE`` pairs; values are read as JSON where they can be. ``A/B=VALUE`` gives ``{"A": {"B": VALUE}}``."""
    out: dict[str, Any] = {}
    for pair in pairs:
        name, separator, text = pair.partition("=")
        *outer, last = name.split("/")
        if not separator or not all([*outer, last]):
            raise ValueError(f"{option} {pair!r} must have the form name=value")
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        inner = out
        for part in outer:
            inner = inner.setdefault(part, {})
            if not isinstance(inner, dict):
                raise ValueError(f"{option} gives {part!r} a value, and values to parts of it; give one or the other")
        if last in inner:
            raise ValueError(f"{option} names {name!r} twice; give it once")
        inner[last] = value
    return out


def standard_deviation(values: tuple[str, ...], option: str) -> float | dict[str, Any] | xr.Dataset | None:
    """One number for everything, a number for each name, or a file of the same shape as what it is the error of."""
    if not values:
        return None
    if len(values) == 1 and values[0].endswith(FILE_ENDINGS):
        from xsda.files import read

        return read(values[0])
    try:
        if len(values) == 1 and "=" not in values[0]:
            return float(values[0])
        return _numbers(settings(values, option))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{option} {' '.join(values)}: give one number, name=number for each variable, or a file"
        ) from error


def _numbers(given: dict[str, Any]) -> dict[str, Any]:
    return {name: _numbers(value) if isinstance(value, dict) else float(value) for name, value in given.items()}


def law(values: tuple[str, ...]) -> str | dict[str, Any] | None:
    """One law of the errors for everything, or a law for each name."""
    if not values:
        return None
    if len(values) == 1 and "=" not in values[0]:
        return _known_law(values[0])
    return _known_laws(settings(values, "--likelihood"))


def _known_laws(given: dict[str, Any]) -> dict[str, Any]:
    return {k: _known_laws(v) if isinstance(v, dict) else _known_law(v) for k, v in given.items()}


def _known_law(name: Any) -> str:
    if str(name).lower() not in LAWS:
        raise ValueError(f"--likelihood {name} is unknown; {choose(name, LAWS)}")
    return str(name)
