"""Positions and orography that a network reads are those of the place, however the grid is written."""

import json

import numpy as np
import pytest
import torch
import xarray as xr

from xsda.labels import Grid, Layout
from xsda.labels.requirements import check_region
from xsda.labels.static import find_orography, positions
from xsda.nn.extension import over_poles

LAT, LON = np.linspace(-82.5, 82.5, 12), np.arange(16) * 22.5


def fields(dims, **coords):
    """Two states of one variable on these axes."""
    sizes = [len(coords[d]) for d in dims]
    return xr.Dataset({"t": (("time", *dims), np.zeros((2, *sizes)))}, {"time": [0.0, 1.0], **coords})


def globe():
    ds = fields(("lat", "lon"), lat=LAT, lon=LON)
    height = ("lat", "lon"), np.random.default_rng(0).gamma(2, 300, (12, 16))
    return ds.assign(height=xr.Variable(*height, {"units": "m", "standard_name": "surface_altitude"}))


def plane():
    axes = {"y": ("y", np.arange(4) * 5.0, {"units": "km"}), "x": ("x", 3 + np.arange(6.0), {"units": "km"})}
    return xr.Dataset({"t": (("time", "y", "x"), np.zeros((2, 4, 6)))}, {"time": [0.0, 1.0], **axes})


def turned(ds):
    return ds.assign_coords(lon=(ds.lon + 180) % 360 - 180).sortby("lon")


CHANGES = {
    "longitudes to 180": turned,
    "latitudes descend": lambda ds: ds.sortby("lat", ascending=False),
    "other dimension order": lambda ds: ds.transpose("lon", "time", "lat"),
    "other names": lambda ds: ds.rename(lat="latitude", lon="longitude", height="zs"),
    "height in km": lambda ds: ds.assign(height=(ds.height / 1000).assign_attrs(ds.height.attrs, units="km")),
    "half of it": lambda ds: ds.isel(lat=slice(3, 9), lon=slice(5, 9)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_context_of_a_place_is_the_same_on_any_grid(change):
    ds, other = globe(), CHANGES[change](globe())
    layout = Layout.of(ds, context=["height"], position=True)
    grid = Grid.match(layout, other)
    context = grid.context()[0, 0].double().numpy()
    lat, lon = (grid.numbers(d) for d in grid.core_dims[1:])
    a, b = np.radians(lat)[:, None], np.radians(lon)
    places = np.broadcast_arrays(np.cos(a) * np.cos(b), np.cos(a) * np.sin(b), np.sin(a))
    mean, std = (np.array([getattr(v, key)[0] for v in layout.position]) for key in ("mean", "std"))
    np.testing.assert_allclose(context[1:] * std[:, None, None] + mean[:, None, None], places, atol=1e-6)
    height = (ds.height - ds.height.mean()) / ds.height.std()
    np.testing.assert_allclose(context[0], height.sel(lat=lat).sel(lon=lon % 360), atol=1e-6)


def test_two_dimensional_coordinates_give_the_same_positions():
    """Also without a point: there the network reads the mean, zero."""
    ds = globe().drop_vars("height")
    lat, lon = xr.broadcast(ds.lat, ds.lon)
    other = xr.Dataset(
        {"t": (("time", "j", "i"), ds.t.values)},
        {"time": ds.time, "lat": (("j", "i"), lat.values.copy()), "lon": (("j", "i"), lon.values - 360.0)},
    )
    layout = Layout.of(other, position=True)
    assert [v.name for v in layout.position] == ["globe_x", "globe_y", "globe_z"]
    context = Grid.match(layout, other).context()
    torch.testing.assert_close(context, Grid.match(Layout.of(ds, position=True), ds).context())
    other.lat[0, 0] = np.nan
    holed = Grid.match(layout, other).context()
    assert holed[..., 0, 0].tolist() == [[[0, 0, 0]]]
    assert torch.equal(holed[..., 1:, :], context[..., 1:, :])


def test_the_position_is_continuous_across_the_dateline_and_over_the_poles():
    """The rows that a network sees beyond a pole are the unit vector at latitudes beyond 90 degrees."""
    ds = globe()
    place = np.stack(
        [f.broadcast_like(ds.height).transpose("lat", "lon").values for f in positions(ds, ["lat", "lon"]).values()]
    )
    steps = np.linalg.norm(place - np.roll(place, 1, -1), axis=0)
    np.testing.assert_allclose(steps, steps[:, :1] * np.ones(16), rtol=1e-12)  # the step from the last to the first too
    beyond = over_poles(torch.as_tensor(place), -2, 3, 3, on_poles=False)
    a, b = np.radians(-82.5 + 15 * np.arange(-3, 15))[:, None], np.radians(LON)
    expected = np.stack(np.broadcast_arrays(np.cos(a) * np.cos(b), np.cos(a) * np.sin(b), np.sin(a)))
    np.testing.assert_allclose(beyond, expected, atol=1e-12)


def test_positions_along_plain_axes():
    """Scaled coordinates in the units of the prior, and none along a ring."""
    layout = Layout.of(plane(), position=True)
    metres = plane().isel(y=slice(None, None, -1), x=slice(2, None))
    metres = metres.assign_coords({d: (d, 1000 * metres[d].values, {"units": "m"}) for d in ("y", "x")})
    y, x = Grid.match(layout, metres).context()[0, 0]
    np.testing.assert_allclose(y, np.broadcast_to(np.array([-3, -1, 1, 3])[:, None] / 5**0.5, (4, 4)), rtol=1e-6)
    np.testing.assert_allclose(x[0], (np.arange(2, 6) - 2.5) / (35 / 12) ** 0.5, rtol=1e-6)
    assert [v.name for v in Layout.of(plane(), position=True, periodic=["x"]).position] == ["y"]
    assert [v.name for v in Layout.of(plane().drop_vars("y"), position=True).position] == ["x"]
    section = fields(("depth", "lon"), depth=np.arange(3.0), lon=LON)
    assert [v.name for v in Layout.of(section, position=True, space=["depth", "lon"]).position] == [
        "globe_x",
        "globe_y",
        "depth",
    ]


def test_a_grid_without_the_position_is_refused():
    ds = globe().drop_vars("height")
    grid = Grid.match(Layout.of(ds, position=True), ds.drop_vars(["lat", "lon"]))
    with pytest.raises(ValueError, match="reads the position on the globe, but the grid has no latitudes"):
        grid.context()
    grid = Grid.match(Layout.of(plane(), position=True), plane().drop_vars("y"))
    with pytest.raises(ValueError, match="reads the position along 'y', so the grid needs the coordinate 'y'"):
        grid.context()


def test_a_plain_region_elsewhere_is_noted_if_the_position_is_read():
    moved = plane().assign_coords(y=plane().y + 100)
    assert check_region(Grid.match(Layout.of(plane()), moved)) == []
    assert check_region(Grid.match(Layout.of(plane(), position=True), moved)) == [
        "the grid has y 100 to 115, the prior 0 to 15 by 5"
    ]


def test_files_without_positions_stay_as_they_were():
    layout = Layout.of(plane())
    assert "position" not in layout.to_json()
    layout = Layout.of(globe(), context=["height"], position=True)
    assert Layout.from_json(json.loads(json.dumps(layout.to_json()))) == layout
    assert layout.context_channels == 4


def test_orography_is_found_by_standard_name_or_by_name():
    ds = globe()
    assert find_orography(ds, ("lat", "lon")) == ("height",)
    ds["orog"] = ds.height.drop_attrs()
    ds["z"] = ds.height.assign_attrs(standard_name="geopotential")
    assert find_orography(ds.set_coords("orog"), ("lat", "lon")) == ("height", "orog", "z")
    moving = xr.Dataset({"orog": ds.orog.expand_dims(time=ds.time), "topo": ds.z.assign_attrs(standard_name="depth")})
    assert find_orography(moving, ("lat", "lon")) == ()
