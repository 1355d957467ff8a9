"""LETKF: an ETKF wherever everything counts everywhere, and point by point what numpy makes of it."""

import numpy as np
import pytest
import torch
import xarray as xr
from one_time import globe, numbers, observed, ring

from xsda.baselines import ETKF, LETKF, analyse, filter
from xsda.baselines import local as room
from xsda.baselines.distance import EARTH, LEAST, gaspari_cohn
from xsda.systems import Lorenz63, Lorenz96


def shifted(ens, seed=3, **where):
    """Observations of an ensemble's variables at places of the grid, off by about one."""
    one = ens.isel(member=0, drop=True).expand_dims("time").isel(where)
    rng = np.random.default_rng(seed)
    return one.map(lambda v: v + rng.normal(size=v.shape))


def one_point(a, s, d):
    """ETKF of one number: anomalies (member,), S (member, M) and d (M,) scaled; Hunt et al. (2007), eqs. 20 to 25."""
    n = len(a) - 1
    values, vectors = np.linalg.eigh(n * np.eye(n + 1) + s @ s.T)
    weights = vectors @ np.diag(1 / values) @ vectors.T @ s @ d
    root = vectors @ np.diag(np.sqrt(n / values)) @ vectors.T
    return a @ (weights[:, None] + root)


def by_hand(ens, obs, sigma, distance, length):
    """Point by point; ``distance`` (number of the state, M)."""
    x = numbers(ens)
    hx, y = observed(ens, obs)
    mean, out = x.mean(0), np.empty_like(x)
    for i in range(x.shape[1]):
        weight = gaspari_cohn(distance[i] / length)
        weight = np.where(weight > LEAST, weight, 0)
        s = (hx - hx.mean(0)) * np.sqrt(weight) / sigma
        d = (y - hx.mean(0)) * np.sqrt(weight) / sigma
        out[:, i] = mean[i] + one_point(x[:, i] - mean[i], s, d)
    return out


@pytest.mark.parametrize("count", [1, 5, 9, 10, 11, 40])
def test_with_a_long_reach_it_is_an_etkf(count):
    """With fewer observations than members and with more."""
    ens = ring(members=10, n=40)
    obs = shifted(ens, x=np.linspace(0, 39, count).astype(int))
    a = analyse(ens, obs, method=LETKF(localization=1e6), sigma=0.5)
    b = analyse(ens, obs, method=ETKF(), sigma=0.5)
    np.testing.assert_allclose(a.u, b.u, rtol=0, atol=1e-8)


@pytest.mark.parametrize("localization", [1e9, {}])
def test_on_the_sphere_with_levels(localization):
    ens = globe()
    obs = [shifted(ens[["u"]], lat=[0, 2], lon=[1, 5]), shifted(ens[["q"]], level=[1], lat=[1])]
    a = analyse(ens, obs, method=LETKF(localization=localization), sigma=0.5)
    b = analyse(ens, obs, method=ETKF(), sigma=0.5)
    for v in "uq":
        np.testing.assert_allclose(a[v], b[v], rtol=0, atol=1e-8)


def test_far_observations_change_nothing():
    """Beyond 3.65 lengths: to the bit, and all the same whatever they say."""
    ens = ring(n=40)
    near, far = shifted(ens, x=[10]), shifted(ens, x=[30]) + 100
    method = LETKF(localization=2.0)
    both = analyse(ens, [near, far], method=method, sigma=0.5)
    alone = analyse(ens, near, method=method, sigma=0.5)
    np.testing.assert_allclose(both.u[:, :20], alone.u[:, :20], rtol=0, atol=1e-12)
    untouched = np.abs(np.arange(40) - 10) > 3.65 * 2
    np.testing.assert_allclose(alone.u[:, untouched], ens.u[:, untouched], rtol=0, atol=1e-14)
    assert (np.abs(alone.u - ens.u).max("member") > 1e-3)[np.abs(np.arange(40) - 10) < 5].all()


@pytest.mark.parametrize("members", [4, 30])
@pytest.mark.parametrize("length", [0.7, 3.0])
def test_on_a_ring_by_hand(members, length):
    ens = ring(members=members, n=20)
    obs = [shifted(ens, x=[0, 1, 9, 18]), shifted(ens, seed=4, x=slice(2, 16, 3))]
    places = np.array([0, 1, 9, 18, *range(2, 16, 3)])
    offset = np.abs(np.arange(20)[:, None] - places)
    expected = by_hand(ens, obs, 0.5, np.minimum(offset, 20 - offset), length)
    out = analyse(ens, obs, method=LETKF(localization=length), sigma=0.5)
    np.testing.assert_allclose(numbers(out), expected, rtol=0, atol=1e-11)


def test_on_the_sphere_by_hand():
    """Levels share the weights of their column; stations between grid points."""
    ens = globe()
    lat, lon = np.array([50.0, -20.0, 3.0]), np.array([350.0, 181.0, 60.0])
    stations = xr.Dataset(
        {"u": ("station", [1.0, 2.0, 3.0])}, {"lat": ("station", lat), "lon": ("station", lon), "time": 0.0}
    )
    y, x = (np.radians(a).ravel()[:, None] for a in np.meshgrid(ens.lat, ens.lon, indexing="ij"))
    cosine = np.sin(y) * np.sin(np.radians(lat)) + np.cos(y) * np.cos(np.radians(lat)) * np.cos(x - np.radians(lon))
    column = EARTH * np.arccos(np.clip(cosine, -1, 1))
    expected = by_hand(ens, [stations], 0.5, np.concatenate([column] * 3), 2500.0)  # q at two levels, u
    out = analyse(ens, stations, method=LETKF(localization=2500.0), sigma=0.5)
    np.testing.assert_allclose(numbers(out), expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("members", [5, 60])
def test_blocks_and_threads_do_not_matter(members, monkeypatch):
    ens = ring(members=members, n=300)
    obs = shifted(ens, x=np.random.default_rng(0).choice(300, 80, replace=False))
    method = LETKF(localization=6.0)
    whole = analyse(ens, obs, method=method, sigma=0.5)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        many = analyse(ens, obs, method=method, sigma=0.5)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_array_equal(many.u, whole.u)
    for name, value in (("NUMBERS", 1), ("PAIRS", 1), ("PAIRS", 81 * 7)):
        with monkeypatch.context() as patch:
            patch.setattr(room, name, value)
            np.testing.assert_allclose(analyse(ens, obs, method=method, sigma=0.5).u, whole.u, rtol=0, atol=1e-11)


def test_blocks_are_of_similar_counts():
    """Points with one observation are not padded to those with many; nothing is left out or doubled."""
    ens = ring(n=400)
    obs = [shifted(ens, x=slice(0, 40)), shifted(ens, x=slice(40, 400, 20))]
    found = {}

    class Spy(LETKF):
        def analyse(self, x, batch, cycle, k):
            out = super().analyse(x, batch, cycle, k)
            found.update(batch.geometry.cache)
            return out

    analyse(ens, obs, method=Spy(localization=5.0), sigma=0.5)
    ((key, blocks),) = found.items()
    assert key[0] == "neighbours"
    points = torch.cat([b[0] for b in blocks])
    assert sorted(points.tolist()) == list(range(400))
    for _, index, root in blocks:
        count = (root > 0).sum(1)
        assert index.shape == root.shape
        assert count.max() == root.shape[1]
        assert count.max() <= 1.2 * count.min()


def test_missing_values_are_left_out():
    ens = ring(n=20)
    obs = shifted(ens, x=[1, 5, 6, 12])
    gaps = obs.where(obs.x != 5)
    a = analyse(ens, gaps, method=LETKF(localization=3.0), sigma=0.5)
    b = analyse(ens, obs.sel(x=[1, 6, 12]), method=LETKF(localization=3.0), sigma=0.5)
    np.testing.assert_array_equal(a.u, b.u)


def test_it_follows_chaos_with_few_members():
    """7 members for 40 numbers, where an ETKF loses the truth: Hunt et al. (2007), Sakov & Oke (2008), error of about 0.22."""
    system = Lorenz96()
    truth = system.simulate(400, seed=1)
    obs = truth.sda.observe(truth, sigma=1.0, seed=2)
    near = (truth.isel(time=0) + xr.DataArray(np.random.default_rng(0).normal(size=(7, 40)), dims=("member", "x"))).transpose("member", "x")  # fmt: skip
    method = LETKF(localization=2.5, inflation=1.06, rotate=True)
    out = filter(truth, obs, system, method=method, initial=near, seed=1, progress=False)
    error = float(np.sqrt(((out.u.mean("member") - truth.u) ** 2)[100:].mean()))
    assert 0.17 < error < 0.28


def test_bad_options():
    for value in (0, -2.0, "far", True, {"x": 0.0}, float("nan"), None):
        with pytest.raises(
            ValueError, match=r"localization=.* must be positive: it is a length in the units of the coord"
        ):
            LETKF(localization=value)
    with pytest.raises(TypeError, match="localization"):
        LETKF()
    LETKF(localization=np.float32(2)), LETKF(localization=np.int64(2))
    ens, options = ring(), {"sigma": 0.5, "correlation": {"u": {"x": 2.0}}}
    with pytest.raises(
        ValueError, match="LETKF weighs each observation by its distance, so their errors must be indep"
    ):
        analyse(ens, shifted(ens), method=LETKF(localization=2.0), **options)
    with pytest.raises(ValueError, match="localization names 'y', the grid has x"):
        analyse(ens, shifted(ens), method=LETKF(localization={"y": 2.0}), sigma=0.5)
    truth = Lorenz63().simulate(2)
    with pytest.raises(
        ValueError, match="the state has no space dimensions, so there is nothing to localize; use ETKF"
    ):
        filter(truth, truth, Lorenz63(), method=LETKF(localization=2.0), sigma=1.0, progress=False)
