"""The station picture: members interpolated to a place, beside the values and errors observed there."""

import warnings

import numpy as np
import pytest
import xarray as xr

from xsda import plot


@pytest.fixture
def linear(weather):
    """An ensemble that is linear in space and time, whose value is known anywhere; stations between grid points."""
    _, post, _ = weather
    hours = (post.time - post.time[0]) / np.timedelta64(1, "h")
    t = (280 + post.lat / 10 + post.lon / 100 + hours + xr.DataArray(np.arange(6.0), dims="member")).transpose(
        "member", ...
    )
    post = t.assign_attrs(units="K", long_name="air temperature").to_dataset(name="t")
    values = np.arange(10.0).reshape(5, 2) + 280
    values[3, 1] = np.nan
    places = {"lat": ("station", [56.3, 61.7]), "lon": ("station", [-7.5, 1.25]), "station": ["Oban", "Bergen"]}
    obs = xr.Dataset(
        {"t": (("time", "station"), values, {"units": "K", "error_std": 0.5})}, {"time": post.time, **places}
    )
    return post, obs


def lines(panel):
    return {line.get_label(): line for line in panel.lines}


def expected(post, lat, lon):
    return 280 + lat / 10 + lon / 100 + 6 * np.arange(5) + np.arange(6)[:, None]


def test_members_at_a_station(linear):
    post, obs = linear
    truth = post.isel(member=2, drop=True)
    figure = post.sda.plot_stations(obs, station="Bergen", truth=truth, members=6, title="withheld")
    (panel,) = figure.axes
    there = expected(post, 61.7, 1.25)
    np.testing.assert_allclose(lines(panel)["median"].get_ydata(), np.median(there, axis=0))
    np.testing.assert_allclose(lines(panel)["truth"].get_ydata(), there[2])
    thin = [line for line in panel.lines if line.get_linewidth() == 0.5]
    np.testing.assert_allclose([line.get_ydata() for line in thin], there)
    points, _, (bars,) = panel.containers[0]
    seen = obs.t.sel(station="Bergen").dropna("time")
    np.testing.assert_array_equal(points.get_xdata(), seen.time)
    np.testing.assert_array_equal(points.get_ydata(), seen)
    np.testing.assert_allclose([np.ptp(segment[:, 1]) for segment in bars.get_segments()], 1)
    assert panel.get_title(loc="left") == "Bergen, 61.7 °N, 1.25 °E"
    assert (figure.get_suptitle(), figure.get_supylabel()) == ("withheld", "air temperature [K]")


def test_stations_by_name_and_order(linear):
    post, obs = linear
    titles = [panel.get_title(loc="left") for panel in plot.stations(post, obs, station=["Bergen", "Oban"]).axes]
    assert titles == ["Bergen, 61.7 °N, 1.25 °E", "Oban, 56.3 °N, 7.5 °W"]
    assert len(plot.stations(post, obs).axes) == 2
    with pytest.raises(KeyError, match="no station 'Bergenn' with values of 't'; did you mean 'Bergen'"):
        plot.stations(post, obs, station="Bergenn")


def drawn(figure):
    """Observations and median of each panel."""
    return [
        (np.asarray(p.containers[0][0].get_xydata()).tolist(), lines(p)["median"].get_ydata().tolist())
        for p in figure.axes
    ]


def test_the_form_of_the_table_does_not_matter(linear):
    """Wide or long, split by time, rows in any order, in other units and another convention of longitudes."""
    post, obs = linear
    wide = drawn(plot.stations(post, obs))
    long = obs.stack(row=("time", "station")).reset_index("row").dropna("row")
    shuffled = long.isel(row=np.random.default_rng(0).permutation(long.sizes["row"]))
    celsius = obs.assign(t=(obs.t - 273.15).assign_attrs(units="degC", error_std=0.5), lon=obs.lon % 360)
    pieces = [obs.isel(time=slice(2, None)), obs.isel(time=slice(0, 2))]
    names = ["Oban", "Bergen"]
    for other in (long, shuffled, celsius, pieces):
        for (a, x), (b, y) in zip(wide, drawn(plot.stations(post, other, station=names)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12)
            np.testing.assert_allclose(x, y, rtol=1e-12)


def test_places_without_names_are_counted(linear):
    post, obs = linear
    unnamed = obs.drop_vars("station")
    assert [p.get_title(loc="left")[:2] for p in plot.stations(post, unnamed).axes] == ["0,", "1,"]
    at_once = plot.stations(post, unnamed, station=1).axes[0].get_title(loc="left")
    assert at_once == "1, 61.7 °N, 1.25 °E"


def test_errors_come_from_sigma(linear):
    post, obs = linear
    del obs["t"].attrs["error_std"]
    assert plot.stations(post, obs, station="Oban").axes[0].containers[0][2] == ()
    _, _, (bars,) = plot.stations(post, obs, station="Oban", sigma=2.0).axes[0].containers[0]
    np.testing.assert_allclose([np.ptp(segment[:, 1]) for segment in bars.get_segments()], 4)


def test_stations_that_cannot_be_drawn(linear, lorenz):
    post, obs = linear
    ship = obs.assign_coords(lat=(("time", "station"), np.linspace(56, 60, 10).reshape(5, 2)))
    with pytest.raises(ValueError, match="station 'Oban' moves: its lat runs from 56 to"):
        plot.stations(post, ship)
    with pytest.raises(ValueError, match="stations need states over time and space"):
        plot.stations(lorenz[0], lorenz[1])
    with pytest.raises(KeyError, match="no variable 't' in the observations; they hold 't2m'"):
        plot.stations(post, obs.rename(t="t2m"))
    with pytest.raises(ValueError, match="truth= must hold 't' on the grid"):
        plot.stations(post, obs, truth=obs)
    with pytest.raises(
        ValueError, match=r"station 'Oban' lies outside the states, at lat 76.3, lon -7.5; choose others"
    ):
        plot.stations(post, obs.assign_coords(lat=obs.lat + 20))


def test_stations_in_the_mask(linear):
    """One is drawn without states and its title says so; with all of them there is nothing to draw."""
    post, obs = linear
    post = post.where(post.lon < -2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        oban, bergen = plot.stations(post, obs).axes
    assert "median" in lines(oban)
    assert "median" not in lines(bergen)
    assert bergen.get_title(loc="left") == "Bergen, 61.7 °N, 1.25 °E, masked"
    assert len(bergen.containers) == 1
    with pytest.raises(
        ValueError, match=r"no values \(their mask, such as land\) at the station 'Bergen'; choose others"
    ):
        plot.stations(post, obs, station="Bergen")


def test_stations_on_two_dimensional_coordinates():
    """Latitude is the value, and a cell of four points is interpolated as ``observe`` does it."""
    y, x = np.mgrid[50:60:6j, -4:4:5j]
    lat, lon = y + 0.3 * x, x - 0.2 * (y - 55)
    values = lat + np.arange(3.0)[:, None, None, None] + np.zeros((3, 4, 1, 1))
    places = {"nav_lat": (("j", "i"), lat), "nav_lon": (("j", "i"), lon)}
    post = xr.Dataset({"t": (("member", "time", "j", "i"), values)}, {"time": np.arange(4.0), **places})
    obs = xr.Dataset(
        {"t": (("time", "station"), [[54.0, 57.0], [54.5, np.nan]], {"error_std": 0.5})},
        {"time": [0.0, 2.0], "latitude": ("station", [54.2, 56.9]), "longitude": ("station", [361.0, 0.5])},
    )
    for number, panel in enumerate(post.sda.plot_stations(obs).axes):
        np.testing.assert_allclose(lines(panel)["median"].get_ydata(), obs.latitude[number] + 1, atol=0.01)
        seen = panel.containers[0][0].get_xydata()
        np.testing.assert_array_equal(seen, [[0, 54], [2, 54.5]] if number == 0 else [[0, 57]])
    assert panel.get_title(loc="left") == "1, 56.9 °N, 0.5 °E"
