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
