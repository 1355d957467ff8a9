"""Every guidance method against its own formula, on small Gaussians where all terms are known."""

import re
import warnings

import numpy as np
import pytest
import torch
import xarray as xr
from scipy.optimize import minimize

import xsda
from xsda.diffusion.error import ErrorCurve
from xsda.diffusion.noise import MemberNoise
from xsda.diffusion.samplers import DDIM, DPMpp2M
from xsda.diffusion.schedules import VE
from xsda.guidance import DPS, GUIDANCE, MMPS, TMPD, Calibrated, GaussianScore, PiGDM, Projection, Proximal, Scaling
from xsda.likelihood import Group, Huber, Likelihood, StudentT
from xsda.likelihood.whitening import Cholesky, Whitening
from xsda.priors.exact import GaussianDenoiser, MixtureDenoiser

SCHEDULE = VE(sigma_min=1e-3, sigma_max=100.0)
N = 6
GENERATOR = torch.Generator().manual_seed(5)
ROOT = torch.randn(N, N, generator=GENERATOR, dtype=torch.float64)
COV = ROOT @ ROOT.T / N + 0.2 * torch.eye(N, dtype=torch.float64)
WHITE = torch.eye(N, dtype=torch.float64)
ROWS = torch.tensor(  # a number, an average of all, an average of a block, a difference
    [[1.0, 0, 0, 0, 0, 0], [1 / 6] * 6, [0, 0.5, 0.5, 0, 0, 0], [0, 0, 0, 1, -1, 0]], dtype=torch.float64
)
STD = torch.tensor([0.3, 0.1, 0.5, 1.0], dtype=torch.float64)
Y = torch.tensor([0.7, -0.4, 1.5, -2.0], dtype=torch.float64)
LEVELS = torch.logspace(-3, 2, 200, dtype=torch.float64)
RMS = (LEVELS / torch.sqrt(1 + LEVELS**2))[:, None]
CURVE = ErrorCurve(LEVELS, RMS, torch.full_like(RMS, 0.6))
TIMES = [0.35, 0.6, 0.85]  # noise levels 0.06, 1 and 18


def gaussian(cov):
    parts = torch.zeros(1, len(cov)), cov[None], torch.ones(1), (len(cov), 1)
    return GaussianDenoiser.of(*parts, SCHEDULE).double()


def linear(rows=ROWS, y=Y, std=STD, **options):
    return Likelihood(lambda x: x.flatten(1) @ rows.T, y, std, **options)


def state(t, members=3):
    """(x_t, noise level) for a time."""
    t = torch.tensor(t, dtype=torch.float64)
    s = SCHEDULE.noise_level(t)
    generator = torch.Generator().manual_seed(11)
    return t, s, torch.randn(members, N, 1, generator=generator, dtype=torch.float64) * torch.sqrt(1 + s**2)


def moments(cov, s, x):
    """E[x_0 | x_t] and Cov[x_0 | x_t], for alpha = 1."""
    gain = cov @ torch.linalg.inv(cov + s**2 * torch.eye(N))
    return x.flatten(1) @ gain.T, s**2 * gain


def posterior(mean, cov, y=Y, rows=ROWS, std=STD):
    """The mean of N(mean, cov) given y = rows x + error."""
    gain = cov @ rows.T @ torch.linalg.inv(rows @ cov @ rows.T + torch.diag(std**2))
    return mean + (y - mean @ rows.T) @ gain.T


@pytest.mark.parametrize("time", TIMES)
def test_dps_is_its_formula_with_the_norm_of_each_member(time):
    t, s, x = state(time)
    mean, cov = moments(COV, s, x)
    innovation = Y - mean @ ROWS.T
    expected = mean + 2 * 0.7 * innovation / innovation.norm(dim=1, keepdim=True) @ ROWS @ cov
    torch.testing.assert_close(DPS(zeta=0.7).guide(gaussian(COV), linear(), None)(x, t).flatten(1), expected, rtol=1e-5, atol=1e-5)  # fmt: skip


def test_dps_survives_a_perfect_fit():
    t, s, x = state(0.6, members=1)
    y = (moments(COV, s, x)[0] @ ROWS.T)[0]
    guided = DPS().guide(gaussian(COV), Likelihood(linear().operator, y, STD), None)
    assert bool(torch.isfinite(guided(x, t)).all())


@pytest.mark.parametrize("time", TIMES)
def test_pigdm_is_exact_for_white_noise(time):
    """s^2 / (1 + s^2) is then the variance of x_0 given x_t, whatever H averages."""
    t, s, x = state(time)
    guided = PiGDM().guide(gaussian(WHITE), linear(), None)
    torch.testing.assert_close(guided(x, t).flatten(1), posterior(*moments(WHITE, s, x)), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("time", TIMES)
def test_pigdm_is_its_formula(time):
    t, s, x = state(time)
    mean, cov = moments(COV, s, x)
    matrix = torch.diag(STD**2) + s**2 / (1 + s**2) * ROWS @ ROWS.T
    expected = mean + (Y - mean @ ROWS.T) @ torch.linalg.inv(matrix) @ ROWS @ cov
    guided = PiGDM().guide(gaussian(COV), linear(), None)
    torch.testing.assert_close(guided(x, t).flatten(1), expected, rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize("time", TIMES)
def test_projection_is_the_posterior_mean_under_a_white_error(time):
    t, s, x = state(time)
    mean, _ = moments(COV, s, x)
    expected = posterior(mean, s**2 / (1 + s**2) * WHITE)
    guided = Projection().guide(gaussian(COV), linear(), None)
    torch.testing.assert_close(guided(x, t).flatten(1), expected, rtol=2e-3, atol=2e-3)


def test_projection_replaces_points_observed_without_error():
    """The picture that RePaint is of: where there are data, they are put in; elsewhere nothing happens."""
    t, s, x = state(0.6)
    rows, y = WHITE[:2], torch.tensor([3.0, -1.0], dtype=torch.float64)
    guided = Projection().guide(gaussian(COV), linear(rows, y, torch.full((2,), 1e-4, dtype=torch.float64)), None)
    expected = moments(COV, s, x)[0]
    expected[:, :2] = y
    torch.testing.assert_close(guided(x, t).flatten(1), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("guidance", [Projection(), Proximal()])
def test_no_backward_pass(guidance):
    class Opaque(GaussianDenoiser):
        def forward(self, x_t, t):
            return super().forward(x_t, t).detach()

    denoiser = Opaque.of(torch.zeros(1, N), COV[None], torch.ones(1), (N, 1), SCHEDULE).double()
    t, _, x = state(0.6)
    with_graph = guidance.guide(gaussian(COV), linear(), None)(x, t)
    torch.testing.assert_close(guidance.guide(denoiser, linear(), None)(x, t), with_graph)


OPERATORS = {
    "linear": lambda x: x @ ROWS.T.to(x),
    "squares": lambda x: x[:, :4] ** 2,
    "smooth absolute values": lambda x: (x[:, :4] ** 2 + 0.3).sqrt(),
    "products": lambda x: x[:, :4] * x[:, 1:5],
}


@pytest.mark.parametrize("strength", [0.5, 2.0])
@pytest.mark.parametrize("name", OPERATORS)
def test_proximal_solves_its_minimisation(name, strength):
    t, s, x = state(0.58)
    operator = OPERATORS[name]
    mean = moments(COV, s, x)[0]
    y = operator(mean[:1] * 1.3 + 0.2)[0]
    likelihood = Likelihood(lambda x: operator(x.flatten(1)), y, STD, linear=name == "linear")
    guided = Proximal(strength=strength, iterations=30).guide(gaussian(COV), likelihood, None)
    for got, x0 in zip(guided(x, t).flatten(1), mean, strict=True):

        def cost(z, x0=x0):
            z = torch.as_tensor(z).requires_grad_()
            misfit = ((y - operator(z[None])[0]) / STD).square().sum()
            total = misfit + strength / s**2 * (z - x0).square().sum()
            return float(total.detach()), torch.autograd.grad(total, z)[0].numpy()

        best = minimize(cost, x0.numpy(), jac=True, options={"gtol": 1e-10})
        np.testing.assert_allclose(got, best.x, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("time", TIMES)
def test_tmpd_takes_row_sums_for_variances(time):
    t, s, x = state(time)
    cov_of_ones = COV.abs()  # positive row sums, as for fields that vary together
    mean, cov = moments(cov_of_ones, s, x)
    rows, y = ROWS[:3], Y[:3]
    sums = (rows @ cov @ rows.T).sum(1)
    assert bool((sums > 0).all())
    expected = mean + (y - mean @ rows.T) / (STD[:3] ** 2 + sums) @ rows @ cov
    guided = TMPD().guide(gaussian(cov_of_ones), linear(rows, y, STD[:3]), None)
    torch.testing.assert_close(guided(x, t).flatten(1), expected, rtol=1e-5, atol=1e-5)


def test_tmpd_never_takes_a_negative_variance():
    t, s, x = state(0.6)
    cov = torch.eye(N, dtype=torch.float64)
    cov[0, 1] = cov[1, 0] = -0.9
    rows, std, y = torch.stack([3 * cov.new_tensor([1.0, 0, 0, 0, 0, 0]), cov.new_tensor([0, 9.0, 0, 0, 0, 0])]), STD[:2], Y[:2]  # fmt: skip
    mean, v = moments(cov, s, x)
    sums = (rows @ v @ rows.T).sum(1)
    assert float(sums[0]) < 0 < float(sums[1])
    expected = mean + (y - mean @ rows.T) / (std**2 + sums.clamp(min=0)) @ rows @ v
    guided = TMPD().guide(gaussian(cov), linear(rows, y, std), None)
    torch.testing.assert_close(guided(x, t).flatten(1), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rho", [0.0, 0.6, -0.3])
@pytest.mark.parametrize("time", TIMES)
def test_calibrated_takes_neighbouring_errors_for_correlated(time, rho, monkeypatch):
    """(D + R)^-1 d, D = diag(r^2 H C H'), times the factor that minimises the energy of what is left, at most one.

    C_ij = rho^|i - j|; errors of neighbours are never taken for opposite ones.
    """
    monkeypatch.setattr("xsda.guidance.calibrated.PATTERNS", 200_000)
    t, s, x = state(time)
    mean, cov = moments(COV, s, x)
    n = torch.arange(N)
    own = s**2 / (1 + s**2) * ROWS @ (max(rho, 0.0) ** (n[:, None] - n).abs().double()) @ ROWS.T
    innovation = Y - mean @ ROWS.T
    weight = innovation / (STD**2 + own.diagonal())
    energy = torch.einsum("bi,ij,bj->b", weight, own + torch.diag(STD**2), weight)
    factor = ((weight * innovation).sum(1) / energy).clamp(max=1)
    assert (rho, time) != (0.6, 0.6) or float(factor.min()) < 0.95
    curve = ErrorCurve(LEVELS, RMS, torch.full_like(RMS, rho))
    guided = Calibrated(limit=1e3).guide(gaussian(COV), linear(), curve)
    expected = mean + factor[:, None] * weight @ ROWS @ cov
    torch.testing.assert_close(guided(x, t).flatten(1), expected, rtol=0.01, atol=0.01)


@pytest.mark.parametrize("lag", [True, False])
@pytest.mark.parametrize("time", TIMES)
def test_calibrated_takes_correlated_errors_of_observations_as_they_are(time, lag, monkeypatch):
    """(R + D)^-1 d with the whole R: three observations are correlated and whitened, the last is not."""
    monkeypatch.setattr("xsda.guidance.calibrated.PATTERNS", 200_000)
    monkeypatch.setattr("xsda.guidance.calibrated.TOLERANCE", 1e-6)
    t, s, x = state(time)
    mean, cov = moments(COV, s, x)
    correlation = torch.eye(4, dtype=torch.float64)
    n = torch.arange(3)
    correlation[:3, :3] = 0.9 ** (n[:, None] - n).abs().double()
    r = correlation * STD[:, None] * STD
    n = torch.arange(N)
    inside = 0.6 ** (n[:, None] - n).abs().double() if lag else torch.ones(N, N, dtype=torch.float64)
    own = s**2 / (1 + s**2) * ROWS @ inside @ ROWS.T
    if not lag:  # unknown: the safe side, errors that are shared or independent
        own = s**2 / (1 + s**2) * torch.diag(torch.maximum(ROWS.sum(1) ** 2, ROWS.square().sum(1)))
        own[3, 3] = 0  # a difference, which an error that all share does not touch
    innovation = Y - mean @ ROWS.T
    weight = innovation @ torch.linalg.inv(r + torch.diag(own.diagonal()))
    if lag:
        energy = torch.einsum("bi,ij,bj->b", weight, own + r, weight)
        weight = ((weight * innovation).sum(1) / energy).clamp(max=1)[:, None] * weight
    white = Whitening([(0, 3, STD[:3], Cholesky(torch.linalg.cholesky(correlation[:3, :3])))])
    std = torch.tensor([1.0, 1, 1, STD[3]]).double()
    likelihood = Likelihood(linear().operator, white.whiten(Y[None])[0], std, whitening=white)
    curve = ErrorCurve(LEVELS, RMS, torch.full_like(RMS, 0.6) if lag else None)
    found = Calibrated(limit=1e3).guide(gaussian(COV), likelihood, curve)(x, t)
    torch.testing.assert_close(found.flatten(1), mean + weight @ ROWS @ cov, rtol=0.01, atol=0.01)


@pytest.fixture(scope="module")
def smooth_errors():
    """900 points of one state, observed with errors that are correlated over half the field: (grid, prior, observations)."""
    d = np.abs(np.subtract.outer(np.arange(30.0), np.arange(30.0)))
    grid = xr.Dataset(
        {"u": (("time", "y", "x"), np.zeros((2, 30, 30)))},
        {"time": [0.0, 1.0], "y": np.arange(30.0), "x": np.arange(30.0)},
    )
    prior = xsda.GaussianPrior.separable(grid, np.eye(2) / 2 + 0.5, np.exp(-d / 6), np.exp(-d / 6))
    return grid, prior, grid.isel(time=[0]) + 1.0, np.kron(np.exp(-d / 15), np.exp(-d / 15))


@pytest.mark.parametrize("own", [1e-4, 1e-3, 0.01, 0.1, 1.0, 1e3])
def test_many_correlated_errors_are_solved_at_every_noise_level(smooth_errors, own):
    """(R + D) w = d for errors of the prior far below and far above those of the observations, whose matrix is ill-conditioned."""
    correlation = torch.as_tensor(smooth_errors[-1])
    lower = Cholesky(torch.as_tensor(np.linalg.cholesky(correlation)))
    white = Whitening([(0, 900, torch.full((900,), 0.3).double(), lower)])
    ones = torch.ones(900).double()
    likelihood = Likelihood(lambda x: x.flatten(1), 0 * ones, ones, whitening=white)
    guided = Calibrated().guide(gaussian(COV), likelihood, ErrorCurve(LEVELS, RMS))
    generator = torch.Generator().manual_seed(0)
    d = torch.randn(2, 900, dtype=torch.float64, generator=generator)
    diagonal = own * (0.5 + torch.rand(2, 900, dtype=torch.float64, generator=generator))
    diagonal[1] *= 100  # members of one batch may differ
    one = torch.ones_like(d)
    found = guided._solved(white.whiten(d), one, one, diagonal)
    dense = 0.09 * correlation.numpy()
    right = torch.stack(
        [torch.as_tensor(np.linalg.solve(dense + np.diag(m), v)) for m, v in zip(diagonal, d, strict=True)]
    )
    assert guided.complaint() is None
    error = (white.spread_back(found) - right).norm(dim=1) / right.norm(dim=1)
    assert error.max() < 0.02


def test_a_whitener_without_inverse_is_told_of_where_it_is_not_solved(smooth_errors):
    grid, prior, obs, correlation = smooth_errors
    lower = np.linalg.cholesky(correlation)

    class Own:
        def whiten(self, values):
            return torch.linalg.solve_triangular(torch.as_tensor(lower).to(values), values.mT, upper=False).mT

    options = {"members": 2, "steps": 8, "sigma": 0.3, "guidance": "calibrated", "progress": False}
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        grid.sda.assimilate(obs, prior, correlation={"u": correlation}, **options)
    with pytest.warns(
        RuntimeWarning, match="solves with correlated errors of observations stopped at a relative residual"
    ):
        grid.sda.assimilate(obs, prior, correlation={"u": Own()}, **options)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.95])
@pytest.mark.parametrize("linear", [True, False])
def test_the_error_of_an_average_is_that_of_correlated_errors(rho, linear):
    """Of single numbers exactly; of means over n neighbours r^2 / n^2 times the sum of rho^|i - j|; of differences 2 r^2 (1 - rho)."""
    n, size = 8, 256  # means of n, and many of them, so that the estimates average out

    def operator(x):
        x = x[:, 0, 0]
        return torch.cat([x, x.unflatten(-1, (-1, n)).mean(-1), x[:, 1:] - x[:, :-1]], 1)

    likelihood = Likelihood(operator, torch.zeros(2 * size + size // n - 1), torch.ones(1), linear=linear)
    curve = ErrorCurve(LEVELS, 0.3 * torch.ones_like(RMS), torch.tensor([0.0, rho]).expand(len(LEVELS), 2))
    guided = Calibrated().guide(gaussian(COV), likelihood, curve)
    own = guided.own_variance(torch.zeros(2, 1, 1, size, dtype=torch.float64), torch.tensor(0.5)) / 0.09
    mean, change = (part.mean() for part in own[1, size:].split([size // n, size - 1]))
    lags = torch.arange(n)
    torch.testing.assert_close(own[0, :size], torch.ones(size, dtype=torch.float64))
    assert float(mean) == pytest.approx(float((rho ** (lags[:, None] - lags).abs().double()).mean()), rel=0.2)
    assert float(change) == pytest.approx(2 * (1 - rho), rel=0.2)


@pytest.mark.parametrize("copies", [1, 10, 100])
def test_copies_of_an_observation_pull_as_one(copies):
    """m observations of the same error with variance m sigma^2 say what one of sigma^2 says."""
    t, s, x = state(0.6)
    mean, cov = moments(COV, s, x)
    row, std = torch.tensor([[0.0, 0, 1, 0, 0, 0]], dtype=torch.float64), torch.tensor([0.1], dtype=torch.float64)
    many = linear(row.expand(copies, N), Y[:1].expand(copies), (std * copies**0.5).expand(copies))
    curve = ErrorCurve(LEVELS, RMS, torch.full_like(RMS, 0.5))
    guided = Calibrated(limit=1e3).guide(gaussian(COV), many, curve)
    gain = 1 / (std**2 + s**2 / (1 + s**2))
    expected = mean + gain * (Y[0] - mean @ row.T) @ row @ cov
    torch.testing.assert_close(guided(x, t).flatten(1), expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("time", TIMES)
def test_known_states_do_not_weaken_observations(time):
    """Two blocks, each of copies of one number with correlated errors, solve the two by two system of the numbers."""
    rho, std = 0.5, torch.tensor([0.1, 0.02], dtype=torch.float64)
    t, s, x = state(time)
    mean, cov = moments(COV, s, x)
    rows = torch.eye(N, dtype=torch.float64)[[0, 1]]  # neighbours in time
    d = torch.tensor(
        [[0.9, 0.7], [1.0, 1.0], [-0.6, -0.8]], dtype=torch.float64
    )  # of each member; no factor is negative
    y = mean @ rows.T + d
    copied = [
        linear(row.expand(40, N), y[:, [i]].expand(3, 40), (std[i] * 40**0.5).expand(40)) for i, row in enumerate(rows)
    ]
    curve = ErrorCurve(LEVELS, RMS, torch.full_like(RMS, rho))
    guided = Calibrated(limit=1e6).guide(gaussian(COV), copied[0].joined(copied[1]), curve)
    error = s**2 / (1 + s**2)
    system = torch.diag(std**2) + error * torch.tensor([[1, rho], [rho, 1]], dtype=torch.float64)
    expected = mean + d @ torch.linalg.inv(system) @ rows @ cov
    torch.testing.assert_close(guided(x, t).flatten(1), expected, rtol=1e-3, atol=1e-3)


# --- MMPS ---


@pytest.mark.parametrize("solver", ["cg", "gmres"])
@pytest.mark.parametrize("time", TIMES)
def test_mmps_is_exact_for_a_gaussian_prior(time, solver):
    t, s, x = state(time)
    mean, cov = moments(COV, s, x)
    inverse = torch.linalg.inv(torch.diag(STD**2) + ROWS @ cov @ ROWS.T)
    expected = mean + (Y - mean @ ROWS.T) @ inverse @ ROWS @ cov
    guided = MMPS(solver=solver, tolerance=1e-6).guide(gaussian(COV), linear(), CURVE)
    torch.testing.assert_close(guided(x, t).flatten(1), expected, rtol=1e-4, atol=1e-4)
    assert guided.complaint() is None


@pytest.mark.parametrize("law", [None, StudentT(), Huber()])
@pytest.mark.parametrize("time", TIMES)
def test_calibrated_weighs_each_observation_by_its_own_variance(time, law):
    """Without correlations of errors: by the site of the law, an innovation of at most ``limit`` deviations."""
    t, s, x = state(time)
    groups = () if law is None else (Group(2, "a"), Group(2, "b", law))
    likelihood = Likelihood(linear().operator, Y * 20, STD, groups=groups)  # innovations that the limit cuts
    alone = ErrorCurve(LEVELS, RMS)  # without the correlation of errors
    guided = Calibrated(limit=3).guide(gaussian(COV), likelihood, alone)
    mean, cov = moments(COV, s, x)
    own = linear().spread(torch.zeros(1, N, 1, dtype=torch.float64), CURVE(s))[0].double() ** 2
    innovation, variance = likelihood.sites(mean @ ROWS.T, own.expand(len(x), -1), 3.0)
    expected = mean + (innovation / (variance + own)) @ ROWS @ cov
    torch.testing.assert_close(guided(x, t).flatten(1), expected, rtol=1e-5, atol=1e-6)
    free = Calibrated(limit=1e6).guide(gaussian(COV), likelihood, alone)(x, t)
    assert float((free - guided(x, t)).abs().max()) > 0.01


def test_mmps_says_what_its_solves_left():
    t, _, x = state(0.6)
    guided = MMPS(iterations=1, tolerance=1e-4).guide(gaussian(COV), linear(), None)
    guided(x, t)
    assert guided.residual > 1e-4
    assert f"{guided.residual:.2g}" in guided.complaint()
    assert "tolerance=0.0001" in guided.complaint()


@pytest.mark.parametrize("kind", [PiGDM, Projection, Proximal])
def test_solves_that_stop_early_are_told_of(kind, monkeypatch):
    monkeypatch.setattr("xsda.guidance.pigdm.ITERATIONS", 1)
    t, _, x = state(0.6)
    guided = kind().guide(gaussian(COV), linear(), CURVE)
    assert guided.complaint() is None
    guided.evaluate(x, t)
    text = f"the solves of {kind.__name__} stopped at a relative residual of up to .*, above 0.02, after 1 iterations"
    assert re.match(text, guided.complaint())


def test_going_back_and_forth_mends_projection():
    """RePaint: what was observed and what was not come to agree, and the mean comes to that of the exact posterior."""
    gain = COV @ ROWS.T @ torch.linalg.inv(ROWS @ COV @ ROWS.T + torch.diag(STD**2))
    mean, cov = gain @ Y, COV - gain @ ROWS @ COV
    off = []
    for resampling in (0, 4, 10):
        guided = Projection().guide(gaussian(COV), linear(), CURVE)
        noise = MemberNoise(0, range(2000), (N, 1), dtype=torch.float64)
        x = DDIM(steps=48, eta=1.0, resampling=resampling).sample(guided, noise).flatten(1)
        assert float((torch.cov(x.T) - cov).norm()) < 0.2 * float(cov.norm())
        off.append(float((x.mean(0) - mean).norm()))
    assert off[1] < 0.6 * off[0]
    assert off[2] < 0.6 * off[1]


# --- all methods ---

VARIANTS = {
    **{name: kind() for name, kind in GUIDANCE.items()},
    "mmps, gmres": MMPS(solver="gmres"),
    "sda, adaptive": GaussianScore(scaling=Scaling(rule="adaptive", xi=0.5)),
    "sda, detached": GaussianScore(gamma=1.0, detach=True),
}


@pytest.mark.parametrize("law", ["gaussian", "student"])
@pytest.mark.parametrize("name", VARIANTS)
def test_a_member_does_not_depend_on_its_batch_mates(name, law):
    """Two clusters, so that members differ in their Jacobians and in how long their solves take."""
    means = torch.stack([torch.linspace(0, 2, N), -torch.linspace(0, 2, N)])
    covs = torch.stack([0.1 * COV, 0.3 * COV.flip(0, 1)])
    denoiser = MixtureDenoiser.of(means, covs, torch.tensor([0.5, 0.5]), (N, 1)).double()
    groups = (Group(4, "a", StudentT()),) if law == "student" else ()
    if name == "dps" and groups:  # it does not know errors
        with pytest.raises(ValueError, match="DPS does not use observation errors"):
            DPS().guide(denoiser, linear(groups=groups), CURVE)
        return

    def sample(members):
        guided = VARIANTS[name].guide(denoiser, linear(groups=groups), CURVE)
        return DPMpp2M(steps=48).sample(guided, MemberNoise(2, members, (N, 1), dtype=torch.float64))

    whole = sample(range(6))
    for some in ([3, 0], [5]):
        torch.testing.assert_close(whole[some], sample(some), rtol=1e-6, atol=1e-8)


# --- what practitioners do when the number of observations changes ---


def change(gamma, scaling=None, std=STD, groups=(), time=0.6):
    t, _, x = state(time)
    options = {} if scaling is None else {"scaling": scaling}
    guided = GaussianScore(gamma=gamma, **options).guide(gaussian(COV), linear(std=std, groups=groups), None)
    return guided.evaluate(x, t)[1]


def test_the_mean_divides_by_the_number_of_observations():
    torch.testing.assert_close(change(0.1, Scaling(rule="mean")), change(0.1) / 4)
    torch.testing.assert_close(change(0.1, Scaling(rule="mean")), change(0.4, std=2 * STD))
    torch.testing.assert_close(change(0.1, Scaling(rule="mean", reference=3)), change(0.1) / 4)


def test_std_and_dual_multiply_by_the_share_of_the_reference():
    for reference in (1, 2, 4, 16):
        factor = 4 / reference
        std = Scaling(rule="std", reference=reference)
        torch.testing.assert_close(change(0.1, std), change(0.1, std=factor**0.5 * STD))
        dual = Scaling(rule="dual", reference=reference)
        torch.testing.assert_close(change(0.1, dual), change(0.1 * factor, std=factor**0.5 * STD))
        torch.testing.assert_close(change(0.1, dual), change(0.1) / factor)
    torch.testing.assert_close(change(0.1, Scaling(rule="std", reference=4)), change(0.1))


@pytest.mark.parametrize("xi", [0.1, 1.0, 3.0])
@pytest.mark.parametrize("time", TIMES)
def test_adaptive_sets_the_ratio_of_the_two_scores(time, xi):
    _, s, x = state(time)
    prior = (moments(COV, s, x)[0] - x.flatten(1)) / s**2  # the score of p(x_t)
    got = change(0.1, Scaling(rule="adaptive", xi=xi), time=time).flatten(1) / s**2  # that of p(y | x_t)
    torch.testing.assert_close(got.norm(dim=1), xi * prior.norm(dim=1), rtol=1e-5, atol=0)
    plain = change(0.1, time=time).flatten(1)
    torch.testing.assert_close(torch.cosine_similarity(got, plain), torch.ones(3, dtype=torch.float64))


def test_gamma_by_variable():
    groups = (Group(1, "u"), Group(2, "v"), Group(1, "u"))
    torch.testing.assert_close(change({"u": 0.1, "v": 0.1}, groups=groups), change(0.1))
    _, s, x = state(0.6)
    mean, cov = moments(COV, s, x)
    own = torch.tensor([0.1, 0.4, 0.4, 0.1], dtype=torch.float64) * s**2
    expected = (Y - mean @ ROWS.T) / (STD**2 + own) @ ROWS @ cov
    torch.testing.assert_close(change({"u": 0.1, "v": 0.4}, groups=groups).flatten(1), expected, rtol=1e-5, atol=1e-6)
    more = {"u": 0.1, "v": 0.4, "w": 9.0}  # w is missing (NaN) among these observations
    torch.testing.assert_close(change(more, groups=groups), change({"u": 0.1, "v": 0.4}, groups=groups))
    for wrong in ({"u": 0.1}, {"U": 0.1, "v": 0.1}):
        with pytest.raises(ValueError, match=r"observed variables .* are \['u', 'v'\]"):
            change(wrong, groups=groups)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (DPS, {"zeta": 0.0}),
        (DPS, {"zeta": float("nan")}),
        (Proximal, {"strength": -1.0}),
        (Proximal, {"iterations": 0}),
        (MMPS, {"tolerance": 0.0}),
        (MMPS, {"iterations": 0}),
        (MMPS, {"solver": "lu"}),
        (Calibrated, {"limit": 0.0}),
        (GaussianScore, {"gamma": -1.0}),
        (GaussianScore, {"gamma": {"u": 0.1, "v": -2.0}}),
        (Scaling, {"rule": "median"}),
        (Scaling, {"reference": 0}),
        (Scaling, {"xi": 0.0}),
    ],
    ids=str,
)
def test_impossible_options_are_named(kind, options):
    with pytest.raises(ValueError, match=f"{next(iter(options))}="):
        kind(**options)


def test_unknown_options_are_refused():
    for kind in {*GUIDANCE.values(), Scaling}:
        with pytest.raises(TypeError, match="strenght"):
            kind(strenght=1.0)
    with pytest.raises(TypeError, match="scaling must be a Scaling"):
        GaussianScore(scaling="dual")
