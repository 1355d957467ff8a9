"""``xsda explain`` and ``xsda check`` print what the functions return."""

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
def files(tmp_path, lorenz):
    truth, obs = lorenz
    obs = obs.copy(deep=True)
    obs.x[2] = -9999.0
    truth.to_netcdf(tmp_path / "truth.nc")
    obs.to_netcdf(tmp_path / "obs.nc")
    return tmp_path


def test_explain(files):
    truth, obs = (xr.load_dataset(files / f) for f in ("truth.nc", "obs.nc"))
    said = call("explain", files / "obs.nc", "--model", "lorenz63", "--grid", files / "truth.nc", "--sigma", "x=0.25")
    assert said.strip() == repr(xsda.observations.explain(truth, obs, "lorenz63", sigma=0.25))
    assert "8 of 8" in call("explain", files / "obs.nc", "--model", "lorenz63")  # on the prior's own time steps


def test_check_writes_what_it_accepts(files):
    truth, obs = (xr.load_dataset(files / f) for f in ("truth.nc", "obs.nc"))
    said = call(
        "check", files / "obs.nc", "--model", "lorenz63", "--grid", files / "truth.nc", "--out", files / "good.nc"
    )
    assert said.startswith(repr(xsda.observations.check(obs, "lorenz63", grid=truth)))
    assert "1 of 8 observed values are flagged" in said
    good = xr.load_dataset(files / "good.nc")
    np.testing.assert_array_equal(good.x, obs.x.where(obs.x > -9999))
    assert good.x.attrs["error_std"] == obs.x.attrs["error_std"]


def test_tables(files):
    truth, obs = (xr.load_dataset(files / f) for f in ("truth.nc", "obs.nc"))
    table = obs.to_dataframe().reset_index()
    table.to_csv(files / "table.csv", index=False)
    options = ("--model", "lorenz63", "--grid", files / "truth.nc", "--sigma", "0.5")
    said = call("explain", files / "table.csv", *options)
    assert said.strip() == repr(xsda.observations.explain(truth, table, "lorenz63", sigma=0.5))
    assert "1 of 8 observed values are flagged" in call("check", files / "table.csv", *options)


def test_options_arrive(files, monkeypatch):
    seen = []
    found = xsda.observations.explain(*(xr.load_dataset(files / f) for f in ("truth.nc", "obs.nc")), "lorenz63")
    for name in ("explain", "check"):
        monkeypatch.setattr(xsda.observations, name, lambda *_, **options: seen.append(options) or found)
        grid = "--grid", files / "truth.nc", "--quality", "ok", "--quality", 1, "--outside", "drop", "--superobs", "2h"
        call(name, files / "obs.nc", "--model", "lorenz63", *grid)
    for options in seen:
        assert options.items() >= {"quality": ["ok", 1], "outside": "drop", "superobs": "2h"}.items()
    assert len(seen) == 2


def test_errors(files):
    said = call("check", files / "none.nc", "--model", "lorenz63", code=2)
    assert "no file" in said
    (files / "more.nc").write_bytes((files / "obs.nc").read_bytes())
    said = call(
        "check", files / "obs.nc", files / "more.nc", "--model", "lorenz63", "--out", files / "good.nc", code=2
    )  # fmt: skip
    assert "--out writes one file, but there are 2 files of observations" in said


def test_what_explain_advises_are_options(files):
    truth, obs = (xr.load_dataset(files / f) for f in ("truth.nc", "obs.nc"))
    del obs.x.attrs["error_std"]
    obs.to_netcdf(files / "plain.nc")
    truth.isel(time=slice(0, 16)).to_netcdf(files / "short.nc")
    said = call("explain", files / "plain.nc", "--model", "lorenz63", "--grid", files / "short.nc")
    assert "pass --sigma" in said
    assert said.strip().endswith("lie outside the grid; pass --outside drop")
    assert "sigma=" not in said


def test_the_grid_is_the_priors_own(tmp_path):
    """A prior that knows its points needs no --grid: the result is that on the same points."""
    time = xr.date_range("2019-03-28", periods=24, freq="h")
    table = xr.Dataset({"t2m": ("time", np.full(24, 280.0))}, {"time": time}).assign_coords(lat=54.1, lon=-2.3)
    table.to_dataframe().to_csv(tmp_path / "stations.csv")
    points = {"time": time, "latitude": np.linspace(58, 50, 33), "longitude": np.linspace(-10, 2, 49)}
    xr.Dataset(coords=points).to_netcdf(tmp_path / "grid.nc")
    options = tmp_path / "stations.csv", "--model", "uk-t2m", "--sigma", 0.5
    assert call("explain", *options) == call("explain", *options, "--grid", tmp_path / "grid.nc")
    assert "24 of 24 observed values are used" in call("explain", *options)
