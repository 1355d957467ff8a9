"""Scores of the ensemble mean against closed forms and a reference implementation."""

import numpy as np
import pytest
import xarray as xr
from lazy import computes_nothing

from xsda import metrics


def test_a_calibrated_ensemble(gaussian):
    ens, truth = gaussian()
    variance = 1 + 1 / 20
    assert float(metrics.rmse(ens, truth).a) == pytest.approx(variance**0.5, rel=0.03)
    assert float(metrics.mae(ens, truth).a) == pytest.approx((2 / np.pi * variance) ** 0.5, rel=0.03)
    assert float(metrics.bias(ens, truth).a) == pytest.approx(0, abs=0.05)


def test_they_equal_scores(globe, area):
    theirs = pytest.importorskip("scores").continuous
    ens, truth = globe
    pairs = ((metrics.rmse, theirs.rmse), (metrics.mae, theirs.mae), (metrics.bias, theirs.additive_bias))
    for ours, reference in pairs:
        for dims in (["lat", "lon"], ["time", "lat", "lon"]):
            expected = reference(ens.t.mean("member"), truth.t, reduce_dims=dims, weights=area)
            np.testing.assert_allclose(ours(ens, truth, dims).t, expected)


def test_dim(gaussian):
    ens, truth = gaussian(6, 100)
    one_by_one = metrics.rmse(ens, truth, dim=[]).a
    np.testing.assert_allclose(one_by_one, abs(ens.a.mean("member") - truth.a))
    assert one_by_one.dims == ("time",)


def test_anomaly_correlation_is_the_correlation_of_departures(globe, area):
    ens, truth = globe
    climatology = ens.mean(["member", "time"])
    f, o = ens.mean("member").t - climatology.t, truth.t - climatology.t
    kept = o.notnull().values
    w = np.broadcast_to(area.values[:, None], kept.shape)[kept]
    f, o = f.values[kept], o.values[kept]
    plain = np.average(f * o, weights=w) / (np.average(f**2, weights=w) * np.average(o**2, weights=w)) ** 0.5
    assert float(metrics.anomaly_correlation(ens, truth, climatology).t) == pytest.approx(plain)
    cov = np.cov(f, o, aweights=w)
    centred = metrics.anomaly_correlation(ens, truth, climatology, centred=True)
    assert float(centred.t) == pytest.approx(cov[0, 1] / (cov[0, 0] * cov[1, 1]) ** 0.5)
    assert centred.t.attrs == {"units": "1"}
    unweighted = metrics.anomaly_correlation(ens, truth, climatology, centred=True, weights=False)
    assert float(unweighted.t) == pytest.approx(np.corrcoef(f, o)[0, 1])


def test_only_the_uncentred_anomaly_correlation_sees_a_constant_error(gaussian):
    ens, truth = gaussian(20, 500)
    climatology = truth.mean("time")
    near, far = (metrics.anomaly_correlation(e, truth, climatology).a for e in (ens, ens + 5))
    assert float(far) < float(near) - 0.2
    near, far = (metrics.anomaly_correlation(e, truth, climatology, centred=True).a for e in (ens, ens + 5))
    assert float(far) == pytest.approx(float(near))
    assert float(metrics.anomaly_correlation(truth.expand_dims(member=2), truth, climatology).a) == pytest.approx(1)


def test_a_climatology_that_does_not_fit_is_refused(globe):
    ens, truth = globe
    with pytest.raises(KeyError, match="lacks the variable 'q'"):
        metrics.anomaly_correlation(ens, truth, truth[["t"]].mean("time"))
    with pytest.raises(ValueError, match="different coordinates"):
        metrics.anomaly_correlation(ens, truth, truth.isel(lat=slice(3)).mean("time"))
    daily = truth.rename(time="dayofyear")
    with pytest.raises(ValueError, match="dayofyear=truth"):
        metrics.anomaly_correlation(ens, truth, daily)


def test_anomaly_correlation_is_lazy(globe):
    ens, truth = globe
    climatology = xr.zeros_like(truth)
    with computes_nothing():
        lazy = metrics.anomaly_correlation(ens.chunk({"time": 2}), truth.chunk(), climatology, centred=True)
    assert lazy.t.chunks is not None
    xr.testing.assert_allclose(lazy.compute(), metrics.anomaly_correlation(ens, truth, climatology, centred=True))
