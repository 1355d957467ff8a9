"""Which two-dimensional coordinates are latitudes and longitudes of the grid."""

import numpy as np
import pytest
import xarray as xr

from xsda.labels.axes import find_axes
from xsda.labels.curvilinear import curvilinear
from xsda.labels.layout import Layout


def staggered():
    """An ocean model with temperatures at the centres of cells and velocities on their sides."""
    places = {}
    for point, dims in {"rho": ("eta_rho", "xi_rho"), "u": ("eta_u", "xi_u")}.items():
        shape = (4, 5) if point == "rho" else (4, 4)
        places[f"lat_{point}"] = (dims, np.ones(shape), {"units": "degrees_north"})
        places[f"lon_{point}"] = (dims, np.ones(shape), {"standard_name": "longitude", "units": "degree_east"})
    return xr.Dataset({"temp": (("ocean_time", "eta_rho", "xi_rho"), np.zeros((2, 4, 5)))}, places).assign_coords(
        ocean_time=("ocean_time", [0.0, 1.0], {"axis": "T"})
    )


def test_the_pair_of_the_dimensions():
    ds = staggered()
    assert [c.name for c in curvilinear(ds)] == ["lat_rho", "lon_rho"]
    assert [c.name for c in curvilinear(ds, ("xi_u", "eta_u"))] == ["lat_u", "lon_u"]
    assert curvilinear(ds, ("eta_rho", "xi_u")) is None
    lat, lon = curvilinear(ds.assign_coords(lon_rho=ds.lon_rho.variable.transpose()))
    assert lat.dims == lon.dims == ("eta_rho", "xi_rho")
    assert curvilinear(ds.drop_vars(["lon_rho", "lon_u"])) is None


def test_their_dimensions_are_the_space_dimensions():
    assert find_axes(staggered()) == ("ocean_time", ("eta_rho", "xi_rho"))
    moving = staggered().rename(ocean_time="time", eta_rho="when").drop_dims(["eta_u", "xi_u"])
    moving = moving.drop_vars("temp").drop_vars("time").rename(when="time")
    assert find_axes(moving) == ("time", ())


@pytest.mark.parametrize("place", ["attrs", "encoding"])
def test_bounds_are_not_positions(place):
    dims, corners = ("cell",), ("cell", "corner")
    coords = {}
    for name, units in (("lat", "degrees_north"), ("lon", "degrees_east")):
        coords[name] = (dims, np.zeros(6), {"units": units})
        coords[f"{name}_vertices"] = (corners, np.zeros((6, 3)), {"units": units})
    ds = xr.Dataset({"t": (("time", "cell"), np.zeros((2, 6)))}, {**coords, "time": [0.0, 1.0]})
    assert curvilinear(ds) is not None
    for name in ("lat", "lon"):
        getattr(ds[name], place)["bounds"] = f"{name}_vertices"
    assert curvilinear(ds) is None


def test_positions_that_are_variables_are_to_be_coordinates():
    ds = staggered().drop_dims(["eta_u", "xi_u"])
    assert Layout.of(ds).names == ("temp",)
    variables = ds.reset_coords(["lat_rho", "lon_rho"]).rename(eta_rho="y", xi_rho="x")
    with pytest.raises(ValueError, match=r"as variables; use ds.set_coords\(\['lat_rho', 'lon_rho'\]\)"):
        Layout.of(variables)
    assert Layout.of(variables, context=["lat_rho", "lon_rho"]).names == ("temp",)  # fields that the network reads
    drifters = xr.Dataset(
        {"lat": (("trajectory", "time"), np.ones((2, 3))), "lon": (("trajectory", "time"), np.ones((2, 3)))}
    )
    assert Layout.of(drifters).names == ("lat", "lon")
