"""Observations at levels and between them."""

import numpy as np
import pytest
import torch
import xarray as xr

import xsda
from xsda.labels.grid import Grid
from xsda.labels.layout import Layout
from xsda.observations import compile_observations

LEVELS = np.array([1000.0, 850.0, 500.0, 300.0, 200.0])


def atmosphere(level=LEVELS, **attrs):
    rng = np.random.default_rng(0)
    field = 220 + 60 * rng.random((3, len(level), 4, 5))
    dims = ("time", "level", "lat", "lon")
    coords = {"time": np.arange(3.0), "level": ("level", level, attrs), "lat": np.arange(4.0), "lon": np.arange(5.0)}
    return xr.Dataset({"t": (dims, field), "u": (dims, field[::-1] * 2)}, coords)


def sonde(level, **attrs):
    """One ascent, drifting with height."""
    n = len(level)
    at = {"lat": np.linspace(0, 3, n), "lon": np.linspace(4, 0, n), "time": np.linspace(0, 2, n)}
    coords = {k: ("obs", v) for k, v in at.items()} | {"level": ("obs", np.asarray(level, float), attrs)}
    return xr.Dataset({"t": ("obs", np.ones(n))}, coords)


def expected(ds, like, scale):
    """Linear in ``scale`` of the level, then along the other axes."""
    moved = ds.assign_coords(level=scale(ds.level.values)).sortby("level")
    at = {d: like[d].drop_attrs() for d in ("time", "lat", "lon")}
    return moved.t.interp(level=xr.DataArray(scale(like.level.values), dims="obs"), **at)


BETWEEN = [1000.0, 925.0, 700.0, 500.0, 250.0, 201.0]


@pytest.mark.parametrize(
    ("grid_units", "own_units", "factor", "scale"),
    [
        ("hPa", "hPa", 1, np.log),
        ("hPa", "Pa", 100, np.log),
        ("millibars", None, 1, np.log),
        (None, "hPa", 1, np.log),
        ("m", "m", 1, np.asarray),
        ("m", "km", 1e-3, np.asarray),
        (None, None, 1, np.asarray),
    ],
)
def test_linear_in_the_logarithm_of_pressure_or_in_the_coordinate(grid_units, own_units, factor, scale):
    ds = atmosphere(**({"units": grid_units} if grid_units else {}))
    like = sonde(BETWEEN)
    scaled = sonde(np.array(BETWEEN) * factor, **({"units": own_units} if own_units else {}))
    np.testing.assert_allclose(ds.sda.observe(scaled).t, expected(ds, like, scale), atol=0.05)


def test_the_order_of_levels_does_not_matter():
    ds, like = atmosphere(units="hPa"), sonde(BETWEEN, units="hPa")
    seen = ds.sda.observe(like).t
    for order in ([4, 3, 2, 1, 0], [2, 0, 4, 1, 3]):
        np.testing.assert_allclose(ds.isel(level=order).sda.observe(like).t, seen, rtol=1e-14)


def test_levels_below_zero_and_a_column_at_a_grid_point():
    ds = atmosphere(-np.array([0.0, 5.0, 20.0, 100.0, 4000.0]), units="m", positive="up")
    column = ds[["t"]].interp(level=[0.0, -3.0, -4000.0], lat=2.0, lon=3.0)
    np.testing.assert_allclose(ds.sda.observe(column).t, column.t, rtol=1e-5)


def test_outside_the_levels_is_refused():
    ds = atmosphere(units="hPa")
    with pytest.raises(
        ValueError, match=r"outside the levels of the grid along 'level': 100, 1013; the grid has \[1000"
    ):
        ds.sda.observe(sonde([500.0, 1013.0, 100.0], units="hPa"))
    with pytest.raises(ValueError, match="'level' is in 'km', the grid in 'hPa', and one cannot be converted"):
        ds.sda.observe(sonde([500.0], units="km"))
    named = ds.assign_coords(level=list("abcde"))
    with pytest.raises(ValueError, match="level='z' is not among the prior's"):
        named.sda.observe(named.isel(level=[0]).assign_coords(level=["z"]))


@pytest.mark.parametrize("units", ["hPa", "Pa"])
def test_dropping_outside_the_levels_is_never_having_been_there(units):
    """In a profile and on levels of their own."""
    ds, factor = atmosphere(units="hPa"), 100 if units == "Pa" else 1
    grid = Grid.match(Layout.of(ds), ds)
    above, inside = sonde(np.array([10.0, 500.0, 1013.0, 201.0]) * factor, units=units), [1, 3]
    column = ds[["t"]].isel(lat=[1, 2], lon=3).interp(level=[500.0, 250.0])
    taller = column.pad(level=1, constant_values=0.0).assign_coords(
        level=("level", [1100.0, 500, 250, 3], {"units": "hPa"})
    )
    with pytest.warns(UserWarning, match=r"2 of 4 values of 't' in obs lie outside the grid .* \(2 along 'level'\)"):
        ours = compile_observations(grid, above, 1.0, outside="drop")
    with pytest.warns(UserWarning, match=r"\(12 along 'level'\)"):
        columns = compile_observations(grid, taller, 1.0, outside="drop")
    x = torch.randn(2, *grid.shape, generator=torch.Generator().manual_seed(0))
    for a, b in ((ours, above.isel(obs=inside)), (columns, column)):
        b = compile_observations(grid, b, 1.0)
        assert torch.equal(a.y, b.y)
        assert torch.equal(a.predict(x), b.predict(x))
    np.testing.assert_array_equal(xsda.observations.outside(grid, above.t), [True, False, True, False])


def scaled(ds):
    """A grid whose levels have means and standard deviations of their own."""
    return Grid.match(Layout.of(ds).scaled(np.linspace(210, 300, 10), np.geomspace(0.2, 9, 10)), ds)


def test_levels_with_scalings_of_their_own():
    """H of the standardised state is the standardised observation, though each level is scaled by itself."""
    ds = atmosphere(units="hPa")
    grid, like = scaled(ds), ds.sda.observe(sonde(BETWEEN, units="hPa"))
    lik = compile_observations(grid, like, 1.0)
    torch.testing.assert_close(lik.predict(grid.to_tensor(ds)[None])[0], lik.y, rtol=1e-4, atol=1e-4)
    x = torch.randn(4, *grid.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = torch.randn(4, len(lik.y), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close((lik.operator(x) * y).sum(1), (x * lik.adjoint(x, y)).flatten(1).sum(1))
    units = np.stack([v.values for v in (grid.to_dataset(m.numpy(), {}).sda.observe(like).t for m in x)])
    seen = lik.operator(x).numpy() / lik.std.numpy()  # sigma is 1
    center = grid.to_dataset(0 * x[0].numpy(), {}).sda.observe(like).t.values
    np.testing.assert_allclose(seen, units - center, rtol=1e-5, atol=1e-5)


def test_filters_interpolate_between_levels_as_well():
    """The mean of the analysis of one time, by hand and by ETKF."""
    ds = atmosphere(units="hPa")[["t"]].isel(time=[0])
    like = sonde([700.0, 250.0], units="hPa").assign_coords(time=("obs", [0.0, 0.0]))
    rng = np.random.default_rng(0)
    ensemble = ds + xr.DataArray(rng.standard_normal((8, 5, 4, 5)), dims=("member", "level", "lat", "lon"))
    obs, hx = ds.sda.observe(like), ensemble.sda.observe(like).t.transpose("member", "obs").values
    x = ensemble.t.transpose("member", ...).values.reshape(8, -1)
    xa, ha = x - x.mean(0), hx - hx.mean(0)
    gain = xa.T @ ha / 7 @ np.linalg.inv(ha.T @ ha / 7 + 0.25 * np.eye(2))
    mean = x.mean(0) + gain @ (obs.t.values - hx.mean(0))
    post = xsda.baselines.analyse(ensemble, obs, method=xsda.baselines.ETKF(), sigma=0.5)
    np.testing.assert_allclose(post.t.mean("member").values.ravel(), mean, rtol=1e-8)
