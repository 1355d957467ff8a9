"""Where sigma comes from, and one clear error for each thing that cannot be."""

import numpy as np
import pytest
import torch
import xarray as xr

import xsda
from xsda.labels.grid import Grid
from xsda.labels.layout import Layout
from xsda.likelihood import Censored, StudentT
from xsda.observations import compile_observations


def globe():
    dims, sizes = ("time", "lat", "lon"), (6, 4, 8)
    rng = np.random.default_rng(0)
    return xr.Dataset(
        {v: (dims, rng.standard_normal(sizes), {"units": "m s-1"}) for v in ("wind_u", "wind_v")},
        {
            "time": np.datetime64("2020-01-01", "ns") + np.arange(6) * np.timedelta64(6, "h"),
            "lat": np.linspace(60.0, 30.0, 4),
            "lon": ("lon", np.arange(8) * 10.0, {"units": "degrees_east"}),
        },
    )


def grid():
    return Grid.match(Layout.of(globe()), globe())


def obs():
    return globe().isel(time=[0, 2], lat=[1], lon=[0, 3])


def std(ds, sigma=None):
    return compile_observations(grid(), ds, sigma).std.numpy()


# --- sources of sigma ---


def test_argument_before_ancillary_before_attribute():
    ds = obs()
    for v in ds.data_vars:
        ds[v].attrs["error_std"] = 3.0
    np.testing.assert_allclose(std(ds), 3)
    ds["wind_u_error"] = (
        ds["wind_u"].dims,
        np.full(ds["wind_u"].shape, 2.0),
        {"standard_name": "wind_u standard_error"},
    )
    np.testing.assert_allclose(std(ds), [2] * 4 + [3] * 4)
    np.testing.assert_allclose(std(ds, {"wind_v": 0.5}), [2] * 4 + [0.5] * 4)
    np.testing.assert_allclose(std(ds, 1.5), 1.5)


def test_errors_that_are_no_numbers_say_where_they_came_from():
    ds = obs()
    ds["wind_u"].attrs["error_std"] = "x"
    with pytest.raises(ValueError, match=r"^the attribute error_std of 'wind_u' is 'x'; give a number"):
        std(ds)
    ds["wind_u_error"] = (ds["wind_u"].dims, np.full((2, 1, 2), "y"), {"standard_name": "wind_u standard_error"})
    with pytest.raises(ValueError, match=r"^the standard error of 'wind_u' holds <U1; give a number"):
        std(ds)


@pytest.mark.parametrize("given", ["argument", "attribute", "ancillary", "labelled"])
def test_a_negative_error_is_quoted_in_the_units_of_the_observations(given):
    """They are converted to those of the grid, 1 degF = 5/9 K, and the user gave the former."""
    warm = xr.Dataset({"t2m": ("time", [40.0, 50.0], {"units": "degF"})}, {"time": [0.0, 1.0]})
    sigma, said = None, "-1 degF"
    if given == "argument":
        sigma = -1.0
    elif given == "attribute":
        warm["t2m"].attrs["error_std"] = -1
    elif given == "ancillary":
        warm["e"] = ("time", [-1.0, 1.0], {"units": "degF", "standard_name": "t2m standard_error"})
    else:
        sigma, said = xr.DataArray(-1.0, attrs={"units": "K"}), "-1.8 degF"
    with pytest.raises(ValueError, match=f"sigma of 't2m' must be positive .* got {said}$"):
        xsda.observations.read(warm, {"t2m": "K"}, sigma=sigma)


def test_two_variables_of_one_standard_name_have_their_own_errors():
    ds = obs()
    for i, v in enumerate(("wind_u", "wind_v")):
        ds[v].attrs |= {"standard_name": "wind", "ancillary_variables": f"e{i}"}
        ds[f"e{i}"] = xr.full_like(ds[v], 1.0 + i).assign_attrs(standard_name="wind standard_error")
    np.testing.assert_allclose(std(ds), [1] * 4 + [2] * 4)


def test_arrays_are_matched_by_dimension_name():
    ds = obs()[["wind_u"]]
    values = np.arange(1.0, 5).reshape(2, 1, 2)
    full = xr.DataArray(values, dims=("time", "lat", "lon"))
    for sigma in (values, full, full.transpose("lon", "time", "lat"), {"wind_u": full}, full.to_dataset(name="wind_u")):
        np.testing.assert_allclose(std(ds, sigma), [1, 2, 3, 4])
    np.testing.assert_allclose(std(ds, xr.DataArray([1.0, 2.0], dims="lon", coords={"lon": ds.lon})), [1, 2, 1, 2])


def test_several_sources():
    ds = obs()[["wind_u"]]
    both = {"ship": ds, "buoy": ds}
    np.testing.assert_allclose(std(both, {"ship": 1.0, "buoy": {"wind_u": 2.0}}), [1] * 4 + [2] * 4)
    np.testing.assert_allclose(std(list(both.values()), [1.0, 2.0]), [1] * 4 + [2] * 4)


def test_the_error_of_what_is_missing_does_not_matter():
    ds = obs()[["wind_u"]]
    ds["wind_u"][0, 0, 0] = np.nan
    sigma = xr.ones_like(ds["wind_u"]).where(ds["wind_u"].notnull())
    assert std(ds, sigma).shape == (3,)


def test_log_prob_is_the_normal_density():
    ds = obs()
    lik = compile_observations(grid(), ds, {"wind_u": 0.5, "wind_v": 2.0})
    x = torch.zeros(1, *grid().shape)
    y = np.concatenate([ds[v].values.ravel() for v in ds.data_vars])
    s = np.repeat([0.5, 2.0], 4)
    assert float(lik.log_prob(x)) == pytest.approx(-np.sum((y / s) ** 2 / 2 + np.log(s * np.sqrt(2 * np.pi))), rel=1e-5)


# --- refusals ---


def stations(**coords):
    place = {"lat": [40.0, 50.0], "lon": [5.0, 7.0], **coords}
    return xr.Dataset(
        {"wind_u": (("time", "station"), np.ones((6, 2)))},
        {"time": globe().time, **{k: ("station", v) for k, v in place.items()}},
    )


def averages(**bounds):
    ds = obs()[["wind_u"]].isel(lat=0, drop=False)
    ds["wind_u"].attrs["cell_methods"] = "lat: mean"
    return ds.assign_coords(bounds)


def with_bounds(name, value):
    ds = averages(**({} if value is None else {name: value}))
    ds.lat.attrs["bounds"] = name
    return ds


def maximum():
    ds = obs()[["wind_u"]]
    ds["wind_u"].attrs["cell_methods"] = "time: maximum"
    return ds


CALENDAR = xr.date_range("2020-01-01", periods=6, freq="6h", calendar="noleap", use_cftime=True)
REFUSED = {
    "unknown variable": (
        lambda: obs().rename(wind_u="wind_uu"),
        1,
        KeyError,
        "'wind_uu' is neither .* did you mean 'wind_u'",
    ),
    "outside": (
        lambda: stations(lat=[40.0, 61.25]),
        1,
        ValueError,
        r"outside the grid along 'lat': 61\.25; .* 30 to 60",
    ),
    "longitude outside": (lambda: stations(lon=[-20.0, 3.0]), 1, ValueError, "outside the grid along 'lon': -20"),
    "date outside": (
        lambda: obs().assign_coords(time=obs().time - np.timedelta64(1, "D")),
        1,
        ValueError,
        "outside the grid along 'time': 2019-12-31T00:00:00, 2019-12-31T12:00:00; the grid covers 2020-01-01T00:00:00 to",
    ),
    "NaN place": (lambda: stations(lat=[40.0, np.nan]), 1, ValueError, "1 observations have NaN as 'lat'"),
    "NaT": (
        lambda: stations().rename(time="obs").assign_coords(time=("obs", np.array(["NaT"] * 6, "datetime64[ns]"))),
        1,
        ValueError,
        "6 observations have NaN as 'time'",
    ),
    "no sigma": (obs, None, ValueError, "no observation error for 'wind_u': pass sigma="),
    "sigma zero": (obs, 0.0, ValueError, "sigma of 'wind_u' must be positive and finite .* got 0"),
    "sigma negative": (
        obs,
        {"wind_u": 1.0, "wind_v": -2.0},
        ValueError,
        "sigma of 'wind_v' must be positive .* got -2",
    ),
    "sigma NaN": (obs, np.nan, ValueError, "sigma of 'wind_u' must be positive"),
    "sigma text": (obs, "abc", ValueError, "^sigma of 'wind_u' is 'abc'; give a number in the units of the variable"),
    "sigma nested": (obs, {"wind_u": {"a": 1.0}}, ValueError, "^sigma of 'wind_u' is {'a': 1.0}; give a number"),
    "sigma of texts": (obs, xr.DataArray(["a", "b"], dims="lon"), ValueError, "^sigma of 'wind_u' holds <U1; give a"),
    "sigma shape": (
        obs,
        np.ones(3),
        ValueError,
        r"sigma of 'wind_u' has the shape \(3,\), the observations have \(2, 1, 2\)",
    ),
    "sigma dims": (obs, xr.DataArray(np.ones(3), dims="lon"), ValueError, "sigma of 'wind_u' has the shape {'lon': 3}"),
    "sigma elsewhere": (
        obs,
        xr.DataArray(np.ones(2), dims="lon", coords={"lon": [0.0, 40.0]}),
        ValueError,
        "coordinates of sigma differ",
    ),
    "sigma of another": (
        obs,
        {"wind_w": 1.0},
        KeyError,
        "sigma names 'wind_w', which is not observed; did you mean 'wind_[uv]'",
    ),
    "all missing": (lambda: obs() * np.nan, 1, ValueError, r"all observations are missing \(NaN\)"),
    "infinite": (lambda: obs() * np.inf, 1, ValueError, "'wind_u' holds infinite values"),
    "no bounds": (averages, 1, ValueError, "average along 'lat' needs cell bounds"),
    "named bounds missing": (
        lambda: with_bounds("b", None),
        1,
        ValueError,
        "names its bounds 'b', which are not in the Dataset",
    ),
    "three bounds": (
        lambda: with_bounds("b", ("n", [1.0, 2, 3])),
        1,
        ValueError,
        r"the bounds 'b' have the sizes {'n': 3}",
    ),
    "bounds outside": (
        lambda: with_bounds("b", ("n", [-5.0, 55.0])),
        1,
        ValueError,
        r"reach from -5 to 55, outside the cells of the grid \(25 to 65\)",
    ),
    "other cell method": (
        maximum,
        1,
        ValueError,
        "'wind_u' has the cell method 'time: maximum', but only 'mean' can be observed",
    ),
    "numbers for dates": (
        lambda: obs().assign_coords(time=[0.0, 1.0]),
        1,
        ValueError,
        "'time' holds plain numbers, the grid's 'time' holds dates",
    ),
    "another calendar": (
        lambda: globe().assign_coords(time=CALENDAR),
        1,
        ValueError,
        "belong to different calendars; .*convert_calendar",
    ),
    "extra dimension": (
        lambda: obs().expand_dims(scan=3),
        1,
        ValueError,
        "has the dimension 'scan', which the grid .* lacks",
    ),
    "places unknown": (
        lambda: obs().drop_vars("lon"),
        1,
        ValueError,
        "2 values along 'lon' but no coordinate, and the grid has 8",
    ),
    "text": (lambda: obs().assign_coords(lat=["north"]), 1, ValueError, "'lat' holds .*, expected numbers or dates"),
    "nothing": (lambda: obs().drop_vars(["wind_u", "wind_v"]), 1, ValueError, "obs holds no variables"),
    "no sources": (list, 1, ValueError, "no observations were given"),
    "not a Dataset": (lambda: [obs(), 3], 1, TypeError, r"obs\[1\] is a int, expected an xarray.Dataset"),
    "nameless": (lambda: obs()["wind_u"].rename(None), 1, ValueError, "observed DataArray has no name"),
}


def test_latitudes_on_a_grid_of_metres():
    ds = globe().rename(lat="y", lon="x").assign_coords(y=np.arange(4) * 1e5, x=np.arange(8) * 1e5)
    metres = Grid.match(Layout.of(ds), ds)
    with pytest.raises(ValueError, match=r"has the coordinate 'lat' where the grid has 'y'; \.rename it"):
        compile_observations(metres, stations(), 1.0)
    bare = Grid.match(metres.layout, ds.drop_vars(["y", "x"]))
    with pytest.raises(ValueError, match=r"two-dimensional ones as variables, use ds.set_coords\(\['lat', 'lon'\]\)"):
        compile_observations(bare, stations(), 1.0)
    curvilinear = ds.assign_coords(lat=(("y", "x"), np.ones((4, 8))), lon=(("y", "x"), np.ones((4, 8))))
    assert compile_observations(metres, curvilinear.isel(y=[0, 2]), 1.0).y.numel() == 2 * 6 * 2 * 8


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    make, sigma, kind, message = REFUSED[case]
    with pytest.raises(kind, match=message):
        compile_observations(grid(), make(), sigma)


def test_dates_of_two_cftime_calendars():
    ds = globe().assign_coords(time=CALENDAR)
    other = obs().assign_coords(time=xr.date_range("2020-01-01", periods=2, calendar="360_day", use_cftime=True))
    with pytest.raises(ValueError, match="belong to different calendars"):
        compile_observations(Grid.match(Layout.of(ds), ds), other, 1.0)
    late = ds.isel(time=[0]).assign_coords(time=CALENDAR[:1].shift(365, "D"))
    with pytest.raises(
        ValueError, match="outside the grid along 'time': 2021-01-01 00:00:00; the grid covers 2020-01-01 00:00:00"
    ):
        compile_observations(Grid.match(Layout.of(ds), ds), late, 1.0)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (300, r"outside the levels of the grid along 'level': 300; the grid has \[500, 850\]"),
        ("500", r"level='500' is not among the prior's \[500, 850\]"),
        (None, "has no 'level'; use .assign_coords"),
    ],
)
def test_unknown_channels(wanted, message):
    ds = globe().assign(q=(("time", "level", "lat", "lon"), np.ones((6, 2, 4, 8)))).assign_coords(level=[500, 850])
    like = ds[["q"]].isel(level=0)
    like = like.drop_vars("level") if wanted is None else like.assign_coords(level=wanted)
    with pytest.raises(ValueError, match=message):
        compile_observations(Grid.match(Layout.of(ds), ds), like, 1.0)


@pytest.mark.parametrize("missing", ["time", "lat"])
def test_a_list_of_stations_that_leaves_out_a_coordinate(missing):
    ds = globe()
    like = xr.Dataset(
        {"t": ("obs", [1.0, 2.0])},
        {"time": ("obs", ds.time.values[:2]), "lat": ("obs", ds.lat.values[:2]), "lon": ("obs", ds.lon.values[:2])},
    ).rename(t=next(iter(ds.data_vars)))
    with pytest.raises(ValueError, match=f"has no '{missing}'. If it has one"):
        ds.sda.observe(like.drop_vars(missing))
    name = next(iter(ds.data_vars))
    averaged = like.drop_vars(missing)
    averaged[name].attrs["cell_methods"] = f"{missing}: mean"
    places = {c: like[c] for c in ("time", "lat", "lon") if c != missing}
    weight = np.cos(np.deg2rad(ds.lat)) if missing == "lat" else xr.ones_like(ds[missing], dtype=float)
    np.testing.assert_allclose(ds.sda.observe(averaged)[name], ds[name].weighted(weight).mean(missing).sel(places))


# --- derived quantities that cannot be observed, laws that do not exist ---

BROKEN = {
    "detached": lambda s: (s["wind_u"] ** 2).detach(),
    "numpy": lambda s: torch.as_tensor(np.hypot(s["wind_u"], s["wind_v"])),
    "array": lambda s: torch.as_tensor(s["wind_u"].numpy() ** 2),
    "comparison": lambda s: (s["wind_u"] > 0).float(),
    "constant": lambda s: torch.ones_like(s["wind_u"]),
    "rounded": lambda s: s["wind_u"].round(),
    "sign": lambda s: torch.where(s["wind_u"] > 0, 1.0, -1.0) + 0 * s["wind_u"],
}


@pytest.mark.parametrize("name", BROKEN)
def test_derived_without_a_gradient(name):
    speed = obs()[["wind_u"]].rename(wind_u="speed")
    with pytest.raises(ValueError, match=r"'speed' does not pass gradients back.*torch functions"):
        compile_observations(grid(), speed, 1.0, {"speed": BROKEN[name]})


def test_derived_that_fails_by_itself_says_so_itself():
    speed = obs()[["wind_u"]].rename(wind_u="speed")
    with pytest.raises(RuntimeError, match="size of tensor"):
        compile_observations(grid(), speed, 1.0, {"speed": lambda s: s["wind_u"] + torch.ones(3)})


def test_derived_of_another_shape():
    speed = obs()[["wind_u"]].rename(wind_u="speed")
    with pytest.raises(ValueError, match=r"'speed' must be a tensor of shape .*\(10, 6, 4, 8\), got \(10, 6, 4\)"):
        compile_observations(grid(), speed, 1.0, {"speed": lambda s: s["wind_u"].mean(-1)})


def test_derived_with_a_derivative_that_is_not_finite():
    """The obvious way to mend a square root has a slope of 0 times infinity where it clamps; refused before it is used."""
    seen = obs()[["wind_u"]].rename(wind_u="root")
    with pytest.raises(ValueError, match=r"derivative of the derived variable 'root' is not finite.*clamp\(min=1e-6\)"):
        compile_observations(grid(), seen, 1.0, {"root": lambda s: s["wind_u"].clamp(min=0).sqrt()})
    compile_observations(grid(), seen, 1.0, {"root": lambda s: s["wind_u"].clamp(min=1e-6).sqrt()})
    with pytest.raises(ValueError, match=r"'root' is complex; observe its .real"):
        compile_observations(grid(), seen, 1.0, {"root": lambda s: torch.exp(1j * s["wind_u"])})


@pytest.mark.parametrize(
    "function",
    [
        lambda s: s["wind_u"] - s["wind_u"].roll(1, -1),  # its sum does not depend on the state
        lambda s: (
            (s["wind_u"].mean((1, 2, 3), keepdim=True) - 1).relu() + 0 * s["wind_u"]
        ),  # white noise never gets there
        lambda s: (s["wind_u"] ** 2 + s["wind_v"] ** 2).sqrt(),  # without a derivative at nothing
        lambda s: BackwardOnly.apply(s["wind_u"]),
    ],
    ids=["difference", "threshold", "norm", "backward only"],
)
def test_derived_with_a_derivative(function):
    compile_observations(grid(), obs()[["wind_u"]].rename(wind_u="new"), 1.0, {"new": function})


class BackwardOnly(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, up):
        return 2 * up


@pytest.mark.parametrize("guidance", ["mmps", "calibrated", "projection", "sda"])
def test_a_derivative_that_is_not_finite_while_sampling(rotation, guidance):
    """A function without a value at some random states is tried when the members are drawn."""
    series, _, prior = rotation
    seen = xr.Dataset({"root": ("time", [0.5, 0.3])}, {"time": [3.0, 7.0]})
    with pytest.raises(ValueError, match=r"derivative of a derived function is not finite.*clamp"):
        series.sda.assimilate(
            seen,
            prior,
            members=8,
            sigma=0.1,
            guidance=guidance,
            derived={"root": lambda s: s["u"].clamp(min=0).sqrt() + 0 * (s["u"] + 2.5).log()},
            progress=False,
        )


@pytest.mark.parametrize(
    ("derived", "message"),
    [
        ([lambda s: s["u"]], "derived must be a mapping of names to functions"),
        ({"root": "u**2"}, r"derived\['root'\] must be a function of the state s, .* got 'u\*\*2'"),
    ],
)
def test_derived_that_are_no_functions(derived, message):
    with pytest.raises(TypeError, match=message):
        compile_observations(grid(), obs()[["wind_u"]].rename(wind_u="root"), 1.0, derived)


def test_limits_in_other_units():
    """Numbers of any kind; a limit that all values are beyond is told of."""
    seen = obs()[["wind_u"]]
    laws = {"wind_u": Censored(lower=np.float32(273.0))}
    with pytest.warns(
        RuntimeWarning,
        match=r"all \d+ values of 'wind_u' .* Censored\(lower=273.0, upper=None\); check the units of the limits",
    ):
        compile_observations(grid(), seen, 1.0, likelihood=laws)
    assert Censored(upper=np.int64(3)).upper == 3.0


@pytest.mark.parametrize("guidance", ["mmps", "calibrated", "projection"])
def test_derived_that_is_not_a_number_everywhere(rotation, guidance):
    """log of what may be negative while sampling: the state is fine, the function is not."""
    series, _, prior = rotation
    seen = xr.Dataset({"log_u": ("time", [0.0, 0.3])}, {"time": [3.0, 7.0]})
    with pytest.raises(ValueError, match=r"not finite, for observation [01], from a finite state.*clamp"):
        series.sda.assimilate(
            seen, prior, sigma=0.1, derived={"log_u": lambda s: s["u"].log()}, guidance=guidance, progress=False
        )
    post = series.sda.assimilate(
        seen, prior, sigma=0.1, derived={"log_u": lambda s: s["u"].clamp(min=1e-3).log()}, guidance=guidance,
        members=2, progress=False,
    )  # fmt: skip
    assert bool(np.isfinite(post.u).all())


@pytest.mark.parametrize(
    ("laws", "kind", "message"),
    [
        ("student", ValueError, "unknown likelihood 'student'; did you mean 'student_t'.*Censored"),
        ({"wind_u": "hubert"}, ValueError, "unknown likelihood 'hubert'; did you mean 'huber'"),
        ({"wind_w": "huber"}, KeyError, "likelihood names 'wind_w', which is not observed; did you mean 'wind_"),
        (StudentT, TypeError, r"a likelihood is a name or an object .* call it: StudentT\(\)"),
        ({"wind_u": 4.0}, TypeError, "a likelihood is a name or an object .* got 4.0"),
    ],
    ids=str,
)
def test_laws_that_do_not_exist(laws, kind, message):
    with pytest.raises(kind, match=message):
        compile_observations(grid(), obs(), 1.0, likelihood=laws)


def test_limits_are_in_the_units_of_the_variable():
    """A value at or beyond the limit is read as the limit, and says no more than that."""
    ds = obs()
    ds["wind_u"][:] = np.array([-3.0, 0.5, 0.51, 2.0]).reshape(ds["wind_u"].shape)
    layout = Layout.of(ds).scaled([2.0, 0.0], [3.0, 1.0])
    likelihood = compile_observations(Grid.match(layout, globe()), ds, 1.0, likelihood={"wind_u": Censored(lower=0.5)})
    law = likelihood.groups[0].law
    torch.testing.assert_close(law.side, torch.tensor([-1.0, -1.0, 0.0, 0.0]))
    np.testing.assert_allclose(likelihood.y[:4] * 3 + 2, [0.5, 0.5, 0.51, 2.0], rtol=1e-5)
    assert str(likelihood.groups[1].law) == "Normal()"


def test_limits_are_in_the_units_of_the_observations():
    rain = xr.Dataset({"rain": ("time", [0.1, 0.5, 20.0], {"units": "mm"})}, {"time": np.arange(3.0)})
    law = xsda.likelihood.Censored(lower=0.1, upper=20.0)
    (read,) = xsda.observations.read(rain, {"rain": "m"}, sigma=0.1, likelihood=law)
    np.testing.assert_allclose((read.law.lower, read.law.upper), (1e-4, 0.02))
    np.testing.assert_allclose(read.errors, 1e-4)
    assert read.law.side.tolist() == [-1, 0, 1]


def test_a_name_of_a_source_and_of_a_variable_is_that_of_the_variable():
    """sigma={"t": ...} is not the error of another variable of a source that is called t as well."""
    both = xr.Dataset({"t": ("time", [1.0]), "u": ("time", [2.0])}, {"time": [0.0]})
    with pytest.raises(ValueError, match="no observation error for 'u'"):
        xsda.observations.read({"t": both}, {"t": None, "u": None}, sigma={"t": 0.5})
