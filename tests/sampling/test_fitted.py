"""The Gaussian of a prior is what ``GaussianPrior.fit`` makes of its free trajectories."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import xarray as xr

import xsda
from xsda.sampling import fitted


def test_it_has_patterns_where_it_can(monkeypatch):
    """It is the fit to free trajectories twice as long as the grid; with months as steps it is separable."""
    drawn = []

    def sample(ds, prior, members):
        noise = np.random.default_rng(0).standard_normal((members, ds.sizes["time"], 5))
        drawn.append(xr.Dataset({"u": (("member", "time", "x"), noise)}, {"time": ds.time, "x": ds.x}))
        return drawn[-1]

    monkeypatch.setattr(fitted, "sample", sample)
    model = SimpleNamespace(denoiser=None, length=None)
    grid = xr.Dataset(coords={"time": 0.05 * np.arange(8), "x": np.arange(5.0)})
    found = fitted.gaussian_of(grid, model)
    np.testing.assert_allclose(drawn[0].time, 0.05 * np.arange(16))
    assert found.hash == xsda.GaussianPrior.fit(drawn[0], length=8, name="gaussian").hash
    assert found.length == 8
    months = grid.assign_coords(time=pd.date_range("2026-01-01", periods=8, freq="MS"))
    assert type(fitted.gaussian_of(months, model).denoiser).__name__ == "SeparableDenoiser"
    assert fitted.gaussian_of(grid, found) is found


def test_the_separable_fit_has_the_moments_of_the_prior(monkeypatch):
    """A mixture of one Gaussian with itself has only one length."""
    monkeypatch.setattr(fitted, "FITTED", 300)
    time, x = np.arange(6.0), np.arange(4.0)
    grid = xr.Dataset({"u": (("time", "x"), 5 + np.add.outer(time, x))}, {"time": time, "x": x})
    decay = [np.exp(-np.abs(np.subtract.outer(c, c)) / length) for c, length in ((time, 4), (x, 2))]
    cov = 4 * np.kron(*decay)
    prior = fitted.gaussian_of(grid, xsda.GaussianMixturePrior([grid, grid], [cov, cov], [0.5, 0.5]), progress=False)
    assert type(prior.denoiser).__name__ == "SeparableDenoiser"
    u = xsda.sample(grid, prior, members=1500, seed=1, progress=False).u.values.reshape(1500, -1)
    np.testing.assert_allclose(u.mean(0), grid.u.values.ravel(), atol=0.4)  # four standard errors of 600 and 1500 draws
    np.testing.assert_allclose(np.cov(u.T), cov, atol=0.8)  # three
