"""What CF attributes say of units and of helper variables."""

import numpy as np
import pytest
import xarray as xr

from xsda.labels.cf import helper_variables, unit_scale
from xsda.labels.layout import Layout


@pytest.mark.parametrize(
    ("came", "expected", "factor", "offset"),
    [
        ("mm/day", "m/s", 1e-3 / 86400, 0.0),
        ("ug", "Tg", 1e-18, 0.0),
        ("fm", "Gm", 1e-24, 0.0),
        ("degF", "K", 5 / 9, 459.67 * 5 / 9),
        ("degC", "degF", 1.8, 32.0),
        ("percent", "1", 0.01, 0.0),
        ("radian", "degrees_north", 180 / np.pi, 0.0),
    ],
)
def test_scales_of_units_keep_their_digits(came, expected, factor, offset):
    np.testing.assert_allclose(unit_scale(came, expected), (factor, offset), rtol=1e-11, atol=0)
    back, shift = unit_scale(expected, came)
    np.testing.assert_allclose((back * factor, back * offset + shift), (1, 0), rtol=1e-11, atol=1e-9)


CELSIUS = (
    "degC", "deg C", "Deg. C", "deg_C", "degrees_C", "degrees C", "degrees_Celsius", "degree_celsius", "Celsius",
    "celsius", "°C", "º C", "℃", "C",
)  # fmt: skip


@pytest.mark.parametrize("kelvin", ["K", "Kelvin", "kelvin", "KELVIN", "deg K", "degrees_K"])
@pytest.mark.parametrize("celsius", CELSIUS)
def test_usual_spellings_of_temperatures(celsius, kelvin):
    assert unit_scale(celsius, kelvin) == (1.0, 273.15)


def test_spellings_that_look_like_temperatures():
    assert unit_scale("degree", "radian")[0] == pytest.approx(np.pi / 180)
    assert unit_scale("mb", "Pa") == (100.0, 0.0)
    assert unit_scale("MB", "Pa") is None  # megabytes


@pytest.mark.parametrize(("came", "expected"), [("m", "K"), ("dB", "1"), ("no such unit", "m")])
def test_some_units_have_no_scale(came, expected):
    assert unit_scale(came, expected) is None


@pytest.mark.parametrize("where", ["attrs", "encoding"])
def test_a_map_projection_is_no_variable(where):
    ds = xr.Dataset({"t": ("time", [1.0, 2.0]), "crs": ((), 0)}, {"time": [0.0, 1.0]})
    getattr(ds.t, where)["grid_mapping"] = "crs"
    assert "crs" in helper_variables(ds)
    assert Layout.of(ds).names == ("t",)
