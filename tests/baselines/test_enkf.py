"""The Kalman update, whatever is observed and however its errors hang together."""

import numpy as np
import pytest
import torch
import xarray as xr
from one_time import globe, kalman, numbers, observed, ring
from scipy.optimize import minimize_scalar

from xsda.baselines import EAKF, ETKF, DEnKF, EnKF, EnKFN, analyse
from xsda.baselines.enkf import finite_size, transform
from xsda.baselines.method import split

RNG = np.random.default_rng(7)
KINDS = {"EnKF": EnKF, "DEnKF": DEnKF, "ETKF": ETKF, "EAKF": EAKF}
TIGHT = {"rtol": 0, "atol": 1e-10}


def instruments():
    """(observations of one time, R) for each kind of instrument on the globe."""
    ds = globe().isel(member=0, drop=True).expand_dims("time")
    places = {"lat": ("station", [10.0, 55.0, -60.0]), "lon": ("station", [359.0, 22.0, 60.0]), "time": 0.0}
    means = ds[["q"]].coarsen(lat=2, lon=3).mean()
    means["q"].attrs["cell_methods"] = "lat: mean lon: mean"
    missing = ds[["u"]].isel(lon=[0, 2, 3], lat=[0, 1]).copy(deep=True)
    missing["u"][0, 1, 1] = np.nan
    everything = {
        "points": [ds[["u"]].isel(lat=[1, 2], lon=slice(None, None, 2))],
        "stations": [xr.Dataset({"u": ("station", np.ones(3))}, places)],
        "means": [means],
        "level": [ds[["q"]].sel(level=[850]).isel(lat=[0, 3])],
        "missing": [missing],
        "more than members": [ds[["u"]]],
    }
    return {**everything, "all": [o for sources in everything.values() for o in sources]}


def case(name, seed=1):
    """(ensemble, observations, sigma, x, H x, y, R) with values that are off by about one."""
    ens = globe()
    rng = np.random.default_rng(seed)
    sources = [o.map(lambda v: v + rng.normal(size=v.shape)) for o in instruments()[name]]
    sigma = [{str(v): 0.5 + i / 4 for v in o.data_vars} for i, o in enumerate(sources)]
    hx, y = observed(ens, sources)
    std = np.concatenate([np.full(int(o[v].notnull().sum()), s[str(v)]) for o, s in zip(sources, sigma, strict=True) for v in o.data_vars])  # fmt: skip
    sigma = sigma[0] if len(sigma) == 1 else sigma
    return ens, sources, sigma, numbers(ens), hx, y, np.diag(std**2)


@pytest.mark.parametrize("method", KINDS)
@pytest.mark.parametrize("name", instruments())
def test_the_mean_is_kalmans(method, name):
    ens, sources, sigma, x, hx, y, r = case(name)
    out = analyse(ens, sources, method=KINDS[method](), sigma=sigma)
    np.testing.assert_allclose(numbers(out).mean(0), kalman(x, hx, y, r)[0], **TIGHT)


@pytest.mark.parametrize("method", ["ETKF", "EAKF"])
@pytest.mark.parametrize("name", instruments())
def test_square_roots_have_kalmans_covariance(method, name):
    ens, sources, sigma, x, hx, y, r = case(name)
    out = numbers(analyse(ens, sources, method=KINDS[method](), sigma=sigma))
    np.testing.assert_allclose(np.cov(out.T), kalman(x, hx, y, r)[1], **TIGHT)


@pytest.mark.parametrize("name", ["points", "all"])
def test_half_the_gain_for_the_anomalies(name):
    """DEnKF: A - K H A / 2, so that the covariance is (1 - KH) P + K H P H' K' / 4."""
    ens, sources, sigma, x, hx, y, r = case(name)
    a, s = x - x.mean(0), hx - hx.mean(0)
    gain = a.T @ s / 9 @ np.linalg.inv(s.T @ s / 9 + r)
    out = numbers(analyse(ens, sources, method=DEnKF(), sigma=sigma))
    np.testing.assert_allclose(out - out.mean(0), a - s @ gain.T / 2, **TIGHT)
    expected = kalman(x, hx, y, r)[1] + gain @ (s.T @ s / 9) @ gain.T / 4
    np.testing.assert_allclose(np.cov(out.T), expected, **TIGHT)


def test_perturbed_observations_converge_to_kalmans_covariance():
    """Like 1 / sqrt(members), at whatever seed."""
    errors = []
    for members in (50, 5000):
        ens = ring(members, n=4)
        obs = ens.isel(member=0, drop=True).expand_dims("time").isel(x=[0, 1])
        hx, y = observed(ens, [obs])
        exact = kalman(numbers(ens), hx, y, 0.49 * np.eye(2))[1]
        runs = [numbers(analyse(ens, obs, method=EnKF(), sigma=0.7, seed=s)) for s in range(8)]
        errors.append(np.sqrt(np.mean([(np.cov(x.T) - exact) ** 2 for x in runs])))
        assert not np.array_equal(runs[0], runs[1])
    assert 0.35 < np.log10(errors[0] / errors[1]) / 2 < 0.65


def test_the_transform_is_symmetric_and_keeps_the_mean():
    a = torch.as_tensor(RNG.normal(size=(3, 7, 4)))
    s, d = split(a)[1], torch.as_tensor(RNG.normal(size=(3, 1, 4)))
    s = a - a.mean(1, keepdim=True)
    root = transform(s, 0 * d, 6.0)
    torch.testing.assert_close(root, root.mT, rtol=0, atol=1e-13)
    assert (torch.linalg.eigvalsh(root) > 0).all()
    torch.testing.assert_close(root @ torch.ones(7, dtype=root.dtype), torch.ones(3, 7, dtype=root.dtype))
    both = transform(s, d, 6.0)
    weights = both - root
    torch.testing.assert_close(weights, weights[:, :1].expand_as(weights))  # the same for each member
    inverse = torch.linalg.inv(s @ s.mT + 6 * torch.eye(7))
    torch.testing.assert_close(weights[:, :1], d @ s.mT @ inverse)


@pytest.mark.parametrize("method", KINDS)
@pytest.mark.parametrize("form", ["matrix", "lengths"])
@pytest.mark.parametrize("gaps", [False, True])
def test_correlated_errors(method, form, gaps):
    """As if R were full, with values missing or not; another source has errors of its own."""
    ens = ring()
    x = np.arange(0.0, 12, 2)
    c = np.exp(-np.abs(np.subtract.outer(x, x)) / 3)
    values = RNG.normal(size=(1, 6))
    if gaps:
        values[0, [1, 4]] = np.nan
    obs = [xr.Dataset({"u": (("time", "x"), values)}, {"time": [0.0], "x": x}), ens[["u"]].isel(member=0, drop=True).expand_dims("time").isel(x=[3]).rename(u="w")]  # fmt: skip
    derived = {"w": lambda s: 2 * s["u"]}
    hx, y = observed(ens, obs, derived)
    std = np.linspace(0.5, 1, 6)
    there = np.isfinite(values[0])
    r = np.zeros((len(y), len(y)))
    r[:-1, :-1], r[-1, -1] = (np.outer(std, std) * c)[np.ix_(there, there)], 0.81
    out = analyse(
        ens, obs, method=KINDS[method](), sigma=[xr.DataArray(std, dims="x"), 0.9], derived=derived,
        correlation={"u": c if form == "matrix" else {"x": 3.0}},
    )  # fmt: skip
    mean, cov = kalman(numbers(ens), hx, y, r)
    np.testing.assert_allclose(numbers(out).mean(0), mean, **TIGHT)
    if method in ("ETKF", "EAKF"):
        np.testing.assert_allclose(np.cov(numbers(out).T), cov, **TIGHT)


@pytest.mark.parametrize("method", KINDS)
def test_derived_quantities(method):
    """A nonlinear H enters by its ensemble: mean and anomalies of H(x), not H(mean)."""
    ens = globe()
    obs = xr.Dataset({"speed": (("time", "lat", "lon"), np.full((1, 4, 6), 2.0))}, {"time": [0.0], "lat": ens.lat, "lon": ens.lon})  # fmt: skip
    derived = {"speed": lambda s: (s["u"] ** 2 + s["q"][:, :, 0] ** 2).sqrt()}
    speed = np.hypot(ens.u.transpose("member", ...), ens.q.isel(level=0)).values.reshape(10, -1)
    out = analyse(ens, obs, method=KINDS[method](), sigma=0.5, derived=derived)
    mean, cov = kalman(numbers(ens), speed, np.full(24, 2.0), 0.25 * np.eye(24))
    np.testing.assert_allclose(numbers(out).mean(0), mean, **TIGHT)
    if method in ("ETKF", "EAKF"):
        np.testing.assert_allclose(np.cov(numbers(out).T), cov, **TIGHT)


@pytest.mark.parametrize("method", [*KINDS.values(), EnKFN])
def test_units_do_not_matter(method):
    """Metres or kilometres, kelvin or Celsius."""
    ens = ring()
    obs = ring(seed=3).isel(member=0, drop=True).expand_dims("time").isel(x=[1, 2, 7])
    a = analyse(ens, obs, method=method(), sigma=0.5)
    b = analyse(1e3 * ens + 273.15, 1e3 * obs + 273.15, method=method(), sigma=500.0)
    np.testing.assert_allclose(b.u, 1e3 * a.u + 273.15, rtol=1e-9)


@pytest.mark.parametrize("method", [*KINDS.values(), EnKFN])
def test_twice_is_once_with_half_the_variance(method):
    """For the mean, and where there is one solution, the covariance."""
    ens = ring()
    obs = ring(seed=3).isel(member=0, drop=True).expand_dims("time").isel(x=[1, 2, 7])
    a = analyse(ens, [obs, obs], method=method(), sigma=1.0)
    b = analyse(ens, obs, method=method(), sigma=0.5**0.5)
    if method is not EnKFN:  # whose inflation takes the number of directions only
        np.testing.assert_allclose(a.u.mean("member"), b.u.mean("member"), rtol=0, atol=1e-10)
    if method in (ETKF, EAKF):
        np.testing.assert_allclose(np.cov(numbers(a).T), np.cov(numbers(b).T), rtol=0, atol=1e-10)


# --- finite size ---


def spectrum(members=8, m=5, seed=0, shift=1.0):
    rng = np.random.default_rng(seed)
    s = rng.normal(size=(members, m))
    s = torch.as_tensor(s - s.mean(0))
    d = torch.as_tensor(shift * rng.normal(size=(1, m)))
    values, vectors = torch.linalg.eigh(s @ s.T)
    return s.numpy(), d.numpy(), values.clamp(min=0), (d @ s.T @ vectors)[0]


def coefficients(s, members, certainty):
    """e and g of Bocquet et al. (2015) with the mode correction, from the singular values of S."""
    n = members - 1
    e, g = (members + 1) / members, members / n
    singular = np.zeros(members)
    singular[: min(s.shape)] = np.linalg.svd(s, compute_uv=False)
    correction = np.sqrt((e / g) ** np.mean(n / (singular**2 + n)))
    return certainty * e / correction, certainty * g * correction


@pytest.mark.parametrize("shift", [0.0, 1.0, 5.0, 30.0])
@pytest.mark.parametrize("certainty", [1.0, 2.0])
@pytest.mark.parametrize("m", [1, 5, 12])
def test_zeta_minimises_its_cost(shift, certainty, m):
    members, n = 8, 7
    s, d, values, projected = spectrum(members, m, shift=shift)
    e, g = coefficients(s, members, certainty)
    u, singular, _ = np.linalg.svd(s.T, full_matrices=False)
    u2 = (d[0] @ u) ** 2

    def cost(log):
        l2 = np.exp(log)
        return np.sum(u2 / (n + l2 * singular**2)) + e / l2 + g * log

    grid = np.linspace(-4, 9, 2001)
    start = grid[np.argmin([cost(v) for v in grid])]
    best = minimize_scalar(cost, bounds=(start - 0.05, start + 0.05), options={"xatol": 1e-10}).x
    zeta = finite_size(values, projected, members, certainty)
    np.testing.assert_allclose(n / zeta, np.exp(best), rtol=1e-4)
    # in the primal form the same says zeta = n g / (e + w w'), with the weights w of the mean
    w = np.linalg.solve(s @ s.T + zeta * np.eye(members), s @ d[0])
    np.testing.assert_allclose(zeta, n * g / (e + w @ w), rtol=1e-4)


def test_innovations_larger_than_the_spread_inflate():
    zetas = [finite_size(*spectrum(shift=s)[2:], 8, 1.0) for s in (0.0, 3.0, 10.0, 30.0)]
    assert zetas == sorted(zetas, reverse=True)
    assert (7 / zetas[0]) ** 0.5 < 1 < (7 / zetas[2]) ** 0.5


@pytest.mark.parametrize("members", [4, 30])
def test_with_certainty_it_is_an_etkf(members):
    """Apart from the mode of l^2, (e / g)^(KH): 1 where observations tell nothing, 1 - 1 / members^2 where all."""
    ens = ring(members)
    obs = ring(seed=3).isel(member=0, drop=True).expand_dims("time").isel(x=[1, 2, 7])
    sure = analyse(ens, obs, method=EnKFN(certainty=1e12), sigma=0.5)
    hx = observed(ens, [obs])[0]
    s = (hx - hx.mean(0)) / 0.5
    e, g = coefficients(s, members, 1.0)
    assert float(sure.inflation) == pytest.approx((e / g) ** 0.5, rel=1e-5)
    assert 1 - 1 / members**2 < e / g < 1
    inflated = ens.u.mean("member") + float(sure.inflation) * (ens.u - ens.u.mean("member"))
    etkf = analyse(ens.assign(u=inflated), obs, method=ETKF(), sigma=0.5)
    np.testing.assert_allclose(sure.u, etkf.u, rtol=0, atol=1e-10)
    blind = analyse(ens, obs, method=EnKFN(), sigma=1e8)
    np.testing.assert_allclose(blind.u, ens.u, rtol=0, atol=1e-5)


def test_its_inflation_is_that_of_the_forecast():
    """The analysis is the ETKF's of the inflated forecast, and covers far innovations."""
    ens = ring()
    obs = ring(seed=3).isel(member=0, drop=True).expand_dims("time").isel(x=[1, 2, 7]) + 10
    out = analyse(ens, obs, method=EnKFN(), sigma=0.5)
    assert float(out.inflation) > 1.5
    inflated = ens.u.mean("member") + float(out.inflation) * (ens.u - ens.u.mean("member"))
    etkf = analyse(ens.assign(u=inflated), obs, method=ETKF(), sigma=0.5)
    np.testing.assert_allclose(out.u, etkf.u, rtol=0, atol=1e-10)


def test_bad_options():
    for kind in (*KINDS.values(), EnKFN):
        for value in (0, -1.0, float("nan"), float("inf")):
            with pytest.raises(
                ValueError, match=r"inflation=.* must be positive: it multiplies the anomalies \(1: none\)"
            ):
                kind(inflation=value)
        with pytest.raises(
            TypeError, match=r"inflation must be a number, or an object such as RTPS\(0.9\), got 'rtps'"
        ):
            kind(inflation="rtps")
        with pytest.raises(TypeError, match="inflate"):
            kind(inflate=1.1)
    with pytest.raises(ValueError, match="certainty=0 must be positive"):
        EnKFN(certainty=0)
