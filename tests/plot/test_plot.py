"""Pictures show what they are given."""

import datetime

import fresh
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

import xsda
from xsda import plot
from xsda.plot.style import unit_symbol


def marked(panel):
    """Positions (x, y) of the observations on a map."""
    found = [c for c in panel.collections if c.get_label() == "observations"]
    return np.concatenate([np.asarray(c.get_offsets()) for c in found]) if found else np.empty((0, 2))


def limits(panel):
    """Limits and name of the colours of a map."""
    mesh = panel.collections[0]
    return (*mesh.get_clim(), mesh.get_cmap().name)


def test_series(rotation):
    grid, _, prior = rotation
    obs = grid.isel(time=slice(None, None, 4))[["u"]] + 1
    obs["u"].attrs["error_std"] = 0.1
    obs["u"][2] = np.nan
    post = grid.sda.assimilate(obs, prior, members=8, progress=False)
    figure = post.sda.plot(truth=grid, obs=obs, members=3, title="a title")
    panels = figure.axes
    assert len(panels) == 2
    assert panels[0].get_ylabel() == "u [m s⁻¹]"
    assert figure.get_suptitle() == "a title"
    assert len([line for line in panels[1].lines if line.get_linewidth() == 0.5]) == 3
    truth = next(line for line in panels[0].lines if line.get_label() == "truth")
    np.testing.assert_array_equal(truth.get_ydata(), grid.u)
    marks = next(c for c in panels[0].containers if c.get_label() == "observations")
    np.testing.assert_array_equal(marks[0].get_xdata(), obs.time[obs.u.notnull()])
    (bars,) = marks[2]
    np.testing.assert_allclose([np.ptp(s[:, 1]) for s in bars.get_segments()], 0.2)
    assert not panels[1].containers
    for variable in ("v", ["v"]):
        (panel,) = post.sda.plot(variable=variable).axes
        assert panel.get_ylabel() == "v [m s⁻¹]"
    with pytest.raises(KeyError, match="did you mean 'u'"):
        post.sda.plot(variable=["uu"])


def test_observations_without_error_have_no_bars(rotation):
    grid, _, _ = rotation
    (panel,) = plot.series(grid, obs=grid[["u"]] + 1, variable="u").axes
    assert panel.containers[0][2] == ()


def test_a_trajectory_is_one_line(lorenz):
    truth, obs = lorenz
    figure = truth.sda.plot(obs=obs)
    for panel, name in zip(figure.axes, "xyz", strict=True):
        assert [line.get_label() for line in panel.lines if line.get_label() == "trajectory"] == ["trajectory"]
        np.testing.assert_array_equal(panel.lines[0].get_ydata(), truth[name])
    one = truth.expand_dims(member=[7])
    np.testing.assert_array_equal(one.sda.plot(variable="y").axes[0].lines[0].get_ydata(), truth["y"])
    with pytest.raises(ValueError, match=r"truth= has the dimension 'member'; pass one trajectory, .*isel"):
        truth.sda.plot(truth=one)
    with pytest.raises(TypeError, match="truth= must be a Dataset, got DataArray"):
        truth.sda.plot(truth=truth.x)
    with pytest.raises(ValueError, match="these states are drawn over all times"):
        truth.sda.plot(time=3)
    with pytest.raises(ValueError, match="cmap= is for fields"):
        truth.sda.plot(cmap="viridis")


def test_maps(weather):
    truth, post, _ = weather
    figure = post.sda.plot(truth=truth, time=3)
    panels = figure.axes[:5]
    assert [p.get_title() for p in panels] == ["truth", "ensemble mean", "member 0", "spread", "mean minus truth"]
    state, exact = post["t"].isel(time=3), truth["t"].isel(time=3)
    mean = state.mean("member")
    for panel, field in zip(panels, [exact, mean, state[0], state.std("member", ddof=1), mean - exact], strict=True):
        np.testing.assert_allclose(panel.collections[0].get_array(), field)
    assert sorted(bar.get_xlabel() for bar in figure.axes[5:]) == ["air temperature [K]", "error [K]", "spread [K]"]
    more = post.sda.plot(members=2, variable=["t", "u"])
    assert [p.get_title() for p in more.axes[:4]] == ["ensemble mean", "member 0", "member 1", "spread"]
    assert sorted(a.get_xlabel() for a in more.axes[8:]) == [
        "air temperature [K]", "spread [K]", "spread [m s⁻¹]", "u [m s⁻¹]",
    ]  # fmt: skip
    reversed_truth = truth.isel(lat=slice(None, None, -1))
    drawn = post.sda.plot(truth=reversed_truth, time=3).axes[0].collections[0].get_array()
    np.testing.assert_allclose(drawn, truth["t"].isel(time=3))


def test_other_units_are_converted(weather):
    truth, post, stations = weather
    celsius = truth.assign(t=(truth.t - 273.15).assign_attrs(units="degC"))
    figure = post.sda.plot(truth=celsius, time=2)
    np.testing.assert_allclose(figure.axes[0].collections[0].get_array(), truth["t"].isel(time=2))
    milli = (1000 * stations.t).assign_attrs(units="mK", error_std=500)
    obs = stations.assign(t=milli, lat=("station", [57.0] * 4), lon=("station", [2.0] * 4)).set_coords(["lat", "lon"])
    marks = plot.series(post.sel(lat=57, lon=2), obs=obs, variable="t").axes[0].containers[0]
    np.testing.assert_allclose(sorted(marks[0].get_ydata()), [279, 280, 281, 282])
    np.testing.assert_allclose([np.ptp(s[:, 1]) for s in marks[2][0].get_segments()], 1)
    other = truth.assign(t=truth.t.assign_attrs(units="Pa"))
    for states in (post, post.isel(lat=0, lon=0)):
        with pytest.raises(ValueError, match="'t' is in 'Pa', the ensemble in 'K'"):
            states.sda.plot(truth=other)


def test_colours(weather):
    truth, _, _ = weather
    t, u = plot.fields(truth, variable=["t", "u"], time=0).axes[:2]
    assert limits(t)[2] == "viridis"
    low, high, name = limits(u)
    assert name == "RdBu_r"
    assert low == -high < 0
    assert limits(plot.fields(truth, variable="u", cmap="PuOr").axes[0])[2] == "PuOr"
    celsius = truth[["t"]] - 280
    assert limits(plot.fields(celsius.assign(t=celsius.t.assign_attrs(units="degC"))).axes[0])[2] == "viridis"
    anomaly = celsius.t.assign_attrs(units="degC", long_name="temperature anomaly")
    assert limits(plot.fields(celsius.assign(t=anomaly)).axes[0])[2] == "RdBu_r"


def test_maps_mark_what_was_observed_then(weather):
    truth, post, stations = weather

    def mean_of(obs, **options):
        return marked(plot.fields(post, obs=obs, **options).axes[0])

    np.testing.assert_array_equal(mean_of(stations), [[2, 60]])  # one of four stations has a value
    np.testing.assert_array_equal(mean_of(stations, time=2), [[-8, 56], [-2, 58], [2, 60]])
    assert not len(mean_of(stations, time=0))
    panel = plot.fields(post, obs=stations, time=2).axes[0]
    colours = next(c for c in panel.collections if c.get_label() == "observations").get_array()
    np.testing.assert_array_equal(colours, [279, 280, 282])
    every = stations.assign(t=stations.t.fillna(280))
    np.testing.assert_array_equal(mean_of(every)[:, 0], [-8, -2, 2, -8])  # 352 degrees east is 8 degrees west
    later = stations.assign_coords(time=stations.time + np.timedelta64(2, "h"))
    assert len(mean_of(later, time=2)) == 3  # the nearest state
    assert not len(mean_of(later, time=4))  # after the last state
    grid = post.t.isel(member=0, drop=True, time=[1, 2], lat=[0, 3]).to_dataset().where(post.lon > 0)
    assert len(mean_of([grid, stations], time=2)) == 2 * int((post.lon > 0).sum()) + 3
    one_time = stations.isel(time=2)
    assert len(mean_of(one_time, time=2)) == 3
    assert not len(mean_of(one_time, time=3))
    state = post.isel(time=2)
    assert len(marked(plot.fields(state, obs=stations).axes[0])) == 3
    drawn = plot.fields(state, truth=truth).axes[0].collections[0].get_array()
    np.testing.assert_array_equal(drawn, truth["t"].isel(time=2))
    with pytest.raises(ValueError, match="'t' is in 'Pa', the ensemble in 'K'"):
        mean_of(stations.assign(t=stations.t.assign_attrs(units="Pa")))


def test_series_mark_what_was_observed_there(weather):
    truth, post, stations = weather
    here = post.sel(lat=59, lon=2)
    at_point = stations.assign_coords(lat=("station", [56.0, 58, 59, 62]))
    marks = plot.series(here, obs=at_point, variable="t").axes[0].containers[0]
    np.testing.assert_array_equal(marks[0].get_ydata(), [282, 281])
    lines = {line.get_label(): line for line in plot.series(here, truth=truth, variable="t").axes[0].lines}
    np.testing.assert_array_equal(lines["truth"].get_ydata(), truth.t.sel(lat=59, lon=2))
    with pytest.raises(ValueError, match=r"the truth has no value at lat = 59\.0, where the states to plot lie"):
        plot.series(here, truth=truth.assign_coords(lat=truth.lat + 0.1))
    with pytest.raises(ValueError, match="select the same place in both"):
        plot.series(here.drop_vars("lat"), truth=truth, variable="t")
    with pytest.raises(ValueError, match=r"'t' has the dimensions .*; a line needs one besides 'member'"):
        plot.series(post)


def test_a_time_selects_the_nearest_state(weather):
    _, post, _ = weather
    for time in (
        "2026-03-01T06:00",
        "2026-03-01 08:59",
        datetime.datetime(2026, 3, 1, 7),
        np.datetime64("2026-03-01T05:00"),
        post.time[1],
        -4,
    ):
        figure = post.sda.plot(time=time, title="Analysis")
        assert figure.get_suptitle() == "Analysis, 2026-03-01 06:00"
        np.testing.assert_allclose(figure.axes[0].collections[0].get_array(), post["t"][:, 1].mean("member"))
    for time in ("2026-02-28", "2027"):
        with pytest.raises(
            ValueError, match="outside of the axis 'time', which runs from 2026-03-01T00:00 to 2026-03-02T00:00"
        ):
            post.sda.plot(time=time)
    with pytest.raises(ValueError, match="time=5 is not among the 5 states"):
        post.sda.plot(time=5)
    for time in (1.5, "noon"):
        with pytest.raises(ValueError, match="cannot be compared with 'time', which runs from 2026-03-01T00:00"):
            post.sda.plot(time=time)


@pytest.mark.parametrize(
    ("axis", "time", "label"),
    [
        (("time", np.arange(5) * 0.5, {"units": "h"}), 0.6, "time = 0.5 h"),
        (("time", np.arange(5) * np.timedelta64(6, "h")), "7h", "time = 6 h"),
        (xr.date_range("2000-02-30", periods=5, calendar="360_day", use_cftime=True), "2000-03-01", "2000-03-01 00:00"),
    ],
)  # fmt: skip
def test_axes_of_numbers_lags_and_other_calendars(weather, axis, time, label):
    _, post, _ = weather
    post = post.assign_coords(time=axis)
    figure = post.sda.plot(time=time)
    assert figure.get_suptitle() == label
    np.testing.assert_allclose(figure.axes[0].collections[0].get_array(), post["t"][:, 1].mean("member"))
    figure.canvas.draw()
    post.isel(lat=0, lon=0).sda.plot().canvas.draw()


def test_one_space_dimension(weather):
    truth, post, stations = weather
    truth, post = (ds.sel(lat=57) for ds in (truth, post))
    obs = stations.assign_coords(lat=("station", [57.0, 57, 57, 62]))
    figure = post.sda.plot(truth=truth, obs=obs, variable=["t", "u"])
    assert [p.get_title() for p in figure.axes[:4]] == ["truth", "ensemble mean", "member 0", "spread"]
    np.testing.assert_allclose(figure.axes[1].collections[0].get_array(), post["t"].mean("member"))
    np.testing.assert_allclose(figure.axes[4].collections[0].get_array(), post["t"].mean("member") - truth["t"])
    assert figure.axes[0].get_aspect() == "auto"
    assert sorted(marked(figure.axes[1])[:, 0]) == [-8, -2, 2, 2]
    figure = post.sda.plot(truth=truth, obs=obs, time="2026-03-01T12:00", variable="t")
    (panel,) = figure.axes
    assert figure.get_suptitle() == "2026-03-01 12:00"
    assert panel.get_xlabel() == "longitude [°E]"
    lines = {line.get_label(): line for line in panel.lines}
    np.testing.assert_allclose(lines["median"].get_ydata(), post["t"].isel(time=2).median("member"))
    np.testing.assert_array_equal(lines["truth"].get_ydata(), truth["t"].isel(time=2))
    np.testing.assert_array_equal(panel.containers[0][0].get_xdata(), [-8, -2, 2])
    with pytest.raises(ValueError, match="a diagram of 'time' and 'lon' shows all"):
        plot.fields(post, time=2)


def test_a_field_alone(weather):
    truth, _, stations = weather
    figure = truth.sda.plot(obs=stations)
    panel, bar = figure.axes
    assert (panel.get_title(), bar.get_xlabel()) == ("trajectory", "air temperature [K]")
    assert len(marked(panel)) == 1
    with pytest.raises(ValueError, match=r"'t' has the dimensions .*Select one entry of the others"):
        plot.fields(truth.expand_dims(level=2).transpose(..., "level"))
    with pytest.raises(ValueError, match="no value at any 'lat' of the states to plot"):
        plot.fields(truth, truth=truth.assign_coords(lat=truth.lat + 0.1))
    with pytest.raises(ValueError, match="'t' is NaN everywhere at 2026-03-02 00:00"):
        plot.fields(truth * np.nan)


def test_a_truth_without_the_variable_is_refused(weather, lorenz):
    truth, post, stations = weather
    with pytest.raises(KeyError, match="no variable 't' in the truth; it holds 'temperature', 'u'"):
        post.sda.plot(truth=truth.rename(t="temperature"))
    with pytest.raises(KeyError, match="no variable 't' in the truth; it holds 'u'"):
        post.sda.plot(truth=truth[["u"]], variable="t")
    assert len(post.sda.plot(truth=truth[["u"]], variable=["t", "u"]).axes) == 2 * 5 + 2 * 2 + 1  # one has no error
    with pytest.raises(KeyError, match="no variable 'x' in the truth; it holds 'X'"):
        lorenz[0].sda.plot(truth=lorenz[0][["x"]].rename(x="X"))
    for states in (post, post.isel(lat=2)):
        with pytest.raises(
            ValueError, match=r"truth= must hold 't' on the grid of the states; it has .*'station'.*as obs="
        ):
            states.sda.plot(truth=stations)


def test_observations_of_nothing_that_is_drawn_are_refused(weather, lorenz):
    _, post, stations = weather
    with pytest.raises(KeyError, match="no variable 't' in the observations; they hold 't2m'"):
        post.sda.plot(obs=stations.rename(t="t2m"))
    with pytest.raises(KeyError, match="no variable 'x' in the observations; they hold 'a', 'b'"):
        lorenz[0].sda.plot(obs=[lorenz[1].rename(x="a"), lorenz[1].rename(x="b")])
    assert not len(marked(post.sda.plot(variable="u", obs=stations).axes[0]))  # the states hold t, which is not drawn


def test_units_are_printed_as_symbols():
    printed = {
        "m s-1": "m s⁻¹", "m s**-1": "m s⁻¹", "kg m^-2 s^-1": "kg m⁻² s⁻¹", "m2/s2": "m²/s²", "W m-2": "W m⁻²",
        "degC": "°C", "K": "K", "hPa": "hPa", "1e-3": "1e-3", "log10(Pa)": "log10(Pa)", "hours since 1900-01-01": "hours since 1900-01-01",
    }  # fmt: skip
    assert {units: unit_symbol(units) for units in printed} == printed


def test_dates_and_numbers_are_not_compared(weather):
    truth, post, stations = weather
    counted = {"time": np.arange(5.0)}
    with pytest.raises(
        ValueError, match="'time' of the ensemble holds dates, that of the truth holds numbers; convert"
    ):
        plot.ensemble(post, truth=truth.assign_coords(counted))
    with pytest.raises(ValueError, match="'time' holds plain numbers, the ensemble's 'time' holds dates; convert one"):
        plot.ensemble(post, obs=stations.assign_coords(counted))


def test_colours_of_spread_and_error(weather):
    """Errors are centred on zero, spreads start there, states share their limits."""
    truth, post, _ = weather
    figure = post.sda.plot(truth=truth, variable=["t", "u"])
    for name, row in zip("tu", np.reshape(figure.axes[:10], (2, 5)), strict=True):
        assert limits(row[0]) == limits(row[1]) == limits(row[2])
        low, high, colours = limits(row[4])
        assert (-low, colours) == (high, "RdBu_r")
        error = abs(post[name].mean("member") - truth[name]).isel(time=-1)
        assert high == pytest.approx(float(error.quantile(0.995)))
        assert limits(row[3])[0] == 0
        assert limits(row[3])[2] == "magma"


def test_planes_keep_their_shape(weather):
    truth, _, _ = weather
    plane = truth.rename(lat="y", lon="x")
    assert plot.fields(plane.drop_vars(["y", "x"])).axes[0].get_aspect() == 1
    metres = {d: (d, plane[d].values, {"units": "m"}) for d in ("y", "x")}
    assert plot.fields(plane.assign_coords(metres)).axes[0].get_aspect() == 1
    deep = {**metres, "y": ("y", plane.y.values, {"units": "hPa"})}
    assert plot.fields(plane.assign_coords(deep)).axes[0].get_aspect() == "auto"


def test_colour_bars_of_flat_domains_lie_below(weather):
    """Maps have them below unless they are tall, planes beside unless they are flat."""
    _, post, _ = weather
    metres = {d: (d, post[c].values, {"units": "m"}) for d, c in (("y", "lat"), ("x", "lon"))}
    plane = post.rename(lat="y", lon="x").assign_coords(metres)
    flat = plane.assign_coords(x=("x", 3 * plane.x.values, {"units": "m"}))
    for states, below in ((post, True), (post.isel(lon=slice(0, 3)), False), (plane, False), (flat, True)):
        figure = states.sda.plot()
        figure.canvas.draw()
        panel, bar = figure.axes[0].get_position(), figure.axes[-1].get_position()
        assert (bar.y1 < panel.y0) == below
        assert (bar.width > bar.height) == below


def test_axes_of_the_caller(weather, lorenz):
    truth, post, _ = weather
    figure, (left, right) = plt.subplots(1, 2)
    assert plot.fields(truth, ax=left, title="mine") is figure
    assert left.get_title() == "mine, 2026-03-02 00:00\ntrajectory"
    plot.series(lorenz[0], variable="x", ax=right)
    np.testing.assert_array_equal(right.lines[0].get_ydata(), lorenz[0].x)
    with pytest.raises(ValueError, match="1 x 3 panels and ax= holds 1 objects; pass 3 matplotlib Axes"):
        plot.fields(post, ax=left)
    members = lorenz[0].expand_dims(member=3)
    _, axes = plt.subplots(1, 2)
    for draw in (plot.rank_histogram, plot.spread_skill, plot.error_over_time):
        draw(members, lorenz[0], variable=["x", "y"], ax=axes)
        assert all(panel.has_data() for panel in axes)


def test_submodules_are_lazy():
    code = (
        "import sys, xsda; assert 'matplotlib' not in sys.modules; assert 'rank_histogram' in dir(xsda.plot); "
        "assert 'matplotlib' not in sys.modules; pipe.send({callable(getattr(xsda.plot, n)) for n in xsda.plot.__all__})"
    )
    assert fresh.answer(code) == {True}
    with pytest.raises(AttributeError, match="no attribute 'histogram'"):
        xsda.plot.histogram  # noqa: B018


def test_without_matplotlib_the_error_names_the_extra():
    code = (
        "import sys; sys.modules['matplotlib'] = None\nimport xsda\n"
        "try: xsda.systems.Lorenz63().simulate(2).sda.plot()\nexcept ImportError as e: pipe.send(str(e))"
    )
    assert fresh.answer(code) == "plots need matplotlib; install it with: pip install 'xsda[plot]'"
