"""Members of modes that are seldom met are told from right ones, exactly where posteriors are known."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from xsda.guidance import MMPS
from xsda.likelihood import Likelihood
from xsda.priors.exact import GaussianDenoiser, MixtureDenoiser
from xsda.sampling.blocks import Shared
from xsda.sampling.redraw import LEVEL, ROUNDS, SELDOM, draw_again, judged, modes

N, SEEN, STD = 12, 8, 0.5
EXACT = MMPS(iterations=30, tolerance=1e-10)
TIME = torch.arange(N, dtype=torch.float64)
SMOOTH = torch.exp(
    -(TIME[:, None] - TIME).abs() / 6
)  # of a trajectory of 12 states, of which all but the last 4 are seen


def likelihood(y):
    return Likelihood(lambda x: x.flatten(1)[:, :SEEN], y, torch.full((SEEN,), STD, dtype=torch.float64))


def posterior(mean, cov, y):
    """Mean and covariance of N(mean, cov) given the first states, and log p(y)."""
    total = cov[:SEEN, :SEEN] + STD**2 * torch.eye(SEEN)
    gain = cov[:, :SEEN] @ torch.linalg.inv(total)
    evidence = torch.distributions.MultivariateNormal(mean[:SEEN], total).log_prob(y)
    return mean + gain @ (y - mean[:SEEN]), cov - gain @ cov[:SEEN], evidence


def draw(mean, cov, count, seed=0):
    z = torch.randn(count, N, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (mean + z @ torch.linalg.cholesky(cov).T)[..., None]


def test_members_go_to_their_mode_as_the_proximal_point_method_does():
    """A Gaussian posterior of covariance C: what is left of the way to its mean is (C / (C + s^2))^rounds."""
    prior = GaussianDenoiser.of(torch.zeros(1, N), SMOOTH[None], torch.ones(1), (N, 1)).double()
    y = torch.linspace(-1, 1, SEEN, dtype=torch.float64)
    mean, cov, _ = posterior(torch.zeros(N, dtype=torch.float64), SMOOTH, y)
    x = draw(mean, cov, 5)
    left = torch.linalg.matrix_power(cov @ torch.linalg.inv(cov + LEVEL**2 * torch.eye(N)), ROUNDS)
    expected = mean + (x[..., 0] - mean) @ left.T
    found = modes(x, EXACT.guide(prior, likelihood(y), None))
    assert torch.allclose(found[..., 0], expected, atol=1e-5)


def mixture():
    """Trajectories that go up or down, and have hardly parted where they are seen: one observation, posteriors of both kinds."""
    means = torch.cat([torch.full((SEEN,), 0.7), torch.full((N - SEEN,), 2.0)]).double() * torch.tensor([[-1.0], [1]])
    cov = 0.06 * SMOOTH
    prior = MixtureDenoiser.of(means, cov.expand(2, N, N), torch.ones(2) / 2, (N, 1)).double()
    noise = draw(torch.zeros(N).double(), torch.eye(N).double(), 1, seed=2)[0, :SEEN, 0]
    y = draw(means[1], cov, 1, seed=1)[0, :SEEN, 0] + STD * noise
    return prior, y, [posterior(m, cov, y) for m in means]


def test_what_modes_differ_by_is_known_though_their_members_scatter():
    prior, y, (wrong, right) = mixture()
    x = torch.cat([draw(*right[:2], 40), draw(*wrong[:2], 40, seed=3)])
    seen = likelihood(y)
    settled = seen.deviance(modes(x, EXACT.guide(prior, seen, None)))
    exact = [float(((m[:SEEN] - y) / STD).square().sum()) for m in (right[0], wrong[0])]
    for part, value in zip(settled.split(40), exact, strict=True):
        assert float((part - value).abs().mean()) < 0.15 * (exact[1] - exact[0])
    scatter = [float(c[40:].std()) for c in (settled, seen.deviance(x))]
    assert scatter[0] < 0.25 * scatter[1]
    # the chi-square says less against the worse mode than its evidence: it is further from what the prior expects as well
    assert SELDOM < exact[1] - exact[0] < 2 * float(right[2] - wrong[2])


def test_members_of_a_mode_that_is_seldom_met_are_drawn_again_and_no_others():
    prior, y, (wrong, right) = mixture()
    seen, count = likelihood(y), 30
    x = torch.cat([draw(*right[:2], count), draw(*wrong[:2], count, seed=3)])
    before = x.clone()
    streams = {attempt: draw(*right[:2], 2 * count, seed=10 + attempt) for attempt in (1, 2)}
    drawn = []

    def again(members, attempt):
        drawn.append(members)
        return streams[attempt][members] if attempt else before[members]

    def settle(x):
        return modes(x, EXACT.guide(prior, seen, None))

    draw_again(x, seen, range(2 * count), 2, again, settle, Shared())
    (bad,) = drawn
    assert set(bad) <= set(range(count, 2 * count))
    assert len(bad) > 0.9 * count  # a few are themselves nearer to the observations than their mode is
    before[bad] = streams[1][bad]
    assert torch.equal(x, before)


def test_where_modes_are_alike_none_is_drawn_again():
    """The observations lie in the middle."""
    prior, _, _ = mixture()
    y = torch.zeros(SEEN, dtype=torch.float64)
    parts = [posterior(m.double(), 0.06 * SMOOTH, y) for m in prior.means]
    x = torch.cat([draw(*p[:2], 30, seed=i) for i, p in enumerate(parts)])
    seen = likelihood(y)
    excess, _ = judged(x, seen, range(60), None, lambda x: modes(x, EXACT.guide(prior, seen, None)), Shared())
    assert not excess.any()


@pytest.mark.parametrize(("share", "again", "variance"), [(0.25, 0.0004, 1.0), (1.0, 0.019, 0.994)])
def test_right_members_are_seldom_drawn_again(share, again, variance):
    """A Gaussian posterior of 120 values, whose variance is this share of that of their errors: 1,000 cases of 40 members."""
    generator = torch.Generator().manual_seed(0)
    likelihood = SimpleNamespace(deviance=lambda x: x.square().sum(1), y=torch.zeros(120))
    worse, left = [], []
    for _ in range(1000):
        residual = (1 - share) ** 0.5 * torch.randn(120, generator=generator, dtype=torch.float64)
        z = share**0.5 * torch.randn(40, 120, generator=generator, dtype=torch.float64)
        mode = residual.expand(40, -1)
        excess, _ = judged(residual - z, likelihood, range(40), None, lambda _, mode=mode: mode, Shared())
        kept = excess[8:] == 0
        worse.append(1 - float(kept.double().mean()))
        left.append(float(z[8:][kept].square().mean()) / share)
    assert np.mean(worse) == pytest.approx(again, abs=0.002)
    assert np.mean(left) == pytest.approx(variance, abs=0.002)


@pytest.mark.parametrize(("quick", "careful", "takes_over"), [(0, 0, False), (0, 3, True), (1, 2, False), (1, 3, True)])
def test_first_draws_that_the_observations_exclude_are_compared_with_careful_ones(quick, careful, takes_over):
    """800 values: chi-square of wrong members is 1.3 times its mean, six of its standard deviations above it."""
    n, wrong, right = 800, 1.3**0.5, 0.98**0.5
    likelihood = SimpleNamespace(deviance=lambda x: x.square().sum(1), y=torch.zeros(n))
    drawn, shared = [], Shared()

    def draw(members, attempt):
        drawn.append((members, attempt))
        return torch.stack([torch.full((n,), right if m < (careful if attempt else quick) else wrong) for m in members])

    excess, _ = judged(draw(range(8), 0), likelihood, range(8), draw, lambda x: x, shared, careful=5)
    assert drawn[1:] == [(list(range(8)), 5)]
    assert shared.careful == takes_over
    # if all are alike, sigma or the prior is wrong, and none is drawn again
    assert int((excess == 0).sum()) == (8 if quick + careful == 0 else quick)


@pytest.mark.parametrize(("axes", "batches"), [(1, [[0, 2, 3, 4, 5, 6, 7]]), (2, [[0], [2], [3], [4], [5], [6], [7]])])
def test_missing_first_members_are_drawn_at_once_unless_they_are_fields(axes, batches):
    """One member at a time, as ``chunks={"member": 1}`` asks for: fields may fill the memory."""
    shape, drawn = (6, 1, *(4,) * axes), []
    likelihood = SimpleNamespace(deviance=lambda x: x.flatten(1).square().sum(1), y=torch.zeros(20))

    def draw(members, attempt):
        drawn.append(list(members))
        return torch.ones(len(members), *shape)

    judged(torch.ones(1, *shape), likelihood, [1], draw, lambda x: x, Shared())
    assert drawn == batches
