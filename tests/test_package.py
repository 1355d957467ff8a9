"""What importing costs, and who may import whom."""

import ast
import graphlib
import subprocess
import sys
from collections import Counter
from pathlib import Path

import xsda

ROOT = Path(xsda.__file__).parent

FORBIDDEN = {
    "nn": {"xarray", "dask", "jax", "matplotlib"},
    "diffusion": {"xarray", "dask", "jax", "matplotlib"},
    "guidance": {"xarray", "dask", "jax", "matplotlib"},
    "systems": {"dask"},
    "labels": {"jax", "distributed"},
    "likelihood": {"xarray", "dask", "jax", "matplotlib"},
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


FILES = sorted(ROOT.rglob("*.py"))


def test_rooms_import_only_rooms_below_them():
    """The order is in pyproject.toml."""
    done = subprocess.run(["lint-imports"], capture_output=True, text=True, cwd=ROOT.parent)
    assert done.returncode == 0, done.stdout


def test_rooms_keep_away_from_what_they_must_not_know():
    sets_of_data = {"simulation.py", "tasks.py"}  # which may be made on a cluster
    found = [
        (str(p), name) for p in FILES for name in imports(p)
        if name.split(".")[0] in FORBIDDEN.get(room(p), ()) and p.name not in sets_of_data
    ]  # fmt: skip
    assert not found


def test_no_file_imports_itself_by_way_of_others():
    modules = {".".join(p.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): p for p in FILES}
    graph = {m: {n for n in _targets(p) if n in modules and n != m} for m, p in modules.items()}
    graph.pop("xsda")  # registers the accessor
    order = graphlib.TopologicalSorter({m: needs - {"xsda"} for m, needs in graph.items()})
    order.prepare()  # raises at a circle


def _targets(path):
    """Modules that a file imports, by any of their names."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            known = [n for n in inner if (ROOT.parent / Path(*n.split("."))).with_suffix(".py").is_file()]
            yield from known or [node.module]


def test_no_two_files_have_the_same_name():
    names = Counter(p.name for p in FILES if p.name != "__init__.py")
    assert not [n for n, count in names.items() if count > 1]


def test_no_two_public_classes_have_the_same_name():
    names = Counter(
        node.name for p in FILES for node in ast.parse(p.read_text()).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )  # fmt: skip
    assert not [n for n, count in names.items() if count > 1]


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_import_is_light():
    heavy = ("jax", "matplotlib", "cartopy", "h5py", "pooch", "scipy", "distributed")
    loaded = run("import sys, xsda; print(' '.join(sys.modules))").split()
    assert not [m for m in heavy if m in loaded]


def test_loading_a_prior_does_not_load_the_compiler_of_torch():
    assert run("import sys, xsda; xsda.load_model('lorenz63'); print('torch._dynamo' in sys.modules)") == "False\n"


def test_every_public_name_exists():
    assert all(hasattr(xsda, name) for name in xsda.__all__)
