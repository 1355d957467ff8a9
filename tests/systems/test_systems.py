"""Simulators against what is known of them."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
import xarray as xr
from scipy.stats import multivariate_normal

from xsda.systems import DampedSpring, DiscreteODE, Lorenz63, Lorenz96, LotkaVolterra

SMOOTH = [
    (Lorenz63, {"noise": 0.0}, 0.5),
    (Lorenz96, {"n": 8}, 1.0),
    (LotkaVolterra, {"predation": 1.4, "death": 0.7}, 4.0),
]


def draw(system, members=5, seed=0):
    return system.initial(members, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("kind", "options", "span"), SMOOTH, ids=lambda v: getattr(v, "__name__", ""))
def test_runge_kutta_is_of_fourth_order(kind, options, span):
    ends = {}
    for steps in (40, 80, 160, 1280):
        system, x = kind(dt=span / 10, substeps=steps // 10, **options), draw(kind(**options))
        for _ in range(10):
            x = system.step(x)
        ends[steps] = x
    errors = [float((ends[n] - ends[1280]).norm()) for n in (40, 80, 160)]
    assert math.log2(errors[1] / errors[2]) == pytest.approx(4, abs=0.4)
    assert errors == sorted(errors, reverse=True)


def test_substeps_are_steps():
    x = draw(Lorenz63())
    one, two = Lorenz63(dt=0.02, substeps=2), Lorenz63(dt=0.01)
    assert torch.equal(one.step(x), two.step(two.step(x)))


def test_lorenz63_rests_at_its_fixed_points_and_loses_volume():
    system = Lorenz63(sigma=9.0, rho=24.0, beta=2.5)
    c = math.sqrt(2.5 * 23)
    points = torch.tensor([[0.0, 0, 0], [c, c, 23], [-c, -c, 23]], dtype=torch.float64)
    torch.testing.assert_close(system.drift(points), torch.zeros(3, 3, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(system.step(points), points)
    for x in draw(system):
        assert float(torch.autograd.functional.jacobian(system.drift, x).trace()) == pytest.approx(-(9 + 1 + 2.5))


def test_lorenz63_starts_from_the_law_of_the_reference_experiment():
    x = draw(Lorenz63(), 20000)
    cov = np.array([[64.0, 50, 0], [50, 81, 0], [0, 0, 75]])
    np.testing.assert_allclose(x.mean(0), [0, 0, 25], atol=4 * 9 / math.sqrt(20000))
    np.testing.assert_allclose(np.cov(x.T), cov, atol=4 * 81 * math.sqrt(2 / 20000))


def test_lorenz96_turns_with_the_ring_and_advection_keeps_its_energy():
    system = Lorenz96(n=12, forcing=7.0)
    x = draw(system)
    assert x.shape == (5, 1, 12)
    torch.testing.assert_close(system.step(x.roll(5, -1)), system.step(x).roll(5, -1))
    # d/dt sum u^2 / 2 = -sum u^2 + F sum u: the quadratic terms only move energy about
    torch.testing.assert_close((x * system.drift(x)).sum(-1), -x.square().sum(-1) + 7 * x.sum(-1))
    rest = torch.full((1, 12), 7.0, dtype=torch.float64)
    torch.testing.assert_close(system.drift(rest), torch.zeros_like(rest))
    i = 4
    expected = (x[..., i + 1] - x[..., i - 2]) * x[..., i - 1] - x[..., i] + 7
    torch.testing.assert_close(system.drift(x)[..., i], expected)


def test_lotka_volterra_conserves_its_quantity():
    system = LotkaVolterra(growth=1.1, predation=0.4, conversion=0.3, death=0.6, dt=0.05)
    ds = system.simulate(200, members=4, seed=1)
    prey, predators = np.exp(ds.log_prey), np.exp(ds.log_predators)
    conserved = 0.3 * prey - 0.6 * ds.log_prey + 0.4 * predators - 1.1 * ds.log_predators
    np.testing.assert_allclose(conserved, conserved.isel(time=0).broadcast_like(conserved), rtol=1e-4)
    assert prey.std("time").min() > 0.3  # it does move
    rest = torch.tensor([math.log(0.6 / 0.3), math.log(1.1 / 0.4)], dtype=torch.float64)
    torch.testing.assert_close(system.step(rest), rest)


def test_the_damped_spring_is_the_exact_solution():
    """x'' + c x' + k x = 0 from rest at 1, in closed form."""
    system, k, c = DampedSpring(stiffness=2.0, damping=0.3, dt=0.2, noise=0.0), 2.0, 0.3
    x = torch.tensor([1.0, 0.0], dtype=torch.float64)
    for _ in range(10):
        x = system.step(x)
    w, t = math.sqrt(k - c**2 / 4), 2.0
    position = math.exp(-c * t / 2) * (math.cos(w * t) + c / (2 * w) * math.sin(w * t))
    velocity = -math.exp(-c * t / 2) * k / w * math.sin(w * t)
    assert x.tolist() == pytest.approx([position, velocity])


def test_the_damped_spring_settles_in_its_stationary_law():
    system = DampedSpring()
    cov = scipy.linalg.solve_discrete_lyapunov(system.matrix.numpy(), system.noise**2 * np.eye(2))
    ds = system.simulate(1, members=20000, seed=0)
    sample = np.stack([ds.position.values[:, 0], ds.velocity.values[:, 0]])
    np.testing.assert_allclose(np.cov(sample), cov, atol=4 * cov.max() * math.sqrt(2 / 20000))
    pairs = system.simulate(2, members=20000, seed=1)
    now, then = (np.stack([pairs[v].values[:, i] for v in system.variables]) for i in (0, 1))
    lagged = then @ now.T / 20000
    np.testing.assert_allclose(lagged, system.matrix.numpy() @ cov, atol=4 * cov.max() * math.sqrt(2 / 20000))


@pytest.mark.parametrize(
    "system",
    [DampedSpring(), Lorenz63(), Lorenz96(n=5, noise=0.3), LotkaVolterra(noise=0.05)],
    ids=lambda s: type(s).__name__,
)
def test_transition_density_is_a_product_of_normals(system):
    ds = system.simulate(6, members=3, seed=2, burn_in=10)
    x = system.to_tensor(ds)
    n = math.prod(system.state_shape)
    for m in range(3):
        means = system.step(x[m, :-1]).reshape(5, n).numpy()
        law = multivariate_normal(np.zeros(n), system.noise**2 * np.eye(n))
        expected = law.logpdf(x[m, 1:].reshape(5, n).numpy() - means).sum()
        assert float(system.transition_log_prob(ds)[m]) == pytest.approx(expected)
    alone = system.transition_log_prob(ds.isel(member=1))
    assert alone.dims == ()
    assert float(alone) == pytest.approx(float(system.transition_log_prob(ds)[1]))
    turned = ds.transpose(..., "member").expand_dims(chain=["a", "b"])
    values = system.transition_log_prob(turned)
    xr.testing.assert_allclose(values.sel(chain="b", drop=True), system.transition_log_prob(ds))


def test_mean_transition_density_of_lorenz63():
    """E log p(x_2, ..., x_65 | x_1) = 192 (-log(2 pi 0.025) / 2 - 1/2)."""
    ds = Lorenz63().simulate(65, members=2000, seed=0)
    values = Lorenz63().transition_log_prob(ds)
    expected = 192 * (-math.log(2 * math.pi * 0.025) / 2 - 0.5)
    assert expected == pytest.approx(81.70, abs=0.005)
    assert float(values.mean()) == pytest.approx(expected, abs=4 * math.sqrt(96 / 2000))
    assert float(values.var()) == pytest.approx(96, rel=0.15)  # half the sum of 192 squares


def test_same_seed_same_numbers():
    a, b, c = (Lorenz63().simulate(4, members=2, seed=s, burn_in=3) for s in (5, 5, 6))
    xr.testing.assert_identical(a, b)
    assert abs(a.x - c.x).min() > 1e-6
    xr.testing.assert_equal(
        Lorenz63().simulate(4, seed=5), Lorenz63().simulate(4, members=1, seed=5).isel(member=0, drop=True)
    )


def test_time_is_dt_times_every_and_every_thins():
    system = Lorenz96(n=6, dt=0.01)
    fine = system.simulate(21, members=2, seed=3, burn_in=7)
    thin = system.simulate(5, members=2, seed=3, burn_in=7, every=5)
    np.testing.assert_allclose(thin.time, 0.05 * np.arange(5))
    np.testing.assert_allclose(fine.time, 0.01 * np.arange(21))
    np.testing.assert_array_equal(thin.u, fine.u.isel(time=slice(None, None, 5)))
    later = system.simulate(11, members=2, seed=3, burn_in=17)
    np.testing.assert_array_equal(later.u, fine.u.isel(time=slice(10, None)))


def test_trajectories_are_labelled():
    ds = Lorenz96(n=6).simulate(3, members=2, seed=0, burn_in=0)
    assert ds.u.dims == ("member", "time", "x")
    assert ds.x.attrs["period"] == 6
    assert ds.member.attrs["standard_name"] == "realization"
    assert "simulate(length=3" in ds.attrs["history"]
    np.testing.assert_array_equal(Lorenz96(n=6).to_tensor(ds.transpose("x", ...))[:, :, 0], ds.u)


def test_a_system_of_ones_own_takes_five_lines():
    class Pendulum(DiscreteODE):
        variables = ("angle", "speed")

        def drift(self, x):
            return torch.stack([x[..., 1], -torch.sin(x[..., 0])], -1)

    ds = Pendulum(dt=0.05).simulate(length=200, seed=0)
    energy = ds.speed**2 / 2 - np.cos(ds.angle)
    np.testing.assert_allclose(energy, energy[0], atol=1e-5)
    noisy = Pendulum(dt=0.1, noise=0.01)
    assert np.isfinite(noisy.transition_log_prob(noisy.simulate(20, seed=1)))


def test_the_step_is_differentiable():
    """4D-Var and smoothers need the tangent of the model."""
    for system in (Lorenz63(), Lorenz96(n=5), LotkaVolterra(), DampedSpring()):
        x = draw(system, 2).requires_grad_()
        assert torch.autograd.gradcheck(system.step, x)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Lorenz63(dt=0.0), ValueError, "dt=0.0"),
        (lambda: Lorenz63(noise=-1.0), ValueError, "noise=-1.0"),
        (lambda: Lorenz63(substeps=0), ValueError, "substeps=0"),
        (lambda: Lorenz96(n=3), ValueError, "n=3"),
        (lambda: DampedSpring(damping=0.0), ValueError, "damping=0.0"),
        (lambda: Lorenz63().simulate(0), ValueError, "length=0"),
        (lambda: Lorenz63().simulate(2, every=1.5), ValueError, "every=1.5"),
        (lambda: Lorenz63().simulate(2, burn_in=-1), ValueError, "burn_in=-1"),
        (lambda: Lorenz63().simulate(2, members=0), ValueError, "members=0"),
        (lambda: Lorenz63(dt=0.5).simulate(60), FloatingPointError, "use a smaller dt"),
        (lambda: Lorenz63().transition_log_prob(xr.Dataset()), KeyError, "'x', 'y', 'z'"),
        (
            lambda: Lorenz63(noise=0.0).transition_log_prob(Lorenz63(noise=0.0).simulate(2, burn_in=0)),
            ValueError,
            "deterministic",
        ),
    ],
)
def test_impossible_requests_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()
