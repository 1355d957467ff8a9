"""Inverse distances: weights in closed form, and rings have no seam."""

import numpy as np
import pytest
import xarray as xr

import xsda
from xsda.baselines.inverse_distance import InverseDistance
from xsda.observations import read, units_of


@pytest.fixture
def ring():
    """A ring of 12 points, its prior of mean 10, and the grid."""
    x = xr.DataArray(np.arange(12.0), dims="x", attrs={"period": 12.0})
    mean = xr.Dataset({"h": (("time", "x"), np.full((2, 12), 10.0))}, {"time": [0.0, 1.0], "x": x})
    prior = xsda.GaussianPrior(mean, np.eye(24), periodic=["x"])
    return prior, prior.bind(mean)


def predicted(ring, places, values):
    """The prediction of the last value from the others."""
    prior, grid = ring
    obs = xr.Dataset(
        {"h": ("station", np.asarray(values, float))}, {"time": 0.0, "x": ("station", np.mod(places, 12.0))}
    )
    observed = read(obs, units_of(grid), sigma=1.0)
    last = np.arange(len(values)) == len(values) - 1
    return InverseDistance.of(observed, grid, prior).predict(("obs", "h"), last, {("obs", "h"): ~last})[-1]


def test_weights_are_inverse_squares_of_distances(ring):
    found = predicted(ring, [3, 6, 4], [14.0, 11.0, np.nan])  # distances 1 and 2
    np.testing.assert_allclose(found, 10 + (4 / 1 + 1 / 4) / (1 + 1 / 4), rtol=1e-5)


@pytest.mark.parametrize("turn", [0.0, 3.0, 7.5, 11.25])
def test_a_ring_has_no_seam(ring, turn):
    places, values = np.array([0.5, 3.0, 5.5, 10.0, 1.25]), [12.0, 9.0, 13.0, 7.0, np.nan]
    np.testing.assert_allclose(predicted(ring, places + turn, values), predicted(ring, places, values), rtol=1e-5)


def test_without_neighbours_there_is_no_prediction(ring):
    prior, grid = ring
    obs = xr.Dataset({"h": ("station", [1.0])}, {"time": 0.0, "x": ("station", [3.0])})
    by = InverseDistance.of(read(obs, units_of(grid), sigma=1.0), grid, prior)
    assert np.isnan(by.predict(("obs", "h"), np.array([True]), {("obs", "h"): np.array([False])})).all()
