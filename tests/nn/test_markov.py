"""The score of a long linear-Gaussian trajectory, composed from exact windows."""

import math

import pytest
import torch
from torch import nn

from xsda.diffusion.denoisers import Denoiser
from xsda.diffusion.samplers import DDIM, time_grid
from xsda.diffusion.schedules import VP
from xsda.nn import MarkovNet, WindowMLP, compose_windows
from xsda.priors.exact import GaussianDenoiser

LENGTH = 33


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def covariance(a, length=LENGTH, angle=0.3):
    """Of x_{i+1} = a R x_i + sqrt(1 - a^2) noise, with R a rotation and unit variance; ordered (time, component)."""
    turn = a * torch.tensor(
        [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]], dtype=torch.float64
    )
    powers = [torch.linalg.matrix_power(turn, i) for i in range(length)]
    rows = [torch.cat([powers[i - j] if i >= j else powers[j - i].T for j in range(length)], 1) for i in range(length)]
    return torch.cat(rows)


def exact(cov):
    values, vectors = torch.linalg.eigh(cov)
    one, zeros = torch.ones(1, dtype=torch.float64), torch.zeros(1, len(cov), dtype=torch.float64)
    return GaussianDenoiser(zeros, values[None], vectors[None], one, torch.tensor((len(cov) // 2, 2)), VP())


class Composed(Denoiser):
    """Exact denoisers of windows of 2 * order + 1 states, composed."""

    def __init__(self, a, order, windows=None):
        super().__init__()
        self.window, self.schedule, self.order, self.windows = exact(covariance(a, 2 * order + 1)), VP(), order, windows

    def forward(self, x_t, t):
        def local(x, level, context):
            return self.window(x, self.schedule.time(level.exp()))

        log_noise = self.schedule.noise_level(t).log()
        return compose_windows(local, x_t, log_noise, None, order=self.order, windows=self.windows)


def score_matrix(denoiser, t):
    """The matrix of a linear score."""
    n = 2 * LENGTH
    basis = torch.eye(n, dtype=torch.float64).reshape(n, LENGTH, 2)
    return denoiser.score(basis, t).reshape(n, n).T


@pytest.mark.parametrize("a", [0.9, 0.99])
@pytest.mark.parametrize("level", [0.01, 0.5, 20.0])
def test_a_window_over_the_whole_trajectory_gives_the_exact_score(a, level):
    t = VP().time(torch.tensor(level, dtype=torch.float64))
    alpha, sigma = VP().alpha(t), VP().sigma(t)
    expected = -torch.linalg.inv(alpha**2 * covariance(a) + sigma**2 * torch.eye(2 * LENGTH, dtype=torch.float64))
    torch.testing.assert_close(score_matrix(Composed(a, 16), t), expected, rtol=1e-7, atol=1e-7 / float(sigma) ** 2)


@pytest.mark.parametrize("order", [1, 3])
def test_without_noise_any_window_gives_the_exact_score_of_a_markov_chain(order):
    t = VP().time(torch.tensor(1e-3, dtype=torch.float64))
    precision = torch.linalg.inv(covariance(0.9) + 1e-6 * torch.eye(2 * LENGTH, dtype=torch.float64))
    torch.testing.assert_close(score_matrix(Composed(0.9, order), t), -precision, rtol=1e-3, atol=1e-3)


def test_centres_come_from_their_window_and_the_ends_from_the_first_and_the_last():
    def local(x, level, context):
        """Name the window by its first state and the place in it."""
        return x[:, :1] * 100 + torch.arange(x.shape[1])[None, :, None]

    x = torch.arange(7.0)[None, :, None]
    out = compose_windows(local, x, torch.tensor(0.0), None, order=2)
    assert out.flatten().tolist() == [0, 1, 2, 102, 202, 203, 204]


def divergence(sampled, truth):
    """KL(sampled || truth) of two centred Gaussians, per number."""
    n = len(truth)
    ratio = torch.linalg.solve(truth, sampled)
    return float((torch.trace(ratio) - n - torch.linalg.slogdet(ratio)[1]) / (2 * n))


@pytest.mark.parametrize(
    ("a", "order", "published"),
    [
        (0.9, 1, 0.26), (0.9, 2, 0.077), (0.9, 4, 0.015), (0.9, 8, 0.0013),
        (0.99, 1, 2.8), (0.99, 2, 0.93), (0.99, 4, 0.25), (0.99, 8, 0.042),
    ],
)  # fmt: skip
def test_the_unconditional_law_of_composed_windows_is_as_far_off_as_known(a, order, published):
    """256 deterministic steps, uniform in t, of the paper's schedule: a linear map, whose law is known exactly."""
    n = 2 * LENGTH
    times = time_grid(VP(), 257, "linear")
    basis = torch.eye(n, dtype=torch.float64).reshape(n, LENGTH, 2)
    end = DDIM().integrate(Composed(a, order), basis, times, draw=lambda: basis).flatten(1)
    assert divergence(end.T @ end, covariance(a)) == pytest.approx(published, rel=0.03)


def test_longer_windows_compose_better_up_to_the_exact_law():
    n = 2 * LENGTH
    times = time_grid(VP(), 257, "linear")
    basis = torch.eye(n, dtype=torch.float64).reshape(n, LENGTH, 2)

    def law(denoiser):
        end = DDIM().integrate(denoiser, basis, times, draw=lambda: basis).flatten(1)
        return end.T @ end

    truth = law(exact(covariance(0.9)))
    distances = [divergence(law(Composed(0.9, order)), truth) for order in (3, 6, 12, 16)]
    assert distances == sorted(distances, reverse=True)
    assert abs(distances[-1]) < 1e-9


@pytest.mark.parametrize("windows", [1, 4, 7, 1000])
def test_groups_of_windows_change_nothing(windows):
    torch.manual_seed(0)
    net = MarkovNet(WindowMLP(2, 5, width=8, depth=1, features=6, context=1), 2, windows=None).double()
    x, context = torch.randn(3, 9, 2, dtype=torch.float64), torch.randn(3, 9, 1, dtype=torch.float64)
    levels = torch.randn(3, dtype=torch.float64)
    cotangent, results = torch.randn_like(x), []
    for count in (None, windows):
        net.windows, leaf = count, x.clone().requires_grad_()
        out = net(leaf, levels, context)
        results.append((out, *torch.autograd.grad(out, [leaf, *net.parameters()], cotangent)))
        with torch.no_grad():
            torch.testing.assert_close(net(x, levels, context), out)
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


def test_context_and_noise_level_follow_their_window():
    class Local(nn.Module):
        def forward(self, x, log_noise, context):
            return x + 10 * context + 100 * log_noise.reshape(-1, 1, 1)

    net, x = MarkovNet(Local(), 1), torch.randn(2, 6, 1)
    context, levels = torch.randn(2, 6, 1), torch.tensor([1.0, 2.0])
    torch.testing.assert_close(net(x, levels, context), x + 10 * context + 100 * levels[:, None, None])
    torch.testing.assert_close(net(x, levels[0], context[:1, :1]), x + 10 * context[:1, :1] + 100)


def test_a_short_trajectory_is_refused_with_its_size():
    net = MarkovNet(WindowMLP(1, 5), 2)
    with pytest.raises(ValueError, match="the trajectory has 4 states, but the window of this prior has 5"):
        net(torch.zeros(1, 4, 1), torch.tensor(0.0))
    assert net(torch.zeros(1, 5, 1), torch.tensor(0.0)).shape == (1, 5, 1)
    with pytest.raises(ValueError, match="order=0"):
        MarkovNet(nn.Identity(), 0)
