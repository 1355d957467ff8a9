"""The same cases and the right weights in every score."""

import numpy as np
import pytest
import xarray as xr
from lazy import computes_nothing

from xsda import metrics

AVERAGES = (metrics.rmse, metrics.bias, metrics.mae, metrics.crps, metrics.spread_skill, metrics.coverage)


def test_averages_over_latitude_are_those_of_numpy(globe, area):
    ens, truth = globe
    error = (ens.t.mean("member") - truth.t).values
    weight = np.broadcast_to(area.values[:, None], error.shape)
    kept = ~np.isnan(error)
    assert 0 < kept.sum() < kept.size
    expected = np.average(error[kept], weights=weight[kept])
    assert float(metrics.bias(ens, truth).t) == pytest.approx(expected)
    expected = np.average(error[kept] ** 2, weights=weight[kept]) ** 0.5
    assert float(metrics.rmse(ens, truth).t) == pytest.approx(expected)
    assert float(metrics.rmse(ens, truth, weights=False).t) == pytest.approx((error[kept] ** 2).mean() ** 0.5)
    plain = metrics.rmse(ens, truth, ["time", "lon"])
    xr.testing.assert_allclose(plain, metrics.rmse(ens, truth, ["time", "lon"], weights=False))


@pytest.mark.parametrize("score", [metrics.rmse, metrics.spread, metrics.crps, metrics.mae])
@pytest.mark.parametrize("on_poles", [True, False])
def test_global_scores_converge_to_integrals_over_the_sphere(score, on_poles):
    """Members at +-c around a truth of 0, with c = cos(lat)^2: scores are known means of c or c^2 over the sphere."""
    errors = []
    for n in (24, 48, 96):
        lat = np.linspace(-90, 90, n + 1) if on_poles else np.linspace(-90 + 90 / n, 90 - 90 / n, n)
        c = xr.DataArray(np.cos(np.deg2rad(lat)) ** 2, {"lat": lat}, ("lat",)).expand_dims(time=2, lon=4)
        ens = xr.concat([c, -c, 3 * c], "member")
        truth = xr.zeros_like(c)
        mean, square = 2 / 3, 8 / 15
        exact = {
            metrics.rmse: square**0.5,  # the ensemble mean is c
            metrics.spread: 2 * square**0.5,
            metrics.crps: (5 / 3 - 4 / 3) * mean,
            metrics.mae: mean,
        }
        value = score(ens) if score is metrics.spread else score(ens, truth)
        errors.append(abs(float(value) - exact[score]))
    assert (np.log2(np.divide(errors[:-1], errors[1:])) > 1.9).all()
    assert errors[-1] < 3e-4


def test_the_order_of_latitudes_does_not_matter(globe):
    ens, truth = globe
    shuffled = [3, 0, 6, 1, 5, 2, 4]
    for rows in (slice(None, None, -1), shuffled):
        xr.testing.assert_allclose(
            metrics.evaluate(ens.isel(lat=rows), truth.isel(lat=rows)), metrics.evaluate(ens, truth)
        )


@pytest.mark.parametrize(
    ("name", "attrs", "weighted"),
    [
        ("lat", {}, True),
        ("latitude", {"units": "degrees_north"}, True),
        ("y", {"units": "degrees_north"}, True),
        ("y", {"standard_name": "latitude"}, True),
        ("rlat", {"standard_name": "grid_latitude", "units": "degrees"}, True),
        ("y", {}, False),
        ("lat", {"units": "km"}, False),
    ],
)
def test_what_is_a_latitude(name, attrs, weighted):
    axis = xr.DataArray([0.0, 60.0], dims=name, attrs=attrs)
    truth = xr.DataArray([0.0, 3.0], {name: axis}, (name,))
    ens = xr.zeros_like(truth).expand_dims(member=2)
    assert float(metrics.mae(ens, truth)) == pytest.approx(1.0 if weighted else 1.5)


def test_own_weights(globe, area):
    ens, truth = globe
    for score in AVERAGES:
        xr.testing.assert_allclose(score(ens, truth, weights=3 * area), score(ens, truth))
    alone = xr.zeros_like(area)
    alone[2] = 1
    there = metrics.crps(ens, truth, weights=alone)
    xr.testing.assert_allclose(there, metrics.crps(ens.isel(lat=2, drop=True), truth.isel(lat=2, drop=True)))


@pytest.mark.parametrize("score", AVERAGES)
def test_lazy_is_the_same(score, globe):
    ens, truth = globe
    with computes_nothing():
        lazy = score(ens.chunk({"member": 2, "time": 3, "lat": 4}), truth.chunk({"time": 2}))
    assert all(v.chunks is not None for v in lazy.data_vars.values())
    xr.testing.assert_allclose(lazy.compute(), score(ens, truth))


def test_missing_truth_is_passed_over(gaussian):
    ens, truth = gaussian(6, 100)
    holes = truth.where(truth.time % 3 > 0)
    kept = truth.time.values[truth.time % 3 > 0]
    for score in AVERAGES:
        np.testing.assert_allclose(score(ens, holes).a, score(ens.sel(time=kept), truth.sel(time=kept)).a)
    assert int(metrics.rank_histogram(ens.a, holes.a).sum()) == len(kept)


def test_every_score_sees_the_same_cases(gaussian):
    ens, truth = gaussian(20, 2000)
    wild = ens.where(truth.time < 1000, ens * 10)
    assert float(metrics.spread_skill(wild, truth.where(truth.time < 1000)).a) == pytest.approx(1, abs=0.06)


def test_units(globe):
    ens, truth = globe
    for score in (metrics.rmse, metrics.bias, metrics.mae, metrics.crps):
        assert [v.attrs for v in score(ens, truth).data_vars.values()] == [{"units": "K"}, {"units": "kg kg-1"}]
    assert metrics.spread_skill(ens, truth).t.attrs == {"units": "1"}
    celsius = (truth.t - 273.15).assign_attrs(units="degC")
    np.testing.assert_allclose(metrics.rmse(ens.t, celsius), metrics.rmse(ens.t, truth.t), rtol=1e-12)
    with pytest.raises(ValueError, match="is in 'Pa', the ensemble in 'K', and one cannot be converted"):
        metrics.rmse(ens.t, truth.t.assign_attrs(units="Pa"))


def test_errors(gaussian, globe):
    ens, truth = gaussian(3, 10)
    with pytest.raises(ValueError, match="no dimension 'member'"):
        metrics.rmse(truth, truth)
    with pytest.raises(ValueError, match="at least 2 members"):
        metrics.crps(ens.isel(member=[0]), truth)
    with pytest.raises(ValueError, match=r"different coordinates along 'time'; use .sel or .interp first$"):
        metrics.rmse(ens, truth.isel(time=slice(5)))
    dated = truth.assign_coords(time=np.datetime64("2026-03-01", "ns") + np.arange(truth.sizes["time"]))
    with pytest.raises(
        ValueError, match="'time' of the ensemble holds numbers, that of the truth holds dates; convert"
    ):
        metrics.evaluate(ens, dated)
    with pytest.raises(ValueError, match="share no variable"):
        metrics.rmse(ens, truth.rename(a="b"))
    with pytest.raises(ValueError, match="truth has a dimension 'member'"):
        metrics.evaluate(ens, ens)
    with pytest.raises(ValueError, match="rename or reduce"):
        metrics.rmse(ens, truth.rename(time="t"))
    with pytest.raises(ValueError, match="rename or reduce"):
        metrics.rmse(ens, truth.mean("time"))
    both = truth.assign(b=truth.a)
    with pytest.raises(ValueError, match="'b' of the truth"):
        metrics.rmse(ens.assign(b=ens.a), both.assign(b=truth.a.mean("time")))
    with pytest.raises(TypeError, match="two Datasets or two DataArrays"):
        metrics.rmse(ens, truth.a)
    with pytest.raises(ValueError, match="dim names 'lat'"):
        metrics.rmse(ens, truth, "lat")
    ens, truth = globe
    with pytest.raises(TypeError, match="must be a DataArray"):
        metrics.rmse(ens, truth, weights=True)
    with pytest.raises(ValueError, match="negative"):
        metrics.rmse(ens, truth, weights=truth.lat)
    with pytest.raises(ValueError, match="'q' has"):
        metrics.rmse(ens, truth, weights=xr.ones_like(truth.t[0]))
    with pytest.raises(ValueError, match="different coordinates"):
        metrics.rmse(ens, truth, weights=abs(truth.lat)[1:])
    renamed = abs(truth.lat).rename(lat="latitude")
    for score in (metrics.rmse, metrics.energy_score, metrics.variogram_score):
        with pytest.raises(ValueError, match="dimension 'latitude'"):
            score(ens.t, truth.t, weights=renamed)
    with pytest.raises(ValueError, match="dimension 'latitude'"):
        metrics.mmd(ens.t, ens.t, weights=renamed)
    metres = {"lat": truth.lat * 1000}
    with pytest.raises(ValueError, match="between -90 and 90"):
        metrics.rmse(ens.assign_coords(metres), truth.assign_coords(metres))


@pytest.mark.parametrize("dims", [["y", "x"], ["y"], None])
def test_curvilinear_scores_equal_those_of_the_plain_grid(dims):
    """The same cells with one- and with two-dimensional coordinates."""
    rng = np.random.default_rng(0)
    lat, lon = xr.DataArray(np.linspace(10, 70, 61), dims="y"), xr.DataArray(np.linspace(0, 40, 41), dims="x")
    ens = xr.DataArray(rng.standard_normal((4, 3, 61, 41)), dims=("member", "time", "y", "x"))
    truth = ens[0] + np.cos(np.deg2rad(lat))
    plain = metrics.rmse(
        *(f.assign_coords(y=("y", lat.values, {"units": "degrees_north"})) for f in (ens, truth)), dims
    )
    lat2, lon2 = xr.broadcast(lat, lon)
    curved = metrics.rmse(*(f.assign_coords(lat=lat2, lon=lon2) for f in (ens, truth)), dims)
    np.testing.assert_allclose(curved, plain, rtol=2e-3)
    assert (abs(plain - metrics.rmse(ens, truth, dims)) > 4e-3).any()
    with computes_nothing():
        lazy = metrics.rmse(*(f.chunk().assign_coords(lat=lat2, lon=lon2) for f in (ens, truth)), dims)
    np.testing.assert_allclose(lazy, curved)
