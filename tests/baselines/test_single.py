"""One analysis: eager and lazy are the same, and lazy is lazy."""

import cftime
import dask
import dask.array
import numpy as np
import pytest
import xarray as xr
from one_time import globe, numbers, ring

from xsda.baselines import ETKF, LETKF, RTPP, RTPS, AdaptiveInflation, analyse, filter

CLOSE = {"rtol": 0, "atol": 1e-12}


def shifted(ens, seed=3, **where):
    """Observations of an ensemble's variables at places of the grid, off by about one."""
    one = ens.isel(member=0, drop=True).expand_dims("time").isel(where)
    rng = np.random.default_rng(seed)
    return one.map(lambda v: v + rng.normal(size=v.shape))


def plane(members=9, time=3.0):
    """A ring of x, descending y, one variable in another order, and levels."""
    rng = np.random.default_rng(0)
    values = {
        "u": (("member", "y", "x"), rng.normal(size=(members, 12, 10)), {"units": "m s-1"}),
        "v": (("x", "member", "y"), rng.normal(size=(10, members, 12))),
        "q": (("y", "level", "x", "member"), rng.normal(size=(12, 3, 10, members))),
    }
    coords = {
        "y": ("y", np.arange(12.0)[::-1], {"axis": "Y"}),
        "x": ("x", np.arange(10.0), {"axis": "X", "period": 10.0}),
    }
    return xr.Dataset(values, {**coords, "level": [1, 2, 3], "time": time}, {"title": "a plane"})


def instruments(ens):
    rng = np.random.default_rng(1)
    places = {"y": ("station", rng.uniform(0, 11, 15)), "x": ("station", rng.uniform(0, 10, 15)), "time": ens.time}
    rows = shifted(ens[["v"]], y=[3], x=slice(None, None, 3))
    return [
        xr.Dataset({"u": ("station", rng.normal(size=15))}, places),
        rows.where(rows.x != 3),
        shifted(ens[["q"]], level=[0, 2], y=[0, 11]),
        xr.Dataset({"speed": ("station", rng.uniform(1, 2, 15))}, places),
    ]


DERIVED = {"speed": lambda s: (s["u"] ** 2 + s["v"] ** 2).sqrt()}
METHODS = {
    "plain": LETKF(localization=2.0),
    "rotated": LETKF(localization=1.2, inflation=1.1, rotate=True),
    "RTPS": LETKF(localization={"x": 2.0}, inflation=RTPS(0.8)),
    "RTPP": LETKF(localization={"x": 2.0, "y": 1.0}, inflation=RTPP(0.3)),
}
CHUNKS = [
    {"y": 5, "x": 4},  # cuts the ring, unevenly
    {"y": 1},
    {"member": 2, "x": 3},
    {"member": -1, "y": -1, "x": -1, "level": 1},
]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("chunks", CHUNKS, ids=str)
def test_lazy_is_eager(method, chunks):
    ens = plane()
    options = {"method": METHODS[method], "sigma": 0.7, "derived": DERIVED, "seed": 5}
    eager = analyse(ens, instruments(ens), **options)
    lazy = analyse(ens.chunk(chunks), instruments(ens), **options)
    assert all(v.chunks is not None for v in lazy.data_vars.values())
    computed = lazy.compute(scheduler="threads")
    for v in "uvq":
        assert float(np.abs(eager[v] - ens[v]).max()) > 0.1
        xr.testing.assert_allclose(computed[v], eager[v], **CLOSE)
        assert lazy[v].dims == eager[v].dims
        assert lazy[v].attrs == eager[v].attrs
        assert lazy[v].dtype == eager[v].dtype == float
    xr.testing.assert_identical(computed.drop_vars([*"uvq"]).drop_attrs(deep=False), eager.drop_vars([*"uvq"]).drop_attrs(deep=False))  # fmt: skip
    assert {**lazy.attrs, "history": ""} == {**eager.attrs, "history": ""}


def test_lazy_on_the_sphere():
    """Chunks around the pole and across the seam."""
    ens = globe()
    obs = shifted(ens[["u"]], lat=[0, 2], lon=[0, 3, 5])
    method = LETKF(localization=3000.0)
    lazy = analyse(ens.chunk(lat=1, lon=4), obs, method=method, sigma=0.5)
    eager = analyse(ens, obs, method=method, sigma=0.5)
    for v in "uq":
        xr.testing.assert_allclose(lazy[v].compute(), eager[v], **CLOSE)


def test_single_precision():
    """Observed and analysed in double precision, whether lazy or not."""
    ens = plane().astype(np.float32)
    obs = instruments(plane())[:2]
    eager = analyse(ens, obs, method=METHODS["plain"], sigma=0.5)
    lazy = analyse(ens.chunk(x=4), obs, method=METHODS["plain"], sigma=0.5)
    xr.testing.assert_allclose(lazy.u.compute(), eager.u, **CLOSE)


class Counting:
    """A scheduler that counts how often something is computed."""

    def __init__(self):
        self.calls = 0

    def __call__(self, graph, keys, **options):
        self.calls += 1
        return dask.get(graph, keys, **options)


def test_only_what_is_observed_is_computed():
    read, scheduler = [], Counting()

    def block(x, block_info=None):
        read.append(block_info[0]["chunk-location"][1])
        return x

    ens = ring(n=40)
    lazy = ens.assign(
        u=(ens.u.dims, dask.array.from_array(ens.u.values, chunks=(4, 10)).map_blocks(block, dtype=float))
    )
    obs = [shifted(ens, x=[3, 5]), shifted(ens, seed=4, x=[7])]
    with dask.config.set(scheduler=scheduler):
        out = analyse(lazy, obs, method=LETKF(localization=1.0), sigma=0.5)
        assert scheduler.calls == 1
        assert set(read) == {0}
        read.clear()
        far = out.u.isel(x=slice(20, 30)).compute()
        assert set(read) == {2}
    np.testing.assert_allclose(far, ens.u.isel(x=slice(20, 30)), **CLOSE)


@pytest.mark.parametrize("kind", ["number", "ns", "s", "cftime"])
@pytest.mark.parametrize("lazy", [False, True])
def test_one_analysis_is_that_of_a_filter(kind, lazy):
    """The same random numbers, for whatever says the time."""
    time = {"number": 0.3, "cftime": cftime.DatetimeNoLeap(2001, 2, 3)}.get(kind)
    time = np.datetime64("2001-02-03", kind) if time is None else time
    ens = ring(time=time)
    obs = shifted(ens, x=[1, 4])
    method = LETKF(localization=2.0, rotate=True)
    grid = ens.isel(member=0, drop=True).expand_dims("time")
    whole = filter(grid, obs, lambda ds, a, b: ds, method=method, initial=ens, sigma=0.5, seed=2, progress=False)
    alone = analyse(ens.chunk() if lazy else ens, obs, method=method, sigma=0.5, seed=2).compute()
    np.testing.assert_allclose(alone.u, whole.u.isel(time=0), **CLOSE)
    other = analyse(ens.chunk() if lazy else ens, obs, method=method, sigma=0.5, seed=3)
    assert float(np.abs(other.u - alone.u).max()) > 1e-3


@pytest.mark.parametrize("lazy", [False, True])
def test_labels_survive(lazy):
    ens = plane().assign_attrs(history="made by hand").assign_coords(station=("x", list("abcdefghij")))
    ens = ens.rename(y="north", x="east").assign(mask=(("north", "east"), np.ones((12, 10))))
    obs = shifted(ens[["u"]], north=[2])
    scalar = analyse(ens.chunk(east=4) if lazy else ens, obs, method=METHODS["plain"], sigma=0.5)
    along = analyse((ens.chunk(east=4) if lazy else ens).expand_dims("time"), obs, method=METHODS["plain"], sigma=0.5)
    assert "time" not in scalar.dims
    assert scalar.time == 3.0
    assert along.sizes["time"] == 1
    xr.testing.assert_equal(along.isel(time=0).compute(), scalar.compute())
    assert set(scalar.data_vars) == {"u", "v", "q"}
    assert scalar.u.dims == ("member", "north", "east")
    assert scalar.u.attrs == {"units": "m s-1"}
    assert scalar.member.attrs["standard_name"] == "realization"
    xr.testing.assert_identical(scalar.station.variable, ens.station.variable)
    assert scalar.east.attrs == {"axis": "X", "period": 10.0}
    assert "title" not in scalar.attrs
    assert scalar.attrs["method"].startswith("LETKF(")
    assert scalar.attrs["history"].endswith("\nmade by hand")


def test_rounding_of_the_time():
    """0.1 + 0.2 is the time 0.3, as it is in filter."""
    ens = ring(time=0.1 + 0.2)
    obs = shifted(ens, x=[1]).assign_coords(time=[0.3])
    analyse(ens, obs, method=ETKF(), sigma=0.5)


def test_other_methods_compute():
    ens = ring()
    obs = shifted(ens, x=[1, 4])
    a, b = (analyse(e, obs, method=ETKF(), sigma=0.5) for e in (ens, ens.chunk(x=3)))
    assert b.u.chunks is None
    np.testing.assert_array_equal(a.u, b.u)


@pytest.mark.parametrize("lazy", [False, True])
def test_bad_forecasts(lazy):
    ens = ring()
    obs, method = shifted(ens, x=[1, 4]), LETKF(localization=2.0)
    cases = [
        (ens.isel(member=0, drop=True), {}, ValueError, r"the forecast has no dimension 'member'; it has \('x',\)"),
        (ens.isel(member=[0]), {}, ValueError, "the initial ensemble has 1 members; the method takes at least 2"),
        (ens.drop_vars("time"), {}, ValueError, r"has no 'time'; use .assign_coords\(time=...\)"),
        (ens.expand_dims(time=[0.0, 1.0]), {}, ValueError, "the forecast has 2 times, expected one; use ds.sda.filter"),
        (ens.assign_coords(time=1.0), {}, ValueError, "before the first state, at 0; the grid goes from 1 to 1"),
        (ens.where(ens.x != 4), {}, ValueError, "the .* holds NaN or infinite values"),
        (ens, {"sigma": None}, ValueError, "no observation error for 'u'"),
        (ens, {"correlation": {"u": {"x": 2.0}}}, ValueError, "LETKF weighs .* so their errors must be independent; use ETKF"),
        (ens, {"method": "letkf"}, ValueError, r"unknown method 'letkf'; write xsda.baselines.LETKF\(...\)"),
        (ens, {"method": LETKF}, TypeError, r"method is the class LETKF; pass an object of it: LETKF\(...\)"),
        (ens, {"method": LETKF(localization={"y": 1.0})}, ValueError, "localization names 'y', the grid has x"),
    ]  # fmt: skip
    for forecast, options, error, match in cases:
        with pytest.raises(error, match=match):
            analyse(forecast.chunk() if lazy else forecast, obs, **{"method": method, "sigma": 0.5, **options})


def test_lazily_nothing_is_remembered():
    ens = ring()
    method = LETKF(localization=2.0, inflation=AdaptiveInflation())
    with pytest.raises(ValueError, match=r"AdaptiveInflation depends on earlier times; use it in ds\.sda\.filter"):
        analyse(ens.chunk(), shifted(ens, x=[1]), method=method, sigma=0.5)
    out = analyse(ens, shifted(ens, x=[1]), method=method, sigma=0.5)
    assert np.isfinite(out.inflation)
    assert np.isfinite(numbers(out)).all()
