"""Twisted sequential Monte Carlo: exact as particles grow, where every guidance alone is wrong."""

import numpy as np
import pytest
import torch
import xarray as xr
from lazy import computes_nothing
from scipy import stats

import xsda
from xsda.diffusion.error import ErrorCurve, measure_error
from xsda.diffusion.noise import MemberNoise
from xsda.diffusion.samplers import TDS, DPMpp2M, DPMpp2MSDE
from xsda.guidance import GUIDANCE, MMPS, Calibrated
from xsda.likelihood import Group, Likelihood, StudentT
from xsda.priors.exact import GaussianDenoiser, MixtureDenoiser

SD, SIGMA = 0.25, 0.5


def first(x):
    return x[:, :1, 0]


# name: (means of the two modes, observed value, H of the first number)
CASES = {
    "linear": ([[1.0, 1.0], [-1.0, -1.0]], 0.3, first),
    "absolute value": ([[1.3, 1.0], [-0.5, -1.0]], 0.9, lambda x: first(x).abs()),
    "square": ([[1.0, 1.0], [-0.6, -1.0]], 1.2, lambda x: first(x) ** 2),
}


def mixture(means):
    means = torch.tensor(means)
    return MixtureDenoiser.of(means, SD**2 * torch.eye(2).expand(2, 2, 2), torch.tensor([0.5, 0.5]), (2, 1))


def case(name):
    """(denoiser, likelihood, error curve, weight of the first mode, mean and spread of the first number)."""
    means, y, operator = CASES[name]
    denoiser = mixture(means)
    likelihood = Likelihood(operator, torch.tensor([y]), torch.tensor([SIGMA]), linear=name == "linear")
    curve = measure_error(denoiser, [(denoiser, denoiser.draw(2048, torch.Generator().manual_seed(1)))], count=24)
    x = np.linspace(-4, 4, 8001)
    seen = operator(torch.as_tensor(x)[:, None, None]).numpy()[:, 0]
    modes = np.stack([stats.norm.pdf(x, m[0], SD) * stats.norm.pdf(y, seen, SIGMA) for m in means])
    p = modes.sum(0) / modes.sum()
    mean = (p * x).sum()
    return denoiser, likelihood, curve, modes[0].sum() / modes.sum(), mean, np.sqrt((p * (x - mean) ** 2).sum())


def test_the_weight_of_the_example():
    assert case("linear")[3] == pytest.approx(0.872, abs=5e-4)


@pytest.mark.parametrize("guidance", [MMPS(), Calibrated()], ids=["mmps", "calibrated"])
@pytest.mark.parametrize("name", CASES)
def test_modes_get_their_weights(name, guidance):
    """The second number tells the modes apart; only the first is observed."""
    denoiser, likelihood, curve, weight, mean, spread = case(name)
    guided = guidance.guide(denoiser, likelihood, curve)
    x = TDS(steps=48, particles=128).sample(guided, MemberNoise(1, range(4096), (2, 1)))[..., 0]
    shares = (x[:, 1] > 0).double().reshape(-1, 128).mean(1)
    error = float(shares.std()) / len(shares) ** 0.5  # of the mean over 32 independent populations
    assert error < 0.02
    assert abs(float(shares.mean()) - weight) < 3.5 * error
    assert float(x[:, 0].mean()) == pytest.approx(mean, abs=0.04)
    assert float(x[:, 0].std()) == pytest.approx(spread, rel=0.05)


def test_guidance_alone_is_off():
    denoiser, likelihood, curve, weight, *_ = case("linear")
    guided = MMPS().guide(denoiser, likelihood, curve)
    x = DPMpp2M(steps=48).sample(guided, MemberNoise(1, range(2000), (2, 1)))
    assert abs(float((x[:, 1, 0] > 0).double().mean()) - weight) > 0.1


def test_a_poor_estimate_of_the_likelihood_is_made_good_at_the_end():
    """Of an error curve that says 0.7 everywhere, observations seem less telling than they are; the last weights know."""
    denoiser, likelihood, _, weight, mean, spread = case("linear")
    curve = ErrorCurve(torch.tensor([1e-3, 1e2]), torch.full((2, 1), 0.7))
    guided = Calibrated().guide(denoiser, likelihood, curve)
    x = TDS(steps=48, particles=256).sample(guided, MemberNoise(1, range(4096), (2, 1)))[..., 0]
    assert float((x[:, 1] > 0).double().mean()) == pytest.approx(weight, abs=0.04)
    assert float(x[:, 0].mean()) == pytest.approx(mean, abs=0.05)
    assert float(x[:, 0].std()) == pytest.approx(spread, rel=0.06)


def test_populations_converge_like_the_root_of_their_particles():
    denoiser, likelihood, curve, weight, *_ = case("linear")
    errors = []
    for particles in (16, 256):
        guided = Calibrated().guide(denoiser, likelihood, curve)
        x = TDS(steps=32, particles=particles).sample(guided, MemberNoise(4, range(32 * particles), (2, 1)))
        shares = (x[:, 1, 0] > 0).double().reshape(32, particles).mean(1)
        errors.append(float((shares - weight).square().mean().sqrt()))
    assert 2.2 < errors[0] / errors[1] < 7


def test_the_law_of_the_errors_is_that_of_the_end():
    """A Gaussian prior and a gross error of heavy tails: the posterior has two humps, which no Gaussian site has."""
    denoiser = GaussianDenoiser.of(torch.zeros(1, 1), torch.ones(1, 1, 1), torch.ones(1), (1, 1))
    law = StudentT(df=2)
    likelihood = Likelihood(lambda x: x[..., 0], torch.tensor([4.0]), torch.tensor([0.3]), groups=(Group(1, "a", law),))
    x = TDS(steps=48, particles=256).sample(
        MMPS().guide(denoiser, likelihood, None), MemberNoise(0, range(4096), (1, 1))
    )
    grid = np.linspace(-6, 8, 14_001)
    p = stats.norm.pdf(grid) * stats.t.pdf((4 - grid) / 0.3, 2)
    p /= p.sum()
    for at in (-0.5, 0.5, 1.5, 3.0):
        assert float((x < at).double().mean()) == pytest.approx(p[grid < at].sum(), abs=0.03)


@pytest.mark.parametrize("name", sorted(GUIDANCE))
def test_populations_do_not_depend_on_their_batch(name):
    denoiser, likelihood, curve, *_ = case("absolute value")
    denoiser, likelihood = denoiser.double(), likelihood.to(torch.device("cpu"), torch.float64)
    sampler = TDS(steps=12, particles=8)

    def sample(members):
        noise, notes = MemberNoise(3, members, (2, 1), dtype=torch.float64), {}
        return sampler.sample(GUIDANCE[name]().guide(denoiser, likelihood, curve), noise, notes=notes), notes

    whole, notes = sample(range(32))
    some, own = sample([*range(24, 32), *range(8, 16)])
    chosen = [*range(24, 32), *range(8, 16)]
    torch.testing.assert_close(whole[chosen], some, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(notes["effective_sample_size"][chosen], own["effective_sample_size"])


def test_effective_sizes_lie_between_one_and_the_particles():
    denoiser, likelihood, curve, *_ = case("linear")
    sampler = TDS(steps=16, particles=32)

    def sizes(std):
        exact = Likelihood(likelihood.operator, likelihood.y, torch.tensor([std]))
        notes = {}
        sampler.sample(Calibrated().guide(denoiser, exact, curve), MemberNoise(0, range(128), (2, 1)), notes=notes)
        return notes["effective_sample_size"].reshape(4, 32)

    vague, sharp = sizes(1e4), sizes(0.05)
    for found in (vague, sharp):
        assert bool((found >= 1).all() & (found <= 32).all())
        assert bool((found == found[:, :1]).all())  # one number for a population
    assert float(vague.min()) > 31.9  # observations that say nothing leave all weights equal
    assert float(sharp.max()) < 25


def test_observations_that_say_nothing_leave_the_prior_alone():
    """Without weights and without a pull it is the unguided sampler, number by number; the end shuffles."""

    class Apart(MemberNoise):
        """Uniform numbers of a stream of their own, so that the normal ones are those of a sampler without them."""

        def uniform(self):
            return torch.rand(len(self.members), dtype=torch.float64)

    denoiser, likelihood, curve, *_ = case("linear")
    vague = Likelihood(likelihood.operator, likelihood.y, torch.tensor([1e8]))
    guided = Calibrated().guide(denoiser, vague, curve)
    x = TDS(steps=24, particles=8).sample(guided, Apart(0, range(16), (2, 1)))
    free = DPMpp2MSDE(steps=24, grid="centered").sample(denoiser, MemberNoise(0, range(16), (2, 1)))
    for part in (slice(8), slice(8, 16)):
        torch.testing.assert_close(x[part, 0, 0].sort()[0], free[part, 0, 0].sort()[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"particles": 1}, "particles=1"),
        ({"particles": 8.0}, "particles=8.0"),
        ({"threshold": 0.0}, "threshold=0.0"),
        ({"threshold": 1.5}, "threshold=1.5"),
        ({"corrections": 1}, "no corrections"),
        ({"resampling": 1}, "no resampling"),
        ({"steps": 1}, "steps=1"),
    ],
)
def test_impossible_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        TDS(**options)


def test_populations_are_sampled_whole():
    denoiser, likelihood, curve, *_ = case("linear")
    with pytest.raises(ValueError, match="a batch of 12 cannot be divided into populations of 8"):
        TDS(steps=4, particles=8).sample(
            Calibrated().guide(denoiser, likelihood, curve), MemberNoise(0, range(12), (2, 1))
        )
    with pytest.raises(ValueError, match="posteriors only"):
        TDS(steps=4, particles=8).sample(denoiser, MemberNoise(0, range(8), (2, 1)))


# --- through the public face ---


def observed(grid):
    return grid.isel(time=slice(None, None, 4))[["u"]] + 1


def test_members_and_their_effective_size_whatever_the_chunks(rotation):
    grid, _, prior = rotation
    options = {"sigma": 0.3, "sampler": TDS(steps=12, particles=8), "members": 32, "seed": 3}
    eager = grid.sda.assimilate(observed(grid), prior, progress=False, **options)
    size = eager.effective_sample_size
    assert size.dims == ("member",)
    assert size.attrs["units"] == "1"
    assert bool(((size >= 1) & (size <= 8)).all())
    assert eager.attrs["sampler"] == "TDS(steps=12, particles=8)"
    for chunk in (8, 24, -1):
        with computes_nothing():
            lazy = grid.sda.assimilate(observed(grid), prior, chunks={"member": chunk}, **options)
        assert lazy.u.chunks is not None
        xr.testing.assert_allclose(lazy.compute(scheduler="synchronous"), eager, rtol=1e-4, atol=1e-4)
    batched = grid.sda.assimilate(observed(grid), prior, batch=9, progress=False, **options)
    xr.testing.assert_allclose(batched, eager, rtol=1e-4, atol=1e-4)
    for members in (3, 8, 20):
        fewer = grid.sda.assimilate(observed(grid), prior, progress=False, **{**options, "members": members})
        xr.testing.assert_allclose(fewer, eager.isel(member=slice(members)), rtol=1e-4, atol=1e-4)


def test_chunks_hold_whole_populations(rotation):
    grid, _, prior = rotation
    options = {"sigma": 0.3, "sampler": TDS(steps=4, particles=8)}
    with pytest.raises(ValueError, match=r"populations of 8 particles.*chunks=\{'member': 8\}"):
        grid.sda.assimilate(observed(grid), prior, members=32, chunks={"member": 12}, **options)
    grid.sda.assimilate(observed(grid), prior, members=12, chunks={"member": 12}, **options)  # one chunk holds all


def test_by_name(rotation):
    """The default on a Gaussian: mean and spread of the exact posterior."""
    grid, cov, prior = rotation
    post = grid.sda.assimilate(observed(grid), prior, members=512, sigma=0.5, sampler="tds", progress=False)
    rows = np.eye(64)[:32:4]
    gain = cov @ rows.T @ np.linalg.inv(rows @ cov @ rows.T + 0.25 * np.eye(8))
    x = np.concatenate([post.u.values, post.v.values], axis=1)
    assert np.linalg.norm(x.mean(0) - gain.sum(1)) < 0.15 * np.linalg.norm(gain.sum(1))  # 0.07 by sampling
    assert x.var(0).sum() == pytest.approx(np.trace(cov - gain @ rows @ cov), rel=0.06)
    assert post.attrs["sampler"] == "TDS(steps=64)"
    assert float(post.effective_sample_size.min()) > 1
    with pytest.raises(ValueError, match="posteriors only"):
        xsda.sample(grid, prior, members=64, sampler="tds", progress=False)


def test_weights_that_gather_on_few_particles_are_told_of():
    lorenz = xsda.systems.Lorenz63().simulate(32, seed=3)
    precise = lorenz.sda.observe(lorenz, sigma=0.05, seed=1)
    with pytest.warns(RuntimeWarning, match="effective sample size of TDS fell to .* of 16 particles"):
        lorenz.sda.assimilate(
            precise, "lorenz63", members=16, sampler=TDS(particles=16, steps=16), progress=False, redraw=0
        )
    with pytest.raises(ValueError, match="batch=4 is smaller than a population of 16"):
        lorenz.sda.assimilate(precise, "lorenz63", sampler=TDS(particles=16), batch=4)
