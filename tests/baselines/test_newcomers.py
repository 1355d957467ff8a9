"""What newcomers do with their own data, and would not notice going wrong."""

import warnings

import numpy as np
import pytest
import torch
import xarray as xr

import xsda
from xsda.baselines import ETKF, LETKF, Forecast, FourDVar, OptimalInterpolation, analyse
from xsda.metrics import desroziers

TIME = np.datetime64("2026-03-01", "ns") + np.arange(6) * np.timedelta64(6, "h")
LAT, LON = np.linspace(60.0, 40.0, 5), np.arange(0, 360, 60.0)
RNG = np.random.default_rng(0)
GRID = xr.Dataset(
    {"t2m": (("time", "lat", "lon"), np.zeros((6, 5, 6)))},
    {"time": TIME, "lat": ("lat", LAT, {"units": "degrees_north"}), "lon": ("lon", LON, {"units": "degrees_east"})},
)
FIRST = xr.Dataset({"t2m": (("member", "lat", "lon"), RNG.normal(size=(8, 5, 6)))}, {"lat": GRID.lat, "lon": GRID.lon})
STATIONS = xr.Dataset(
    {"t2m": (("time", "station"), RNG.normal(size=(3, 2)))},
    {"time": TIME[[1, 3, 4]], "lat": ("station", [45.2, 58.0]), "lon": ("station", [10.0, 359.0])},
)


def step(ds, start, stop):
    return 0.9 * ds


def run(system=step, obs=STATIONS, method=None, sigma=0.5, **options):
    options = {"initial": FIRST, "progress": False, **options}
    return GRID.sda.filter(obs, system, method=method or LETKF(localization=1000.0), sigma=sigma, **options)


def test_descending_latitudes_in_chunks():
    forecast, obs = FIRST.assign_coords(time=TIME[1]), STATIONS.isel(time=[0])
    method = LETKF(localization=1000.0)
    lazy = analyse(forecast.chunk(lat=2, lon=4), obs, method=method, sigma=0.5).compute()
    xr.testing.assert_allclose(lazy, analyse(forecast, obs, method=method, sigma=0.5), rtol=1e-12)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"obs": STATIONS + 1}, "other observations"),
        ({"sigma": 5.0}, "other observations"),
        ({"initial": FIRST + 1}, "another initial"),
    ],
)
def test_a_folder_with_another_run(tmp_path, change, what):
    first = run(out=tmp_path, every=4)
    again = run(out=tmp_path, every=4)
    assert not [name for name in again.attrs if name.endswith("_mark")]
    xr.testing.assert_identical(first.compute(), again.compute())
    with pytest.raises(ValueError, match=f"{what}.*choose another folder"):
        run(**{"out": tmp_path, "every": 4, **change})


def test_kilometres_where_degrees_are_meant():
    with pytest.raises(ValueError, match="'lat' is in degrees"):
        run(method=LETKF(localization={"lat": 500.0, "lon": 500.0}))
    line, obs = GRID.isel(lon=0, drop=True), STATIONS.drop_vars("lon")
    with pytest.raises(ValueError, match="'lat' is in degrees"):
        line.sda.filter(obs, step, method=LETKF(localization=500.0), initial=FIRST.isel(lon=0, drop=True), sigma=0.5)
    run(method=LETKF(localization={"lat": 5.0}))


def test_a_model_that_raises_leaves_what_was_computed():
    def broken(ds, start, stop):
        if stop == TIME[4]:
            raise OSError("disk full")
        return ds

    with pytest.raises(OSError, match="disk full") as caught:
        run(broken)
    assert caught.value.partial.sizes["time"] == 4
    assert "2026-03-01T18" in caught.value.__notes__[0]


def test_networks():
    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.drop = torch.nn.Dropout(0.5)

        def forward(self, x):
            return x + 0.1 * self.drop(x)

    with pytest.raises(TypeError, match=r"takes tensors; use .*tensors=True"):
        run(Network())
    with pytest.raises(TypeError, match=r"cannot be called as step.state, start, stop.*dt='6h'"):
        Forecast(Network().eval(), tensors=True)
    with pytest.raises(ValueError, match=r"Dropout.*eval"):
        Forecast(Network(), dt="6h", tensors=True)
    run(Forecast(Network().eval(), dt="6h", tensors=True))
    with pytest.raises(TypeError, match=r"cannot be called as step.state, start, stop"):
        run(lambda ds: ds)


def test_a_model_without_gradient():
    climatology = xr.Dataset({"t2m": (("time", "lat", "lon"), RNG.normal(size=(9, 5, 6)))}, {"lat": LAT, "lon": LON})
    system = Forecast(lambda x: 0.9 * x.detach(), dt="6h", tensors=True)
    with pytest.raises(RuntimeError, match=r"leave out .detach"):
        run(system, method=FourDVar(climatology=climatology, lag=1))


def test_desroziers_between_the_states():
    later = STATIONS.assign_coords(time=STATIONS.time + np.timedelta64(3, "h"))
    both = run(obs=later, keep="both")
    with pytest.raises(ValueError, match=r"have no state .3 of 3 times"):
        desroziers(both.sel(stage="forecast"), both.sel(stage="analysis"), later)


def test_stages_and_lists_in_compare():
    with pytest.raises(ValueError, match=r"dimension 'stage'.*sel"):
        xsda.compare(GRID, {"ETKF": run(method=ETKF(), keep="both")})
    with pytest.raises(TypeError, match="by label"):
        xsda.compare(GRID, [FIRST])
    with pytest.raises(TypeError, match="comes first"):
        xsda.compare({"ETKF": FIRST}, GRID)
    with pytest.raises(ValueError, match=r"dimension 'stage'.*sel"):
        run(method=ETKF(), keep="both").sda.plot()


def test_what_is_kept():
    with pytest.raises(ValueError, match="keep=3"):
        run(keep=3)


def test_units_of_what_a_run_starts_from():
    kelvin = GRID.assign(t2m=GRID.t2m.assign_attrs(units="K"))
    celsius = FIRST.assign(t2m=FIRST.t2m.assign_attrs(units="degC"))
    with pytest.raises(ValueError, match="'t2m' is in 'degC', the grid in 'K'"):
        kelvin.sda.filter(STATIONS, step, method=ETKF(), initial=celsius, sigma=0.5)
    method = OptimalInterpolation(climatology=celsius)
    with pytest.raises(ValueError, match="'t2m' is in 'degC', the grid in 'K'"):
        kelvin.sda.filter(STATIONS, step, method=method, initial=FIRST, sigma=0.5)


def test_the_stage_is_not_in_the_table():
    analysis = run(method=ETKF(), keep="both").sel(stage="analysis")
    table = xsda.compare(GRID, {"ETKF": analysis, "other": analysis.drop_vars("stage")}).to_dataframe()
    assert "stage" not in table


def test_a_station_between_the_only_two_latitudes_has_a_place():
    pair, first = GRID.isel(lat=[0, 1]), FIRST.isel(lat=[0, 1])
    obs = STATIONS.isel(station=[1]).assign_coords(lat=("station", [59.0]), lon=("station", [0.0]))
    near = pair.sda.filter(obs, step, method=LETKF(localization={"lat": 0.8}), initial=first, sigma=0.5)
    spread = near.t2m.std("member").isel(time=1, lon=0)
    before = 0.9 * first.t2m.std("member").isel(lon=0)
    assert (spread / before)[0] < (spread / before)[1]  # 1 degree away, and 4
    np.testing.assert_allclose((spread / before)[1], 1)


def test_observations_used_twice_are_warned_of():
    """An analysis goes on after its own observations, not with them."""
    early, late = slice(None, 4), slice(3, None)
    options = {"method": ETKF(), "sigma": 0.5, "progress": False}
    first = GRID.isel(time=early).sda.filter(STATIONS.isel(time=slice(2)), step, initial=FIRST, **options)
    again = {"initial": first.isel(time=-1), **options}
    with pytest.warns(RuntimeWarning, match="if the analysis already used them"):
        GRID.isel(time=late).sda.filter(STATIONS.isel(time=slice(1, None)), step, **again)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        GRID.isel(time=slice(4, None)).sda.filter(STATIONS.isel(time=slice(2, None)), step, **again)


def test_methods_without_forecasts_need_no_model():
    system = xsda.systems.Lorenz63()
    truth, past = system.simulate(4, seed=0), system.simulate(200, seed=1)
    obs = truth.sda.observe(truth[["x"]], sigma=0.5, seed=1)
    method = xsda.baselines.OptimalInterpolation(climatology=past)
    options = {"method": method, "members": 6, "sigma": 0.5, "progress": False}
    xr.testing.assert_allclose(truth.sda.filter(obs, **options), truth.sda.filter(obs, system, **options))
    with pytest.raises(TypeError, match="ETKF needs a forecast model"):
        truth.sda.filter(obs, method=xsda.baselines.ETKF(), progress=False)
