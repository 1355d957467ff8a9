"""The command line: ``xsda demo``, ``simulate``, ``train``, ``assimilate``, ``evaluate``, ``models``.

Bad input ends with exit code 2 and one line; ``--debug`` shows the whole traceback. Output files are written whole or
not at all, and existing ones are kept unless ``--overwrite`` is given.
"""

from __future__ import annotations

import sys

import click

from xsda.version import __version__


class FriendlyGroup(click.Group):
    """Turns an exception into one line on stderr and exit code 2."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except KeyboardInterrupt as stop:
            click.echo(f"interrupted; {str(stop) or 'nothing was written'}", err=True)
            sys.exit(130)
        except Exception as error:
            if ctx.params.get("debug"):
                raise
            text = error.args[0] if isinstance(error, KeyError) and error.args else error
            click.echo(f"xsda: {' '.join(str(text).split())}", err=True)
            sys.exit(2)


@click.group(cls=FriendlyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="xsda")
@click.option("--debug", is_flag=True, help="Show the whole traceback when something fails.")
def main(debug: bool) -> None:
    """Score-based data assimilation: from a prior and observations to a posterior ensemble.

    Start with `xsda demo`.
    """


def _register() -> None:
    from xsda.cli.commands import assimilate, evaluate, models, simulate, train
    from xsda.cli.demo import demo

    for command in (demo, simulate, train, assimilate, evaluate, models):
        main.add_command(command)


_register()
