"""Super-observations against closed forms: means, errors, positions, and the posterior of a Gaussian prior."""

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

import xsda
from xsda.labels import Grid, Layout
from xsda.observations import compile_observations, read, units_of

START = np.datetime64("2026-03-01", "ns")


@pytest.fixture(scope="module")
def grid():
    coords = {
        "time": START + np.arange(6) * np.timedelta64(1, "h"),
        "lat": np.linspace(60.0, 50.0, 6),
        "lon": np.linspace(-180.0, 150.0, 12),
    }
    ds = xr.Dataset({"t2m": (tuple(coords), np.zeros((6, 6, 12)), {"units": "K"})}, coords)
    return Grid.match(Layout.of(ds, even=False), ds)


def minutes(*values):
    return START + np.array(values) * np.timedelta64(1, "m")


def average(grid, df, how, **options):
    with pytest.warns(UserWarning, match="are averaged to"):
        return read(df, units_of(grid), superobs=how, grid=grid, **options)


def test_reports_of_one_hour(grid):
    """Windows are half an hour to both sides of each hour of the grid; other places are other reports."""
    df = pd.DataFrame({
        "time": minutes(40, 60, 80, 95, 60), "lat": 55.0, "lon": [1.0, 1.0, 1.0, 1.0, 2.0],
        "t2m": [280.0, 281.0, 285.0, 290.0, 300.0], "error": [1.0, 2.0, 2.0, 0.5, 0.7],
    })  # fmt: skip
    (o,) = average(grid, df, "1h")
    found = o.ds.sortby(["time", "lon"])
    np.testing.assert_allclose(sorted(o.values), [282, 290, 300])
    np.testing.assert_allclose(found.t2m, [282, 300, 290])
    np.testing.assert_array_equal(found.time, minutes(60, 60, 95))
    np.testing.assert_allclose(sorted(o.errors), [0.5, 0.7, 1.0])  # sqrt(1 + 4 + 4) / 3


def test_reports_of_one_cell(grid):
    df = pd.DataFrame({
        "time": minutes(0, 20, 40), "lat": [54.2, 54.8, 54.2], "lon": [31.0, 35.0, 31.0], "t2m": [1.0, 4.0, 9.0],
    })  # fmt: skip
    (o,) = average(grid, df, "cell", sigma=2.0)
    np.testing.assert_allclose(o.values, [2.5, 9])
    np.testing.assert_allclose(o.errors, [2 / np.sqrt(2), 2])
    np.testing.assert_allclose([o.ds.lat, o.ds.lon], [[54.5, 54.2], [33.0, 31.0]])
    np.testing.assert_array_equal(o.ds.time, minutes(10, 40))


def test_a_cell_across_the_date_line(grid):
    df = pd.DataFrame({"time": minutes(0, 0, 0), "lat": 56.0, "lon": [178.0, -178.0, 183.0], "t2m": [1.0, 2.0, 3.0]})
    (o,) = average(grid, df, "cell", sigma=1.0)
    np.testing.assert_allclose(o.ds.lon.values % 360, [181.0])
    np.testing.assert_allclose([o.values[0], o.errors[0]], [2, 1 / np.sqrt(3)])


def test_errors_of_independent_reports():
    """The error of the average is the standard deviation of averages of random errors."""
    ds = xr.Dataset({"u": ("time", np.zeros(3))}, {"time": np.arange(3.0)})
    grid, sigma = Grid.match(Layout.of(ds), ds), np.array([0.5, 1.0, 3.0, 2.0])
    noise = np.random.default_rng(0).standard_normal((4000, 4)) * sigma
    df = pd.DataFrame({"time": [0.9, 1.0, 1.1, 1.2], "u": noise[0], "error": sigma})
    (o,) = average(grid, df, 1.0)
    assert o.errors[0] == pytest.approx(np.sqrt((sigma**2).sum()) / 4)
    assert o.errors[0] == pytest.approx(noise.mean(1).std(), rel=0.03)


def test_variables_and_sources_are_averaged_apart(grid):
    one = pd.DataFrame({"time": minutes(0, 0), "lat": 55.0, "lon": 0.0, "t2m": [1.0, 3.0]})
    found = average(grid, {"a": one, "b": one.assign(t2m=[10.0, 30.0])}, "cell", sigma=1.0)
    assert [(o.source, o.values.tolist()) for o in found] == [("a", [2.0]), ("b", [20.0])]


def test_without_duplicates_nothing_changes(grid, recwarn):
    df = pd.DataFrame({"time": minutes(0, 0, 65), "lat": [50.0, 55.0, 55.0], "lon": 0.0, "t2m": [1.0, 3.0, 4.0]})
    for how in ("1h", "cell"):
        (a,), (b,) = (read(df, units_of(grid), sigma=1.0, grid=grid, superobs=s) for s in (how, None))
        xr.testing.assert_identical(a.ds, b.ds)
    assert not len(recwarn)


def test_units_and_errors_are_those_of_the_grid(grid):
    df = pd.DataFrame({"time": minutes(0, 10), "lat": 55.0, "lon": 0.0, "t2m": [26.85, 28.85], "error": [1.8, 2.4]})
    df.attrs["units"] = "degC"
    (o,) = average(grid, df, "1h")
    np.testing.assert_allclose([o.values[0], o.errors[0]], [301.0, 1.5])


@pytest.mark.parametrize("how", [1.0, "cell"])
def test_repeated_reports_say_what_their_average_says(rotation, how):
    """Reports of one place and time with equal errors: H' R^-1 H and H' R^-1 y, and so the posterior, are the same."""
    template, _, prior = rotation
    values, errors = np.random.default_rng(0).standard_normal(12), np.repeat([0.5, 1.0, 2.0], 4)
    df = pd.DataFrame({"time": np.repeat([2.0, 9.0, 20.0], 4), "u": values, "error": errors})
    grid = prior.bind(template)
    with pytest.warns(RuntimeWarning, match="at the place and time of another"):
        each = compile_observations(grid, df)
    with pytest.warns(UserWarning, match="12 values of 'u' in obs are averaged to 3"):
        mean = compile_observations(grid, df, superobs=how)
    basis = torch.eye(64).reshape(64, 32, 2)
    (h, y), (h_mean, y_mean) = (((o.predict(basis) / o.std).double(), (o.y / o.std).double()) for o in (each, mean))
    torch.testing.assert_close(h @ h.T, h_mean @ h_mean.T, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(h @ y, h_mean @ y_mean, rtol=1e-6, atol=1e-6)


def test_after_flags_and_after_the_grid(grid):
    """Rejected values and values outside are no part of an average."""
    df = pd.DataFrame({
        "time": minutes(0, 0, 0, 330), "lat": 55.0, "lon": 0.0, "t2m": [1.0, 3.0, 99.0, 7.0],
        "quality": ["good", "good", "bad", "good"],
    })  # fmt: skip
    with pytest.warns(UserWarning, match="averaged") as said:
        (o,) = read(df, units_of(grid), sigma=1.0, quality="good", outside="drop", superobs="cell", grid=grid)
    assert o.values.tolist() == [2.0]
    assert len(said) == 1
    assert all(
        text in str(said[0].message)
        for text in ("1 of 4 values", "1 of 3 values", "2 values of 't2m' in obs are averaged to 1")
    )


REFUSED = [
    ({"superobs": "often"}, "superobs='often' must be 'cell' or a length of time such as '1h'"),
    ({"superobs": 3}, "superobs=3 must be 'cell' or a length of time"),
    ({"superobs": "-1h"}, "must be a positive length of time"),
    ({"superobs": "1h", "likelihood": "huber"}, "averages independent Gaussian errors"),
    ({"superobs": "1h", "correlation": {"t2m": {"time": "6h"}}}, "averages independent Gaussian errors"),
]


@pytest.mark.parametrize(("options", "said"), REFUSED)
def test_what_cannot_be_averaged(grid, options, said):
    df = pd.DataFrame({"time": minutes(0, 10), "lat": 55.0, "lon": 0.0, "t2m": [1.0, 3.0]})
    with pytest.raises(ValueError, match=said):
        compile_observations(grid, df, 1.0, **options)


def test_averages_over_an_axis_are_no_reports(grid):
    obs = xr.Dataset({"t2m": ("time", [1.0, 2.0], {"cell_methods": "lat: lon: mean"})}, {"time": minutes(0, 10)})
    with pytest.raises(ValueError, match="superobs needs point values, but 't2m' is an average along 'lat'"):
        compile_observations(grid, obs, 1.0, superobs="1h")


def test_levels_are_averaged_apart():
    coords = {"time": np.arange(3.0), "level": [500, 850], "lat": [50.0, 52.0], "lon": [0.0, 2.0]}
    ds = xr.Dataset({"t": (tuple(coords), np.zeros((3, 2, 2, 2)))}, coords)
    df = pd.DataFrame({"time": 0.0, "level": [500, 500, 850], "lat": 51.0, "lon": 1.0, "t": [1.0, 3.0, 7.0]})
    grid = Grid.match(Layout.of(ds), ds)
    (o,) = average(grid, df, "cell", sigma=1.0)
    assert sorted(zip(o.ds.level.values.tolist(), o.values.tolist(), strict=True)) == [(500, 2.0), (850, 7.0)]
    assert xsda.observations.join(grid, [o]).y.tolist() == [2.0, 7.0]
