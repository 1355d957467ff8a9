"""Kolmogorov flow: what is known in closed form, what is conserved, and what must not be asked."""

import math
import re

import fresh
import numpy as np
import pytest
import torch

from xsda.baselines import LETKF
from xsda.systems import KolmogorovFlow

pytest.importorskip("jax_cfd")


def centres(n):
    return (torch.arange(n) + 0.5) * (2 * torch.pi / n)


def on_faces(n, u, v):
    """A state (1, channel, y, x) of functions of (x, y): u on right faces, v on upper ones."""
    x, half = centres(n), torch.pi / n
    y = x[:, None]
    return torch.stack([u(x + half, y + 0 * x), v(x + 0 * y, y + half)])[None].float()


def forward(flow, x, steps):
    for _ in range(steps):
        x = flow.step(x)
    return x


def vortices(n, reynolds, substeps, size=1.0):
    """The error after half a unit of time of u = sin x cos y, v = -cos x sin y, damped by exp(-2 t / Re)."""
    flow = KolmogorovFlow(resolution=n, reynolds=reynolds, drag=0.0, scale=0.0, dt=0.1, substeps=substeps)
    start = on_faces(n, lambda x, y: torch.sin(x) * torch.cos(y), lambda x, y: -torch.cos(x) * torch.sin(y)) * size
    return float((forward(flow, start, 5) - start * np.exp(-2 * 0.5 / reynolds)).abs().max()) / size


def test_taylor_green_vortices_decay_as_they_should():
    """Their advection is a gradient, and the pressure takes it up. The order is that of diffusion, second."""
    errors = [vortices(n, 20.0, 64) for n in (16, 32, 64)]
    assert errors[2] < 4e-4
    assert errors[0] / errors[1] > 3.7
    assert errors[1] / errors[2] > 3.7
    slow = [vortices(n, 1.0, 256, size=1e-3) for n in (8, 16)]
    assert 3.5 < slow[0] / slow[1] < 4.5


@pytest.mark.parametrize(("wavenumber", "scale", "drag"), [(4, 1.0, 0.1), (2, 0.5, 0.3)])
def test_a_laminar_flow_grows_to_the_balance_of_force_and_friction(wavenumber, scale, drag):
    """From rest: u = A sin(k y) (1 - exp(-r t)), r = drag + k^2 / Re, A = scale / r."""
    flow = KolmogorovFlow(resolution=64, reynolds=10.0, drag=drag, wavenumber=wavenumber, scale=scale)
    x = forward(flow, torch.zeros(1, 2, 64, 64), 5)
    cell = 2 * torch.pi / 64
    rate = drag + (2 * np.sin(wavenumber * cell / 2) / cell) ** 2 / 10  # of the second difference
    expected = scale / rate * (1 - np.exp(-rate * 1.0)) * torch.sin(wavenumber * centres(64))
    torch.testing.assert_close(x[0, 0], expected[:, None].expand(64, 64).float(), rtol=0, atol=2e-3)
    assert float(x[0, 1].abs().max()) < 1e-5


@pytest.fixture(scope="module")
def flow():
    return KolmogorovFlow(resolution=64)


@pytest.fixture(scope="module")
def state(flow):
    return forward(flow, flow.initial(1, torch.Generator().manual_seed(0)), 10)


def test_momentum_is_lost_to_drag_alone(flow, state):
    moving = state + torch.tensor([0.5, -0.3]).reshape(2, 1, 1)
    means = [x.mean((0, 2, 3)) for x in (moving, flow.step(moving))]
    torch.testing.assert_close(means[1], means[0] * np.exp(-0.1 * 0.2), rtol=1e-3, atol=1e-5)


def test_no_divergence_on_the_faces(state):
    u, v = state[0]
    cell = 2 * torch.pi / 64
    divergence = (u - u.roll(1, -1) + v - v.roll(1, -2)) / cell
    assert float(divergence.abs().max()) < 2e-3 * float(u.abs().max()) / cell
    assert float(divergence.square().mean().sqrt()) < 1e-4 * float((u / cell).square().mean().sqrt())


def test_the_flow_does_not_know_where_it_is_but_for_the_force(flow, state):
    for shift, axis in ((5, -1), (64 // 4, -2)):  # any step along x, a wave of the force along y
        torch.testing.assert_close(
            flow.step(state.roll(shift, axis)), flow.step(state).roll(shift, axis), rtol=0, atol=2e-4
        )
    assert (flow.step(state.roll(8, -2)) - flow.step(state).roll(8, -2)).abs().max() > 0.05


def test_an_ensemble_is_stepped_as_each_of_its_members(flow):
    start = flow.initial(3, torch.Generator().manual_seed(1))
    torch.testing.assert_close(flow.step(start), torch.cat([flow.step(x[None]) for x in start]), rtol=0, atol=1e-5)
    assert flow.step(start.double()).dtype == torch.float64
    assert flow.step(start[0]).shape == start[0].shape


def test_a_filter_finds_the_flow():
    """LETKF on 64 x 64 points, one in 16 observed: from the climate to half the error of an observation, and it knows it."""
    flow = KolmogorovFlow(resolution=64)
    run = flow.simulate(length=7, members=21, seed=3, burn_in=10)[["u", "v"]]
    truth, others = run.isel(member=-1, drop=True), run.isel(member=slice(-1))
    obs = truth.sda.observe(truth.isel(y=slice(1, None, 4), x=slice(1, None, 4)), sigma=0.1, seed=4)
    method = LETKF(localization=0.5, inflation=1.05)
    found = truth.sda.filter(obs, flow, method=method, initial=others.isel(time=0), sigma=0.1, progress=False)

    def rms(squares):
        return np.sqrt(squares.to_array().mean(("variable", "y", "x"))).values

    error, free = (rms((ensemble.mean("member") - truth) ** 2) for ensemble in (found, others))
    assert (np.diff(error) < 0).all()
    assert error[-1] < 0.06 < 0.5 < free[-1]
    assert 0.4 < rms(found.var("member", ddof=1))[-1] / error[-1] < 1


def test_initial_fields(flow):
    start = flow.initial(2, torch.Generator().manual_seed(1))
    assert (start[0] - start[1]).abs().max() > 1
    speeds = start.square().sum(1).sqrt().flatten(1).amax(1)
    assert (speeds > 2.9).all()
    assert (speeds < 3.3).all()
    torch.testing.assert_close(start[:1], flow.initial(1, torch.Generator().manual_seed(1)))
    energy = torch.fft.rfft2(start).abs().square().sum(1)
    ky, kx = torch.fft.fftfreq(64) * 64, torch.arange(33)
    k = (ky[:, None] ** 2 + kx**2).sqrt().round().long()
    shells = torch.zeros(46).index_add_(0, k.flatten(), energy.mean(0).flatten())
    assert 2 <= int(shells.argmax()) <= 6


def test_labels():
    ds = KolmogorovFlow(resolution=32).simulate(3, seed=1, burn_in=1)
    assert dict(ds.sizes) == {"time": 3, "y": 32, "x": 32}
    np.testing.assert_allclose(ds.time, [0, 0.2, 0.4])
    np.testing.assert_allclose(ds.x, centres(32))
    assert ds.x.attrs["period"] == pytest.approx(2 * np.pi)
    assert ds.u.dims == ("time", "y", "x")
    assert ds.u.dtype == np.float32
    again = KolmogorovFlow(resolution=32).simulate(3, seed=1, burn_in=1)
    assert again.identical(ds)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reynolds": -1e3}, "reynolds=-1000.0 must be positive: the viscosity is its inverse"),
        ({"resolution": 100.5}, "resolution=100.5"),
        ({"resolution": 4}, "at least 8"),
        ({"drag": -0.1}, "drag=-0.1 must not be negative"),
        ({"domain": 0}, "domain=0 must be positive"),
        ({"dt": 0.0}, "dt=0.0 must be positive"),
        ({"wavenumber": 200}, "wavenumber=200 must be an integer from 1 to 128"),
        ({"wavenumber": 1.5}, "wavenumber=1.5"),
        ({"substeps": 20}, "unstable on 256 cells.*speeds up to 5.*use at least 41, or 82"),
        ({"substeps": 10, "reynolds": 0.1, "resolution": 32}, "viscosity would act over more than one cell"),
        ({"resolution": math.nan}, "resolution=nan must be a finite number"),
        ({"wavenumber": None}, "wavenumber=None must be a finite number"),
        ({"dt": math.inf}, "dt=inf must be a finite number"),
        ({"dt": "a"}, "dt='a' must be a finite number"),
        ({"domain": math.inf}, "domain=inf must be a finite number"),
        ({"scale": math.nan}, "scale=nan must be a finite number"),
        ({"substeps": 0}, "substeps=0"),
    ],
)
def test_what_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        KolmogorovFlow(**options)


@pytest.mark.parametrize("options", [{"scale": 20.0}, {"scale": -50.0}, {"scale": 5.0, "drag": 0.0}])
def test_a_stronger_force_gets_shorter_steps(options):
    """Speeds grow with the root of the force; at the weak one's steps the first two blow up."""
    system = KolmogorovFlow(resolution=32, **options)
    speed = float(system.simulate(2, seed=0, burn_in=30).to_array().max())
    assert 5 < speed < 2 * system.fastest  # the fastest cross less than a cell in a step
    assert KolmogorovFlow().fastest == 5


def test_a_domain_of_another_size_is_refused():
    ensemble = KolmogorovFlow(resolution=16).label(np.zeros((4, 2, 2, 16, 16)))
    grid, small = ensemble.isel(member=0), KolmogorovFlow(resolution=16, domain=1.0)
    obs = grid[["u"]].isel(x=slice(None, None, 4))
    with pytest.raises(ValueError, match=r"6.2832 long along 'y', the domain of KolmogorovFlow 1; use .*domain=6"):
        grid.sda.filter(obs, small, method=LETKF(localization=0.5), initial=ensemble.isel(time=0), sigma=0.1)


def test_states_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"\(1, 2, 32, 32\), expected .*2, 16, 16"):
        KolmogorovFlow(resolution=16).step(torch.zeros(1, 2, 32, 32))


def test_what_history_says_makes_the_system_again():
    system = KolmogorovFlow(resolution=32, scale=2.0)
    assert repr(eval(repr(system))) == repr(system)


def test_a_device_that_jax_lacks():
    with pytest.raises(ValueError, match="device='tpu' is not available in JAX"):
        KolmogorovFlow(resolution=16, device="tpu").step(torch.zeros(1, 2, 16, 16))


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("sys.modules['jax'] = None", r"pip install 'xsda\[sim\]'"),
        ("sys.modules['jax_cfd'] = None", r"needs jax-cfd.*pip install 'xsda\[sim\]'"),
        ("import jax; jax.numpy.__dict__.pop('ndarray'); jax.numpy.__class__ = type(sys)", "does not run with JAX"),
        ("import jax, jax_cfd; del jax.vmap", r"does not run with JAX.*'vmap'.*pip install 'jax=="),
        ("import jax, jax_cfd.base.grids; del jax.numpy.where", r"does not run with JAX.*'where'.*pip install 'jax=="),
    ],
)
def test_missing_or_broken_libraries_are_named(broken, message):
    code = f"""
import sys
{broken}
import torch, xsda
flow = xsda.systems.KolmogorovFlow(resolution=16)
try:
    flow.step(torch.zeros(1, 2, 16, 16))
except ImportError as error:
    pipe.send(str(error))
"""
    assert re.search(message, fresh.answer(code))
