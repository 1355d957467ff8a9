"""Scores against closed forms and a reference implementation."""

import numpy as np
import pytest
import xarray as xr
from scipy.stats import chisquare

import xsda
from xsda import metrics


def gaussian(members=20, cases=4000, scale=1.0, seed=0):
    """Truth and members drawn alike around a known centre (scale=1)."""
    rng = np.random.default_rng(seed)
    centre = rng.standard_normal(cases) * 3
    truth = xr.Dataset({"a": ("time", centre + rng.standard_normal(cases))}, {"time": np.arange(cases)})
    members = centre + scale * rng.standard_normal((members, cases))
    return xr.Dataset({"a": (("member", "time"), members)}, {"time": np.arange(cases)}), truth


def test_a_calibrated_ensemble():
    ens, truth = gaussian()
    assert float(metrics.spread_skill(ens, truth).a) == pytest.approx(1, abs=0.03)
    assert float(metrics.rmse(ens, truth).a) == pytest.approx((1 + 1 / 20) ** 0.5, rel=0.03)
    assert float(metrics.bias(ens, truth).a) == pytest.approx(0, abs=0.05)
    counts = metrics.rank_histogram(ens.a, truth.a)
    assert counts.sizes["rank"] == 21
    assert chisquare(counts).pvalue > 0.01
    narrow, truth = gaussian(scale=0.5)
    assert chisquare(metrics.rank_histogram(narrow.a, truth.a)).pvalue < 1e-6


def test_fair_crps_does_not_depend_on_the_number_of_members():
    expected = 1 / np.pi**0.5  # E|X-Y| - E|Y-Y'|/2 for three standard normals alike
    for members in (2, 5, 50):
        ens, truth = gaussian(members, cases=20_000)
        assert float(metrics.crps(ens, truth).a) == pytest.approx(expected, rel=0.03)


def test_crps_equals_scores():
    scores = pytest.importorskip("scores")
    ens, truth = gaussian(7, 50)
    theirs = scores.probability.crps_for_ensemble(ens.a, truth.a, "member", method="fair")
    assert float(metrics.crps(ens, truth).a) == pytest.approx(float(theirs), rel=1e-6)


def test_scores_are_lazy_and_the_same():
    ens, truth = gaussian(6, 100)
    for score in (metrics.rmse, metrics.bias, metrics.crps, metrics.spread_skill):
        lazy = score(ens.chunk({"member": 2, "time": 30}), truth.chunk())
        assert lazy.a.chunks is not None
        assert float(lazy.a) == pytest.approx(float(score(ens, truth).a), rel=1e-6)


def test_missing_truth_is_passed_over():
    ens, truth = gaussian(6, 100)
    holes = truth.where(truth.time % 3 > 0)
    kept = truth.time.values[truth.time % 3 > 0]
    for score in (metrics.rmse, metrics.bias, metrics.crps):
        assert float(score(ens, holes).a) == pytest.approx(float(score(ens.sel(time=kept), truth.sel(time=kept)).a))
    assert int(metrics.rank_histogram(ens.a, holes.a).sum()) == len(kept)


def test_dim():
    ens, truth = gaussian(6, 100)
    assert metrics.rmse(ens, truth, dim=[]).a.dims == ("time",)


def test_observation_chi_square_of_an_exact_posterior_is_one(rotation):
    grid, _, prior = rotation
    values = []
    for seed in range(10):
        truth = prior.sample(grid, members=1, seed=seed, progress=False).isel(member=0, drop=True)
        obs = truth.sda.observe(truth.isel(time=slice(None, None, 2)), sigma=0.3, seed=seed)
        post = truth.sda.assimilate(obs, prior, members=50, seed=100 + seed, progress=False)
        chi = metrics.observation_chi_square(post, obs)
        values.append(float(chi.to_array().mean()))
    assert np.mean(values) == pytest.approx(1, abs=0.12)


def test_evaluate_is_a_table(rotation):
    grid, _, prior = rotation
    ens = prior.sample(grid, members=8, progress=False)
    obs = grid[["u"]].isel(time=[0]).assign_attrs()
    table = ens.sda.evaluate(grid, obs=obs, sigma=0.5)
    assert set(table) == {"rmse", "bias", "crps", "spread", "spread_skill", "chi_square"}
    assert table.rmse.attrs["units"] == "m s-1"
    assert table.spread_skill.attrs["units"] == "1"
    assert list(table["variable"].values) == ["u", "v"]
    assert np.isnan(table.chi_square.sel(variable="v"))
    both = xr.concat([table, table], "method")
    assert both.to_dataframe().shape[0] == 4


def test_errors(rotation):
    ens, truth = gaussian(3, 10)
    with pytest.raises(ValueError, match="no dimension 'member'"):
        metrics.rmse(truth, truth)
    with pytest.raises(ValueError, match="at least 2 members"):
        metrics.crps(ens.isel(member=[0]), truth)
    with pytest.raises(ValueError, match="different coordinates"):
        metrics.rmse(ens, truth.isel(time=slice(5)))
    with pytest.raises(ValueError, match="share no variable"):
        metrics.rmse(ens, truth.rename(a="b"))
    with pytest.raises(ValueError, match="truth has a dimension 'member'"):
        xsda.evaluate(ens, ens)


def test_every_score_sees_the_same_cases():
    ens, truth = gaussian(20, 2000)
    wild = ens.where(truth.time < 1000, ens * 10)
    assert float(metrics.spread_skill(wild, truth.where(truth.time < 1000)).a) == pytest.approx(1, abs=0.06)


def test_ranks_do_not_depend_on_the_order_of_dimensions():
    rng = np.random.default_rng(0)
    dims = ("member", "x", "time")
    ens = xr.DataArray(rng.standard_normal((4, 30, 30)), dims=dims)
    truth = xr.DataArray(rng.standard_normal((30, 30)), dims=("x", "time"))
    truth = truth.where(truth < 1)
    xr.testing.assert_equal(metrics.rank_histogram(ens, truth), metrics.rank_histogram(ens, truth.transpose()))


def test_a_truth_of_other_dimensions_is_refused():
    ens, truth = gaussian(3, 10)
    with pytest.raises(ValueError, match="rename or reduce"):
        metrics.rmse(ens, truth.rename(time="t"))
    with pytest.raises(ValueError, match="rename or reduce"):
        metrics.rmse(ens, truth.mean("time"))
