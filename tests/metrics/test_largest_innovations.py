"""Innovations of an ensemble: observation minus members, the largest in joint spreads first."""

import numpy as np
import pytest
import xarray as xr

import xsda
from xsda.metrics import innovations, largest_innovations


@pytest.fixture
def case():
    """Four times, an ensemble of three members with spread 1 at x = 0, and observations with gaps."""
    members = np.array([-1.0, 0.0, 1.0])[:, None] * np.ones(4)
    post = xr.Dataset({"x": (("member", "time"), members, {"units": "m"})}, {"time": np.arange(4.0)})
    obs = xr.Dataset({"x": ("time", [1.0, np.nan, -4.0, 2.0], {"units": "m"})}, {"time": np.arange(4.0)})
    return post, obs


def test_closed_form(case):
    post, obs = case
    found = largest_innovations(post, obs, sigma=2.0)
    np.testing.assert_array_equal(found.members.x, (obs.x - post.x).transpose("member", "time"))
    joint = np.sqrt(2.0**2 + 4 / 3)
    assert found.table["time"].tolist() == [2.0, 3.0, 0.0]
    np.testing.assert_allclose(found.table["z"], np.array([-4, 2, 1]) / joint)
    np.testing.assert_allclose(found.table["joint spread"], joint)


def test_the_mean_is_that_of_innovations(rotation):
    grid, _, prior = rotation
    post = xsda.sample(grid, prior, members=5, progress=False)
    obs = grid[["u"]].isel(time=slice(None, None, 5)) + 0.3
    obs = obs.assign_coords(time=obs.time + 0.5).isel(time=slice(-1))
    found = post.sda.innovations(obs, sigma=0.5)
    np.testing.assert_allclose(found.members.u.mean("member"), innovations(post, obs).u, atol=1e-6)


def test_units_and_several_sources(case):
    post, obs = case
    far = obs.isel(time=[0]) * 100
    far.x.attrs = {"units": "cm", "error_std": 50.0}
    found = largest_innovations(post, {"m": obs.assign(x=obs.x.assign_attrs(error_std=0.5)), "cm": far})
    assert set(found.members) == {"m", "cm"}
    both = found.table[found.table["time"] == 0]
    assert both["source"].tolist() == ["m", "cm"]
    np.testing.assert_allclose(both["z"], 1 / np.sqrt(0.25 + 4 / 3))


def test_order_of_rows_does_not_matter(case):
    post, obs = case
    one, two = (largest_innovations(post, o, sigma=2.0).table for o in (obs, obs.isel(time=[3, 0, 2, 1])))
    xr.testing.assert_equal(one.to_xarray(), two.to_xarray())


def test_as_text_and_in_a_notebook(case):
    post, obs = case
    found = largest_innovations(post, obs, sigma=2.0)
    assert repr(found).splitlines()[0] == "3 innovations, in units of the joint spread; the 3 largest:"
    assert "<table" in found._repr_html_()


def test_an_ensemble_is_needed(case):
    post, obs = case
    with pytest.raises(ValueError, match="need an ensemble with the dimension 'member'"):
        largest_innovations(post.isel(member=0), obs, sigma=1.0)
