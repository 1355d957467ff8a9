"""Long records against the fixed-lag smoother in closed form, and runs that stop and go on."""

import warnings
from datetime import timedelta
from functools import partial
from itertools import pairwise

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given

import xsda
from xsda.sampling.long_records import plan_windows

STATES, WINDOW, LAG, OVERLAP, SIGMA = 26, 10, 3, 2, 0.5
Y_COV = np.array([[1.0, 0.6], [0.6, 1.5]])


def in_time(n):
    return 0.85 ** np.abs(np.subtract.outer(np.arange(n), np.arange(n)))


def record(n, hours=False):
    time = (
        np.datetime64("2026-03-01T00", "ns") + np.arange(n) * np.timedelta64(1, "h") if hours else np.arange(float(n))
    )
    return xr.Dataset({"v": (("time", "y"), np.full((n, 2), np.nan))}, {"time": time, "y": [0.0, 1.0]})


@pytest.fixture(scope="module")
def prior():
    """An autoregressive process at two correlated places."""
    return xsda.GaussianPrior.separable(record(WINDOW).fillna(0), in_time(WINDOW), Y_COV, name="ar")


@pytest.fixture(scope="module")
def obs():
    """The first place at some times, which the windows divide."""
    rng = np.random.default_rng(3)
    times = np.array([1.0, 6, 7, 9, 12, 16, 17, 18, 23])
    truth = np.linalg.cholesky(in_time(STATES)) @ rng.standard_normal(STATES)
    y = truth[times.astype(int)] + SIGMA * rng.standard_normal(9)
    return xr.Dataset({"v": (("time", "y"), y[:, None])}, {"time": times, "y": [0.0]})


def smoother(obs, windows):
    """Mean and covariance of all states, flattened: each window given its known states and its observations."""
    n = 2 * STATES
    mean, cov = np.zeros(n), np.zeros((n, n))
    for w in windows:
        own = np.kron(in_time(w.stop - w.start), Y_COV)
        known = 2 * w.known
        first = w.start + w.known - 1 if w.known else -1
        seen = [i for i, t in enumerate(obs.time.values) if first < t < w.stop]
        rows = np.zeros((known + len(seen), len(own)))
        rows[:known, :known] = np.eye(known)
        rows[known + np.arange(len(seen)), [2 * (int(obs.time[i]) - w.start) for i in seen]] = 1
        error = np.diag([0.0] * known + [SIGMA**2] * len(seen))
        gain = own @ rows.T @ np.linalg.inv(rows @ own @ rows.T + error)
        left = own - gain @ rows @ own
        here = slice(known, 2 * (w.settled - w.start))
        new, old, past = (
            slice(2 * w.start + known, 2 * w.settled),
            slice(2 * w.start, 2 * w.start + known),
            slice(0, 2 * w.start + known),
        )
        onward = gain[here, :known]
        mean[new] = onward @ mean[old] + gain[here, known:] @ obs.v.values[seen, 0]
        cov[new, past] = onward @ cov[old, past]
        cov[past, new] = cov[new, past].T
        cov[new, new] = onward @ cov[old, old] @ onward.T + left[here, here]
    return mean, cov


def test_members_are_samples_of_the_fixed_lag_smoother_across_borders(prior, obs):
    members, guidance = 512, xsda.guidance.MMPS(tolerance=1e-4)
    run = record(STATES).sda.reanalyse(
        obs, prior, lag=LAG, overlap=OVERLAP, members=members, sigma=SIGMA, guidance=guidance, progress=False
    )  # fmt: skip
    mean, cov = smoother(obs, plan_windows(STATES, STATES, WINDOW, LAG, OVERLAP))
    x = run.v.transpose("member", "time", "y").values.reshape(members, -1)
    z = (x.mean(0) - mean) / np.sqrt(np.diag(cov) / members)
    assert np.abs(z).max() < 4.2
    assert 0.5 < (z**2).mean() < 2
    error = np.sqrt((np.outer(np.diag(cov), np.diag(cov)) + cov**2) / members)
    z = (np.cov(x.T) - cov) / error
    assert np.abs(z).max() < 4.5
    assert 0.7 < (z**2).mean() < 1.4


def test_the_fixed_lag_smoother_approaches_the_smoother(obs):
    """The reference is the posterior if there is one window, and comes closer to it with longer lags."""
    whole, _ = smoother(obs, plan_windows(STATES, STATES, STATES, 0, 1))
    far = [np.abs(smoother(obs, plan_windows(STATES, STATES, 14, lag, 2))[0] - whole).max() for lag in (0, 2, 6, 10)]
    assert all(a > 2 * b for a, b in pairwise(far))
    assert far[-1] < 1e-3


@given(st.integers(2, 12), st.integers(0, 10), st.integers(1, 10), st.integers(0, 60), st.integers(0, 9))
def test_windows_settle_every_state_once_with_the_lag(window, lag, overlap, more, horizon):
    lag, overlap = min(lag, window - 2), min(overlap, window - 1)
    overlap = min(overlap, window - lag - 1)
    observed = window + more
    windows = plan_windows(observed, observed + horizon, window, lag, overlap)
    assert windows[0].known == 0
    assert windows[-1].settled == observed + horizon
    for a, b in pairwise(windows):
        assert b.start + b.known == a.settled < b.settled
        assert b.known >= overlap
    for w in windows:
        assert w.stop - w.start == window
        assert w.start >= 0
        assert w.stop - w.settled == (lag if w.stop < observed else 0) or w.stop in (observed, observed + horizon)


def test_one_window_is_an_assimilation(prior, obs):
    early = obs.isel(time=slice(4))
    options = {"members": 3, "sigma": SIGMA, "seed": 5, "progress": False}
    one, other = (
        record(WINDOW).sda.reanalyse(early, prior, **options),
        record(WINDOW).sda.assimilate(early, prior, **options),
    )
    xr.testing.assert_equal(one, other)


OPTIONS = {"lag": LAG, "overlap": OVERLAP, "sigma": SIGMA, "steps": 12, "progress": False}


def test_a_run_that_stops_goes_on_with_the_same_numbers(prior, obs, tmp_path):
    whole = record(STATES).sda.reanalyse(obs, prior, members=4, **OPTIONS)
    calls = 0

    def opened(first, last):
        nonlocal calls
        calls += 1
        if calls == 4:
            raise OSError("the disk of the observations is away")
        return obs.sel(time=slice(first, last))

    out = tmp_path / "r.zarr"
    with pytest.raises(OSError, match="away") as raised:
        record(STATES).sda.reanalyse(opened, prior, members=4, out=out, **OPTIONS)
    assert "from 10.0 to 19.0" in raised.value.__notes__[0]
    assert "same call continues" in raised.value.__notes__[1]
    run = record(STATES).sda.reanalyse(opened, prior, members=4, out=out, **OPTIONS)
    np.testing.assert_array_equal(run.v, whole.v)
    more = record(STATES).sda.reanalyse(opened, prior, members=6, out=out, **OPTIONS)
    np.testing.assert_array_equal(more.v[:4], whole.v)


def test_a_longer_record_draws_only_the_last_states_again(prior, obs, tmp_path):
    out = tmp_path / "r.zarr"
    short, long = record(19), record(STATES)
    first = short.sda.reanalyse(obs.sel(time=slice(0, 18)), prior, members=3, out=out, horizon=4, **OPTIONS).load()
    assert first.sizes["time"] == 23
    run = long.sda.reanalyse(obs, prior, members=3, out=out, **OPTIONS)
    np.testing.assert_array_equal(run.v, long.sda.reanalyse(obs, prior, members=3, **OPTIONS).v)
    settled = max(w.settled for w in plan_windows(STATES, STATES, WINDOW, LAG, OVERLAP) if w.stop <= 19)
    np.testing.assert_array_equal(run.v[:, :settled], first.v[:, :settled])
    assert not (run.v[:, settled:19] == first.v[:, settled:19]).any()


def test_members_of_earlier_calls_follow_a_longer_record(prior, obs, tmp_path):
    """Also without a lag, which needs no settled state again; and those that the call between did not draw."""
    opens = []

    def opened(first, last):
        opens.append(first)
        return obs.sel(time=slice(first, last))

    for lag in (0, LAG):
        options, out = {**OPTIONS, "lag": lag, "steps": 4}, tmp_path / f"{lag}.zarr"
        record(19).sda.reanalyse(opened, prior, members=[0, 1], out=out, **options)
        record(STATES).sda.reanalyse(opened, prior, members=[2, 3], out=out, **options)
        opens.clear()
        run = record(STATES).sda.reanalyse(opened, prior, members=[3, 0, 1], out=out, **options)
        assert run.member.values.tolist() == [3, 0, 1]
        xr.testing.assert_allclose(run.v, record(STATES).sda.reanalyse(obs, prior, members=[3, 0, 1], **options).v)
        valid = [w for w in plan_windows(STATES, STATES, WINDOW, lag, OVERLAP) if w.stop <= 19]
        assert len(opens) == 1 + len(plan_windows(STATES, STATES, WINDOW, lag, OVERLAP)) - len(valid)


def test_windows_without_observations_and_one_warning_of_each_kind(prior, obs):
    """Missing values in a window, none at all, and positions outside the grid."""
    missing = obs.where(obs.time > 11)
    away = obs.assign_coords(y=[7.0]).isel(time=slice(1, 8))
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        record(STATES).sda.reanalyse([missing, away], prior, members=1, outside="drop", **OPTIONS)
    kinds = [str(w.message).lstrip("0123456789 ").split("(")[0] for w in given]
    assert len(kinds) == len(set(kinds))
    assert any("windows are drawn without" in k for k in kinds)
    with pytest.warns(RuntimeWarning, match="no observations from"):
        gap = record(STATES).sda.reanalyse(obs.isel(time=[0, 8]), prior, members=1, **OPTIONS)
    assert bool(gap.v.notnull().all())


def test_options_by_source_where_a_window_lacks_a_source(prior, obs):
    """A source without observations in a window is as one that is there and empty."""
    ship = obs.isel(time=[4]) + 0.3

    def opened(first, last, empty):
        found = {"buoy": obs.sel(time=slice(first, last)), "ship": ship.sel(time=slice(first, last))}
        return {name: ds for name, ds in found.items() if empty or ds.time.size}

    options = {**OPTIONS, "sigma": {"buoy": SIGMA, "ship": {"v": 1.0}}, "likelihood": {"ship": "student_t"}, "steps": 4}
    with pytest.warns(RuntimeWarning, match="sigma names 'ship', which is not among the sources and variables of a"):
        run = record(STATES).sda.reanalyse(partial(opened, empty=False), prior, members=1, **options)
    whole = record(STATES).sda.reanalyse(partial(opened, empty=True), prior, members=1, **options)
    xr.testing.assert_equal(run.v, whole.v)


def test_a_record_of_months_goes_on_with_months(obs):
    grid = record(STATES).assign_coords(time=pd.date_range("2001-01-01", periods=STATES, freq="MS"))
    prior = xsda.GaussianPrior.separable(grid.isel(time=slice(WINDOW)).fillna(0), in_time(WINDOW), Y_COV)
    dated = obs.assign_coords(time=grid.time.values[obs.time.values.astype(int)])
    run = grid.sda.reanalyse(dated, prior, members=1, horizon=3, **OPTIONS)
    assert run.time.dt.day.values.tolist() == [1] * (STATES + 3)


def test_coordinates_with_even_steps_go_on(prior, obs):
    own = {"valid": ("time", np.arange(STATES) + 6.0), "phase": ("time", np.arange(STATES) % 2)}
    run = record(STATES).assign_coords(own).sda.reanalyse(obs, prior, members=1, horizon=2, **{**OPTIONS, "steps": 2})
    np.testing.assert_array_equal(run.valid, np.arange(STATES + 2) + 6.0)
    assert "phase" not in run.coords


def test_chunks_and_batches_change_nothing(prior, obs, tmp_path):
    whole = record(STATES).sda.reanalyse(obs, prior, members=5, **OPTIONS)
    parts = record(STATES).sda.reanalyse(
        obs, prior, members=5, chunks={"member": 2}, batch=1, out=tmp_path / "r.zarr", **OPTIONS
    )  # fmt: skip
    np.testing.assert_allclose(parts.v, whole.v, atol=1e-4)


def test_tables_and_dates(obs):
    prior = xsda.GaussianPrior.separable(record(WINDOW, hours=True).fillna(0), in_time(WINDOW), Y_COV)
    grid = record(STATES, hours=True)
    dated = obs.assign_coords(time=grid.time.values[obs.time.values.astype(int)])
    table = pd.DataFrame({"time": dated.time.values[::-1], "y": 0.0, "v": obs.v.values[::-1, 0]})
    three = (dated, "3h"), (table, np.timedelta64(3, "h"))
    runs = [grid.sda.reanalyse(o, prior, members=2, horizon=h, **OPTIONS) for o, h in three]
    np.testing.assert_allclose(runs[0].v, runs[1].v, atol=1e-5)
    assert runs[0].time.values[-1] == grid.time.values[-1] + np.timedelta64(3, "h")
    lengths = {"window": "10h", "lag": timedelta(hours=LAG), "overlap": "120min"}
    again = grid.sda.reanalyse(dated, prior, members=2, horizon=3, **{**OPTIONS, **lengths})
    np.testing.assert_array_equal(again.v, runs[0].v)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lag": 10}, "lag=10 must be at least two smaller than window=10"),
        ({"lag": 5, "overlap": 5}, "overlap=5 and lag=5 fill window=10"),
        ({"window": 8}, "exactly 10 states"),
        ({"horizon": "2D"}, "holds no dates"),
        ({"lag": "6h"}, "lag='6h' is a length of time, but 'time' holds no dates"),
        ({"horizon": -1}, "horizon=-1 must be"),
        ({"sampler": "tds"}, "weighted particles"),
    ],
)
def test_sizes_that_do_not_fit(prior, obs, change, message):
    with pytest.raises(ValueError, match=message):
        record(STATES).sda.reanalyse(obs, prior, sigma=SIGMA, progress=False, **change)


def test_what_cannot_be_divided_is_refused(prior, obs, tmp_path):
    grid, options = record(STATES), {"members": 2, **OPTIONS}
    with pytest.raises(ValueError, match="1 of 9 times of obs lie outside the record"):
        grid.isel(time=slice(20)).sda.reanalyse(obs, prior, **options)
    with pytest.raises(ValueError, match="has no times"):
        grid.sda.reanalyse(obs.mean("time"), prior, **options)
    with pytest.raises(ValueError, match="fewer than window=10"):
        grid.isel(time=slice(8)).sda.reanalyse(obs.isel(time=slice(2)), prior, **options)
    with pytest.raises(ValueError, match="time"):
        grid.isel(time=[*range(12), *range(13, 26)]).sda.reanalyse(obs, prior, **options)
    with pytest.raises(ValueError, match="no coordinate 'time'"):
        grid.drop_vars("time").sda.reanalyse(obs, prior, **options)
    grid.sda.reanalyse(obs, prior, out=tmp_path / "r.zarr", **options)
    with pytest.raises(FileExistsError, match="observations"):
        grid.sda.reanalyse(obs + 1, prior, out=tmp_path / "r.zarr", **options)
    with pytest.raises(FileExistsError, match="seed was 0, now 1"):
        grid.sda.reanalyse(obs, prior, out=tmp_path / "r.zarr", seed=1, **options)
