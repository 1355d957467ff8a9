"""Data sets by name: from a mirror, from the cache, checked by their hash; and what fits make of the excerpts."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import xsda
from xsda.data import SOURCES, Source

EXCERPT = Path(xsda.data.__file__).parent / "era5-t2m-uk-small.nc"


@pytest.fixture
def source(monkeypatch, tmp_path):
    """The excerpt as a data set with an address that answers nobody; the cache and the mirror are empty."""
    monkeypatch.setenv("XSDA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XSDA_DATA", str(tmp_path / "mirror"))
    digest = hashlib.sha256(EXCERPT.read_bytes()).hexdigest()
    entry = Source("excerpt.nc", "an excerpt", "https://localhost:1/excerpt.nc", digest)
    monkeypatch.setitem(SOURCES, "excerpt", entry)
    return tmp_path


@pytest.mark.parametrize("folder", ["mirror", "cache/data"])
def test_files_that_are_there(source, folder):
    (source / folder).mkdir(parents=True)
    shutil.copy(EXCERPT, source / folder / "excerpt.nc")
    with xsda.data.fetch("excerpt") as found, xr.open_dataset(EXCERPT) as expected:
        xr.testing.assert_identical(found, expected)


def test_what_cannot_be_fetched(source):
    with pytest.raises(ValueError, match="unknown data set 'era5-t2m'; did you mean 'era5-t2m-uk'"):
        xsda.data.fetch("era5-t2m")
    with pytest.raises(ConnectionError, match="the data set 'excerpt' could not be fetched from https://localhost:1"):
        xsda.data.fetch("excerpt")
    (source / "mirror").mkdir()
    (source / "mirror" / "excerpt.nc").write_bytes(b"another")
    with pytest.raises(ValueError, match=r"\(in XSDA_DATA\) has the SHA-256 .*, expected"):
        xsda.data.fetch("excerpt")


def test_patterns_know_land_from_sea():
    """On days that were not used for the fit, patterns beat the separable fit, with a spread nearer to the error."""
    ds = xsda.data.fetch("era5-t2m-uk-small")
    train, rng = ds.isel(time=slice(0, 200)), np.random.default_rng(0)
    fits = {
        structure: xsda.GaussianPrior.fit(train, length=8, structure=structure) for structure in ("eof", "separable")
    }
    assert fits["eof"].info["climatology"] == "hour_of_day"
    scores = {name: [] for name in fits}
    for day in (26, 29):
        truth = ds.isel(time=slice(8 * day, 8 * day + 8))
        places = {
            d: ("station", rng.uniform(float(truth[d].min()), float(truth[d].max()), 25))
            for d in ("latitude", "longitude")
        }
        points = xr.Dataset({"t2m": (("time", "station"), np.zeros((8, 25)))}, {"time": truth.time, **places})
        obs = truth.sda.observe(points, sigma=0.5, seed=day)
        for name, prior in fits.items():
            post = truth.sda.assimilate(obs, prior, members=6, progress=False)
            scores[name].append(post.sda.evaluate(truth).sel(variable="t2m"))
    eof, separable = (xr.concat(s, "day").mean("day") for s in scores.values())
    assert float(eof.crps) < 0.7 * float(separable.crps)
    assert float(separable.spread_skill) + 0.1 < float(eof.spread_skill) < 1.25


def test_gaps_of_the_sea_are_filled():
    """Removed values are predicted with at most half the error of the climatology, and land has no values."""
    sst = xsda.data.fetch("ostia-sst-small").isel(latitude=slice(0, 18, 3), longitude=slice(0, 109, 4))
    sea = sst.surface_temperature.notnull()
    xr.testing.assert_equal(sea.all("time"), sea.any("time"))
    past, truth = sst.isel(time=slice(0, 36)), sst.isel(time=slice(36, 42))
    clouds = xr.zeros_like(truth.surface_temperature, bool) | (np.random.default_rng(0).random((6, 6, 28)) < 0.5)
    prior = xsda.GaussianPrior.fit(past, length=6, taper=1000)
    post = truth.sda.assimilate(truth.where(~clouds), prior, members=2, sigma=0.1, progress=False)
    assert bool((post.surface_temperature.isnull() == ~sea.isel(time=0)).all())
    climate = past.groupby("time.month").mean().sel(month=truth.time.dt.month).drop_vars("month").expand_dims("member")
    hidden = truth.where(clouds)
    filled, expected = (x.where(clouds).sda.evaluate(hidden).rmse.item() for x in (post, climate))
    assert filled < 0.5 * expected
