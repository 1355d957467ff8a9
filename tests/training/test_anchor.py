"""Regional fields: a network on a Gaussian, judged on blocks that are left out."""

import copy

import numpy as np
import pytest
import torch
import xarray as xr

import xsda
from xsda.diffusion.anchored import Anchored
from xsda.labels import Layout
from xsda.priors.eof_fit import fit_eof
from xsda.priors.normals import fit_normals
from xsda.priors.taper_choice import Choice
from xsda.training.anchor import anchored, leave_blocks, rehearse, widened
from xsda.training.checkpoint import save_checkpoint
from xsda.training.networks import make_network
from xsda.training.plan import planned
from xsda.training.windows import Windows

QUICK = {"steps": 4, "warmup": 1, "validate_every": 4, "validation_batches": 1, "progress": False, "width": 4}


def weather(states=240):
    """Waves of random phase over land and sea, hourly."""
    rng = np.random.default_rng(0)
    a = np.zeros((states, 6))
    for k in range(1, states):
        a[k] = 0.9 * a[k - 1] + 0.4 * rng.standard_normal(6)
    y, x = np.mgrid[0:8, 0:10]
    waves = [np.cos(p * x / 3 + q * y / 3 + p * q) for p in range(3) for q in (1, 2)]
    values = 280 + np.einsum("tk,kyx->tyx", a, waves) + 0.1 * rng.standard_normal((states, 8, 10))
    values[:, :2, :3] = np.nan
    time = xr.date_range("2020-01-01", periods=states, freq="h")
    coords = {"time": time, "lat": np.linspace(50, 57, 8), "lon": np.linspace(0, 9, 10)}
    return xr.Dataset({"t": (("time", "lat", "lon"), values, {"units": "K"})}, coords)


@pytest.fixture(scope="module")
def trained():
    return xsda.train(weather(), window=6, rehearsals=1, seed=3, **QUICK)


@pytest.fixture
def no_search(monkeypatch):
    """The search for the taper takes most of the time of a fit."""
    monkeypatch.setattr("xsda.priors.eof_fit.choose_taper", lambda *a: Choice())


def test_what_is_left_open_is_chosen_for_regional_fields():
    """A day of hourly data, a network on a Gaussian, and geo; other data are trained as before."""
    plan = planned(weather(480))
    assert (plan.network, plan.window, plan.width, plan.anchored) == ("spacetime", 24, 16, True)
    assert plan.layout.position
    assert planned(weather()).window == 16
    assert not planned(weather(), anchor=False).anchored
    assert not planned(weather(), network="temporal").anchored
    chain = planned(xsda.systems.Lorenz63().simulate(40, 4, seed=0))
    assert (chain.network, chain.window, chain.anchored, chain.settings.steps) == ("temporal", 5, False, 10_000)


def test_blocks_are_spread_over_the_record():
    ds = weather(480)
    training, left = leave_blocks(ds, Layout.of(ds), 24)
    assert left.sizes["time"] == 96
    assert training.sizes["time"] == 384
    assert not np.isin(left.time, training.time).any()
    middles = np.unique(left.time.values.astype("datetime64[h]").astype(int) // 120, return_counts=True)[1]
    assert middles.tolist() == [24] * 4
    for part in leave_blocks(ds.drop_vars("time"), Layout.of(ds.drop_vars("time")), 24):  # seams are gaps
        assert len(Windows(part, Layout.of(part), 24)) == len(part.time) - 23 * (4 + (len(part.time) > 96))
    with pytest.raises(ValueError, match=r"480 states .* too few to leave out 4 blocks of 70"):
        leave_blocks(ds, Layout.of(ds), 70)


def test_the_prior_is_stored_with_its_gaussian_and_says_what_to_expect(trained, tmp_path):
    assert isinstance(trained.denoiser, Anchored)
    assert 0.3 < trained.info["spread over error"] < 3
    assert "spread over error" in repr(trained)
    again = xsda.load_model(trained.save(tmp_path / "p.safetensors"))
    assert again.hash == trained.hash
    x = torch.randn(2, 6, 1, 8, 10, generator=torch.Generator().manual_seed(0))
    context = again.bind(weather().isel(time=slice(0, 6))).context()
    t = trained.schedule.time(torch.tensor(0.5))
    torch.testing.assert_close(again.denoiser.conditioned(context)(x, t), trained.denoiser.conditioned(context)(x, t))
    with pytest.raises(ValueError, match="exactly 6 states"):
        again.bind(weather().isel(time=slice(0, 7)))
    with pytest.raises(ValueError, match="train it with anchor=False to balance it"):
        xsda.balance(trained, weather())


def test_a_shut_gate_gives_the_posterior_of_the_gaussian(trained):
    """Members of the network with its gate shut are those of the Gaussian, which was fitted to the whole record."""
    grid = weather().isel(time=slice(0, 6))
    obs = grid.isel(lat=slice(None, None, 3), lon=slice(None, None, 3))
    gate = trained.denoiser.gate.clone()
    gaussian = xsda.GaussianPrior.fit(weather(), length=6)
    try:
        trained.denoiser.gate.zero_()
        found = grid.sda.assimilate(obs, trained, sigma=0.2, members=4, progress=False)
    finally:
        trained.denoiser.gate.copy_(gate)
    expected = grid.sda.assimilate(obs, gaussian, sigma=0.2, members=4, progress=False)
    assert found.t.isnull().equals(expected.t.isnull())
    assert float(abs(found.t - expected.t).mean()) < 0.15 * float(grid.t.std())


@pytest.mark.usefixtures("no_search")
def test_the_network_learns_from_gaussians_that_did_not_see_the_data():
    """Batches of each part of the data in turn, from any batch on, and a Gaussian of the other parts for each."""
    ds = weather().drop_isel(time=range(100, 104))  # a gap, as blocks left out make
    layout = fit_normals(ds, Layout.of(ds))
    network = make_network("spacetime", layout, 3, 4, extra=1)
    denoiser, folds = anchored(network, ds, layout, 3, layout.normals.masked)
    assert len(denoiser.others) == len(folds.parts) == 4
    quarter = ds.isel(time=slice(59, 118))
    other = fit_eof(ds.drop_isel(time=range(59, 118)), layout, 3)[0]
    x = other.draw(2, torch.Generator().manual_seed(0))
    other.schedule = denoiser.schedule
    t = denoiser.schedule.time(torch.tensor(0.5))
    denoiser.turn(5)
    torch.testing.assert_close(denoiser.based(x, t), other(x, t), rtol=1e-4, atol=1e-5)
    batches = folds.batches(3, seed=0)
    first = [next(batches)[0] for _ in range(8)]
    later = folds.batches(3, seed=0, skip=5)
    for n in (5, 6, 7):
        assert torch.equal(next(later)[0].nan_to_num(), first[n].nan_to_num())
    inside = Windows(quarter, layout, 1)
    states = torch.cat([inside.read(p).flatten(0, 1) for p in inside.pieces]).nan_to_num()
    assert all((states == s.nan_to_num()).flatten(1).all(1).any() for s in first[5][0])


def test_a_rehearsal_counts_points_with_values_only():
    """Independent numbers: the error is the spread. A window always has an observation, or it is passed over."""
    variance = np.where(np.arange(16) < 8, 1.0, 100.0)
    values = np.random.default_rng(0).standard_normal((12, 16)) * np.sqrt(variance)
    values[:, 8:] = values[3] = np.nan
    ds = xr.Dataset({"t": (("time", "x"), values)}, {"time": np.arange(12.0), "x": np.arange(16.0)})
    prior = xsda.GaussianPrior(ds.isel(time=slice(0, 1)).fillna(0) * 0, np.diag(variance))
    assert rehearse(prior, ds, 12, progress=False) == pytest.approx(1, abs=0.25)


def test_a_prior_that_is_widened_has_a_larger_error(trained, monkeypatch):
    """Also without a Gaussian that is fitted again, as when the validation data are given."""
    monkeypatch.setattr("xsda.training.anchor.rehearse", lambda *a, **k: 0.8)
    prior = copy.copy(trained)
    prior.info, before = {}, float(trained.denoiser.root)
    widened(prior, weather(), 1, progress=False)
    assert float(prior.denoiser.root) == pytest.approx(before / 0.8)
    gaussian = prior.denoiser.base.times(float(prior.denoiser.root) ** 2)
    expected = gaussian.mean_square(torch.tensor(1.0)).sqrt()
    torch.testing.assert_close(prior.error(torch.tensor(1.0)), expected, rtol=1e-2, atol=0)


@pytest.mark.usefixtures("no_search")
def test_a_training_that_is_resumed_gives_the_same_prior(tmp_path, monkeypatch):
    """To the last bit: each step takes the Gaussian of its own part of the data again."""
    monkeypatch.setattr("xsda.training.anchor.measure_gate", lambda denoiser, batches: (denoiser.gate, 0.0))
    ds = weather(64).isel(lat=slice(0, 4), lon=slice(0, 4))
    options = {**QUICK, "steps": 2, "validate_every": 1, "checkpoint_every": 1, "window": 2, "rehearsals": 0}

    def stop(step, values):
        if step == 2:
            raise KeyboardInterrupt

    whole = xsda.train(ds, **options)
    with pytest.raises(KeyboardInterrupt):
        xsda.train(ds, checkpoint=tmp_path / "c", callback=stop, **options)
    assert xsda.train(ds, checkpoint=tmp_path / "c", **options).hash == whole.hash


def test_minutes_set_the_steps(tmp_path):
    options = {**QUICK, "window": 6, "anchor": False}
    one = xsda.train(weather(), minutes=0.05, **{**options, "steps": 9999})
    assert 1 <= one.info["training_steps"] < 2000
    with pytest.raises(ValueError, match="too short for a single step"):
        xsda.train(weather(), minutes=1e-6, **options)
    other = tmp_path / "other.safetensors"
    save_checkpoint(other, {}, {})
    with pytest.raises(ValueError, match="is not a checkpoint of a training"):
        xsda.train(weather(), minutes=1, checkpoint=other, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"anchor": "yes"}, "must be True, False or 'auto'"),
        ({"anchor": True, "scaling": "variable"}, "whose points have their own mean"),
        ({"balance": 8}, "balance is for networks that are not anchored"),
        ({"shortest": 2}, "shortest is for networks that are not anchored"),
        ({"parameterization": "v"}, "parameterization is for networks that are not anchored"),
        ({"schedule": xsda.diffusion.VE()}, "schedule of its Gaussian"),
        ({"rehearsals": -1}, "rehearsals=-1 must be"),
        ({"minutes": "long"}, "minutes="),
    ],
)
def test_errors(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        xsda.train(weather(), window=6, **QUICK, **options)
