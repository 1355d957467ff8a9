"""Going through time: exact for linear systems, the same wherever it starts or stops, and labelled."""

import os

import cftime
import numpy as np
import pytest
import xarray as xr
from helpers import ensemble, kalman, moments
from lazy import computes_nothing

import xsda
from xsda.baselines import (
    EAKF,
    ETKF,
    LETKF,
    AdaptiveInflation,
    DEnKF,
    EnKF,
    EnKFN,
    Forecast,
    ForecastError,
    filter,
)  # fmt: skip
from xsda.baselines.smoothers import EnKS
from xsda.systems import DampedSpring, Lorenz63, Lorenz96

START = (np.array([0.5, -0.2]), np.array([[0.5, 0.1], [0.1, 0.3]]))
HOUR, DAY = np.timedelta64(1, "h"), np.datetime64("2001-01-01", "ns")


@pytest.fixture(scope="module")
def ring():
    """Lorenz-96 with 8 sites over 12 steps, observed at every second of them."""
    system = Lorenz96(n=8, noise=0.1)
    truth = system.simulate(12, seed=1)
    obs = truth.sda.observe(truth.isel(time=slice(1, None, 2), x=slice(None, None, 2)), sigma=0.5, seed=2)
    return system, truth, obs


METHODS = {
    "EnKF": EnKF(inflation=1.02),
    "rotated": ETKF(rotate=True),
    "EnKFN": EnKFN(rotate=True),
    "adaptive": LETKF(localization=2.0, inflation=AdaptiveInflation(), rotate=True),
}


def dated(ds, step=HOUR):
    return ds.assign_coords(time=DAY + np.round(ds.time.values / 0.05).astype(int) * step)


# --- what is computed ---


@pytest.mark.parametrize("method", [ETKF(), ETKF(rotate=True), EAKF()], ids=str)
def test_a_linear_system_is_filtered_exactly(method):
    """Without noise the square roots are the Kalman filter, for any number of members."""
    system = DampedSpring(noise=0.0)
    truth = system.simulate(16, burn_in=0, seed=3)
    obs = truth.sda.observe(truth.isel(time=slice(1, None, 3))[["position"]], sigma=0.3, seed=4)
    y = obs.position.reindex(time=truth.time).values[:, None]
    f = system.matrix.numpy()
    exact = kalman(f, np.zeros(2), 0, np.eye(2)[:1], np.array([[0.09]]), START, y)
    out = filter(truth, obs, system, method=method, initial=ensemble(system, *START, 5), keep="both", progress=False)
    for stage, expected in zip(("forecast", "analysis"), exact, strict=True):
        mean, cov = moments(out.sel(stage=stage))
        np.testing.assert_allclose(mean, [m for m, _ in expected], rtol=0, atol=1e-10)
        np.testing.assert_allclose(cov, [p for _, p in expected], rtol=0, atol=1e-10)


def test_observations_between_grid_times():
    """The same as on a grid that has those times, where the system makes parts of steps."""
    system = Lorenz96(n=8)
    fine = Lorenz96(n=8, dt=0.01).simulate(41, seed=1)  # times 0, 0.01, ...
    when = [0.0, 0.03, 0.05, 0.17, 0.18, 0.4]
    obs = fine.sda.observe(fine.sel(time=when, method="nearest"), sigma=0.5, seed=2)
    coarse = fine.isel(time=slice(None, None, 5))
    every = fine.isel(time=np.unique(np.r_[np.arange(0, 41, 5), [3, 17, 18]]))
    start = filter(
        fine.isel(time=[0]), obs.isel(time=[0]), system, method=ETKF(), members=9, progress=False, keep="forecast"
    )
    options = {"method": ETKF(), "initial": start.isel(time=0), "progress": False, "seed": 4}
    a, b = (filter(grid, obs, system, **options) for grid in (coarse, every))
    np.testing.assert_array_equal(a.u, b.u.sel(time=a.time, method="nearest"))
    error = np.sqrt(((a.u.mean("member") - coarse.u) ** 2).mean())
    assert error < np.sqrt(((start.u.isel(time=0).mean("member") - coarse.u) ** 2).mean()) / 2


def test_irregular_times_on_dates(ring):
    """Grid and observations at any times; the steps are the system's own."""
    system, truth, obs = ring
    grid = dated(truth).isel(time=[0, 1, 4, 11])
    out = filter(grid, dated(obs), Forecast(system, dt="1h"), method=ETKF(), members=9, progress=False)
    whole = filter(truth, obs, system, method=ETKF(), members=9, progress=False)
    assert out.time.dtype == grid.time.dtype
    assert (
        out.u != whole.u.isel(time=[0, 1, 4, 11]).values
    ).any()  # random numbers belong to times as they are labelled
    still = Lorenz96(n=8)  # and without any they are the same
    a = filter(grid, dated(obs), Forecast(still, dt="1h"), method=ETKF(), members=9, progress=False)
    b = filter(truth, obs, still, method=ETKF(), members=9, progress=False)
    np.testing.assert_allclose(a.u, b.u.isel(time=[0, 1, 4, 11]), rtol=0, atol=1e-9)


def test_observations_at_the_first_time():
    """The initial ensemble is the forecast of the first time."""
    system = Lorenz96(n=8)
    truth = system.simulate(3, seed=1)
    obs = truth.sda.observe(truth.isel(time=[0]), sigma=0.1, seed=2)
    initial = system.simulate(1, 12, seed=5).isel(time=0, drop=True)
    out = filter(truth, obs, system, method=ETKF(), initial=initial, keep="both", progress=False)
    np.testing.assert_array_equal(out.u.sel(stage="forecast").isel(time=0), initial.u)
    assert float(np.abs(out.u.sel(stage="analysis").isel(time=0).mean("member") - truth.u[0]).max()) < 0.4
    np.testing.assert_array_equal(out.u.sel(stage="analysis")[:, 1:], out.u.sel(stage="forecast")[:, 1:])


def test_an_ensemble_of_an_earlier_time_is_brought_to_the_first():
    system = Lorenz96(n=8)
    truth = system.simulate(6, seed=1)
    initial = system.simulate(1, 5, seed=5)
    grid = truth.isel(time=slice(2, None))
    out = filter(
        grid, truth.isel(time=[5]), system, method=ETKF(), initial=initial.isel(time=0), sigma=1.0, progress=False
    )
    x = system.step(system.step(system.to_tensor(initial)[:, 0]))
    np.testing.assert_array_equal(out.u.isel(time=0), x[:, 0])
    # observations between that time and the grid's first are taken, those of that time are not: it is done with them
    between = truth.isel(time=[1]).sda.observe(truth.isel(time=[1]), sigma=0.1, seed=1)
    first = filter(
        truth.isel(time=slice(1, None)), between, system, method=ETKF(), initial=initial.isel(time=0), progress=False
    )
    later = filter(grid, between, system, method=ETKF(), initial=initial.isel(time=0), progress=False)
    np.testing.assert_array_equal(later.u, first.u[:, 1:])
    with pytest.raises(
        ValueError, match=r"before the first state, at 0; the grid goes from 0.1 to 0.25, and the initial"
    ):
        filter(
            grid, truth.isel(time=[0]), system, method=ETKF(), initial=initial.isel(time=0), sigma=1.0, progress=False
        )


@pytest.mark.parametrize("method", METHODS)
def test_times_without_observations(ring, method):
    """All NaN at some times is no observation then; and far grids cost no values."""
    system, truth, obs = ring
    gaps = obs.reindex(time=truth.time)  # NaN where there is none
    options = {"method": METHODS[method], "members": 6, "progress": False}
    a, b = (filter(truth, o, system, **options) for o in (obs, gaps))
    xr.testing.assert_equal(a, b)


@pytest.mark.parametrize("method", METHODS)
def test_results_do_not_depend_on_what_comes_later(ring, method):
    system, truth, obs = ring
    options = {"method": METHODS[method], "members": 6, "progress": False, "keep": "both"}
    whole = filter(truth, obs, system, **options)
    short = filter(truth.isel(time=slice(7)), obs.isel(time=slice(3)), system, **options)
    np.testing.assert_array_equal(short.u, whole.u.isel(time=slice(7)))


def test_seeds(ring):
    system, truth, obs = ring
    one, same, other = (filter(truth, obs, system, method=EnKF(), seed=s, members=6, progress=False) for s in (1, 1, 2))
    xr.testing.assert_equal(one, same)
    assert (one.u != other.u).all()


# --- going on ---


@pytest.mark.parametrize("kind", ["numbers", "datetime64", "cftime", "seconds"])
@pytest.mark.parametrize("method", METHODS)
def test_a_run_goes_on_where_it_ended(ring, method, kind, tmp_path):
    """To the bit, also through a file; in the middle, and where nothing is observed."""
    system, truth, obs = ring
    if kind == "seconds":
        truth, obs = dated(truth).isel(), dated(obs)
        truth, obs = (d.assign_coords(time=d.time.values.astype("datetime64[s]")) for d in (truth, obs))
    elif kind != "numbers":
        truth, obs = dated(truth), dated(obs)
    if kind == "cftime":
        truth, obs = (d.convert_calendar("noleap", use_cftime=True) for d in (truth, obs))
    step = system if kind == "numbers" else Forecast(system, dt="1h")
    options = {"method": METHODS[method], "seed": 3, "progress": False}
    whole = filter(truth, obs, step, members=6, **options)
    for stop in (4, 5):
        limit = truth.time.values[stop]
        first = filter(truth.isel(time=slice(stop)), obs.sel(time=obs.time < limit), step, members=6, **options)
        first.to_netcdf(tmp_path / "first.nc")
        with xr.open_dataset(
            tmp_path / "first.nc", decode_times=xr.coders.CFDatetimeCoder(use_cftime=kind == "cftime")
        ) as file:
            last = file.isel(time=-1).load()
        rest = obs.sel(time=obs.time >= limit)
        for initial in (first.isel(time=-1), last):
            second = filter(truth.isel(time=slice(stop, None)), rest, step, initial=initial, **options)
            np.testing.assert_array_equal(second.u, whole.u.isel(time=slice(stop, None)))


def test_a_run_with_stages_goes_on(ring):
    system, truth, obs = ring
    options = {"method": ETKF(rotate=True), "progress": False}
    whole = filter(truth, obs, system, members=6, **options)
    first = filter(truth.isel(time=slice(4)), obs.isel(time=slice(2)), system, members=6, keep="both", **options)
    second = filter(
        truth.isel(time=slice(4, None)), obs.isel(time=slice(2, None)), system, initial=first.isel(time=-1), **options
    )
    np.testing.assert_array_equal(second.u, whole.u.isel(time=slice(4, None)))


def equal(a, b):
    """The same but for the moment it was made."""
    xr.testing.assert_identical(*(d.compute().drop_attrs(deep=False) for d in (a, b)))
    assert {k: str(v) for k, v in a.attrs.items() if k != "history"} == {
        k: str(v) for k, v in b.attrs.items() if k != "history"
    }


@pytest.mark.parametrize(
    ("method", "keep", "every"),
    [
        *((m, None, 5) for m in METHODS),
        *(("adaptive", k, 5) for k in ("both", "forecast")),
        ("EnKFN", "both", 1),
        ("EnKF", "both", 100),
    ],
)
def test_a_folder_holds_the_same(ring, method, keep, every, tmp_path):
    system, truth, obs = ring
    late = obs.isel(time=slice(3, None))  # so that the first pieces have nothing to note
    options = {"method": METHODS[method], "members": 6, "progress": False, "keep": keep}
    memory = filter(truth, late, system, **options)
    with computes_nothing():
        out = filter(truth, late, system, out=tmp_path, every=every, **options)
    assert all(v.chunks is not None for v in out.data_vars.values())
    assert len(list(tmp_path.iterdir())) == -(-12 // every)
    equal(out, memory)


@pytest.mark.parametrize("kind", ["dates", "cftime", "standard"])
def test_a_folder_keeps_dates(ring, kind, tmp_path):
    system, truth, obs = ring
    truth, obs = dated(truth), dated(obs)
    if kind != "dates":
        truth, obs = (d.convert_calendar("noleap" if kind == "cftime" else kind, use_cftime=True) for d in (truth, obs))
    options = {"method": ETKF(), "members": 6, "progress": False}
    memory = filter(truth, obs, Forecast(system, dt="1h"), **options)
    for _ in range(2):  # the second finds all done
        equal(filter(truth, obs, Forecast(system, dt="1h"), out=tmp_path, every=5, **options), memory)


def test_a_grid_without_times(ring, tmp_path):
    """Its steps are counted; the observations are of each."""
    system, truth, _ = ring
    bare = truth.drop_vars("time")
    step = Forecast(lambda x, start, stop: system.step(x), tensors=True)
    options = {"method": ETKF(), "initial": system.simulate(1, 5), "sigma": 0.5, "progress": False}
    memory = filter(bare, bare, step, **options)
    dated = truth.assign_coords(time=np.arange(12.0))
    np.testing.assert_array_equal(memory.u, filter(dated, dated, step, **options).u)
    assert "time" not in memory.coords
    for _ in range(2):
        equal(filter(bare, bare, step, out=tmp_path, every=5, **options), memory)
    (tmp_path / "000002.nc").unlink()
    equal(filter(bare, bare, step, out=tmp_path, every=5, **options), memory)


class Broken(Lorenz96):
    """Fails after so many steps, as a machine does."""

    def __init__(self, steps, **options):
        super().__init__(**options)
        self.left = [steps]

    def step(self, x):
        self.left[0] -= 1
        if self.left[0] < 0:
            raise KeyboardInterrupt
        return super().step(x)

    def __repr__(self):
        return "a machine"


@pytest.mark.parametrize("keep", [None, "both"])
@pytest.mark.parametrize("method", METHODS)
def test_an_interrupted_run_resumes(ring, method, keep, tmp_path):
    """To the bit, however often; with observations between the times of the grid."""
    _, truth, obs = ring
    grid, options = truth.isel(time=[0, 2, 3, 6, 8, 9, 11]), {"n": 8, "noise": 0.1}
    initial = Lorenz96(**options).simulate(1, 6, seed=0)
    run = {"method": METHODS[method], "initial": initial, "progress": False, "every": 2, "keep": keep}
    whole = filter(grid, obs, Broken(100, **options), **run)
    for steps in (1, 7, 1, 4):
        with pytest.raises(KeyboardInterrupt):
            filter(grid, obs, Broken(steps, **options), out=tmp_path, **run)
    last = Broken(100, **options)
    equal(filter(grid, obs, last, out=tmp_path, **run), whole)
    assert last.left[0] > 90
    equal(filter(grid, obs, Broken(0, **options), out=tmp_path, **run), whole)  # nothing is left to do


def test_two_runs_in_one_folder_are_refused(ring, tmp_path):
    _, truth, obs = ring
    initial = Lorenz96(n=8, noise=0.1).simulate(1, 6, seed=0)
    options = {"method": ETKF(), "initial": initial, "progress": False, "out": tmp_path / "out", "every": 2}
    refused = []

    class Meanwhile(Lorenz96):
        def step(self, x):
            if not refused:
                refused.append(True)
                with pytest.raises(RuntimeError, match=rf"at work on .*out \(process {os.getpid()} on .* since "):
                    filter(truth, obs, Lorenz96(n=8, noise=0.1), **options)
            return super().step(x)

    filter(truth, obs, Meanwhile(n=8, noise=0.1), **options)
    assert refused
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [f"{i:06d}.nc" for i in range(6)]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_piece_that_was_cut_short_is_named_and_made_again(ring, tmp_path, number, share):
    system, truth, obs = ring
    options = {"method": ETKF(), "members": 6, "progress": False, "out": tmp_path, "every": 4}
    whole = filter(truth, obs, system, **options).compute()
    paths = sorted(tmp_path.iterdir())
    paths[number].write_bytes(paths[number].read_bytes()[: int(share * paths[number].stat().st_size)])
    with pytest.raises(ValueError, match=rf"{paths[number]} is not a whole NetCDF file .*delete it") as caught:
        filter(truth, obs, system, **options)
    assert "\n" not in str(caught.value)
    paths[number].unlink()
    if number < 2:
        with pytest.raises(ValueError, match=rf"holds 00000{number + 1}.nc but not 00000{number}.nc; delete"):
            filter(truth, obs, system, **options)
    for path in paths[number + 1 :]:
        path.unlink()
    equal(filter(truth, obs, system, **options), whole)


def test_folders_of_other_runs_are_refused(ring, tmp_path):
    system, truth, obs = ring
    options = {"method": ETKF(), "members": 6, "progress": False, "out": tmp_path, "every": 5}
    filter(truth, obs, system, **options)
    cases = [
        ({"seed": 1}, "holds a run with seed=0, now it is 1; choose another folder"),
        (
            {"method": ETKF(inflation=1.1)},
            r"holds a run with method=ETKF\(inflation=1.0.*, now it is ETKF\(inflation=1.1",
        ),
        ({"members": 7}, "holds a run with members=6, now it is 7"),
        ({"keep": "both"}, "holds a run with stages=analysis, now it is forecast, analysis"),
        ({"every": 4}, "over other times, or in pieces of another length than every=4"),
        ({"every": 12}, "over other times, or in pieces of another length than every=12"),
        ({"keep": "forecast"}, "holds an earlier run, and only filters that keep='analysis' can resume"),
        ({"method": EnKS()}, "holds an earlier run, and only filters that keep='analysis' can resume"),
    ]
    for change, match in cases:
        with pytest.raises(ValueError, match=match):
            filter(truth, obs, system, **{**options, **change})
    with pytest.raises(ValueError, match="holds a run with system=Lorenz96"):
        filter(truth, obs, Lorenz96(n=8), **options)
    with pytest.raises(ValueError, match="over other times"):
        filter(truth.isel(time=slice(1, None)), obs, system, **options)
    with pytest.raises(ValueError, match="every=0 must be an integer of at least 1: it is how many times are written"):
        filter(truth, obs, system, **{**options, "every": 0})


# --- what is kept ---


def test_stages(ring):
    system, truth, obs = ring
    options = {"method": ETKF(), "members": 6, "progress": False}
    both = filter(truth, obs, system, keep="both", **options)
    assert both.u.dims == ("stage", "member", "time", "x")
    np.testing.assert_array_equal(both.stage, ["forecast", "analysis"])
    for stage in ("forecast", "analysis"):
        np.testing.assert_array_equal(filter(truth, obs, system, keep=stage, **options).u, both.u.sel(stage=stage))
        np.testing.assert_array_equal(filter(truth, obs, system, keep=[stage], **options).u, both.u.sel(stage=stage))
    np.testing.assert_array_equal(filter(truth, obs, system, **options).u, both.u.sel(stage="analysis"))
    # the forecast of a time is the step from the analysis before
    x = system.step(system.to_tensor(both.sel(stage="analysis").isel(time=slice(-1))))
    quiet = filter(truth, obs, Lorenz96(n=8), keep="both", **options)
    x = system.step(system.to_tensor(quiet.sel(stage="analysis").isel(time=slice(-1))))
    np.testing.assert_array_equal(quiet.u.sel(stage="forecast")[:, 1:], x[:, :, 0])


def test_labels(ring):
    """The user's names, order, attributes; nothing is read of the grid's values."""
    system, truth, obs = ring
    grid = truth.rename(x="lon", time="t").transpose("lon", "t").assign_attrs(title="mine", history="made")
    grid["u"].attrs.update(units="m s-1", standard_name="eastward_wind")
    grid = grid.assign_coords(site=("lon", list("abcdefgh")), run=3).assign(height=("lon", np.arange(8.0)))

    def unread(x):
        raise AssertionError("a value of the grid was read")

    lazy = grid.assign(u=grid.u.copy(data=grid.chunk().u.data.map_blocks(unread, dtype=float)))
    obs = obs.rename(x="lon", time="t").drop_attrs().assign_coords(lon=grid.lon[::2])
    with computes_nothing():
        out = filter(lazy, obs, system, method=LETKF(localization=2.0), members=5, sigma=0.5, seed=7, progress=False)
    assert out.u.dims == ("member", "lon", "t")
    assert out.u.attrs == grid.u.attrs
    assert set(out.data_vars) == {"u"}
    for name in ("lon", "t", "site", "run"):
        xr.testing.assert_identical(out[name].variable, grid[name].variable)
    assert out.member.attrs == {"standard_name": "realization", "units": "1"}
    assert "title" not in out.attrs  # it is the title of what the grid came from
    assert out.attrs["Conventions"].startswith("CF-")
    assert out.attrs["method"] == "LETKF(inflation=1.0, rotate=False, localization=2.0)"
    assert out.attrs["system"].startswith("Lorenz96(dt=0.05")
    assert (out.attrs["members"], out.attrs["seed"]) == (5, 7)
    assert "method=LETKF" in out.attrs["history"].splitlines()[0]
    assert out.attrs["history"].endswith("\nmade")
    plain = filter(
        truth,
        obs.rename(lon="x", t="time"),
        system,
        method=LETKF(localization=2.0),
        members=5,
        sigma=0.5,
        seed=7,
        progress=False,
    )
    np.testing.assert_array_equal(out.u.transpose("member", "t", "lon"), plain.u)


def test_a_descending_axis(ring):
    """Of the grid and of the observations; the system runs on its own."""
    system, truth, obs = ring
    turned = {"x": slice(None, None, -1)}
    a = filter(truth, obs, system, method=LETKF(localization=2.0), members=5, progress=False)
    b = filter(truth.isel(turned), obs.isel(turned), system, method=LETKF(localization=2.0), members=5, progress=False)
    np.testing.assert_allclose(b.u, a.u.isel(turned), rtol=0, atol=1e-9)


def test_results_feed_the_scores(ring, tmp_path):
    system, truth, obs = ring
    out = filter(truth, obs, system, method=ETKF(inflation=1.05), members=20, progress=False)
    scores = out.sda.evaluate(truth, obs=obs)
    assert 0 < float(scores.rmse.sel(variable="u")) < 3.6  # the climate's standard deviation
    out.to_netcdf(tmp_path / "run.nc")
    with xr.open_dataset(tmp_path / "run.nc") as file:
        equal(file, out)
    table = xsda.compare(
        truth, {"a": out, "b": truth.sda.filter(obs, system, method=EnKF(), members=20, progress=False)}
    )
    assert set(table.table.ensemble.values) == {"a", "b"}


def test_a_grid_that_is_a_result(ring):
    """What an earlier run told of its times is not taken over."""
    system, truth, obs = ring
    first = filter(truth, obs, system, method=EnKFN(), members=6, progress=False)
    assert "inflation" in first.coords
    again = filter(first, obs, system, method=ETKF(), members=6, progress=False)
    assert "inflation" not in again.coords
    np.testing.assert_array_equal(again.u, filter(truth, obs, system, method=ETKF(), members=6, progress=False).u)


def test_notes_of_each_time(ring):
    system, truth, obs = ring
    out = filter(truth, obs, system, method=EnKFN(), members=6, progress=False)
    np.testing.assert_array_equal(np.isfinite(out.inflation), out.time.isin(obs.time))
    assert out.inflation.attrs == {"long_name": "inflation factor", "units": "1"}


# --- what goes wrong ---


class Exploding(Lorenz96):
    """One member leaves after some time."""

    def step(self, x):
        x = super().step(x)
        x[3] *= 10
        return x


@pytest.mark.parametrize("out", [False, True])
def test_members_that_leave(out, tmp_path):
    """Time and member, and what was computed before, from the folder too."""
    truth = Lorenz96(n=8).simulate(30, seed=1)
    obs = truth.isel(time=[0])
    options = {"method": ETKF(), "members": 5, "sigma": 1.0, "progress": False, "keep": "both"}
    start = filter(truth.isel(time=[0]), obs, Lorenz96(n=8), **options)
    system, initial = Exploding(n=8), Lorenz96(n=8).simulate(1, 5)
    options = {**options, "members": None, "initial": initial}
    with pytest.raises(
        ForecastError, match=r"the forecast from [\d.]+ to [\d.]+ made member 3 of 5 non-finite; more infl"
    ) as caught:
        filter(truth, obs, system, **options, **({"out": tmp_path / "run", "every": 2} if out else {}))
    partial = caught.value.partial
    count = partial.sizes["time"]
    assert 2 < count < 20
    assert f"to {truth.time.values[count]:g} made" in str(caught.value)
    np.testing.assert_array_equal(partial.time, truth.time[:count])
    np.testing.assert_array_equal(partial.u.isel(time=0), start.u.isel(time=0))
    assert np.isfinite(partial.u).all()


def test_nothing_was_computed_before():
    truth = Lorenz96(n=8).simulate(3, seed=1)
    with pytest.raises(ForecastError) as caught:
        filter(truth, truth.isel(time=[0]), lambda ds, a, b: ds, method=ETKF(), members=3, sigma=1.0, progress=False, derived={"u": lambda s: s["u"].log()}, initial=Lorenz96(n=8).simulate(1, 3))  # fmt: skip
    assert caught.value.partial is None
    assert "the derived variable 'u' is not finite for member" in str(caught.value)


def test_bad_calls(ring):
    system, truth, obs = ring
    cases = [
        ({"method": "etkf"}, ValueError, r"unknown method 'etkf'; write xsda.baselines.ETKF\(...\)"),
        ({"method": "LETKG"}, ValueError, "unknown method 'LETKG'; did you mean 'LETKF'"),
        ({"method": ETKF}, TypeError, r"method is the class ETKF; pass an object of it: ETKF\(...\)"),
        ({"method": 3}, TypeError, "method must be one of xsda.baselines .*ETKF.*, got int"),
        ({"method": LETKF}, TypeError, "pass an object of it"),
        ({"keep": "analyses"}, ValueError, "keep='analyses': ETKF has the stages forecast, analysis; did you mean 'analysis'"),
        ({"keep": "smoothed"}, ValueError, "keep='smoothed': ETKF has the stages forecast, analysis"),
        ({"keep": ["analysis", "x"]}, ValueError, "keep='x': ETKF has"),
        ({"keep": []}, ValueError, "keep names no stage"),
        ({"system": Lorenz96}, TypeError, "system is the class Lorenz96; pass an object"),
        ({"system": Lorenz63()}, KeyError, "Lorenz63 has the variable 'x', which the grid lacks; choose one of 'u'"),
        ({"obs": obs.rename(u="w")}, KeyError, "observed variable 'w' is neither"),
        ({"obs": obs.u.values}, TypeError, "observations must be an xarray.Dataset"),
        ({"obs": obs.assign_coords(time=obs.time + 10)}, ValueError, "there are observations after the last state"),
        ({"ds": truth.isel(time=slice(None, None, -1))}, ValueError, "the time axis 'time' runs backwards"),
        ({"ds": truth.drop_vars("u")}, KeyError, "has the variable 'u'"),
        ({"ds": truth.u}, TypeError, "the grid must be an xarray.Dataset, got DataArray"),
        ({"initial": system.simulate(2, 4).isel(time=-1).assign_coords(time=9.0)}, ValueError, "the initial ensemble is valid at 9, after the first time of the grid; select"),
    ]  # fmt: skip
    for change, error, match in cases:
        call = {"ds": truth, "obs": obs, "system": system, "method": ETKF(), "members": 4, "progress": False, **change}
        with pytest.raises(error, match=match):
            filter(call.pop("ds"), call.pop("obs"), call.pop("system"), **call)
    bare = obs.drop_attrs()
    with pytest.raises(ValueError, match="no observation error for 'u': pass sigma="):
        filter(truth, bare, system, method=ETKF(), progress=False)
    with pytest.raises(ValueError, match=r"no variables over \('time', 'x'\), which say what the state is"):
        filter(truth.drop_vars("u"), obs, lambda ds, a, b: ds, method=DEnKF(), progress=False)


def test_dates_of_another_calendar(ring):
    system, truth, obs = ring
    truth, obs = dated(truth), dated(obs)
    other = obs.convert_calendar("360_day", use_cftime=True, align_on="date")
    with pytest.raises(ValueError, match=r"belong to different calendars; convert one with .convert_calendar"):
        filter(truth, other, Forecast(system, dt="1h"), method=ETKF(), progress=False)
    assert isinstance(other.time.values[0], cftime.datetime)
