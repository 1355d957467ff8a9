"""Coordinates are the operator: ``observe`` and the torch operator against xarray's own indexing, on every kind of axis."""

import dask
import numpy as np
import pytest
import torch
import xarray as xr
from lazy import computes_nothing

import xsda  # noqa: F401  (registers ds.sda)
from xsda.labels.grid import Grid
from xsda.labels.layout import Layout
from xsda.observations import compile_observations


def fill(dims, sizes, names=("u", "v"), seed=0):
    rng = np.random.default_rng(seed)
    shape = [sizes[d] for d in dims]
    return {n: (dims, 280 + 5 * rng.standard_normal(shape), {"units": "K"}) for n in names}


def series():
    """Two variables over time only."""
    return xr.Dataset(fill(("time",), {"time": 12}), {"time": np.arange(12) * 0.5})


def ring():
    """A periodic axis of 8 points, period 8."""
    sizes = {"time": 6, "x": 8}
    return xr.Dataset(
        fill(("time", "x"), sizes), {"time": np.arange(6.0), "x": ("x", np.arange(8.0), {"axis": "X", "period": 8.0})}
    )


def globe():
    """Dates, descending latitude, longitudes 0..360."""
    sizes = {"time": 8, "lat": 6, "lon": 12}
    coords = {
        "time": np.datetime64("2020-02-27", "ns") + np.arange(8) * np.timedelta64(6, "h"),
        "lat": ("lat", np.linspace(75.0, -75.0, 6), {"standard_name": "latitude", "units": "degrees_north"}),
        "lon": ("lon", np.arange(12) * 30.0, {"standard_name": "longitude", "units": "degrees_east"}),
    }
    return xr.Dataset(fill(("time", "lat", "lon"), sizes), coords)


def wrapped(ds):
    """The globe with its first meridian once more at 360, for xarray, which knows no periodic axes."""
    return xr.concat([ds, ds.isel(lon=[0]).assign_coords(lon=[360.0])], "lon")


def averaged(ds, *dims):
    for v in ds.data_vars:
        ds[v].attrs["cell_methods"] = " ".join(f"{d}: mean" for d in dims)
    return ds


def check(ds, expected, derived=None):
    """H(ds) is ``expected`` for labelled arrays and, with a scaling, for standardised tensors."""
    seen = ds.sda.observe(expected, derived=derived)
    for v in seen.data_vars:
        xr.testing.assert_allclose(seen[v], expected[v], rtol=1e-10)
        assert seen[v].attrs["units"] == "K"
    layout = Layout.of(ds, even=False)
    grid = Grid.match(layout.scaled(270 + np.arange(layout.channels), 4 + np.arange(layout.channels)), ds)
    likelihood = compile_observations(grid, expected, 1.0, derived)
    np.testing.assert_allclose(likelihood.predict(grid.to_tensor(ds)[None])[0], likelihood.y, rtol=5e-7, atol=2e-5)


LAT, LON = [61.0, -75.0, 15.0, 3.3], [30.0, 330.0, 31.7, 0.0]


def stations(ds, lat=LAT, lon=LON):
    place = {"lat": ("station", lat), "lon": ("station", lon)}
    return ds.interp({k: xr.DataArray(v[1], dims="station") for k, v in place.items()}).assign_coords(place)


def timed_stations(ds):
    when = ds.time.values[[1, 4, 4, 6]] + np.array([0, 30, 0, 77], "timedelta64[m]")
    at = {"time": when, "lat": LAT, "lon": LON}
    return ds.interp({k: xr.DataArray(v, dims="station") for k, v in at.items()})


def ship(ds):
    """A track: latitude and longitude along time."""
    at = {"lat": np.linspace(-70, 70, 8), "lon": np.linspace(0, 330, 8)}
    return ds.interp(
        {"time": ds.time, **{k: xr.DataArray(v, dims="time", coords={"time": ds.time}) for k, v in at.items()}}
    )


def drifters(ds):
    """Each platform has its own times along its own track: two-dimensional coordinates."""
    when = ds.time.values[:3][None] + np.array([[0], [90]], "timedelta64[m]")
    at = {
        "time": xr.DataArray(when, dims=("drifter", "fix")),
        "lat": xr.DataArray([[10.0, 20.0, 30.0], [-10.0, -12.0, -15.0]], dims=("drifter", "fix")),
        "lon": xr.DataArray([[10.0, 20.0, 30.0], [310.0, 312.0, 315.0]], dims=("drifter", "fix")),
    }
    return ds.interp(at)


def moorings(ds):
    """Places along one dimension, times along that and another."""
    when = ds.time.values[[1, 3, 5]][None] + np.array([[0], [90]], "timedelta64[m]")
    at = {
        "time": xr.DataArray(when, dims=("mooring", "fix")),
        "lat": xr.DataArray([10.0, -20.0], dims="mooring"),
        "lon": xr.DataArray([100.0, 222.0], dims="mooring"),
    }
    return ds.interp(at)


def area_mean(ds, dim):
    """The mean over a dimension. Evenly spaced bands of latitude have areas proportional to the cosine."""
    if dim == "lat":
        return ds.weighted(np.cos(np.deg2rad(ds[dim]))).mean(dim, keep_attrs=True)
    return ds.mean(dim, keep_attrs=True)


def coarse(ds, lat, **sizes):
    """Block means, by area."""
    weight = np.cos(np.deg2rad(ds.lat)).drop_attrs()
    return (ds * weight).coarsen(lat=lat, **sizes).mean() / weight.drop_vars("lat").coarsen(lat=lat).mean()


def bounded(ds, **cells):
    """The mean over whole cells of the grid, with bounds that say which."""
    for dim, (start, stop) in cells.items():
        half = float(abs(ds[dim][1] - ds[dim][0])) / 2
        x = ds[dim].isel({dim: slice(start, stop)})
        ds = area_mean(ds.isel({dim: slice(start, stop)}), dim)
        ds = ds.assign_coords({dim: x.mean(), f"{dim}_bnds": ("bnds", [float(x.min()) - half, float(x.max()) + half])})
        ds[dim].attrs["bounds"] = f"{dim}_bnds"
    return averaged(ds, *cells)


SERIES = {
    "every fourth": lambda ds: ds.isel(time=slice(None, None, 4)),
    "backwards": lambda ds: ds.isel(time=[9, 3, 3, 0]),
    "off-grid times": lambda ds: ds[["v"]].interp(time=[0.2, 3.0, 5.49]),
    "block means": lambda ds: averaged(ds.coarsen(time=3).mean(), "time"),
    "one moment": lambda ds: ds.sel(time=2.5),
    "between two moments": lambda ds: ds.interp(time=2.6),
    "mean of all times": lambda ds: averaged(ds.mean("time", keep_attrs=True), "time"),
    "one cell with bounds": lambda ds: bounded(ds, time=(2, 7)),
}
RING = {
    "every second": lambda ds: ds.isel(x=slice(None, None, 2)),
    "interpolated": lambda ds: ds.interp(x=[0.3, 4.0, 6.9], time=[0.5, 2.0]),
    "one place": lambda ds: ds.sel(x=3.0),
    "block means": lambda ds: averaged(ds.coarsen(x=2, time=3).mean(), "x", "time"),
    "mean over the ring": lambda ds: averaged(ds.mean("x", keep_attrs=True), "x"),
    "mean of everything": lambda ds: averaged(ds.mean(keep_attrs=True), "x", "time"),
    "transposed": lambda ds: ds.isel(time=[0, 2]).transpose("x", "time"),
}
GLOBE = {
    "selection": lambda ds: ds.isel(lat=[4, 1], lon=slice(1, None, 3), time=slice(0, 8, 3)),
    "interpolation": lambda ds: ds.interp(
        lat=[0.0, 52.0], lon=[12.0, 300.0], time=ds.time.values[:5] + np.timedelta64(100, "m")
    ),
    "block means": lambda ds: averaged(coarse(ds, lat=2, lon=3, time=4), "lat", "lon", "time"),
    "mean of the globe": lambda ds: averaged(area_mean(ds, "lat").mean("lon"), "lat", "lon"),
    "zonal means at a latitude": lambda ds: averaged(ds.mean("lon", keep_attrs=True).sel(lat=45.0), "lon"),
    "stations": stations,
    "stations, transposed": lambda ds: stations(ds).transpose("station", "time"),
    "stations with their own times": timed_stations,
    "a ship": ship,
    "drifters": drifters,
    "moorings": moorings,
    "a station as scalars": lambda ds: ds.interp(lat=33.3, lon=210.0),
    "one cell with bounds": lambda ds: bounded(ds, lat=(1, 3), lon=(2, 7)),
    "transposed": lambda ds: ds.isel(lat=[0, 3]).transpose("lon", "time", "lat"),
}


CASES = {series: SERIES, ring: RING, globe: GLOBE}


@pytest.mark.parametrize(("make", "case"), [(make, case) for make, cases in CASES.items() for case in cases])
def test_equals_xarray(make, case):
    ds = make()
    check(ds, CASES[make][case](ds))


@pytest.mark.parametrize("case", GLOBE)
def test_dimension_order_of_the_grid_is_immaterial(case):
    ds = globe()
    check(ds.transpose("lon", "lat", "time"), GLOBE[case](ds))


def test_longitudes_of_both_conventions_and_around_the_date_line():
    ds = globe()
    expected = wrapped(ds).interp(lon=[30.0, 180.0, 345.0, 359.0])
    check(ds, expected.assign_coords(lon=[30.0, -180.0, -15.0, -1.0]))
    check(ds, expected)
    region = ds.isel(lon=slice(7, None)).assign_coords(lon=ds.lon[7:] - 360)  # -150 .. -30, not a ring
    check(region, region.interp(lon=[-150.0, -77.0]).assign_coords(lon=[210.0, 283.0]))
    cells = averaged(region.coarsen(lon=5).mean(), "lon").assign_coords(
        lon=[270.0], lon_bnds=(("lon", "bnds"), [[195.0, 345.0]])
    )
    cells.lon.attrs["bounds"] = "lon_bnds"
    check(region, cells)


def test_periodic_axis_wraps():
    ds = ring()
    expected = ds.pad(x=(0, 1), mode="wrap").assign_coords(x=np.arange(9.0)).interp(x=[7.5, 7.25, 0.5])
    check(ds, expected)
    check(ds, expected.assign_coords(x=[-0.5, 15.25, 8.5]))
    without = ds.assign_coords(x=np.arange(8.0))
    xr.testing.assert_allclose(without.sda.observe(expected, periodic=("x",)), expected)


def test_a_ring_larger_than_the_priors_closes_where_it_ends():
    ds = ring().isel(x=slice(0, 4)).assign_coords(x=("x", np.arange(4.0), {"axis": "X"}))
    prior = Layout.of(ds, periodic=("x",))
    large = ring().assign_coords(x=("x", np.arange(8.0), {"axis": "X"}))
    obs = large.pad(x=(0, 1), mode="wrap").assign_coords(x=np.arange(9.0)).interp(x=[5.5, 7.5])
    grid = Grid.match(prior, large)
    likelihood = compile_observations(grid, obs, 1.0)
    torch.testing.assert_close(likelihood.predict(grid.to_tensor(large)[None])[0], likelihood.y)


def test_averages_wrap_around_the_ring():
    ds = globe()
    expected = averaged(ds.isel(lon=[11, 0, 1]).mean("lon", keep_attrs=True).expand_dims(lon=[0.0]), "lon")
    for bounds in ([-45.0, 45.0], [315.0, 405.0], [315.0, 45.0]):
        obs = expected.assign_coords(lon_bnds=(("lon", "bnds"), [bounds]))
        obs.lon.attrs["bounds"] = "lon_bnds"
        check(ds, obs)


def test_averages_weigh_grid_cells_by_their_overlap():
    ds = series()
    obs = averaged(ds.isel(time=[0]).assign_coords(time_bnds=(("time", "bnds"), [[0.5, 1.25]])), "time")
    obs.time.attrs["bounds"] = "time_bnds"  # cells of 0.5 around 0.5, 1.0: half of the first, all of the second
    for v in obs.data_vars:
        obs[v] = obs[v].copy(data=[ds[v].values[1:3] @ [1 / 3, 2 / 3]])
    check(ds, obs)


def test_bounds_of_dates_and_descending_bounds():
    ds = globe()
    obs = averaged(ds.coarsen(time=4).mean(), "time")
    edges = ds.time.values[0] + np.arange(3) * np.timedelta64(24, "h") - np.timedelta64(3, "h")
    obs["time_bnds"] = (("time", "bnds"), np.stack([edges[:-1], edges[1:]], 1))
    obs.time.attrs["bounds"] = "time_bnds"
    check(ds, obs)
    obs = averaged(area_mean(ds.isel(lat=slice(0, 4)), "lat").expand_dims(lat=[30.0]), "lat")
    obs["lat_bnds"] = (("lat", "bnds"), [[90.0, -30.0]])
    obs.lat.attrs["bounds"] = "lat_bnds"
    check(ds, obs)
    assert "lat_bnds" in ds.sda.observe(obs).coords


def test_values_that_are_means_already_are_selected_or_asked_about():
    ds = averaged(globe(), "time")
    check(ds, ds.isel(time=slice(2, 6)))  # the cells are the grid's own
    with pytest.raises(
        ValueError, match=r"'u' is a mean along 'time' \(cell_methods\) on the grid and in the observations"
    ):
        ds.sda.observe(ds.isel(time=slice(None, None, 4)))
    plain = ds.isel(time=slice(None, None, 4))
    for v in plain.data_vars:
        plain[v].attrs["cell_methods"] = "time: point"
    check(ds, plain)
    assert "cell_methods" not in ds.sda.observe(plain.drop_attrs())["u"].attrs


def test_channels_by_label():
    rng = np.random.default_rng(1)
    dims, level = ("time", "level", "lat", "lon"), [500, 850, 1000]
    base = globe()
    ds = base.assign(q=(dims, rng.standard_normal((8, 3, 6, 12)), {"units": "K"})).assign_coords(level=level)
    check(ds, ds[["q"]].isel(time=[0, 5]))
    check(ds, ds.sel(level=[1000, 500]))
    check(ds, ds.sel(level=[850]).transpose("lat", "lon", "level", "time"))
    check(ds, stations(ds.sel(level=850)))
    check(ds, stations(ds))
    sondes = ds[["q"]].interp(lat=xr.DataArray(LAT, dims="obs"), lon=xr.DataArray(LON, dims="obs"))
    check(ds, sondes.sel(level=xr.DataArray([500, 500, 1000, 850], dims="obs")).isel(obs=[3, 1, 0]))


@pytest.mark.parametrize("calendar", ["noleap", "standard", "360_day"])
def test_cftime(calendar):
    ds = globe()
    time = xr.date_range("2020-02-27", periods=8, freq="6h", calendar=calendar, use_cftime=True)
    ds = ds.assign_coords(time=time)
    check(ds, ds.isel(time=slice(1, None, 2), lat=[0]))
    check(ds, ds.interp(time=time[:4] + (time[1] - time[0]) / 3))


def test_uneven_times_can_be_observed():
    ds = series().assign_coords(
        time=np.datetime64("2020-01-01", "ns") + np.cumsum(np.arange(1, 13)) * np.timedelta64(1, "D")
    )
    check(ds, ds.isel(time=[0, 5, 11]))
    check(ds, ds.interp(time=ds.time.values[:3] + np.timedelta64(11, "h")))


def test_timedelta_axis():
    ds = series().assign_coords(time=np.arange(12) * np.timedelta64(3600, "s"))
    check(ds, ds.isel(time=[2, 5]))
    half = ds.isel(time=[0, 3]).copy(data={v: (ds[v].values[[0, 3]] + ds[v].values[[1, 4]]) / 2 for v in ds})
    check(ds, half.assign_coords(time=half.time + np.timedelta64(30, "m")))


def test_the_users_own_dimension_names():
    ds = globe()
    grid = ds.rename(time="when", lat="rows", lon="columns")
    for name, axis in {"when": "T", "rows": "Y", "columns": "X"}.items():
        grid[name].attrs["axis"] = axis
    like = GLOBE["selection"](ds)
    expected = like.rename(time="when", lat="rows", lon="columns")
    check(grid, expected)
    # observations with names of their own, matched by standard name, by custom, and by being the only dates
    grid = ds.rename(time="valid", lat="latitude")
    grid.valid.attrs["axis"] = "T"
    obs = stations(ds).rename(lon="meridian", lat="Latitude")
    obs.meridian.attrs["standard_name"] = "longitude"
    check(grid, obs)
    check(grid, timed_stations(ds).rename(time="sampled"))


def test_stations_may_share_the_name_of_a_grid_dimension():
    ds = globe()
    track = {"lat": ("lon", np.linspace(-60, 60, 12))}
    expected = ds.interp(lat=xr.DataArray(track["lat"][1], dims="lon", coords={"lon": ds.lon}), lon=ds.lon)
    check(ds, expected.assign_coords(track))


def test_axes_without_coordinates_are_taken_point_by_point():
    ds = xr.Dataset(fill(("time", "x"), {"time": 4, "x": 5}))
    check(ds, ds)
    check(ds, ds.assign_coords(time=np.arange(4.0)).isel(time=[0, 3]))


def test_missing_stays_missing_and_has_no_term():
    ds = globe()
    obs = stations(ds)
    hole = obs["u"].isel(time=[0, 3], station=2)
    obs["u"] = obs["u"].where(~((obs.station == 2) & obs.time.isin(hole.time)))
    obs["v"] = obs["v"].where(False)
    seen = ds.sda.observe(obs)
    xr.testing.assert_allclose(seen, obs)
    assert int(seen["u"].isnull().sum()) == 2
    check(ds, obs)
    likelihood = compile_observations(Grid.match(Layout.of(ds), ds), obs, 1.0)
    assert likelihood.y.numel() == obs["u"].size - 2


def test_a_hole_in_the_truth_spreads_only_to_what_is_made_of_it():
    ds = series()
    ds["u"][5] = np.nan
    like = ds[["u"]].fillna(0.0).interp(time=[2.0, 2.25, 2.5, 2.6, 3.0])
    assert ds.sda.observe(like)["u"].isnull().values.tolist() == [False, True, True, True, False]
    blocks = averaged(ds[["u"]].fillna(0.0).coarsen(time=4).mean(), "time").isel(time=[0, 1, 2])
    blocks = blocks.assign_coords(time_bnds=(("time", "bnds"), [[-0.25, 0.25], [1.75, 3.75], [3.75, 5.75]]))
    blocks.time.attrs["bounds"] = "time_bnds"  # cells of unequal size share one stencil
    assert ds.sda.observe(blocks)["u"].isnull().values.tolist() == [False, True, False]


def test_integers_are_interpolated_as_numbers():
    ds = xr.Dataset({"count": ("time", np.array([0, 10, 20]))}, {"time": [0.0, 1.0, 2.0]})
    like = xr.Dataset({"count": ("time", [0.0, 0.0])}, {"time": [0.25, 1.5]})
    np.testing.assert_allclose(ds.sda.observe(like)["count"], [2.5, 15.0])


def test_static_fields_and_bounds_of_the_grid_are_left_alone():
    ds = globe()
    ds = ds.assign(orography=(("lat", "lon"), np.ones((6, 12))), lat_bnds=(("lat", "bnds"), np.ones((6, 2))))
    ds.lat.attrs["bounds"] = "lat_bnds"
    like = ds[["u"]].isel(lat=[0, 2])
    xr.testing.assert_allclose(ds.sda.observe(like)["u"], like["u"])
    assert Layout.of(ds, context=["orography"]).names == ("u", "v")


# --- derived variables ---


def speed(s):
    return (s["u"] ** 2 + s["v"] ** 2).sqrt()


@pytest.mark.parametrize("case", GLOBE)
def test_derived_equals_numpy(case):
    ds = globe()
    expected = GLOBE[case](xr.Dataset({"speed": np.hypot(ds["u"], ds["v"]).assign_attrs(units="K")}, ds.coords))
    check(ds, expected, {"speed": speed})


def test_derived_from_channels():
    ds = globe()
    q = (("time", "level", "lat", "lon"), np.random.default_rng(2).standard_normal((8, 3, 6, 12)), {"units": "K"})
    ds = ds.assign(q=q)
    column = (ds["q"].sum("level") + ds["u"]).assign_attrs(units="K").transpose("lat", "time", "lon")
    expected = stations(xr.Dataset({"column": column}, {k: ds[k] for k in ("time", "lat", "lon")}))
    check(ds, expected, {"column": lambda s: s["q"].sum(2) + s["u"]})


# --- ensembles and dask ---


def test_ensembles_keep_their_members():
    ds = globe()
    ensemble = xr.concat([ds, 2 * ds, ds - 3], "member").assign_coords(member=[4, 5, 9])
    like = timed_stations(ds)
    derived = {"speed": speed}
    both = like.assign(speed=like["u"])
    seen = ensemble.sda.observe(both, derived=derived)
    assert seen["u"].dims == ("member", "station")
    for i, member in enumerate((ds, 2 * ds, ds - 3)):
        xr.testing.assert_allclose(seen.isel(member=i, drop=True), member.sda.observe(both, derived=derived))
    assert seen.member.values.tolist() == [4, 5, 9]


@pytest.mark.parametrize("case", GLOBE)
def test_lazy_on_dask(case):
    ds = globe()
    ensemble = xr.concat([ds, ds + 1], "member")
    like = GLOBE[case](ds)
    like = like.assign(speed=like["u"])
    eager = ensemble.sda.observe(like, derived={"speed": speed}, sigma=0.1, seed=0)
    with computes_nothing():
        lazy = ensemble.chunk(member=1, time=3, lat=2).sda.observe(like, derived={"speed": speed}, sigma=0.1, seed=0)
        assert all(v.chunks is not None for v in lazy.data_vars.values())
    xr.testing.assert_allclose(lazy.compute(), eager, rtol=1e-12)


# --- noise ---


def test_noise_is_reproducible_independent_and_of_the_right_size():
    ds = series().isel(time=[0] * 4000).assign_coords(time=np.arange(4000.0))
    clean = ds.sda.observe(ds)
    a, b, c = (ds.sda.observe(ds, sigma={"u": 0.5, "v": 2.0}, seed=s) for s in (1, 1, 2))
    xr.testing.assert_identical(a, b)
    noise, other = a - clean, c - clean
    for v, std in (("u", 0.5), ("v", 2.0)):
        assert a[v].attrs["error_std"] == std
        assert abs(float(noise[v].mean())) < 4 * std / 4000**0.5
        assert float(noise[v].std()) == pytest.approx(std, rel=0.05)
        assert abs(np.corrcoef(noise[v], other[v])[0, 1]) < 0.07
    assert abs(np.corrcoef(noise["u"], noise["v"])[0, 1]) < 0.07
    alone = ds[["v"]].sda.observe(ds[["v"]], sigma=2.0, seed=1)
    xr.testing.assert_allclose(alone["v"], a["v"])  # a variable's noise does not depend on its neighbours
    assert not ds.sda.observe(ds, sigma=1.0).equals(ds.sda.observe(ds, sigma=1.0))


def test_members_have_their_own_noise():
    ds = series().expand_dims(member=2)
    seen = ds.sda.observe(series(), sigma=1.0, seed=0)
    assert not np.allclose(seen["u"][0], seen["u"][1])


def test_errors_are_found_again_without_sigma():
    ds = globe()
    grid = Grid.match(Layout.of(ds), ds)
    like = stations(ds)
    number = ds.sda.observe(like, sigma=0.25, seed=0)
    assert torch.allclose(compile_observations(grid, number).std, torch.tensor(0.25))
    sigma = xr.DataArray(np.arange(1.0, 5.0), dims="station")
    varying = ds.sda.observe(like, sigma=sigma, seed=0)
    assert varying["u"].attrs["ancillary_variables"] in varying
    expected = torch.arange(1.0, 5.0).repeat(2 * 8)
    assert torch.allclose(compile_observations(grid, varying).std, expected)
    # what an earlier error said is forgotten when the error is another one
    assert torch.allclose(compile_observations(grid, ds.sda.observe(number, sigma=sigma, seed=0)).std, expected)
    again = ds.sda.observe(varying, sigma=0.5, seed=0)
    assert torch.allclose(compile_observations(grid, again).std, torch.tensor(0.5))


@pytest.mark.parametrize("sigma", [0.0, -1.0, np.nan])
def test_sigma_must_be_positive(sigma):
    with pytest.raises(ValueError, match="sigma of 'u' must be positive and finite"):
        series().sda.observe(series(), sigma=sigma)


def test_several_instruments_are_observed_in_turn():
    with pytest.raises(TypeError, match="observe each instrument in turn"):
        series().sda.observe([series(), series()])


def kilometres(ds):
    """The same places in kilometres."""
    return ds.assign_coords(x=ds.x.copy(data=ds.x / 1000).assign_attrs(units="km"))


def test_coordinates_are_converted():
    rng = np.random.default_rng(0)
    x = ("x", np.arange(9) * 1000.0, {"units": "m"})
    ds = xr.Dataset({"u": (("time", "x"), rng.standard_normal((4, 9)))}, {"time": np.arange(4.0), "x": x})
    between = ds.interp(x=[250.0, 4500.0]).assign_coords(x=("x", [250.0, 4500.0], {"units": "m"}))
    xr.testing.assert_allclose(ds.sda.observe(kilometres(between)).u.drop_vars("x"), between.u.drop_vars("x"))
    cells = ds.isel(x=slice(0, 8)).coarsen(x=2).mean()
    cells.u.attrs["cell_methods"] = "x: mean"
    cells.x.attrs.update(units="m", bounds="x_bnds")
    edges = np.stack([cells.x - 1000, cells.x + 1000], 1)
    for units, given in ((None, edges / 1000), ("m", edges)):  # bounds without units are in those of their coordinate
        like = kilometres(cells).assign(x_bnds=(("x", "bnds"), given, {"units": units} if units else {}))
        xr.testing.assert_allclose(ds.sda.observe(like).u.drop_vars("x"), cells.u.drop_vars("x"))
    with pytest.raises(ValueError, match="'x' is in 'hPa', the grid in 'm'"):
        ds.sda.observe(between.assign_coords(x=("x", [2.0, 4.0], {"units": "hPa"})))


def test_observations_on_dask_are_computed_once():
    ds, runs = series(), []

    def count(block):
        runs.append(len(block))
        return block

    values = dask.array.from_array(ds.u.values, chunks=-1).map_blocks(count, dtype=float, meta=np.empty(0))
    like = xr.Dataset({"u": ("time", values, {"units": "K"})}, ds.coords)
    compile_observations(Grid.match(Layout.of(ds), ds), like, 1.0)
    assert runs == [12]
    assert like.u.chunks is not None  # the user's own stays as it is
