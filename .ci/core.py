"""What holds without optional dependencies; run by pytest in an environment made by ``pip install -e .`` and pytest.

pytest -o addopts= .ci/core.py
"""

import importlib.util
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr

import xsda

OPTIONAL = ("matplotlib", "cartopy", "scipy", "jax", "zarr", "h5netcdf", "distributed", "scores")


@pytest.fixture(scope="module")
def lorenz():
    """A truth, x every fourth step of it, and a posterior ensemble."""
    truth = xsda.systems.Lorenz63().simulate(32, seed=3)
    obs = truth.sda.observe(truth.isel(time=slice(None, None, 4))[["x"]], sigma=0.5, seed=4)
    return truth, obs, truth.sda.assimilate(obs, "lorenz63", members=8, seed=1, progress=False)


def test_optional_dependencies_are_absent():
    assert [name for name in OPTIONAL if importlib.util.find_spec(name)] == []


def test_assimilation_recovers_the_truth(lorenz):
    truth, _, post = lorenz
    error = post.mean("member") - truth
    rmse = {name: float(np.sqrt((error[name] ** 2).mean())) for name in truth}
    assert rmse["x"] < 0.5  # the error of one observation
    assert max(rmse["y"], rmse["z"]) < 2.0  # never observed; their standard deviation is about 9


def test_posterior_goes_through_a_file(lorenz, tmp_path):
    _, _, post = lorenz
    post.to_netcdf(tmp_path / "posterior.nc")
    assert xr.load_dataset(tmp_path / "posterior.nc").broadcast_equals(post)


def test_command_line_helps():
    done = subprocess.run([sys.executable, "-m", "xsda", "--help"], capture_output=True, text=True, check=True)
    assert all(word in done.stdout for word in ("assimilate", "evaluate", "simulate", "train"))


def test_a_picture_names_the_extra_to_install(lorenz):
    truth, obs, post = lorenz
    with pytest.raises(ImportError, match=r"pip install 'xsda\[plot\]'"):
        post.sda.plot(truth=truth, obs=obs)


def test_a_simulator_names_the_extra_to_install():
    with pytest.raises(ImportError, match=r"pip install 'xsda\[sim\]'"):
        xsda.systems.KolmogorovFlow(resolution=16).simulate(2, seed=0)
