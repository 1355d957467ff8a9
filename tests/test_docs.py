"""The documentation does what it says: its Python blocks run, its command lines parse."""

import json
import os
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

from xsda.cli.program import program

pytestmark = pytest.mark.docs
ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^(<!-- skip -->\s*\n)?```(python|bash)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page, language):
    """The blocks of a page that are to be run, behind as many empty lines as put their line numbers right."""
    text = page.read_text()
    for match in BLOCK.finditer(text):
        if match[2] == language and not match[1]:
            yield "\n" * text.count("\n", 0, match.start(3)) + match[3]


@pytest.mark.parametrize("page", [p for p in PAGES if any(blocks(p, "python"))], ids=lambda p: p.stem)
def test_python_blocks_run(page, tmp_path, monkeypatch):
    plt = pytest.importorskip("matplotlib.pyplot")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    names = {"__name__": f"docs_{page.stem}"}
    try:
        for block in blocks(page, "python"):
            exec(compile(block, str(page), "exec"), names)
    finally:
        plt.close("all")


@pytest.mark.parametrize("notebook", sorted((ROOT / "examples").glob("*.ipynb")), ids=lambda p: p.stem)
def test_notebooks_run(notebook, tmp_path, monkeypatch):
    plt = pytest.importorskip("matplotlib.pyplot")
    monkeypatch.chdir(tmp_path)
    names = {}
    for cell in json.loads(notebook.read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]).replace("members=64", "members=4"), str(notebook), "exec"), names)
    plt.close("all")


def command_lines():
    for page in PAGES:
        for block in blocks(page, "bash"):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if words[:1] == ["xsda"]:
                    yield pytest.param(words[1:], id=f"{page.stem}: {' '.join(words[:3])}")


@pytest.mark.parametrize("words", list(command_lines()))
def test_command_lines_parse(words):
    name, *rest = words
    program.commands[name].make_context(name, rest)


SCRIPTS = sorted([*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "examples").glob("*/*.py")])


@pytest.mark.parametrize("path", [p for p in SCRIPTS if p.stem not in ("common", "record")], ids=lambda p: p.stem)
def test_every_script_says_what_it_does(path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(path.parent)
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(path), run_name="__main__")
    assert left.value.code == 0
    assert "usage:" in capsys.readouterr().out
