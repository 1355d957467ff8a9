"""Reports outside the grid: left out and counted, exactly as if they had never been there."""

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

import xsda
from xsda.labels import Grid, Layout
from xsda.likelihood import Censored
from xsda.observations import compile_observations
from xsda.observations.inside import beyond
from xsda.observations.stencils import GridAxis


def geographic(seed=0):
    rng = np.random.default_rng(seed)
    coords = {
        "time": np.datetime64("2026-03-01", "ns") + np.arange(5) * np.timedelta64(6, "h"),
        "lat": np.linspace(60.0, 50.0, 6),
        "lon": np.linspace(-10.0, 2.0, 7),
    }
    return xr.Dataset({"t2m": (tuple(coords), rng.standard_normal((5, 6, 7)), {"units": "K"})}, coords)


def scattered(n=60, seed=1):
    """Reports in a box twice as long as the grid along each axis."""
    rng = np.random.default_rng(seed)
    return pd.DataFrame({
        "time": np.datetime64("2026-03-01") + rng.integers(-12 * 60, 36 * 60, n) * np.timedelta64(1, "m"),
        "lat": rng.uniform(45, 65, n), "lon": rng.uniform(-16, 8, n), "t2m": rng.standard_normal(n),
    })  # fmt: skip


def where_inside(df, ds):
    return (
        df.time.between(ds.time.values[0], ds.time.values[-1]) & df.lat.between(50, 60) & df.lon.between(-10, 2)
    ).to_numpy()


def likelihood(ds, obs, **options):
    return compile_observations(Grid.match(Layout.of(ds, even=False), ds), obs, 0.5, **options)


def assert_same(ds, a, b):
    x = torch.randn(2, 5, 1, 6, 7, generator=torch.Generator().manual_seed(0))
    assert torch.equal(a.y, b.y)
    assert torch.equal(a.std, b.std)
    assert torch.equal(a.predict(x), b.predict(x))


@pytest.mark.parametrize("seed", range(3))
def test_dropping_is_never_having_been_there(seed):
    ds, df = geographic(), scattered(seed=seed)
    inside = where_inside(df, ds)
    assert 0 < inside.sum() < len(df)
    with pytest.warns(
        UserWarning, match=f"{(~inside).sum()} of 60 values of 't2m' in obs lie outside the grid"
    ) as said:
        dropped = likelihood(ds, df, outside="drop")
    assert len(said) == 1
    assert_same(ds, dropped, likelihood(ds, df[inside]))


def test_the_notice_counts_by_dimension():
    df = scattered(3).assign(time=np.datetime64("2026-03-01"), lat=[55.0, 70.0, 55.0], lon=[0.0, 0.0, 40.0])
    with pytest.warns(UserWarning, match=r"2 of 3 .*\(1 along 'lat', 1 along 'lon'\)"):
        likelihood(geographic(), df, outside="drop")


def test_raising_is_the_default():
    with pytest.raises(ValueError, match=r"observations lie outside the grid along 'time'.* Use outside='drop', or"):
        likelihood(geographic(), scattered())


def test_nothing_inside():
    with pytest.raises(ValueError, match=r"no observation lies inside the grid: 60 of 60 .*check units and positions"):
        likelihood(geographic(), scattered().assign(lat=-40.0), outside="drop")


def curved(ds):
    """The same grid with two-dimensional coordinates."""
    lat, lon = xr.broadcast(ds.lat, ds.lon)
    plane = ds.drop_vars(["lat", "lon"]).rename(lat="y", lon="x")
    return plane.assign_coords(lat=(("y", "x"), lat.values), lon=(("y", "x"), lon.values))


@pytest.mark.parametrize(
    "grid", [geographic(), geographic().assign_coords(lon=geographic().lon + 360), curved(geographic())]
)
def test_swapped_latitudes_and_longitudes(grid):
    df = scattered(40)
    df = df[where_inside(df, geographic())]
    swapped = df.rename(columns={"lat": "lon", "lon": "lat"})
    with pytest.raises(ValueError, match=r"(?i)inside if latitude and longitude are swapped"):
        likelihood(grid, swapped)
    with pytest.raises(
        ValueError, match=r"no observation lies inside .*; they are inside if latitude and longitude are"
    ):
        likelihood(grid, swapped, outside="drop")
    with pytest.raises(ValueError, match="Use outside='drop', or extend the grid"):
        likelihood(grid, df.assign(lat=48.0))


def test_everything_inside_says_nothing(recwarn):
    ds, df = geographic(), scattered()
    df = df[where_inside(df, ds)]
    assert_same(ds, likelihood(ds, df, outside="drop"), likelihood(ds, df))
    assert not [w for w in recwarn if "outside" in str(w.message)]


def test_axes_of_their_own_and_moving_stations():
    """Rows and columns are dropped where a whole row lies outside; otherwise single reports are."""
    ds = geographic()
    wider = ds.interp(lat=[40.0, 51.0, 55.0], lon=[-9.0, 0.0], kwargs={"fill_value": 0.0})
    lat = xr.DataArray(np.linspace(48, 64, 10).reshape(5, 2), dims=("time", "ship"))
    moving = xr.Dataset(
        {"t2m": (("time", "ship"), np.arange(10.0).reshape(5, 2))}, {"time": ds.time, "lat": lat, "lon": 0.0}
    )
    with pytest.warns(UserWarning, match="10 of 30"):
        assert_same(ds, likelihood(ds, wider, outside="drop"), likelihood(ds, wider.isel(lat=[1, 2])))
    kept = moving.where((lat >= 50) & (lat <= 60))
    kept["lat"] = lat.clip(50, 60)
    with pytest.warns(UserWarning, match="of 10 values"):
        assert_same(ds, likelihood(ds, moving, outside="drop"), likelihood(ds, kept))


def test_correlated_and_censored_errors_lose_the_same_rows():
    ds, df = geographic(), scattered(20).sort_values("time", ignore_index=True)
    inside = where_inside(df, ds)
    a = np.random.default_rng(0).standard_normal((20, 40))
    c = a @ a.T
    c /= np.sqrt(np.outer(np.diag(c), np.diag(c)))
    matrix = {"correlation": {"t2m": c}}
    with pytest.warns(UserWarning, match="outside"):
        ours = likelihood(ds, df, outside="drop", **matrix)
    assert_same(ds, ours, likelihood(ds, df[inside], correlation={"t2m": c[np.ix_(inside, inside)]}))
    law = {"likelihood": Censored(lower=0.0)}
    with pytest.warns(UserWarning, match="outside"):
        ours = likelihood(ds, df, outside="drop", **law)
    assert torch.equal(ours.groups[0].law.side, likelihood(ds, df[inside], **law).groups[0].law.side)


AXES = [
    GridAxis("x", np.arange(5.0)),
    GridAxis("lon", np.arange(-10.0, 3.0, 2.0), None, 360.0),
    GridAxis("lon", np.arange(0.0, 360.0, 30.0), 360.0, 360.0),
]


@pytest.mark.parametrize("axis", AXES)
def test_outside_is_where_interpolation_raises(axis):
    """On the edges, within the tolerance, in other turns of the circle."""
    ends = np.array([axis.points[0], axis.points[-1]])
    p = np.concatenate(
        [ends, ends + 1e-5, ends - 1e-5, ends + 1e-2, ends - 1e-2, ends + 360, ends - 360, [-500.0, 0.1, 170]]
    )
    for one, out in zip(p, beyond(axis, p), strict=True):
        try:
            axis.locate(np.array([one]))
            raised = False
        except ValueError:
            raised = True
        assert raised == out, one


def test_filters_keep_reports_between_an_initial_ensemble_and_the_grid():
    truth = xsda.systems.Lorenz63().simulate(40, seed=0)
    first = truth.isel(time=8).expand_dims(member=4) + xr.DataArray([0.1, -0.1, 0.2, -0.2], dims="member")
    grid, system = truth.isel(time=slice(20, 40)), xsda.systems.Lorenz63()
    options = {"method": xsda.baselines.ETKF(), "initial": first, "sigma": 0.5, "progress": False}
    table = truth[["x"]].isel(time=slice(0, None, 4)).to_dataframe().reset_index()
    with pytest.warns(UserWarning, match=r"3 of 10 values of 'x'"):
        ours = grid.sda.filter(table, system, outside="drop", **options)
    xr.testing.assert_equal(ours, grid.sda.filter(table[3:], system, **options))


def test_observe_and_evaluate():
    ds, df = geographic(), scattered()
    inside = where_inside(df, ds)
    with pytest.warns(UserWarning, match="outside"):
        seen = ds.sda.observe(df, outside="drop")
    np.testing.assert_array_equal(seen.t2m, ds.sda.observe(df[inside]).t2m)
    ensemble = ds.expand_dims(member=3) + xr.DataArray([0.0, 1.0, 2.0], dims="member")
    with pytest.warns(UserWarning, match="outside"):
        ours = ensemble.sda.evaluate(ds, obs=df, sigma=0.5, outside="drop")
    xr.testing.assert_equal(ours, ensemble.sda.evaluate(ds, obs=df[inside], sigma=0.5))


def test_unknown_choice():
    with pytest.raises(ValueError, match="outside='ignore' must be 'raise' or 'drop'"):
        likelihood(geographic(), scattered(), outside="ignore")
