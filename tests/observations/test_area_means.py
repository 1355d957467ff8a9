"""Averages over latitudes are averages over areas: against integrals over the sphere."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import xsda  # noqa: F401  (registers ds.sda)
from xsda.labels.area import area_weights
from xsda.observations.stencils import GridAxis

SIN = lambda degrees: np.sin(np.radians(degrees))  # noqa: E731


def zonal(lat, values, lon=None):
    """A field over latitude and longitude at one time."""
    lon = np.arange(0.0, 360, 30) if lon is None else lon
    field = np.broadcast_to(np.asarray(values)[..., None], (len(lat), len(lon)))
    coords = {"time": [0.0], "lat": ("lat", lat, {"units": "degrees_north"}), "lon": lon}
    return xr.Dataset({"t": (("time", "lat", "lon"), field[None])}, coords)


def averaged(methods, bounds=None, **coords):
    """One value that is a mean."""
    ds = xr.Dataset({"t": ("time", [0.0], {"cell_methods": methods})}, {"time": [0.0], **coords})
    if bounds is not None:
        ds = ds.assign_coords(lat=((bounds[0] + bounds[1]) / 2), lat_bnds=("bnds", list(bounds)))
        ds.lat.attrs["bounds"] = "lat_bnds"
    return ds


@pytest.mark.parametrize(
    ("function", "integral"),
    [
        (lambda lat: np.ones_like(lat), 1.0),
        (lambda lat: SIN(lat) ** 2, 1 / 3),
        (lambda lat: SIN(lat) ** 4, 1 / 5),
        (lambda lat: np.cos(np.radians(lat)), np.pi / 4),
        (lambda lat: SIN(lat) ** 3, 0.0),
    ],
)
@pytest.mark.parametrize("poles", [False, True])
def test_means_over_the_globe_equal_integrals(function, integral, poles):
    """To second order of the spacing, with rows on the poles or beside them."""
    errors = []
    for n in (45, 90):
        lat = np.linspace(-90, 90, n + 1) if poles else np.linspace(-90, 90, 2 * n + 1)[1::2]
        seen = zonal(lat, function(lat)).sda.observe(averaged("lat: lon: mean")).t
        errors.append(abs(float(seen[0]) - integral))
    assert errors[0] < 1e-3
    assert errors[1] < errors[0] / 3 + 1e-12


@pytest.mark.parametrize("bounds", [(-90.0, 90.0), (0.0, 90.0), (20.0, 50.0), (-65.0, 10.0)])
def test_means_over_bands_equal_integrals(bounds):
    lat = np.linspace(-90, 90, 361)
    seen = zonal(lat, SIN(lat) ** 2).sda.observe(averaged("lat: lon: mean", bounds)).t
    a, b = SIN(np.array(bounds))
    assert float(seen[0]) == pytest.approx((b**3 - a**3) / (b - a) / 3, abs=2e-5)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_parts_of_bands_count_by_their_exact_area(seed):
    """A field that is constant in each band of the grid, averaged over any band: the integral is a sum."""
    rng = np.random.default_rng(seed)
    lat = np.sort(rng.uniform(-80, 80, 7))
    edges = GridAxis("lat", lat, latitude=True).edges()
    values, (low, high) = rng.standard_normal(7), np.sort(rng.uniform(edges[0], edges[-1], 2))
    grid = np.unique([low, high, *edges[(edges > low) & (edges < high)]])
    here = values[np.searchsorted(edges, (grid[1:] + grid[:-1]) / 2) - 1]
    expected = here @ np.diff(SIN(grid)) / (SIN(high) - SIN(low))
    for order in (slice(None), slice(None, None, -1)):
        seen = zonal(lat[order], values[order]).sda.observe(averaged("lat: lon: mean", (low, high))).t
        assert float(seen[0]) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000))
def test_a_latitude_that_is_gone_is_weighted_like_scores(seed):
    """By the same areas, in any order of the rows and convention of the longitudes."""
    rng = np.random.default_rng(seed)
    lat, lon = np.sort(rng.uniform(-90, 90, 6)), np.arange(0.0, 360, 45)
    ds = zonal(lat, np.zeros(6), lon)
    ds = ds.assign(t=ds.t + xr.DataArray(rng.standard_normal((6, 8)), dims=("lat", "lon")))
    expected = float(ds.t.weighted(xr.DataArray(area_weights(ds.lat), dims="lat")).mean())
    turned = ds.assign_coords(lon=(ds.lon + 180) % 360 - 180).sortby("lon")
    for other in (ds, ds.isel(lat=slice(None, None, -1)), turned):
        assert float(other.sda.observe(averaged("lat: lon: mean")).t[0]) == pytest.approx(expected, abs=1e-12)


def test_rotated_latitudes_count_as_well_and_other_axes_do_not():
    lat, values = np.array([-60.0, 0.0, 60.0]), np.array([1.0, 2.0, 4.0])
    plain = zonal(lat, values)
    rotated = plain.rename(lat="rlat", lon="rlon")
    rotated.rlat.attrs = {"standard_name": "grid_latitude", "units": "degrees"}
    assert float(plain.sda.observe(averaged("lat: lon: mean")).t[0]) == pytest.approx(2.25)
    assert float(rotated.sda.observe(averaged("rlat: rlon: mean")).t[0]) == pytest.approx(2.25)
    metres = plain.drop_attrs().rename(lat="y", lon="x")
    assert float(metres.sda.observe(averaged("y: x: mean")).t[0]) == pytest.approx(7 / 3)


def curved(lat, lon, field):
    """A field on two-dimensional coordinates."""
    dims = ("y", "x")
    return xr.Dataset({"t": (("time", *dims), field[None])}, {"time": [0.0], "lat": (dims, lat), "lon": (dims, lon)})


@pytest.mark.parametrize("power", [0, 2, 4])
def test_means_on_two_dimensional_coordinates_equal_integrals(power):
    """Over the globe, on rows that are uneven."""
    errors = []
    for n in (40, 80):
        rows = np.degrees(np.arcsin(np.tanh(np.linspace(-3, 3, n)) / np.tanh(3.0)))
        rows = 0.5 * rows + 0.5 * np.linspace(-90, 90, n)
        lat, lon = np.meshgrid(rows * (1 - 1e-9), np.arange(0.0, 360, 10), indexing="ij")
        seen = curved(lat, lon, SIN(lat) ** power).sda.observe(averaged("y: x: mean")).t
        errors.append(abs(float(seen[0]) - 1 / (power + 1)))
    assert errors[0] < 4e-3
    assert errors[1] < errors[0] / 2.5 + 1e-12


def test_points_without_coordinates_do_not_count():
    lat, lon = np.meshgrid(np.linspace(40, 60, 9), np.linspace(0, 30, 8), indexing="ij")
    field = np.where(lat > 50, np.nan, 1.0)
    hidden = np.where(lat > 50, np.nan, lat)
    seen = curved(hidden, lon, field).sda.observe(averaged("y: x: mean")).t
    assert float(seen[0]) == pytest.approx(1.0)
