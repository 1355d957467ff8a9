"""Messages of the library on the command line: options instead of Python arguments, commands instead of functions."""

import warnings

import click
import pytest

from xsda.cli import _format
from xsda.cli.program import program

SAID = {
    "average them (superobs=...), or drop the duplicates": (
        "assimilate",
        "average them (--superobs), or drop the duplicates (--superobs LENGTH | cell)",
    ),
    "a gross error: likelihood='student_t'), a sigma without": (
        "assimilate",
        "a gross error: --likelihood student_t), a sigma without",
    ),
    "a smaller batch=... avoids this attempt": ("sample", "a smaller --batch avoids this attempt"),
    "set its units, and see xsda.observations.check": ("assimilate", "set its units, and see `xsda check`"),
    "for samples of the prior use ds.sda.sample": ("assimilate", "for samples of the prior use `xsda sample`"),
    "batch_size=3 is too small": ("train", "--batch-size 3 is too small"),
    "give model=... as well": ("check", "give --model as well"),
    "steps=1 and window=2": ("assimilate", "--steps 1 and window=2"),  # it has no option --window
    "use .sortby('time'), or --sigma x=0.5": ("assimilate", "use .sortby('time'), or --sigma x=0.5"),
}


@pytest.mark.parametrize("text", SAID)
def test_warnings_name_options(text):
    command, said = SAID[text]
    with click.Context(program.commands[command]):
        assert _format(UserWarning(text), UserWarning, "file.py", 1) == f"xsda: warning: {said}\n"
    assert _format(text).startswith("xsda: warning: ")


def test_main_speaks_so(monkeypatch):
    """The text of a warning is translated when it is shown, in a command that runs."""
    import xsda.cli

    shown = []

    def main(**_):
        with click.Context(program.commands["sample"]):
            shown.append(warnings.formatwarning("see batch=2", UserWarning, "file.py", 1))

    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    monkeypatch.setattr(program, "main", main)
    xsda.cli.main()
    assert shown == ["xsda: warning: see --batch 2\n"]
