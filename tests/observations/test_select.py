"""A table with flags, reports outside and duplicates, with the options, equals the table that was made by hand."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import xsda
from xsda.baselines import ETKF, LETKF, analyse
from xsda.metrics import desroziers, innovation_consistency, innovations, largest_innovations
from xsda.observations import check, explain

OPTIONS = {"quality": "good", "outside": "drop", "superobs": "cell"}
LAT, LON = np.linspace(50, 56, 4), np.linspace(0, 6, 4)
pytestmark = pytest.mark.filterwarnings("ignore:.*(averaged|flags|outside):UserWarning")


@pytest.fixture(scope="module")
def case():
    """(grid, prior, ensemble): temperature and wind at four times."""
    shape = (4, 4, 4)
    grid = xr.Dataset(
        {v: (("time", "lat", "lon"), np.full(shape, x), {"units": u}) for v, x, u in (("t", 280.0, "K"), ("u", 0.0, "m s-1"))},
        {"time": np.arange(4.0), "lat": LAT, "lon": LON},
    )  # fmt: skip
    decay = np.exp(-np.abs(np.subtract.outer(np.arange(4), np.arange(4))) / 2)
    prior = xsda.GaussianPrior.separable(grid, decay, decay, decay, channel_cov=np.diag([4.0, 9.0]))
    return grid, prior, xsda.sample(grid, prior, members=6, seed=0, progress=False)


@pytest.fixture
def tables():
    """Reports as they come, in degrees Celsius, and the same selected and averaged by hand, in any order."""
    came = pd.DataFrame({
        "time": [0.0, 1.0, 1.0, 1.0, 2.0, 9.0, 3.0], "lat": [50.0, 52, 52, 52, 54.5, 54, 80],
        "lon": [0.0, 2, 2, 2, 3.5, 2, 2], "t": [5.0, 6.0, 9.0, 99.0, 7.0, 7.0, 7.0],
        "u": [1.0, 2.0, np.nan, 3.0, -1.0, 0.0, 0.0], "quality": ["good", "good", "good", "bad", "good", "good", "good"],
        "station": list("ABBBCDE"),
    })  # fmt: skip
    common = {"time": [0.0, 1.0, 2.0], "lat": [50.0, 52.0, 54.5], "lon": [0.0, 2.0, 3.5]}
    hand = pd.DataFrame({**common, "t": [5.0, 7.5, 7.0], "u": [1.0, 2.0, -1.0]})
    t_error = xr.DataArray([0.5, 0.5 / np.sqrt(2), 0.5], dims="report")
    (came,), (hand,) = (
        xsda.observations.as_sources(x, ["t", "u"], ["time", "lat", "lon"]).values() for x in (came, hand)
    )
    for ds in (came, hand):
        ds["t"].attrs = {"units": "degC"}
    return came, hand, {"t": t_error, "u": 0.7}


SIGMA = {"t": 0.5, "u": 0.7}


def flat(ds, name):
    """The values of a variable that are there, in the order of time."""
    da = ds[name]
    other = [d for d in da.dims if d in ("member", "estimate")]
    da = da.transpose(*other, ...)
    time = np.broadcast_to(da["time"].values, da.shape[len(other) :])
    values = da.values[..., np.argsort(time, kind="stable")] if time.ndim else da.values
    return values[..., np.isfinite(values).reshape(-1, values.shape[-1]).all(0)] if time.ndim else values


def test_innovations(case, tables):
    _, _, post = case
    came, hand, sigma = tables
    for a, b in (
        (innovations(post, came, **OPTIONS), innovations(post, hand)),
        (
            largest_innovations(post, came, sigma=SIGMA, **OPTIONS).members,
            largest_innovations(post, hand, sigma=sigma).members,
        ),
    ):
        for name in "tu":
            np.testing.assert_allclose(flat(a, name), flat(b, name), rtol=1e-6)
    a, b = (
        found.table["z"].to_numpy()
        for found in (
            post.sda.innovations(came, sigma=SIGMA, **OPTIONS), post.sda.innovations(hand, sigma=sigma),
        )
    )  # fmt: skip
    np.testing.assert_allclose(a, b, rtol=1e-6)
    ratio = innovation_consistency(post, came, sigma=SIGMA, **OPTIONS), innovation_consistency(post, hand, sigma=sigma)
    cycled = desroziers(post, post + 0.1, came, **OPTIONS), desroziers(post, post + 0.1, hand)
    for pair in (ratio, cycled):
        xr.testing.assert_allclose(*pair)


@pytest.mark.parametrize("method", [ETKF(), LETKF(localization=300.0)])
def test_one_analysis(case, tables, method):
    """Also where it is lazy."""
    forecast = case[2].isel(time=1)
    forecast = forecast.chunk(lat=2) if isinstance(method, LETKF) else forecast
    came, hand, _ = tables
    came, hand = (ds.isel(report=np.flatnonzero(ds.time == 1.0)) for ds in (came, hand))
    a = analyse(forecast, came, method=method, sigma=SIGMA, **OPTIONS)
    b = analyse(forecast, hand, method=method, sigma={"t": 0.5 / np.sqrt(2), "u": 0.7})
    xr.testing.assert_allclose(a.compute(), b.compute())
    assert float(abs(a.t - forecast.t).max()) > 0.01


def test_check(case, tables):
    grid, prior, _ = case
    came, hand, sigma = tables
    a = check(came, prior, grid=grid, sigma=SIGMA, **OPTIONS)
    b = check(hand, prior, grid=grid, sigma=sigma)
    for name in ("t", "t_z", "u_z"):
        np.testing.assert_allclose(flat(a.sources["obs"], name), flat(b.sources["obs"], name), rtol=1e-6)
    assert a.table["good"].tolist() == b.table["good"].tolist() == [3, 3]
    with pytest.raises(ValueError, match="superobs needs grid="):
        check(came, prior, superobs="cell")
    assert check(came, prior, quality="good").table["values"].tolist() == [6, 5]  # without a grid


def test_explain_counts_what_an_assimilation_uses(case, tables):
    grid, prior, _ = case
    came, _, _ = tables
    found = explain(grid, came, prior, sigma=SIGMA, **OPTIONS)
    t, u = (found.table.loc[("obs", v)] for v in "tu")
    names = ["values", "used", "missing", "rejected", "outside", "masked", "averaged to"]
    assert t[names].tolist() == [7, 4, 0, 1, 2, 0, 3]
    assert u[names].tolist() == [7, 3, 1, 1, 2, 0, 3]
    assert (t["sigma"], u["sigma"], t["sigma from"]) == ("0.353553 to 0.5", "0.7", "argument")
    post = grid.sda.assimilate(came, prior, sigma=SIGMA, members=1, steps=2, progress=False, **OPTIONS)
    assert post.attrs["observations"] == t["averaged to"] + u["averaged to"]
    assert not found.notes
    (note,) = explain(grid, came, prior, sigma=SIGMA).notes
    assert note == "an assimilation raises an error, because 4 values lie outside the grid; pass outside='drop'"
    assert note in repr(explain(grid, came, prior))
    assert "rejected" not in explain(grid, came, prior).table
