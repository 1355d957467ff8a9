"""`xsda plot` draws what ``ds.sda.plot`` draws."""

import io

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from cartopy import crs
from click.testing import CliRunner
from matplotlib.image import imread

import xsda  # noqa: F401  (registers ds.sda)
from xsda import plot
from xsda.cli.program import program


def call(*arguments, code=0):
    result = CliRunner().invoke(program, ["plot", *(str(a) for a in arguments)])
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def series(tmp_path):
    """An ensemble without space, a truth and observations, here and in files."""
    time = np.arange(20) * 0.5
    random = np.random.default_rng(0)
    coords = {"member": np.arange(6), "time": time}
    post = xr.Dataset({v: (("member", "time"), random.standard_normal((6, 20))) for v in "xyz"}, coords)
    return written(tmp_path, post, post.isel(member=0, drop=True), post[["x"]].isel(member=1, time=[2, 9], drop=True))


@pytest.fixture
def maps(tmp_path):
    """The same of fields with two space dimensions."""
    random = np.random.default_rng(0)
    coords = {"member": np.arange(3), "time": np.arange(4), "y": np.arange(5), "x": np.arange(6)}
    post = xr.Dataset({v: (tuple(coords), random.standard_normal((3, 4, 5, 6))) for v in "uv"}, coords)
    return written(tmp_path, post, post.isel(member=0, drop=True), post[["u"]].isel(member=1, x=[1, 4], drop=True))


def written(folder, post, truth, obs):
    for name, ds in (("post", post), ("truth", truth), ("obs", obs)):
        ds.to_netcdf(folder / f"{name}.nc")
    return folder, post, truth, obs


def picture(figure):
    matplotlib.use("Agg")
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150)
    return imread(io.BytesIO(file.getvalue()))


def test_series(series):
    folder, post, truth, obs = series
    assert f"wrote {folder / 'post.png'}" in call(folder / "post.nc")
    np.testing.assert_array_equal(imread(folder / "post.png"), picture(post.sda.plot()))
    call(
        folder / "post.nc", "--truth", folder / "truth.nc", "--obs", folder / "obs.nc", "--variable", "y", "--variable", "x",
        "--out", folder / "two.png",
    )  # fmt: skip
    expected = picture(post.sda.plot(truth=truth, obs=[obs], variable=["y", "x"]))
    np.testing.assert_array_equal(imread(folder / "two.png"), expected)
    assert not np.array_equal(expected, picture(post[["y", "x"]].sda.plot(truth=truth)))


def test_maps(maps):
    folder, post, truth, obs = maps
    for time in (0, -1):
        call(
            folder / "post.nc", "--truth", folder / "truth.nc", "--obs", folder / "obs.nc", "--variable", "v", "--time", time,
            "--out", folder / f"{time}.png",
        )  # fmt: skip
        expected = picture(post.sda.plot(truth=truth, obs=[obs], variable="v", time=time))
        np.testing.assert_array_equal(imread(folder / f"{time}.png"), expected)
    assert not np.array_equal(imread(folder / "0.png"), imread(folder / "-1.png"))


def test_a_state_by_its_time(maps):
    """The times are 0, 10, 20, 30: 20.0 is a time, 2 a position."""
    folder, post, *_ = maps
    post = post.assign_coords(time=10 * post.time)
    post.to_netcdf(folder / "tens.nc")
    for text, position in (("20.0", 2), ("2", 2), ("0", 0)):
        call(folder / "tens.nc", "--time", text, "--overwrite")
        np.testing.assert_array_equal(imread(folder / "tens.png"), picture(post.sda.plot(time=position)))
    dates = post.assign_coords(time=np.datetime64("2026-03-01", "ns") + post.time.values.astype("timedelta64[h]"))
    dates.to_netcdf(folder / "dates.nc")
    call(folder / "dates.nc", "--time", "2026-03-01T10")
    np.testing.assert_array_equal(imread(folder / "dates.png"), picture(dates.sda.plot(time=1)))


def test_projection_and_coastlines(maps, monkeypatch):
    folder, *_ = maps
    seen = []
    monkeypatch.setattr(plot, "ensemble", lambda ds, **options: seen.append(options) or plt.figure())
    call(folder / "post.nc", "--projection", "Orthographic,central_longitude=-1,central_latitude=52")
    call(folder / "post.nc", "--no-coastlines", "--overwrite")
    found = [(options["projection"], options["coastlines"]) for options in seen]
    assert found == [(crs.Orthographic(-1, 52), True), (None, False)]
    for words, said in (("Orthografic", "did you mean 'Orthographic'"), ("Robinson,pole=3", "cannot be made of")):
        assert said in call(folder / "post.nc", "--projection", words, "--overwrite", code=2)


def test_formats(series):
    folder, *_ = series
    call(folder / "post.nc", "--out", folder / "a.pdf")
    assert (folder / "a.pdf").read_bytes().startswith(b"%PDF")
    call(folder / "post.nc", "--out", folder / "a.svg")
    assert b"<svg" in (folder / "a.svg").read_bytes()


BAD = {
    "variable": (["--variable", "w"], "choose one of 'x', 'y', 'z'"),
    "ending": (["--out", "{}/a.doc"], "must end in one of"),
    "exists": (["--out", "{}/there.png"], "--overwrite"),
    "truth": (["--truth", "{}/none.nc"], "no file"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_ends_with_two_and_one_line(series, name):
    folder, *_ = series
    (folder / "there.png").write_text("mine")
    before = sorted(p.name for p in folder.iterdir())
    arguments, message = BAD[name]
    out = call(folder / "post.nc", *(a.format(folder) for a in arguments), code=2)
    assert message in out
    assert len(out.strip().splitlines()) == 1
    assert sorted(p.name for p in folder.iterdir()) == before
    assert (folder / "there.png").read_text() == "mine"
