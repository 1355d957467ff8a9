"""Inflation and rotation: closed forms, what they keep, and what the adaptive factor finds."""

import numpy as np
import pytest
import torch
import xarray as xr
from one_time import numbers, ring

from xsda.baselines import EAKF, ETKF, LETKF, RTPP, RTPS, AdaptiveInflation, EnKF, EnKFN, Forecast, analyse, filter
from xsda.baselines.cycle import stream
from xsda.baselines.method import helmert, rotated
from xsda.systems import Lorenz96

TIGHT = {"rtol": 0, "atol": 1e-12}


@pytest.fixture(scope="module")
def plain():
    """(forecast, observations, analysis without inflation), anomalies as numpy."""
    ens = ring()
    obs = ring(seed=3).isel(member=0, drop=True).expand_dims("time").isel(x=[1, 2, 7])
    return ens, obs, analyse(ens, obs, method=ETKF(), sigma=0.5)


def anomalies(ds):
    x = numbers(ds)
    return x - x.mean(0)


FORMS = {
    "factor": (1.3, lambda f, a: 1.3 * a),
    "deflation": (0.7, lambda f, a: 0.7 * a),
    "RTPP": (RTPP(0.4), lambda f, a: 0.6 * a + 0.4 * f),
    "RTPS": (RTPS(0.6), lambda f, a: a * (1 + 0.6 * (f.std(0) - a.std(0)) / a.std(0))),
    "all of the forecast": (RTPP(1), lambda f, a: f),
    "all of its spread": (RTPS(1), lambda f, a: a * f.std(0) / a.std(0)),
    "nothing": (RTPS(0), lambda f, a: a),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("method", [ETKF, LETKF])
def test_closed_forms(plain, form, method):
    ens, obs, _ = plain
    options = {"localization": 3.0} if method is LETKF else {}
    bare = analyse(ens, obs, method=method(**options), sigma=0.5)
    inflation, expected = FORMS[form]
    out = analyse(ens, obs, method=method(inflation=inflation, **options), sigma=0.5)
    np.testing.assert_allclose(numbers(out).mean(0), numbers(bare).mean(0), **TIGHT)
    np.testing.assert_allclose(anomalies(out), expected(anomalies(ens), anomalies(bare)), **TIGHT)


def test_numbers_without_spread_stay_so():
    x = torch.ones(4, 1, 3, dtype=torch.float64)
    torch.testing.assert_close(RTPS(0.9).after(x, x), x)


@pytest.mark.parametrize("method", [ETKF, EAKF, EnKF, EnKFN])
def test_rotation_keeps_mean_and_covariance(plain, method):
    ens, obs, _ = plain
    bare, turned = (analyse(ens, obs, method=method(rotate=r), sigma=0.5, seed=2) for r in (False, True))
    np.testing.assert_allclose(numbers(turned).mean(0), numbers(bare).mean(0), **TIGHT)
    np.testing.assert_allclose(np.cov(numbers(turned).T), np.cov(numbers(bare).T), **TIGHT)
    assert np.abs(turned.u - bare.u).max() > 0.1


@pytest.mark.parametrize("n", [2, 3, 17])
def test_rotations(n):
    basis = helmert(n)
    torch.testing.assert_close(basis.T @ basis, torch.eye(n - 1, dtype=torch.float64))
    torch.testing.assert_close(basis.sum(0), torch.zeros(n - 1, dtype=torch.float64))
    turn = rotated(torch.eye(n, dtype=torch.float64), stream(0, "rotation", 1.0))  # the mean is that of the columns
    torch.testing.assert_close(turn @ turn.T, torch.eye(n, dtype=torch.float64))


def test_rotations_are_uniform():
    """Haar measure: the entries of the (n - 1, n - 1) matrix have mean 0 and variance 1 / (n - 1)."""
    n, basis = 4, helmert(4)
    turns = [
        basis.T @ rotated(torch.eye(n, dtype=torch.float64), stream(s, "rotation", 0.0)) @ basis for s in range(4000)
    ]
    entries = torch.stack(turns)
    assert entries.mean(0).abs().max() < 4 * (1 / 3 / 4000) ** 0.5
    assert (entries.square().mean(0) - 1 / 3).abs().max() < 4 * (4 / 45 / 4000) ** 0.5
    assert 0.4 < float((torch.linalg.det(entries) > 0).double().mean()) < 0.6  # reflections too


def test_streams():
    """By seed, purpose and time."""
    draws = {torch.randn(1, generator=stream(*key)).item() for key in [(0, "a", 1.0), (1, "a", 1.0), (0, "b", 1.0), (0, "a", 2.0), (2**40, "a", 1.0), (-1, "a", 1.0)]}  # fmt: skip
    assert len(draws) == 6
    again = [torch.randn(3, generator=stream(5, "a", np.datetime64("2001-01-01"))) for _ in range(2)]
    torch.testing.assert_close(*again, rtol=0, atol=0)


# --- adaptive ---


class Draws:
    """A forecast that draws the ensemble anew: standard normal about a truth, its anomalies too small by a factor."""

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, x, start, stop):
        generator = torch.Generator().manual_seed(int(1000 * stop))
        centre = torch.randn(x.shape[1:], generator=generator, dtype=x.dtype)
        return centre + torch.randn(x.shape, generator=generator, dtype=x.dtype) / self.factor


@pytest.mark.parametrize("factor", [1.0, 1.5, 3.0])
@pytest.mark.parametrize("method", [ETKF, LETKF])
def test_the_adaptive_factor_recovers_what_is_lacking(factor, method):
    """Truth zero, forecasts N(error of variance 1, spread of variance 1 / factor^2): the variance lacks factor^2."""
    times, members = 500, 50
    grid = xr.Dataset(
        {"u": (("time", "x"), np.zeros((times, 10)))}, {"time": np.arange(float(times)), "x": np.arange(10.0)}
    )
    obs = grid.sda.observe(grid, sigma=0.5, seed=1)
    initial = xr.Dataset({"u": (("member", "x"), np.random.default_rng(0).normal(size=(members, 10)))}, {"x": grid.x})
    options = {"localization": 2.0} if method is LETKF else {}
    method = method(inflation=AdaptiveInflation(lower=0.1), **options)
    step = Forecast(Draws(factor), tensors=True)
    out = filter(grid, obs, step, method=method, initial=initial, progress=False)
    found = out.inflation[200:].mean()
    np.testing.assert_allclose(found, factor**2, rtol=0.1)


def test_one_step_of_the_adaptive_factor():
    """Miyoshi (2011): the weighted mean of guess and (d'R^-1 d - M) / tr(HBH'R^-1)."""
    ens = ring()
    obs = (ring(seed=3).isel(member=0, drop=True).expand_dims("time") + 2).isel(x=[1, 2, 7, 9])
    inflation = AdaptiveInflation(initial=1.2, sigma=0.3, growth=1.1)
    out = analyse(ens, obs, method=ETKF(inflation=inflation), sigma=0.5)
    d = (obs.u.values[0] - ens.u.isel(x=[1, 2, 7, 9]).mean("member").values) / 0.5
    trace = float((ens.u.isel(x=[1, 2, 7, 9]).var("member", ddof=1) / 0.25).sum())
    estimate, variance = (d @ d - 4) / trace, 0.09 * 1.1
    error = 8 * ((1.2 * trace / 4 + 1) / trace) ** 2
    gain = variance / (variance + error)
    factor = 1.2 + gain * (estimate - 1.2)
    assert float(out.inflation) == pytest.approx(factor, rel=1e-12)
    assert float(out.inflation_variance) == pytest.approx((1 - gain) * variance, rel=1e-12)
    inflated = ens.u.mean("member") + factor**0.5 * (ens.u - ens.u.mean("member"))
    np.testing.assert_allclose(out.u, analyse(ens.assign(u=inflated), obs, method=ETKF(), sigma=0.5).u, **TIGHT)
    again = analyse(ens, obs, method=ETKF(inflation=AdaptiveInflation(lower=5.0)), sigma=0.5)
    assert float(again.inflation) == 5.0


def test_a_run_remembers_the_factor(tmp_path):
    """To the bit, through a file, also if nothing was observed at the last time."""
    system = Lorenz96(n=8)
    truth = system.simulate(13, seed=1)
    obs = truth.sda.observe(truth.isel(time=slice(1, None, 3)), sigma=0.5, seed=2)
    method = ETKF(inflation=AdaptiveInflation(), rotate=True)
    whole = filter(truth, obs, system, method=method, members=6, progress=False)
    assert np.isnan(whole.inflation[0])  # before the first observation
    np.testing.assert_array_equal(whole.inflation[1:10:3], whole.inflation[3:12:3])  # holds until the next
    assert len(np.unique(whole.inflation[1:])) == 4
    for stop in (1, 2, 3, 7):
        there = obs.time < truth.time[stop].item()
        first, rest = truth.isel(time=slice(stop)), truth.isel(time=slice(stop, None))
        if stop > 1:
            first = filter(first, obs.sel(time=there), system, method=method, members=6, progress=False)
            first.to_netcdf(tmp_path / f"{stop}.nc")
            with xr.open_dataset(tmp_path / f"{stop}.nc") as file:
                last = file.isel(time=-1).load()
        else:
            last = whole.isel(time=0)
        rest = filter(rest, obs.sel(time=~there), system, method=method, initial=last, progress=False)
        for name in ("u", "inflation", "inflation_variance"):
            np.testing.assert_array_equal(rest[name], whole[name].sel(time=rest.time))


def test_other_methods_do_not_take_it_over():
    """What an earlier run told is neither remembered nor passed on by a method that does not use it."""
    ens = ring()
    obs = ring(seed=3).isel(member=0, drop=True).expand_dims("time").isel(x=[1, 2, 7])
    adaptive = analyse(ens, obs, method=ETKF(inflation=AdaptiveInflation()), sigma=0.5)
    assert "inflation" in adaptive.coords
    then = analyse(adaptive, obs, method=ETKF(), sigma=0.5)
    assert "inflation" not in then.coords
    start = analyse(then, obs, method=ETKF(inflation=AdaptiveInflation()), sigma=0.5)
    forgot = analyse(
        adaptive.drop_vars("inflation_variance"), obs, method=ETKF(inflation=AdaptiveInflation()), sigma=0.5
    )
    fresh = analyse(adaptive.drop_vars(["inflation", "inflation_variance"]), obs, method=ETKF(inflation=AdaptiveInflation()), sigma=0.5)  # fmt: skip
    assert float(forgot.inflation) == float(fresh.inflation)
    assert np.isfinite(start.inflation)


def test_bad_options():
    for kind in (RTPS, RTPP):
        for share in (-0.1, 1.1):
            with pytest.raises(ValueError, match=r"the share .* must lie between 0 \(the analysis as it is\) and 1"):
                kind(share)
    for name in ("initial", "sigma", "growth", "lower"):
        for value in (0.0, -1.0, float("nan")):
            with pytest.raises(ValueError, match=f"{name}={value} of AdaptiveInflation must be positive"):
                AdaptiveInflation(**{name: value})
