"""Several priors, one ensemble."""

import dataclasses

import numpy as np
import pytest
import xarray as xr
from lazy import computes_nothing

import xsda

TIME = np.arange(6.0)


def prior(mean, name, variable="level"):
    ds = xr.Dataset({variable: ("time", np.full(6, mean), {"units": "m"})}, {"time": TIME})
    made = xsda.GaussianPrior(ds, 0.3**2 * np.exp(-np.abs(TIME[:, None] - TIME)))
    made.name = name
    return made


@pytest.fixture
def obs():
    return xr.Dataset({"level": ("time", [0.4], {"error_std": 0.2})}, {"time": [2.5]})


@pytest.fixture
def grid():
    return xr.Dataset(coords={"time": TIME})


def test_each_member_is_that_of_its_prior(grid, obs):
    """Also where the priors scale their variables differently."""
    priors = [prior(0.0, "low"), prior(1.0, "high"), prior(3.0, "flood")]
    pooled = grid.sda.assimilate(obs, priors, members=7, seed=3, progress=False)
    assert pooled.member.values.tolist() == list(range(7))
    for k, one in enumerate(priors):
        alone = grid.sda.assimilate(obs, one, members=7, seed=3, progress=False)
        np.testing.assert_allclose(pooled.level[k::3], alone.level[k::3], atol=1e-6)
        assert set(pooled.prior[k::3].values) == {one.name}
    assert pooled.attrs["prior"] == "low, high, flood"
    assert pooled.attrs["prior_hash"].split(", ") == [p.hash for p in priors]
    free = xsda.sample(grid, xsda.load_model(priors), members=4, progress=False)
    np.testing.assert_allclose(
        free.level[1], xsda.sample(grid, priors[1], members=2, progress=False).level[1], atol=1e-6
    )


def test_it_may_be_lazy(grid, obs):
    pool = xsda.load_model([prior(0.0, "low"), prior(1.0, "high")])
    with computes_nothing():
        lazily = grid.sda.assimilate(obs, pool, members=6, chunks={"member": 2})
    assert lazily.level.chunks is not None
    now = grid.sda.assimilate(obs, pool, members=6, progress=False)
    xr.testing.assert_allclose(lazily.compute().level, now.level)


def test_an_ensemble_is_extended_by_naming_members(grid, obs):
    one = prior(0.0, "low")
    whole = grid.sda.assimilate(obs, one, members=6, progress=False)
    more = grid.sda.assimilate(obs, one, members=range(4, 6), progress=False)
    xr.testing.assert_allclose(xr.concat([whole.isel(member=slice(0, 4)), more], "member").level, whole.level)
    pooled = grid.sda.assimilate(obs, [one, prior(1.0, "high")], members=np.array([5, 2]), progress=False)
    assert pooled.member.values.tolist() == [5, 2]
    np.testing.assert_allclose(pooled.level[1], whole.level[2], atol=1e-6)


@pytest.mark.parametrize("members", [0, [], [1, 1], [-1], "16", 2.5])
def test_members_that_cannot_be(grid, obs, members):
    for model in (prior(0.0, "low"), [prior(0.0, "low"), prior(1.0, "high")]):
        with pytest.raises(ValueError, match="members="):
            grid.sda.assimilate(obs, model, members=members, progress=False)


def test_populations_are_not_shared_out(grid, obs):
    tds = xsda.samplers.TDS(steps=8, particles=4)
    whole = grid.sda.assimilate(obs, prior(0.0, "low"), members=8, sampler=tds, progress=False)
    part = grid.sda.assimilate(obs, prior(0.0, "low"), members=range(4, 8), sampler=tds, progress=False)
    np.testing.assert_allclose(part.level, whole.level[4:], atol=1e-6)
    for model, members in ((prior(0.0, "low"), range(2, 6)), ([prior(0.0, "low"), prior(1.0, "high")], 8)):
        with pytest.raises(ValueError, match="populations of 4 particles"):
            grid.sda.assimilate(obs, model, members=members, sampler=tds, progress=False)


def test_pools_of_pools_and_steps_that_differ_by_rounding(grid):
    low, high = prior(0.0, "low"), prior(1.0, "high")
    high.layout = dataclasses.replace(high.layout, dt=high.layout.dt * (1 + 1e-12))
    assert [p.name for p in xsda.load_model([xsda.load_model([low, high]), [low]]).priors] == ["low", "high", "low"]


def test_priors_of_different_worlds_are_not_pooled():
    with pytest.raises(ValueError, match=r"names is .*'level'.*'low'.*'depth'.*'sea'"):
        xsda.load_model([prior(0.0, "low"), prior(0.0, "sea", "depth")])
    with pytest.raises(ValueError, match="at least one"):
        xsda.load_model([])
    for change, message in (
        ({"attrs": {"units": "km"}}, "'level' is in 'km', the prior 'low' of the same pool in 'm'"),
        ({"mean": (0.0, 0.0), "std": (1.0, 1.0), "labels": (500, 850)}, "the channels of each"),
    ):
        one, other = prior(0.0, "low"), prior(0.0, "other")
        one.layout = dataclasses.replace(
            one.layout, variables=(dataclasses.replace(one.layout.variables[0], attrs={"units": "m"}),)
        )
        variable = dataclasses.replace(one.layout.variables[0], **change)
        other.layout = dataclasses.replace(other.layout, variables=(variable,))
        with pytest.raises(ValueError, match=message):
            xsda.load_model([one, other])
