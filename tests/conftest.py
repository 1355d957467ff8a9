"""Shared by all tests: a cache of their own, and the linear-Gaussian trajectories that are the yardstick."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # also of the processes that tests start; torch reads it when imported

import matplotlib
import numpy as np
import pytest
import torch
import xarray as xr

import xsda

matplotlib.use("Agg")
torch.set_num_threads(1)  # what tests compute is small: a second thread costs more than it gives


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("XSDA_CACHE", str(tmp_path_factory.mktemp("cache")))
    patch.delenv("XSDA_REGISTRY", raising=False)
    yield
    patch.undo()


def rotation_covariance(length: int = 32, a: float = 0.9, angle: float = 0.3) -> np.ndarray:
    """Covariance of a rotating AR(1) of two components with unit variance, ordered (component, time)."""
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    cov = np.zeros((2, length, 2, length))
    for i in range(length):
        for j in range(i + 1):
            block = np.linalg.matrix_power(a * turn, i - j)
            cov[:, i, :, j] = block
            cov[:, j, :, i] = block.T
    return cov.reshape(2 * length, 2 * length)


@pytest.fixture(scope="session")
def rotation():
    """(grid, covariance, prior) of 32 states with the variables u and v."""
    time = xr.DataArray(np.arange(32.0), dims="time", attrs={"units": "1"})
    zeros = ("time", np.zeros(32), {"units": "m s-1"})
    grid = xr.Dataset({"u": zeros, "v": zeros}, {"time": time})
    cov = rotation_covariance()
    return grid, cov, xsda.GaussianPrior(grid, cov)


@pytest.fixture(scope="session")
def lorenz():
    """A Lorenz-63 trajectory of 32 states, and x every fourth step with its error."""
    truth = xsda.systems.Lorenz63().simulate(32, seed=3)
    return truth, truth.sda.observe(truth.isel(time=slice(None, None, 4))[["x"]], sigma=0.5, seed=4)
