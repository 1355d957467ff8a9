"""What the climatology says of a record: points with few values, points alone, cycles, fill values."""

import warnings

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from xsda.labels import Layout
from xsda.labels.climatology import waves
from xsda.priors.normals import chosen_cycles, fit_normals


def weather(states=400):
    """Three-hourly noise on 6 x 8 points."""
    values = 280 + np.random.default_rng(0).standard_normal((states, 6, 8))
    coords = {
        "time": pd.date_range("2019-03-01", periods=states, freq="3h"),
        "lat": np.linspace(60, 50, 6),
        "lon": np.arange(8.0),
    }
    return xr.Dataset({"t": (("time", "lat", "lon"), values, {"units": "K"})}, coords)


def normals_of(ds, climatology=None, **options):
    layout = Layout.of(ds)
    return fit_normals(ds, layout, chosen_cycles(ds, layout, climatology), **options).normals


def test_points_with_few_values_and_points_alone_are_counted_once():
    ds = weather()
    few = ds.t.where((ds.time < ds.time[3]) | (ds.lon != 0) | (ds.lat < 56)).to_dataset()
    with pytest.warns(UserWarning, match="masked") as said:
        valid = normals_of(few).valid
    assert [str(w.message) for w in said] == [
        "3 grid points have values in fewer than 20 states of the record; they are masked, as if there were none"
    ]
    assert (~valid).sum() == 3
    alone = ds.where((ds.lon < 3) | ((ds.lon == 5) & (ds.lat == 54)))
    with pytest.warns(UserWarning, match="no neighbour with values: 1, the first at lat 54, lon 5; they are") as said:
        assert normals_of(alone).valid.sum() == 6 * 3 + 1
    assert len(said) == 1


def test_a_ring_joins_the_ends_of_a_map():
    """A point on the first meridian is no island if the last has values, on a globe; in a region it is."""
    ds = weather().isel(lat=[0, 2, 4]).assign_coords(lon=np.arange(8) * 45.0)
    row = ds.where(((ds.lon == 0) & (ds.lat == ds.lat[1])) | (ds.lon == 315))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        normals_of(row)
    with pytest.warns(UserWarning, match="no neighbour with values: 1, the first at lat 56, lon 0;"):
        normals_of(row.assign_coords(lon=np.arange(8.0)))


def test_cycles_that_the_dates_do_not_resolve():
    ds = weather()
    daily = ds.assign_coords(time=pd.date_range("2001-01-01", periods=ds.sizes["time"]))
    with pytest.raises(ValueError, match=r"hour_of_day' needs .* but the time step of the record is 1 day; omit it"):
        normals_of(daily, "hour_of_day")
    with pytest.raises(ValueError, match=r"day_of_year' needs about a year of data, but the record spans 49\.88 days"):
        normals_of(ds, ("hour_of_day", "day_of_year"))
    assert normals_of(daily, "day_of_year").cycles == ("day_of_year",)
    one = daily.isel(lat=[0], lon=[0]).where(daily.time.dt.day_of_year % 40 == 9)  # 9 values for 5 coefficients
    with pytest.raises(ValueError, match="'t' has 9 values, too few for its climatology, which needs 10; use"):
        normals_of(one.isel(time=slice(None, 350)), "day_of_year")


def test_a_fill_value_late_in_the_record(monkeypatch):
    ds = weather()
    ds.t[-1, 0, 0] = -9999.0
    monkeypatch.setattr("xsda.priors.moments.BLOCK_NUMBERS", 48 * 50)
    with pytest.raises(ValueError, match="1 values of the data are -9999, which stands for a missing value"):
        normals_of(ds)


def test_a_mask_holds_true_or_false():
    ds = weather()
    sea = ds.t[0].notnull() & (ds.lon > 2)
    assert normals_of(ds, mask=sea.astype(float)).valid.sum() == sea.sum()
    with pytest.raises(ValueError, match=r"mask must be True or False .* use .notnull"):
        normals_of(ds, mask=ds.t[0])


def test_points_with_few_values_have_nearly_the_optimal_cycles():
    """As with the posterior mean that knows how cycles differ between points; points without gaps keep least squares."""
    rng, noise = np.random.default_rng(0), 0.8
    time = pd.date_range("2001-01-16", periods=36, freq="MS")
    ds = xr.Dataset({"t": (("time", "lat", "lon"), np.zeros((36, 12, 20)))}, {"time": time, "lat": np.arange(12.0)})
    w, mean, spread = waves(ds.time, ("day_of_year",)), np.array([4, -2, 1, 0.5]), np.eye(4) * 0.5**2
    cycles = rng.multivariate_normal(mean, spread, (12, 20))
    ds.t.values[:] = 290 + np.einsum("tk,yxk->tyx", w[:, 1:], cycles) + noise * rng.standard_normal(ds.t.shape)
    whole = rng.random((12, 20)) < 0.1
    kept = xr.DataArray(rng.random(ds.t.shape) < 0.15, dims=ds.t.dims) | (ds.time.dt.month == 1)
    gappy = ds.where(kept | xr.DataArray(whole, dims=("lat", "lon")))
    fitted = fit_normals(gappy, Layout.of(gappy), ("day_of_year",))
    found = np.moveaxis(fitted.normals.mean[1:, 0] * fitted.std[0], 0, -1)
    best, squares = np.empty_like(found), np.empty_like(found)
    for place in np.ndindex(12, 20):
        x = gappy.t.values[:, *place]
        some = w[np.isfinite(x)]
        squares[place] = np.linalg.lstsq(some, x[np.isfinite(x)], rcond=None)[0][1:]
        precision = some.T @ some / noise**2 + np.diag([1e-9, *1 / np.diag(spread)])
        prior = np.array([0, *mean / np.diag(spread)])
        best[place] = np.linalg.solve(precision, some.T @ x[np.isfinite(x)] / noise**2 + prior)[1:]
    assert fitted.normals.valid.all()
    np.testing.assert_allclose(found[whole], squares[whole], atol=1e-5)
    errors = [np.sqrt(np.square(c - cycles)[~whole].mean()) for c in (found, best)]
    assert errors[0] < 1.05 * errors[1] < 0.9 * spread[0, 0] ** 0.5
    assert fitted.normals.std[0][~whole].mean() * fitted.std[0] == pytest.approx(noise, rel=0.1)
