"""Files of priors, and exact priors."""

import json

import numpy as np
import pytest
import torch
import xarray as xr
from safetensors.torch import save_file
from scipy.stats import multivariate_normal

import xsda
from xsda.diffusion import VE, Preconditioned
from xsda.labels.layout import Layout
from xsda.nn import MarkovNet, TemporalNet, WindowMLP


def small_prior(truth, network=None):
    torch.manual_seed(0)
    layout = Layout.of(truth).scaled([0, 0, 25], [8, 9, 8.6])
    network = network or TemporalNet(3, width=8, dilations=(1, 2))
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.1)
    return xsda.Prior(Preconditioned(network, VE()), layout, window=5, info={"made": "for a test"}, name="small")


@pytest.mark.parametrize("kind", ["temporal", "markov", "gaussian", "mixture"])
def test_a_file_gives_back_the_same_prior(kind, lorenz, rotation, tmp_path):
    truth, _ = lorenz
    grid, cov, gaussian = rotation
    prior = {
        "temporal": lambda: small_prior(truth),
        "markov": lambda: small_prior(truth, MarkovNet(WindowMLP(3, 5, width=8, depth=1), 2)),
        "gaussian": lambda: gaussian,
        "mixture": lambda: xsda.GaussianMixturePrior([grid, grid + 1], [cov, cov], [0.3, 0.7]),
    }[kind]()
    like = truth if kind in ("temporal", "markov") else grid
    path = prior.save(tmp_path / "prior.safetensors")
    back = xsda.load_model(path)
    assert back.hash == prior.hash
    assert back.layout == prior.layout
    assert back.info == prior.info
    a, b = (xsda.sample(like, p, members=2, steps=4, progress=False) for p in (prior, back))
    xr.testing.assert_allclose(a, b, atol=1e-5)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        prior.save(path)


def test_files_that_are_not_priors(lorenz, tmp_path):
    path = small_prior(lorenz[0]).save(tmp_path / "prior.safetensors")
    whole = path.read_bytes()
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="truncated"):
        xsda.load_model(cut)
    text = tmp_path / "text.safetensors"
    text.write_text("not at all")
    with pytest.raises(ValueError, match="not a safetensors file"):
        xsda.load_model(text)
    foreign = tmp_path / "foreign.safetensors"
    save_file({"a": torch.zeros(2)}, foreign)
    with pytest.raises(ValueError, match="not a prior of xsda"):
        xsda.load_model(foreign)
    newer = tmp_path / "newer.safetensors"
    save_file({"a": torch.zeros(2)}, newer, {"xsda": json.dumps({"format": 99})})
    with pytest.raises(ValueError, match=r"format 99.*upgrade"):
        xsda.load_model(newer)
    hollow = tmp_path / "hollow.safetensors"
    save_file({"a": torch.zeros(2)}, hollow, {"xsda": json.dumps({"format": 1})})
    with pytest.raises(ValueError, match="incomplete or damaged"):
        xsda.load_model(hollow)
    pickled = tmp_path / "pickled.pt"
    torch.save({"a": 1}, pickled)
    with pytest.raises(ValueError, match="not a safetensors file"):
        xsda.load_model(pickled)


def test_a_network_of_ones_own_cannot_be_stored_but_can_be_used(lorenz, tmp_path):
    class Mine(torch.nn.Module):
        def forward(self, x, log_noise):
            return torch.zeros_like(x)

    truth, _ = lorenz
    prior = xsda.Prior(Preconditioned(Mine(), VE()), Layout.of(truth))
    assert xsda.sample(truth, prior, members=2, steps=4, progress=False).sizes["member"] == 2
    with pytest.raises(ValueError, match="network of type Mine"):
        prior.save(tmp_path / "mine.safetensors")


def test_gaussian_samples_have_its_moments(rotation):
    grid, cov, prior = rotation
    sample = xsda.sample(grid, prior, members=20_000, seed=3, progress=False)
    x = np.concatenate([sample.u.values, sample.v.values], 1)
    assert np.abs(x.mean(0)).max() < 0.04
    assert np.linalg.norm(np.cov(x.T) - cov) < 0.05 * np.linalg.norm(cov)


def test_gaussian_log_prob_and_elbo(rotation):
    grid, cov, prior = rotation
    sample = xsda.sample(grid, prior, members=3, seed=1, progress=False)
    x = np.concatenate([sample.u.values, sample.v.values], 1)
    exact = multivariate_normal(np.zeros(64), cov).logpdf(x)
    np.testing.assert_allclose(xsda.log_prob(sample, prior), exact, atol=0.2)
    bound = xsda.elbo(sample, prior, samples=2000)
    np.testing.assert_allclose(bound, exact, atol=3.0)
    assert bound.dims == ("member",)


def test_log_prob_is_a_density_in_the_units_of_the_variables():
    grid = xr.Dataset({"T": ("time", np.full(4, 280.0))}, {"time": np.arange(4.0)})
    cov = 9.0 * (0.5 ** np.abs(np.subtract.outer(np.arange(4), np.arange(4))))
    prior = xsda.GaussianPrior(grid, cov)
    x = grid + np.array([1.0, -2, 0.5, 3])
    expected = multivariate_normal(np.full(4, 280.0), cov).logpdf(x["T"].values)
    assert float(xsda.log_prob(x, prior)) == pytest.approx(expected, abs=0.01)


def test_covariance_follows_the_ravelled_variables():
    """Two fields on (time, y): only the last number of the second variable varies."""
    shape = (2, 3)
    coords = {"time": [0.0, 1.0], "lat": [50.0, 40.0, 30.0]}
    grid = xr.Dataset({v: (("time", "lat"), np.zeros(shape)) for v in ("a", "b")}, coords)
    cov = np.diag([1e-8] * 11 + [4.0])
    sample = xsda.sample(grid, xsda.GaussianPrior(grid, cov), members=2000, progress=False)
    variance = sample.var("member")
    assert float(variance.b.isel(time=1, lat=2)) == pytest.approx(4, rel=0.15)
    assert float(variance.a.max()) < 1e-3
    assert float(variance.b.isel(time=0).max()) < 1e-3


def test_mixture_weights():
    grid = xr.Dataset({"a": ("time", np.zeros(2))}, {"time": [0.0, 1.0]})
    prior = xsda.GaussianMixturePrior([grid - 3, grid + 3], [np.eye(2) * 0.25] * 2, [0.2, 0.8])
    sample = xsda.sample(grid, prior, members=4000, steps=64, progress=False)
    up = sample.a.mean("time") > 0
    assert float(up.mean()) == pytest.approx(0.8, abs=0.03)
    assert float(sample.a.where(up).mean()) == pytest.approx(3, abs=0.03)
    assert float(sample.a.where(up).var()) == pytest.approx(0.25, rel=0.1)


@pytest.mark.parametrize(
    ("cov", "message"),
    [
        (np.eye(3), "expected \\(2, 2\\)"),
        (np.array([[1.0, 0.5], [0.0, 1.0]]), "not symmetric"),
        (np.diag([1.0, -1.0]), "positive semi-definite"),
    ],
)
def test_covariances_that_are_none(cov, message):
    grid = xr.Dataset({"a": ("time", np.zeros(2))}, {"time": [0.0, 1.0]})
    with pytest.raises(ValueError, match=message):
        xsda.GaussianPrior(grid, cov)


def test_embedded_priors_are_small_and_described():
    total = 0
    for name in ("lorenz63", "lorenz96", "kolmogorov"):
        prior = xsda.load_model(name)
        total += prior.path.stat().st_size
        assert prior.name == name
        assert prior.error is not None
        assert {"training_steps", "validation_loss", "data", "seed"} <= set(prior.info)
        assert name in repr(prior)
    assert total < 10e6
