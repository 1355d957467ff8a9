"""The error that is left in observed values, against H C H' with the whole covariance C."""

import numpy as np
import pytest
import torch
import xarray as xr

from xsda import flow
from xsda.labels.grid import Grid
from xsda.labels.layout import Layout
from xsda.observations import compile_observations, footprints

STD, RHO = (0.7, 1.3), (0.6, 0.9, 0.8)


@pytest.fixture
def fields():
    rng = np.random.default_rng(0)
    axis = {"period": 8.0}
    return xr.Dataset(
        {n: (("time", "y", "x"), rng.standard_normal((4, 8, 8))) for n in ("u", "v")},
        {"time": np.arange(4.0), "y": ("y", np.arange(8.0), axis), "x": ("x", np.arange(8.0), axis)},
    )


def stations(ds):
    rng = np.random.default_rng(1)
    places = {"time": rng.uniform(0, 3, 9), "y": rng.uniform(0, 7, 9), "x": rng.uniform(0, 7, 9)}
    value = rng.standard_normal(9)
    value[4] = np.nan
    return xr.Dataset({"v": ("station", value)}, {d: ("station", p) for d, p in places.items()})


OBSERVED = {
    "points": lambda ds: ds.isel(time=slice(None, None, 2), x=slice(1, None, 3)),
    "block means": lambda ds: flow.coarsen(ds[["u", "v"]], 4),
    "stations between points": stations,
}


def exact(likelihood, shape):
    """The diagonal of H C H'."""
    axes = [
        torch.tensor(r) ** torch.arange(n).sub(torch.arange(n)[:, None]).abs()
        for r, n in zip(RHO, (4, 8, 8), strict=True)
    ]
    unit = torch.eye(int(np.prod(shape))).reshape(-1, *shape)
    h = likelihood.predict(unit).T.reshape(-1, *shape).double()  # (value, time, channel, y, x)
    c = h
    for axis, matrix in zip((1, 3, 4), axes, strict=True):
        c = (c.transpose(axis, -1) @ matrix.double()).transpose(axis, -1)
    return (h * c * torch.tensor(STD).square().reshape(1, 1, -1, 1, 1)).flatten(1).sum(1)


@pytest.mark.parametrize("kind", OBSERVED)
def test_the_variance_of_what_is_observed(fields, kind):
    grid = Grid.match(Layout.of(fields), fields)
    likelihood = compile_observations(grid, OBSERVED[kind](fields), 1.0)
    found = torch.cat([f.variance(torch.tensor(STD), RHO) for f in likelihood.footprints])
    torch.testing.assert_close(found, exact(likelihood, (4, 2, 8, 8)), rtol=1e-5, atol=0)


def test_values_of_one_kind_are_looked_at_once(fields):
    grid = Grid.match(Layout.of(fields), fields)
    u, _ = compile_observations(grid, OBSERVED["block means"](fields), 1.0).footprints
    assert u.weight.shape == (1, 16)
    assert len(u.kind) == 4 * 4


def test_what_is_not_known_point_by_point(fields, monkeypatch):
    grid = Grid.match(Layout.of(fields), fields)
    sum_of = {"sum": lambda s: s["u"] + s["v"]}
    seen = (fields.u + fields.v).to_dataset(name="sum")
    assert compile_observations(grid, seen, 1.0, sum_of).footprints is None
    correlated = compile_observations(grid, fields[["u"]], 1.0, correlation={"u": {"time": 2.0}})
    assert correlated.footprints is not None  # of the values before they are whitened
    monkeypatch.setattr(footprints, "LARGE", 100)
    assert compile_observations(grid, OBSERVED["block means"](fields), 1.0).footprints is None


def test_channels_of_one_variable(fields):
    levels = xr.concat([fields.u, fields.v], xr.DataArray([500.0, 850.0], dims="level", name="level")).to_dataset(
        name="t"
    )
    levels = levels.transpose("time", "level", "y", "x")
    grid = Grid.match(Layout.of(levels), levels)
    between = levels.sel(level=[850.0, 500.0]).interp(x=[2.5, 5.25], time=[1.5])
    likelihood = compile_observations(grid, between, 1.0)
    (found,) = likelihood.footprints
    torch.testing.assert_close(
        found.variance(torch.tensor(STD), RHO), exact(likelihood, (4, 2, 8, 8)), rtol=1e-5, atol=0
    )
