"""Tables on the command line: a .csv gives what the library gives for the DataFrame, and a broken one a sentence."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from click.testing import CliRunner

import xsda
from xsda.cli.program import program
from xsda.cli.reports import choices

DRAW = ("--members", 2, "--steps", 4, "--redraw", 0, "--quiet")


def call(*arguments, code=0):
    result = CliRunner().invoke(program, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def files(tmp_path):
    """A truth, and a table of reports with duplicates, flags, and one report after the last time."""
    truth = xsda.systems.Lorenz63().simulate(length=32, seed=3)
    truth.to_netcdf(tmp_path / "truth.nc")
    at = np.array([0, 4, 4, 8, 12, 40]) * 0.025
    values = truth.x.interp(time=at.clip(max=0.7)).values + np.array([0.1, -0.2, 0.3, 9.0, 0.1, 0.0])
    table = pd.DataFrame({"time": at, "variable": "x", "observation": values, "error": 0.5, "quality": ["ok"] * 6})
    table.loc[3, "quality"] = "gross"
    table.to_csv(tmp_path / "reports.csv", index=False)
    return tmp_path


OPTIONS = ("--quality", "ok", "--outside", "drop", "--superobs", "cell")


def test_assimilate_and_evaluate_a_table(files):
    common = "--model", "lorenz63", "--grid", files / "truth.nc", *DRAW
    with pytest.warns(UserWarning, match="1 of 6 .*; 1 of 5 .*; 4 values of 'x' in obs are averaged to 3"):
        call("assimilate", files / "reports.csv", *common, *OPTIONS, "--out", files / "post.nc")
    truth, table = xr.load_dataset(files / "truth.nc"), pd.read_csv(files / "reports.csv")
    chosen = {"quality": "ok", "outside": "drop", "superobs": "cell"}
    with pytest.warns(UserWarning, match="averaged"):
        same = xsda.assimilate(truth, table, "lorenz63", members=2, steps=4, redraw=0, progress=False, **chosen)
    post = xr.load_dataset(files / "post.nc")
    np.testing.assert_allclose(post.x, same.x, rtol=1e-4, atol=1e-3)
    with pytest.warns(UserWarning, match="averaged"):
        said = call("evaluate", files / "post.nc", files / "truth.nc", "--obs", files / "reports.csv", *OPTIONS)
    with pytest.warns(UserWarning, match="averaged"):
        score = float(post.sda.evaluate(truth, obs=table, **chosen).chi_square.sel(variable="x"))
    assert f"{score:.4g}" in said


def test_a_table_sets_the_grid(files):
    call("assimilate", files / "reports.csv", "--model", "lorenz63", *DRAW, "--out", files / "post.nc")
    np.testing.assert_allclose(xr.load_dataset(files / "post.nc").time, 0.025 * np.arange(41), atol=1e-6)


def test_several_tables_are_sources_by_the_names_of_their_files(files):
    (files / "reports.csv").rename(files / "buoys.csv")
    pd.DataFrame({"time": [0.1], "y": [3.0]}).to_csv(files / "ships.csv", index=False)
    call(
        "assimilate", files / "buoys.csv", files / "ships.csv", "--model", "lorenz63", *DRAW, "--out", files / "post.nc",
        "--sigma", "buoys/x=0.5", "--sigma", "ships/y=2",
    )  # fmt: skip
    assert xr.load_dataset(files / "post.nc").attrs["observations"] == 7


def test_plot_marks_a_table(files):
    call("plot", files / "truth.nc", "--obs", files / "reports.csv", "--out", files / "plot.png")
    call("plot", files / "truth.nc", "--out", files / "bare.png")
    assert (files / "plot.png").read_bytes() != (files / "bare.png").read_bytes()


BROKEN = {
    "empty": ("", "cannot be read as a table with commas: No columns to parse"),
    "ragged": ("time,x\n0,1\n1,2,3,4\n", "cannot be read as a table with commas: .*line 3"),
    "binary": (b"\xff\xfe\x00\x9f", "cannot be read as a table with commas"),
    "semicolons": ("time;x\n0;1\n", "cannot be read as a table with commas: its columns are separated by semicolons"),
    "text": ("time,x\n0,1\n0.1,calm\n", "the column 'x' of broken holds 'calm' in row 1, expected a number"),
    "no times": ("t2m,x\n0,1\n", "has no column 'time'"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_table_gives_one_sentence(files, case):
    content, said = BROKEN[case]
    path = files / "broken.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    out = call("assimilate", path, "--model", "lorenz63", "--sigma", 1, "--out", files / "post.nc", "--quiet", code=2)
    assert pd.Series([out]).str.contains(said).all(), out
    assert len(out.strip().splitlines()) == 1
    assert not (files / "post.nc").exists()


def test_a_table_that_is_not_there(files):
    assert "no file" in call("assimilate", files / "a.csv", "--model", "lorenz63", "--out", files / "p.nc", code=2)


def test_flags_are_words_or_numbers():
    assert choices(("ok", "0", "1.5"), "drop", "1h") == {"quality": ["ok", 0, 1.5], "outside": "drop", "superobs": "1h"}
    assert choices((), "raise", None) == {"quality": None, "outside": "raise", "superobs": None}
