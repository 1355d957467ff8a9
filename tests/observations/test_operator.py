"""H as a linear map: adjoint, linearity, tangent."""

import pickle

import numpy as np
import pytest
import torch
import xarray as xr
from lazy import computes_nothing

from xsda.labels.grid import Grid
from xsda.labels.layout import Layout
from xsda.observations import compile_observations
from xsda.observations.compile import compile_variable


def globe():
    rng = np.random.default_rng(0)
    dims, shape = ("time", "lat", "lon"), (5, 4, 8)
    return xr.Dataset(
        {
            "u": (dims, 3 * rng.standard_normal(shape)),
            "v": (dims, 3 * rng.standard_normal(shape)),
            "q": (("time", "level", "lat", "lon"), rng.standard_normal((5, 3, 4, 8))),
        },
        {
            "time": np.arange(5.0),
            "level": [200, 500, 850],
            "lat": [60.0, 20.0, -20.0, -60.0],
            "lon": ("lon", np.arange(8) * 45.0, {"units": "degrees_east"}),
        },
    )


def instruments():
    """Selection, interpolation, averages, stations, channels, with values missing."""
    ds = globe()
    satellite = ds[["u"]].isel(time=[0, 3], lon=[1, 5]).copy(deep=True)
    satellite["u"][0, 1] = np.nan
    places = {
        "lat": xr.DataArray([10.0, 55.0, -60.0], dims="station"),
        "lon": xr.DataArray([359.0, 22.0, 45.0], dims="station"),
    }
    stations = xr.Dataset({"v": (("station", "time"), np.ones((3, 2)))}, {**places, "time": [0.5, 4.0]})
    sondes = xr.Dataset(
        {"q": ("obs", np.ones(3))},
        {
            k: ("obs", v)
            for k, v in {
                "time": [0.0, 1.5, 3.0],
                "level": [850, 200, 200],
                "lat": [0.0, 0, 20],
                "lon": [0.0, 350, 90],
            }.items()
        },
    )
    means = ds[["v"]].coarsen(lat=2, lon=4).mean().assign(total=ds["u"].mean()).rename(total="u")
    means["u"].attrs["cell_methods"] = "time: lat: lon: mean"
    means["v"].attrs["cell_methods"] = "lat: mean lon: mean"
    return {"satellite": satellite, "stations": stations, "sondes": sondes, "means": means}


def likelihood(derived=None, obs=None):
    layout = Layout.of(globe())
    layout = layout.scaled(np.arange(5) - 2.0, np.arange(5) + 0.5)
    return compile_observations(Grid.match(layout, globe()), instruments() if obs is None else obs, 1.0, derived)


def states(n, seed=0):
    return torch.randn(n, 5, 5, 4, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", [*instruments(), "all"])
def test_transpose_is_the_adjoint(name):
    obs = instruments() if name == "all" else instruments()[name]
    lik = likelihood(obs=obs)
    H, x = lik.operator, states(3)
    y = torch.randn(H(x).shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    back = lik.adjoint(x, y)
    assert back.shape == x.shape
    torch.testing.assert_close((H(x) * y).sum(1), (x * back).flatten(1).sum(1), rtol=1e-12, atol=1e-12)


def test_linear():
    lik = likelihood()
    H, a, b = lik.operator, states(2, 1), states(2, 2)
    assert lik.linear
    torch.testing.assert_close(H(2.5 * a - b), 2.5 * H(a) - H(b), rtol=0, atol=1e-13)
    torch.testing.assert_close(H(torch.zeros_like(a)), torch.zeros_like(H(a)), rtol=0, atol=0)
    # a constant of one stays one: every row of H adds up to one
    torch.testing.assert_close(H(torch.ones_like(a)), torch.ones_like(H(a)), rtol=0, atol=1e-12)


def test_members_are_observed_one_by_one():
    H, x = likelihood().operator, states(4)
    torch.testing.assert_close(H(x), torch.cat([H(m[None]) for m in x]), rtol=0, atol=0)


def test_sources_are_observed_one_after_another():
    x = states(2)
    parts = [likelihood(obs=o).operator(x) for o in instruments().values()]
    torch.testing.assert_close(likelihood().operator(x), torch.cat(parts, 1), rtol=0, atol=0)


def test_observing_scaled_values_is_scaling_observed_values():
    """Kelvin or Celsius, metres or knots: y and sigma in standard units are the same."""
    ds, obs = globe(), instruments()["stations"]
    layout = Layout.of(ds)
    mean, std = np.arange(5) - 2.0, np.arange(5) + 0.5
    a = compile_observations(Grid.match(layout.scaled(mean, std), ds), obs, 0.3)
    other = obs.copy(data={"v": 1.94 * obs["v"] + 273.15})
    b = compile_observations(Grid.match(layout.scaled(1.94 * mean + 273.15, 1.94 * std), ds), other, 0.3 * 1.94)
    torch.testing.assert_close(a.y, b.y, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(a.std, b.std)
    torch.testing.assert_close(a.operator(states(2)), b.operator(states(2)), rtol=0, atol=0)


def test_sigma_is_scaled_channel_by_channel():
    obs = instruments()["sondes"]
    lik = likelihood(obs=obs)
    torch.testing.assert_close(lik.std, 1 / torch.tensor([4.5, 2.5, 2.5]))
    torch.testing.assert_close(lik.y, (1 - torch.tensor([2.0, 0.0, 0.0])) / torch.tensor([4.5, 2.5, 2.5]))


SPEED = {"speed": lambda s: (s["u"] ** 2 + s["v"] ** 2).sqrt()}


def test_derived_tangent_equals_finite_differences():
    obs = instruments()["stations"].rename(v="speed")
    lik = likelihood(SPEED, obs)
    assert not lik.linear
    x, d = states(2, 3), states(2, 4)
    step = 1e-6
    central = (lik.operator(x + step * d) - lik.operator(x - step * d)) / (2 * step)
    torch.testing.assert_close(lik.tangent(x, d), central, rtol=1e-6, atol=1e-7)
    y = torch.randn(lik.operator(x).shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    adjoint = (lik.adjoint(x, y) * d).flatten(1).sum(1)
    torch.testing.assert_close((lik.tangent(x, d) * y).sum(1), adjoint, rtol=1e-10, atol=1e-10)


def test_derived_is_computed_in_the_variables_own_units():
    ds = globe()
    layout = Layout.of(ds).scaled(np.arange(5) - 2.0, np.arange(5) + 0.5)
    grid = Grid.match(layout, ds)
    obs = xr.Dataset({"speed": np.hypot(ds["u"], ds["v"])})
    lik = compile_observations(grid, obs, 1.0, SPEED)
    seen = lik.operator(grid.to_tensor(ds)[None]).reshape(5, 4, 8)
    np.testing.assert_allclose(seen, obs["speed"], rtol=1e-5, atol=1e-5)
    assert torch.allclose(lik.std, torch.ones(()))


def test_an_operator_survives_pickling():
    H, x = likelihood().operator, states(2)
    expected = H(x)
    torch.testing.assert_close(pickle.loads(pickle.dumps(H))(x), expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            lambda s: s["u"].mean(-1),
            r"'speed' must be a tensor of shape \(member, time, \*space\) = \(\d, 5, 4, 8\), got \(\d, 5, 4\)",
        ),
        (lambda s: 3.0, "'speed' must be a tensor .* got float"),
        (lambda s: s["q"], r"'speed' must be a tensor .* got \(\d, 5, 3, 4, 8\)"),
    ],
)
def test_derived_of_wrong_shape(function, message):
    obs = globe()[["u"]].rename(u="speed")
    with pytest.raises(ValueError, match=message):
        likelihood({"speed": function}, obs).operator(states(1))


def test_derived_from_an_unknown_variable():
    obs = globe()[["u"]].rename(u="speed")
    with pytest.raises(KeyError, match="the state has no variable 'uu'; did you mean 'u'"):
        likelihood({"speed": lambda s: s["uu"]}, obs).operator(states(1))


# --- the same as indices and weights ---


@pytest.mark.parametrize(("source", "name"), [(s, n) for s, ds in instruments().items() for n in ds.data_vars])
def test_the_stencil_says_what_apply_does(source, name):
    grid = Grid.match(Layout.of(globe()), globe())
    op = compile_variable(grid, instruments()[source], name)
    sizes = {**globe().sizes}
    index, weight = op.stencil(sizes)
    assert set(index) == set(op.grid_dims)
    np.testing.assert_allclose(weight.sum(1), 1, rtol=0, atol=1e-13)
    x = torch.as_tensor(np.random.default_rng(0).normal(size=(2, *(sizes[d] for d in op.grid_dims))))
    seen = (x.numpy()[:, *(index[d] for d in op.grid_dims)] * weight).sum(-1)
    np.testing.assert_allclose(seen, op.apply(x).reshape(2, -1), rtol=0, atol=1e-13)


@pytest.mark.parametrize("lazy", [False, True])
def test_long_axes(lazy):
    """More observations along one axis than 8193, where np.unravel_index of a column has been wrong."""
    n = 20_000
    ds = xr.Dataset({"u": ("time", np.arange(n, dtype=float))}, {"time": np.arange(n) * 0.5})
    like = ds.isel(time=slice(1, None, 2))
    with computes_nothing():
        seen = (ds.chunk(time=3000) if lazy else ds).sda.observe(like)
    np.testing.assert_array_equal(seen.u, np.arange(1, n, 2))
    op = compile_variable(Grid.match(Layout.of(ds), ds), like, "u")
    index, _ = op.stencil(ds.sizes)
    np.testing.assert_array_equal(index["time"][:, 0], np.arange(1, n, 2))


def test_a_linear_derived_quantity_is_known_to_be_linear():
    """It costs no more than a variable; what is left of it at the mean of the prior is taken off the observations."""
    obs = instruments()["stations"].rename(v="sum")
    lik = likelihood({"sum": lambda s: s["u"] + 2 * s["v"] - 7}, obs)
    assert lik.linear
    x, d = states(2, 3), states(2, 4)
    torch.testing.assert_close(lik.operator(x + d), lik.operator(x) + lik.operator(d), rtol=1e-12, atol=1e-10)
    assert float(lik.operator(torch.zeros_like(x)).abs().max()) < 1e-10
    curved = likelihood({"sum": lambda s: s["u"] + 2 * s["v"] - 7 + 1e-3 * s["u"] ** 2}, obs)
    assert not curved.linear
    plain = (lik.y - lik.operator(x)) * lik.std
    same = (curved.y - curved.operator(x)) * curved.std
    torch.testing.assert_close(plain, same, rtol=0, atol=0.2)
