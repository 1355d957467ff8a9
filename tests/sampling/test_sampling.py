"""Members that do not fit are drawn again; solves that do not converge are told of; both whatever the batches."""

import pickle
import re
import warnings
from collections import Counter

import numpy as np
import pytest
import torch
import xarray as xr
from scipy import stats

import xsda
from xsda.diffusion.noise import MemberNoise
from xsda.diffusion.samplers import TDS, DPMpp2M, DPMpp2MSDE
from xsda.guidance import MMPS
from xsda.likelihood import StudentT
from xsda.sampling import pieces
from xsda.sampling.blocks import _block as block

POOR = DPMpp2M(steps=8)  # far too few for a chaotic prior


@pytest.fixture(scope="module")
def sparse():
    """A Lorenz-63 trajectory and x every eighth step, with its error."""
    truth = xsda.systems.Lorenz63().simulate(32, seed=3)
    return truth, truth.sda.observe(truth.isel(time=slice(None, None, 8))[["x"]], sigma=0.4, seed=4)


def draw(sparse, redraw, **options):
    truth, obs = sparse
    options = {"members": 24, "sampler": POOR, "progress": False, **options}
    return truth.sda.assimilate(obs, "lorenz63", redraw=redraw, **options)


def chi_square(sparse, post, sigma=0.4):
    _, obs = sparse
    return (((post.x.sel(time=obs.time) - obs.x) / sigma) ** 2).sum("time").values


def beside(chi_square, n):
    """What a member of such chi-squares of n values may have, beside the second best of the first eight."""
    best = np.sort(chi_square[:8])[1]
    most = max(n, best)
    return best + max(3 * np.sqrt(2 * most) + 4, 0.15 * most)


@pytest.fixture
def whatever_modes(monkeypatch):
    """Members are judged by themselves alone; tests/priors/test_redraw.py has their modes."""
    monkeypatch.setattr("xsda.sampling.redraw.SELDOM", np.inf)


def told(caught, text):
    return [str(w.message) for w in caught if text in str(w.message)]


@pytest.mark.parametrize("kind", ["temporal", "markov"])
def test_a_posterior_in_pieces_is_the_same(kind, monkeypatch):
    """Where the memory has no room for the activations of a whole trajectory."""
    if kind == "temporal":
        truth, prior = xsda.systems.Lorenz63().simulate(400, seed=3), xsda.load_model("lorenz63")
    else:
        data = xsda.systems.DampedSpring().simulate(60, 8, seed=0)
        quick = {"steps": 2, "batch_size": 4, "validate_every": 2, "validation_batches": 1, "progress": False}
        truth, prior = data.isel(member=0, drop=True), xsda.train(data, window=5, network="markov", **quick)
    obs = truth.sda.observe(truth.isel(time=slice(None, None, 8))[list(truth)[:1]], sigma=1.0, seed=4)
    rooms, room = [], pieces._room
    monkeypatch.setattr(pieces, "_room", lambda *inputs: rooms.append(room(*inputs)) or rooms[-1])
    options = {"members": 2, "sampler": DPMpp2MSDE(steps=3, corrections=1), "redraw": 0, "progress": False}
    whole = truth.sda.assimilate(obs, prior, **options)
    monkeypatch.setattr("xsda.sampling.task.MEMORY", 2**18)
    parts = truth.sda.assimilate(obs, prior, **options)
    assert rooms[1] < truth.sizes["time"] < rooms[0]
    xr.testing.assert_allclose(parts, whole, rtol=1e-4, atol=1e-4)


def test_members_that_do_not_fit_are_drawn_again(sparse, whatever_modes):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        never = draw(sparse, 0)
        (text,) = told(caught, "do not fit")  # told of, though nobody asked to draw again
        assert "attempts" not in text
        once, twice = draw(sparse, 1), draw(sparse, 2)
    before, middle, after = (chi_square(sparse, p) for p in (never, once, twice))
    fits = beside(before, 4)
    assert int((after > fits).sum()) < int((middle > fits).sum()) < int((before > fits).sum())
    left = int((after > stats.chi2.isf(1e-6, 4)).sum())
    assert bool((after <= before).all())  # the nearest of all attempts stays
    good = before <= fits
    assert 4 < good.sum() < 20
    for v in "xyz":
        assert np.array_equal(never[v][good], twice[v][good])  # bit for bit
    assert not np.array_equal(never.x[~good], twice.x[~good])
    text = told(caught, "do not fit the observations")
    assert len(text) == 3
    assert text[2].startswith(f"{left} of 24 members")
    assert "after 2 more attempts" in text[2]


@pytest.mark.filterwarnings("ignore:.*do not fit:RuntimeWarning")
def test_the_progress_bar_counts_the_steps_of_all_draws(sparse, capsys):
    draw(sparse, 2, progress=True, batch=12)
    done, total = map(int, re.findall(r"(\d+)/(\d+) \[", capsys.readouterr().err)[-1])
    assert done == total
    assert total % POOR.steps == 0
    assert total > 2 * POOR.steps  # two batches, and what was drawn again


@pytest.mark.filterwarnings("ignore:.*do not fit:RuntimeWarning")
def test_whatever_the_chunks(sparse):
    whole = draw(sparse, 2, members=16)
    for options in ({"chunks": {"member": 7}}, {"batch": 5}):
        other = draw(sparse, 2, members=16, **options).compute(scheduler="synchronous")
        xr.testing.assert_allclose(other, whole, rtol=1e-3, atol=1e-2)
    for wanted in (range(9), range(10, 16), [2], [7, 3]):
        other = draw(sparse, 2, members=wanted)
        xr.testing.assert_allclose(other, whole.sel(member=list(wanted)), rtol=1e-3, atol=1e-2)


@pytest.mark.filterwarnings("ignore:.*do not fit:RuntimeWarning")
@pytest.mark.parametrize("wanted", [range(12), range(8, 16)])
@pytest.mark.parametrize("options", [{"batch": 2}, {"chunks": {"member": 2}}])
def test_what_others_are_held_against_is_drawn_once(sparse, monkeypatch, wanted, options):
    """Members 0 to 7, as far as they are not in the first block, though blocks travel apart."""
    drawn = []

    def noise(seed, members, *rest, attempt, **how):
        drawn.extend(m for m in members if not attempt)
        return MemberNoise(seed, members, *rest, attempt=attempt, **how)

    monkeypatch.setattr("xsda.sampling.task.MemberNoise", noise)
    monkeypatch.setattr(
        "xsda.sampling.blocks._block", lambda task, *rest: block(pickle.loads(pickle.dumps(task)), *rest)
    )
    draw(sparse, 1, members=wanted, **options).compute(scheduler="synchronous")
    more = Counter(drawn) - Counter(wanted)
    assert set(drawn) == {*wanted, *range(8)}
    assert set(more) <= set(range(8))
    assert max(more.values()) == 1


@pytest.mark.filterwarnings("ignore:.*do not fit:RuntimeWarning")
def test_members_of_a_mode_that_is_seldom_met_are_drawn_again():
    """By itself a member could be right, as its chi-square of 128 values is 121; the mode that it belongs to is not."""
    truth = xsda.systems.Lorenz63().simulate(128, seed=0)
    case = truth, truth.sda.observe(truth[["x"]], sigma=4.0, seed=9)
    never, again = (draw(case, n, members=32, sampler=DPMpp2MSDE(steps=16)) for n in (0, 10))
    before, after = (chi_square(case, p, sigma=4.0) for p in (never, again))
    error, mended = (np.sqrt(((p - truth) ** 2).to_array().mean(("variable", "time"))).values for p in (never, again))
    changed = (never.x != again.x).any("time").values
    hidden = changed & (before < beside(before, truth.sizes["time"]))
    assert hidden.sum() >= 3
    assert before[hidden].min() < truth.sizes["time"]
    assert error[hidden].mean() > 1.6 * error[~changed].mean()
    assert mended.max() <= error[~changed].max()
    assert after.max() < before[hidden].max()


@pytest.mark.filterwarnings("ignore:.*do not fit:RuntimeWarning")
def test_members_are_judged_by_the_law_of_the_errors(whatever_modes):
    """One value in ten is wrong: it does not tell members apart, and the others do."""
    truth = xsda.systems.Lorenz63().simulate(128, seed=0)
    obs = truth.sda.observe(truth[["x"]], sigma=4.0, seed=9)
    obs["x"][::10] += 60
    never, again = (
        draw((truth, obs), n, members=32, sampler=DPMpp2MSDE(steps=16), likelihood="student_t") for n in (0, 2)
    )
    z = (never.x - obs.x).values / 4
    deviance = StudentT().deviance(torch.tensor(z).double(), torch.ones(1).double()).sum(-1).numpy()
    worse = deviance > beside(deviance, truth.sizes["time"])
    assert 0 < worse.sum() < 32
    assert np.array_equal(never.x[~worse], again.x[~worse])
    error = [np.sqrt(((p - truth) ** 2).to_array().mean(("variable", "time")))[worse] for p in (never, again)]
    assert error[1].mean() < 0.8 * error[0].mean()


def test_of_unfit_members_is_warned_once(sparse):
    for options in ({"batch": 3}, {"chunks": {"member": 3}}):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            draw(sparse, 1, members=6, **options).compute(scheduler="synchronous")
        assert len(told(caught, "do not fit")) == 1


def test_particles_are_never_drawn_again(sparse):
    """Weights have chosen already."""
    with pytest.warns(RuntimeWarning, match="do not fit"):
        never, twice = (draw(sparse, n, members=8, sampler=TDS(steps=8, particles=8)) for n in (0, 2))
    assert np.array_equal(never.x, twice.x)


def test_gross_errors_are_no_reason_for_a_warning_where_they_are_expected(sparse):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        draw(sparse, 0, members=8, likelihood="student_t")
    assert not told(caught, "do not fit")


def test_exact_priors_are_not_drawn_again(rotation):
    grid, _, prior = rotation
    obs = xr.Dataset({"u": ("time", [30.0, -30.0])}, {"time": [3.0, 4.0]})  # what the prior deems impossible
    with pytest.warns(RuntimeWarning, match="4 of 4 members .* do not fit"):
        never, twice = (grid.sda.assimilate(obs, prior, members=4, sigma=1.0, redraw=n, progress=False) for n in (0, 2))
    assert np.array_equal(never.u, twice.u)


@pytest.mark.parametrize("redraw", [-1, 1.5, True])
def test_impossible_numbers_of_attempts(sparse, redraw):
    with pytest.raises(ValueError, match=f"redraw={redraw} must be an integer of at least 0"):
        draw(sparse, redraw)


@pytest.mark.parametrize("options", [{"batch": 2}, {"chunks": {"member": 2}}, {}])
def test_solves_that_do_not_converge_are_told_of_once(rotation, options):
    grid, _, prior = rotation
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        grid.sda.assimilate(
            grid + 1, prior, members=6, sigma=0.1, guidance=MMPS(iterations=1), steps=8, progress=False, **options
        ).compute(scheduler="synchronous")
    (text,) = told(caught, "MMPS")
    residual = float(text.split("residual of up to ")[1].split(",")[0])
    assert 0.03 < residual <= 1
    assert "tolerance=0.03" in text
    assert "after at most iterations=1 products" in text


def test_solves_that_converge_say_nothing(rotation):
    grid, _, prior = rotation
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        grid.sda.assimilate(grid + 1, prior, members=6, sigma=0.1, progress=False)
