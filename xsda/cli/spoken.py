"""Translates messages of the library for the command line: Python arguments become options, and functions commands."""

from __future__ import annotations

import re

import click

COMMANDS = "assimilate|check|evaluate|explain|fit|plot|reanalyse|sample|simulate|train"
FUNCTION = re.compile(rf"\b(?:xsda(?:\.\w+)*|\w+\.sda)\.({COMMANDS})\b(?:\([^()]*\))?")
ARGUMENT = re.compile(r"\b([a-z_]+)=('[^']*'|\.\.\.|\[[^\]]*\]|[\w.+-]*\w)?")


def spoken(text: str, command: click.Command | None) -> str:
    """Say a message of the library as the user of a command would.

    Parameters
    ----------
    text
        A message that names Python arguments, such as ``sigma=...``, and functions, such as ``ds.sda.sample``.
    command
        The command that runs, whose options are meant; None if it is not known.

    Returns
    -------
    str
        The message with options and commands, and with how those options are typed that have a syntax of their own.

    Examples
    --------
    >>> import click
    >>> from xsda.cli.spoken import spoken
    >>> option = click.Option(["--sigma"], metavar="S | NAME=S")
    >>> spoken("pass sigma=..., and see xsda.observations.check", click.Command("assimilate", params=[option]))
    'pass --sigma, and see `xsda check` (--sigma S | NAME=S)'
    """
    options: dict[str | None, click.Option] = {}
    for p in command.params if command else ():
        if isinstance(p, click.Option):
            options |= {p.name: p, p.opts[0].removeprefix("--").replace("-", "_"): p}
    named: list[click.Option] = []

    def typed(found: re.Match[str]) -> str:
        option, value = options.get(found[1]), (found[2] or "").strip("'")
        if option is None:
            return found[0]
        if not (found[2] or "").startswith("'"):  # a value in quotes shows how it is typed
            named.append(option)
        return option.opts[0] if option.is_flag or value in ("", "...") else f"{option.opts[0]} {value}"

    text = ARGUMENT.sub(typed, FUNCTION.sub(r"`xsda \1`", text))
    said = ", ".join(f"{p.opts[0]} {p.metavar}" for p in dict.fromkeys(named) if p.metavar)
    return f"{text} ({said})" if said else text
