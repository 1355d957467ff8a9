"""Where first draws are made by a quick sampler, and what becomes of them."""

import numpy as np
import pytest

import xsda
from xsda.diffusion.samplers import DPMpp2MSDE, NonFiniteSampleError
from xsda.guidance import Calibrated, GaussianScore
from xsda.observations import compile_observations
from xsda.sampling.choose import quick_sampler
from xsda.sampling.task import Run

SPEED = {"speed": lambda s: (s["u"] ** 2 + s["v"] ** 2) ** 0.5}


def quick(every, sigma, derived=None, guidance=None):
    """For observations of u and v at every n-th point of five states of turbulence; anomalies are about 1.4."""
    prior = xsda.load_model("kolmogorov")
    numbers = np.random.default_rng(0).normal(scale=1.4, size=(1, 5, 2, 64, 64))
    grid = prior.bind(xsda.systems.KolmogorovFlow(resolution=64).label(numbers).isel(member=0))
    obs = grid.template[["u", "v"]].isel(y=slice(None, None, every), x=slice(None, None, every))
    if derived:
        obs = obs.assign(speed=np.hypot(obs.u, obs.v))[["speed"]]
    return quick_sampler(
        prior, guidance or Calibrated(), compile_observations(grid, obs, sigma, derived=derived), grid.shape
    )


@pytest.mark.parametrize(("every", "steps"), [(2, 16), (4, 16), (8, 20)])
def test_fields_with_many_linear_observations_are_first_drawn_with_few_steps(every, steps):
    assert quick(every, 0.1).steps == steps


@pytest.mark.parametrize(
    "case",
    [(16, 0.1), (4, 0.005), (4, 0.1, SPEED), (4, 0.1, None, GaussianScore())],
    ids=["few", "precise", "nonlinear", "guidance"],
)
def test_other_fields_are_not(case):
    assert quick(*case) is None


@pytest.fixture(scope="module")
def ring():
    """Nine states of Lorenz-96, and every second point with error 1."""
    truth = xsda.systems.Lorenz96().simulate(9, seed=3)
    return truth, truth.sda.observe(truth.isel(x=slice(None, None, 2)), sigma=1.0, seed=4)


def test_a_member_of_a_series_does_not_depend_on_chunks(ring):
    truth, obs = ring
    post = truth.sda.assimilate(obs, "lorenz96", members=3, progress=False)
    assert "eta=4" in post.attrs["quick_sampler"]
    assert post.attrs["denoiser_evaluations"] > 2 * post.attrs["quick_evaluations"]
    lazy = truth.sda.assimilate(obs, "lorenz96", members=3, chunks={"member": 1}).compute(scheduler="synchronous")
    np.testing.assert_allclose(lazy.u, post.u, rtol=0, atol=2e-3)


@pytest.mark.parametrize("options", [{"sampler": DPMpp2MSDE(steps=24)}, {"steps": 24}, {"redraw": 0}])
def test_a_sampler_that_was_asked_for_draws_alone(ring, options):
    truth, obs = ring
    post = truth.sda.assimilate(obs, "lorenz96", members=1, progress=False, **options)
    assert "quick_sampler" not in post.attrs


def test_a_quick_draw_that_diverges_is_drawn_carefully_and_alone(ring, monkeypatch):
    truth, obs = ring
    drawn = Run._drawn
    careful = []

    def diverging(self, sampler, wanted, attempt, advance):
        if sampler == self.task.quick and 1 in wanted:
            raise NonFiniteSampleError("not finite")
        if sampler == self.task.sampler:
            careful.append(list(wanted))
        return drawn(self, sampler, wanted, attempt, advance)

    plain = truth.sda.assimilate(obs, "lorenz96", members=3, progress=False)
    monkeypatch.setattr(Run, "_drawn", diverging)
    post = truth.sda.assimilate(obs, "lorenz96", members=3, progress=False)
    assert careful[0] == [1]
    np.testing.assert_allclose(post.u[[0, 2]], plain.u[[0, 2]], rtol=0, atol=2e-3)
