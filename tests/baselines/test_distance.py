"""The taper, and distances on planes, rings and spheres."""

import numpy as np
import pytest
import xarray as xr

from xsda.baselines.distance import EARTH, HALF, LEAST, Metric, gaspari_cohn
from xsda.labels.grid import Grid
from xsda.labels.layout import Layout


def grid_of(**coords):
    """A grid with these space coordinates."""
    coords = {d: c if isinstance(c, xr.DataArray) else xr.DataArray(np.asarray(c, float), dims=d) for d, c in coords.items()}  # fmt: skip
    shape = [c.size for c in coords.values()]
    ds = xr.Dataset({"u": (("time", *coords), np.zeros((1, *shape)))}, {"time": [0.0], **coords})
    return Grid.match(Layout.of(ds, even=False), ds)


def distances(metric, position):
    """Of all grid points to the positions (M, space), in lengths; NaN where nothing counts."""
    point, place, weight = metric.near(np.asarray(position, float), 0, metric.sizes[0])
    out = np.full((metric.sizes[0] * metric.rows(), len(position)), np.nan)
    r = np.linspace(0, 2 * HALF, 20_001)
    out[point, place] = np.interp(-weight, -gaspari_cohn(r), r)  # the taper falls
    return out


# --- the taper ---


def test_the_taper_is_one_here_and_zero_from_twice_the_half_support_on():
    assert gaspari_cohn(np.array(0.0)) == 1
    np.testing.assert_array_equal(gaspari_cohn(2 * HALF * np.array([1, 1.5, 100, np.inf])), 0)
    assert (gaspari_cohn(2 * HALF * np.array([0.9, 0.99])) > 0).all()
    np.testing.assert_allclose(gaspari_cohn(np.array(HALF)), 5 / 24, rtol=1e-14)  # both branches of their eq. 4.10
    np.testing.assert_array_equal(gaspari_cohn(np.array([-0.3])), gaspari_cohn(np.array([0.3])))


def test_the_taper_is_smooth_where_its_branches_meet():
    """At the half-support, and at twice of it: value and first derivative, indeed two more."""
    step = 1e-3
    for z in (HALF, 2 * HALF):
        r = z + step * np.arange(-3, 4)
        values = gaspari_cohn(r)
        for order in (1, 2):
            left, right = np.diff(values[:4], order), np.diff(values[3:], order)
            np.testing.assert_allclose(left[-1] / step**order, right[0] / step**order, atol=5 * step)


def test_the_taper_falls_and_stands_for_a_gaussian():
    r = np.linspace(0, 4, 4001)
    values = gaspari_cohn(r)
    assert (np.diff(values) <= 0).all()
    assert np.abs(values - np.exp(-(r**2) / 2)).max() < 0.05
    near = r < 0.1  # the same curvature at 0
    np.testing.assert_allclose((1 - values[near][1:]) / r[near][1:] ** 2, 0.5, atol=0.02)


@pytest.mark.parametrize("dims", [1, 3])
def test_the_taper_is_a_correlation(dims):
    """Positive definite in up to three dimensions."""
    x = np.random.default_rng(0).uniform(0, 8 / dims, size=(150, dims))
    matrix = gaspari_cohn(np.linalg.norm(x[:, None] - x, axis=-1))
    assert np.linalg.eigvalsh(matrix).min() > -1e-12


# --- distances ---


def test_on_a_line_and_on_a_ring():
    line = grid_of(x=np.arange(10.0))
    np.testing.assert_allclose(distances(Metric(line, 2.0), [[8.5]])[[4, 8, 9], 0], [2.25, 0.25, 0.25], atol=1e-5)
    ring = grid_of(x=xr.DataArray(np.arange(10.0), dims="x", attrs={"period": 10.0}))
    found = distances(Metric(ring, 2.0), [[8.5], [-1.5], [28.5]])
    np.testing.assert_allclose(found[[2, 8, 9, 0], 0], [1.75, 0.25, 0.25, 0.75], atol=1e-5)
    np.testing.assert_array_equal(found, found[:, :1].repeat(3, 1))


def test_on_a_plane():
    plane = grid_of(y=[4.0, 3.0, 0.0], x=[0.0, 1.0, 4.0])  # descending: inside all axes ascend
    metric = Metric(plane, 3.0)
    found = distances(metric, [[0.0, 0.0]]).reshape(3, 3)
    np.testing.assert_allclose(found, np.hypot(*np.meshgrid([0, 3, 4], [0, 1, 4], indexing="ij")) / 3, atol=1e-5)


def test_lengths_by_dimension():
    plane = grid_of(y=[0.0, 3.0], x=[0.0, 4.0])
    both = distances(Metric(plane, {"y": 2.0, "x": 4.0}), [[0.0, 0.0]])[:, 0]
    np.testing.assert_allclose(both, [0, 1, 1.5, np.hypot(1, 1.5)], atol=1e-5)
    one = distances(Metric(plane, {"y": 2.0}), [[0.0, 0.0]])[:, 0]
    np.testing.assert_allclose(one, [0, 0, 1.5, 1.5], atol=1e-5)  # x does not count
    none = distances(Metric(plane, {}), [[0.0, 0.0]])[:, 0]
    np.testing.assert_allclose(none, 0, atol=1e-7)


def test_averages_are_nowhere_along_their_dimension():
    plane = grid_of(y=[0.0, 3.0], x=[0.0, 4.0])
    found = distances(Metric(plane, 2.0), [[np.nan, 0.0], [0.0, np.nan], [np.nan, np.nan]])
    np.testing.assert_allclose(found, [[0, 0, 0], [2, 0, 0], [0, 1.5, 0], [2, 1.5, 0]], atol=1e-5)


def sphere():
    lat = xr.DataArray([-90.0, -45.0, 0.0, 45.0, 90.0], dims="lat", attrs={"units": "degrees_north"})
    return grid_of(lat=lat, lon=xr.DataArray(np.arange(8) * 45.0, dims="lon", attrs={"units": "degrees_east"}))


def test_great_circles():
    """A quarter of the way round is pi / 2 times the radius, along the equator or over the pole."""
    metric = Metric(sphere(), 8000.0)
    assert metric.sphere
    quarter = np.pi / 2 * EARTH / 8000
    found = distances(metric, [[0.0, 0.0], [0.0, 315.0], [0.0, -45.0], [90.0, 123.0], [45.0, 0.0]]).reshape(5, 8, 5)
    np.testing.assert_allclose(found[2, [0, 1, 2, 7], 0], quarter * np.array([0, 0.5, 1, 0.5]), atol=1e-4)
    np.testing.assert_allclose(found[[0, 4], :, 0], quarter, atol=1e-4)  # the poles
    np.testing.assert_allclose(found[:, :, 1], found[:, :, 2], atol=1e-12)  # -45 is 315
    np.testing.assert_allclose(found[:, :, 3], quarter * np.array([2, 1.5, 1, 0.5, 0])[:, None].repeat(8, 1), atol=1e-4)
    np.testing.assert_allclose(found[3, 4, 4], quarter, atol=1e-4)  # over the pole from 45 N, 0 E to 45 N, 180 E
    np.testing.assert_allclose(found[3, 2, 4], np.arccos(0.5) * EARTH / 8000, atol=1e-4)


def test_zonal_and_meridional_means_on_the_sphere():
    """Without a longitude only the latitude counts; without a latitude the shortest way is along the parallel."""
    found = distances(Metric(sphere(), 5000.0), [[0.0, np.nan], [np.nan, 90.0], [np.nan, np.nan]]).reshape(5, 8, 3)
    quarter = np.pi / 2 * EARTH / 5000
    np.testing.assert_allclose(found[:, :, 0], quarter * np.array([1, 0.5, 0, 0.5, 1])[:, None].repeat(8, 1), atol=1e-4)
    np.testing.assert_allclose(found[2, :5, 1], quarter * np.array([1, 0.5, 0, 0.5, 1]), atol=1e-4)
    np.testing.assert_allclose(found[:, 2, 1], 0, atol=1e-7)
    np.testing.assert_allclose(found[:, :, 2], 0, atol=1e-7)


def test_lengths_by_dimension_on_the_sphere_are_degrees():
    metric = Metric(sphere(), {"lat": 45.0, "lon": 90.0})
    assert not metric.sphere
    found = distances(metric, [[0.0, 350.0]]).reshape(5, 8)
    np.testing.assert_allclose(found[2, [0, 1, 7]], [1 / 9, 55 / 90, 35 / 90], atol=1e-5)


def test_rows_and_parts_see_the_same_pairs():
    """Whatever rows are asked for, and on a piece of the grid; what counts less than a thousandth is left out."""
    for metric, position in (
        (Metric(sphere(), 3000.0), np.array([[10.0, 350.0], [-80, 20], [np.nan, 40]])),
        (Metric(grid_of(y=np.arange(5.0), x=xr.DataArray(np.arange(8.0), dims="x", attrs={"period": 8.0})), 0.9), np.array([[1.0, 7.5], [3.3, 0.2], [2, np.nan]])),
    ):  # fmt: skip
        whole = distances(metric, position).reshape(5, 8, 3)
        rows = metric.rows()
        for first, last in ((0, 2), (2, 5)):
            point, place, weight = metric.near(position, first, last)
            assert (np.diff(point) >= 0).all()
            assert (weight > LEAST).all()
            there = np.full((5, 8, 3), False).reshape(-1, 3)
            there[first * rows + point, place] = True
            np.testing.assert_array_equal(there.reshape(5, 8, 3)[first:last], np.isfinite(whole[first:last]))
        spans = slice(1, 4), slice(3, 8)
        np.testing.assert_array_equal(distances(metric.part(spans), position).reshape(3, 5, 3), whole[spans])


def test_bad_localizations():
    plane = grid_of(y=[0.0, 3.0], x=[0.0, 4.0])
    with pytest.raises(ValueError, match="localization names 'xx', the grid has y, x; did you mean 'x'"):
        Metric(plane, {"xx": 1.0})
    with pytest.raises(ValueError, match="no space dimensions, so there is nothing to localize; use ETKF"):
        Metric(grid_of(), 1.0)
