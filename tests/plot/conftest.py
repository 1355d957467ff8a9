"""A small geographic field with stations, some of whose values are missing."""

import sys

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import xarray as xr


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


@pytest.fixture
def weather():
    """(truth, ensemble of 6, stations): temperature and wind, five times, latitudes around 60."""
    rng = np.random.default_rng(0)
    coords = {
        "time": pd.date_range("2026-03-01", periods=5, freq="6h"),
        "lat": ("lat", np.linspace(65, 55, 6), {"units": "degrees_north"}),
        "lon": ("lon", np.linspace(-10, 4, 8), {"units": "degrees_east"}),
    }
    dims = ("time", "lat", "lon")
    truth = xr.Dataset(
        {
            "t": (dims, 280 + 3 * rng.standard_normal((5, 6, 8)), {"units": "K", "long_name": "air temperature"}),
            "u": (dims, 5 * rng.standard_normal((5, 6, 8)), {"units": "m s-1"}),
        },
        coords,
    )
    noise = xr.DataArray(rng.standard_normal((6, 5, 6, 8)), dims=("member", *dims))
    post = xr.Dataset({v: (truth[v] + noise).transpose("member", ...).assign_attrs(truth[v].attrs) for v in truth})
    values = np.full((5, 4), np.nan)
    values[4, 2], values[2, :3] = 281.0, [279.0, 280.0, 282.0]
    stations = xr.Dataset(
        {"t": (("time", "station"), values, {"units": "K", "error_std": 0.5})},
        {"time": truth.time, "lat": ("station", [56.0, 58, 60, 62]), "lon": ("station", [-8.0, -2, 2, 352])},
    )
    return truth, post, stations


@pytest.fixture
def without_cartopy(monkeypatch):
    """As if cartopy were not installed."""
    monkeypatch.setitem(sys.modules, "cartopy", None)
