"""Localization on two-dimensional latitudes and longitudes."""

import numpy as np
import pytest
import xarray as xr

import xsda
from xsda.baselines.distance import EARTH, LEAST, Metric, gaspari_cohn
from xsda.labels.grid import Grid
from xsda.labels.layout import Layout
from xsda.observations.mesh import unit_vectors

LAT, LON = np.linspace(40, 70, 7), np.linspace(-20, 40, 9)


def plain(members=None):
    """A regular grid, whose coordinates have one dimension each."""
    shape = (*([members] if members else []), 1, 7, 9)
    dims = (*(["member"] if members else []), "time", "lat", "lon")
    field = np.random.default_rng(0).standard_normal(shape)
    return xr.Dataset({"t": (dims, field)}, {"time": [0.0], "lat": LAT, "lon": LON})


def curved(ds):
    """The same grid with two-dimensional coordinates."""
    lat, lon = np.meshgrid(LAT, LON, indexing="ij")
    ds = ds.rename(lat="y", lon="x").drop_vars(["y", "x"])
    return ds.assign_coords(lat=(("y", "x"), lat), lon=(("y", "x"), lon))


def metric(ds, length):
    return Metric(Grid.match(Layout.of(ds, even=False), ds), length)


def weights(m, position, count):
    point, place, weight = m.near(position, 0, m.sizes[0])
    assert (np.diff(point) >= 0).all()
    out = np.zeros((m.sizes[0] * m.rows(), count))
    out[point, place] = weight
    return out


def test_distances_equal_those_of_the_plain_grid():
    rng = np.random.default_rng(1)
    position = np.stack([rng.uniform(30, 80, 60), rng.uniform(-40, 400, 60)], 1)
    flat, mesh = metric(plain(), 300.0), metric(curved(plain()), 300.0)
    expected = weights(flat, position, 60)
    assert 0.02 < (expected > 0).mean() < 0.5
    np.testing.assert_allclose(weights(mesh, position, 60), expected, atol=1e-7)
    spans = slice(2, 6), slice(3, 9)
    np.testing.assert_allclose(
        weights(mesh.part(spans), position, 60), weights(flat.part(spans), position, 60), atol=1e-7
    )


def test_distances_on_any_grid_are_great_circles():
    """Also across the pole and the date line; where the grid has no coordinates, nothing is near."""
    rng = np.random.default_rng(2)
    lat, lon = rng.uniform(60, 90, (5, 6)), rng.uniform(-180, 180, (5, 6))
    ds = xr.Dataset({"t": (("time", "y", "x"), np.zeros((1, 5, 6)))}, {"time": [0.0]})
    lat[1, 2] = np.nan
    m = metric(ds.assign_coords(lat=(("y", "x"), lat), lon=(("y", "x"), lon)), 700.0)
    position = np.stack([rng.uniform(60, 90, 20), rng.uniform(-180, 180, 20)], 1)
    cosine = unit_vectors(lat, lon).reshape(-1, 3) @ unit_vectors(*position.T).T
    expected = np.nan_to_num(gaspari_cohn(np.arccos(cosine.clip(-1, 1)) * EARTH / 700))
    np.testing.assert_allclose(weights(m, position, 20), np.where(expected > LEAST, expected, 0), atol=1e-7)
    everywhere = weights(m, np.full((1, 2), np.nan), 1)
    np.testing.assert_array_equal(everywhere, 1)


def test_filters_do_not_depend_on_the_form_of_the_coordinates():
    """Observations at grid points: the local analyses of both grids are the same."""
    forecast = plain(members=6)
    obs = forecast.isel(member=0, drop=True).isel(lat=[1, 4], lon=[0, 3, 8]) + 0.5
    method = xsda.baselines.LETKF(localization=250.0)
    expected = xsda.baselines.analyse(forecast, obs, method=method, sigma=0.3).t
    rows, columns = xr.DataArray([1, 1, 4, 4, 1, 4], dims="obs"), xr.DataArray([0, 8, 3, 0, 3, 8], dims="obs")
    listed = curved(forecast).isel(member=0, drop=True).isel(y=rows, x=columns) + 0.5
    found = xsda.baselines.analyse(curved(forecast), listed, method=method, sigma=0.3).t
    moved = np.abs(expected - forecast.t)
    assert float(moved.max()) > 0.1 > 1e-12 > float(moved.min())  # somewhere there is no observation near
    np.testing.assert_allclose(found.transpose(*expected.dims[:2], "y", "x"), expected, atol=1e-9)
    assert set(found.coords) >= {"lat", "lon"}
    lazy = xsda.baselines.analyse(curved(forecast).chunk(y=3, x=4), listed, method=method, sigma=0.3).t
    np.testing.assert_allclose(lazy.transpose(*found.dims), found, atol=1e-9)


def test_averages_over_the_whole_grid_act_everywhere():
    forecast = curved(plain(members=6))
    mean = xr.Dataset({"t": ("time", [0.7], {"cell_methods": "y: x: mean"})}, {"time": [0.0]})
    local = xsda.baselines.analyse(forecast, mean, method=xsda.baselines.LETKF(localization=1.0), sigma=0.3)
    every = xsda.baselines.analyse(forecast, mean, method=xsda.baselines.LETKF(localization=1e9), sigma=0.3)
    xr.testing.assert_allclose(local, every)


def test_lengths_by_dimension_are_refused():
    with pytest.raises(
        ValueError, match=r"two-dimensional coordinates lat and lon, so localization must be one length"
    ):
        metric(curved(plain()), {"y": 3.0})
