"""Areas of latitude bands against integrals over the sphere."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from xsda.labels.area import area_weights, band_edges, cell_areas, grid_areas


def lat(values, **attrs):
    return xr.DataArray(np.asarray(values, float), dims="lat", name="lat", attrs=attrs)


def rows(count, kind):
    """Latitudes with rows on the poles, between them, or at the roots of a Legendre polynomial (a Gaussian grid)."""
    if kind == "gaussian":
        return np.rad2deg(np.arcsin(np.polynomial.legendre.leggauss(count)[0]))
    gap = 0 if kind == "on" else 90 / count
    return np.linspace(-90 + gap, 90 - gap, count)


@pytest.mark.parametrize("kind", ["on", "between", "gaussian"])
def test_means_over_the_sphere_converge_at_second_order(kind):
    """The mean of cos(lat)^2 is 2/3, of sin(lat)^4 is 1/5, of cos(lat) is pi/4."""
    for field, exact in ((lambda p: np.cos(p) ** 2, 2 / 3), (lambda p: np.sin(p) ** 4, 0.2), (np.cos, np.pi / 4)):
        errors = []
        for count in (33, 65, 129):
            y = rows(count, kind)
            errors.append(abs((area_weights(lat(y)) * field(np.deg2rad(y))).mean() - exact))
        orders = np.log2(np.divide(errors[:-1], errors[1:]))
        assert (orders > 1.8).all()
        assert errors[-1] < 2e-4


@pytest.mark.parametrize("kind", ["on", "between", "gaussian"])
def test_bands_cover_the_sphere(kind):
    for count in (2, 3, 4, 9, 32, 33):
        edges = band_edges(rows(count, kind))
        assert edges[0] == pytest.approx(-90)
        assert edges[-1] == pytest.approx(90)
        assert len(edges) == count + 1


def test_bands_of_a_region_have_the_area_of_the_region():
    """Zones are cut out of the whole; a column of weights of a part is that part of the column of the whole."""
    whole, part = rows(72, "between"), rows(72, "between")[40:55]
    a, b = area_weights(lat(whole))[40:55], area_weights(lat(part))
    np.testing.assert_allclose(a / a.mean(), b, rtol=1e-12)
    np.testing.assert_allclose(b / b[0], np.cos(np.deg2rad(part)) / np.cos(np.deg2rad(part[0])), rtol=1e-12)


def test_a_row_on_a_pole_has_the_area_of_its_cap():
    w = area_weights(lat(rows(19, "on")))
    assert w[0] / w.sum() == pytest.approx((1 - np.cos(np.deg2rad(5))) / 2)


@given(st.lists(st.floats(-90, 90), min_size=1, max_size=12, unique_by=lambda v: round(v, 2)), st.randoms())
def test_the_order_of_rows_does_not_matter(values, random):
    order = list(range(len(values)))
    random.shuffle(order)
    w = area_weights(lat(values))
    np.testing.assert_allclose(area_weights(lat(np.array(values)[order])), w[order], rtol=1e-9, atol=1e-12)
    assert w.mean() == pytest.approx(1)
    assert (w >= 0).all()


def test_repeated_rows_share_a_band():
    single = area_weights(lat([10, 20, 40]))
    double = area_weights(lat([10, 20, 20, 40]))
    np.testing.assert_allclose(double * 3 / 4, [single[0], single[1] / 2, single[1] / 2, single[2]])


def test_bounds_take_precedence():
    """The bands of bounds, not the middles between rows, are the areas; their order does not matter."""
    limits = np.array([[-90.0, -20.0], [-20.0, 30.0], [30.0, 90.0]])
    exact = np.diff(np.sin(np.deg2rad([-90, -20, 30, 90])))
    for part in (limits, limits[:, ::-1]):
        bounds = xr.DataArray(part, dims=("lat", "bnds"), name="lat_bnds")
        np.testing.assert_allclose(area_weights(lat([-60, 0, 70]), bounds), exact / exact.mean())


def test_other_axes_have_equal_weights():
    assert (area_weights(xr.DataArray([0.0, 1.0, 5.0], dims="lon", name="lon")) == 1).all()
    metres = xr.DataArray([0.0, 6e6], dims="lat", name="lat", attrs={"units": "m"})
    assert (area_weights(metres) == 1).all()


def test_errors():
    with pytest.raises(ValueError, match=r"'lat' must lie between -90 and 90 degrees, got 0 to 91"):
        area_weights(lat([0, 91]))
    with pytest.raises(ValueError, match="must lie between"):
        area_weights(lat([0, np.nan]))
    with pytest.raises(ValueError, match=r"\('y', 'x'\), expected one"):
        area_weights(xr.DataArray(np.zeros((2, 2)), dims=("y", "x"), name="lat"))
    flat = xr.DataArray([[0.0, 0.0], [0.0, 9.0]], dims=("lat", "bnds"), name="lat_bnds")
    with pytest.raises(ValueError, match="'lat_bnds' hold a band without area"):
        area_weights(lat([0, 5]), flat)


def tilted(count, seed=None):
    """Centres of the cells of a whole sphere whose poles lie anywhere: lat(y, x), lon(y, x), and their true areas."""
    y = np.deg2rad(-90 + 180 / count * (np.arange(count) + 0.5))[:, None]
    x = np.deg2rad(180 / count * np.arange(2 * count))[None]
    place = np.stack([np.cos(y) * np.cos(x), np.cos(y) * np.sin(x), np.sin(y) + 0 * x])
    if seed is not None:
        turn = np.linalg.qr(np.random.default_rng(seed).standard_normal((3, 3)))[0]
        place = np.tensordot(turn, place, 1)
    dims = ("y", "x")
    latitude = xr.DataArray(np.rad2deg(np.arcsin(place[2].clip(-1, 1))), dims=dims, name="lat")
    longitude = xr.DataArray(np.rad2deg(np.arctan2(place[1], place[0])), dims=dims, name="lon")
    return latitude, longitude, np.broadcast_to(np.cos(y), place.shape[1:])


def test_areas_of_cells_do_not_depend_on_where_the_poles_of_the_grid_lie():
    """They converge to the true areas at second order inside, and a mean over the sphere to its integral."""
    straight = cell_areas(*tilted(24)[:2])
    np.testing.assert_allclose(cell_areas(*tilted(24, seed=1)[:2]), straight, rtol=1e-9)
    errors, means = [], []
    for count in (16, 32, 64):
        lat2, lon2, true = tilted(count, seed=3)
        ours = cell_areas(lat2, lon2)[1:-1]
        errors.append(np.abs(ours / ours.mean() / (true[1:-1] / true[1:-1].mean()) - 1).max())
        means.append(abs((cell_areas(lat2, lon2) * np.sin(np.deg2rad(lat2.values)) ** 2).mean() - 1 / 3))
    assert errors[-1] < 0.05
    assert (np.log2(np.divide(means[:-1], means[1:])) > 1).all()
    assert means[-1] < 1e-3


def test_cells_beside_missing_ones_keep_their_area():
    lat2, lon2, _ = tilted(24)
    land = np.zeros(lat2.shape, bool)
    land[5:9, 10:14] = True
    holes = cell_areas(lat2.where(~land), lon2.where(~land))
    whole = cell_areas(lat2, lon2)
    assert (holes[land] == 0).all()
    ratio = (holes / whole)[~land]
    np.testing.assert_allclose(ratio / np.median(ratio), 1, rtol=0.2)  # one step instead of the mean of two
    with pytest.raises(ValueError, match="no cells; it needs two rows"):
        cell_areas(lat2[:1], lon2[:1])


@pytest.mark.parametrize("flat", [True, False])
def test_areas_of_a_grid_follow_its_axes_upwards(flat):
    """As in a tensor: whatever the order of the rows, with one- and two-dimensional coordinates, over any dimension order."""
    rows = xr.DataArray([70.0, 50.0, 20.0, 0.0], dims="y", coords={"y": [4.0, 3.0, 2.0, 1.0]}, name="lat")
    lat, lon = xr.broadcast(rows, xr.DataArray(np.arange(3.0), dims="x"))
    flat_one = xr.Dataset(coords={"lat": ("lat", rows.values), "x": np.arange(3.0)})
    ds = flat_one if flat else xr.Dataset(coords={"lat": lat, "lon": lon})
    dim = "lat" if flat else "y"
    own = np.repeat(area_weights(rows)[:, None], 3, 1) if flat else cell_areas(lat, lon)
    found = grid_areas(ds, [dim, "x"])
    np.testing.assert_allclose(found, own[::-1], rtol=1e-12)
    np.testing.assert_allclose(grid_areas(ds.sortby(dim), [dim, "x"]), found, rtol=1e-12)
    np.testing.assert_allclose(grid_areas(ds, ["x", dim]), found.T, rtol=1e-12)
