"""Samplers of an exact Gaussian denoiser: the law they produce is known at every time."""

import math
from functools import partial

import numpy as np
import pytest
import torch

import xsda
from xsda.diffusion import MemberNoise
from xsda.diffusion.denoisers import Denoiser
from xsda.diffusion.samplers import (
    DDIM,
    DDPM,
    SAMPLERS,
    DPMpp2M,
    DPMpp2MSDE,
    Euler,
    Heun,
    NonFiniteSampleError,
    PredictorCorrector,
    time_grid,
    velocity,
)
from xsda.diffusion.samplers.grids import GRIDS
from xsda.diffusion.samplers.sampler import time_posterior
from xsda.diffusion.schedules import VE, VP, LinearBeta, SubVP
from xsda.guidance import MMPS
from xsda.likelihood import Likelihood
from xsda.priors.exact import GaussianDenoiser

COV = torch.tensor([[1.2, 0.5, 0.0], [0.5, 0.6, 0.1], [0.0, 0.1, 0.3]], dtype=torch.float64)
EYE = torch.eye(3, dtype=torch.float64)
SCHEDULES = [VP(), SubVP("linear", 1e-2), VE(1e-2, 10.0)]

PLAIN = sorted(SAMPLERS.keys() - {"tds"})  # weighted particles need observations: tests/guidance/test_twisted.py


def exact(cov, schedule):
    values, vectors = torch.linalg.eigh(cov)
    one, shape = torch.ones(1, dtype=torch.float64), torch.tensor((len(cov),))
    return GaussianDenoiser(
        torch.zeros(1, len(cov), dtype=torch.float64), values[None], vectors[None], one, shape, schedule
    )


def marginal(schedule, t):
    return schedule.alpha(t) ** 2 * COV + schedule.sigma(t) ** 2 * EYE


def produced(sampler, schedule, times):
    """The covariance that a sampler makes of the exact law at ``times[0]``.

    Everything is linear in the start and in each draw, so both are pushed through as a basis, draw by draw.
    """
    noisy = isinstance(sampler, DPMpp2MSDE) or bool(getattr(sampler, "eta", 0))
    draws = (len(times) - 1) * (noisy * (sampler.resampling + 1) + sampler.resampling)
    start = torch.zeros(draws + 1, 3, 3, dtype=torch.float64)
    start[0] = torch.linalg.cholesky(marginal(schedule, times[0])).T
    seen = []

    def draw():
        seen.append(torch.zeros_like(start))
        seen[-1][len(seen)] = EYE
        return seen[-1].flatten(0, 1)

    end = sampler.integrate(exact(COV, schedule), start.flatten(0, 1), times, draw)
    return end.T @ end


def part(schedule, steps, grid, end=0.2):
    """Times from 1 to ``end``."""
    if grid == "linear":
        return torch.linspace(1, end, steps + 1, dtype=torch.float64)
    levels = schedule.noise_level(torch.tensor([1.0, end], dtype=torch.float64)).log()
    return schedule.time(torch.linspace(*levels.tolist(), steps + 1, dtype=torch.float64).exp())


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("grid", ["linear", "log_snr"])
@pytest.mark.parametrize(
    ("sampler", "order"),
    [
        (DDIM(), 1),
        (DDIM(eta=0.5), 1),
        (DDPM(), 1),
        (Euler(), 1),
        (Heun(), 2),
        (DPMpp2M(), 2),
        (DPMpp2MSDE(), 2),
        (DPMpp2MSDE(eta=2.0), 2),
    ],
    ids=str,
)
def test_the_law_converges_at_the_order_of_the_sampler(schedule, grid, sampler, order):
    errors = []
    for steps in (64, 128):
        times = part(schedule, steps, grid)
        target = marginal(schedule, times[-1])
        errors.append(float((produced(sampler, schedule, times) - target).norm() / target.norm()))
    assert errors[1] < (0.12 if order == 1 else 2e-3)
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.3)


@pytest.mark.parametrize("resampling", [1, 3])
@pytest.mark.parametrize("kind", [DDPM, DPMpp2M, DPMpp2MSDE, Heun])
def test_going_back_and_forth_keeps_the_law(kind, resampling):
    """Adding noise is exact, so that a sampler keeps its order; those of several steps lose a part of their slope."""
    errors = []
    for steps in (48, 96):
        times = part(VP(), steps, "log_snr")
        target = marginal(VP(), times[-1])
        cov = produced(kind(resampling=resampling), VP(), times)
        errors.append(float((cov - target).norm() / target.norm()))
    assert errors[0] < (0.13 if kind is DDPM else 0.025)
    assert math.log2(errors[0] / errors[1]) > (0.85 if kind is DDPM else 1.6)


@pytest.mark.parametrize("schedule", [VP(), LinearBeta(), VE(0.01, 50.0)], ids=str)
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", ["dpmpp2m", "dpmpp2m_sde", "heun"])
def test_the_whole_way_ends_in_the_law_of_the_data(schedule, grid, name):
    times = time_grid(schedule, 256, grid)
    target = marginal(schedule, times[-1])
    cov = produced(SAMPLERS[name](), schedule, times)
    assert float((cov - target).norm() / target.norm()) < 5e-3


def test_sample_starts_from_the_noise_and_ends_with_the_denoised_state():
    """One step of DDIM on VE, written out by hand."""
    schedule = VE(0.5, 4.0)
    denoiser = exact(COV, schedule)
    noise = MemberNoise(0, range(5), (3,), dtype=torch.float64)
    z = MemberNoise(0, range(5), (3,), dtype=torch.float64)()
    x = math.sqrt(1 + 16) * z
    shrink = [COV @ torch.linalg.inv(COV + s**2 * EYE) for s in (4.0, 0.5)]
    x0 = x @ shrink[0]
    torch.testing.assert_close(DDIM(steps=2).sample(denoiser, noise), (x0 + 0.5 / 4 * (x - x0)) @ shrink[1])


def test_velocity_is_the_flow_of_the_marginals():
    """A Gaussian flow x(t) = S(t) z with S^2 the marginal covariance has velocity S' S^-1 x."""
    for schedule in SCHEDULES:
        t, h = torch.tensor(0.4, dtype=torch.float64), 1e-5
        values, vectors = torch.linalg.eigh(COV)
        root = [torch.sqrt(schedule.alpha(u) ** 2 * values + schedule.sigma(u) ** 2) for u in (t - h, t, t + h)]
        rate = vectors @ torch.diag((root[2] - root[0]) / (2 * h) / root[1]) @ vectors.T
        torch.testing.assert_close(velocity(exact(COV, schedule), EYE, t), rate, rtol=1e-6, atol=1e-6)


def test_time_posterior_is_gaussian_conditioning():
    for schedule in SCHEDULES:
        t, s = torch.tensor([0.7, 0.4], dtype=torch.float64)
        keep, pull, variance = time_posterior(schedule, t, s)
        # given x_0 = 0 and 1: regress x_s on x_t, whose covariance is (alpha_t / alpha_s) sigma_s^2
        step = schedule.alpha(t) / schedule.alpha(s)
        cross = step * schedule.sigma(s) ** 2
        torch.testing.assert_close(keep, cross / schedule.sigma(t) ** 2)
        torch.testing.assert_close(variance, schedule.sigma(s) ** 2 - cross**2 / schedule.sigma(t) ** 2)
        torch.testing.assert_close(keep * schedule.alpha(t) + pull, schedule.alpha(s))


def test_grids_are_uniform_in_what_they_say():
    schedule = VP()
    levels = {grid: schedule.noise_level(time_grid(schedule, 33, grid)) for grid in GRIDS}
    for values in levels.values():
        assert (values.diff() < 0).all()
        torch.testing.assert_close(values[[0, -1]], levels["linear"][[0, -1]])
    uniform = {
        "log_snr": levels["log_snr"].log(),
        "karras": levels["karras"] ** (1 / 7),
        "linear": time_grid(schedule, 33, "linear"),
    }
    for values in uniform.values():
        torch.testing.assert_close(values.diff(), values.diff().mean().expand(32), rtol=1e-4, atol=1e-6)
    # "centered": the steps in log noise are inverse to the density 1 + 3 exp(-(log s / 1.5)^2 / 2)
    fine = schedule.noise_level(time_grid(schedule, 2001, "centered")).log()
    step, middle = -fine.diff(), (fine[1:] + fine[:-1]) / 2
    density = 1 + 3 * torch.exp(-((middle / 1.5) ** 2) / 2)
    torch.testing.assert_close(step * density, (step * density).mean().expand(2000), rtol=2e-2, atol=0)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("grid", GRIDS)
def test_grids_keep_within_the_levels_that_are_asked_for(schedule, grid):
    levels = schedule.noise_level(time_grid(schedule, 9, grid, high=5.0, low=0.1))
    assert levels[[0, -1]].tolist() == pytest.approx([5.0, 0.1], rel=1e-4)
    assert (levels.diff() < 0).all()
    wide = time_grid(schedule, 9, grid, high=1e9, low=1e-9)
    torch.testing.assert_close(wide, time_grid(schedule, 9, grid))  # the schedule has no others


@pytest.mark.parametrize("kind", [DPMpp2M, partial(DPMpp2MSDE, eta=4.0)])
def test_a_gaussian_is_drawn_between_two_levels(kind):
    """Noise alone at a high level, and the denoised state at a low one, give the law of the data."""
    schedule, sampler = VE(0.002, 80.0), kind(steps=96, high=30.0, low=0.01)
    x = sampler.sample(exact(COV, schedule), MemberNoise(0, range(4096), (1, len(COV), 1), dtype=torch.float64))
    found = torch.cov(x.flatten(1).T)
    assert (found - COV).norm() / COV.norm() < 0.06


SPREAD = torch.tensor([0.05, 0.3, *[1.0] * 14], dtype=torch.float64)


def spread(sampler):
    """Standard deviations of 3000 samples over the exact ones: of one well-known number, and of the others."""
    noise = MemberNoise(1, range(3000), (16,), dtype=torch.float64)
    ratio = sampler.sample(exact(SPREAD.diag() ** 2, VP()), noise).std(0) / SPREAD
    return float(ratio[0]), float(ratio[2:].mean())


@pytest.mark.parametrize("corrections", [1, 2])
@pytest.mark.parametrize("kind", [DPMpp2M, DPMpp2MSDE, Heun])
def test_bounded_corrections_leave_an_exact_law_alone(kind, corrections):
    known, others = spread(kind(steps=48, corrections=corrections, tau=0.1))
    assert known == pytest.approx(1, abs=0.06)  # 1.3 % of it is sampling error
    assert others == pytest.approx(1, abs=0.05)


def test_bounded_corrections_leave_an_exact_posterior_alone(rotation):
    """Eight of 64 numbers observed with an error of 0.1: it is these that the unbounded rule inflates."""
    grid, cov, _ = rotation
    prior = xsda.GaussianPrior(grid, cov, schedule=VE(sigma_min=1e-3, sigma_max=100.0))
    rows = np.eye(64)[:32:4]
    gain = cov @ rows.T @ np.linalg.inv(rows @ cov @ rows.T + 0.01 * np.eye(8))
    exact_spread = np.sqrt(np.diag(cov - gain @ rows @ cov)).reshape(2, 32).T
    likelihood = Likelihood(lambda x: x[:, ::4, 0], torch.zeros(8), torch.full((8,), 0.1))

    def ratio(**options):
        sampler = DPMpp2MSDE(steps=48, grid="centered", corrections=1, tau=0.5, **options)
        guided = MMPS().guide(prior.denoiser, likelihood, None)
        r = sampler.sample(guided, MemberNoise(0, range(600), (32, 2))).std(0).numpy() / exact_spread
        return r.mean(), r[::4, 0].mean()

    everywhere, observed = ratio()
    assert everywhere == pytest.approx(1, abs=0.05)
    assert observed == pytest.approx(1, abs=0.08)
    everywhere, observed = ratio(bounded=False)
    assert everywhere > 1.1
    assert observed > 1.5


def test_unbounded_corrections_inflate_what_is_well_known():
    sampler = PredictorCorrector(steps=64, grid="log_snr", corrections=1, tau=0.1)
    assert not sampler.bounded
    assert spread(sampler)[0] > 2
    bounded = PredictorCorrector(steps=192, grid="log_snr", corrections=1, tau=0.1, bounded=True)
    assert np.abs(np.array(spread(bounded)) - 1).max() < 0.05


class Counting(Denoiser):
    def __init__(self, inner):
        super().__init__()
        self.inner, self.schedule, self.calls = inner, inner.schedule, 0

    def forward(self, x_t, t):
        self.calls += 1
        return self.inner(x_t, t)


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize(("corrections", "resampling"), [(0, 0), (2, 0), (0, 3), (1, 2)])
def test_evaluations_and_callbacks_are_counted(name, corrections, resampling):
    sampler = SAMPLERS[name](steps=7, corrections=corrections, resampling=resampling)
    denoiser, seen = Counting(exact(COV, VP())), []
    sampler.sample(denoiser, MemberNoise(0, range(2), (3,), dtype=torch.float64), callback=seen.append)
    assert denoiser.calls == sampler.evaluations
    assert seen == list(range(7))


@pytest.mark.parametrize("name", PLAIN)
def test_a_member_does_not_depend_on_its_batch(name):
    sampler, denoiser = SAMPLERS[name](steps=6, corrections=1), exact(COV, VP())
    whole = sampler.sample(denoiser, MemberNoise(2, range(5), (3,), dtype=torch.float64))
    some = sampler.sample(denoiser, MemberNoise(2, [3, 0], (3,), dtype=torch.float64))
    torch.testing.assert_close(whole[[3, 0]], some, rtol=1e-10, atol=1e-12)


class Breaks(Counting):
    """Returns NaN for the second item of the batch from the fourth call on."""

    def forward(self, x_t, t):
        out = super().forward(x_t, t)
        if self.calls >= 4:
            out[1] = torch.nan
        return out


def test_a_member_that_explodes_is_named_with_its_step():
    noise = MemberNoise(0, [11, 17, 23], (3,))
    with pytest.raises(NonFiniteSampleError, match="member 17 became non-finite at step 4 of 8"):
        DPMpp2M(steps=8).sample(Breaks(exact(COV, VP()).float()), noise)
    with pytest.raises(NonFiniteSampleError, match="member 17 became non-finite at step 4 of 4"):
        DPMpp2M(steps=4).sample(Breaks(exact(COV, VP()).float()), noise)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: DPMpp2M(steps=1), ValueError, "steps=1"),
        (lambda: DPMpp2M(corrections=-1), ValueError, "corrections=-1"),
        (lambda: DPMpp2M(resampling=-1), ValueError, "resampling=-1"),
        (lambda: DPMpp2M(resampling=0.5), ValueError, "resampling=0.5"),
        (lambda: Heun(tau=0.0), ValueError, "tau=0.0"),
        (lambda: Euler(grid="cosine"), ValueError, "grid='cosine'"),
        (lambda: DDIM(eta=1.5), ValueError, "eta=1.5"),
        (lambda: DPMpp2MSDE(eta=0.0), ValueError, "eta=0.0"),
        (lambda: DPMpp2M(high=-1.0), ValueError, "high=-1.0"),
        (lambda: time_grid(VP(), 4, high=0.1, low=0.2), ValueError, "high=0.1 must be above low=0.2"),
        (lambda: DDIM(order=2), TypeError, "order"),
        (lambda: time_grid(VP(), 1), ValueError, "steps=1"),
        (lambda: time_grid(VP(), 4, "cosine"), ValueError, "grid='cosine'"),
    ],
)
def test_impossible_options_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_samplers_print_what_was_chosen():
    assert str(DPMpp2M(corrections=2)) == "DPMpp2M(steps=32, corrections=2)"
    assert str(PredictorCorrector()) == "PredictorCorrector(steps=256)"
