"""Linear systems solved member by member, and their guards."""

import pytest
import torch

from xsda.guidance.solvers import conjugate_gradients, gmres

SOLVERS = [conjugate_gradients, gmres]


def system(members=3, n=6, asymmetry=0.0, dtype=torch.float64):
    """Matrices 1 + B B' (+ an asymmetric part), and targets."""
    generator = torch.Generator().manual_seed(0)
    b = torch.randn(members, n, n, generator=generator, dtype=torch.float64)
    a = torch.eye(n) + b @ b.mT + asymmetry * (b - b.mT)
    return a.to(dtype), torch.randn(members, n, generator=generator, dtype=torch.float64).to(dtype)


class Product:
    """A u, and (A - 1) u as its image; counts."""

    def __init__(self, a):
        self.a, self.count = a, 0

    def __call__(self, u):
        self.count += 1
        applied = (self.a @ u[..., None])[..., 0]
        return applied - u, applied


def left(a, u, target):
    """The true relative residual."""
    return (target - (a @ u[..., None])[..., 0]).norm(dim=-1) / target.norm(dim=-1)


@pytest.mark.parametrize(("solve", "asymmetry"), [(conjugate_gradients, 0.0), (gmres, 0.0), (gmres, 1.0)])
def test_solves_to_its_tolerance_and_returns_the_image(solve, asymmetry):
    a, target = system(asymmetry=asymmetry)
    found = solve(Product(a), target, None, tolerance=1e-8, iterations=50)
    torch.testing.assert_close(found.u, torch.linalg.solve(a, target))
    torch.testing.assert_close(found.image, Product(a)(found.u)[0])
    for tolerance in (0.3, 0.1, 1e-3):
        loose = solve(Product(a), target, None, tolerance=tolerance, iterations=50)
        assert bool((left(a, loose.u, target) <= tolerance).all())
        torch.testing.assert_close(loose.image, Product(a)(loose.u)[0])


@pytest.mark.parametrize("solve", SOLVERS)
@pytest.mark.parametrize("iterations", [1, 3, 50])
@pytest.mark.parametrize("warm", [False, True])
def test_the_residual_is_the_true_one(solve, iterations, warm):
    a, target = system()
    start = (
        torch.linalg.solve(a, target) * torch.tensor([[0.8], [1.3], [-40.0]]) if warm else None
    )  # the last is no help
    found = solve(Product(a), target, start, tolerance=1e-6, iterations=iterations)
    torch.testing.assert_close(found.residual, left(a, found.u, target), rtol=1e-5, atol=1e-12)
    torch.testing.assert_close(found.image, Product(a)(found.u)[0])


@pytest.mark.parametrize("solve", SOLVERS)
def test_a_warm_start_saves_products(solve):
    a, target = system()
    products = [Product(a), Product(a)]
    for product, start in zip(products, (None, torch.linalg.solve(a, target) * 1.001), strict=True):
        solve(product, target, start, tolerance=1e-2, iterations=50)
    assert products[1].count == 1 < products[0].count


@pytest.mark.parametrize("solve", SOLVERS)
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_units_of_the_target_do_not_matter(solve, scale):
    a, target = system()
    one, other = (solve(Product(a), c * target, None, tolerance=1e-3, iterations=50) for c in (1, scale))
    torch.testing.assert_close(other.u, scale * one.u, rtol=1e-9, atol=0)
    torch.testing.assert_close(other.residual, one.residual, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("solve", SOLVERS)
@pytest.mark.parametrize("warm", [False, True])
def test_members_are_solved_on_their_own(solve, warm):
    """The easy member stops where it would stop alone, however long its batch mates take."""
    a, target = system()
    a[1] = torch.eye(6) + 0.05 * a[1]
    start = 0.9 * torch.linalg.solve(a, target) if warm else None
    together = solve(Product(a), target, start, tolerance=0.02, iterations=50)
    for i in range(3):
        own = slice(i, i + 1)
        alone = solve(Product(a[own]), target[own], start[own] if warm else None, tolerance=0.02, iterations=50)
        torch.testing.assert_close(together.u[own], alone.u)
        torch.testing.assert_close(together.image[own], alone.image)


@pytest.mark.parametrize("solve", SOLVERS)
@pytest.mark.parametrize("damage", ["negative", "nan", "start"])
def test_a_member_with_a_bad_matrix_leaves_the_others(solve, damage):
    a, target = system()
    good = solve(Product(a), target, None, tolerance=1e-6, iterations=50)
    bad, start = a.clone(), None
    if damage == "start":
        start = torch.zeros_like(target)
        start[1] = torch.nan
    else:
        bad[1] = -a[1] if damage == "negative" else torch.nan
    found = solve(Product(bad), target, start, tolerance=1e-6, iterations=50)
    for value in (found.u, found.image, found.residual):
        assert bool(torch.isfinite(value).all())
    torch.testing.assert_close(found.u[[0, 2]], good.u[[0, 2]])
    if damage == "nan":
        torch.testing.assert_close(found.u[1], torch.zeros(6, dtype=torch.float64))  # no update rather than a wrong one
        assert float(found.residual[1]) == pytest.approx(1)
    if damage == "start":
        torch.testing.assert_close(found.u[1], good.u[1])  # as if there were none


def test_gmres_bears_what_stops_conjugate_gradients():
    """A rotation by more than a right angle has no positive curvature anywhere."""
    turn = torch.tensor([[-0.5, -0.9], [0.9, -0.5]], dtype=torch.float64)[None]
    target = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    stopped = conjugate_gradients(Product(turn), target, None, tolerance=1e-6, iterations=10)
    assert float(stopped.residual) == 1
    solved = gmres(Product(turn), target, None, tolerance=1e-6, iterations=10)
    torch.testing.assert_close(solved.u, torch.linalg.solve(turn, target))


@pytest.mark.parametrize("solve", SOLVERS)
def test_nothing_to_solve(solve):
    a, target = system()
    found = solve(Product(a), torch.zeros_like(target), None, tolerance=1e-3, iterations=5)
    for value in (found.u, found.image):
        torch.testing.assert_close(value, torch.zeros_like(target))
    exact = torch.linalg.solve(a, target)
    product = Product(a)
    again = solve(product, target, exact, tolerance=1e-3, iterations=5)
    assert product.count == 1
    torch.testing.assert_close(again.u, exact)
    torch.testing.assert_close(again.image, Product(a)(exact)[0])


@pytest.mark.parametrize("solve", SOLVERS)
def test_single_precision_with_errors_far_below_the_spread(solve):
    """sigma a thousandth of the prior's spread: eigenvalues from 1 to 1e6."""
    generator = torch.Generator().manual_seed(2)
    rows = torch.randn(2, 4, 30, generator=generator)
    a = torch.eye(4) + 1e6 * rows @ rows.mT / 30
    target = torch.randn(2, 4, generator=generator)
    found = solve(Product(a), target, None, tolerance=0.03, iterations=20)
    assert bool((left(a.double(), found.u.double(), target.double()) < 0.04).all())


@pytest.mark.parametrize("solve", SOLVERS)
@pytest.mark.parametrize("iterations", [3, 20])
def test_what_is_found_is_never_worse_than_nothing(solve, iterations):
    """With a matrix that is far from symmetric conjugate gradients run away; what they passed on the way counts."""
    a, target = system(n=20, asymmetry=5.0)
    found = solve(Product(a), target, None, tolerance=1e-6, iterations=iterations)
    true = left(a, found.u, target)
    assert bool((true <= 1).all())
    torch.testing.assert_close(found.residual, true, rtol=1e-5, atol=1e-12)
    torch.testing.assert_close(found.image, Product(a)(found.u)[0])
