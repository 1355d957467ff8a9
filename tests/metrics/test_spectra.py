"""Parseval's identity, and energy and enstrophy of fields known in closed form."""

from functools import partial

import numpy as np
import pytest
import xarray as xr
from lazy import computes_nothing

from xsda import flow
from xsda.metrics.spectra import energy, energy_spectrum, spectrum, units_of


def plane(sizes, lengths, extra=(), seed=0):
    """Random u and v with a mean, on periodic axes y and x (or x alone), behind the dimensions member and time."""
    space = ("y", "x")[-len(sizes) :]
    coords = {
        d: (d, np.arange(n) * length / n - 1, {"period": length, "units": "km"})
        for d, n, length in zip(space, sizes, lengths, strict=True)
    }
    dims = (*("member", "time")[: len(extra)], *space)
    rng = np.random.default_rng(seed)
    return xr.Dataset(
        {v: (dims, 1 + rng.standard_normal((*extra, *sizes)), {"units": "m s-1"}) for v in ("u", "v")}, coords
    )


def total(density):
    return density.sum("wavenumber") * density["wavenumber"].attrs["bin_width"]


@pytest.mark.parametrize(
    ("sizes", "lengths"),
    [((8, 8), (1.0, 1.0)), ((7, 9), (3.0, 2.0)), ((6, 15), (0.5, 4.0)), ((2, 3), (1.0, 1.0)), ((16,), (5.0,)), ((9,), (0.1,))],
)  # fmt: skip
def test_parseval(sizes, lengths):
    ds = plane(sizes, lengths, extra=(3, 2))
    space = [d for d in ("y", "x") if d in ds.dims]
    for field in (ds, ds.transpose(..., "member")):
        density = spectrum(field)
        assert set(density.dims) == {"member", "time", "wavenumber"}
        xr.testing.assert_allclose(total(density), (field**2).mean(space), rtol=1e-12)
    xr.testing.assert_allclose(total(energy_spectrum(ds)), energy(ds), rtol=1e-12)
    mean = density.isel(wavenumber=0) * density["wavenumber"].attrs["bin_width"]
    assert (mean >= (ds.mean(space) ** 2) * (1 - 1e-12)).all().to_array().all()


@pytest.mark.parametrize(("waves", "lengths", "shell"), [((3, 4), (1, 1), 5), ((1, 1), (2, 2), 1), ((1, 0), (2, 4), 2), ((0, 3), (2, 4), 3)])  # fmt: skip
def test_a_plane_wave_lies_in_its_shell(waves, lengths, shell):
    ds = plane((16, 20), [float(n) for n in lengths])
    phase = sum(2 * np.pi * m / n * ds[d] for m, n, d in zip(waves, lengths, ("y", "x"), strict=True))
    density = spectrum(3 * np.cos(phase + 0.4))
    k = density["wavenumber"]
    assert float(k[shell]) == pytest.approx(2 * np.pi * shell / max(lengths))
    power = (density * k.attrs["bin_width"]).values
    assert power[shell] == pytest.approx(4.5, rel=1e-12)
    assert np.delete(power, shell).max() < 1e-25


def test_a_single_axis_of_a_plane():
    ds = plane((5, 8), (1.0, 2.0))
    along = spectrum(ds.u, dim="x")
    assert along.dims == ("y", "wavenumber")
    xr.testing.assert_allclose(along, xr.concat([spectrum(ds.u.isel(y=i), "x") for i in range(5)], "y"), rtol=1e-12)


def test_turning_and_shifting_leave_the_spectrum():
    ds = plane((12, 12), (2.0, 2.0))
    expected = spectrum(ds.u)
    turned = ds.u.copy(data=np.rot90(ds.u))
    for field in (turned, ds.u.roll(x=5, y=2), ds.u.isel(y=slice(None, None, -1)), ds.u.T):
        xr.testing.assert_allclose(spectrum(field), expected, rtol=1e-12)


def test_a_density_does_not_depend_on_the_size_of_the_domain():
    small = plane((8,), (1.0,)).u
    twice = xr.concat([small, small.assign_coords(x=small.x + 1)], "x")
    twice["x"].attrs = {"period": 2.0}
    one, two = spectrum(small), spectrum(twice)
    assert float(two.sum() * np.pi) == pytest.approx(float(one.sum() * 2 * np.pi), rel=1e-12)
    np.testing.assert_allclose(two[::2], 2 * one, rtol=1e-12)  # the waves between are empty
    assert float(np.abs(two[1::2]).max()) < 1e-25


def vortices(ny, nx):
    """Velocity of the stream function sin(k x) cos(l y) with k = 2, l = 3, its axes descending in y."""
    attrs = {"period": 2 * np.pi, "units": "m"}
    x = xr.DataArray(np.arange(nx) * 2 * np.pi / nx, dims="x", attrs=attrs)
    y = xr.DataArray(np.arange(ny)[::-1] * 2 * np.pi / ny, dims="y", attrs=attrs)
    ds = xr.Dataset({"u": 3 * np.sin(2 * x) * np.sin(3 * y), "v": 2 * np.cos(2 * x) * np.cos(3 * y)})
    ds = ds.assign_coords(x=x, y=y)
    for da in ds.values():
        da.attrs = {"units": "m s-1"}
    return ds, -13 * np.sin(2 * ds.x) * np.cos(3 * ds.y)


@pytest.mark.parametrize(("ny", "nx"), [(16, 16), (9, 14)])
def test_energy_and_enstrophy_of_a_stream_function(ny, nx):
    ds, curl = vortices(ny, nx)
    np.testing.assert_allclose(flow.vorticity(ds, scheme="spectral"), curl.transpose(*ds.u.dims), atol=1e-12)
    assert float(flow.enstrophy(ds, scheme="spectral").mean()) == pytest.approx(169 / 8, rel=1e-12)
    assert float(energy(ds)) == pytest.approx(13 / 8, rel=1e-12)
    units = [f(ds).attrs["units"] for f in (flow.vorticity, flow.enstrophy, energy)]
    assert units == ["s-1", "s-2", "m2 s-2"]


def test_lazy_is_eager():
    ds = plane((6, 8), (1.0, 2.0), extra=(4, 3))
    chunks = ds.chunk({"member": 1, "x": 4})
    curl = partial(flow.vorticity, scheme="spectral")
    for function in (spectrum, energy_spectrum, energy, flow.vorticity, curl):
        with computes_nothing():
            lazy = function(chunks)
        assert lazy.chunks
        xr.testing.assert_allclose(lazy.compute(), function(ds), rtol=1e-12)
        assert function(ds.astype("float32")).attrs == function(ds).attrs
    assert spectrum(ds.u.astype("float32")).dtype == float


def test_units():
    density = spectrum(plane((4, 4), (1.0, 1.0)).u)
    assert density.name == "u"
    assert density.attrs["units"] == "m2 km s-2 rad-1"
    assert density["wavenumber"].attrs["units"] == "rad km-1"
    assert density["wavenumber"].attrs["nyquist"] == pytest.approx(4 * np.pi)
    assert units_of(("m s-1", 2), ("m", 1)) == "m3 s-2"
    assert units_of(("m/s", 2)) == "(m/s)2"
    assert units_of(("1", 2), ("m", 0)) == "1"
    assert units_of((None, 2), ("m", 1)) == ""
    bare = plane((4, 4), (1.0, 1.0)).drop_attrs(deep=True)
    assert "units" not in energy(bare).attrs


def test_longitudes_around_the_globe_are_a_ring():
    lon = np.arange(0, 360, 30.0)
    da = xr.DataArray(np.cos(np.deg2rad(2 * lon)), {"lon": lon}, ("lon",))
    power = spectrum(da, "lon") * (2 * np.pi / 360)
    np.testing.assert_allclose(power, np.eye(7)[2] / 2, atol=1e-14)


def test_errors():
    ds = plane((4, 6), (1.0, 1.0))
    with pytest.raises(ValueError, match=r"3 points of 'x' span 0\.5, but its period is 1"):
        spectrum(ds.isel(x=slice(3)))
    with pytest.raises(ValueError, match="nothing says that it is periodic"):
        spectrum(ds.drop_attrs())
    with pytest.raises(ValueError, match="evenly spaced"):
        spectrum(ds.isel(x=[0, 1, 3, 4]))
    with pytest.raises(ValueError, match=r"no coordinate; give it one with \.assign_coords"):
        spectrum(ds.drop_vars("x"))
    with pytest.raises(ValueError, match="one or two space dimensions"):
        spectrum(ds.rename(x="i", y="j").drop_vars(["i", "j"]))
    with pytest.raises(KeyError, match="no variable 'w'"):
        energy(ds, "w")
    with pytest.raises(ValueError, match="'v' is in 'km s-1'"):
        energy(ds.assign(v=ds.v.assign_attrs(units="km s-1")))
