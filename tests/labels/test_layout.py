"""Dataset -> tensor -> Dataset, and what a layout refuses."""

import json

import dask.array
import numpy as np
import pytest
import torch
import xarray as xr
from lazy import computes_nothing

import xsda
from xsda.labels.axes import find_axes
from xsda.labels.grid import Grid
from xsda.labels.layout import Axis, Layout, Variable
from xsda.labels.requirements import check_rings, check_spacing, check_time


def fields(dims, sizes, names=("t", "u"), seed=0):
    rng = np.random.default_rng(seed)
    return {
        n: (
            dims,
            5 * rng.standard_normal([sizes[d] for d in dims]) + 280,
            {"units": "K", "long_name": f"field {n}", "note": 1},
        )
        for n in names
    }


def series():
    return xr.Dataset(
        fields(("time",), {"time": 5}), {"time": ("time", np.arange(5) * 0.25, {"units": "s"})}, {"title": "a"}
    )


def ring():
    return xr.Dataset(
        fields(("time", "x"), {"time": 5, "x": 6}),
        {"time": np.arange(5.0), "x": ("x", np.arange(6.0), {"period": 6.0})},
    )


def globe():
    dates = np.datetime64("2020-02-27", "ns") + np.arange(5) * np.timedelta64(6, "h")
    return xr.Dataset(
        fields(("time", "lat", "lon"), {"time": 5, "lat": 3, "lon": 4}),
        {
            "time": dates,
            "lat": ("lat", [60.0, 0.0, -60.0], {"standard_name": "latitude"}),
            "lon": ("lon", np.arange(4) * 90.0, {"standard_name": "longitude"}),
            "station_height": ((), 3.0),
            "area": (("lat", "lon"), np.ones((3, 4))),
        },
    )


def levels():
    ds = globe()
    ds["q"] = (("time", "level", "lat", "lon"), np.random.default_rng(1).standard_normal((5, 2, 3, 4)), {"units": "1"})
    return ds.assign_coords(level=("level", [850.0, 500.0], {"units": "hPa"}))


def no_leap():
    return globe().assign_coords(
        time=xr.date_range("2020-02-27", periods=5, freq="6h", calendar="noleap", use_cftime=True)
    )


def shuffled():
    return levels().transpose("lon", "level", "lat", "time")


def ascending():
    return globe().sortby("lat")


KINDS = [series, ring, globe, levels, no_leap, shuffled, ascending]


def scaled(layout):
    return layout.scaled(270.0 + np.arange(layout.channels), 3.0 + np.arange(layout.channels))


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("rename", [False, True])
def test_round_trip(make, rename):
    ds = make()
    layout = scaled(Layout.of(ds))
    if rename:
        own = {"time": "when", "lat": "latitude", "lon": "longitude", "t": "t2m"}
        ds["t"].attrs["standard_name"] = "air_temperature"
        layout = scaled(Layout.of(ds))
        ds = ds.rename({k: v for k, v in own.items() if k in ds.variables})
        ds["when"].attrs["axis"] = "T"
    grid = Grid.match(layout, ds)
    back = grid.to_dataset(grid.to_tensor(ds).numpy(), {})
    for v in ds.data_vars:
        assert back[v].dims == ds[v].dims
        assert back[v].attrs == ds[v].attrs
        xr.testing.assert_allclose(back[v], ds[v].astype("float32"), rtol=1e-6, atol=5e-5)
    assert list(back) == list(ds)
    for name, coord in ds.coords.items():
        xr.testing.assert_identical(back[name], coord)
    with_members = grid.to_dataset(
        grid.to_tensor(ds).numpy()[None].repeat(2, 0), {"member": xr.DataArray([3, 4], dims="member")}
    )
    xr.testing.assert_identical(with_members.isel(member=1, drop=True), back)


def test_tensor_is_what_the_labels_say():
    ds = levels()
    grid = Grid.match(scaled(Layout.of(ds)), ds)
    x = grid.to_tensor(ds)
    assert x.shape == grid.shape == (5, 4, 3, 4)
    assert grid.layout.slices() == {"t": slice(0, 1), "u": slice(1, 2), "q": slice(2, 4)}
    value = ds["u"].sel(lat=-60.0, lon=90.0).isel(time=3)  # latitude descends outside and ascends inside
    assert float(x[3, 1, 0, 1]) == pytest.approx((float(value) - 271) / 4, rel=1e-5)
    value = ds["q"].sel(lat=60.0, lon=270.0, level=500.0).isel(time=0)
    assert float(x[0, 3, 2, 3]) == pytest.approx((float(value) - 273) / 6, rel=1e-5)
    assert grid.numbers("lat").tolist() == [-60.0, 0.0, 60.0]
    assert grid.numbers("time").tolist() == [0.0, 21600.0, 43200.0, 64800.0, 86400.0]


@pytest.mark.parametrize("change", [lambda d: d.sortby("lat"), lambda d: d.transpose("lon", "time", "lat", "level")])
def test_orientation_and_dimension_order_do_not_change_the_tensor(change):
    ds = levels()
    layout = scaled(Layout.of(ds))
    torch.testing.assert_close(
        Grid.match(layout, change(ds)).to_tensor(change(ds)), Grid.match(layout, ds).to_tensor(ds), rtol=0, atol=0
    )
    assert Layout.of(change(ds)) == Layout.of(ds)


def test_units_do_not_change_the_tensor():
    """Kelvin or Celsius: with the scaling of each, the standardised values are the same."""
    ds = globe()
    layout = Layout.of(ds)
    celsius = ds - 273.15
    a = Grid.match(layout.scaled([280, 281], [5, 4]), ds).to_tensor(ds)
    b = Grid.match(layout.scaled([280 - 273.15, 281 - 273.15], [5, 4]), celsius).to_tensor(celsius)
    torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_ensembles_and_trajectories_are_outer_dimensions():
    ds = levels()
    both = xr.concat([ds, ds + 1, ds + 2], "trajectory")
    layout = scaled(Layout.of(both))
    assert layout == scaled(Layout.of(ds))
    grid = Grid.match(layout, both)
    assert grid.to_tensor(both).shape == (3, *grid.shape)
    torch.testing.assert_close(grid.to_tensor(both)[0], grid.to_tensor(ds))


def test_to_dataset_of_dask_values_is_lazy():
    ds = levels()
    grid = Grid.match(scaled(Layout.of(ds)), ds)
    x = grid.to_tensor(ds).numpy()
    with computes_nothing():
        lazy = grid.to_dataset(dask.array.from_array(x, chunks=-1), {})
    assert all(v.chunks is not None for v in lazy.data_vars.values())
    xr.testing.assert_allclose(lazy.compute(), grid.to_dataset(x, {}))


def test_a_grid_of_coordinates_only():
    ds = levels()
    layout = scaled(Layout.of(ds))
    grid = Grid.match(layout, xr.Dataset(coords={k: ds[k] for k in ("time", "lat", "lon")}))
    back = grid.to_dataset(Grid.match(layout, ds).to_tensor(ds).numpy(), {})
    for v in ds.data_vars:
        xr.testing.assert_allclose(
            back[v].drop_vars("station_height"), ds[v].drop_vars(["area", "station_height"]), atol=5e-5
        )
    assert back["q"].level.values.tolist() == [850.0, 500.0]
    assert back["t"].attrs == {"units": "K", "long_name": "field t"}


@pytest.mark.parametrize("make", KINDS)
def test_json_round_trip(make):
    layout = scaled(Layout.of(make()))
    assert Layout.from_json(json.loads(json.dumps(layout.to_json()))) == layout


def test_json_keeps_context_and_time_features():
    ds = globe().assign(land=(("lat", "lon"), np.arange(12.0).reshape(3, 4)))
    layout = Layout.of(ds, context=["land"], time_features=("hour_of_day", "day_of_year"))
    assert Layout.from_json(json.loads(json.dumps(layout.to_json()))) == layout
    assert layout.context == (Variable("land", (5.5,), (pytest.approx(np.std(np.arange(12))),)),)
    context = Grid.match(layout, ds).context()
    assert context.shape == (1, 5, layout.context_channels, 3, 4)
    torch.testing.assert_close(
        context[0, 2, 0].flip(0), torch.as_tensor((ds["land"].values - 5.5) / ds["land"].values.std()).float()
    )
    hour = torch.atan2(context[0, :, 1, 0, 0], context[0, :, 2, 0, 0]) * 12 / torch.pi % 24
    torch.testing.assert_close(hour, torch.tensor([0.0, 6, 12, 18, 0]), rtol=0, atol=1e-4)
    days = torch.atan2(context[0, :, 3, 0, 0], context[0, :, 4, 0, 0]) * 365.25 / (2 * torch.pi)
    torch.testing.assert_close(days, 57 + torch.arange(5) / 4, rtol=0, atol=1e-3)


def test_axes_as_the_prior_knows_them():
    assert Layout.of(ring()).space == (Axis("x", 6, 1.0, 6.0, tuple(ring().x.values.tolist())),)
    lat, lon = Layout.of(globe()).space
    assert lat == Axis("lat", 3, 60.0, None, (-60.0, 0.0, 60.0), "between_poles")
    assert lon == Axis("lon", 4, 90.0, 360.0, (0.0, 90.0, 180.0, 270.0))
    assert Layout.of(globe().isel(lon=slice(0, 3))).space[1].period is None
    assert Layout.of(globe().drop_attrs(), periodic=("lon",)).space[1].period == 360.0
    assert Layout.of(globe()).dt == 21600.0
    assert Layout.of(globe()).dates
    assert Layout.of(no_leap()).dates
    assert Layout.of(series()).dt == 0.25
    assert not Layout.of(series()).dates


@pytest.mark.parametrize(
    ("names", "attrs", "found"),
    [
        (("time", "y", "x"), {}, ("time", ("y", "x"))),
        (("time", "longitude", "latitude"), {}, ("time", ("latitude", "longitude"))),
        (("step", "j", "i"), {"step": {"axis": "T"}, "j": {"axis": "Y"}, "i": {"axis": "X"}}, ("step", ("j", "i"))),
        (
            ("s", "a", "b"),
            {"s": {"standard_name": "time"}, "b": {"units": "degrees_north"}, "a": {"units": "degrees_east"}},
            ("s", ("b", "a")),
        ),
    ],
)
def test_find_axes(names, attrs, found):
    ds = xr.Dataset(coords={n: (n, np.arange(3.0), attrs.get(n, {})) for n in names})
    assert find_axes(ds) == found


def test_the_only_dates_are_time():
    ds = globe().rename(time="valid")
    assert find_axes(ds) == ("valid", ("lat", "lon"))


def with_nan():
    return globe().assign_coords(lat=[60.0, np.nan, -60.0])


REFUSED = {
    "no time": (lambda: Layout.of(globe().rename(time="a").assign_coords(a=np.arange(5))), "no time dimension found"),
    "uneven time": (
        lambda: Layout.of(series().isel(time=[0, 1, 2, 3]).assign_coords(time=[0.0, 0.25, 0.5, 0.9])),
        "goes from 0.5 to 0.9 in one step of 0.4, where its usual step is 0.25",
    ),
    "two extra dimensions": (
        lambda: Layout.of(levels().expand_dims(scan=2)),
        r"'t' has|variable 'q' has the dimensions \['scan', 'level'\]",
    ),
    "static variable": (
        lambda: Layout.of(globe().assign(h=("lat", np.ones(3)))),
        "variable 'h' lacks the dimension 'time'",
    ),
    "unknown space": (lambda: Layout.of(globe(), space=("latt", "lon")), "no dimension 'latt' .* did you mean 'lat'"),
    "unknown ring": (lambda: Layout.of(globe(), periodic=("long",)), "no dimension 'long' .* did you mean 'lon'"),
    "no variables": (lambda: Layout.of(globe().drop_vars(["t", "u"])), "the Dataset has no variables"),
    "NaN in a coordinate": (
        lambda: Grid.match(Layout.of(globe()), with_nan()),
        "coordinate 'lat' of the grid holds NaN",
    ),
    "NaT": (
        lambda: Layout.of(globe().assign_coords(time=globe().time.where(globe().time.dt.hour != 6))),
        "'time' of the grid holds NaN or NaT",
    ),
    "unsorted": (
        lambda: Grid.match(Layout.of(globe()), globe().isel(lat=[0, 2, 1])),
        r"neither ascending nor descending; use .sortby\('lat'\)",
    ),
    "unsorted time": (
        lambda: Layout.of(globe().isel(time=[0, 2, 1])),
        r"neither ascending nor descending; use .sortby\('time'\)",
    ),
    "repeated": (
        lambda: Grid.match(Layout.of(globe()), globe().isel(lat=[0, 1, 1, 0])),
        r"'lat' of the grid repeats values \(2 of 4 points\); use \.drop_duplicates\('lat'\)",
    ),
    "repeated and unsorted time": (
        lambda: Layout.of(globe().isel(time=[2, 0, 1, 0])),
        r"'time' of the grid repeats values \(1 of 4 points\); use \.drop_duplicates\('time'\)",
    ),
    "backwards": (
        lambda: Grid.match(Layout.of(globe()), globe().isel(time=slice(None, None, -1))),
        "time axis 'time' runs backwards",
    ),
    "too few dimensions": (
        lambda: Grid.match(Layout.of(globe()), ring()),
        r"prior has the space dimensions \['lat', 'lon'\], the Dataset has \['x'\]",
    ),
    "too many dimensions": (
        lambda: Grid.match(Layout.of(series()), globe()),
        r"'t' of the grid has the dimensions \('time', 'lat', 'lon'\), the prior expects \('time',\)",
    ),
    "levels in another order": (
        lambda: Grid.match(Layout.of(levels()), levels().isel(level=[1, 0])),
        r"level = \[500.0, 850.0\], the prior was trained with \[850.0, 500.0\]",
    ),
    "one level": (lambda: Grid.match(Layout.of(levels()), levels().isel(level=[1])), "use .sel"),
    "time feature": (lambda: Layout.of(globe(), time_features=["minute"]), "time feature 'minute' is unknown"),
    "time feature of numbers": (
        lambda: Layout.of(series(), time_features=["hour_of_day"]),
        "need a time axis of dates",
    ),
    "context over time": (lambda: Layout.of(globe(), context=["u"]), "expected .* a static field"),
    "step": (
        lambda: check_time(Grid.match(Layout.of(globe()), globe().isel(time=slice(None, None, 2)))),
        "time step of the grid is 43200 s, the prior was trained with 21600 s",
    ),
    "dates": (
        lambda: check_time(Grid.match(Layout.of(globe()), globe().assign_coords(time=np.arange(5)))),
        "'time' holds plain numbers, the prior's time axis holds dates",
    ),
    "numbers": (
        lambda: check_time(Grid.match(Layout.of(series()), series().assign_coords(time=globe().time))),
        "'time' holds dates, the prior's time axis holds plain numbers",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    act, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        act()


def test_unknown_names():
    with pytest.raises(KeyError, match=r"prior's variable 'u' is not in the Dataset, which has .*did you mean 'uu'"):
        Grid.match(Layout.of(globe()), globe().rename(u="uu"))
    with pytest.raises(KeyError, match="context field 'lnd' is not in the Dataset; did you mean 'land'"):
        Layout.of(globe().assign(land=(("lat", "lon"), np.ones((3, 4)))), context=["lnd"])


def test_a_coordinate_is_no_variable():
    layout = Layout.of(xr.Dataset({"x": ("time", np.arange(3.0))}))
    with pytest.raises(KeyError, match="variable 'x' is not in the Dataset"):
        Grid.match(layout, xr.Dataset({"y": ("time", np.arange(3.0))}, {"x": 2.0}))


def test_other_spacings_are_noted():
    wide = ring().assign_coords(x=np.arange(6) * 2.0)
    assert check_spacing(Grid.match(Layout.of(ring()), wide)) == [
        "spacing 2 along 'x' where the prior was trained with 1"
    ]
    assert check_spacing(Grid.match(Layout.of(ring()), ring().isel(x=slice(0, 4)))) == [
        "4 points along 'x' where the prior was trained with 6"
    ]
    assert check_spacing(Grid.match(Layout.of(ring()), ring())) == []


def test_a_part_of_a_ring_is_refused():
    grid = Grid.match(Layout.of(ring(), periodic=["x"]), ring().isel(x=slice(0, 4)))
    with pytest.raises(ValueError, match=r"'x' covers 4 of a ring of length 6"):
        check_rings(grid)
    for whole in (ring(), ring().assign_coords(x=np.arange(6) * 2.0), ring().drop_vars("x")):
        check_rings(Grid.match(Layout.of(ring(), periodic=["x"]), whole))


def test_a_static_field_has_no_time():
    ds = ring().assign(height=("x", np.arange(6.0)))
    layout = Layout.of(ds, context=["height"])
    moving = ds.assign(height=ds.height.expand_dims(time=ds.time))
    with pytest.raises(ValueError, match=r"'height' has the dimensions \('time', 'x'\), expected \('x',\)"):
        Grid.match(layout, moving).context()


def test_a_longer_ring_has_its_own_period():
    """A prior of a ring of 6 points on a ring of 9: the result's coordinate gives the length of the longer one."""
    longer = xr.Dataset(fields(("time", "x"), {"time": 5, "x": 9}), {"time": np.arange(5.0), "x": np.arange(9.0)})
    grid = Grid.match(Layout.of(ring()), longer)
    result = grid.to_dataset(grid.to_tensor(longer).numpy(), {})
    assert result.x.attrs["period"] == 9.0
    assert "period" not in longer.x.attrs
    seen = result.sda.observe(result.isel(x=[0]).assign_coords(x=[8.25]))
    np.testing.assert_allclose(seen.t[:, 0], 0.75 * result.t[:, 8] + 0.25 * result.t[:, 0], rtol=1e-5)


def test_a_region_elsewhere():
    """Both regions are named: an error for closed forms, a warning for networks."""
    ds = globe().isel(time=slice(0, 2), lat=slice(1, None), lon=slice(0, 2))
    moved = ds.assign_coords(lat=ds.lat + 90)
    size = ds.t.isel(time=0).size * 2
    mean = ds[["t"]].fillna(0) * 0
    prior = xsda.GaussianPrior(mean, np.eye(size))
    with pytest.raises(ValueError, match="the grid has lat 30 to 90, the prior -60 to 0 by 60"):
        prior.bind(moved[["t"]])
    turned = ds.assign_coords(lon=ds.lon - 360)[["t"]]
    assert prior.bind(turned).shape == prior.bind(ds[["t"]]).shape


def test_units_that_only_the_grid_knows():
    """The prior is then in the units of the grid, and observations are converted to them."""
    mean = xr.Dataset({"u": ("time", np.zeros(2))}, {"time": [0.0, 1.0]})
    prior = xsda.GaussianPrior(mean, np.eye(2))
    grid = mean.assign(u=mean.u.assign_attrs(units="m s-1"))
    obs = xr.Dataset({"u": ("time", [1.0, 2.0], {"units": "km/h"})}, {"time": [0.0, 1.0]})
    options = {"members": 2, "progress": False}
    post = grid.sda.assimilate(obs, prior, sigma=0.36, **options)
    same = grid.sda.assimilate((obs / 3.6).drop_attrs(), prior, sigma=0.1, **options)
    np.testing.assert_allclose(post.u, same.u, atol=1e-4)
