"""The examples in docstrings run and give what they say; public functions have one."""

import doctest
import importlib
import inspect
import pkgutil
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import xarray as xr

import xsda

MODULES = [
    xsda,
    *(
        importlib.import_module(info.name)
        for info in pkgutil.walk_packages(xsda.__path__, "xsda.")
        if not info.name.endswith("__main__")
    ),
]
EXAMPLES = {
    test.name: test
    for module in MODULES
    for test in doctest.DocTestFinder(exclude_empty=True).find(module)
    if test.examples
}


@pytest.fixture(scope="module")
def names():
    """What examples may use: a Lorenz-63 truth, an ensemble around it, observations of x; an ensemble of weather."""
    rng = np.random.default_rng(0)
    truth = xsda.systems.Lorenz63().simulate(16, seed=0)
    post = truth + xr.DataArray(rng.standard_normal((8, 16)), dims=("member", "time"))
    obs = truth.sda.observe(truth[["x"]].isel(time=slice(None, None, 4)), sigma=0.5, seed=1)
    coords = {
        "time": np.datetime64("2026-03-01", "ns") + np.arange(3) * np.timedelta64(6, "h"),
        "lat": np.linspace(50, 60, 4),
        "lon": np.linspace(-10, 0, 5),
    }
    data = (("member", *coords), 280 + rng.standard_normal((4, 3, 4, 5)), {"units": "K"})
    weather = xr.Dataset({"t2m": data}, coords)
    return {
        "xsda": xsda, "np": np, "xr": xr, "torch": torch, "truth": truth, "post": post.transpose("member", "time"), "obs": obs,
        "weather": weather,
    }  # fmt: skip


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_examples_run(name, names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    test = EXAMPLES[name]
    test.globs = dict(names)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    said: list[str] = []
    failed = doctest.DocTestRunner(optionflags=flags).run(test, out=said.append).failed
    plt.close("all")
    assert not failed, "".join(said)


def public_functions():
    """Functions of this package that an ``__all__`` names, by the first name under which they are public."""
    found = {}
    for module in MODULES:
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name)
            if inspect.isfunction(value) and value.__module__.startswith("xsda."):
                found.setdefault(value, f"{module.__name__}.{name}")
    return {public: f"{function.__module__}.{function.__qualname__}" for function, public in found.items()}


def test_public_functions_have_an_example():
    lacking = {public for public, home in public_functions().items() if home not in EXAMPLES}
    assert lacking == set(), "give these an Examples section"


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_headings_in_docstrings_stand_on_a_line_of_their_own(module):
    assert not re.search(r"\w -{3,}", inspect.getsource(module))
