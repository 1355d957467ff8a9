"""The program ``xsda``: its commands, and how each of their failures becomes one line and an exit code.

Everything that is imported here is light. A command imports what it computes with when it runs, so that help and
completion answer at once.
"""

from __future__ import annotations

import sys
from typing import Any

import click

from xsda.cli.before import check, explain
from xsda.cli.demo import demo
from xsda.cli.ensembles import assimilate, reanalyse, sample
from xsda.cli.look import evaluate, models, plot
from xsda.cli.prepare import fit, simulate, train
from xsda.cli.spoken import spoken
from xsda.version import __version__

FAILED, INTERRUPTED = 2, 130
EXPECTED = (ValueError, TypeError, LookupError, OSError, ImportError, ArithmeticError, RuntimeError)


class OneLineGroup(click.Group):
    """Says what went wrong in one line on stderr. ``--debug`` lets the exception through."""

    def main(self, *args: Any, **extra: Any) -> Any:
        try:
            code = super().main(*args, **{**extra, "standalone_mode": False})
        except click.Abort:
            code = _end("interrupted", INTERRUPTED)
        except click.UsageError as error:
            where = error.ctx.command_path if error.ctx else "xsda"
            code = _end(f"{where}: {error.format_message()} See `{where} --help`.", error.exit_code)
        except click.ClickException as error:
            code = _end(f"xsda: {error.format_message()}", error.exit_code)
        sys.exit(code or 0)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except KeyboardInterrupt as stop:
            ctx.exit(_end("; ".join(["interrupted", *filter(None, [str(stop)]), *_notes(stop)]), INTERRUPTED))
        except Exception as error:
            if ctx.params["debug"]:
                raise
            command = program.commands.get(ctx.invoked_subcommand or "")
            ctx.exit(_end(f"xsda: {spoken('; '.join([_told(error), *_notes(error)]), command)}", FAILED))


def _end(line: str, code: int) -> int:
    click.echo(" ".join(line.split()), err=True)
    return code


def _notes(error: BaseException) -> list[str]:
    """What else is known about an error, such as what was finished before it."""
    return getattr(error, "__notes__", [])


def _told(error: Exception) -> str:
    """The message of an error. One that nobody expected is named, with a way to see more."""
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    if text and isinstance(error, EXPECTED):
        return text
    return f"{type(error).__name__}: {text or 'no message'}. `xsda --debug` shows where it happened."


@click.group(
    cls=OneLineGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    invoke_without_command=True,
    epilog='Completion of names and options: eval "$(_XSDA_COMPLETE=bash_source xsda)". zsh_source and fish_source are '
    "for those shells.",
)
@click.version_option(__version__, prog_name="xsda")
@click.option(
    "--debug", is_flag=True, envvar="XSDA_DEBUG", help="Show the whole traceback of an error (or set XSDA_DEBUG=1)."
)
@click.pass_context
def program(ctx: click.Context, debug: bool) -> None:
    """Score-based data assimilation: from a prior and observations to a posterior ensemble.

    Start with `xsda demo`.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


for command in (demo, simulate, fit, train, explain, check, assimilate, reanalyse, sample, evaluate, plot, models):
    program.add_command(command)
