"""Tiles leave members as they are, and are refused where they mean nothing."""

import warnings

import numpy as np
import pytest
import xarray as xr

import xsda
from xsda.sampling.pieces import tile_sizes

TILES = {"lat": 24, "lon": 32}


@pytest.fixture
def grid():
    prior = xsda.load_model("kolmogorov")
    x = (np.arange(64) + 0.5) * prior.layout.space[0].spacing
    force = np.broadcast_to(np.sin(4 * x)[:, None], (64, 64))
    nothing = ("time", "lat", "lon"), np.zeros((5, 64, 64), np.float32)
    ds = xr.Dataset(
        {"u": nothing, "v": nothing, "forcing": (("lat", "lon"), force)},
        {"time": np.arange(5) * 0.2, "lat": x, "lon": x},
    )
    return ds.assign_coords(lat=ds.lat.assign_attrs(axis="Y"), lon=ds.lon.assign_attrs(axis="X"))


def test_members_do_not_depend_on_tiles(grid):
    obs = xr.Dataset({"u": np.sin(grid.lat) * np.cos(grid.lon) + 0 * grid.time}).isel(lat=slice(None, None, 4))
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for tiles in (None, TILES):
            options = {"members": 1, "sigma": 0.2, "steps": 2, "redraw": 0, "progress": False, "tiles": tiles}
            found.append(grid.sda.assimilate(obs, "kolmogorov", **options))
    xr.testing.assert_allclose(found[1], found[0], rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("model", "tiles", "message"),
    [
        ("kolmogorov", {"latitude": 32}, "names 'latitude', which is not a space dimension"),
        ("kolmogorov", {"lon": 8}, r"tiles\['lon'\]=8 is smaller than the 16 points .* use at least 16"),
        ("uk-t2m", {"lon": 32}, "the prior 'uk-t2m' has a covariance over the whole grid; omit tiles"),
    ],
)
def test_tiles_that_mean_nothing_are_refused(model, tiles, message):
    with pytest.raises(ValueError, match=message):
        tile_sizes(xsda.load_model(model), tiles, ("lat", "lon"))


def test_a_network_that_reads_all_points_is_refused(grid):
    network = xsda.nn.WindowMLP(3, 5)
    prior = xsda.load_model("lorenz63")
    prior = xsda.Prior(prior.denoiser.with_network(network), prior.layout, name="all")
    with pytest.raises(ValueError, match="the WindowMLP of the prior 'all' reads all points at once"):
        tile_sizes(prior, {"x": 8}, ("x",))


@pytest.mark.parametrize("tiles", [256, {"lat": 0}, {"lat": 2.5}])
def test_tiles_are_numbers_of_points(grid, tiles):
    with pytest.raises((TypeError, ValueError), match="tiles"):
        grid.sda.sample("kolmogorov", tiles=tiles)


def test_chunks_of_core_dimensions_point_to_tiles(grid):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match=r"tiles=\{'lat': 256\} if the grid .*, and reanalyse a long record"):
            grid.sda.sample("kolmogorov", chunks={"time": 2, "lat": 8})
        with pytest.raises(ValueError, match=r"\.chunk\(\{'lon': -1\}\) \(tiles=\{'lon': 256\} if"):
            grid.chunk({"lon": 8}).sda.sample("kolmogorov")
