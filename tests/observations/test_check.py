"""Flags of a Gaussian prior are known: z is (y - m) / sqrt(s^2 + sigma^2)."""

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

import xsda
from xsda.labels.climatology import Normals
from xsda.observations import check

TIME = np.datetime64("2026-03-01", "ns") + np.arange(40) * np.timedelta64(6, "h")
LAT = np.linspace(50, 60, 6)
SPREAD = 3.0


@pytest.fixture(scope="module")
def case():
    """A grid with a warm south, and a Gaussian prior around it with a spread of 3 K."""
    warm = 280.0 + np.broadcast_to(60 - LAT, (40, 6))
    grid = xr.Dataset({"t2m": (("time", "lat"), warm, {"units": "K"})}, {"time": TIME, "lat": LAT})
    apart = np.abs(LAT[:, None] - LAT) / 4
    prior = xsda.GaussianPrior.separable(grid, np.eye(40), np.exp(-apart), channel_cov=np.array([[SPREAD**2]]))
    return grid, prior


@pytest.fixture
def obs(case):
    """Observations of the prior at four stations, with an error of 1 K."""
    grid, prior = case
    truth = xsda.sample(grid, prior, members=1, seed=3, progress=False).isel(member=0, drop=True)
    like = xr.Dataset(
        {"t2m": (("time", "station"), np.zeros((40, 4)))}, {"time": TIME, "lat": ("station", [50.0, 52.0, 56.0, 60.0])}
    )
    return truth.sda.observe(like, sigma=1.0, seed=4)


def test_z_in_closed_form(case, obs):
    grid, prior = case
    z = check(obs, prior, grid=grid).sources["obs"].t2m_z
    expected = (obs.t2m - (280 + 60 - obs.lat)) / np.hypot(SPREAD, 1.0)
    scale = float((z * expected).sum() / (expected**2).sum())
    assert abs(scale - 1) < 0.01  # each spread has a sampling error of 3 %, their mean a tenth of it
    np.testing.assert_allclose(z, expected, rtol=0.12, atol=0.02)


def test_moments_of_a_mixture():
    """The spread of a mixture includes the distance between its components."""
    time = np.arange(3.0)
    grid = xr.Dataset({"x": ("time", np.zeros(3))}, {"time": time})
    prior = xsda.GaussianMixturePrior([grid + 10.0, grid - 5.0], np.stack([np.eye(3)] * 2), [0.3, 0.7])
    found = check(grid, prior, grid=grid, sigma=1e-6).sources["obs"]
    mean, std = -0.5, np.sqrt(1 + 0.3 * 10.5**2 + 0.7 * 4.5**2)
    np.testing.assert_allclose(found.x_expected, mean, atol=0.02 * std)
    np.testing.assert_allclose(found.x_z, -mean / std, rtol=0.12)


def test_averages_vary_less_than_points(case):
    """The mean over n independent times has the spread of one time over the root of n."""
    grid, prior = case
    obs = grid[["t2m"]].mean("time")
    obs.t2m.attrs = {"cell_methods": "time: mean", "units": "K"}
    obs["t2m"] = (obs.t2m + 1.0).assign_attrs(obs.t2m.attrs)
    found = check(obs, prior, grid=grid).sources["obs"]
    np.testing.assert_allclose(found.t2m_z, np.sqrt(40) / SPREAD, rtol=0.12)


def test_a_background_replaces_the_prior(case, obs):
    grid, prior = case
    field = check(obs, prior, background=grid + 2.0, sigma=1.0).sources["obs"]
    np.testing.assert_allclose(field.t2m_expected, np.broadcast_to(342 - obs.lat, (40, 4)), rtol=1e-6)
    ensemble = xr.concat([grid - 2, grid, grid + 2], "member")
    found = check(obs, prior, background=ensemble, sigma=1.0).sources["obs"]
    joint = np.sqrt(4 * (1 + 1 / 3) + 1)
    np.testing.assert_allclose(found.t2m_z, (obs.t2m - 340 + obs.lat) / joint, atol=1e-6)


def test_good_observations_are_good(case, obs):
    grid, prior = case
    flags = check(obs, prior, grid=grid)
    assert flags.table.loc[("obs", "t2m"), "good"] == 160
    xr.testing.assert_identical(obs.where(flags.good), obs)


def test_each_fault_has_its_reason(case, obs):
    grid, prior = case
    obs.t2m[0, 0] = np.nan
    obs.t2m[1, 0] = -9999.0
    obs.t2m[2, 0] = 1e20
    obs.t2m[3, 1] += 30
    obs.t2m[10:25, 2] = 284.5
    obs = xr.concat([obs, obs.isel(station=[3]).assign_coords(lat=("station", [75.0]))], "station")
    flags = check(obs, prior, grid=grid)
    counts = flags.table.loc[("obs", "t2m")]
    assert counts["values"] == 199
    reasons = ["good", "fill value", "stuck sensor", "gross error", "outside the grid", "wrong unit", "masked"]
    assert counts[reasons].tolist() == [199 - 2 - 15 - 1 - 40, 2, 15, 1, 40, 0, 0]
    listed = flags.to_dataframe()
    assert len(listed) == 58
    assert listed.loc[0, ["reason", "value"]].tolist() == ["fill value", 1e20]
    assert (listed["z"].abs().dropna().diff().dropna() <= 0).all()
    kept = obs.where(flags.good)
    assert int(kept.t2m.count()) == 141
    assert int(flags.accepted["obs"].t2m.count()) == 141
    assert flags.accepted["obs"].t2m.attrs["error_std"] == 1.0


@pytest.mark.parametrize(
    ("unit", "change"),
    [("degC", lambda k: k - 273.15), ("degF", lambda k: (k - 273.15) * 1.8 + 32), ("K", lambda k: k)],
)
def test_values_in_a_wrong_unit(case, obs, unit, change):
    grid, prior = case
    wrong = obs.assign(t2m=change(obs.t2m).assign_attrs(units="K", error_std=1.0))
    flags = check({"right": obs, "wrong": wrong}, prior, grid=grid)
    assert flags.table.loc[("right", "t2m"), "good"] == 160
    expected = "" if unit == "K" else f"the values fit if they are in {unit}, not in K"
    assert flags.table.loc[("wrong", "t2m"), "note"] == expected
    assert flags.table.loc[("wrong", "t2m"), "wrong unit"] == (0 if unit == "K" else 160)
    declared = wrong.assign(t2m=wrong.t2m.assign_attrs(units=unit))
    assert check(declared, prior, grid=grid).table.loc[("obs", "t2m"), "wrong unit"] == 0


def test_kelvin_declared_as_celsius(case, obs):
    grid, prior = case
    flags = check(obs.assign(t2m=obs.t2m.assign_attrs(units="degC")), prior, grid=grid)
    assert flags.table.loc[("obs", "t2m"), "note"] == "the values fit if they are in K, not in degC"


def test_values_of_another_planet_are_gross_errors(case, obs):
    grid, prior = case
    flags = check(obs.assign(t2m=obs.t2m.assign_attrs(units="K") + 400), prior, grid=grid, sigma=1.0)
    counts = flags.table.loc[("obs", "t2m")]
    assert (counts["gross error"], counts["wrong unit"]) == (160, 0)


def test_order_of_rows_shape_and_names_do_not_matter(case, obs):
    """A table of reports in any order has the flags of the rectangle of stations."""
    grid, prior = case
    obs.t2m[3, 1] += 30
    obs.t2m[10:25, 2] = 284.5
    expected = check(obs, prior, grid=grid).sources["obs"].t2m_flag
    long = obs.stack(report=("time", "station")).reset_index("report")
    order = np.random.default_rng(0).permutation(long.sizes["report"])
    found = check({"other": long.isel(report=order)}, prior, grid=grid).sources["other"].t2m_flag
    np.testing.assert_array_equal(found.values[np.argsort(order)], expected.values.ravel())


def test_a_frequent_value_is_not_a_stuck_sensor(case, obs):
    grid, prior = case
    obs.t2m[:, :] = 284.0
    assert check(obs, prior, grid=grid).table.loc[("obs", "t2m"), "stuck sensor"] == 0
    alone = obs.isel(station=[1])
    assert check(alone, prior, grid=grid).table.loc[("obs", "t2m"), "stuck sensor"] == 40
    assert check(alone, prior, grid=grid, repeats=41).table.loc[("obs", "t2m"), "stuck sensor"] == 0


def test_without_a_grid_values_are_compared_with_the_region(case, obs):
    _, prior = case
    found = check(obs, prior).sources["obs"]
    assert np.ptp(found.t2m_expected.values) == 0
    assert abs(float(found.t2m_expected[0, 0]) - 285) < 0.5
    joint = np.sqrt(SPREAD**2 + (60 - LAT).var() + 1)
    np.testing.assert_allclose(found.t2m_z, (obs.t2m - found.t2m_expected) / joint, rtol=0.1, atol=1e-3)
    far = obs.assign_coords(lat=obs.lat + 100)  # positions are not read
    assert check(far, prior).table.loc[("obs", "t2m"), "good"] == 160


def test_networks_are_compared_with_their_scaling(lorenz):
    truth, obs = lorenz
    model = xsda.load_model("lorenz63")
    found = check(obs, model, grid=truth).sources["obs"]
    x = model.layout.variables[0]
    np.testing.assert_allclose(found.x_z, (obs.x - x.mean[0]) / np.hypot(x.std[0], 0.5), rtol=1e-5)


def test_derived_variables(case, obs, lorenz):
    grid, prior = case
    celsius = {"celsius": lambda s: s["t2m"] - 273.15}
    renamed = obs.assign(t2m=obs.t2m - 273.15).rename(t2m="celsius")
    found = check(renamed, prior, grid=grid, derived=celsius, sigma=1.0).sources["obs"]
    np.testing.assert_allclose(found.celsius_expected, np.broadcast_to(340 - 273.15 - obs.lat, (40, 4)), atol=0.7)
    truth, seen = lorenz
    double = seen.rename(x="double")
    flags = check(double, "lorenz63", grid=truth, derived={"double": lambda s: 2 * s["x"]})
    assert flags.table.loc[("obs", "double"), "note"].startswith("not compared")
    assert flags.table.loc[("obs", "double"), "good"] == seen.x.size


def test_masked_values_are_flagged(case, obs):
    grid, prior = case
    prior = masked(prior, [True] + 5 * [False])
    counts = check(obs, prior, grid=grid).table.loc[("obs", "t2m")]
    assert (counts["masked"], counts["good"]) == (40, 120)


def masked(prior, land):
    """The prior with normals of its own and with a mask along its only space axis."""
    one = np.ones((1, len(land)))
    normals = Normals(0 * one[None], one, ~np.array([land]))
    return xsda.Prior(prior.denoiser, replace(prior.layout, normals=normals), length=prior.length)


def test_helpers_of_the_observations_survive_the_mask(case, obs):
    grid, prior = case
    obs = obs.assign(err=obs.t2m * 0 + 1)
    obs.t2m.attrs |= {"ancillary_variables": "err"}
    obs.err.attrs["standard_name"] = "t2m standard_error"
    obs.t2m[3, 1] += 40
    kept = obs.where(check(obs, prior, grid=grid).good)
    assert set(kept.data_vars) == {"t2m", "err"}
    assert (int(kept.t2m.count()), int(kept.err.count())) == (159, 160)


def test_as_text_and_in_a_notebook(case, obs):
    grid, prior = case
    obs.t2m[3, 1] += 40
    flags = check(obs, prior, grid=grid)
    assert repr(flags).startswith("1 of 160 observed values are flagged\n")
    assert "gross error" in repr(flags).splitlines()[-1]
    assert flags._repr_html_().count("<table") == 2


def test_bad_input(case, obs):
    grid, prior = case
    with pytest.raises(ValueError, match="limit=0 must be positive"):
        check(obs, prior, grid=grid, limit=0)
    with pytest.raises(ValueError, match="repeats=1 must be an integer of at least 2"):
        check(obs, prior, grid=grid, repeats=1)
    with pytest.raises(KeyError, match="'rain' is neither"):
        check(obs.rename(t2m="rain"), prior, grid=grid)
    with pytest.raises(KeyError, match="'rain' is not a variable of the prior"):
        check(obs.rename(t2m="rain"), prior)


def test_a_table_has_the_flags_of_its_dataset(obs):
    mean = xr.Dataset({"t2m": (("time", "lat", "lon"), np.full((40, 6, 2), 285.0), {"units": "K"})})
    mean = mean.assign_coords(time=TIME, lat=LAT, lon=[0.0, 5.0])
    prior = xsda.GaussianPrior.separable(mean, np.eye(40), np.eye(6), np.eye(2), channel_cov=np.array([[25.0]]))
    obs = obs.assign_coords(lon=("station", [0.0, 5.0, 0.0, 5.0]))
    obs.t2m[3, 1] += 60
    obs.t2m[10:25, 2] = 284.5
    table = obs.to_dataframe().reset_index()[["time", "lat", "lon", "t2m"]].sample(frac=1, random_state=0)
    found, expected = (check(o, prior, grid=mean, sigma=1.0) for o in (table, obs))
    assert found.table.equals(expected.table)
    assert expected.table.loc[("obs", "t2m"), ["gross error", "stuck sensor"]].tolist() == [1, 15]
    (accepted,) = found.accepted.values()
    assert int(accepted.t2m.count()) == 160 - 16
