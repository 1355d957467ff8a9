"""Schedules against their closed forms."""

import math

import numpy as np
import pytest
import torch

from xsda.diffusion.schedules import SCHEDULES, VE, VP, LinearBeta, Schedule, SubSubVP, SubVP

DECAYS = ("linear", "cosine", "exponential")
ALL = [
    *(kind(decay, eta) for kind in (VP, SubVP, SubSubVP) for decay in DECAYS for eta in (1e-3, 1e-2)),
    VE(),
    VE(1e-2, 10.0),
    LinearBeta(),
    LinearBeta(1e-3, 0.1, steps=50),
]
TIMES = torch.linspace(0, 1, 501, dtype=torch.float64)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def alpha_of(decay, eta, t):
    return {
        "linear": 1 - (1 - eta) * t,
        "cosine": np.cos(np.arccos(np.sqrt(eta)) * t) ** 2,
        "exponential": eta ** (t**2),
    }[decay]


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("eta", [1e-3, 0.05])
def test_variance_preserving_family_has_its_closed_forms(decay, eta):
    alpha = alpha_of(decay, eta, TIMES.numpy())
    for kind, sigma in ((VP, np.sqrt(1 - alpha**2 + eta**2)), (SubVP, 1 - alpha**2 + eta), (SubSubVP, 1 - alpha + eta)):
        schedule = kind(decay, eta)
        np.testing.assert_allclose(schedule.alpha(TIMES), alpha, rtol=1e-12)
        np.testing.assert_allclose(schedule.sigma(TIMES), sigma, rtol=1e-9)
        assert float(schedule.alpha(TIMES[-1])) == pytest.approx(eta)


def test_variance_exploding_is_geometric():
    schedule = VE(0.01, 50.0)
    np.testing.assert_allclose(schedule.sigma(TIMES), 0.01 * (50 / 0.01) ** TIMES.numpy(), rtol=1e-12)
    assert (schedule.alpha(TIMES) == 1).all()


@pytest.mark.parametrize(("first", "last", "steps"), [(1e-4, 2e-2, 1000), (1e-3, 0.2, 40)])
def test_ddpm_is_the_cumulative_product_at_its_own_steps(first, last, steps):
    kept = np.cumprod(1 - np.linspace(first, last, steps))
    t = torch.arange(steps, dtype=torch.float64) / (steps - 1)
    schedule = LinearBeta(first, last, steps)
    np.testing.assert_allclose(schedule.alpha(t) ** 2, kept, rtol=1e-12)
    np.testing.assert_allclose(schedule.sigma(t) ** 2, 1 - kept, rtol=1e-9)
    halfway = torch.tensor((steps // 2 + 0.5) / (steps - 1), dtype=torch.float64)
    assert float(schedule.alpha(halfway)) ** 2 == pytest.approx(math.sqrt(kept[steps // 2] * kept[steps // 2 + 1]))


@pytest.mark.parametrize("schedule", ALL, ids=str)
def test_noise_grows_and_time_inverts_it(schedule):
    levels = schedule.noise_level(TIMES)
    assert (levels.diff() > 0).all()
    torch.testing.assert_close(schedule.log_snr(TIMES), -levels.log())
    between = levels.log()[:-1] + torch.rand(500, dtype=torch.float64) * levels.log().diff()
    torch.testing.assert_close(schedule.noise_level(schedule.time(between.exp())).log(), between, rtol=0, atol=1e-10)
    torch.testing.assert_close(schedule.time(levels[100:]), TIMES[100:], rtol=0, atol=1e-9)
    assert schedule.time(levels[[0, -1]] * torch.tensor([0.5, 2.0])).tolist() == pytest.approx([0, 1])


@pytest.mark.parametrize("schedule", ALL, ids=str)
def test_rates_are_the_derivatives(schedule):
    t, h = TIMES[50:-10:7] + 1.3e-4, 1e-6
    for rate, value in zip(schedule.rates(t), (schedule.alpha, schedule.sigma), strict=True):
        torch.testing.assert_close(rate, (value(t + h) - value(t - h)) / (2 * h), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("schedule", ALL, ids=str)
def test_single_precision_is_enough_at_every_time(schedule):
    """1 - alpha^2 would lose all digits at small t."""
    t = torch.cat([torch.logspace(-5, 0, 400), torch.zeros(1)])
    torch.testing.assert_close(schedule.sigma(t).double(), schedule.sigma(t.double()), rtol=3e-6, atol=0)
    torch.testing.assert_close(schedule.alpha(t).double(), schedule.alpha(t.double()), rtol=5e-5, atol=0)


def test_noise_is_added_with_one_time_per_item_or_one_for_all():
    schedule = VP()
    x0, noise = torch.randn(2, 3, 4, 2)
    t = torch.tensor([0.0, 0.3, 1.0])
    each = torch.stack([schedule.add_noise(x0[i], t[i], noise[i]) for i in range(3)])
    torch.testing.assert_close(schedule.add_noise(x0, t, noise), each)
    torch.testing.assert_close(each[0], x0[0] + 1e-3 * noise[0])


@pytest.mark.parametrize("schedule", ALL, ids=str)
def test_configuration_rebuilds_the_schedule(schedule):
    options = schedule.config()
    assert SCHEDULES[options.pop("name")](**options) == schedule


def test_a_schedule_of_ones_own_needs_two_methods():
    class Cosine(Schedule):
        def alpha(self, t):
            return torch.cos(1.5 * t)

        def sigma(self, t):
            return torch.sin(1.5 * t) + 1e-3

    t = torch.tensor(0.4, dtype=torch.float64)
    assert float(Cosine().time(Cosine().noise_level(t))) == pytest.approx(0.4)
    assert [float(r) for r in Cosine().rates(t)] == pytest.approx([-1.5 * math.sin(0.6), 1.5 * math.cos(0.6)])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VP("quadratic"), "decay='quadratic'"),
        (lambda: VP(eta=0.0), "eta=0.0"),
        (lambda: VE(1.0, 0.5), "sigma_min < sigma_max"),
        (lambda: LinearBeta(beta_max=1.5), "beta_max"),
    ],
)
def test_impossible_options_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
