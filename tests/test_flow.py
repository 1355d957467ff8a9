"""Flow on a periodic plane against closed forms, Stokes' theorem, and the operator compiled from its coordinates."""

from functools import partial

import numpy as np
import pytest
import torch
import xarray as xr
from lazy import computes_nothing

import xsda
from xsda import flow
from xsda.labels.grid import Grid
from xsda.labels.layout import Layout
from xsda.observations import compile_observations
from xsda.observations.operator import State

LX, LY = 2 * np.pi, 3.0


def axes(ny, nx, *, descending=()):
    """Centres of the cells of a plane LY x LX that does not start at zero."""
    coords = {}
    for name, size, length in (("y", ny, LY), ("x", nx, LX)):
        centres = (np.arange(size) + 0.5) * length / size - 1
        attrs = {"axis": name.upper(), "period": length, "units": "m"}
        coords[name] = (name, centres[::-1] if name in descending else centres, attrs)
    return coords


def waves(ny, nx, *, time=2, descending=()):
    """u and v on a plane, and in closed form their vorticity and divergence."""
    ds = xr.Dataset(coords={"time": np.arange(float(time)), **axes(ny, nx, descending=descending)})
    a, b, c = ds.x, 2 * np.pi / LY * ds.y, 1 + ds.time
    k = 2 * np.pi / LY
    ds["u"] = c * np.sin(2 * a) * np.cos(b) + 0.3
    ds["v"] = np.cos(a) * np.sin(2 * b + c)
    ds = ds.transpose("time", "y", "x")
    for name in ("u", "v"):
        ds[name].attrs = {"units": "m s-1", "long_name": f"velocity {name}"}
    curl = -np.sin(a) * np.sin(2 * b + c) + k * c * np.sin(2 * a) * np.sin(b)
    spread = 2 * c * np.cos(2 * a) * np.cos(b) + 2 * k * np.cos(a) * np.cos(2 * b + c)
    return ds, curl.transpose(*ds.u.dims), spread.transpose(*ds.u.dims)


def noise(ny, nx, *, seed=0, **options):
    ds, *_ = waves(ny, nx, **options)
    rng = np.random.default_rng(seed)
    for name in ("u", "v"):
        ds[name] = ds[name].copy(data=rng.standard_normal(ds[name].shape))
    return ds


def tensors(ds):
    return {name: torch.as_tensor(ds[name].values.copy()) for name in ("u", "v")}


def steps(ds):
    return tuple(float(ds[d][1] - ds[d][0]) for d in ("y", "x"))


DERIVED = (flow.vorticity, flow.divergence, flow.enstrophy, flow.kinetic_energy)


@pytest.mark.parametrize("descending", [(), ("y",), ("x", "y")])
@pytest.mark.parametrize("which", [0, 1])
def test_derivatives_are_of_second_order(which, descending):
    errors = []
    for n in (24, 48):
        ds, *exact = waves(n, 2 * n, descending=descending)
        values = (flow.vorticity, flow.divergence)[which](ds)
        errors.append(float(((values - exact[which]) ** 2).mean() ** 0.5))
    assert errors[1] < 0.05
    assert 3.8 < errors[0] / errors[1] < 4.2


@pytest.mark.parametrize("descending", [(), ("y",), ("x", "y")])
@pytest.mark.parametrize("sizes", [(16, 24), (9, 15)])
def test_spectral_derivatives_of_resolved_waves_are_exact(sizes, descending):
    ds, *exact = waves(*sizes, descending=descending)
    for function, expected in zip((flow.vorticity, flow.divergence), exact, strict=True):
        np.testing.assert_allclose(function(ds, scheme="spectral"), expected, atol=1e-12)
        seen = function(tensors(ds), scheme="spectral", spacing=steps(ds))
        np.testing.assert_allclose(seen, expected, atol=1e-12)
    half = (exact[0] ** 2 / 2).transpose("x", "time", "y")
    turned = flow.enstrophy(ds.transpose("x", "time", "y"), scheme="spectral")
    np.testing.assert_allclose(turned, half, atol=1e-11)


def test_the_schemes_agree_as_resolution_grows():
    """The difference of the two falls by four when the spacing is halved."""
    gaps = []
    for n in (16, 32, 64):
        ds = noise_of_few_waves(n)
        centred, spectral = (flow.vorticity(ds, scheme=s) for s in ("centred", "spectral"))
        gaps.append(float(((centred - spectral) ** 2).mean() ** 0.5 / spectral.std()))
    assert gaps[-1] < 0.02
    assert gaps[0] / gaps[1] == pytest.approx(4, rel=0.1)
    assert gaps[1] / gaps[2] == pytest.approx(4, rel=0.03)


def noise_of_few_waves(n):
    """A random field of the waves up to 3 along x and 2 along y, the same at every resolution."""
    ds, *_ = waves(n, n)
    rng = np.random.default_rng(0)
    for name in ("u", "v"):
        ds[name] = sum(
            rng.standard_normal() * np.cos(i * ds.x + j * 2 * np.pi / LY * ds.y + rng.uniform(0, 6)) + 0 * ds[name]
            for i in range(4) for j in range(-2, 3)
        )  # fmt: skip
    return ds


@pytest.mark.parametrize("scheme", ["centred", "spectral"])
def test_both_schemes_annihilate_the_shortest_wave(scheme):
    """Up and down from point to point: its slope at the points is zero in either scheme."""
    ds = noise(6, 8)
    ds["u"], ds["v"] = 0 * ds.u, 0 * ds.v + xr.DataArray((-1.0) ** np.arange(8), dims="x")
    np.testing.assert_allclose(flow.vorticity(ds, scheme=scheme), 0, atol=1e-13)


def test_missing_values_spread_as_far_as_the_scheme_reaches():
    ds = noise(6, 8, time=1).isel(time=0)
    ds["v"] = ds.v.where((ds.x != ds.x[3]) | (ds.y != ds.y[2]))
    for scheme, columns in (("centred", [2, 4]), ("spectral", range(8))):
        missing = flow.vorticity(ds, scheme=scheme).isnull()
        assert missing.values.nonzero()[1].tolist() == list(columns)
        assert (missing.values.nonzero()[0] == 2).all()


@pytest.mark.parametrize("descending", [(), ("y",), ("x", "y")])
def test_open_axes_have_differences_of_second_order(descending):
    x, y = np.array([0.0, 1.0, 1.5, 3.0]), np.array([2.0, 1.0, -1.0])
    ds = xr.Dataset({"u": xr.DataArray(y**2, dims="y") + xr.DataArray(x, dims="x"), "v": ("x", x**2 - x)})
    ds = ds.assign_coords(x=x, y=y).isel({d: slice(None, None, -1) for d in descending})
    ds["v"] = ds.v.broadcast_like(ds.u)
    expected = 2 * ds.x - 1 - 2 * ds.y  # a parabola has no error of second order, not even at the ends
    np.testing.assert_allclose(flow.vorticity(ds), expected.transpose(*ds.u.dims), atol=1e-12)
    chunked = flow.vorticity(ds.chunk({"x": 2, "y": 1}))
    assert chunked.chunks
    xr.testing.assert_allclose(chunked.compute(), flow.vorticity(ds), rtol=1e-12)
    errors = []
    for n in (32, 64):
        part, exact = (a.isel(x=slice(n // 2), y=slice(n // 2)) for a in waves(n, n, descending=descending)[:2])
        errors.append(float(np.abs(flow.vorticity(part) - exact).max()))
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.2)


@pytest.mark.parametrize("descending", [(), ("x", "y")])
def test_a_state_on_open_axes(descending):
    """One-sided differences at its ends, as on the Dataset, also where only one axis is periodic."""
    for periodic in ((), ("y",)):
        ds = noise(6, 8, time=3, descending=descending)
        for d in {"x", "y"} - {*periodic}:
            ds[d].attrs = {"axis": d.upper()}
        layout = Layout.of(ds)
        grid = Grid.match(layout, ds)
        state = State(layout, {"u": "u", "v": "v"}, grid.scaling, grid.to_tensor(ds)[None].double())
        seen = flow.vorticity(state)[0]
        np.testing.assert_allclose(seen, flow.vorticity(ds).sortby(["y", "x"]), atol=1e-5)


@pytest.mark.parametrize("factor", [2, 3])
def test_interpolation_is_of_second_order(factor):
    errors = []
    for n in (24, 48):
        fine = flow.upsample(waves(n, 2 * n)[0], factor)
        exact = waves(factor * n, 2 * factor * n)[0]
        xr.testing.assert_allclose(fine.drop_vars(["u", "v"]), exact.drop_vars(["u", "v"]), rtol=1e-13)
        errors.append(float(((fine - exact.assign_coords(fine.coords)) ** 2).mean().to_array().sum() ** 0.5))
    assert 3.8 < errors[0] / errors[1] < 4.2


def test_waves_of_the_grid_have_their_own_derivative():
    """The centred difference of sin(k x) is cos(k x) sin(k dx) / dx: no error of higher order is hidden."""
    ds, _, _ = waves(8, 12)
    dx = steps(ds)[1]
    ds["u"], ds["v"] = 0 * ds.u, np.sin(3 * ds.x) + 0 * ds.v
    expected = np.cos(3 * ds.x) * np.sin(3 * dx) / dx
    xr.testing.assert_allclose(
        flow.vorticity(ds).drop_attrs(), expected.broadcast_like(ds.v).transpose(*ds.u.dims), atol=1e-12
    )


def test_linear_interpolation_by_hand():
    x = torch.tensor([[0.0, 4.0, 8.0]]).repeat(2, 1)
    expected = torch.tensor([2.0, 1.0, 3.0, 5.0, 7.0, 6.0]).repeat(4, 1)  # 8 is the neighbour of 0
    torch.testing.assert_close(flow.upsample(x, 2), expected)


@pytest.mark.parametrize("descending", [(), ("y",), ("x", "y")])
def test_tensors_and_datasets_agree(descending):
    ds = noise(6, 9, descending=descending)
    fields, spacing = tensors(ds), steps(ds)
    for function in DERIVED[:3]:
        np.testing.assert_allclose(function(fields, spacing=spacing).numpy(), function(ds), rtol=1e-12)
    np.testing.assert_allclose(flow.kinetic_energy(fields).numpy(), flow.kinetic_energy(ds), rtol=1e-12)
    np.testing.assert_allclose(flow.circulation(fields, 3, spacing=spacing), flow.circulation(ds, 3), atol=1e-12)
    for function in (flow.coarsen, flow.upsample):
        labelled, raw = function(ds, 3), function(fields, 3)
        for name in ("u", "v"):
            np.testing.assert_allclose(raw[name].numpy(), labelled[name], rtol=1e-12, atol=1e-14)
            torch.testing.assert_close(function(fields[name], 3), raw[name])
            xr.testing.assert_identical(function(ds[name], 3), labelled[name])


def test_energy_and_enstrophy_of_a_stream_function():
    """Means over the plane in closed form; sin(k dx) / dx stands for k."""
    ds, *_ = waves(16, 16)
    k, (dy, dx) = 2 * np.pi / LY, steps(ds)
    ds["u"], ds["v"] = 0 * ds.u + np.cos(2 * k * ds.y), 0 * ds.v + np.sin(ds.x)
    assert float(flow.kinetic_energy(ds).mean()) == pytest.approx(0.5, rel=1e-12)
    expected = ((np.sin(dx) / dx) ** 2 + (np.sin(2 * k * dy) / dy) ** 2) / 4
    assert float(flow.enstrophy(ds).mean()) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("function", [*DERIVED, lambda ds: flow.circulation(ds, 2)], ids=lambda f: f.__name__)
def test_the_order_of_dimensions_and_their_names_do_not_matter(function):
    ds = noise(6, 8, time=3)
    ds = xr.concat([ds, 2 * ds], "member").assign_coords(member=[5, 7])
    expected = function(ds)
    for dims in (("x", "member", "y", "time"), ("time", "x", "y", "member")):
        turned = function(ds.transpose(*dims).assign(v=ds.v))
        assert turned.dims == dims
        xr.testing.assert_allclose(turned.transpose(*expected.dims), expected, rtol=1e-12)
    renamed = function(ds.rename(x="i", y="j"))  # found by their attribute axis
    xr.testing.assert_allclose(renamed.rename(i="x", j="y"), expected, rtol=1e-12)
    bare = ds.copy()
    for d in ("y", "x"):
        bare[d].attrs = {"period": ds[d].attrs["period"]}  # found by their names
    xr.testing.assert_allclose(function(bare), expected, rtol=1e-12)
    one = ds.isel(member=1, time=2)
    xr.testing.assert_allclose(function(one), expected.isel(member=1, time=2), rtol=1e-12)


def test_mirror_and_shift():
    """Seen in a mirror (x and y, u and v exchanged) vorticity changes its sign and divergence does not."""
    ds = noise(6, 8)
    mirror = ds.rename(u="v", v="u", x="y", y="x").assign_coords(
        {a: (a, ds[b].values, {"period": ds[b].attrs["period"]}) for a, b in (("x", "y"), ("y", "x"))}
    )
    for function, sign in ((flow.vorticity, -1), (flow.divergence, 1), (flow.kinetic_energy, 1)):
        seen = function(mirror).transpose(..., "x", "y").values
        np.testing.assert_allclose(seen, sign * function(ds).values, rtol=1e-12)
        shifted = function(ds.roll(x=3, y=1, roll_coords=False))
        np.testing.assert_array_equal(shifted, function(ds).roll(x=3, y=1))
    for function in (flow.vorticity, flow.divergence):  # the same flow, its axes listed from the other end
        turned = ds.isel(y=slice(None, None, -1), x=slice(None, None, -1))
        xr.testing.assert_allclose(function(turned).sortby(["y", "x"]), function(ds), rtol=1e-12)


def test_identities():
    """A gradient has no curl, a stream function no divergence, a uniform flow neither: exactly, differences commute."""
    ds = noise(6, 9)
    phi = {"u": ds.u, "v": ds.v}
    slope_x = flow.vorticity(ds.assign(u=0 * ds.u, v=phi["u"]))
    slope_y = -flow.vorticity(ds.assign(u=phi["u"], v=0 * ds.v))
    for da in (slope_x, slope_y):
        da.attrs = {}
    scale = float(np.abs(slope_x).max())
    assert float(np.abs(flow.vorticity(ds.assign(u=slope_x, v=slope_y))).max()) < 1e-12 * scale**2
    assert float(np.abs(flow.divergence(ds.assign(u=-slope_y, v=slope_x))).max()) < 1e-12 * scale**2
    still = ds.assign(u=0 * ds.u + 3, v=0 * ds.v - 2)
    for function in (flow.vorticity, flow.divergence, flow.enstrophy):
        assert float(np.abs(function(still)).max()) == 0
    assert (flow.coarsen(still, 3).u == 3).all()
    assert (flow.upsample(still, 3).v == -2).all()
    for function in (flow.vorticity, flow.divergence):
        np.testing.assert_allclose(function(ds).mean(["y", "x"]), 0, atol=1e-13)


def line_integral(u, v, rows, columns, dy, dx):
    """Counterclockwise around a block of cells; on an edge the velocity is the mean of the cells on both sides."""
    ny, nx = u.shape
    y0, y1, x0, x1 = rows.start, rows.stop, columns.start, columns.stop
    bottom = sum((u[y0 - 1, i] + u[y0, i]) / 2 * dx for i in columns)
    right = sum((v[j, x1 - 1] + v[j, x1 % nx]) / 2 * dy for j in rows)
    top = sum((u[y1 - 1, i] + u[y1 % ny, i]) / 2 * dx for i in columns)
    left = sum((v[j, x0 - 1] + v[j, x0]) / 2 * dy for j in rows)
    return bottom + right - top - left


@pytest.mark.parametrize("factor", [1, 2, 3, 6])
def test_circulation_is_the_line_integral(factor):
    ds = noise(6, 12, time=1)
    u, v, (dy, dx) = ds.u.values[0], ds.v.values[0], steps(ds)
    expected = [
        [line_integral(u, v, range(j, j + factor), range(i, i + factor), dy, dx) for i in range(0, 12, factor)]
        for j in range(0, 6, factor)
    ]
    around = flow.circulation(ds, factor)
    np.testing.assert_allclose(around[0], expected, atol=1e-13)
    assert float(around.sum()) == pytest.approx(0, abs=1e-12)
    turned = flow.circulation(ds.isel(y=slice(None, None, -1)), factor)
    np.testing.assert_allclose(turned.sortby("y"), around, atol=1e-13)
    assert around.attrs["units"] == "m2 s-1"


def test_circulation_converges_to_the_flux_of_vorticity():
    """The integral of the vorticity over blocks of a fixed size, in closed form."""
    k, c, errors = 2 * np.pi / LY, 1.0, []
    for n in (24, 48):
        ds, *_ = waves(n, 2 * n, time=1)
        around = flow.circulation(ds, n // 4)
        block = flow.coarsen(ds, n // 4)
        y0, y1, x0, x1 = (block[f"{d}_bounds"].isel(bounds=i) for d in ("y", "x") for i in (0, 1))
        exact = (np.cos(x1) - np.cos(x0)) * (np.cos(2 * k * y0 + c) - np.cos(2 * k * y1 + c)) / (2 * k)
        exact = exact + c * (np.cos(2 * x0) - np.cos(2 * x1)) / 2 * (np.cos(k * y0) - np.cos(k * y1))
        errors.append(float(np.abs(around[0] - exact.transpose("y", "x")).max()))
    assert 3.8 < errors[0] / errors[1] < 4.2


def test_upsampling_keeps_the_mean_and_coarsening_brings_back_smooth_fields():
    ds = noise(6, 9)
    for factor in (2, 3, 4):
        fine = flow.upsample(ds, factor)
        xr.testing.assert_allclose(fine.mean(["y", "x"]), ds.mean(["y", "x"]), rtol=1e-12, atol=1e-15)
        field = tensors(ds)["u"]
        torch.testing.assert_close(flow.upsample(field, factor).mean((-2, -1)), field.mean((-2, -1)))
    smooth, *_ = waves(64, 64)
    back = flow.coarsen(flow.upsample(smooth, 4), 4)
    np.testing.assert_allclose(back.u, smooth.u, atol=0.02)
    xr.testing.assert_allclose(back.x.drop_attrs(), smooth.x.drop_attrs(), rtol=1e-12)


def test_coarse_labels():
    ds = noise(6, 8)
    ds["u"].attrs["cell_methods"] = "time: mean (interval: 1 hr) area: y: x: point"
    ds["depth"] = ("x", np.arange(8), {"units": "m"})
    ds["wind"] = ("time", [1.0, 2.0], {"cell_methods": "time: mean"})
    ds = ds.assign_coords(region=(("y", "x"), np.full((6, 8), "north")), run="a").assign_attrs(title="waves")
    coarse = flow.coarsen(ds, 2)
    assert coarse.attrs == ds.attrs
    assert coarse.u.attrs == {**ds.u.attrs, "cell_methods": "time: mean (interval: 1 hr) area: point y: mean x: mean"}
    assert coarse.v.attrs["cell_methods"] == "y: mean x: mean"
    np.testing.assert_array_equal(coarse.depth, [0.5, 2.5, 4.5, 6.5])
    assert coarse.depth.attrs["cell_methods"] == "x: mean"
    xr.testing.assert_identical(coarse.wind, ds.wind)
    assert set(coarse.coords) == {"time", "y", "x", "y_bounds", "x_bounds", "run"}
    for d, length, n in (("y", LY, 3), ("x", LX, 4)):
        assert coarse[d].attrs == {**ds[d].attrs, "bounds": f"{d}_bounds"}
        edges = np.linspace(-1, length - 1, n + 1)
        np.testing.assert_allclose(coarse[f"{d}_bounds"].transpose(d, "bounds").T, [edges[:-1], edges[1:]], atol=1e-14)
        np.testing.assert_allclose(coarse[d], (edges[1:] + edges[:-1]) / 2, atol=1e-14)
    once = flow.coarsen(noise(12, 24), 6)
    twice = flow.coarsen(flow.coarsen(noise(12, 24), 2), 3)
    xr.testing.assert_allclose(twice, once, rtol=1e-12)
    assert twice.u.attrs == once.u.attrs
    old = once.rename(x_bounds="x_bnds").reset_coords("x_bnds")  # as a file without decoded coordinates has it
    old["x"].attrs["bounds"] = "x_bnds"
    xr.testing.assert_identical(flow.coarsen(old, 2), flow.coarsen(once, 2))
    assert flow.circulation(ds, 2).attrs["cell_methods"] == "y: mean x: mean"
    fine = flow.upsample(coarse, 2)
    assert fine.u.attrs["cell_methods"] == "time: mean (interval: 1 hr) area: point"
    assert fine.v.attrs == ds.v.attrs
    assert fine.x.attrs == ds.x.attrs
    assert set(fine.coords) == {"time", "y", "x", "run"}


def test_a_missing_value_spoils_its_block_and_no_other():
    ds = noise(6, 8)
    ds["u"][0, 3, 5] = np.nan
    holes = flow.coarsen(ds, 2).u.isnull()
    assert bool(holes[0, 1, 2])
    assert int(holes.sum()) == 1


def test_factor_one_is_the_identity():
    ds = noise(5, 7)
    fields = tensors(ds)
    for function in (flow.coarsen, flow.upsample):
        xr.testing.assert_identical(function(ds, 1), ds)
        xr.testing.assert_identical(function(ds.u, np.int64(1)), ds.u)
        assert function(fields["u"], 1) is fields["u"]
    np.testing.assert_allclose(flow.circulation(ds, 1), np.prod(steps(ds)) * flow.vorticity(ds))
    assert "cell_methods" not in flow.circulation(ds, 1).attrs


PICKS = {
    "all": {},
    "one in two": {"x": slice(None, None, 2)},
    "patch": {"x": slice(1, 3), "y": slice(1, 2)},
    "one": {"x": [2], "y": [0]},
}


@pytest.mark.parametrize("pick", PICKS)
@pytest.mark.parametrize("descending", [(), ("y",), ("x", "y")])
def test_the_coarse_field_is_an_observation_operator(pick, descending):
    ds = noise(16, 32, time=9, descending=descending)
    coarse = flow.coarsen(ds.isel(time=slice(None, None, 4)), 8).isel(PICKS[pick])
    other = noise(16, 32, time=9, descending=descending, seed=1)
    seen = other.sda.observe(coarse)
    expected = flow.coarsen(other.isel(time=slice(None, None, 4)), 8).isel(PICKS[pick])
    xr.testing.assert_allclose(seen, expected, rtol=1e-12)
    assert {"x_bounds", "y_bounds"} <= set(seen.coords)


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_blocks_as_wide_as_the_ring(factor):
    for descending in ((), ("x", "y")):
        ds = noise(8, 8, descending=descending)
        coarse = flow.coarsen(ds, factor)
        xr.testing.assert_allclose(ds.sda.observe(coarse), coarse, rtol=1e-12)


def test_without_bounds_the_operator_does_not_guess():
    ds = noise(8, 8)
    for coarse in (flow.coarsen(ds, 2).drop_vars("x_bounds"), flow.coarsen(ds, 2)[["u"]]):
        with pytest.raises(ValueError, match="names its bounds 'x_bounds', which are not in the Dataset"):
            ds.sda.observe(coarse.isel(x=slice(None, None, 2)).assign_coords(y_bounds=flow.coarsen(ds, 2).y_bounds))
    with pytest.raises(ValueError, match="names its bounds 'y_bounds'"):
        ds.sda.observe(flow.coarsen(ds.u, 2))


@pytest.mark.parametrize("descending", [(), ("y",)])
def test_derived_quantities_are_observed(descending):
    """vorticity and circulation as functions of ``derived=``: on points, and as means over blocks."""
    ds = noise(8, 16, time=3, descending=descending)
    area = abs(np.prod(steps(ds))) * 16
    curl = flow.vorticity(ds)
    derived = {
        "vorticity": flow.vorticity,
        "circulation": lambda s: area * flow.vorticity(s),
        "kinetic_energy": flow.kinetic_energy,
    }
    points = xr.Dataset({"vorticity": curl, "kinetic_energy": flow.kinetic_energy(ds)}).isel(time=[1], x=slice(3, 9))
    xr.testing.assert_allclose(ds.sda.observe(points, derived=derived), points, rtol=1e-12)
    coarse = flow.coarsen(xr.Dataset({"vorticity": curl, "circulation": area * curl}), 4)
    xr.testing.assert_allclose(coarse.circulation, flow.circulation(ds, 4), rtol=1e-12, atol=1e-13)
    seen = ds.sda.observe(coarse, derived=derived)
    xr.testing.assert_allclose(seen, coarse, rtol=1e-12, atol=1e-13)


def test_the_state_knows_its_spacing():
    ds = noise(6, 8, time=3)
    layout = Layout.of(ds).scaled([1.0, -2.0], [3.0, 0.5])
    grid = Grid.match(layout, ds)
    x = grid.to_tensor(ds)[None].double().requires_grad_()
    state = State(layout, {"u": "u", "v": "v"}, grid.scaling, x)
    np.testing.assert_allclose(state.spacing, steps(ds), rtol=1e-12)
    np.testing.assert_allclose(flow.vorticity(state)[0].detach(), flow.vorticity(ds), atol=1e-5)
    np.testing.assert_allclose(flow.circulation(state, 2)[0].detach(), flow.circulation(ds, 2), atol=1e-5)
    np.testing.assert_allclose(flow.coarsen(state, 2)["v"][0].detach(), flow.coarsen(ds, 2).v, atol=1e-5)
    (slope,) = torch.autograd.grad(flow.vorticity(state)[0, 1, 2, 3], x)
    dy, dx = steps(ds)
    expected = np.zeros(x.shape)
    expected[0, 1, 0, 3, 3], expected[0, 1, 0, 1, 3] = -3 / (2 * dy), 3 / (2 * dy)  # in standard deviations of u
    expected[0, 1, 1, 2, 4], expected[0, 1, 1, 2, 2] = 0.5 / (2 * dx), -0.5 / (2 * dx)
    np.testing.assert_allclose(slope, expected, atol=1e-12)


def test_assimilated_vorticity_has_the_exact_posterior():
    """A Gaussian prior and block means of a linear functional: mean and spread in closed form."""
    ds = noise(4, 4, time=1)
    mean = 0 * ds.assign_coords(time=[0.0])
    for name in ("u", "v"):
        mean[name].attrs = {}
    rng = np.random.default_rng(3)
    root = rng.standard_normal((32, 32)) / 6 + np.eye(32)
    prior = xsda.GaussianPrior(mean, root @ root.T)
    truth = mean.assign({n: mean[n] + ds[n].values for n in ("u", "v")})
    obs = flow.coarsen(flow.vorticity(truth).to_dataset(), 2).isel(x=[0])
    derived = {"vorticity": flow.vorticity}
    layout = Layout.of(mean)
    likelihood = compile_observations(Grid.match(layout, mean), obs, 0.5, derived)
    h = likelihood.predict(torch.eye(32).reshape(32, 1, 2, 4, 4)).numpy().astype(float).T
    xr.testing.assert_allclose(
        obs.vorticity.drop_attrs(),
        obs.vorticity.drop_attrs().copy(data=(h @ stacked(truth)).reshape(1, 2, 1)),
        rtol=1e-5,
    )
    cov = root @ root.T
    gain = cov @ h.T @ np.linalg.inv(h @ cov @ h.T + 0.25 * np.eye(2))
    exact_mean, exact_cov = gain @ obs.vorticity.values.ravel(), cov - gain @ h @ cov
    post = mean.sda.assimilate(obs, prior, members=2000, sigma=0.5, derived=derived, progress=False)
    sample = np.stack([stacked(post.isel(member=i)) for i in range(2000)])
    spread = np.sqrt(np.diag(exact_cov) / 2000)
    assert np.abs((sample.mean(0) - exact_mean) / spread).max() < 5
    np.testing.assert_allclose(np.cov(sample.T), exact_cov, atol=0.15 * np.diag(exact_cov).max())
    np.testing.assert_allclose(np.var(sample @ h.T, axis=0), np.diag(h @ exact_cov @ h.T), rtol=0.2)


def stacked(ds):
    return np.concatenate([ds[name].transpose("time", "y", "x").values.ravel() for name in ("u", "v")])


@pytest.mark.parametrize(
    "function",
    [
        lambda u, v: flow.vorticity({"u": u, "v": v}, spacing=(0.5, -0.2)),
        lambda u, v: flow.divergence({"u": u, "v": v}, spacing=0.3),
        lambda u, v: flow.enstrophy({"u": u, "v": v}, spacing=[0.5, 0.2]),
        lambda u, v: flow.enstrophy({"u": u, "v": v}, spacing=[0.5, 0.2], scheme="spectral"),
        lambda u, v: flow.kinetic_energy({"u": u, "v": v}),
        lambda u, v: flow.circulation({"u": u, "v": v}, 2, spacing=0.3),
        lambda u, v: tuple(flow.coarsen({"u": u, "v": v}, 2).values()),
        lambda u, v: tuple(flow.upsample({"u": u, "v": v}, 3).values()),
    ],
)
def test_gradients(function):
    generator = torch.Generator().manual_seed(0)
    u, v = (torch.randn(2, 4, 6, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(function, (u, v))


@pytest.mark.parametrize("chunks", [{"x": 4}, {"time": 1, "y": 5, "x": 3}])
def test_lazy_is_eager(chunks):
    ds = noise(6, 12, time=3)
    ds["wind"] = ("time", np.arange(3.0))
    functions = (
        *DERIVED,
        lambda d: flow.circulation(d, 3),
        lambda d: flow.coarsen(d, 3),
        lambda d: flow.upsample(d, 2),
        lambda d: flow.coarsen(d.u, 3),
    )

    for function in functions:
        with computes_nothing():
            lazy = function(ds.chunk(chunks))
        assert lazy.chunks
        for da in lazy.data_vars.values() if isinstance(lazy, xr.Dataset) else [lazy]:
            assert da.chunks is not None
        xr.testing.assert_allclose(lazy.compute(scheduler="synchronous"), function(ds), rtol=1e-12, atol=1e-13)


def test_precision_is_kept():
    ds = noise(6, 8).astype("float32")
    for function in (*DERIVED, lambda d: flow.circulation(d, 2)):
        assert function(ds).dtype == np.float32
    for function in (flow.coarsen, flow.upsample):
        assert function(ds, 2).u.dtype == np.float32
    fields = tensors(ds)
    assert flow.upsample(fields, 2)["u"].dtype == flow.vorticity(fields, spacing=1).dtype == torch.float32
    whole = (10 * noise(6, 8)).astype(int)
    xr.testing.assert_allclose(flow.coarsen(whole, 2), flow.coarsen(whole.astype(float), 2))
    xr.testing.assert_allclose(flow.upsample(whole, 2), flow.upsample(whole.astype(float), 2), rtol=1e-6)


@pytest.mark.parametrize(
    ("velocity", "length", "expected"),
    [
        ("m s-1", "m", ("s-1", "s-2", "m2 s-2", "m2 s-1")),
        ("1", "1", ("1", "1", "1", "1")),
        ("1", None, ("1", "1", "1", "1")),
        ("m s-1", "km", ("m s-1 km-1", "m2 s-2 km-2", "m2 s-2", "m km s-1")),
        ("m/s", "m", ("(m/s) m-1", "(m/s)2 m-2", "(m/s)2", "(m/s) m")),
        ("m s-1", None, (None, None, "m2 s-2", None)),
        (None, "m", (None, None, None, None)),
    ],
)
def test_names_and_units(velocity, length, expected):
    ds = noise(6, 8)
    for name, units in (("u", velocity), ("v", velocity), ("x", length), ("y", length)):
        ds[name].attrs = {k: a for k, a in ds[name].attrs.items() if k != "units"} | ({"units": units} if units else {})
    results = [flow.vorticity(ds), flow.enstrophy(ds), flow.kinetic_energy(ds), flow.circulation(ds, 2)]
    assert tuple(da.attrs.get("units") for da in results) == expected
    assert [da.name for da in results] == ["vorticity", "enstrophy", "kinetic_energy", "circulation"]
    assert [da.attrs["long_name"] for da in results] == ["vorticity", "enstrophy", "kinetic energy", "circulation"]
    assert flow.divergence(ds).attrs == {**results[0].attrs, "long_name": "divergence"}


def test_other_names_of_the_velocities():
    ds = noise(6, 8).rename(u="east", v="north")
    xr.testing.assert_identical(flow.vorticity(ds, u="east", v="north"), flow.vorticity(noise(6, 8)))


def test_energy_needs_no_plane():
    ds = noise(6, 8).rename(x="lon", y="lat").drop_vars(["lon", "lat"])
    np.testing.assert_array_equal(flow.kinetic_energy(ds), (ds.u**2 + ds.v**2) / 2)


FLOWS = (flow.vorticity, flow.divergence, flow.enstrophy, lambda ds: flow.circulation(ds, 2))
SPECTRAL = [partial(f, scheme="spectral") for f in DERIVED[:3]]
RING = (*SPECTRAL, FLOWS[-1], lambda ds: flow.upsample(ds, 2))
EVEN = (*RING, lambda ds: flow.coarsen(ds, 2))
PLANE = (*FLOWS, *EVEN)


@pytest.mark.parametrize("function", PLANE)
def test_axes_that_are_no_plane(function):
    ds = noise(6, 8)
    with pytest.raises(ValueError, match=r"'x' has no coordinate; give it .*\.assign_coords\(x="):
        function(ds.drop_vars("x"))
    with pytest.raises(ValueError, match=r"two axes, found \['x'\] among"):
        function(ds.isel(y=0))
    with pytest.raises(ValueError, match="neither ascending nor descending"):
        function(ds.isel(x=[0, 1, 3, 2]))
    for name, attrs in (("lon", {"units": "degrees_east"}), ("lon", {}), ("x", {"units": "degrees", "axis": "X"})):
        globe = ds.rename({"x": name}).assign_coords({name: (name, 45.0 * np.arange(8), attrs)})
        with pytest.raises(ValueError, match=f"{name!r} is an angle on a sphere, and this is flow on a plane; project"):
            function(globe)
    for attrs in ({"units": "degrees_north"}, {"period": 6.0}):
        with pytest.raises(ValueError, match="'lat' is an angle on a sphere"):
            function(ds.rename(y="lat").assign_coords(lat=("lat", np.arange(6.0), attrs)))


@pytest.mark.parametrize("function", EVEN)
def test_axes_that_are_uneven(function):
    with pytest.raises(ValueError, match="'x' must be evenly spaced; its steps lie between"):
        function(noise(6, 8).isel(x=[0, 1, 2, 3, 4, 6]))


@pytest.mark.parametrize("function", RING)
def test_axes_that_are_no_ring(function):
    ds = noise(6, 8)
    with pytest.raises(ValueError, match=r"the 4 points of 'x' span 3\.14159, but its period is 6\.28"):
        function(ds.isel(x=slice(4)))
    ds["y"].attrs = {"units": "m"}
    with pytest.raises(
        ValueError, match=r"'y' span 3, but nothing says that it is periodic\. .*\['y'\]\.attrs\['period'\]"
    ):
        function(ds)
    xr.testing.assert_allclose(flow.coarsen(ds, 2).u, flow.coarsen(noise(6, 8), 2).u)  # means need no ring


def test_errors_of_velocities():
    ds = noise(6, 8)
    for function in (*FLOWS, flow.kinetic_energy):
        with pytest.raises(
            KeyError, match=r"no variable 'v' in the flow, which has \['u', 'vv'\]; did you mean 'vv'\?"
        ):
            function(ds.rename(v="vv"))
        with pytest.raises(KeyError, match="no variable 'u' in the flow"):
            function({"v": torch.zeros(4, 4)})
        with pytest.raises(ValueError, match="'v' is in 'km s-1'"):
            function(ds.assign(v=ds.v.assign_attrs(units="km s-1")))
        with pytest.raises(ValueError, match=r"'u' has the sizes .*'time': 2.*put both on the same points"):
            function(ds.assign(v=ds.v.isel(time=0)))
        with pytest.raises(TypeError, match=r"expected a Dataset, or a mapping of tensors, .* got DataArray"):
            function(ds.u)
        with pytest.raises(TypeError, match="'u' is a ndarray, expected a tensor"):
            function({"u": ds.u.values, "v": ds.v.values})
        with pytest.raises(ValueError, match=r"expected floating-point numbers \(\.\.\., y, x\)"):
            function({"u": torch.zeros(4), "v": torch.zeros(4)})
        with pytest.raises(ValueError, match="put both on the same points"):
            function({"u": torch.zeros(4, 6), "v": torch.zeros(6, 4)})
    ds["y"].attrs["units"] = "km"
    with pytest.raises(ValueError, match="'y' is in 'km', 'x' in 'm'"):
        flow.vorticity(ds)
    with pytest.raises(ValueError, match="scheme='fourier' is unknown; choose 'centred' or 'spectral'"):
        flow.vorticity(noise(6, 8), scheme="fourier")
    with pytest.raises(ValueError, match="at least 3 points, there are 2 along 'x'"):
        flow.vorticity({"u": torch.zeros(4, 2), "v": torch.zeros(4, 2)}, spacing=1)


def test_errors_of_spacing():
    fields = tensors(noise(6, 8))
    with pytest.raises(ValueError, match=r"tensors have no coordinates; pass spacing=, a number or \(dy, dx\)"):
        flow.vorticity(fields)
    for spacing in (0, True, np.nan, (1.0,), (1.0, 2.0, 3.0), (1.0, 0.0), "ab", torch.tensor(1.0)):
        with pytest.raises(ValueError, match="must be a number other than 0, or two of them"):
            flow.vorticity(fields, spacing=spacing)
    with pytest.raises(ValueError, match="spacing=1 is for tensors"):
        flow.vorticity(noise(6, 8), spacing=1)


def test_errors_of_states():
    """A prior whose axes are no ring, an angle or the wrong way round is refused, unless the spacing is given."""
    ds = noise(6, 8)

    def state(ds, **options):
        layout = Layout.of(ds, **options)
        zeros = torch.zeros(1, 2, 2, *(a.size for a in layout.space))
        return State(layout, {"u": "u", "v": "v"}, Grid.match(layout, ds).scaling, zeros)

    open_ds = ds.copy()
    open_ds["x"].attrs = {"axis": "X"}
    for function in (lambda s: flow.circulation(s, 2), lambda s: flow.vorticity(s, scheme="spectral")):
        with pytest.raises(ValueError, match="the axis 'x' of the state is not periodic"):
            function(state(open_ds))
    assert flow.vorticity(state(open_ds), spacing=1.0).shape == (1, 2, 6, 8)
    assert flow.vorticity(state(open_ds, periodic=("x",))).shape == (1, 2, 6, 8)
    with pytest.raises(ValueError, match="'lon' is an angle on a sphere"):
        flow.vorticity(state(ds.rename(x="lon")))
    with pytest.raises(ValueError, match=r"the last axes of the state are \['x', 'y'\], expected \(y, x\)"):
        flow.vorticity(state(ds, space=("x", "y")))


@pytest.mark.parametrize("function", [flow.coarsen, flow.upsample, flow.circulation])
@pytest.mark.parametrize("factor", [0, -1, 2.5, 2.0, True, "2", None])
def test_errors_of_factors(function, factor):
    with pytest.raises(ValueError, match=f"factor={factor!r} must be a whole number of cells, at least 1"):
        function(noise(6, 8), factor)


def test_errors_of_blocks():
    ds = noise(12, 18)
    message = r"18 cells along 'x' cannot be cut into blocks of factor=4; .*'y': 12, 'x': 18\} are 1, 2, 3, 6$"
    for field in (ds, ds.u, tensors(ds), tensors(ds)["u"]):
        with pytest.raises(ValueError, match=message):
            flow.coarsen(field, 4)
    with pytest.raises(ValueError, match=message):
        flow.circulation(ds, 4)
    for function in (flow.coarsen, flow.upsample):
        with pytest.raises(
            TypeError, match="expected a Dataset, a DataArray, a tensor or a mapping of them, got ndarray"
        ):
            function(ds.u.values, 2)
        with pytest.raises(ValueError, match=r"the field has the type torch\.int64 and the shape \(4, 4\)"):
            function(torch.ones(4, 4, dtype=int), 2)
    with pytest.raises(ValueError, match="'y' has only one point"):
        flow.upsample(ds.isel(y=[0]), 2)
