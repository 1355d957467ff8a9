"""What trajectories are kept of: states one after another, means over blocks, numbered initial states."""

import numpy as np
import pytest
import torch
import xarray as xr

from xsda.systems import DampedSpring, DiscreteODE, KolmogorovFlow, Lorenz63, Lorenz96

SYSTEMS = [Lorenz63(), Lorenz96(n=5), DampedSpring()]


def generator(seed=3):
    return torch.Generator().manual_seed(seed)


class Plane(DiscreteODE):
    """Decay of a field of 6 x 4 points."""

    variables = ("h",)
    space = {"y": 6, "x": 4}  # noqa: RUF012

    def drift(self, x):
        return -x


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda s: type(s).__name__)
def test_an_initial_state_belongs_to_its_number(system):
    together = system.initial(48, generator())
    for number in (0, 1, 15, 16, 46, 47):
        assert torch.equal(system.initial_of(number, 3), together[number])
        assert not torch.equal(system.initial_of(number, 4), together[number])
    assert len({tuple(system.initial_of(i, 0).flatten().tolist()) for i in range(100)}) == 100


def test_states_come_one_after_another():
    system, x = Lorenz96(n=6, noise=0.1), Lorenz96(n=6).initial(2, generator())
    kept = system.states(x, generator(), length=3, burn_in=2, every=4)
    g, expected = generator(), []
    for _ in range(11):
        expected.append(x)
        x = system.transition(x, g)
    for state, step in zip(kept, (2, 6, 10), strict=True):
        assert torch.equal(state, expected[step])


def test_coarsening_keeps_means_of_blocks_and_where_they_are():
    system = Plane()
    fine, coarse = (system.simulate(3, members=2, seed=1, coarsen=c) for c in (1, 2))
    xr.testing.assert_allclose(coarse, fine.coarsen(y=2, x=2).mean())  # values and coordinates
    assert coarse["y"].values.tolist() == [0.5, 2.5, 4.5]


def test_a_coarse_ring_is_as_long_as_before():
    fine, coarse = (Lorenz96(n=12).simulate(4, seed=1, burn_in=5, coarsen=c) for c in (1, 3))
    xr.testing.assert_allclose(coarse, fine.coarsen(x=3).mean())
    assert coarse["x"].values.tolist() == [1, 4, 7, 10]
    assert coarse["x"].attrs["period"] == fine["x"].attrs["period"] == 12


@pytest.mark.parametrize(
    ("system", "factor", "message"),
    [
        (Lorenz63(), 2, "Lorenz63 has no space"),
        (Lorenz96(n=12), 5, "12 points along 'x'; possible factors: 2, 3, 4, 6, 12"),
        (Plane(), 4, "6 points along 'y'; possible factors: 2"),
        (Lorenz96(n=12), 0, "coarsen=0"),
        (Lorenz96(n=12), 2.0, "coarsen=2.0"),
        (Lorenz96(n=12), True, "coarsen=True"),
    ],
)
def test_impossible_blocks_are_named(system, factor, message):
    with pytest.raises(ValueError, match=message):
        system.simulate(1, coarsen=factor)


def test_a_coarse_flow():
    pytest.importorskip("jax_cfd")
    system = KolmogorovFlow(resolution=32, domain=3.0, wavenumber=2)
    fine, coarse = (system.simulate(2, members=2, seed=1, burn_in=1, coarsen=c) for c in (1, 4))
    mean = fine.coarsen(y=4, x=4).mean()
    xr.testing.assert_allclose(coarse[["u", "v"]], mean[["u", "v"]], atol=1e-6)
    assert coarse["x"].attrs["period"] == 3.0
    assert torch.equal(system.initial_of(5, 3), system.initial(8, generator())[5])
    assert system.to_tensor(coarse).shape == (2, 2, 2, 8, 8)


def test_the_field_of_the_force_is_what_moves_the_flow():
    pytest.importorskip("jax_cfd")
    system = KolmogorovFlow(resolution=32, domain=3.0, wavenumber=2, scale=0.5, dt=0.01)
    rest = torch.zeros(1, 2, 32, 32)
    ds = system.label(rest[None].numpy())
    np.testing.assert_allclose(system.step(rest)[0, 0] / system.dt, ds.forcing, atol=2e-3)
    coarse = system.label(np.zeros((1, 1, 2, 8, 8), np.float32))
    np.testing.assert_allclose(coarse.forcing, ds.forcing.interp(y=coarse.y, x=coarse.x), atol=0.01)
