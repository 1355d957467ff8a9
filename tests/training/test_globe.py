"""Training on a globe and on sizes that no patch divides, up to the posterior."""

import json

import numpy as np
import pytest
import torch
import xarray as xr

import xsda
from xsda.labels.layout import Layout
from xsda.priors.header import check_header
from xsda.training import Recipe
from xsda.training.geo import training_layout
from xsda.training.networks import make_network
from xsda.training.plan import planned
from xsda.training.windows import Windows, fit_scaling

QUICK = {
    "window": 4,
    "steps": 3,
    "batch_size": 2,
    "warmup": 1,
    "validate_every": 3,
    "validation_batches": 1,
    "progress": False,
}
SMALL = {"name": "SpaceTimeUNet", "hidden": (4, 6), "blocks": (1, 1), "features": 8}


def winds(lat, lon, times=60):
    """A temperature with mean 280 K and an eastward wind with mean 3 m/s."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((2, times, len(lat), len(lon)))
    dims = ("time", "lat", "lon")
    return xr.Dataset(
        {
            "t": (dims, 280 + 2 * noise[0], {"units": "K", "standard_name": "air_temperature"}),
            "u": (dims, 3 + 4 * noise[1], {"units": "m s-1", "standard_name": "eastward_wind"}),
        },
        {"time": np.arange(times, dtype=float), "lat": lat, "lon": lon},
    )


def globe():
    return winds(np.linspace(-82.5, 82.5, 12), np.arange(16) * 22.5)


def test_components_of_vectors_are_scaled_about_zero_on_a_globe():
    """Beyond a pole a component changes its sign, in physical units and therefore in scaled ones too."""
    for ds, mean, std in (
        (globe(), 0, float((globe().u ** 2).mean()) ** 0.5),
        (globe().isel(lat=slice(3, None)), float(globe().u[:, 3:].mean()), float(globe().u[:, 3:].std())),
    ):
        layout = fit_scaling(ds, Layout.of(ds))
        assert layout.mean == pytest.approx([float(ds.t.mean()), mean])
        assert layout.std == pytest.approx([float(ds.t.std()), std])


@pytest.mark.parametrize("name", ["spacetime", "temporal", "markov"])
def test_the_network_of_a_globe_is_that_of_another_longitude_convention(name):
    """Turned by half a circle, with the first longitude at -180, the denoised field is turned by half a circle.

    This also holds for a network that reads the position.
    """
    ds = globe()
    layout = fit_scaling(ds, Layout.of(ds, position=True))
    torch.manual_seed(0)
    network = make_network(name, layout, 3, 4).double()
    for p in network.parameters():
        p.data = 0.2 * torch.randn_like(p)
    turned = ds.assign_coords(lon=(ds.lon + 180) % 360 - 180).sortby("lon")
    level = torch.tensor(0.2, dtype=torch.float64)
    here, there = (
        network(grid.to_tensor(grid.template)[None].double(), level, grid.context().double())
        for grid in (xsda.labels.Grid.match(layout, d) for d in (ds, turned))
    )
    torch.testing.assert_close(there, here.roll(8, -1))


def test_a_trained_prior_of_a_globe_is_stored_and_used_upside_down(tmp_path):
    ds = globe()
    xsda.train(ds, network=SMALL, **QUICK).save(tmp_path / "globe.safetensors")
    model = xsda.load_model(tmp_path / "globe.safetensors")
    assert xsda.nn.network_config(model.denoiser.network)["signs"] == [1, -1]
    meta = json.loads(json.dumps({**model._description(), "name": model.name, "hash": model.hash}))
    meta["layout"]["space"][0]["poles"] = "north"
    with pytest.raises(ValueError, match="poles is 'north', expected one of"):
        check_header(meta)
    meta["layout"] |= {"position": [{"name": "lat", "mean": ["0"]}]}
    with pytest.raises(TypeError, match=r"layout.position\[0\].mean\[0\] is '0', expected a number"):
        check_header(meta)
    grid = ds.isel(time=slice(0, 4))
    obs = grid.isel(lat=[0, 5, 11], lon=slice(None, None, 4))
    options = {"members": 2, "sigma": 0.5, "steps": 4, "progress": False}
    post = grid.sda.assimilate(obs, model, **options)
    other = grid.sortby("lat", ascending=False).sda.assimilate(obs, model, **options)
    xr.testing.assert_allclose(other.sortby("lat"), post)
    with pytest.raises(ValueError, match=r"'lat' runs from -37.5 to 82.5, but this prior needs the whole globe"):
        grid.isel(lat=slice(3, None)).sda.assimilate(obs.isel(lat=[1, 2]), model, **options)


def test_a_prior_of_a_globe_serves_any_longitude_convention():
    """Its climatology follows the meridians: 20 K between the hemispheres, all observed, east and west of Greenwich."""
    ds = globe()
    ds["t"] = ds.t + 10 * np.sign(np.sin(np.deg2rad(ds.lon)))
    model = xsda.train(ds, network=SMALL, **QUICK)
    turned = ds.assign_coords(lon=(ds.lon + 180) % 360 - 180).sortby("lon").isel(time=slice(0, 5))
    for grid in (turned, turned.sortby("lat", ascending=False)):
        every_other = grid.t.isel(lon=slice(None, None, 2)).to_dataset()
        post = grid.sda.assimilate(every_other, model, members=4, sigma=0.1, progress=False)
        error = (post.t.mean("member") - grid.t).sel(lon=every_other.lon)
        assert float(abs(error).max()) < 0.5
        others = (post.t.mean("member") - grid.t).drop_sel(lon=every_other.lon)
        assert float((others**2).mean() ** 0.5) < 4  # 2 K of noise, not 20 K of a wrong hemisphere


@pytest.mark.parametrize("sizes", [(9, 13), (8, 11)])
def test_sizes_that_patches_do_not_divide_are_trained_and_assimilated(sizes):
    ds = winds(np.linspace(50, 60, sizes[0]), np.linspace(-10, 2, sizes[1]))
    model = xsda.train(ds, network=SMALL, **QUICK)
    grid = ds.isel(time=slice(0, 5))
    post = grid.sda.assimilate(grid, model, members=4, sigma=0.02, progress=False)
    error = post.mean("member") - grid
    assert float(abs(error.t).max()) < 0.2  # of 2 K, at every point up to the edges
    assert float(abs(error.u).max()) < 0.2


@pytest.mark.parametrize(("rows", "columns"), [(9, 13), (8, 12)])
def test_only_a_ring_of_odd_length_has_no_patches(rows, columns):
    """Patches make a network three times cheaper, but a filled up ring has one column twice."""
    region = winds(np.linspace(50, 60, rows), np.linspace(-10, 2, columns))
    assert make_network("spacetime", Layout.of(region), 4, 4).patch == 2
    ring = make_network("spacetime", Layout.of(region, periodic=["lon"]), 4, 4)
    assert ring.patch == (1 if columns % 2 else 2)


def region(times=240):
    """Hourly temperatures with a mask, over land of known height."""
    ds = winds(np.linspace(50, 60, 6), np.linspace(-10, 0, 8), times)[["t"]]
    ds = ds.assign_coords(time=np.datetime64("2019-03-01", "ns") + np.arange(times) * np.timedelta64(1, "h"))
    ds["t"] = ds.t.where(ds.lon < -1)
    ds["orog"] = ("lat", "lon"), np.random.default_rng(1).gamma(2, 300, (6, 8)), {"units": "m"}
    return ds.assign(soil=ds.orog * 0 + ds.lat)


def test_geo_stands_for_what_the_data_have():
    layout = training_layout(region(), context=["geo", "soil"])
    assert [v.name for v in layout.context] == ["orog", "soil"]
    assert [v.name for v in layout.position] == ["globe_x", "globe_y", "globe_z"]
    assert layout.time_features == ("hour_of_day",)  # ten days do not cover the year
    days = region().assign_coords(time=region().time.values[0] + np.arange(240) * np.timedelta64(5, "D"))
    both = training_layout(days, context=["soil", "geo"], time_features=["hour_of_day"])
    assert both.time_features == ("hour_of_day", "day_of_year")
    assert [v.name for v in both.context] == ["soil", "orog"]
    ring = xr.Dataset({"t": (("time", "x"), np.zeros((5, 4)))}, {"time": np.arange(5.0), "x": np.arange(4.0)})
    with pytest.raises(ValueError, match="context='geo' finds nothing in these data"):
        planned(ring, context=["geo"], periodic=["x"])
    masked = planned(ring.where(ring.x > 0), periodic=["x"])  # what is chosen unasked may find nothing
    assert masked.anchored
    assert not masked.layout.context


def test_a_recipe_with_geo_keeps_the_orography(tmp_path):
    region(8).to_netcdf(tmp_path / "region.nc")
    data = {"path": str(tmp_path / "region.nc"), "variables": "t"}
    for context, names in (("geo", {"t", "orog"}), (["geo", "soil"], {"t", "orog", "soil"}), ([], {"t"})):
        assert set(Recipe(name="a", data=data, train={"context": context}).load(tmp_path).data_vars) == names


def test_each_window_is_read_with_its_own_dates():
    """Pieces of few states: the hour that the state holds is that of its context."""
    ds = region(50)[["t"]]
    ds["t"] = xr.zeros_like(ds.t) + ds.time.dt.hour
    windows = Windows(ds, Layout.of(ds, time_features=["hour_of_day"]), 3, piece_bytes=4 * 48 * 3 * 8, held=2)
    assert len(windows.pieces) > 5
    batches = windows.batches(16, seed=0)
    for _ in range(6):
        states, context = next(batches)
        hours = torch.atan2(context[:, :, 0], context[:, :, 1]) * 12 / torch.pi % 24
        torch.testing.assert_close(hours.round() % 24, states[:, :, 0])


def test_a_prior_with_geo_serves_other_conventions_and_a_part_of_its_region(tmp_path):
    ds = region()
    xsda.train(ds, network=SMALL, context=("geo", "soil"), **QUICK).save(tmp_path / "region.safetensors")
    model = xsda.load_model(tmp_path / "region.safetensors")
    assert model.denoiser.network.config["context"] == model.layout.context_channels == 2 + 3 + 2 + 1
    grid = ds.isel(time=slice(100, 105))
    obs = grid[["t"]].isel(lat=[0, 3], lon=slice(None, None, 3))
    options = {"members": 2, "sigma": 0.5, "steps": 4, "progress": False}
    post = grid.sda.assimilate(obs, model, **options)
    other = grid.assign_coords(lon=grid.lon + 360).sortby("lat", ascending=False)
    other["orog"] = (other.orog / 1000).assign_attrs(units="km")
    same = other.sda.assimilate(obs, model, **options).sortby("lat").assign_coords(lon=post.lon)
    np.testing.assert_allclose(same.t, post.t, rtol=1e-6)
    with pytest.warns(UserWarning, match="5 points along 'lat' where the prior was trained with 6"):
        part = grid.isel(lat=slice(0, 5)).sda.assimilate(obs, model, **options)
    assert int(part.t.notnull().sum()) == 2 * 5 * 5 * 7
    with pytest.raises(KeyError, match="needs the static field 'orog', which the grid lacks"):
        grid.drop_vars("orog").sda.assimilate(obs, model, **options)
