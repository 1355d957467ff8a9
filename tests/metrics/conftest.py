"""Ensembles whose scores are known."""

import numpy as np
import pytest
import xarray as xr


@pytest.fixture
def gaussian():
    """A function that makes (ensemble, truth), drawn alike around a known centre (scale=1)."""

    def make(members=20, cases=4000, scale=1.0, seed=0):
        rng = np.random.default_rng(seed)
        centre = rng.standard_normal(cases) * 3
        truth = xr.Dataset({"a": ("time", centre + rng.standard_normal(cases))}, {"time": np.arange(cases)})
        members = centre + scale * rng.standard_normal((members, cases))
        return xr.Dataset({"a": (("member", "time"), members)}, {"time": np.arange(cases)}), truth

    return make


@pytest.fixture
def globe():
    """(ensemble, truth) of two variables on a globe, one without longitude; a few values are missing."""
    rng = np.random.default_rng(1)
    lat = xr.DataArray(np.linspace(90, -90, 7), dims="lat", attrs={"units": "degrees_north"})
    both = xr.Dataset(
        {
            "t": (("member", "time", "lat", "lon"), rng.standard_normal((6, 5, 7, 8)), {"units": "K"}),
            "q": (("member", "time", "lat"), rng.standard_normal((6, 5, 7)), {"units": "kg kg-1"}),
        },
        {"time": np.arange(5), "lat": lat, "lon": np.arange(8) * 45.0},
    )
    truth = both.isel(member=0, drop=True)
    return both.isel(member=slice(1, None)), truth.assign(t=truth.t.where(truth.t < 1.5))


@pytest.fixture
def area(globe):
    """Areas of the rows of ``globe``, 30 degrees apart: the polar caps and the bands between them."""
    lat = globe[1].lat
    north, south = (np.sin(np.deg2rad((lat + half).clip(-90, 90))) for half in (15, -15))
    return north - south
