"""The table of ``explain`` says what the operator does, and counts every value once."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import xsda
from xsda.labels.climatology import Normals
from xsda.observations import check, explain

TIME = np.datetime64("2026-03-01", "ns") + np.arange(4) * np.timedelta64(6, "h")
LAT, LON = np.linspace(50, 60, 6), np.linspace(-10, 0, 6)


@pytest.fixture(scope="module")
def case():
    """A grid over time, latitude and longitude, and a Gaussian prior on it."""
    field = ("time", "lat", "lon"), np.full((4, 6, 6), 280.0), {"units": "K"}
    grid = xr.Dataset({"t2m": field}, {"time": TIME, "lat": LAT, "lon": LON})
    return grid, xsda.GaussianPrior.separable(grid, np.eye(4), np.eye(6), np.eye(6))


def stations(lat, lon, **attrs):
    values = np.random.default_rng(0).normal(280, 1, (4, len(lat)))
    return xr.Dataset(
        {"t2m": (("time", "station"), values, attrs)}, {"time": TIME, "lat": ("station", lat), "lon": ("station", lon)}
    )


def row(found, source="obs"):
    return found.table.loc[(source, "t2m")].to_dict()


def rules(found, source="obs"):
    return [row(found, source)[f"rule along {d}"] for d in ("time", "lat", "lon")]


def test_rules(case):
    grid, prior = case
    zonal = grid[["t2m"]].mean("lon").assign_coords(lat=LAT)
    zonal.t2m.attrs["cell_methods"] = "lon: mean"
    coarse = grid[["t2m"]].coarsen(lat=2).mean()
    coarse.t2m.attrs["cell_methods"] = "lat: mean"
    sources = {
        "points": grid[["t2m"]].isel(lat=slice(0, 3)),
        "between": grid[["t2m"]].interp(lat=[51.0, 57.0], time=TIME[:1] + np.timedelta64(1, "h")),
        "stations": stations([50.0, 57.3], [-10.0, -1.1]),
        "on": stations([50.0, 58.0], [-10.0, -2.0]),
        "zonal": zonal,
        "coarse": coarse,
        "one": grid[["t2m"]].sel(lat=52.0, lon=-4.0),
    }
    found = explain(grid, sources, prior, sigma=1.0)
    assert rules(found, "points") == ["selected"] * 3
    assert rules(found, "between") == ["interpolated", "interpolated", "selected"]
    assert rules(found, "stations") == ["selected", "pointwise, interpolated", "pointwise, interpolated"]
    assert rules(found, "on") == ["selected", "pointwise, selected", "pointwise, selected"]
    assert rules(found, "zonal") == ["selected", "selected", "mean over all"]
    assert rules(found, "coarse") == ["selected", "averaged", "selected"]
    assert rules(found, "one") == ["selected"] * 3
    assert (found.table["used"] == found.table["values"]).all()


@pytest.mark.parametrize("seed", range(5))
def test_each_value_is_counted_once(case, seed):
    """Random stations, inside and outside, with gaps: the counts are those of a count by hand."""
    grid, prior = case
    rng = np.random.default_rng(seed)
    lat, lon = rng.uniform(45, 65, 20), rng.uniform(-14, 4, 20)
    obs = stations(lat, lon)
    obs = obs.assign_coords(time=TIME + np.timedelta64(int(rng.integers(0, 12)), "h"))
    obs["t2m"] = obs.t2m.where(rng.random((4, 20)) > 0.3)
    place = (lat >= 50) & (lat <= 60) & (lon >= -10) & (lon <= 0)
    inside = (obs.time.values <= TIME[-1])[:, None] & place
    missing = obs.t2m.isnull().values
    found = row(explain(grid, obs, prior))
    assert found["values"] == 80
    assert found["missing"] == missing.sum()
    assert found["outside"] == (~inside & ~missing).sum()
    assert found["used"] == (inside & ~missing).sum()
    assert found["masked"] == 0
    kept = obs.isel(station=place, time=obs.time.values <= TIME[-1])
    post = xsda.assimilate(grid, kept, prior, sigma=1.0, members=1, steps=2, progress=False)
    assert post.attrs["observations"] == found["used"]


def test_all_outside_and_longitudes_of_another_convention(case):
    grid, prior = case
    far = row(explain(grid, stations([80.0], [-5.0]), prior))
    assert (far["used"], far["outside"], far["rule along lat"]) == (0, 4, "all outside")
    assert row(explain(grid, stations([55.0], [355.0]), prior))["used"] == 4
    lost = stations([55.0, np.nan], [-5.0, -5.0])
    assert row(explain(grid, lost, prior))["outside"] == 4


def test_swapped_latitude_and_longitude_are_named(case):
    """Both before an assimilation; stations that are elsewhere in either order are not taken for swapped."""
    grid, prior = case
    for lat, lon, swapped in ((-4.0, 53.0, True), (-40.0, 53.0, False), (53.0, -4.0, False)):
        obs = stations([lat], [lon])
        notes = [*explain(grid, obs, prior, sigma=1.0).notes, check(obs, prior, grid=grid).table["note"].iloc[0]]
        assert sum("latitude and longitude are swapped" in note for note in notes) == (2 if swapped else 0)


def test_duplicates(case):
    grid, prior = case
    obs = stations([51.0, 51.0, 53.0], [-5.0, 355.0, -5.0])
    assert row(explain(grid, obs, prior))["duplicate"] == 4
    obs.t2m[1, 0] = np.nan
    assert row(explain(grid, obs, prior))["duplicate"] == 3


def test_order_of_rows_and_names_of_sources_do_not_matter(case):
    grid, prior = case
    rng = np.random.default_rng(1)
    obs = stations(rng.uniform(48, 62, 9), rng.uniform(-12, 2, 9))
    one = row(explain(grid, obs, prior, sigma=0.5))
    assert row(explain(grid, obs.isel(station=rng.permutation(9)), prior, sigma=0.5)) == one
    assert row(explain(grid, {"buoy": obs}, prior, sigma=0.5), "buoy") == one


def test_sigma_is_found_as_read_finds_it(case):
    grid, prior = case
    obs = stations([51.0], [-5.0], error_std=0.7)
    assert row(explain(grid, obs, prior))["sigma from"] == "attribute error_std"
    obs = obs.assign(err=obs.t2m * 0 + 0.4)
    obs.t2m.attrs["ancillary_variables"] = "err"
    obs.err.attrs["standard_name"] = "t2m standard_error"
    assert row(explain(grid, obs, prior))["sigma from"] == "variable err"
    assert row(explain(grid, obs, prior, sigma={"t2m": 2.0}))["sigma from"] == "argument"
    for given in (None, 2.0, {"obs": 3.0}):
        (observed,) = xsda.observations.read(obs, {"t2m": "K"}, sigma=given)
        assert row(explain(grid, obs, prior, sigma=given))["sigma"] == f"{observed.errors[0]:g}"
    both = explain(grid, {"a": obs, "b": stations([51.0], [-5.0])}, prior, sigma={"a": 1.5})
    assert row(both, "a")["sigma from"] == "argument"
    assert row(both, "b")["sigma from"] == "not given; pass sigma=..."


def test_units_law_and_correlation(case):
    grid, prior = case
    obs = stations([51.0], [-5.0], units="degF", error_std=1.8)
    found = row(explain(grid, obs, prior, correlation={"t2m": {"time": "6h"}}))
    assert (found["units"], found["sigma"], found["correlation"]) == ("degF to K", "1", "6h along time")
    found = row(explain(grid, stations([51.0], [-5.0]), prior, likelihood="student_t"))
    assert found["units"] == "no units; taken as K"
    assert found["law"].startswith("StudentT")
    assert row(explain(grid, obs, prior))["law"] == "gaussian"
    assert row(explain(grid, obs, prior, correlation={"t2m": np.eye(4)}))["correlation"] == "matrix of 4 x 4"


def test_values_inside_the_mask(case):
    """Land lies west of 7 W: a station on it is masked, one at sea is used, and a mixture of both needs a quarter."""
    grid, prior = case
    sea = np.broadcast_to(LON > -7, (1, 6, 6))
    normals = Normals(np.zeros((1, 1, 6, 6)), np.ones((1, 6, 6)), sea)
    prior = xsda.Prior(prior.denoiser, replace(prior.layout, normals=normals), length=4)
    obs = stations([55.0] * 5, [-10.0, -8.0, -7.5, -6.6, -6.0])  # weight on the sea: 0, 0, .25, .7, 1
    obs.t2m[0, 0] = np.nan
    found = row(explain(grid, obs, prior))
    assert [found[k] for k in ("used", "masked", "missing", "outside")] == [12, 7, 1, 0]
    assert rules(explain(grid, obs, prior))[1:] == ["pointwise, interpolated"] * 2


def test_derived_variables(case):
    grid, prior = case
    obs = stations([51.0], [-5.0], units="degC").rename(t2m="celsius")
    table = explain(grid, obs, prior, derived={"celsius": lambda s: s["t2m"] - 273.15}).table
    assert table.loc[("obs", "celsius"), "units"] == "degC; derived, not converted"
    assert table.loc[("obs", "celsius"), "used"] == 4


def test_as_text_and_in_a_notebook(case):
    grid, prior = case
    found = explain(grid, stations([51.0, 80.0], [-5.0, -5.0]), prior, sigma=0.5)
    assert repr(found).startswith("4 of 8 observed values are used\n")
    assert "<table" in found._repr_html_()
    assert isinstance(found.table, pd.DataFrame)
    accessor = grid.sda.explain(stations([51.0, 80.0], [-5.0, -5.0]), prior, sigma=0.5)
    assert accessor.table.equals(found.table)


def test_an_unknown_variable_is_an_error(case):
    grid, prior = case
    with pytest.raises(KeyError, match="'rain' is neither a variable of the prior"):
        explain(grid, stations([51.0], [-5.0]).rename(t2m="rain"), prior)


def test_a_table_is_explained_as_its_dataset(case):
    grid, prior = case
    obs = stations([51.0, 57.3, 80.0], [-5.0, -1.1, -5.0])
    table = obs.to_dataframe().reset_index()[["time", "lat", "lon", "t2m"]].sample(frac=1, random_state=0)
    found, expected = (row(explain(grid, o, prior, sigma=0.5)) for o in (table, obs))
    assert all(found[k] == expected[k] for k in ("used", "outside", "missing", "duplicate", "sigma", "units"))


def test_averages_outside_are_counted(case):
    grid, prior = case
    obs = xr.Dataset(
        {
            "t2m": (("time", "lat"), np.full((4, 3), 280.0), {"cell_methods": "lat: mean lon: mean"}),
            "lat_bnds": (("lat", "b"), [[50.0, 54.0], [54.0, 58.0], [70.0, 74.0]]),
        },
        {"time": TIME, "lat": ("lat", [52.0, 56.0, 72.0], {"bounds": "lat_bnds"})},
    )
    found = explain(grid, obs, prior)
    assert [row(found)[k] for k in ("used", "outside")] == [8, 4]
    assert rules(found) == ["selected", "averaged", "mean over all"]
