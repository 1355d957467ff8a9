"""Files of priors, and exact priors."""

import functools
import json
import operator
import struct

import numpy as np
import pytest
import torch
import xarray as xr
from safetensors import safe_open
from safetensors.torch import save_file
from scipy.stats import multivariate_normal

import xsda
from xsda.diffusion import VE, ErrorCurve, Preconditioned
from xsda.diffusion.anchored import Anchored
from xsda.diffusion.balance import Balance, Balanced
from xsda.labels.layout import Layout
from xsda.nn import MarkovNet, TemporalNet, WindowMLP
from xsda.priors.exact import GaussianDenoiser


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


NEVER = "nothing"


def forged(path, change, tensors=lambda t: t):
    """Rewrite a file with another description: ``change`` sets what lies at a path of names, or removes it."""
    with safe_open(path, "pt") as file:
        meta, kept = json.loads(file.metadata()["xsda"]), {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    for names, value in change.items():
        *way, last = (int(n) if n.isdigit() else n for n in names.split("."))
        place = functools.reduce(operator.getitem, way, meta)
        if value is NEVER:
            del place[last]
        else:
            place[last] = value
    save_file(tensors(kept), path, {"xsda": json.dumps(meta)})
    return path


def refused(path, message):
    with pytest.raises(ValueError, match=message) as caught:
        xsda.load_model(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2**70}, "has format 1180591620717411303424, .* upgrade"),
        ({"format": "1"}, "format is '1', expected an integer"),
        ({"window": "5"}, "window is '5', expected an integer"),
        ({"window": True}, "window is True, expected an integer"),
        ({"window": 0}, "window is 0, expected at least 1"),
        ({"length": 2.5}, r"length is 2\.5, expected an integer or null"),
        ({"name": ["small"]}, "name is ..small.., expected text"),
        ({"info": [1, 2]}, "info is .1, 2., expected a table"),
        ({"hash": NEVER}, "the description lacks 'hash'"),
        ({"denoiser": "Preconditioned"}, "denoiser is 'Preconditioned', expected a table"),
        ({"denoiser.kind": ["a"]}, r"denoiser\.kind is .*expected text"),
        ({"denoiser.data_std": "1"}, r"denoiser\.data_std is '1', expected a number"),
        ({"denoiser.schedule": "VE"}, r"denoiser\.schedule is 'VE', expected a table"),
        ({"denoiser.schedule.sigma_min": "a"}, "incomplete or damaged"),
        ({"denoiser.schedule": {"name": "LinearBeta", "steps": 10**12}}, "steps <= 1e6"),
        ({"denoiser.schedule.name": "Unknown"}, "it lacks 'Unknown'"),
        ({"denoiser.kind": "Unknown"}, "it lacks 'Unknown'"),
        ({"denoiser.network": []}, r"denoiser\.network is .., expected a table"),
        ({"layout.variables": 5}, r"layout\.variables is 5, expected a list"),
        ({"layout.variables.0": "u"}, r"layout\.variables\[0\] is 'u', expected a table"),
        ({"layout.variables.0.mean": ["a"]}, r"layout\.variables\[0\]\.mean\[0\] is 'a', expected a number"),
        ({"layout.variables.0.name": NEVER}, r"layout\.variables\[0\] lacks 'name'"),
        ({"layout.dt": "1 h"}, r"layout\.dt is '1 h', expected a number or null"),
        ({"layout.dates": 0}, r"layout\.dates is 0, expected true or false"),
        ({"layout.space": [{"name": "x", "size": 10**15, "spacing": 1, "period": None}]}, "grid has 1e.15 points"),
        ({"layout.unknown": 1}, "incomplete or damaged"),
    ],
)
def test_a_description_of_another_form_is_refused_in_one_sentence(lorenz, tmp_path, change, message):
    refused(forged(small_prior(lorenz[0]).save(tmp_path / "prior.safetensors"), change), message)


@pytest.mark.parametrize("depth", [300, 100_000])
@pytest.mark.parametrize("where", ["all", "info", "local"])
def test_a_description_nested_without_end_is_refused_in_one_sentence(lorenz, tmp_path, where, depth):
    path = small_prior(lorenz[0]).save(tmp_path / "prior.safetensors")
    with safe_open(path, "pt") as file:
        text, tensors = file.metadata()["xsda"], {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    if where == "all":
        text = "[" * depth + "]" * depth
    elif where == "info":
        text = text.replace('"info": {', '"info": {"deep": ' + "[" * depth + "]" * depth + ", ")
    else:
        start, end = '{"name": "MarkovNet", "order": 1, "local": ', "}"
        text = text.replace('"network": {', '"network": ' + start * depth + "{").replace(
            '}, "parameterization"', "}" + end * depth + ', "parameterization"'
        )
    save_file(tensors, path, {"xsda": text})
    refused(path, "damaged")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 2**40}, "damaged"),
        ({"width": 10**6}, "the file holds"),
        ({"width": 9}, r"its network has \(18,\) as 'blocks.0.mix.conv.bias', the file holds \(16,\)"),
        ({"channels": 10**9}, "the file holds"),
        ({"features": 10**7}, "the file holds"),
        ({"kernel": 10**9 + 1}, "the file holds"),
        ({"dilations": [1] * 100_000}, "its network has more tensors than the .. that the file holds"),
        ({"dilations": [1]}, "its network has nothing as 'blocks.1"),
        ({"width": "8"}, "damaged"),
        ({"width": -8}, "damaged"),
        ({"name": "WindowMLP", "window": 5, "depth": 10**12}, "damaged"),
        ({"name": "MarkovNet", "order": 2, "local": {"name": "WindowMLP", "channels": 3, "window": 5, "depth": 10**12}}, "more tensors"),
        ({"name": "SpaceTimeUNet", "boundaries": ["zeros"], "hidden": [8], "blocks": [10**12]}, "damaged"),
    ],
)  # fmt: skip
def test_a_network_that_claims_more_than_the_file_holds_is_never_made(lorenz, tmp_path, monkeypatch, change, message):
    path = small_prior(lorenz[0]).save(tmp_path / "prior.safetensors")
    if "local" in change:
        forged(path, {"denoiser.network": change})
    else:
        forged(path, {f"denoiser.network.{k}": v for k, v in change.items()})
    monkeypatch.setattr("xsda.priors.prior.build_network", lambda config: pytest.fail("memory was taken"))
    refused(path, message)


def test_an_exact_prior_of_another_shape_is_refused(rotation, tmp_path):
    path = rotation[2].save(tmp_path / "prior.safetensors")
    forged(path, {}, lambda t: {**t, "denoiser.shape": torch.tensor([10**9, 10**9])})
    refused(path, r"its states have the shape \(1000000000, 1000000000\), its layout describes \(32, 2\)")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"error.levels": (1,)}, r"'error.levels' has the shape \(1,\), expected one axis of 2 or more values"),
        ({"error.levels": (4, 1)}, r"'error.levels' has the shape \(4, 1\), expected one axis"),
        ({"error.rms": (4, 2)}, r"'error.rms' has the shape \(4, 2\), its layout needs \(4, 1\)"),
        ({"error.rms": (5, 1)}, r"'error.rms' has the shape \(5, 1\), its layout needs \(4, 1\)"),
        ({"error.lag": (4, 3)}, r"'error.lag' has the shape \(4, 3\), its layout needs \(4, 2\)"),
        ({"balance.levels": ()}, r"'balance.levels' has the shape \(\), expected one axis"),
        ({"balance.wavenumbers": (1,)}, r"'balance.wavenumbers' has the shape \(1,\), expected one axis"),
        ({"balance.rate": (3, 1, 6)}, r"'balance.rate' has the shape \(3, 1, 6\), its layout needs \(3, 1, 5\)"),
        ({"balance.rate": (3, 2, 5)}, r"'balance.rate' has the shape \(3, 2, 5\), its layout needs \(3, 1, 5\)"),
        ({"error.levels": None}, ""),
    ],
)
def test_an_error_or_a_correction_of_another_shape_is_refused(tmp_path, change, message):
    """Even where the fingerprint is right: ``save`` makes it from what it is given."""
    shapes = {
        "error.levels": (4,), "error.rms": (4, 1), "error.lag": (4, 2), "balance.levels": (3,),
        "balance.wavenumbers": (5,), "balance.rate": (3, 1, 5),
    }  # fmt: skip
    rows = {k: torch.rand(v) + 0.5 for k, v in {**shapes, **{k: v for k, v in change.items() if v is not None}}.items()}
    ring = xr.Dataset({"u": (("time", "x"), np.zeros((4, 8)))}, {"time": np.arange(4.0), "x": np.arange(8.0)})
    plain = Preconditioned(TemporalNet(1, width=4, boundaries=("periodic",)), VE())
    balanced = Balanced(plain, Balance(*(rows[f"balance.{k}"] for k in ("levels", "wavenumbers", "rate"))))
    error = ErrorCurve(*(rows[f"error.{k}"] for k in ("levels", "rms", "lag")))
    path = xsda.Prior(balanced, Layout.of(ring), error=error).save(tmp_path / "prior.safetensors")
    if message:
        refused(path, message)
    else:
        assert xsda.load_model(path).error.rms.shape == (4, 1)


@pytest.mark.parametrize(
    ("change", "shapes", "message"),
    [
        ({}, {}, ""),
        ({"denoiser.base": NEVER}, {}, "denoiser lacks 'base'"),
        ({"denoiser.base": ["GaussianDenoiser"]}, {}, r"denoiser\.base is .*expected text"),
        ({"denoiser.base": "EofDenoiser"}, {}, "it lacks 'patterns'"),
        ({}, {"levels": (1,)}, r"'denoiser.levels' has the shape \(1,\), expected one axis of 2 or more"),
        ({}, {"rms": (4, 2)}, r"'denoiser.rms' has the shape \(4, 2\), its layout needs \(4, 1\)"),
        ({}, {"gate": (3,)}, r"'denoiser.gate' has the shape \(3,\), its layout needs \(4,\)"),
        ({}, {"root": (4,)}, r"'denoiser.root' has the shape \(4,\), its layout needs \(\)"),
    ],
)
def test_an_anchored_network_of_another_form_is_refused(tmp_path, change, shapes, message):
    rows = {k: torch.rand(shapes.get(k, v)) + 0.5 for k, v in {"levels": (4,), "rms": (4, 1), "gate": (4,)}.items()}
    base = GaussianDenoiser.of(torch.zeros(1, 32), torch.eye(32)[None], torch.ones(1), (4, 1, 8))
    network = TemporalNet(1, width=4, boundaries=("periodic",))
    error, root = ErrorCurve(rows["levels"], rows["rms"]), torch.ones(shapes.get("root", ()))
    ring = xr.Dataset({"u": (("time", "x"), np.zeros((4, 8)))}, {"time": np.arange(4.0), "x": np.arange(8.0)})
    prior = xsda.Prior(Anchored(network, base, error, rows["gate"], root), Layout.of(ring), length=4)
    path = forged(prior.save(tmp_path / "prior.safetensors"), change)
    if message:
        refused(path, message)
    else:
        assert xsda.load_model(path).hash == prior.hash


def test_a_header_that_claims_more_than_the_file_holds_is_refused(tmp_path):
    header = {"a": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}, "__metadata__": {"xsda": "{}"}}
    text = json.dumps(header).encode()
    path = tmp_path / "prior.safetensors"
    for start, rest in ((len(text), text + bytes(64)), (2**62, text), (10**8 - 1, text)):
        path.write_bytes(struct.pack("<Q", start) + rest)
        refused(path, "truncated")


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
