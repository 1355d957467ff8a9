"""Distances between ensembles: shifts, one dimension, Gaussians, equal laws."""

import importlib

import numpy as np
import pytest
import xarray as xr
from scipy.linalg import sqrtm
from scipy.stats import wasserstein_distance

from xsda import metrics
from xsda.metrics import transport


def cloud(members, *shape, seed=0, units="m"):
    values = np.random.default_rng(seed).standard_normal((members, *shape))
    return xr.DataArray(values, dims=("member", "y", "x")[: 1 + len(shape)], attrs={"units": units})


def test_earth_movers_distance_of_a_shift_is_the_shift():
    a = cloud(30, 4, 5)
    assert metrics.earth_movers_distance(a, a) == pytest.approx(0, abs=1e-6)
    assert metrics.earth_movers_distance(a, a[::-1] + 0.3) == pytest.approx(0.3 * 20**0.5)


@pytest.mark.parametrize(("m", "n"), [(12, 12), (7, 12), (1, 5)])
def test_earth_movers_distance_in_one_dimension(m, n):
    a, b = cloud(m, 1), 2 * cloud(n, 1, seed=1) + 1
    expected = wasserstein_distance(a.values.ravel(), b.values.ravel())
    assert metrics.earth_movers_distance(a, b) == pytest.approx(expected)


def test_linear_program_and_assignment_agree():
    a, b = cloud(8, 3), cloud(12, 3, seed=1)
    thrice, twice = (xr.concat([e] * k, "member") for e, k in ((a, 3), (b, 2)))
    assert metrics.earth_movers_distance(a, b) == pytest.approx(metrics.earth_movers_distance(thrice, twice))


def test_members_too_many_for_the_linear_program(monkeypatch):
    monkeypatch.setattr(transport, "LARGEST", 10)
    with pytest.raises(ValueError, match=r"isel\(member=slice\(3\)\)"):
        metrics.earth_movers_distance(cloud(3, 2), cloud(4, 2))


def test_scipy_missing_is_told(monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ImportError, match=r"pip install 'xsda\[verify\]'"):
        metrics.earth_movers_distance(cloud(3, 2), cloud(3, 2))


def test_gaussian_w2_in_closed_form():
    a = cloud(50, 1)
    b = 3 * a + 2
    shift, std = float(b.mean() - a.mean()), float(a.std(ddof=1))
    assert metrics.gaussian_w2(a, b) == pytest.approx((shift**2 + (2 * std) ** 2) ** 0.5)
    assert metrics.gaussian_w2(a, a) == pytest.approx(0, abs=1e-6)
    a, b = cloud(20, 4), cloud(15, 4, seed=1) @ xr.DataArray(np.tri(4), dims=("y", "z")) + 0.5
    b = b.rename(z="y").assign_attrs(units="m")
    ca, cb = (np.cov(e.values.T) for e in (a, b))
    root = sqrtm(ca)
    square = ((a.mean("member") - b.mean("member")) ** 2).sum() + np.trace(ca + cb - 2 * sqrtm(root @ cb @ root).real)
    assert metrics.gaussian_w2(a, b) == pytest.approx(float(square) ** 0.5)


def test_gaussian_w2_of_fewer_members_than_numbers():
    """Members in a subspace: turning the space into few coordinates keeps the distance."""
    basis = np.linalg.qr(np.random.default_rng(2).standard_normal((200, 3)))[0]
    a, b = cloud(6, 3), 2 * cloud(5, 3, seed=1)
    lifted = [xr.DataArray(e.values @ basis.T, dims=("member", "x")) for e in (a, b)]
    assert metrics.gaussian_w2(*lifted) == pytest.approx(metrics.gaussian_w2(a, b))


def test_mmd_of_equal_laws_has_the_mean_zero():
    values, biased = [], []
    for seed in range(150):
        a, b = cloud(6, 3, seed=seed), cloud(9, 3, seed=1000 + seed)
        values.append(metrics.mmd(a, b, bandwidth=1.5))
        biased.append(metrics.mmd(a, b, bandwidth=1.5, unbiased=False))
    assert abs(np.mean(values)) < 3 * np.std(values) / 150**0.5
    assert min(biased) > 0


def test_mmd_of_gaussians_in_closed_form():
    """With X, Y of variance 1 and a shift d, E k = (h^2 / (h^2 + 2))^(1/2) exp(-d^2 / (2 (h^2 + 2)))."""
    h, d = 1.2, 0.8
    expected = 2 * (h * h / (h * h + 2)) ** 0.5 * (1 - np.exp(-d * d / (2 * (h * h + 2))))
    values = [metrics.mmd(cloud(60, 1, seed=s), cloud(60, 1, seed=500 + s) + d, bandwidth=h) for s in range(100)]
    assert np.mean(values) == pytest.approx(expected, abs=3 * np.std(values) / 10)


def test_mmd_by_default_takes_the_median_distance():
    a, b = cloud(10, 3), cloud(12, 3, seed=1)
    both = np.concatenate([a.values, b.values])
    distance = np.linalg.norm(both[:, None] - both[None], axis=-1)
    h = np.median(distance[np.triu_indices(22, 1)])
    assert metrics.mmd(a, b) == pytest.approx(metrics.mmd(a, b, bandwidth=h))
    assert metrics.mmd(10 * a, 10 * b) == pytest.approx(metrics.mmd(a, b))
    with pytest.raises(ValueError, match="bandwidth must be positive"):
        metrics.mmd(xr.zeros_like(a), xr.zeros_like(b))


@pytest.mark.parametrize("distance", [metrics.earth_movers_distance, metrics.gaussian_w2])
def test_the_norm_knows_areas_scales_and_holes(distance, globe, area):
    ens, _ = globe
    moved = ens.copy(deep=True)
    moved.t.loc[{"lat": 60}] += 0.7
    share = float((area / area.mean()).sel(lat=60)) * 5 * 8  # 5 times, 8 longitudes
    assert distance(ens.t, moved.t) == pytest.approx(0.7 * share**0.5)
    assert distance(ens, moved, scale={"t": 2, "q": 1}) == pytest.approx(0.35 * share**0.5)
    assert distance(ens.t, moved.t, weights=False) == pytest.approx(0.7 * 40**0.5)
    holes = moved.t.where((moved.time > 0) | (moved.member > 1))
    assert distance(ens.t.chunk(), holes.chunk()) == pytest.approx(0.7 * (share * 4 / 5) ** 0.5)
    with pytest.raises(ValueError, match="different units"):
        distance(ens, moved)


def test_what_cannot_be_compared_is_refused():
    a = cloud(4, 3)
    with pytest.raises(ValueError, match="is in 's', the first ensemble in 'm'"):
        metrics.mmd(a, cloud(4, 3, units="s"))
    with pytest.raises(ValueError, match="no dimension 'member'"):
        metrics.mmd(a, a[0])
    with pytest.raises(ValueError, match="different coordinates"):
        metrics.mmd(a, cloud(4, 2))
    with pytest.raises(ValueError, match="nothing to compare"):
        metrics.gaussian_w2(a, a * np.nan)
    with pytest.raises(ValueError, match="at least 2 members"):
        metrics.gaussian_w2(a, a[:1])
    with pytest.raises(ValueError, match="at least 2 members"):
        metrics.mmd(a, a[:1])
