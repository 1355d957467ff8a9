"""Options of a draw have one home, ``SamplingOptions``; what is typed arrives at the library unchanged."""

import dataclasses
import inspect
import re

import click
import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner

import xsda
from xsda import assimilation, reanalysis
from xsda.accessor import SdaAccessor
from xsda.cli.ensembles import assimilate, reanalyse, sample
from xsda.cli.prepare import train
from xsda.cli.program import program
from xsda.cli.shared import descriptions
from xsda.cli.values import law, settings, standard_deviation
from xsda.sampling import draw
from xsda.sampling.options import SamplingOptions

DEFAULTS = {f.name: f.default for f in dataclasses.fields(SamplingOptions)}
# --grid, OBSERVATIONS, --model; functions cannot be typed; --out and --overwrite belong to all commands
ELSEWHERE = {"ds", "self", "obs", "model", "derived", "out", "overwrite"}
OF_COMMANDS = {"observations", "model", "models", "grid", "out", "overwrite"}


def of_function(function):
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.name not in ELSEWHERE}


def of_command(command):
    context = click.Context(command)
    return {p.name: p.get_default(context) for p in command.params if p.name not in OF_COMMANDS}


def drawn(options):
    return {name: value for name, value in options.items() if name in DEFAULTS}


def call(*arguments, code=0):
    result = CliRunner().invoke(program, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    return result.output


@pytest.mark.parametrize("options", [
    of_function(xsda.assimilate), of_function(SdaAccessor.assimilate), of_command(assimilate),
], ids=["function", "accessor", "command"])  # fmt: skip
def test_names_and_defaults_of_assimilate(options):
    assert drawn(options) == DEFAULTS


@pytest.mark.parametrize("options", [
    of_function(xsda.sample), of_function(SdaAccessor.sample), {k: v for k, v in of_command(sample).items() if k != "length"},
], ids=["function", "accessor", "command"])  # fmt: skip
def test_names_and_defaults_of_sample(options):
    assert options == {k: v for k, v in DEFAULTS.items() if k not in ("guidance", "redraw")}


def test_the_command_has_every_argument_of_the_function():
    assert set(of_command(assimilate)) == set(of_function(xsda.assimilate))


def test_names_defaults_and_help_of_reanalyse():
    typed, known = of_command(reanalyse), of_function(xsda.reanalyse)
    assert set(typed) == set(known)
    assert drawn(typed) == {k: v for k, v in DEFAULTS.items() if k != "tiles"} | {"redraw": 4}
    texts = {n: re.sub(r"``|(?<=as )\"|\"(?=\.)", "", t) for n, t in descriptions(xsda.reanalyse).items()}
    helps = {p.name: p.help for p in reanalyse.params if isinstance(p, click.Option)}
    for name in ("window", "lag", "overlap", "horizon", "redraw"):
        assert (helps[name], typed[name]) == (texts[name], known[name])


def test_defaults_of_train_are_those_of_the_function():
    """The command holds them itself, since those of the library cannot be read without torch, or leaves them open."""
    known = {p.name: p.default for p in inspect.signature(xsda.train).parameters.values()}
    known |= {f.name: f.default for f in dataclasses.fields(xsda.TrainingOptions)}
    typed = train.make_context("train", ["data.nc"]).params
    typed = {k: v for k, v in typed.items() if k not in ("data", "out", "workers", "name", "overwrite", "progress")}
    assert set(typed) <= set(known)
    assert all(value in (None, (), known[name]) for name, value in typed.items())
    assert {"steps", "batch_size", "learning_rate", "patience", "precision", "seed", "window", "network"} <= set(typed)


@pytest.mark.parametrize("command", [assimilate, reanalyse, sample])
def test_help_of_the_draw_is_that_of_the_dataclass(command):
    texts = descriptions(SamplingOptions)
    assert set(texts) == set(DEFAULTS)
    own = {"members", "chunks", "progress"} | ({"redraw"} if command is reanalyse else set())
    for option in command.params:
        if option.name in DEFAULTS and option.name not in own:
            assert option.help.startswith(texts[option.name])


@pytest.fixture
def files(tmp_path):
    """A truth, and observations of it in two files."""
    truth = xsda.systems.Lorenz63().simulate(length=32, seed=3)
    truth.to_netcdf(tmp_path / "truth.nc")
    for name, variable in (("buoys", "x"), ("ships", "y")):
        obs = truth.sda.observe(truth.isel(time=slice(None, None, 4))[[variable]], sigma=0.5, seed=4)
        obs.to_netcdf(tmp_path / f"{name}.nc")
    (0.5 * xr.ones_like(xr.load_dataset(tmp_path / "buoys.nc"))).to_netcdf(tmp_path / "errors.nc")
    return tmp_path


def spied(monkeypatch, module, name):
    """Arguments of the last call of a function, which gets an empty result."""
    seen = {}

    def spy(*arguments, **options):
        seen.update(options, arguments=arguments)
        return xr.Dataset()

    monkeypatch.setattr(module, name, spy)
    return seen


DRAW = {
    "members": ("4:9", range(4, 9)), "sampler": ("heun", "heun"), "steps": ("7", 7), "seed": ("5", 5), "chunks": ("2", 2),
    "batch": ("3", 3), "tiles": ("y=8,x=16", {"y": 8, "x": 16}), "device": ("cpu,cuda:1", ["cpu", "cuda:1"]), "precision": ("float64", "float64"),
}  # fmt: skip
GUIDED = {**DRAW, "guidance": ("mmps", "mmps"), "redraw": ("0", 0)}


def typed(options):
    return [word for name, (text, _) in options.items() for word in (f"--{name}", text)]


def test_every_option_of_assimilate_arrives(files, monkeypatch):
    seen = spied(monkeypatch, assimilation, "assimilate")
    call(
        "assimilate", files / "buoys.nc", files / "ships.nc", "--model", "lorenz63", "--out", files / "a.nc", "--quiet",
        "--sigma", "buoys/x=0.5", "--sigma", "ships/y=2", "--likelihood", "buoys/x=huber", "--correlation", "x/time=0.1",
        "--correlation", "y/time=6h", "--background", files / "truth.nc", "--background-sigma", "3",
        "--quality", "good", "--quality", "1", "--outside", "drop", "--superobs", "1h", *typed(GUIDED),
    )  # fmt: skip
    grid, obs, prior = seen.pop("arguments")
    assert grid.sizes["time"] == 29
    assert (list(obs), prior.name) == (["buoys", "ships"], "lorenz63")
    xr.testing.assert_identical(seen.pop("background"), xr.load_dataset(files / "truth.nc"))
    assert seen == {
        "sigma": {"buoys": {"x": 0.5}, "ships": {"y": 2.0}}, "likelihood": {"buoys": {"x": "huber"}},
        "correlation": {"x": {"time": 0.1}, "y": {"time": "6h"}}, "background_sigma": 3.0, "progress": False,
        "quality": ["good", 1], "outside": "drop", "superobs": "1h", "out": files / "a.nc", "overwrite": False,
        **{name: value for name, (_, value) in GUIDED.items()},
    }  # fmt: skip


def test_every_option_of_reanalyse_arrives(files, monkeypatch):
    seen, draw = spied(monkeypatch, reanalysis, "reanalyse"), {k: v for k, v in GUIDED.items() if k != "tiles"}
    sizes = {"window": ("12", 12), "lag": ("3", 3), "overlap": ("2", 2), "horizon": ("2D", "2D")}
    call(
        "reanalyse", files / "buoys.nc", files / "ships.nc", "--model", "lorenz63", "--out", files / "r.zarr", "--quiet",
        "--sigma", "buoys=0.5", "--sigma", "ships=2", "--likelihood", "huber", "--correlation", "x/time=0.1",
        "--quality", "good", "--outside", "drop", "--superobs", "cell", "--overwrite", *typed(draw), *typed(sizes),
    )  # fmt: skip
    grid, obs, prior = seen.pop("arguments")
    assert (grid.sizes["time"], list(obs), prior.name) == (29, ["buoys", "ships"], "lorenz63")
    assert seen == {
        "sigma": {"buoys": 0.5, "ships": 2.0}, "likelihood": "huber", "correlation": {"x": {"time": 0.1}},
        "quality": ["good"], "outside": "drop", "superobs": "cell", "progress": False, "out": files / "r.zarr",
        "overwrite": True, **{name: value for name, (_, value) in {**draw, **sizes}.items()},
    }  # fmt: skip


def test_a_longer_record_continues_the_store_of_reanalyse(files):
    xr.load_dataset(files / "buoys.nc").isel(time=slice(6)).to_netcdf(files / "early.nc")
    options = "--model lorenz63 --window 16 --lag 2 --overlap 5 --members 1 --steps 2 --redraw 0 --out"
    command = options.split()
    call("reanalyse", files / "early.nc", *command, files / "r.zarr", "--horizon", 1)
    first = xr.open_zarr(files / "r.zarr", consolidated=False).load()
    assert first.sizes["time"] == 22
    told = call("reanalyse", files / "buoys.nc", *command, files / "r.zarr")
    assert told.endswith("r.zarr (member 1, time 29)\n")
    call("reanalyse", files / "buoys.nc", *command, files / "whole.zarr")
    run, whole = (xr.open_zarr(files / f"{name}.zarr", consolidated=False) for name in ("r", "whole"))
    np.testing.assert_array_equal(run.x, whole.x)
    settled = 16 - 2
    np.testing.assert_array_equal(run.x[:, :settled], first.x[:, :settled])
    assert not (run.x[:, settled:21] == first.x[:, settled:21]).any()
    assert "must end in .zarr" in call("reanalyse", files / "buoys.nc", *command, files / "r.nc", code=2)
    said = call("reanalyse", files / "buoys.nc", *command, files / "r.zarr", "--seed", 1, code=2)
    assert "seed was 0, now 1; take another name, or pass --overwrite" in said


def test_every_option_of_sample_arrives(files, monkeypatch):
    seen = spied(monkeypatch, draw, "sample")
    call("sample", "--model", "lorenz63", "--length", 20, "--out", files / "a.nc", "--progress", *typed(DRAW))
    grid, prior = seen.pop("arguments")
    np.testing.assert_allclose(grid.time, 0.025 * np.arange(20))
    assert prior.name == "lorenz63"
    written = {"out": files / "a.nc", "overwrite": False}
    assert seen == {"progress": True, **written, **{name: value for name, (_, value) in DRAW.items()}}


def test_sigma_in_a_file(files):
    common = (
        "assimilate",
        files / "buoys.nc",
        "--model",
        "lorenz63",
        "--members",
        2,
        "--steps",
        4,
        "--redraw",
        0,
        "--out",
    )
    call(*common, files / "a.nc", "--sigma", files / "errors.nc")
    call(*common, files / "b.nc", "--sigma", "0.5")
    call(*common, files / "c.nc", "--sigma", "2")
    a, b, c = (xr.load_dataset(files / f"{n}.nc") for n in "abc")
    np.testing.assert_allclose(a.x, b.x, rtol=1e-4, atol=1e-3)
    assert abs(a.x - c.x).max() > 0.1


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
def test_samples_are_those_of_the_library_whatever_the_chunks(files, suffix):
    command = (
        "sample",
        "--model",
        "lorenz63",
        "--grid",
        files / "truth.nc",
        "--members",
        "3:8",
        "--steps",
        4,
        "--seed",
        2,
    )
    call(*command, "--chunks", 2, "--out", files / f"a{suffix}")
    same = xsda.sample(
        xr.load_dataset(files / "truth.nc"), "lorenz63", members=range(3, 8), steps=4, seed=2, progress=False
    )
    written = (
        xr.open_zarr(files / "a.zarr", consolidated=False) if suffix == ".zarr" else xr.load_dataset(files / "a.nc")
    )
    assert written.member.values.tolist() == [3, 4, 5, 6, 7]
    np.testing.assert_allclose(written.x, same.x, rtol=1e-4, atol=1e-3)


def test_values_that_name_parts():
    assert settings(["a=1", "b/c=x", "b/d=[2]"], "--set") == {"a": 1, "b": {"c": "x", "d": [2]}}
    assert standard_deviation(("u=1", "s/v=2"), "--sigma") == {"u": 1.0, "s": {"v": 2.0}}
    assert (standard_deviation((), "--sigma"), standard_deviation(("1e-3",), "--sigma")) == (None, 1e-3)
    assert (law(()), law(("huber",)), law(("x=huber",))) == (None, "huber", {"x": "huber"})


@pytest.mark.parametrize("pairs", [["a"], ["=1"], ["a/=1"], ["a=1", "a=2"], ["a=1", "a/b=2"], ["a/b=1", "a=2"]])
def test_settings_that_contradict_each_other(pairs):
    with pytest.raises(ValueError, match="--set"):
        settings(pairs, "--set")


@pytest.mark.parametrize("values", [("a",), ("x=a",), ("1", "2"), ("x=[1]",)])
def test_standard_deviations_that_are_no_numbers(values):
    with pytest.raises(ValueError, match=r"--sigma .*number"):
        standard_deviation(values, "--sigma")


def test_fit_is_that_of_python(tmp_path):
    ds = xsda.systems.Lorenz63().simulate(64, seed=0)
    ds.to_netcdf(tmp_path / "series.nc")
    words = [
        "fit",
        str(tmp_path / "series.nc"),
        "--length",
        "4",
        "--modes",
        "2",
        "--out",
        str(tmp_path / "p.safetensors"),
    ]
    assert CliRunner().invoke(program, words).exit_code == 0
    expected = xsda.GaussianPrior.fit(ds, length=4, modes=2)
    found = xsda.load_model(tmp_path / "p.safetensors")
    np.testing.assert_allclose(found.denoiser.patterns, expected.denoiser.patterns, atol=1e-5)
