"""The command line: ``xsda assimilate``, ``sample``, ``evaluate``, ``plot``, ``train``, ``simulate``, ``demo``.

Bad input ends with exit code 2 and one line; ``--debug`` shows the whole traceback. Output files are written whole or
not at all, and existing ones are kept unless ``--overwrite`` is given.
"""

import sys
import warnings
from typing import Any


def main() -> int:
    """Run the command of this process and return its exit code.

    Warnings are one line each, with options instead of Python arguments. Ctrl-C while the commands are imported is one
    line as well.
    """
    warnings.formatwarning = _format
    try:
        from xsda.cli.program import program

        program.main(prog_name="xsda")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def _format(message: Any, *_: Any, **__: Any) -> str:
    """A warning as one line, in the words of the command that runs."""
    import click

    from xsda.cli.spoken import spoken

    context = click.get_current_context(silent=True)
    return f"xsda: warning: {spoken(str(message), context.command if context else None)}\n"
