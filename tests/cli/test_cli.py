"""The command line as a user types it."""

import time

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner

import xsda
from xsda.cli.program import program


def call(*arguments, code=0):
    result = CliRunner().invoke(program, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def files(tmp_path):
    """A truth, observations of it, and where they are."""
    call("simulate", "lorenz63", "--length", 32, "--seed", 3, "--out", tmp_path / "truth.nc")
    truth = xr.load_dataset(tmp_path / "truth.nc")
    obs = truth.sda.observe(truth.isel(time=slice(None, None, 4))[["x"]], sigma=0.5, seed=4)
    obs.to_netcdf(tmp_path / "obs.nc")
    return tmp_path


def test_simulate_assimilate_evaluate(files):
    call(
        "assimilate",
        files / "obs.nc",
        "--model",
        "lorenz63",
        "--members",
        4,
        "--steps",
        8,
        "--redraw",
        0,
        "--out",
        files / "post.nc",
        "--quiet",
    )
    post = xr.load_dataset(files / "post.nc")
    assert dict(post.sizes) == {"member": 4, "time": 29}
    call(
        "assimilate", files / "obs.nc", "--model", "lorenz63", "--grid", files / "truth.nc", "--members", 4, "--steps", 8,
        "--redraw", 0, "--out", files / "post.nc", "--quiet", "--overwrite",
    )  # fmt: skip
    table = call("evaluate", files / "post.nc", files / "truth.nc", "--obs", files / "obs.nc")
    for word in ("rmse", "crps", "spread_skill", "chi_square"):
        assert word in table
    truth = xr.load_dataset(files / "truth.nc")
    options = {"members": 4, "steps": 8, "redraw": 0, "progress": False}
    same = xsda.assimilate(truth, xr.load_dataset(files / "obs.nc"), "lorenz63", **options)
    np.testing.assert_allclose(xr.load_dataset(files / "post.nc").x, same.x, rtol=1e-4, atol=1e-3)


def test_several_models_share_the_members(files):
    call(
        "assimilate", files / "obs.nc", "--model", "lorenz63", "--model", "lorenz63", "--members", 3, "--steps", 8,
        "--redraw", 0, "--out", files / "post.nc", "--quiet",
    )  # fmt: skip
    post = xr.load_dataset(files / "post.nc")
    assert post.prior.values.tolist() == ["lorenz63"] * 3
    assert post.attrs["prior"] == "lorenz63, lorenz63"


def test_laws_and_backgrounds(files):
    call(
        "assimilate", files / "obs.nc", "--model", "lorenz63", "--grid", files / "truth.nc", "--members", 2, "--steps", 8,
        "--redraw", 0, "--likelihood", "huber", "--background", files / "truth.nc", "--background-sigma", "x=2", "--background-sigma", "y=3",
        "--background-sigma", "z=4", "--out", files / "huber.nc", "--quiet",
    )  # fmt: skip
    truth, obs = xr.load_dataset(files / "truth.nc"), xr.load_dataset(files / "obs.nc")
    same = xsda.assimilate(
        truth, obs, "lorenz63", likelihood="huber", background=truth, background_sigma={"x": 2, "y": 3, "z": 4}, members=2,
        steps=8, redraw=0, progress=False,
    )  # fmt: skip
    np.testing.assert_allclose(xr.load_dataset(files / "huber.nc").z, same.z, rtol=1e-4, atol=1e-3)


def test_train(tmp_path):
    call(
        "simulate",
        "dampedspring",
        "--length",
        60,
        "--members",
        12,
        "--set",
        "noise=0.2",
        "--out",
        tmp_path / "data.zarr",
    )
    out = call(
        "train",
        tmp_path / "data.zarr",
        "--out",
        tmp_path / "spring.safetensors",
        "--window",
        4,
        "--width",
        8,
        "--steps",
        5,
        "--quiet",
    )
    assert "spring" in out
    assert xsda.load_model(tmp_path / "spring.safetensors").info["training_steps"] == 5
    call("train", tmp_path / "data.zarr", "--out", tmp_path / "spring.safetensors", code=2)


def test_models():
    out = call("models")
    assert "lorenz63" in out
    assert "lorenz96" in out


def test_demo(tmp_path):
    start = time.perf_counter()
    out = call("demo", "--members", 8, "--folder", tmp_path)
    assert time.perf_counter() - start < 60
    assert "%|" not in out  # no bar in a log
    lines = {line[:18].strip(): line for line in out.splitlines()}
    assert {"prior", "posterior", "observations only"} <= set(lines)
    assert float(lines["posterior"].split()[1]) < float(lines["prior"].split()[1]) / 3
    assert (tmp_path / "posterior.png").stat().st_size > 20_000
    assert xr.load_dataset(tmp_path / "posterior.nc").sizes["member"] == 8
    assert "overwrite" in call("demo", "--folder", tmp_path, code=2)


@pytest.mark.parametrize(("flags", "shown"), [([], False), (["--progress"], True), (["--quiet"], False)])
def test_no_progress_bar_in_a_log(tmp_path, flags, shown):
    short = ["sample", "--model", "lorenz63", "--length", 16, "--members", 2, "--steps", 2, "--out", tmp_path / "a.nc"]
    assert ("member/s" in call(*short, *flags)) == shown


@pytest.mark.parametrize("command", [
    ["simulate", "lorenz96", "--trajectories", "2", "--length", "4", "--burn-in", "2", "--out", "{}/a.zarr"],
    ["train", "{}/data.nc", "--steps", "2", "--width", "8", "--out", "{}/a.safetensors"],
], ids=lambda c: c[0])  # fmt: skip
def test_commands_are_silent_in_a_log(tmp_path, command):
    xsda.systems.DampedSpring().simulate(60, 2, seed=0).to_netcdf(tmp_path / "data.nc")
    assert "%|" not in call(*(word.format(tmp_path) for word in command))


@pytest.mark.parametrize(
    "command", ["", "demo", "simulate", "train", "assimilate", "reanalyse", "sample", "evaluate", "plot", "models"]
)
def test_help(command):
    out = call(*([command] if command else []), "--help")
    assert "Usage" in out


DRAW = ("assimilate", "{}/obs.nc", "--model", "lorenz63", "--out", "{}/p.nc")
BAD = {
    "system": (["simulate", "lorentz63", "--out", "{}/a.nc"], "did you mean 'lorenz63'"),
    "setting": (["simulate", "lorenz63", "--set", "rho", "--out", "{}/a.nc"], "name=value"),
    "unknown setting": (["simulate", "lorenz63", "--set", "rhoo=3", "--out", "{}/a.nc"], "rhoo"),
    "length": (["simulate", "lorenz63", "--length", "0", "--out", "{}/a.nc"], "--length 0 must be"),
    "suffix": (["simulate", "lorenz63", "--out", "{}/a.txt"], "must end in"),
    "folder": (["simulate", "lorenz63", "--out", "{}/no/a.nc"], "does not exist"),
    "missing": (["evaluate", "{}/a.nc", "{}/b.nc"], "no file"),
    "exists": (["simulate", "lorenz63", "--out", "{}/truth.nc"], "--overwrite"),
    "model": (["assimilate", "{}/obs.nc", "--model", "lorenz6", "--out", "{}/p.nc"], "did you mean"),
    "sigma": (["assimilate", "{}/obs.nc", "--model", "lorenz63", "--sigma", "x=a", "--out", "{}/p.nc"], "name=number"),
    "observations": (["assimilate", "{}/text.nc", "--model", "lorenz63", "--out", "{}/p.nc"], "cannot be read"),
    "cut": (["assimilate", "{}/cut.nc", "--model", "lorenz63", "--out", "{}/p.nc"], "; it may be truncated or of another format"),
    "dates": (["evaluate", "{}/dates.nc", "{}/truth.nc"], "'time' of the ensemble holds dates, that of the truth holds numbers; convert"),
    "no sigma": ([DRAW[0], "{}/truth.nc", *DRAW[2:]], "error_std (--sigma S | NAME=S | FILE)"),
    "background": ([*DRAW, "--sigma", "1", "--background-sigma", "2"], "(--background FILE)"),
    "law": ([*DRAW, "--sigma", "1", "--likelihood", "student"], "--likelihood student is unknown; did you mean 'student_t'?"),
    "law of one": ([*DRAW, "--sigma", "1", "--likelihood", "obs/x=4"], "--likelihood 4 is unknown; choose one of 'gaussian', "),
    "chunks": ([*DRAW, "--sigma", "1", "--chunks", "0"], "'--chunks': 0 is not in the range x>=1."),
    "no members": ([*DRAW, "--sigma", "1", "--members", "0"], "(--members N | FIRST:END | N,N,...)"),
    "empty range": ([*DRAW, "--sigma", "1", "--members", "4:2"], "'4:2' is empty; 16:32 means the members 16 to 31."),
    "no length": ([*DRAW, "--sigma", "1", "--correlation", "x=3"], "(--correlation NAME/COORDINATE=LENGTH)"),
    "population": ([*DRAW, "--sigma", "1", "--sampler", "tds", "--members", "64", "--chunks", "3"], "(--chunks N)"),
    "demo": (["demo", "--members", "0", "--folder", "{}"], "0 is not in the range x>=1."),
    "steps": ([*DRAW, "--sigma", "1", "--steps", "1"], "--steps 1 must be an integer of at least 2\n"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_ends_with_two_and_one_line(files, name):
    (files / "text.nc").write_text("hello")
    (files / "cut.nc").write_bytes((files / "obs.nc").read_bytes()[:-2000])
    dated = xr.load_dataset(files / "truth.nc").expand_dims(member=[0, 1])
    dates = np.datetime64("2020-01-01", "ns") + np.arange(32) * np.timedelta64(1, "h")
    dated.assign_coords(time=dates).to_netcdf(files / "dates.nc")
    arguments, message = BAD[name]
    before = sorted(p.name for p in files.iterdir())
    out = call(*(a.format(files) for a in arguments), code=2)
    assert message in out
    assert len(out.strip().splitlines()) == 1
    assert sorted(p.name for p in files.iterdir()) == before


@pytest.mark.parametrize("kind", ["link", "dangling link", "file", "folder"])
def test_what_cannot_be_replaced_is_named_before_any_work(tmp_path, monkeypatch, kind):
    out = tmp_path / ("a.nc" if kind == "folder" else "a.zarr")
    (tmp_path / "target").mkdir()
    if "link" in kind:
        out.symlink_to(tmp_path / ("target" if kind == "link" else "nowhere"))
    else:
        out.mkdir() if kind == "folder" else out.write_text("mine")
    monkeypatch.setattr(xsda.systems.Lorenz63, "simulate", lambda *a, **k: pytest.fail("work was done"))
    message = "is a symbolic link" if "link" in kind else f"is a {kind}; take another name"
    said = call("simulate", "lorenz63", "--out", out, "--overwrite", code=2)
    assert message in said
    assert len(said.strip().splitlines()) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["target", out.name])


def test_debug_shows_the_traceback():
    result = CliRunner().invoke(program, ["--debug", "simulate", "lorentz", "--out", "a.nc"])
    assert isinstance(result.exception, ValueError)


def test_an_interrupted_write_leaves_no_half_file(files, monkeypatch):
    def broken(self, path, **options):
        path.write_text("half")
        raise OSError("disk full")

    before = (files / "truth.nc").read_bytes()
    monkeypatch.setattr(xr.Dataset, "to_netcdf", broken)
    assert "disk full" in call("simulate", "lorenz63", "--out", files / "truth.nc", "--overwrite", code=2)
    assert (files / "truth.nc").read_bytes() == before
    assert not list(files.glob(".*"))
