"""The wake of a cylinder: no slip, symmetries, invariants, orders of convergence, and published drag and frequency."""

from functools import lru_cache

import numpy as np
import pytest
import torch

import xsda
from xsda.systems import CylinderWake


def small(**options):
    return CylinderWake(**{"resolution": 10, **options})


@pytest.fixture(scope="module")
def shedding():
    """A developed wake at Reynolds number 100, and its system."""
    return developed()[:2]


@lru_cache
def developed():
    wake, forces = small(), []
    x = wake.initial(1, torch.Generator().manual_seed(0))
    for _ in range(260):
        x, (force,) = wake._advance(x, wake.substeps)
        forces.append(force)
    return wake, x.double(), np.array(forces)


def inside(wake, x):
    """The solver of a system, its arrays of the state, and the stream functions of its levels."""
    w = wake._nested(x).copy()
    wake._flow.nest(w)
    return wake._flow, w, wake._flow.stream(w)


def test_the_fluid_sticks_to_the_body(shedding):
    flow, _, psi = inside(*shedding)
    u, v = np.split(flow.velocity(psi)[0], 2)
    np.testing.assert_allclose(
        u, -1, rtol=0, atol=2e-5
    )  # minus the free stream; the state was made in single precision
    np.testing.assert_allclose(v, 0, atol=2e-5)
    flow, _, psi = inside(shedding[0], shedding[0].step(shedding[1]))
    np.testing.assert_allclose(np.split(flow.velocity(psi)[0], 2), [[-1] * len(u), [0] * len(u)], atol=1e-11)


def test_the_stream_function_solves_its_equation_on_every_level(shedding):
    wake, _ = shedding
    _, w, psi = inside(*shedding)
    for k, p in enumerate(psi):
        h = 2**k / wake.resolution
        around = p[..., 2:, 1:-1] + p[..., :-2, 1:-1] + p[..., 1:-1, 2:] + p[..., 1:-1, :-2]
        np.testing.assert_allclose((4 * p[..., 1:-1, 1:-1] - around) / h**2, w[..., k, :, :], atol=1e-8)


def test_circulation_stays_zero(shedding):
    """Forces act in pairs, so a body that is set in motion makes as much vorticity of one sign as of the other."""
    wake, x = shedding
    largest = x[0, -1] * (2 ** (wake.levels - 1) / wake.resolution) ** 2  # it holds all of the finer ones
    start = small().initial(1, torch.Generator().manual_seed(0)).double()
    _, w, _ = inside(small(), start)
    before = w[0, -1].sum() * (2 ** (wake.levels - 1) / wake.resolution) ** 2  # of the vortices at the start
    assert largest.abs().sum() > 5
    assert abs(float(largest.sum()) - before) < 0.02 * float(largest.abs().sum())


def test_the_mirror_image_of_a_wake_is_a_wake(shedding):
    wake, x = shedding
    torch.testing.assert_close(wake.step(-x.flip(-2)), -wake.step(x).flip(-2), rtol=0, atol=1e-9)
    assert (wake.step(x) + wake.step(x).flip(-2)).abs().max() > 1


def test_members_are_stepped_alone_and_in_either_precision(shedding):
    wake, x = shedding
    other = wake.initial(1, torch.Generator().manual_seed(7)).double()
    together = wake.step(torch.cat([x, other]))
    torch.testing.assert_close(together, torch.cat([wake.step(x), wake.step(other)]), rtol=0, atol=1e-11)
    single = wake.step(x.float())
    assert single.dtype == torch.float32
    assert float((single - together[:1]).abs().max()) < 1e-4 * float(x.abs().max())


def potential_error(resolution):
    """Just after the start, the flow outside is that of a potential: u + iv = 1 - 1 / (4 z^2), conjugated."""
    wake = CylinderWake(resolution=resolution, dt=1e-4, substeps=1, length=4.0, width=4.0, upstream=2.0, levels=5)
    _, _, psi = inside(wake, wake.step(wake.rest(1).double()))
    y, x = (wake.coordinate(d, n)[0] for d, n in wake.space.items())
    square = x**2 + y[:, None] ** 2
    here = (square > 1) & (square < 2.2)
    error = (psi[0][0, 1:-1, 1:-1] + y[:, None] / (4 * np.maximum(square, 1)))[here]
    return float(np.abs(error).max())


def test_the_flow_starts_from_a_potential():
    """The discrete delta function makes the boundary as thick as a cell: the order is the first."""
    errors = [potential_error(n) for n in (10, 20, 40)]
    assert errors[2] < 0.025
    assert errors[0] / errors[1] > 1.9
    assert errors[1] / errors[2] > 1.9


def test_the_order_in_time_is_the_second():
    """Steps after the first of each state know the past; the start itself is smooth."""
    start = small().step(small().step(small().initial(1, torch.Generator().manual_seed(3)).double()))
    ends = [small(substeps=n).step(start) for n in (16, 32, 64, 256)]
    errors = [float((x - ends[-1])[:, 0].square().mean().sqrt()) for x in ends[:-1]]
    assert errors[0] / errors[1] > 3.4
    assert errors[1] / errors[2] > 3.4


def test_a_steady_wake_has_the_published_drag():
    """Reynolds number 40: 1.5 to 1.6 on fine grids (``benchmarks/wake.py``). A coarse one adds a few per cent."""
    wake = small(reynolds=40, length=6.0)
    x = wake.rest(1)
    for _ in range(80):
        x, (force,) = wake._advance(x, wake.substeps)
    assert 1.5 < force[0] < 1.7
    assert abs(force[1]) < 1e-3


def test_vortices_are_shed_at_the_published_frequency():
    """Reynolds number 100: Strouhal number .16 to .17, drag 1.3 to 1.4, amplitude of lift .30 to .36 on fine grids."""
    wake, _, forces = developed()
    drag, lift = forces[-100:].T
    rising = np.flatnonzero((lift[:-1] < 0) & (lift[1:] >= 0))
    at = rising - lift[rising] / (lift[rising + 1] - lift[rising])
    assert 1.3 < drag.mean() < 1.45
    assert 0.28 < np.ptp(lift) / 2 < 0.45
    assert 0.15 < 1 / (np.diff(at).mean() * wake.dt) < 0.17


def test_labels_forces_and_restarts(shedding):
    """A labelled state knows nothing of the vorticity outside its grid; its forces and its next state are close."""
    wake, x = shedding
    ds = wake.label(wake.coarsened(x, 1)[None].numpy())
    assert dict(ds.sizes) == {"member": 1, "time": 1, "y": 39, "x": 79}
    assert float(ds.body.sum()) / 100 == pytest.approx(np.pi / 4, rel=0.05)
    assert ds.x.values[9] == 0
    assert ds.y.values[19] == 0
    exact = wake._advance(x, wake.substeps // 2)[1][0]
    forces = wake.forces(ds.isel(member=0, drop=True))
    assert forces.drag.dims == ("time",)
    np.testing.assert_allclose([float(forces.drag[0]), float(forces.lift[0])], exact, atol=0.06)
    flow = wake.velocity(ds).isel(member=0, time=0)
    inner = ds.body.isel(member=0, missing_dims="ignore") == 1
    assert float(np.abs(flow.u.where(inner)).mean()) < 0.1
    u, v = flow.u.values, flow.v.values
    divergence = u[1:-1, 2:] - u[1:-1, :-2] + v[2:, 1:-1] - v[:-2, 1:-1]
    assert float(np.abs(divergence).max()) < 1e-5
    np.testing.assert_allclose(flow.u[[0, -1]].mean(), 1.1, atol=0.1)  # it is faster beside the body
    ends = wake.step(x)[:, :1], wake.step(x[:, :1])
    error = (ends[0] - ends[1]).square().mean().sqrt()
    assert float(error) < 0.06 * float(ends[0].square().mean().sqrt())


def test_the_data_set_does_not_depend_on_interruptions(tmp_path):
    from xsda.systems.simulation import simulate_to

    path = simulate_to(tmp_path / "w.nc", small(), trajectories=2, length=3, burn_in=2, progress=False)
    import xarray as xr

    with xr.open_dataset(path) as ds:
        one = small().simulate(3, 16, burn_in=2).isel(member=1, drop=True)
        np.testing.assert_allclose(ds.vorticity.isel(trajectory=1), one.vorticity, atol=1e-3)
        assert "body" in ds


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reynolds": 0}, "reynolds=0 must be positive"),
        ({"reynolds": "a"}, "reynolds='a' must be a finite number"),
        ({"resolution": 4}, "resolution=4 must be an integer of at least 8"),
        ({"length": 7.93}, r"length=7.93 makes 396.5 cells of 1/50; their number must be a multiple of 4"),
        ({"upstream": 0.3}, "the body is not inside the grid: upstream is 0.3, at least 0.56"),
        ({"upstream": 7.9}, "length - upstream is 0.1"),
        ({"width": 0.8}, "width / 2 is 0.4"),
        ({"substeps": 10}, r"inner steps of 0.02, which are unstable .* would cross 2 of them; use 34"),
        ({"levels": 0}, "levels=0 must be an integer of at least 1"),
        ({"dt": -1.0}, "dt=-1.0 must be positive"),
    ],
)
def test_what_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        CylinderWake(**options)


def test_a_reynolds_number_that_was_not_tested_gives_a_warning():
    with pytest.warns(UserWarning, match="reynolds=1000 is outside the range .* 40 to 200"):
        CylinderWake(reynolds=1000)


def test_states_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"\(1, 4, 9, 9\), expected .*\(39, 79\) and 4 levels, or the finest alone"):
        small().step(torch.zeros(1, 4, 9, 9))
    assert xsda.systems.CylinderWake is CylinderWake
