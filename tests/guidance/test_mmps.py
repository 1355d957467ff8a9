"""The solver of moment matching, and its guards."""

import pytest
import torch

from xsda.diffusion.noise import MemberNoise
from xsda.diffusion.samplers import DPMpp2M
from xsda.guidance import MMPS, Likelihood
from xsda.guidance.solvers import conjugate_gradients
from xsda.priors.exact import GaussianDenoiser


def system(seed=0, members=3, n=6):
    generator = torch.Generator().manual_seed(seed)
    b = torch.randn(members, n, n, generator=generator, dtype=torch.float64)
    a = torch.eye(n) + b @ b.mT
    return a, torch.randn(members, n, generator=generator, dtype=torch.float64)


def product(a):
    return lambda u: (
        ((a - torch.eye(a.shape[-1])) @ u[..., None], None)
        and (
            ((a - torch.eye(a.shape[-1])) @ u[..., None])[..., 0],
            (a @ u[..., None])[..., 0],
        )
    )


def test_solves_to_its_tolerance_and_returns_the_image():
    a, target = system()
    found = conjugate_gradients(product(a), target, None, tolerance=1e-8, iterations=50)
    u, image = found.u, found.image
    torch.testing.assert_close(u, torch.linalg.solve(a, target))
    torch.testing.assert_close(image, product(a)(u)[0])
    loose = conjugate_gradients(product(a), target, None, tolerance=0.1, iterations=50).u
    residual = (target - (a @ loose[..., None])[..., 0]).norm(dim=-1) / target.norm(dim=-1)
    assert bool((residual <= 0.1).all())


def test_a_warm_start_saves_products():
    a, target = system()
    exact = torch.linalg.solve(a, target)
    counts = []
    for start in (None, exact * 1.001):
        calls = []
        conjugate_gradients(
            lambda u, c=calls: c.append(1) or product(a)(u), target, start, tolerance=1e-2, iterations=50
        )
        counts.append(len(calls))
    assert counts[1] == 1 < counts[0]


def test_members_are_solved_on_their_own():
    a, target = system()
    together = conjugate_gradients(product(a), target, None, tolerance=1e-3, iterations=4).u
    alone = conjugate_gradients(product(a[1:2]), target[1:2], None, tolerance=1e-3, iterations=4).u
    torch.testing.assert_close(together[1:2], alone)


@pytest.mark.parametrize("damage", ["negative", "nan"])
def test_a_member_with_a_bad_matrix_stops_and_leaves_the_others(damage):
    a, target = system()
    good = conjugate_gradients(product(a), target, None, tolerance=1e-6, iterations=50).u
    a = a.clone()
    a[1] = -a[1] if damage == "negative" else torch.nan
    found = conjugate_gradients(product(a), target, None, tolerance=1e-6, iterations=50)
    u, image = found.u, found.image
    assert bool(torch.isfinite(u).all())
    assert bool(torch.isfinite(image).all())
    torch.testing.assert_close(u[[0, 2]], good[[0, 2]])


def test_guided_denoiser_equals_the_posterior_mean():
    """E[x_0 | x_t, y] of a Gaussian is known: condition on x_t and y at once."""
    generator = torch.Generator().manual_seed(1)
    b = torch.randn(5, 5, generator=generator)
    cov = b @ b.T + 0.1 * torch.eye(5)
    rows, std = torch.randn(3, 5, generator=generator), torch.tensor([0.2, 0.5, 0.1])
    y = torch.randn(3, generator=generator)
    denoiser = GaussianDenoiser.of(torch.zeros(1, 5), cov[None], torch.ones(1), (5, 1))
    likelihood = Likelihood(lambda x: x.flatten(1) @ rows.T, y, std)
    guided = MMPS(tolerance=1e-5).guide(denoiser, likelihood, None)
    for t in (0.2, 0.5, 0.8):
        t = torch.tensor(t, dtype=torch.float64)
        s = denoiser.schedule.noise_level(t).float()
        x_t = torch.randn(4, 5, 1, generator=generator) * (1 + s)
        all_rows = torch.cat([torch.eye(5), rows])
        noise = torch.diag(torch.cat([s.expand(5) ** 2, std**2]))
        gain = (cov @ all_rows.T @ torch.linalg.inv(all_rows @ cov @ all_rows.T + noise)).T
        expected = torch.cat([x_t.flatten(1), y.expand(4, 3)], 1) @ gain
        torch.testing.assert_close(guided(x_t, t).flatten(1), expected, rtol=2e-3, atol=2e-3)


def test_few_products_a_step(rotation):
    denoiser = rotation[2].denoiser
    likelihood = Likelihood(lambda x: x[:, ::4, 0], torch.zeros(8), torch.full((8,), 0.1))
    guided = MMPS().guide(denoiser, likelihood, None)
    DPMpp2M(steps=32).sample(guided, MemberNoise(0, range(8), (32, 2)))
    assert guided.products <= 4 * 32


@pytest.mark.parametrize("options", [{"tolerance": 0.0}, {"iterations": 0}])
def test_options(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        MMPS(**options)
    with pytest.raises(TypeError):
        MMPS(tolerence=1.0)
