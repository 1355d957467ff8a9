"""Scores of the whole ensemble against closed forms, brute force and a reference implementation."""

from math import gamma, pi

import numpy as np
import pytest
import xarray as xr
from lazy import computes_nothing
from scipy.stats import norm

from xsda import metrics


def test_spread_over_skill_of_a_calibrated_ensemble(gaussian):
    for members in (3, 20):
        ens, truth = gaussian(members)
        assert float(metrics.spread_skill(ens, truth).a) == pytest.approx(1, abs=0.03)
        assert float(metrics.spread(ens).a) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("y", [0.0, 1.3, -2.0])
def test_crps_of_a_gaussian_ensemble(y):
    """The fair score has the mean of the analytic one for every M, the classic one 1 / (M sqrt(pi)) more."""
    analytic = y * (2 * norm.cdf(y) - 1) + 2 * norm.pdf(y) - pi**-0.5
    for members in (2, 5, 40):
        x = np.random.default_rng(0).standard_normal((members, 40_000))
        ens, truth = xr.DataArray(x, dims=("member", "case")), xr.DataArray(np.full(40_000, y), dims="case")
        assert float(metrics.crps(ens, truth)) == pytest.approx(analytic, abs=0.02)
        excess = metrics.crps(ens, truth, fair=False) - metrics.crps(ens, truth)
        assert float(excess) == pytest.approx(pi**-0.5 / members, rel=0.02)


def test_crps_of_a_calibrated_ensemble_does_not_depend_on_the_number_of_members(gaussian):
    for members in (2, 5, 50):
        ens, truth = gaussian(members, cases=20_000)
        assert float(metrics.crps(ens, truth).a) == pytest.approx(pi**-0.5, rel=0.03)


def test_crps_equals_scores(globe, area):
    scores = pytest.importorskip("scores")
    ens, truth = globe
    for fair, method in ((True, "fair"), (False, "ecdf")):
        theirs = scores.probability.crps_for_ensemble(
            ens.t, truth.t, "member", method=method, reduce_dims=["lat", "lon"], weights=area
        )
        np.testing.assert_allclose(metrics.crps(ens, truth, ["lat", "lon"], fair=fair).t, theirs)


@pytest.mark.parametrize("fair", [True, False])
def test_energy_score_in_one_dimension_is_crps(fair, globe):
    ens, truth = globe
    ours = metrics.energy_score(ens.t, truth.t, dim=[], fair=fair)
    xr.testing.assert_allclose(ours, metrics.crps(ens.t, truth.t, dim=[], fair=fair), atol=1e-6)
    assert ours.attrs == {"units": "K"}


def test_energy_score_of_standard_normal_vectors():
    """E|X - Y| - E|X - X'| / 2 with both differences sqrt(2) times standard normal, for every M."""
    expected = gamma(3.5) / gamma(3)
    for members in (2, 8):
        x = np.random.default_rng(members).standard_normal((members + 1, 10_000, 2, 3))
        both = xr.DataArray(x, dims=("member", "case", "y", "x"))
        score = metrics.energy_score(both[1:], both[0], ["x", "y"]).mean()
        assert float(score) == pytest.approx(expected, rel=0.02)


def test_energy_score_of_several_variables_by_brute_force(globe, area):
    ens, truth = globe
    scale = {"t": 2.0, "q": 0.5}
    w = area.values
    w = w / w.mean()

    def vectors(ds):
        t = ds.t.values / scale["t"] * np.sqrt(w)[:, None]
        q = ds.q.values / scale["q"] * np.sqrt(w)
        return np.concatenate([t.reshape(*t.shape[:-2], -1), q], -1)

    x, y = vectors(ens), vectors(truth)
    skill = np.sqrt(np.nansum((x - y) ** 2, -1)).mean(0)
    x = np.where(np.isnan(y), 0, x)
    pairs = np.sqrt(((x[:, None] - x[None]) ** 2).sum(-1)).sum((0, 1))
    score = metrics.energy_score(ens, truth, ["lat", "lon"], scale=scale)
    np.testing.assert_allclose(score, skill - pairs / (2 * 5 * 4))
    classic = metrics.energy_score(ens, truth, ["lat", "lon"], scale=scale, fair=False)
    np.testing.assert_allclose(classic, skill - pairs / (2 * 5 * 5))
    with computes_nothing():
        lazy = metrics.energy_score(ens.chunk({"time": 2, "lat": 3}), truth.chunk(), ["lat", "lon"], scale=scale)
    assert lazy.chunks is not None
    xr.testing.assert_allclose(lazy.compute(), score)


def test_a_vector_without_any_value_has_no_energy_score(globe):
    ens, truth = globe
    score = metrics.energy_score(ens.t, truth.t.where(truth.time != 2), ["lat", "lon"])
    np.testing.assert_array_equal(score.isnull(), truth.time == 2)


def test_variables_of_different_units_need_scales(globe):
    ens, truth = globe
    with pytest.raises(ValueError, match=r"different units \(t: K, q: kg kg-1\)"):
        metrics.energy_score(ens, truth)
    with pytest.raises(KeyError, match="scale lacks the variable 'q'"):
        metrics.energy_score(ens, truth, scale={"t": 1})
    with pytest.raises(KeyError, match="did you mean 'q'"):
        metrics.energy_score(ens, truth, scale={"t": 1, "q": 1, "qq": 1})
    with pytest.raises(ValueError, match="positive"):
        metrics.energy_score(ens, truth, scale={"t": 1, "q": 0})
    with pytest.raises(TypeError, match="Dataset"):
        metrics.energy_score(ens.t, truth.t, scale={"t": 1})
    assert metrics.energy_score(ens, truth, scale=truth.std()).attrs == {"units": "1"}


@pytest.mark.parametrize("p", [0.5, 1.0])
@pytest.mark.parametrize("fair", [True, False])
def test_variogram_score_by_brute_force(p, fair, globe, area):
    ens, truth = globe
    w = area.values
    for time, ours in enumerate(metrics.variogram_score(ens, truth, ["lat", "lon"], p=p, fair=fair).t.values):
        x, y = ens.t.values[:, time].reshape(5, -1), truth.t.values[time].ravel()
        total = count = 0.0
        weight = np.repeat(w, 8)
        for i in range(len(y)):
            for j in range(i):
                of_members = abs(x[:, i] - x[:, j]) ** p
                misfit = (abs(y[i] - y[j]) ** p - of_members.mean()) ** 2 - fair * of_members.var(ddof=1) / 5
                if not np.isnan(misfit):
                    total, count = total + weight[i] * weight[j] * misfit, count + weight[i] * weight[j]
        assert ours == pytest.approx(total / count)


def test_variogram_score_does_not_depend_on_the_number_of_members():
    """Of two independent standard normals, V = |X - X'|^p, it is the variance of V."""
    p = 1.0  # V = |N(0, 2)|: mean 2 / sqrt(pi), mean square 2
    for members in (2, 20):
        x = np.random.default_rng(members).standard_normal((members + 1, 20_000, 2))
        both = xr.DataArray(x, dims=("member", "case", "x"), attrs={"units": "m"})
        score = metrics.variogram_score(both[1:], both[0], "x", p=p)
        assert float(score.mean()) == pytest.approx(2 - 4 / pi, rel=0.05)
        assert score.attrs == {"units": "(m)2"}


def test_variogram_score_is_blind_to_a_common_error_and_lazy(globe):
    ens, truth = globe
    score = metrics.variogram_score(ens, truth, ["lat", "lon"])
    xr.testing.assert_allclose(metrics.variogram_score(ens + 3, truth, ["lat", "lon"]), score)
    with computes_nothing():
        lazy = metrics.variogram_score(ens.chunk({"time": 2, "lat": 3}), truth.chunk(), ["lat", "lon"])
    assert lazy.t.chunks is not None
    xr.testing.assert_allclose(lazy.compute(), score)
    with pytest.raises(ValueError, match="at least two values"):
        metrics.variogram_score(ens, truth, [])
    with pytest.raises(ValueError, match="p must be positive"):
        metrics.variogram_score(ens, truth, p=0)
