"""Reports on two-dimensional coordinates: tables, places outside, super-observations."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from spherical import dataset, grid_of, inside, region, stations

from xsda.observations import compile_observations, outside
from xsda.observations.mesh import outside_cells


@pytest.mark.parametrize("dims", [("y", "x"), ("eta_rho", "xi_rho")])
def test_tables_and_reports_outside(dims):
    """A table with latitudes and longitudes; those outside are dropped and counted."""
    lat, lon = region(10)
    ds, (y, x) = dataset(lat, lon, dims=dims), inside(lat, lon, 8)
    table = pd.DataFrame({"time": 0.0, "lat": [*y, -y[0]], "lon": [*x, x[0] + 180], "t": 1.0})
    with pytest.warns(UserWarning, match=rf"1 of 9 .*\(1 along '{dims[0]}, {dims[1]}'\)"):
        seen = ds.sda.observe(table, outside="drop")
    assert seen.t.sizes == {"report": 8}
    order = [int(np.argmin(np.abs(y - p))) for p in seen.lat.values]
    np.testing.assert_allclose(seen.t, ds.sda.observe(stations(y[order], x[order], [0.0])).t[0], atol=1e-12)
    with pytest.raises(ValueError, match=r"outside the grid, at \(lat, lon\) = "):
        ds.sda.observe(table)


@pytest.mark.parametrize("how", ["cell", 0.25])
def test_superobs_are_those_of_the_plain_grid(how):
    """Reports of one place, and of the points around it, on both sides of the meridian where longitudes begin."""
    lat, lon = np.linspace(40, 50, 6), np.linspace(-10, 10, 6)
    plain = xr.Dataset(
        {"t": (("time", "lat", "lon"), np.zeros((2, 6, 6)))}, {"time": [0.0, 1.0], "lat": lat, "lon": lon}
    )
    curved = dataset(*np.meshgrid(lat, lon, indexing="ij"))
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"time": rng.choice([0.0, 0.1, 1.0], 60), "lat": rng.choice([43.9, 44.1, 47.5], 60),
                          "lon": rng.choice([359.0, 1.5, 2.4], 60), "t": rng.standard_normal(60)})  # fmt: skip
    found = []
    for ds in (plain, curved):
        lik = compile_observations(grid_of(ds), table, 1.0, superobs=how)
        found.append(np.stack([lik.y.numpy(), lik.std.numpy()]))
    assert 5 < found[0].shape[1] < 40
    np.testing.assert_allclose(np.sort(found[1], 1), np.sort(found[0], 1), atol=1e-6)


def test_places_outside_are_refused():
    lat, lon = np.meshgrid(np.linspace(50, 60, 6), np.linspace(0, 20, 9), indexing="ij")
    ds = dataset(lat, lon)
    message = r"outside the grid, at \(lat, lon\) = \(45, 10\), \(70, 3\); the latitudes of the grid are 50 to 60. Use outside='drop'"
    with pytest.raises(ValueError, match=message):
        ds.sda.observe(stations([55.0, 70.0, 45.0], [10.0, 3.0, 10.0]))
    with pytest.raises(ValueError, match="They are inside if latitude and longitude are swapped"):
        ds.sda.observe(stations([5.0, 3.0], [55.0, 52.0]))
    with pytest.raises(ValueError, match="1 observations have NaN as 'lat' or 'lon'; drop them"):
        ds.sda.observe(stations([np.nan, 52.0], [5.0, 5.0]).fillna(0))
    with pytest.raises(ValueError, match="'t' has 'lat' but no 'lon'; add it"):
        ds.sda.observe(stations([55.0], [5.0]).drop_vars("lon"))
    found = outside_cells(grid_of(ds), stations([55.0, 70.0, np.nan, 95.0, 55.0], [370.0, 3.0, 1.0, 5.0, -5.0]).t)
    np.testing.assert_array_equal(found, [False, True, False, True, True])
    late = stations([55.0, 70.0], [10.0, 3.0], [0.5, 7.0]).t
    np.testing.assert_array_equal(outside(grid_of(ds), late), [[False, True], [True, True]])
    axes = xr.Dataset(
        {"t": (("time", "lat", "lon"), np.zeros((2, 2, 2)))}, {"time": [0, 1], "lat": [0, 1], "lon": [0, 9]}
    )
    alone = stations([0.5, -0.5, 1.0, np.nan], [5.0, 5.0, 365.0, 5.0], [0.5, 7.0]).t
    np.testing.assert_array_equal(outside(grid_of(axes), alone), [[False, True, False, False], [True] * 4])
