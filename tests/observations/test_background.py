"""A background is one more source of observations: of all variables, on the grid or a part of it."""

import numpy as np
import pytest
import xarray as xr

import xsda
from xsda.observations import compile_observations


@pytest.fixture(scope="module")
def case(rotation):
    """(observations of u, their rows of H, a background of everything, the prior's covariance)."""
    grid, cov, _ = rotation
    rng = np.random.default_rng(4)
    truth = np.linalg.cholesky(cov + 1e-9 * np.eye(64)) @ rng.standard_normal(64)
    seen = slice(0, 32, 4)
    obs = xr.Dataset({"u": ("time", truth[:32][seen] + 0.1 * rng.standard_normal(8))}, {"time": grid.time[seen]})
    first_guess = truth + 0.5 * rng.standard_normal(64)
    background = xr.Dataset({"u": ("time", first_guess[:32]), "v": ("time", first_guess[32:])}, {"time": grid.time})
    return obs, np.eye(64)[:32][seen], background


def exact(cov, rows, y, variance):
    """Mean and covariance of N(0, cov) given y = rows x + error."""
    gain = cov @ rows.T @ np.linalg.inv(rows @ cov @ rows.T + np.diag(variance))
    return gain @ y, cov - gain @ rows @ cov


def members(ds):
    return np.concatenate([ds.u.values, ds.v.values], axis=1).astype(float)


PARTS = {
    "everything": (lambda b: b, np.arange(64)),
    "the first state": (lambda b: b.isel(time=0), np.array([0, 32])),
    "the first state, with its dimension": (lambda b: b.isel(time=[0]), np.array([0, 32])),
    "one variable": (lambda b: b[["v"]], np.arange(32, 64)),
    "with gaps": (lambda b: b.where(b.time < 10), np.r_[0:10, 32:42]),
}


@pytest.mark.parametrize("name", PARTS)
def test_the_posterior_is_exact(rotation, case, name):
    grid, cov, prior = rotation
    obs, rows, background = case
    change, index = PARTS[name]
    first_guess = np.concatenate([background.u.values, background.v.values])
    mean, covariance = exact(
        cov,
        np.concatenate([rows, np.eye(64)[index]]),
        np.concatenate([obs.u.values, first_guess[index]]),
        np.r_[np.full(8, 0.01), np.full(len(index), 0.25)],
    )
    post = grid.sda.assimilate(
        obs, prior, members=1500, sigma=0.1, background=change(background), background_sigma=0.5, seed=1, progress=False
    )
    x = members(post)
    assert np.linalg.norm(x.mean(0) - mean) < 2 * np.sqrt(np.trace(covariance) / 1500)  # twice that of exact samples
    assert x.var(0).sum() == pytest.approx(np.trace(covariance), rel=0.05)
    assert post.attrs["observations"] == 8 + len(index)
    without = exact(cov, rows, obs.u.values, np.full(8, 0.01))[0]
    assert np.linalg.norm(without - mean) > 6 * np.sqrt(np.trace(covariance) / 1500)


def test_it_is_one_more_source(rotation, case):
    grid, _, prior = rotation
    obs, _, background = case
    options = {"members": 3, "progress": False}
    a = grid.sda.assimilate(
        obs, prior, sigma=0.1, background=background, background_sigma={"u": 0.5, "v": 0.3}, **options
    )
    rest = background.assign({n: background[n].assign_attrs(error_std=s) for n, s in (("u", 0.5), ("v", 0.3))})
    b = grid.sda.assimilate([obs.assign(u=obs.u.assign_attrs(error_std=0.1)), rest], prior, **options)
    xr.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    c = grid.sda.assimilate(obs, prior, sigma=0.1, background=rest, **options)  # the errors it carries itself
    xr.testing.assert_allclose(a, c, rtol=1e-5, atol=1e-5)


def test_the_laws_and_errors_of_observations_are_not_those_of_the_background(rotation, case):
    grid, _, prior = rotation
    obs, _, background = case
    likelihood = compile_observations(
        prior.bind(grid), obs, 0.1, likelihood="student_t", background=background, background_sigma=0.5
    )
    assert [(g.name, g.count, str(g.law)) for g in likelihood.groups] == [
        ("u", 8, "StudentT(df=4.0)"),
        ("u", 32, "Normal()"),
        ("v", 32, "Normal()"),
    ]
    scale = likelihood.std.numpy() * np.repeat(np.array(prior.layout.std)[[0, 0, 1]], [8, 32, 32])
    np.testing.assert_allclose(scale, [0.1] * 8 + [0.5] * 64, rtol=1e-6)
    correlated = compile_observations(
        prior.bind(grid), obs, 0.1, correlation={"u": {"time": 4.0}}, background=background, background_sigma=0.5
    )
    np.testing.assert_allclose(correlated.y[8:], likelihood.y[8:])


def test_a_climatology_holds_at_all_times(rotation, case):
    grid, _, prior = rotation
    obs = case[0]
    constant = xr.Dataset({"u": 0.3, "v": -0.2})
    grids = [
        grid.sda.assimilate(obs, prior, members=2, sigma=0.1, background=b, background_sigma=0.5, progress=False)
        for b in (constant, grid + constant)
    ]
    xr.testing.assert_allclose(*grids)
    assert grids[0].attrs["background"] == "u, v"


ERRORS = {
    "no sigma": (lambda b: {"background": b}, ValueError, "no observation error for 'u': pass background_sigma="),
    "no background": (lambda b: {"background_sigma": 0.5}, ValueError, "background_sigma was given without background="),
    "nothing in common": (
        lambda b: {"background": b.rename(u="a", v="b"), "background_sigma": 0.5},
        ValueError,
        "variable 'a' is not one of the prior's; choose one of 'u', 'v', or drop it",
    ),
    "between the points": (
        lambda b: {"background": b.interp(time=b.time.values[:-1] + 0.5), "background_sigma": 0.5},
        ValueError,
        r"background.interp_like\(grid\)",
    ),
    "all missing": (lambda b: {"background": b * np.nan, "background_sigma": 0.5}, ValueError, "holds no values"),
    "unknown sigma": (
        lambda b: {"background": b, "background_sigma": {"uu": 1.0}},
        KeyError,
        "background_sigma names 'uu'",
    ),
    "not a Dataset": (lambda b: {"background": b.u, "background_sigma": 0.5}, TypeError, "background must be .* got DataArray"),
    "negative": (lambda b: {"background": b, "background_sigma": -1.0}, ValueError, "must be positive"),
    "elsewhere": (
        lambda b: {"background": b.assign_coords(time=b.time + 100.0), "background_sigma": 0.5},
        ValueError,
        "100",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_errors(rotation, case, name):
    grid, _, prior = rotation
    obs, _, background = case
    options, kind, message = ERRORS[name]
    with pytest.raises(kind, match=message):
        xsda.assimilate(grid, obs, prior, sigma=0.1, **options(background))
