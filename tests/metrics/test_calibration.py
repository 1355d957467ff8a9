"""Ranks, coverage and reliability of truths that are like the members, and of some that are not."""

import numpy as np
import pytest
import xarray as xr
from lazy import computes_nothing
from scipy.stats import chisquare

from xsda import metrics


def test_ranks_of_a_calibrated_ensemble_are_uniform(gaussian):
    ens, truth = gaussian()
    counts = metrics.rank_histogram(ens.a, truth.a)
    assert counts.sizes["rank"] == 21
    test = metrics.rank_uniformity(counts)
    reference = chisquare(counts)
    assert float(test.chi_square) == pytest.approx(reference.statistic)
    assert float(test.p_value) == pytest.approx(reference.pvalue)
    assert float(test.p_value) > 0.01
    narrow, truth = gaussian(scale=0.5)
    assert float(metrics.rank_uniformity(metrics.rank_histogram(narrow.a, truth.a)).p_value) < 1e-6


def test_p_values_are_uniform():
    counts = np.random.default_rng(0).multinomial(500, [1 / 6] * 6, size=3000)
    p = metrics.rank_uniformity(xr.DataArray(counts, dims=("case", "rank"))).p_value
    np.testing.assert_allclose(p.quantile([0.1, 0.5, 0.9]), [0.1, 0.5, 0.9], atol=0.03)
    with pytest.raises(ValueError, match="expected 'rank'"):
        metrics.rank_uniformity(xr.DataArray(counts, dims=("case", "bin")))


def test_ranks_of_a_globe_are_weighted_by_area(globe, area):
    ens, truth = globe
    counts = metrics.rank_histogram(ens.t, truth.t)
    w = area.broadcast_like(truth.t).where(truth.t.notnull(), 0)
    rank = (ens.t < truth.t).sum("member")
    shares = [float(w.where(rank == r).sum() / w.sum()) for r in range(6)]
    np.testing.assert_allclose(counts / counts.sum(), shares)
    assert float(counts.sum()) == pytest.approx(float(w.sum() ** 2 / (w**2).sum()))
    plain = metrics.rank_histogram(ens.t, truth.t, weights=False)
    assert int(plain.sum()) == int(truth.t.notnull().sum())
    np.testing.assert_allclose(metrics.rank_histogram(ens.t, truth.t, weights=xr.ones_like(area)), plain)


def test_weighted_ranks_are_judged_like_equal_ones():
    """The test statistic of M + 1 equally likely ranks has the mean M, whatever the weights."""
    rng = np.random.default_rng(2)
    lat = np.linspace(-88, 88, 45)
    statistics = []
    for _ in range(400):
        both = xr.DataArray(rng.standard_normal((5, 45, 6)), {"lat": lat}, ("member", "lat", "lon"))
        statistics.append(float(metrics.rank_uniformity(metrics.rank_histogram(both[1:], both[0])).chi_square))
    assert np.mean(statistics) == pytest.approx(4, abs=4 * 8**0.5 / 20)


def test_ranks_do_not_depend_on_the_order_of_dimensions():
    rng = np.random.default_rng(0)
    dims = ("member", "x", "time")
    ens = xr.DataArray(rng.standard_normal((4, 30, 30)), dims=dims)
    truth = xr.DataArray(rng.standard_normal((30, 30)), dims=("x", "time"))
    truth = truth.where(truth < 1)
    xr.testing.assert_equal(metrics.rank_histogram(ens, truth), metrics.rank_histogram(ens, truth.transpose()))


@pytest.mark.parametrize("values", [range(2), range(3), range(6), range(11), [0, 0, 1, 2], [1, 1, 1], [0, 2, 2, 2, 5]])
def test_coverage_of_exchangeable_draws_is_exact(values):
    """Each of M + 1 values in turn is the truth, the others are the members: the mean coverage is the nominal one."""
    values = np.array(values, dtype=float)
    members = np.stack([np.delete(values, i) for i in range(len(values))], axis=1)
    ens, truth = xr.DataArray(members, dims=("member", "case")), xr.DataArray(values, dims="case")
    levels = (0.05, 0.5, 0.8, 0.9, 0.99)
    np.testing.assert_allclose(metrics.coverage(ens, truth, levels), levels)


def test_coverage_of_overconfident_ensembles_is_small(gaussian):
    narrow, truth = gaussian(scale=0.5)
    held = metrics.coverage(narrow, truth, (0.5, 0.9)).a
    assert (held < [0.35, 0.7]).all()
    assert held.sel(nominal=0.9).attrs == {"units": "1"}
    one_by_one = metrics.coverage(narrow, truth, (0.5,), dim=[]).a
    assert one_by_one.dims == ("time", "nominal")
    # of 20 members the middle half are ranks 6 to 14, and a quarter each of ranks 5 and 15
    rank = (narrow.a < truth.a).sum("member")
    expected = xr.where((rank >= 6) & (rank <= 14), 1.0, xr.where((rank == 5) | (rank == 15), 0.75, 0.0))
    np.testing.assert_allclose(one_by_one.sel(nominal=0.5), expected)
    with pytest.raises(ValueError, match="between 0 and 1"):
        metrics.coverage(narrow, truth, (50, 90))


def test_reliability_by_hand():
    ens = xr.DataArray(np.arange(10.0)[:, None] + np.zeros(4), dims=("member", "case"))
    truth = xr.DataArray([0.0, 9.0, 9.0, np.nan], dims="case")
    diagram = metrics.reliability(ens, truth, 6.5)  # 3 of 10 members: the bin from 0.3 on, and not the one below
    np.testing.assert_allclose(diagram.probability, np.arange(10) / 10 + 0.05)
    assert diagram["count"].values.tolist() == [0, 0, 0, 3, 0, 0, 0, 0, 0, 0]
    assert float(diagram.forecast_probability[3]) == pytest.approx(0.3)
    assert float(diagram.observed_frequency[3]) == pytest.approx(2 / 3)
    assert diagram.observed_frequency.isnull().sum() == 9
    assert int(metrics.reliability(ens, truth, -1.0)["count"][-1]) == 3


def test_forecasts_that_know_the_probability_are_reliable():
    """Where truth and members share a centre, the frequency follows the probability; ranks of anomalies do not help."""
    rng = np.random.default_rng(0)
    centre = rng.standard_normal(20_000)
    both = xr.DataArray(centre + rng.standard_normal((201, 20_000)), dims=("member", "case"))
    good = metrics.reliability(both[1:], both[0], 0.5, bins=5)
    np.testing.assert_allclose(good.observed_frequency, good.forecast_probability, atol=0.04)
    assert int(good["count"].sum()) == 20_000
    sharp = metrics.reliability(centre + 0.2 * (both[1:] - centre), both[0], 0.5, bins=5)
    slope = np.polyfit(sharp.forecast_probability, sharp.observed_frequency, 1)[0]
    assert slope < 0.6


def test_reliability_is_weighted_and_lazy(globe, area):
    ens, truth = globe
    threshold = ens.t.mean(["member", "time"])
    diagram = metrics.reliability(ens.t, truth.t, threshold, bins=2)
    with computes_nothing():
        lazy = metrics.reliability(ens.t.chunk({"time": 2}), truth.t.chunk(), threshold, bins=2)
    assert lazy.observed_frequency.chunks is not None
    xr.testing.assert_allclose(lazy.compute(), diagram)
    p = (ens.t > threshold).mean("member")
    low = (p < 0.5) & truth.t.notnull()
    weight = area.broadcast_like(p).where(low, 0).transpose(*p.dims)
    assert float(diagram.forecast_probability[0]) == pytest.approx(np.average(p, weights=weight))
    assert float(diagram.observed_frequency[0]) == pytest.approx(np.average(truth.t > threshold, weights=weight))
    with pytest.raises(TypeError, match="choose a variable"):
        metrics.reliability(ens, truth, 0.5)
    with pytest.raises(ValueError, match="bins"):
        metrics.reliability(ens.t, truth.t, 0.5, bins=0)
