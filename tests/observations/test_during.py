"""Observations of the windows of a record are those of the whole record, each where it is new."""

import dask.array as da
import numpy as np
import pytest
import torch
import xarray as xr
from dask import delayed

from xsda.labels.grid import Grid
from xsda.labels.layout import Layout
from xsda.observations.during import divided
from xsda.observations.joint import compile_observations

STATES, WINDOW = 24, 10
OPTIONS = {"sigma": None, "quality": None, "outside": "raise", "superobs": None}


@pytest.fixture
def whole():
    ds = xr.Dataset(
        {"v": (("time", "y"), np.random.default_rng(0).standard_normal((STATES, 2)))},
        {"time": np.datetime64("2026-03-01", "ns") + np.arange(STATES) * np.timedelta64(1, "h"), "y": [0.0, 1.0]},
    )
    return Grid.match(Layout.of(ds), ds)


def hours(whole, values):
    return whole.template.time.values[0] + (np.asarray(values) * 60).astype("timedelta64[m]")


def series(whole, times, **attrs):
    values = np.random.default_rng(len(times)).standard_normal((len(times), 1))
    return xr.Dataset({"v": (("time", "y"), values, attrs)}, {"time": hours(whole, times), "y": [0.0]})


def means(whole, length):
    """Averages over this many hours, one after another, from half a step before the record on."""
    start = np.arange(-0.5, STATES - length, length)
    ds = series(whole, start + length / 2, cell_methods="time: mean")
    ds["bounds"] = ("time", "side"), np.stack([hours(whole, start), hours(whole, start + length)], 1)
    return ds.assign_coords(time=("time", ds.time.values, {"bounds": "bounds"}))


def part(whole, start):
    return whole.part(slice(start, start + WINDOW))


def test_errors_of_all_observations_are_divided_with_them(whole):
    """Arrays over all observations, and errors by source where one source is empty in a window."""
    obs = {"a": series(whole, [1, 3, 8.5, 15, 17]), "b": series(whole, [2, 4])}
    obs["once"] = series(whole, [5]).isel(time=0)
    errors = xr.DataArray(np.arange(1.0, 6).reshape(5, 1), dims=("time", "y"))
    period, options = divided(obs, whole, {**OPTIONS, "sigma": {"a": errors, "b": 0.5, "once": 1.0}})
    assert compile_observations(part(whole, 0), period(part(whole, 0)), **options).y.numel() == 6
    grid = part(whole, 10)
    likelihood = compile_observations(grid, period(grid, 3), likelihood={"b": "student_t"}, **options)
    np.testing.assert_allclose(likelihood.std * grid.layout.std[0], [4.0, 5.0], rtol=1e-6)


def test_quality_is_that_of_the_whole_record(whole):
    obs = series(whole, [1, 2, 12, 13]).assign(v_quality=(("time", "y"), [[0], [1], [1], [1]]))
    with pytest.warns(UserWarning, match="3 of 4 values of 'v' in obs"):
        period, options = divided(obs, whole, {**OPTIONS, "quality": 0})
    assert compile_observations(part(whole, 0), period(part(whole, 0)), **{**options, "sigma": 1.0}).y.numel() == 1
    assert not period(part(whole, 10))["obs"].v.notnull().any()  # and no error


def test_a_period_may_have_no_good_value_and_no_flags(whole):
    """If a function opens the observations, the flags of one period say nothing about the others."""
    flagged = series(whole, [1, 2, 13, 14]).assign(v_quality=(("time", "y"), [[0], [1], [1], [1]]))
    plain = series(whole, [3])

    def opened(first, last):
        found = {"a": flagged.sel(time=slice(first, last)), "b": plain.sel(time=slice(first, last))}
        return {name: ds for name, ds in found.items() if ds.time.size}

    period, options = divided(opened, whole, {**OPTIONS, "quality": 0})
    with pytest.warns(UserWarning, match="'v' in b has no quality flags"):
        first = compile_observations(part(whole, 0), period(part(whole, 0)), **{**options, "sigma": 1.0})
    assert first.y.numel() == 2
    with pytest.warns(UserWarning, match="quality=0 accepts no value of 'v' in a; its flags are 1"):
        assert not period(part(whole, 10))["a"].v.notnull().any()
    with pytest.warns(UserWarning, match="'v' in b has no quality flags"):
        assert list(period(part(whole, 3), 0)) == ["b"]


def test_places_outside_the_grid_are_found_in_the_whole_record(whole):
    """As an assimilation finds them, without reading a value."""
    good, away = series(whole, [1, 20]), series(whole, [15, 16]).assign_coords(y=[7.0])
    divided([good, away], whole, {**OPTIONS, "outside": "drop"})
    with pytest.raises(ValueError, match="outside the grid along 'y': 7; the grid covers 0 to 1"):
        divided([good, away], whole, OPTIONS)
    with pytest.raises(ValueError, match="there are no observations"):
        divided(good.isel(time=[]), whole, OPTIONS)
    with pytest.raises(ValueError, match="no observation lies inside the grid"):
        divided(away, whole, {**OPTIONS, "outside": "drop"})
    ship = xr.Dataset(
        {"v": ("obs", [0.0, 0, 0])}, {"time": ("obs", hours(whole, [1, 9, 20])), "y": ("obs", [0, 1, 1.5])}
    )
    with pytest.raises(ValueError, match=r"along 'y': 1\.5"):
        divided(ship, whole, OPTIONS)
    with pytest.raises(KeyError, match="likelihood names 'w', which is not observed; choose one of 'v'"):
        divided(good, whole, {**OPTIONS, "likelihood": {"w": "huber"}})
    with pytest.raises(KeyError, match="sigma names 'shp', which is not observed; did you mean 'ship'"):
        divided({"buoy": good, "ship": good}, whole, {**OPTIONS, "sigma": {"buoy": 1.0, "shp": 1.0}})
    with pytest.raises(ValueError, match="superobs='1hh' must be 'cell' or a length of time"):
        divided(good, whole, {**OPTIONS, "superobs": "1hh"})
    lazy = good.assign(v=good.v.copy(data=da.from_delayed(delayed(pytest.fail)("a value was read"), (2, 1), float)))
    divided(lazy, whole, OPTIONS)


def test_averages_that_borders_cut_are_used_where_they_end(whole):
    """Each is used in the window that has its last state as a new one, and is the same average as in the record."""
    obs = means(whole, 4)
    period, options = divided(obs, whole, OPTIONS)
    all_of_it, used = compile_observations(whole, obs, sigma=1.0), []
    x = whole.to_tensor(whole.template)[None]
    for start, known in ((0, 0), (4, 4), (10, 4), (14, 4)):
        grid = part(whole, start)
        own = period(grid, known)["obs"]
        index = [obs.time.values.tolist().index(t) for t in own.time.values.tolist()]
        used += index
        got = compile_observations(grid, {"obs": own}, **{**options, "sigma": 1.0})
        torch.testing.assert_close(got.predict(x[:, start : start + WINDOW]), all_of_it.predict(x)[:, index])
    assert sorted(set(used)) == list(range(6))
    with pytest.raises(ValueError, match="longer than the 2 known states of a window; use overlap=3 or more"):
        period(part(whole, 5), 2)


def test_a_forecast_has_no_observations(whole):
    record = whole.part(slice(0, 15))
    with pytest.warns(UserWarning, match="1 of 3 times of obs lie outside the record"):
        period, _ = divided(series(record, [3, 14, 17]), record, {**OPTIONS, "outside": "drop"})
    assert period(part(whole, 10), 4)["obs"].sizes["time"] == 1
    assert period(part(whole, 10), 5) == {}

    def opened(first, last):
        raise AssertionError("the forecast opens observations")

    assert divided(opened, record, OPTIONS)[0](part(whole, 12), 3) == {}
