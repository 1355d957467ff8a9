"""Which grids reach the poles, and which variables change sign beyond them."""

import numpy as np
import pytest
import xarray as xr

from xsda.labels import Grid, Layout
from xsda.labels.requirements import check_rings
from xsda.labels.sphere import component_sign, find_poles


def globe(lat, lon, **variables):
    """Two states on latitudes and longitudes; ``variables`` gives the standard name of each."""
    coords = {"time": [0.0, 1.0], "lat": np.asarray(lat, float), "lon": np.asarray(lon, float)}
    shape = tuple(len(c) for c in coords.values())
    data = {
        name: (tuple(coords), np.arange(np.prod(shape), dtype=float).reshape(shape), {"standard_name": standard})
        for name, standard in (variables or {"t": "air_temperature"}).items()
    }
    return xr.Dataset(data, coords)


ON = np.linspace(-90, 90, 19)
BETWEEN = np.linspace(-87.5, 87.5, 36)
AROUND = np.arange(0, 360, 10.0)


@pytest.mark.parametrize("lon", [AROUND, AROUND - 180, AROUND + 3.3], ids=["0..360", "-180..180", "3.3.."])
@pytest.mark.parametrize("turn", [1, -1], ids=["ascending", "descending"])
@pytest.mark.parametrize(("lat", "expected"), [(ON, "on_poles"), (BETWEEN, "between_poles")])
def test_poles_are_found_in_any_convention(lat, expected, turn, lon):
    layout = Layout.of(globe(lat[::turn], lon))
    assert [a.poles for a in layout.space] == [expected, None]
    assert layout.space[1].period == 360
    assert Layout.from_json(layout.to_json()) == layout


@pytest.mark.parametrize("count", [2, 4, 32, 64, 94])
def test_gaussian_rows_lie_between_the_poles(count):
    lat = np.rad2deg(np.arcsin(np.polynomial.legendre.leggauss(count)[0]))
    assert find_poles(globe(lat, AROUND), "lat", "lon") == "between_poles"


@pytest.mark.parametrize(
    ("lat", "lon"),
    [
        (ON[:-1], AROUND),  # the row on one pole is missing
        (ON[1:-1], AROUND),  # and on both
        (ON, AROUND[:-1]),  # a gap in the ring
        (ON, np.linspace(0, 360, 37)[:-2]),
        (ON, np.arange(45) * 8.0),  # an odd number of longitudes
        (np.linspace(50, 60, 11), AROUND),
    ],
)
def test_other_grids_have_no_poles(lat, lon):
    layout = Layout.of(globe(lat, lon))
    assert [a.poles for a in layout.space] == [None, None]
    assert all("poles" not in axis for axis in layout.to_json()["space"])


def test_axes_that_are_not_degrees_have_no_poles():
    ds = globe(ON, AROUND)
    ds.lat.attrs["units"] = "m"
    assert find_poles(ds, "lat", "lon") is None
    assert find_poles(ds.drop_vars("lat"), "lat", "lon") is None


@pytest.mark.parametrize(
    ("name", "standard", "sign"),
    [
        ("a", "eastward_wind", -1),
        ("a", "surface_downward_northward_stress", -1),
        ("a", "sea_water_x_velocity", -1),
        ("a", "product_of_eastward_wind_and_northward_wind", 1),
        ("u10", "air_temperature", 1),
        ("u10", "unknown", -1),
        ("10m_v_component_of_wind", None, -1),
        ("vo", None, -1),
        ("volume", None, 1),
        ("t", None, 1),
    ],
)
def test_components_are_known_by_their_standard_name(name, standard, sign):
    assert component_sign(name, {} if standard is None else {"standard_name": standard}) == sign


def test_signs_belong_to_channels_of_a_globe():
    names = {"t": "air_temperature", "a": "eastward_wind"}
    assert Layout.of(globe(ON, AROUND, **names)).signs == (1, -1)
    assert Layout.of(globe(ON[3:], AROUND, **names)).signs == (1, 1)
    levels = globe(ON, AROUND, **names).expand_dims(level=3, axis=3)
    assert Layout.of(levels).signs == (1, 1, 1, -1, -1, -1)


@pytest.mark.parametrize("lon", [np.linspace(0, 360, 37), np.linspace(-180, 180, 37)])
def test_a_repeated_meridian_is_refused(lon):
    message = rf"'lon' hold the same meridian twice, {lon[0]:g} and {lon[-1]:g}; use .isel\(lon=slice\(None, -1\)\)"
    with pytest.raises(ValueError, match=message):
        Layout.of(globe(ON, lon))
    layout = Layout.of(globe(ON, lon).isel(lon=slice(None, -1)))
    with pytest.raises(ValueError, match=message):
        Grid.match(layout, globe(ON, lon))
    assert Layout.of(globe(ON, lon).drop_vars("lon")).space[1].period is None  # numbers of columns, not longitudes


@pytest.mark.parametrize("west", [-10.0, 175.0])
def test_longitudes_that_jump_are_refused_with_the_way_out(west):
    """A region across the end of its convention, sorted or not; the advice gives the region in one piece."""
    across = west + np.arange(0, 12.5, 2.5)
    jumping = across % 360 if west < 0 else (across + 180) % 360 - 180
    region = globe(ON, across)
    for lon in (jumping, np.sort(jumping)):
        for use in (Layout.of, lambda ds: Grid.match(Layout.of(region), ds)):
            with pytest.raises(ValueError, match=r"jump between .* count them from") as error:
                use(globe(ON, lon))
    ds = globe(ON, jumping)
    advice = str(error.value).split(": ")[-1]
    np.testing.assert_allclose(eval(f"ds{advice}", {"ds": ds}).lon, across)


def test_a_prior_of_the_globe_needs_the_globe():
    layout = Layout.of(globe(ON, AROUND))
    check_rings(Grid.match(layout, globe(ON[::-1], AROUND - 180)))
    for lat in (ON[3:], BETWEEN):
        with pytest.raises(ValueError, match=rf"'lat' runs from {lat[0]:g} to {lat[-1]:g}.*on the poles"):
            check_rings(Grid.match(layout, globe(lat, AROUND)))
