"""What importing costs, and who may import whom."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import xsda

ROOT = Path(xsda.__file__).parent

LEVELS = [  # a room imports only rooms above it in this list, or of its own level
    {"version", "names", "arguments", "files", "devices"},
    {"nn", "diffusion"},
    {"guidance"},
    {
        "axes",
        "layout",
        "grid",
        "provenance",
        "observations",
        "systems",
        "metrics",
        "flow",
        "ensemble",
        "tasks",
        "simulation",
    },
    {"priors"},
    {"training", "baselines"},
    {"assimilation", "recipe"},
    {"accessor", "compare", "plot"},
    {"cli", "__main__"},
]
FORBIDDEN = {
    "nn": {"xarray", "dask", "jax", "matplotlib"},
    "diffusion": {"xarray", "dask", "jax", "matplotlib"},
    "guidance": {"xarray", "dask", "jax", "matplotlib"},
    "systems": {"dask"},
    "layout": {"jax", "distributed"},
    "observations": {"jax", "distributed"},
    "metrics": {"torch"},
    "baselines": {"jax", "matplotlib", "distributed"},
}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def room(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


@pytest.mark.parametrize(
    "path", sorted(p for p in ROOT.rglob("*.py") if p.parent != ROOT or p.name != "__init__.py"), ids=str
)
def test_a_lower_room_never_imports_a_higher_one(path):
    here = room(path)
    level = next(i for i, names in enumerate(LEVELS) if here in names)
    for name in imports(path):
        parts = name.split(".")
        assert parts[0] not in FORBIDDEN.get(here, set()), f"{path} imports {name}"
        if parts[0] == "xsda" and len(parts) > 1:
            assert parts[1] in set().union(*LEVELS[: level + 1]), f"{path} imports {name}"


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_import_is_light():
    heavy = ("jax", "matplotlib", "cartopy", "h5py", "pooch", "scipy", "distributed")
    loaded = run("import sys, xsda; print(' '.join(sys.modules))").split()
    assert not [m for m in heavy if m in loaded]


def test_every_public_name_exists():
    assert all(hasattr(xsda, name) for name in xsda.__all__)
