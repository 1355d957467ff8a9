"""The command line: ``xsda assimilate``, ``sample``, ``evaluate``, ``plot``, ``train``, ``simulate``, ``demo``.

Bad input ends with exit code 2 and one line; ``--debug`` shows the whole traceback. Output files are written whole or
not at all, and existing ones are kept unless ``--overwrite`` is given.
"""

import sys
import warnings


def main() -> int:
    """Run the command of this process and return its exit code.

    Warnings are one line each, and so is Ctrl-C while the commands are imported.
    """
    warnings.formatwarning = lambda message, *_, **__: f"xsda: warning: {message}\n"
    try:
        from xsda.cli.program import program

        program.main(prog_name="xsda")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0
