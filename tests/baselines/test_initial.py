"""Where an ensemble starts from: what it is, when it is valid, and what cannot be one."""

import cftime
import numpy as np
import pytest
import xarray as xr
from one_time import globe, ring

import xsda
from xsda.baselines import ETKF, AdaptiveInflation, EnKF, Forecast
from xsda.baselines.initial import initial_ensemble
from xsda.labels.grid import Grid
from xsda.labels.layout import Layout
from xsda.systems import DampedSpring, Lorenz63, Lorenz96


def still(ds, start, stop):
    return ds


def drawn(initial, grid, members=None, system=still, seed=0, method=None):
    ds = grid.isel(member=0, drop=True) if "member" in grid.dims else grid
    grid = Grid.match(Layout.of(ds, even=False), ds)
    return initial_ensemble(initial, members, grid, Forecast(system), seed, method or ETKF())


def test_an_ensemble_is_taken_as_it_is():
    """Any order of dimensions, turned axes, other variables; channels in the order of the grid."""
    ens = globe()
    grid = ens.expand_dims(time=[2.0, 3.0])
    x, start, noted = drawn(ens.assign(other=1)[["u", "other", "q"]].transpose(..., "member"), grid, members=10)
    np.testing.assert_array_equal(x[:, :2], ens.q.transpose("member", "level", "lat", "lon")[:, :, ::-1])
    np.testing.assert_array_equal(x[:, 2], ens.u.transpose("member", "lat", "lon")[:, ::-1])
    assert (start, noted) == (0.0, {})  # its own time, before the grid's
    assert drawn(ens.drop_vars("time"), grid)[1] == 2.0
    assert drawn(ens.expand_dims("time"), grid)[1] == 0.0


@pytest.mark.parametrize("kind", [np.datetime64, cftime.DatetimeNoLeap])
def test_a_date(kind):
    def date(day):
        return np.datetime64(f"2001-01-{day:02}", "ns") if kind is np.datetime64 else kind(2001, 1, day)

    ens = ring().drop_vars("time")
    grid = ens.expand_dims(time=[date(5), date(6)])
    assert drawn(ens.assign_coords(time=date(3)), grid)[1] == -2 * 86400.0
    with pytest.raises(ValueError, match="'time' holds plain numbers, the grid's time axis holds dates;"):
        drawn(ens.assign_coords(time=3.0), grid)
    with pytest.raises(ValueError, match="'time' holds dates, the grid's time axis holds plain numbers"):
        drawn(ens.assign_coords(time=date(3)), ring().expand_dims("time"))


def test_the_analysis_of_a_result_with_stages():
    ens = ring()
    both = xr.concat([ens - 100, ens], xr.DataArray(["forecast", "analysis"], dims="stage"))
    x, *_ = drawn(both, ens.expand_dims("time"))
    np.testing.assert_array_equal(x[:, 0], ens.u)


def test_states_drawn_from_a_long_run():
    """Each at most once, all alike, by the seed; of all trajectories if there are several."""
    system = Lorenz96(n=5)
    for run in (system.simulate(300, seed=1), system.simulate(100, members=3, seed=1)):
        states = run.u.transpose("x", ...).values.reshape(5, -1).T
        x, start, _ = drawn(run, run.isel(time=[7, 8]), members=250)
        assert start == run.time[7]
        which = (states[:, None] == x[:, 0].numpy()).all(-1)
        assert (which.sum(0) == 1).all()
        assert which.sum(1).max() == 1
        assert abs(which[: len(states) // 2].sum() - 125) < 15
        again, other = (drawn(run, run, members=250, seed=s)[0] for s in (0, 1))
        np.testing.assert_array_equal(again, x)
        assert not np.array_equal(other, x)
        with pytest.raises(ValueError, match="initial holds 300 states, too few to draw 301 members from"):
            drawn(run, run, members=301)


def test_a_prior():
    rng = np.random.default_rng(0)
    mean = xr.Dataset({"u": (("time", "x"), rng.normal(size=(1, 3)))}, {"time": [0.0], "x": np.arange(3.0)})
    cov = np.diag([1.0, 4.0, 9.0])
    prior = xsda.GaussianPrior(mean, cov)
    free = xsda.sample(mean, prior, members=4000, seed=2, progress=False)
    x, start, _ = drawn(free, mean)
    assert start == 0.0
    np.testing.assert_allclose(x[:, 0].mean(0), mean.u[0], atol=0.2)
    np.testing.assert_allclose(np.cov(x[:, 0].numpy().T), cov, atol=0.6)


@pytest.mark.parametrize("system", [Lorenz96(n=6), Lorenz63(), DampedSpring()], ids=["field", "three", "two"])
def test_the_climate_of_a_system_by_default(system):
    grid = system.simulate(2)
    x, *_ = drawn(None, grid, system=system, members=30, seed=4)
    expected = system.to_tensor(system.simulate(1, 30, seed=4))[:, 0]
    np.testing.assert_array_equal(x, expected)
    assert drawn(None, grid, system=system)[0].shape == (20, *system.state_shape)
    with pytest.raises(
        ValueError, match=r"initial=\.\.\. is needed: an ensemble over 'member', or a long run over time to draw"
    ):
        drawn(None, grid)


def test_names_of_ones_own():
    """The user's dimension for the system's, also if it descends."""
    system = Lorenz96(n=6)
    grid = system.simulate(2).rename(x="lon").isel(lon=slice(None, None, -1))
    x, *_ = drawn(None, grid, system=system, members=3)
    np.testing.assert_array_equal(x, system.to_tensor(system.simulate(1, 3))[:, 0])


def test_numbers_that_were_noted():
    """Only all of them, only where the method asks for them."""
    method, grid = ETKF(inflation=AdaptiveInflation()), ring().expand_dims("time")
    noted = {"inflation": 1.5, "inflation_variance": 0.01}
    ens = ring().assign_coords(noted)
    assert drawn(ens, grid, method=method)[2] == noted
    assert drawn(ens, grid)[2] == {}
    assert drawn(ens.drop_vars("inflation_variance"), grid, method=method)[2] == {}
    assert drawn(ens.assign_coords(inflation=np.nan), grid, method=method)[2] == {}


def test_bad_ensembles():
    ens = ring()
    grid = ens.expand_dims("time")
    cases = [
        (ens.isel(member=[0]), {}, ValueError, "the initial ensemble has 1 members; the method takes at least 2"),
        (ens, {"members": 9}, ValueError, "members=9, but the initial ensemble has 8; leave members out"),
        (ens.rename(u="v"), {}, KeyError, r"lacks the variable 'u'; it has \['v'\]"),
        (ens.isel(x=slice(5)), {}, ValueError, "has the sizes .*'x': 5.*; along 'x' the grid has 12"),
        (ens.mean("x"), {}, ValueError, "has the sizes .*; along 'x' the grid has 12"),
        (ens.assign_coords(x=ens.x + 0.5), {}, ValueError, "lies on other coordinates along 'x' than the grid; use .interp"),
        (ens.isel(x=slice(None, None, -1)), {}, ValueError, "lies on other coordinates along 'x'"),
        (ens.isel(member=0, drop=True), {}, ValueError, r"has the dimensions \('x',\); expected an ensemble over 'member'"),
        (ens.expand_dims(run=2), {}, ValueError, r"has the dimension 'run', which the grid lacks; use .isel\(run=...\)"),
        (ens.where(ens.member != 3), {}, ValueError, "the initial ensemble holds NaN or infinite values"),
        (ens.u, {}, TypeError, "initial must be a Dataset, got DataArray"),
        ("climate", {}, TypeError, "initial must be a Dataset, got str"),
    ]  # fmt: skip
    for initial, options, error, match in cases:
        with pytest.raises(error, match=match):
            drawn(initial, grid, **options)
    levels = globe()
    with pytest.raises(ValueError, match="along 'level' the grid has 2"):
        drawn(levels.isel(level=[0]), levels.expand_dims("time"))
    with pytest.raises(ValueError, match="other coordinates along 'level'"):
        drawn(levels.assign_coords(level=[1, 2]), levels.expand_dims("time"))
    system = Lorenz96(n=12)
    for members in (1, 0, -3, 2.5, "20", True):
        with pytest.raises(ValueError, match=rf"members={members!r} must be an integer of at least 2"):
            drawn(None, grid, members=members, system=system, method=EnKF())
