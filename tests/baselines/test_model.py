"""What carries states: steps, parts of steps, dates, and what is checked of a user's own model."""

import datetime

import cftime
import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from xsda.baselines import ETKF, Forecast, ForecastError, filter
from xsda.labels.grid import Grid
from xsda.labels.layout import Layout
from xsda.systems import DampedSpring, Lorenz63, Lorenz96

EXACT = {"rtol": 0, "atol": 0}
DAY = np.datetime64("2001-01-01", "ns")


def grid_of(ds, names=None):
    names = list(ds.data_vars) if names is None else names
    return Grid.match(Layout.of(ds[names], even=False), ds[names])


def states(system, members=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(members, *system.state_shape, dtype=torch.float64, generator=generator)


def field(times=(0.0, 1.0)):
    """Two variables on descending latitudes, one with levels."""
    rng = np.random.default_rng(0)
    data = {
        "u": (("time", "lat", "lon"), rng.normal(size=(len(times), 3, 4)), {"units": "m s-1"}),
        "q": (("time", "level", "lat", "lon"), rng.normal(size=(len(times), 2, 3, 4))),
    }
    return xr.Dataset(
        data, {"time": list(times), "lat": [40.0, 0.0, -40.0], "lon": np.arange(4) * 90.0, "level": [1, 2]}
    )


# --- our systems ---


@pytest.mark.parametrize("steps", [1, 3])
def test_whole_steps_are_the_systems(steps):
    system = Lorenz96(n=6, noise=0.1)
    bound = Forecast(system).bind(grid_of(system.simulate(2)))
    x = states(system)
    expected = x
    for _ in range(steps):
        expected = system.step(expected)
    torch.testing.assert_close(bound(x, 7.0, 7.0 + steps * 0.05), expected, **EXACT)
    noisy = bound(x, 0.0, steps * 0.05, torch.Generator().manual_seed(1))
    generator, expected = torch.Generator().manual_seed(1), x
    for _ in range(steps):
        expected = system.transition(expected, generator)
    torch.testing.assert_close(noisy, expected, **EXACT)


@pytest.mark.parametrize(
    ("dt", "unit"), [(None, 0.05), (2.0, 2.0), ("6h", 6 * 3600.0), (np.timedelta64(6, "h"), 6 * 3600.0)]
)
def test_parts_of_steps_are_shorter_steps(dt, unit):
    """2.4 steps are two, and one with 0.4 dt; whatever a step is called on the time axis."""
    system = Lorenz96(n=6)
    ds = system.simulate(2)
    if isinstance(unit, float) and unit > 1000:
        ds = ds.assign_coords(time=DAY + np.arange(2) * np.timedelta64(1, "D"))
    bound = Forecast(system, dt=dt).bind(grid_of(ds))
    x = states(system)
    expected = Lorenz96(n=6, dt=0.4 * 0.05).step(system.step(system.step(x)))
    torch.testing.assert_close(bound(x, 0.0, 2.4 * unit), expected, rtol=1e-12, atol=1e-12)


def test_noise_of_a_part_of_a_step_has_its_share_of_the_variance():
    system = Lorenz96(n=4, noise=0.2)
    bound = Forecast(system, dt="1h").bind(grid_of(system.simulate(2).assign_coords(time=DAY + np.arange(2) * np.timedelta64(1, "h"))))  # fmt: skip
    x = states(system, 1).expand(20_000, -1, -1)
    noise = bound(x, 0.0, 900.0, torch.Generator().manual_seed(0)) - bound(x, 0.0, 900.0)
    assert float(noise.std()) == pytest.approx(0.1, rel=0.02)


def test_rounding_of_times_makes_no_steps():
    """0.1 + 0.2 is no 0.3, and a thousand steps of 0.05 are a thousand."""
    calls = []

    class Counting(Lorenz96):
        def step(self, x):
            calls.append(self.dt)
            return x

    bound = Forecast(Counting(n=4)).bind(grid_of(Counting(n=4).simulate(2)))
    x = states(Lorenz96(n=4))
    calls.clear()
    bound(x, 0.1 + 0.2, 0.35)
    bound(x, 0.1, 0.1 + sum([0.05] * 1000))
    assert calls == [0.05] * 1001


def test_only_equations_make_parts_of_steps():
    system = DampedSpring()
    bound = Forecast(system).bind(grid_of(system.simulate(2)))
    with pytest.raises(
        ValueError, match=r"DampedSpring makes whole steps, and 0.4 of one is left .*; put grid and obs"
    ):
        bound(states(system), 0.0, 0.35)


def test_variables_in_the_order_of_the_system():
    """The grid may have them in any order, and others too."""
    system = Lorenz63(noise=0)
    truth = system.simulate(3, seed=1)
    shuffled = truth.assign(w=2 * truth.x)[["w", "z", "x", "y"]]
    obs = truth[["y"]].isel(time=[2])
    start = xr.concat([truth.isel(time=0, drop=True) + 0.01 * i for i in range(4)], "member")
    a, b = (filter(g, obs, system, method=ETKF(), sigma=1.0, initial=start, progress=False) for g in (truth, shuffled))
    for v in "xyz":
        np.testing.assert_array_equal(a[v], b[v])
    assert "w" not in b


# --- functions on labelled ensembles ---


@pytest.mark.parametrize("kind", ["numbers", "datetime64", "DatetimeNoLeap", "DatetimeGregorian"])
def test_a_function_gets_what_the_user_wrote(kind):
    """Labels, orientation, units; and times as on the axis, far from the first too."""
    if kind == "numbers":
        start, stop = 0.5, 2.5
    elif kind == "datetime64":
        start, stop = DAY, DAY + np.timedelta64(36, "h")
    else:
        start, stop = (getattr(cftime, kind)(*date) for date in ((1, 1, 1), (801, 1, 1, 12)))
    ds = field((start, stop))
    grid = grid_of(ds)
    seen = {}

    def step(ens, begin, end):
        seen.update(ens=ens.copy(deep=True), begin=begin, end=end)
        ens["u"] += ens.lat  # in place: no harm is done
        return ens.transpose(..., "member").drop_vars("time").assign(other=1)[["other", "q", "u"]].chunk()

    x = torch.as_tensor(np.random.default_rng(1).normal(size=(5, *grid.shape[1:])))
    before = x.clone()
    new = Forecast(step).bind(grid)(x, *map(float, grid.numbers("time")))
    torch.testing.assert_close(x, before, **EXACT)
    assert seen["begin"] == start
    assert seen["end"] == stop
    assert type(seen["end"]) is type(stop)
    ens = seen["ens"]
    assert ens.time.values == start
    assert dict(ens.sizes) == {"member": 5, "lat": 3, "lon": 4, "level": 2}
    assert ens.u.attrs["units"] == "m s-1"
    np.testing.assert_array_equal(ens.lat, [40, 0, -40])
    np.testing.assert_array_equal(ens.u.transpose("member", "lat", "lon")[:, ::-1], x[:, 0])
    np.testing.assert_array_equal(ens.q.transpose("member", "level", "lat", "lon")[:, :, ::-1], x[:, 1:])
    np.testing.assert_array_equal(new[:, 1:], x[:, 1:])
    np.testing.assert_allclose(new[:, 0], x[:, 0] + torch.tensor([-40.0, 0, 40])[:, None], rtol=0, atol=1e-14)


@pytest.mark.parametrize("dt", ["6h", np.timedelta64(6, "h"), pd.Timedelta("6h"), datetime.timedelta(hours=6)])
def test_a_function_of_one_step_is_called_as_often_as_it_takes(dt):
    grid = grid_of(field((DAY, DAY + np.timedelta64(1, "D"))))
    starts = []

    def step(ens):
        starts.append(ens.time.values)
        return ens + 1

    x = torch.zeros(2, *grid.shape[1:], dtype=torch.float64)
    bound = Forecast(step, dt=dt).bind(grid)
    assert float(bound(x, 0.0, 86400.0).unique()) == 4
    np.testing.assert_array_equal(starts, DAY + np.arange(4) * np.timedelta64(6, "h"))
    with pytest.raises(ValueError, match=r"from 2001-01-01T00:00:00 to 2001-01-01T09:00:00 is not a whole number of steps of 21600 s; put"):  # fmt: skip
        bound(x, 0.0, 9 * 3600.0)


@pytest.mark.parametrize("dt", [0.5, np.float32(0.5), np.int64(1), 1])
def test_a_step_in_numbers(dt):
    grid = grid_of(field((0.0, 2.0)))
    x = torch.zeros(2, *grid.shape[1:], dtype=torch.float64)
    assert float(Forecast(lambda ds: ds + 1, dt=dt).bind(grid)(x, 0.0, 2.0).unique()) == 2 / float(dt)


BROKEN = {
    "no Dataset": (lambda ds: None, "must return an xarray.Dataset .* not NoneType; for functions of tensors"),
    "a DataArray": (lambda ds: ds.u, "must return an xarray.Dataset .* not DataArray"),
    "a lost variable": (lambda ds: ds.drop_vars("q"), r"lost the variable 'q'; it returned \['u'\], \['u', 'q'\] were expected"),
    "a lost dimension": (lambda ds: ds.mean("lon"), r"turned 'u' of the sizes {'member': 4, 'lat': 3, 'lon': 4} into {'member': 4, 'lat': 3}; return all members"),
    "fewer members": (lambda ds: ds.isel(member=slice(2)), "turned 'u' of the sizes .* into .*'member': 2"),
    "a new dimension": (lambda ds: ds.expand_dims("time"), "turned 'u' of the sizes .* into .*'time': 1"),
    "other latitudes": (lambda ds: ds.assign_coords(lat=ds.lat + 1), "changed the labels along 'lat'; return the grid that came in"),
    "turned latitudes": (lambda ds: ds.isel(lat=slice(None, None, -1)), "changed the labels along 'lat'"),
    "shuffled members": (lambda ds: ds.isel(member=[1, 0, 2, 3]), "changed the labels along 'member'"),
    "other levels": (lambda ds: ds.assign_coords(level=[7, 8]), "changed the labels along 'level'"),
    "one NaN": (lambda ds: ds.where((ds.member != 2) | (ds.lat > 0)), "the forecast from 0 to 1 made member 2 of 4 non-finite; more inflation"),
    "infinities": (lambda ds: ds / 0.0, r"made member 0, 1, 2, 3 of 4 non-finite"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_what_comes_back_is_checked(name):
    step, match = BROKEN[name]
    ds = field()
    initial = xr.concat([ds.isel(time=0, drop=True) + i for i in range(4)], "member").assign_coords(member=range(4))
    with pytest.raises(ForecastError, match=match) as caught:
        filter(ds, ds, lambda e, a, b: step(e), method=ETKF(), initial=initial, sigma=1.0, progress=False)
    assert caught.value.partial.sizes["time"] == 1  # the first analysis, labelled
    if "non-finite" in match:
        assert caught.value.members == ((2,) if name == "one NaN" else (0, 1, 2, 3))
        assert caught.value.time == 1.0
    else:
        assert caught.value.members == ()
        assert caught.value.time == 0.0


def test_labels_are_built_once():
    """A Dataset costs a millisecond to build, and a tenth of it to copy."""
    grid = grid_of(field((0.0, 1.0)))
    x = torch.as_tensor(np.random.default_rng(1).normal(size=(3, *grid.shape[1:])))
    seen = []

    def step(ens, start, stop):
        seen.append(ens)
        return ens + 1

    bound = Forecast(step).bind(grid)
    new = bound(x, 0.0, 0.25)
    built = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Grid, "label", lambda *args: built.append(args))
        newer = bound(new, 0.25, 1.0)
    assert not built
    torch.testing.assert_close(newer, x + 2)
    assert [float(ens.time) for ens in seen] == [0.0, 0.25]
    xr.testing.assert_allclose(seen[1].drop_vars("time"), seen[0].drop_vars("time") + 1)
    for name in ("u", "q"):  # a copy shares nothing that a step could change for others
        assert not np.shares_memory(seen[0][name].values, seen[1][name].values)
    assert bound(x[:2], 0.0, 1.0).shape == x[:2].shape


def transposed(ds):
    return ds.transpose(*reversed(ds.u.dims), ...)


WAYS = {
    "another order": transposed,
    "single precision": lambda ds: ds.astype("float32"),
    "integers": lambda ds: ds.round().astype(int),
    "dask": lambda ds: ds.chunk(member=1, lat=2),
    "coordinates of other kinds": lambda ds: ds.assign_coords(lat=ds.lat.astype("float32"), height=2.0),
    "without labels": lambda ds: ds.drop_vars(["lat", "member"]),
    "without an index": lambda ds: ds.drop_indexes("lat"),
    "other variables": lambda ds: ds.assign(speed=abs(ds.u))[["speed", "q", "u"]],
}


@pytest.mark.parametrize("name", WAYS)
def test_ways_to_return_an_ensemble(name):
    grid = grid_of(field((0.0, 1.0)))
    x = torch.as_tensor(np.random.default_rng(1).integers(-9, 9, (3, *grid.shape[1:])).astype(float))
    bound = Forecast(lambda ds, start, stop: WAYS[name](ds)).bind(grid)
    for _ in range(2):  # built, and copied
        new = bound(x, 0.0, 1.0)
        assert new.dtype == torch.float64
        torch.testing.assert_close(new, x, **EXACT)


def test_what_a_model_says_of_itself():
    """The name in results, its variables, and the climate to start from."""
    system = Lorenz96(n=6)
    model, function = Forecast(system), Forecast(transposed, dt=1.0)
    assert (model.name, model.variables) == (repr(system), ("u",))
    assert (function.name, function.variables) == ("transposed", None)
    drawn = system.to_tensor(system.simulate(1, 5, seed=3))[:, 0]
    torch.testing.assert_close(model.climate(5, 3), drawn, **EXACT)
    with pytest.raises(ValueError, match=r"initial=\.\.\. is needed"):
        function.climate(5, 3)


# --- functions of tensors ---


def test_a_function_of_tensors():
    grid = grid_of(field())
    times = []

    def step(x, start, stop):
        times.append((start, stop))
        return (2 * x).float()

    x = torch.as_tensor(np.random.default_rng(1).normal(size=(2, *grid.shape[1:])))
    bound = Forecast(step, tensors=True).bind(grid)
    new = bound(x, 0.0, 1.0)
    assert times == [(0.0, 1.0)]
    assert new.dtype == torch.float64
    torch.testing.assert_close(new, 2 * x, rtol=1e-6, atol=1e-6)
    assert bound.differentiable
    for back, came in ((x[:1], r"\(1, 3, 3, 4\)"), (x.numpy(), "ndarray"), (None, "NoneType")):
        with pytest.raises(
            ForecastError, match=rf"must return a tensor of the shape \(2, 3, 3, 4\) it got, not {came}"
        ):
            Forecast(lambda x, a, b, back=back: back, tensors=True).bind(grid)(x, 0.0, 1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_network_in_its_own_precision(dtype):
    grid = grid_of(field((DAY, DAY + np.timedelta64(12, "h"))))
    network = torch.nn.Conv2d(3, 3, 1).to(dtype)
    x = torch.as_tensor(np.random.default_rng(1).normal(size=(2, *grid.shape[1:])))
    with torch.no_grad():
        new = Forecast(network, dt="6h", tensors=True).bind(grid)(x, 0.0, 12 * 3600.0)
        expected = network(network(x.to(dtype))).double()
    assert new.dtype == torch.float64
    torch.testing.assert_close(new, expected, rtol=1e-6, atol=1e-6)


# --- what cannot be ---


def test_bad_models():
    system = Lorenz96(n=6)
    ds = system.simulate(2)
    dated = ds.assign_coords(time=DAY + np.arange(2) * np.timedelta64(1, "h"))
    with pytest.raises(TypeError, match=r"system is the class Lorenz96; pass an object of it: Lorenz96\(\)"):
        Forecast(Lorenz96)
    with pytest.raises(TypeError, match=r"must be one of xsda.systems or a function step\(ds, start, stop\), got str"):
        Forecast("lorenz96")
    for dt in (0, -1.0, "-6h", float("nan")):
        with pytest.raises(ValueError, match="must be positive: it is the length of one step"):
            Forecast(system, dt=dt)
    for dt in ("six hours", [1, 2]):
        with pytest.raises(ValueError, match="is neither a number nor a duration such as '6h'"):
            Forecast(system, dt=dt)
    with pytest.raises(
        ValueError, match=r"holds dates, and Lorenz96 counts time in its own unit; .*Forecast\(system, dt='6h'\)"
    ):
        Forecast(system).bind(grid_of(dated))
    with pytest.raises(ValueError, match="dt is a duration, the time axis holds plain numbers"):
        Forecast(system, dt="6h").bind(grid_of(ds))
    with pytest.raises(ValueError, match="dt is a number, the time axis holds dates"):
        Forecast(system, dt=6).bind(grid_of(dated))
    with pytest.raises(
        ValueError, match=r"Lorenz96 has states of the shape \(variable, \*space\) = \(1, 6\), the grid has \(1, 5\)"
    ):
        Forecast(system).bind(grid_of(ds.isel(x=slice(5))))
    with pytest.raises(ValueError, match=r"= \(1, 6\), the grid has \(3, 6\)"):
        Forecast(system).bind(grid_of(ds.expand_dims(level=3, axis=1)))
    with pytest.raises(KeyError, match="has the variable 'u', which the grid lacks; did you mean 'uu'"):
        filter(ds.rename(u="uu"), ds, system, method=ETKF(), sigma=1.0, progress=False)
