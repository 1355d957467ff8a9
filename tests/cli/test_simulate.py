"""`xsda simulate`, in memory and trajectory by trajectory."""

import os

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner

from xsda.cli.program import program
from xsda.files import read
from xsda.systems import KolmogorovFlow, Lorenz96
from xsda.systems.simulation import Request, simulate_to


def call(*arguments, code=0):
    result = CliRunner().invoke(program, ["simulate", *(str(a) for a in arguments)])
    assert result.exit_code == code, result.output
    return result.output


@pytest.mark.parametrize("suffix", [".zarr", ".nc", ".h5"])
def test_trajectories_are_those_of_simulate_to(tmp_path, suffix):
    command = ["lorenz96", "--trajectories", 3, "--length", 4, "--burn-in", 5, "--every", 2, "--coarsen", 2, "--seed", 6,
               "--set", "n=8", "--set", "noise=0.1", "--out", tmp_path / f"a{suffix}", "--quiet"]  # fmt: skip
    assert f"wrote {tmp_path}/a{suffix}" in call(*command)
    system = Lorenz96(n=8, noise=0.1)
    options = {"trajectories": 3, "length": 4, "burn_in": 5, "every": 2, "coarsen": 2, "seed": 6, "progress": False}
    same = simulate_to(tmp_path / "b.nc", system, **options)
    xr.testing.assert_identical(read(str(tmp_path / f"a{suffix}")).load(), xr.load_dataset(same))
    assert "already there" in call(*command)
    assert "seed was 6, now 7" in call(*command, "--seed", 7, code=2)
    assert "wrote" in call(*command, "--seed", 7, "--overwrite")
    assert read(str(tmp_path / f"a{suffix}")).attrs["seed"] == 7


@pytest.mark.parametrize("suffix", [".h5", ".hdf5", ".nc4"])
def test_other_formats_in_memory(tmp_path, suffix):
    call("lorenz96", "--length", 4, "--members", 2, "--coarsen", 4, "--out", tmp_path / f"a{suffix}")
    expected = Lorenz96().simulate(4, members=2, coarsen=4)
    xr.testing.assert_identical(read(str(tmp_path / f"a{suffix}")).load(), expected)


def test_a_flow(tmp_path):
    pytest.importorskip("jax_cfd")
    start = [
        "kolmogorov",
        "--length",
        2,
        "--burn-in",
        1,
        "--coarsen",
        4,
        "--set",
        "resolution=32",
        "--set",
        "reynolds=500",
    ]
    call(*start, "--out", tmp_path / "a.nc")
    call(*start, "--trajectories", 1, "--out", tmp_path / "b.zarr", "--quiet")
    one, many = xr.load_dataset(tmp_path / "a.nc"), read(str(tmp_path / "b.zarr"))
    expected = KolmogorovFlow(resolution=32, reynolds=500).simulate(2, burn_in=1, coarsen=4)
    xr.testing.assert_identical(one, expected)
    xr.testing.assert_equal(many.isel(trajectory=0, drop=True), expected)


def test_an_interruption_says_how_to_go_on(tmp_path, monkeypatch):
    whole, done = Request.trajectory, []

    def trajectory(self, number):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(number)
        return whole(self, number)

    command = ["lorenz96", "--trajectories", 5, "--length", 2, "--burn-in", 3, "--out", tmp_path / "a.nc", "--quiet"]
    monkeypatch.setattr(Request, "trajectory", trajectory)
    out = call(*command, code=130)
    assert "interrupted; 2 of 5 trajectories are kept in" in out
    assert "repeat the call to continue" in out
    done[:] = [None] * 3
    assert "wrote" in call(*command)
    assert len(done) == 3 + 3
    assert os.listdir(tmp_path) == ["a.nc"]
    assert np.isfinite(xr.load_dataset(tmp_path / "a.nc").u).all()


BAD = {
    "both": (["lorenz96", "--members", 2, "--trajectories", 2], "give one of them"),
    "workers": (["lorenz96", "--workers", 2], "--trajectories, which is not given"),
    "system": (["kolmogorow", "--trajectories", 2], "did you mean 'kolmogorov'"),
    "setting": (["lorenz96", "--trajectories", 2, "--set", "m=3"], "'m'"),
    "flow": (["kolmogorov", "--trajectories", 2, "--set", "reynolds=-1"], "reynolds=-1"),
    "no space": (["lorenz63", "--coarsen", 2], "no space"),
    "blocks": (["kolmogorov", "--trajectories", 2, "--coarsen", 3], "256 points along 'y'; possible factors: 2, 4, 8"),
    "count": (["lorenz96", "--trajectories", 0], "--trajectories 0"),
    "integer": (["lorenz96", "--trajectories", 2.5], "not a valid integer"),
    "suffix": (["lorenz96", "--trajectories", 2, "--out", "{}/a.txt"], "must end in one of"),
    "folder": (["lorenz96", "--trajectories", 2, "--out", "{}/no/a.nc"], "does not exist"),
    "exists": (["lorenz96", "--trajectories", 2, "--out", "{}/other.nc"], "--overwrite"),
    "not finite": (["lorenz63", "--trajectories", 2, "--set", "dt=0.5"], "trajectory"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_ends_with_two_and_leaves_nothing(tmp_path, name):
    (tmp_path / "other.nc").write_text("mine")
    arguments, message = BAD[name]
    arguments = [str(a).format(tmp_path) for a in arguments]
    out = call(*arguments, *([] if "--out" in arguments else ["--out", tmp_path / "a.nc"]), "--quiet", code=2)
    assert message in out
    assert os.listdir(tmp_path) == ["other.nc"]
    if name != "integer":  # that is click's own
        assert len(out.strip().splitlines()) == 1
