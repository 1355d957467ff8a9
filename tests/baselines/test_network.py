"""Observations by time: the same H as ``observe``, in an order that values, errors and places share."""

import cftime
import numpy as np
import pytest
import torch
import xarray as xr

from xsda.baselines import ForecastError
from xsda.baselines import network as room
from xsda.baselines.network import Network
from xsda.baselines.times import SAME
from xsda.labels.grid import Grid
from xsda.labels.layout import Layout

RNG = np.random.default_rng(0)
LAT, LON, LEVEL = [60.0, 20.0, -20.0, -60.0], np.arange(8) * 45.0, [200, 500, 850]


def globe(times=(0.0, 1.0, 2.0, 3.0)):
    """The same state at all times: descending latitudes, periodic longitudes, and levels."""
    rng = np.random.default_rng(1)
    one = xr.Dataset(
        {
            "u": (("lat", "lon"), rng.normal(size=(4, 8))),
            "v": (("lon", "lat"), rng.normal(size=(8, 4))),
            "q": (("level", "lat", "lon"), rng.normal(size=(3, 4, 8))),
        },
        {"level": LEVEL, "lat": LAT, "lon": ("lon", LON, {"units": "degrees_east"})},
    )
    return one.expand_dims(time=list(times))


def grid_of(ds):
    return Grid.match(Layout.of(ds, even=False), ds)


def state(ds):
    """(1, channel, *space) of the first time."""
    return torch.as_tensor(grid_of(ds).stack(ds.isel(time=[0])))


def instruments():
    """Swaths, stations with times of their own, soundings, block means, a global mean."""
    ds = globe()
    swath = ds[["u"]].isel(time=[0, 3], lon=[1, 5])
    places = {"lat": ("station", [10.0, 55.0, -60.0]), "lon": ("station", [359.0, 22.0, 45.0])}
    stations = xr.Dataset({"v": (("station", "time"), np.ones((3, 2)))}, {**places, "time": [0.5, 3.0]})
    track = {
        "time": [2.5, 0.0, 1.5, 0.5],
        "level": [850, 200, 200, 500],
        "lat": [0.0, 0, 20, -60],
        "lon": [0.0, 350, 90, 1],
    }
    sondes = xr.Dataset({"q": ("obs", np.ones(4))}, {k: ("obs", v) for k, v in track.items()})
    means = ds[["v"]].coarsen(lat=2, lon=4).mean()
    means["v"].attrs["cell_methods"] = "lat: mean lon: mean"
    total = ds[["u"]].mean(("lat", "lon")).isel(time=[2])
    total["u"].attrs["cell_methods"] = "lat: lon: mean"
    single = ds[["q"]].sel(time=1.0, level=500)
    return {"swath": swath, "stations": stations, "sondes": sondes, "means": means, "total": total, "single": single}


@pytest.mark.parametrize("name", [*instruments(), "all", "missing"])
def test_what_is_seen_of_a_state_is_what_observe_sees(name):
    """Noise-free observations of one state are what H makes of that state, time by time, in the same order."""
    ds = globe()
    sources = instruments() if name in ("all", "missing") else {name: instruments()[name]}
    obs = {k: ds.sda.observe(o) for k, o in sources.items()}
    if name == "missing":
        gone = {k: xr.DataArray(RNG.random(o[v].shape) < 0.4, dims=o[v].dims) for k, o in obs.items() for v in o}
        obs = {k: o.where(~gone[k]) for k, o in obs.items()}
    sigma = {k: {str(v): 1 + abs(o[v]).fillna(0) for v in o} for k, o in obs.items()}
    network = Network.of(grid_of(ds), obs, sigma=sigma)
    batches = [b for b in map(network, range(len(network.numbers))) if b is not None]
    assert sum(len(b.y) for b in batches) == sum(int(o[v].notnull().sum()) for o in obs.values() for v in o)
    for batch in batches:
        np.testing.assert_allclose(batch.geometry.observe(state(ds))[0], batch.y, rtol=0, atol=1e-13)
        np.testing.assert_allclose(batch.std, 1 + batch.y.abs(), rtol=0, atol=1e-13)
        matrix = batch.geometry.matrix(tuple(state(ds).shape[1:]))
        np.testing.assert_allclose(matrix @ state(ds).ravel(), batch.y, rtol=0, atol=1e-12)


def test_positions_are_where_linear_fields_say():
    """H of a field that is its own coordinate is where the observation is."""
    ds = globe()
    places = ds.assign(u=0 * ds.u + ds.lat, v=0 * ds.v + ds.lat, q=0 * ds.q + ds.lat)
    network = Network.of(grid_of(ds), {k: o for k, o in instruments().items() if k != "total"}, sigma=1.0)
    for k in range(len(network.numbers)):
        batch = network(k)
        np.testing.assert_allclose(batch.geometry.position[:, 0], batch.geometry.observe(state(places))[0], atol=1e-12)
    whole = Network.of(grid_of(ds), instruments()["total"], sigma=1.0)(0).geometry
    assert np.isnan(whole.position).all()  # averages over everything are nowhere


def test_positions_on_a_ring():
    """Between the last and the first point, and averages over cells that cross the seam."""
    ds = globe()
    stations = xr.Dataset({"u": (("time", "station"), np.ones((1, 2)))}, {"time": [1.0], "lat": 20.0, "lon": ("station", [337.5, 100.0])})  # fmt: skip
    position = Network.of(grid_of(ds), stations, sigma=1.0)(0).geometry.position
    np.testing.assert_allclose(np.mod(position[:, 1], 360), [337.5, 100.0])
    cells = xr.Dataset(
        {"u": (("time", "lon"), np.ones((1, 2)), {"cell_methods": "lon: mean"}), "lon_bnds": (("lon", "two"), [[-90.0, 45.0], [45.0, 180.0]])},
        {"time": [1.0], "lat": 20.0, "lon": ("lon", [-22.5, 112.5], {"bounds": "lon_bnds", "units": "degrees_east"})},
    )  # fmt: skip
    position = Network.of(grid_of(ds), cells, sigma=1.0)(0).geometry.position
    np.testing.assert_allclose(np.mod(position[:, 1], 360), [337.5, 112.5])


# --- times ---


def series(times, values=None, **coords):
    times = np.asarray(times)
    return xr.Dataset(
        {"u": ("time", np.arange(len(times)) * 1.0 if values is None else values)}, {"time": times, **coords}
    )


def test_times_of_all_sources_in_order():
    ds = series([0.0, 1.0, 2.0])
    network = Network.of(grid_of(ds), [series([0.25, 2.0]), series([0.0, 0.25, 1.5])], sigma=1.0)
    np.testing.assert_array_equal(network.numbers, [0, 0.25, 1.5, 2])
    assert [network(k).y.tolist() for k in range(4)] == [[0], [0, 1], [2], [1]]


def test_times_that_rounding_tells_apart_are_one():
    ds = series(np.arange(5) * 0.1)
    network = Network.of(grid_of(ds), [series([0.30000000000000004]), series([0.3 - 1e-9, 0.4])], sigma=1.0)
    np.testing.assert_array_equal(network.numbers, grid_of(ds).numbers("time")[3:])
    assert network(0).y.tolist() == [0, 0]


def test_times_on_both_sides_of_a_grid_time_are_one():
    """Each within the tolerance of the grid's, but not of each other."""
    ds = series([0.0, 1.0, 2.0])
    network = Network.of(grid_of(ds), [series([1 - 0.8e-4]), series([1 + 0.8e-4])], sigma=1.0)
    np.testing.assert_array_equal(network.numbers, [1.0])
    assert len(network(0).y) == 2


def test_times_much_closer_than_the_grids():
    """A track with a value a second, on a grid of six-hourly steps: few forecasts, no value lost."""
    hours = np.arange(3) * np.timedelta64(6, "h") + np.datetime64("2001-01-01")
    ds = series(hours)
    seconds = np.datetime64("2001-01-01T01:00") + np.arange(100) * np.timedelta64(1, "s")
    track = xr.Dataset({"u": ("obs", np.arange(100.0))}, {"time": ("obs", seconds)})
    network = Network.of(grid_of(ds), track, sigma=1.0)
    assert 25 < len(network.numbers) < 100
    np.testing.assert_array_equal(np.concatenate([network(k).y for k in range(len(network.numbers))]), np.arange(100))
    assert (np.diff(network.numbers) > 6 * 3600 * SAME).all()


def test_a_source_without_time_coordinate_lies_on_the_grids():
    ds = series([0.0, 1.0, 2.0])
    bare = series([0.0, 1.0, 2.0]).drop_vars("time")
    network = Network.of(grid_of(ds), [bare, series([0.5])], sigma=1.0)
    np.testing.assert_array_equal(network.numbers, [0, 0.5, 1, 2])
    assert [network(k).y.tolist() for k in range(4)] == [[0], [0], [1], [2]]


@pytest.mark.parametrize("kind", ["datetime64", "noleap", "standard"])
def test_dates(kind):
    def date(*args):
        return np.datetime64("{:04}-{:02}-{:02}".format(*args), "ns") if kind == "datetime64" else cftime.datetime(*args, calendar=kind)  # fmt: skip

    ds = series(np.array([date(2001, 2, 28), date(2001, 3, 1), date(2001, 3, 2)]))
    obs = xr.Dataset({"u": ("obs", [3.0, 4.0])}, {"time": ("obs", np.array([date(2001, 3, 2), date(2001, 3, 1)]))})
    network = Network.of(grid_of(ds), obs, sigma=1.0)
    np.testing.assert_array_equal(network.numbers, [86400.0, 2 * 86400.0])
    assert [network(k).y.tolist() for k in range(2)] == [[4.0], [3.0]]
    with pytest.raises(ValueError, match="'time' holds plain numbers, the grid's 'time' holds dates"):
        Network.of(grid_of(ds), series([1.0]), sigma=1.0)
    with pytest.raises(ValueError, match="after the last state, at 2001-03-03"):
        Network.of(grid_of(ds), series(np.array([date(2001, 3, 3)])), sigma=1.0)


def test_missing_whole_times_are_none():
    ds = series([0.0, 1.0, 2.0])
    network = Network.of(grid_of(ds), series([0.0, 1.0, 2.0], [1.0, np.nan, 3.0]), sigma=1.0)
    assert network(1) is None
    assert network(2).y.tolist() == [3.0]


def test_long_series_keep_their_values():
    """More times than numpy's unravel_index of a column can take."""
    n = 20_000
    ds = series(np.arange(n))
    network = Network.of(grid_of(ds), ds.isel(time=slice(1, None, 2)), sigma=1.0)
    np.testing.assert_array_equal(network.numbers, np.arange(1, n, 2))
    assert [float(network(k).y[0]) for k in (0, 4095, 8193, 9999)] == [1, 8191, 16387, 19999]


def test_geometries_are_shared_and_forgotten(monkeypatch):
    monkeypatch.setattr(room, "KEPT", 4)
    ds = globe(np.arange(20.0))
    fixed = Network.of(grid_of(ds), ds[["u"]].isel(lat=[0, 2]), sigma=1.0)
    assert fixed(0).geometry is fixed(19).geometry
    lat = xr.DataArray(np.linspace(-60, 60, 20), dims="time")
    moving = Network.of(grid_of(ds), ds[["u"]].isel(lat=0, lon=0).drop_vars("lat").assign_coords(lat=lat), sigma=1.0)
    first = moving(0).geometry
    assert moving(0).geometry is first
    for k in range(20):
        moving(k)
    assert len(moving._geometries) == 4
    assert moving(0).geometry is not first


# --- correlated errors ---


def network_of_two(correlation, missing=False):
    """Values of a field on (time, lat, lon) and of a series, with errors that vary."""
    ds = globe((0.0, 1.0))
    field = ds.sda.observe(ds[["u"]].isel(lon=[0, 2, 3]).transpose("lat", "time", "lon"))
    if missing:
        field["u"][1, 0, 2] = field["u"][3, 0, 0] = np.nan
    series = ds[["v"]].isel(lat=0, lon=0)
    std = xr.DataArray(np.random.default_rng(2).uniform(0.5, 2, field.u.shape), dims=field.u.dims)
    return ds, field, std, Network.of(grid_of(ds), [series, field], sigma={"u": std, "v": 0.5}, correlation=correlation)


def assert_whitens(batch, covariance):
    """Products of scaled differences are those with the inverse of the covariance."""
    a = torch.as_tensor(RNG.normal(size=(5, len(batch.y))))
    expected = a.numpy() @ np.linalg.inv(covariance) @ a.numpy().T
    np.testing.assert_allclose(batch.scaled(a) @ batch.scaled(a).T, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("form", ["matrix", "lengths"])
def test_errors_are_whitened_within_each_time(form, missing):
    lat, lon = np.meshgrid(LAT, LON[[0, 2, 3]], indexing="ij")
    lat, lon = lat.ravel(), lon.ravel()
    c = np.exp(-np.abs(np.subtract.outer(lat, lat)) / 40 - np.abs(np.subtract.outer(lon, lon)) / 90)
    given = {"u": c} if form == "matrix" else {"u": {"lat": 40.0, "lon": 90.0}}
    ds, field, std, network = network_of_two(given, missing)
    for k in (0, 1):
        batch = network(k)
        assert batch.correlated
        there = np.isfinite(field.u.isel(time=k).values.ravel())
        s = std.isel(time=k).values.ravel()[there]
        r = np.zeros((1 + len(s), 1 + len(s)))
        r[0, 0], r[1:, 1:] = 0.25, np.outer(s, s) * c[np.ix_(there, there)]
        assert_whitens(batch, r)
        np.testing.assert_allclose(batch.innovations(state(ds)), 0, atol=1e-12)


def test_correlation_along_a_coordinate_that_moves():
    ds = globe((0.0, 1.0))
    lat = xr.DataArray([[60.0, 20.0, -20.0], [0.0, 50.0, 10.0]], dims=("time", "buoy"))
    obs = xr.Dataset(
        {"u": (("time", "buoy"), np.ones((2, 3)))}, {"time": [0.0, 1.0], "lat": lat, "lon": ("buoy", [0.0, 1, 2])}
    )
    network = Network.of(grid_of(ds), obs, sigma=0.5, correlation={"u": {"lat": 30.0}})
    for k in (0, 1):
        x = lat.values[k]
        assert_whitens(network(k), 0.25 * np.exp(-np.abs(np.subtract.outer(x, x)) / 30))


class Halves:
    """A correlation model of one's own: neighbours in pairs, correlated by 0.6."""

    def whiten(self, values):
        a, b = values[:, ::2], values[:, 1::2]
        return torch.stack([a, (b - 0.6 * a) / 0.8], -1).flatten(1)


def test_correlation_of_ones_own():
    ds = series([0.0, 1.0]).expand_dims(y=4).transpose("time", "y").assign_coords(y=np.arange(4.0))
    network = Network.of(grid_of(ds), ds, sigma=2.0, correlation={"u": Halves()})
    assert_whitens(network(1), 4 * np.kron(np.eye(2), [[1, 0.6], [0.6, 1]]))


# --- what cannot be ---


def test_bad_observations():
    ds = globe()
    one = ds[["u"]].isel(time=[1])
    cases = [
        (xr.Dataset(), {}, ValueError, "obs holds no variables"),
        (one * np.nan, {}, ValueError, r"all observations are missing \(NaN\)"),
        (one.isel(time=slice(0)), {}, ValueError, "the observations are empty along time"),
        (one / 0.0, {}, ValueError, "'u' holds infinite values; mark missing values as NaN"),
        (one.rename(u="w"), {}, KeyError, "'w' is neither a variable"),
        (one, {"sigma": None}, ValueError, "no observation error for 'u': pass sigma="),
        (one, {"sigma": 0.0}, ValueError, "sigma of 'u' must be positive and finite"),
        (one, {"sigma": {"v": 1.0}}, KeyError, "sigma names 'v', which is not observed"),
        (one.isel(time=0, drop=True), {}, ValueError, "'u' has no 'time'; filters need the time of every"),
        (ds[["u"]].isel(time=[2, 1]), {}, ValueError, r"the times of the observed 'u' do not increase; use .sortby\('time'\)"),
        (ds[["u"]].isel(time=[1, 1]), {}, ValueError, "do not increase; .* and drop duplicates"),
        (one.assign_coords(time=[np.nan]), {}, ValueError, "the times of the observed 'u' hold NaN or NaT; drop those"),
        (one.assign_coords(time=[-1.0]), {}, ValueError, r"before the first state, at -1; the grid goes from 0 to 3. Use obs.sel\(time="),
        (one.assign_coords(time=[3.5]), {}, ValueError, "after the last state, at 3.5; the grid goes from 0 to 3. Use obs.sel"),
        (one, {"correlation": {"w": np.eye(3)}}, KeyError, "correlation names 'w', which is not observed"),
        (one.isel(time=0), {"correlation": {"u": np.eye(32)}}, ValueError, "has correlated errors and no time dimension"),
        (one, {"correlation": {"u": {"time": 3.0}}}, ValueError, "correlated along 'time'; a filter takes correlations within each time only .* so give 'lat', 'lon'"),
        (one.assign_coords(hour=("time", [6.0])), {"correlation": {"u": {"lat": 9.0, "hour": 3.0}}}, ValueError, "correlated along 'hour'"),
    ]  # fmt: skip
    for obs, options, error, match in cases:
        with pytest.raises(error, match=match):
            Network.of(grid_of(ds), obs, **{"sigma": 1.0, **options})


@pytest.mark.parametrize("bounds", [False, True])
def test_averages_over_time(bounds):
    ds = globe(np.arange(6.0))
    obs = ds[["u"]].coarsen(time=2).mean()
    obs["u"].attrs["cell_methods"] = "time: mean"
    if bounds:
        obs["time_bnds"] = (("time", "two"), [[-0.5, 1.5], [1.5, 3.5], [3.5, 5.5]])
        obs["time"].attrs["bounds"] = "time_bnds"
    with pytest.raises(
        ValueError, match=r"'u' is an average over 'time' .* observations of one time each \(assimilate"
    ):
        Network.of(grid_of(ds), obs, sigma=1.0)
    ds["u"].attrs["cell_methods"] = "time: mean"  # so are the grid's own values: they are what is observed
    same = ds[["u"]].isel(time=[1, 2])
    assert len(Network.of(grid_of(ds), same, sigma=1.0)(0).y) == 32


@pytest.mark.parametrize(
    ("correlation", "message"),
    [
        (np.ones((3, 3)), "error covariance of 'u' is singular"),
        (
            np.array([[1, 0.9, -0.9], [0.9, 1, 0.9], [-0.9, 0.9, 1]]),
            "is not positive .* set its negative eigenvalues to zero",
        ),
        (np.eye(4), r"has the shape \(4, 4\); the variable has 3 values"),
        (2 * np.eye(3), "must be symmetric with ones on its diagonal"),
        ({"x": 2.0}, "'u' has no coordinate 'x' for a correlation length"),
    ],
)
def test_bad_correlations(correlation, message):
    ds = series([0.0, 1.0]).expand_dims(y=3).transpose("time", "y").assign_coords(y=np.arange(3.0))
    network = Network.of(grid_of(ds), ds, sigma=1.0, correlation={"u": correlation})
    with pytest.raises((ValueError, KeyError), match=message):
        network(0)


def test_a_derived_quantity_that_is_not_a_number():
    ds = series([0.0, 1.0], [-1.0, 1.0])
    obs = series([0.0]).rename(u="root")
    batch = Network.of(grid_of(ds), obs, sigma=1.0, derived={"root": lambda s: s["u"].sqrt()})(0)
    with pytest.raises(
        ForecastError, match="derived variable 'root' is not finite for member 1; its function must accept"
    ):
        batch.geometry.observe(torch.tensor([[4.0], [-1.0]]))


def test_times_in_other_units():
    """Minutes on a grid of hours."""
    grid = series([0.0, 1.0, 2.0]).assign_coords(time=("time", [0.0, 1.0, 2.0], {"units": "hour"}))
    obs = series([30.0, 60.0, 90.0], [1.0, 2.0, 3.0]).assign_coords(time=("time", [30.0, 60.0, 90.0], {"units": "min"}))
    network = Network.of(grid_of(grid), obs, sigma=1.0)
    np.testing.assert_allclose(network.numbers, [0.5, 1.0, 1.5])
    assert [float(network(k).y) for k in range(3)] == [1.0, 2.0, 3.0]
