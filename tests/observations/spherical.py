"""Grids with two-dimensional coordinates, and places on them."""

import numpy as np
import xarray as xr

from xsda.labels.grid import Grid
from xsda.labels.layout import Layout
from xsda.observations.mesh import unit_vectors


def places(x):
    """Latitudes and longitudes of vectors."""
    x = x / np.linalg.norm(x, axis=-1, keepdims=True)
    return np.degrees(np.arcsin(x[..., 2])), np.degrees(np.arctan2(x[..., 1], x[..., 0]))


def rotation(seed):
    """A random rotation of the sphere."""
    q, r = np.linalg.qr(np.random.default_rng(seed).standard_normal((3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.sign(np.linalg.det(q))


def dataset(lat, lon, seed=0, dims=("y", "x")):
    """A variable with random values on a grid."""
    field = np.random.default_rng(seed).standard_normal((2, *lat.shape))
    attrs = {"units": "K"}
    return xr.Dataset(
        {"t": (("time", *dims), field, attrs)}, {"time": [0.0, 1.0], "lat": (dims, lat), "lon": (dims, lon)}
    )


def region(seed=0, rows=6, columns=7):
    """A skewed, uneven grid of some degrees, somewhere on the sphere, and vectors inside it."""
    rng = np.random.default_rng(seed)
    y, x = np.cumsum(rng.uniform(0.5, 1.5, rows)), np.cumsum(rng.uniform(0.5, 1.5, columns))
    y, x = np.meshgrid(y - y.mean(), x - x.mean(), indexing="ij")
    shear, bend = rng.uniform(-0.6, 0.6), rng.uniform(-0.03, 0.03)
    y, x = y + 0.01 * x * x, x + shear * y + bend * x * y
    turn = rotation(seed)
    return places(np.stack([np.ones_like(x), np.radians(2 * x), np.radians(2 * y)], -1) @ turn.T)


def inside(lat, lon, count, seed=0):
    """Random places inside the cells: averages of their corners."""
    rng, nodes = np.random.default_rng(seed), unit_vectors(lat, lon)
    row, column = (rng.integers(0, n - 1, count) for n in lat.shape)
    share = rng.dirichlet(np.ones(4), count)
    corners = np.stack([nodes[row + a, column + b] for a, b in ((0, 0), (0, 1), (1, 1), (1, 0))], 1)
    return places((share[..., None] * corners).sum(1))


def stations(lat, lon, time=(0.0, 1.0)):
    at = {"lat": ("station", lat), "lon": ("station", lon), "time": list(time)}
    return xr.Dataset({"t": (("time", "station"), np.zeros((len(time), len(lat))))}, at)


def grid_of(ds):
    return Grid.match(Layout.of(ds), ds)
