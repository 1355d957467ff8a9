"""Tables of reports: long, wide and as a Dataset are the same observations, to the last bit."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

import xsda
from xsda.labels import Grid, Layout
from xsda.observations import as_sources, compile_observations, read, units_of

N = 40


@pytest.fixture(scope="module")
def field():
    """Two variables on a geographic grid over dates, and their grid."""
    rng = np.random.default_rng(0)
    coords = {
        "time": np.datetime64("2026-03-01", "ns") + np.arange(12) * np.timedelta64(1, "h"),
        "lat": np.linspace(60.0, 50.0, 6),
        "lon": np.linspace(-10.0, 2.0, 7),
    }
    ds = xr.Dataset(coords=coords)
    for name, units in (("t2m", "K"), ("u10", "m s-1")):
        ds[name] = (tuple(coords), 280 + rng.standard_normal((12, 6, 7)), {"units": units})
    return ds


@pytest.fixture(scope="module")
def reports():
    """A Dataset of stations at scattered places and times, sorted by time."""
    rng = np.random.default_rng(1)
    minutes = np.sort(rng.choice(11 * 60, N, replace=False))
    coords = {
        "time": ("report", np.datetime64("2026-03-01", "ns") + minutes * np.timedelta64(1, "m")),
        "lat": ("report", rng.uniform(50, 60, N)),
        "lon": ("report", rng.uniform(-10, 2, N)),
        "station": ("report", np.array([f"s{i % 5}" for i in range(N)], dtype=object)),
    }
    ds = xr.Dataset(coords=coords)
    for name, units in (("t2m", "K"), ("u10", "m s-1")):
        ds[name] = ("report", 280 + rng.standard_normal(N), {"units": units, "ancillary_variables": f"{name}_error"})
        own = {"standard_name": f"{name} standard_error", "units": units}
        ds[f"{name}_error"] = ("report", rng.uniform(0.5, 2, N), own)
    ds["u10"][::3] = np.nan
    return ds


def wide(reports):
    df = reports.to_dataframe().reset_index(drop=True)
    df.attrs["units"] = {"t2m": "K", "u10": "m s-1"}
    return df


def long(reports):
    df = wide(reports)
    parts = [
        df[["time", "lat", "lon", "station"]].assign(
            variable=v, observation=df[v], error=df[f"{v}_error"], units=df.attrs["units"][v]
        )
        for v in ("t2m", "u10")
    ]
    return pd.concat(parts, ignore_index=True).dropna()


def likelihood(field, obs, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return compile_observations(Grid.match(Layout.of(field, even=False), field), obs, **options)


def assert_same(field, a, b, **options):
    """Values, errors and operator agree to the last bit."""
    one, two = likelihood(field, a, **options), likelihood(field, b, **options)
    x = torch.randn(3, 12, 2, 6, 7, generator=torch.Generator().manual_seed(0))
    assert torch.equal(one.y, two.y)
    assert torch.equal(one.std, two.std)
    assert torch.equal(one.predict(x), two.predict(x))


@pytest.mark.parametrize("shape", [wide, long])
def test_a_table_is_the_dataset_of_its_reports(field, reports, shape):
    assert_same(field, shape(reports), reports)


def test_long_and_wide_give_identical_datasets(reports):
    (a,), (b,) = as_sources(wide(reports)).values(), as_sources(long(reports)).values()
    xr.testing.assert_identical(a, b)


@pytest.mark.parametrize("shape", [wide, long])
@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_rows_does_not_matter(reports, shape, seed):
    """With duplicates, too, and whatever the labels of the rows are."""
    table = shape(reports)
    units = table.attrs
    table = pd.concat([table, table.iloc[[3, 7]].assign(**{table.columns[-2]: 1.25})])
    table.attrs = units
    shuffled = table.sample(frac=1, random_state=seed)
    (a,), (b,) = as_sources(table).values(), as_sources(shuffled).values()
    xr.testing.assert_identical(a, b)


def test_how_a_table_is_split_into_a_list_does_not_matter(field, reports):
    """Sources belong together across the tables of a list."""
    table = long(reports).assign(source=np.arange(len(long(reports))) % 2)
    pieces = [table.iloc[:11], table.iloc[11:12], table.iloc[12:]]
    assert_same(field, pieces, table)
    assert list(as_sources(pieces)) == ["0", "1"]
    without = [p.drop(columns="source") for p in pieces]
    x = torch.randn(2, 12, 2, 6, 7, generator=torch.Generator().manual_seed(0))
    ours, whole = (likelihood(field, o) for o in (without, table.drop(columns="source")))
    misfits = [(((o.y - o.predict(x)) / o.std) ** 2).double().sum(1) for o in (ours, whole)]
    torch.testing.assert_close(*misfits, rtol=1e-6, atol=0)


def test_sources_have_errors_of_their_own(field, reports):
    table = long(reports).drop(columns="error").assign(source=lambda d: d.station.where(d.station == "s1", "rest"))
    found = read(table, units_of(Grid.match(Layout.of(field), field)), sigma={"s1": 0.25, "rest": 2.0})
    for o in found:
        assert set(o.errors) == {0.25 if o.source == "s1" else 2.0}
        assert (o.source == "s1") == (set(o.ds.station.values) == {"s1"})


SPELLINGS = [
    {"time": "valid_time", "lat": "latitude", "lon": "longitude"},
    {"time": "Date", "lat": "LAT", "lon": "LON"},
    {"time": "timestamp", "lat": "Latitude", "lon": "Lng", "observation": "value", "error": "sigma", "units": "unit"},
]


@pytest.mark.parametrize("names", SPELLINGS)
def test_customary_spellings(field, reports, names):
    assert_same(field, long(reports).rename(columns=names), long(reports))


def test_positions_in_the_index(field, reports):
    assert_same(field, wide(reports).set_index("time"), reports)
    assert_same(field, wide(reports).set_index("time").rename_axis(None), reports)
    assert_same(field, wide(reports).set_index(["station", "time"]), reports)


def test_dates_as_text(field, reports):
    table = long(reports)
    assert_same(field, table.assign(time=table.time.dt.strftime("%Y-%m-%d %H:%M")), table)
    assert_same(field, table.assign(time=table.time.dt.strftime("%Y-%m-%dT%H:%M:%SZ")), table)


@pytest.mark.parametrize("as_text", [False, True])
def test_time_zones_are_converted_with_a_notice(reports, as_text):
    table = long(reports)
    zoned = table.time.dt.tz_localize("UTC").dt.tz_convert("Asia/Kolkata")
    there = table.assign(time=zoned.map(lambda t: t.isoformat()) if as_text else zoned)
    with pytest.warns(UserWarning, match=r"offsets such as '\+05:30'|the time zone Asia/Kolkata") as notices:
        (a,) = as_sources(there).values()
    assert len(notices) == 1
    (b,) = as_sources(table).values()
    np.testing.assert_array_equal(a.time.values, b.time.values)


def test_time_zones_of_a_dataset(field, reports):
    zoned = pd.DatetimeIndex(reports.time.values).tz_localize("UTC")
    with pytest.warns(UserWarning, match="America/Lima"):
        (a,) = as_sources(reports.assign_coords(time=("report", zoned.tz_convert("America/Lima")))).values()
    xr.testing.assert_equal(a, reports)
    assert_same(field, reports.assign_coords(time=("report", zoned)), reports)


@pytest.mark.parametrize("how", ["attrs", "one for all", "column"])
def test_units_are_converted(field, reports, how):
    kelvin = long(reports).query("variable == 't2m'").drop(columns="units")
    celsius = kelvin.assign(observation=kelvin.observation - 273.15)
    if how == "column":
        celsius["units"] = "degC"
    else:
        celsius.attrs["units"] = {"t2m": "degC"} if how == "attrs" else "degC"
    one, two = likelihood(field, celsius), likelihood(field, kelvin)
    torch.testing.assert_close(one.y, two.y, rtol=1e-6, atol=1e-4)
    assert torch.equal(one.std, two.std)


def test_polars(field, reports):
    polars = pytest.importorskip("polars")
    pytest.importorskip("pyarrow")  # which polars needs for to_pandas
    table = long(reports)
    assert_same(field, polars.from_dict({c: table[c].tolist() for c in table}), table)


def test_a_frame_that_converts_itself(field, reports):
    class Frame:
        columns = tuple(long(reports))

        def to_pandas(self):
            return long(reports)

    assert_same(field, {"a": Frame()}, {"a": long(reports)})


def test_extra_columns(field, reports):
    """Text is ignored; numbers that are not used are named; the result is the same."""
    table = wide(reports).assign(remark="fog", name="Lerwick", elevation=82.0)
    with pytest.warns(UserWarning, match="not used of obs, because the grid has no such variable: 'elevation'"):
        found = compile_observations(Grid.match(Layout.of(field, even=False), field), table)
    assert torch.equal(found.y, likelihood(field, reports).y)


def test_text_over_the_reports_of_a_dataset_is_ignored(field, reports):
    assert_same(field, reports.assign(place=("report", ["Lerwick"] * N)), reports)


def test_variables_named_x_and_y_are_no_positions():
    truth = xsda.systems.Lorenz63().simulate(16, seed=0)
    table = pd.DataFrame({"time": truth.time.values[:4], "x": [1.0, 2, 3, 4], "y": [5.0, 6, 7, 8]})
    found = read(table, units_of(Grid.match(Layout.of(truth, even=False), truth)), sigma=1.0)
    assert [(o.name, o.values.tolist()) for o in found] == [("x", [1, 2, 3, 4]), ("y", [5, 6, 7, 8])]


def test_positions_in_a_plane():
    ds = xr.Dataset(
        {"u": (("time", "y", "x"), np.arange(24.0).reshape(2, 3, 4))},
        {"time": [0, 1], "y": [0, 1, 2], "x": [0, 1, 2, 3]},
    )
    seen = ds.sda.observe(pd.DataFrame({"time": [0.5], "y": [1.0], "x": [2.5], "u": [0.0]}))
    np.testing.assert_allclose(seen.u, 6 + 4 + 2.5)


def test_observe_evaluate_filter_and_plot_take_tables(lorenz):
    truth, obs = lorenz
    table = obs.to_dataframe().reset_index()
    options = {"method": xsda.baselines.ETKF(), "members": 5, "sigma": 0.5, "progress": False}
    a, b = (truth.sda.filter(o, xsda.systems.Lorenz63(), **options) for o in (table, obs))
    np.testing.assert_array_equal(a.x, b.x)
    scores = [a.sda.evaluate(truth, obs=o, sigma=0.5).chi_square.sel(variable="x") for o in (table, obs)]
    np.testing.assert_allclose(*scores)
    np.testing.assert_array_equal(truth.sda.observe(table).x, truth.sda.observe(obs).x)
    one = a.isel(time=4)
    drawn = [
        xsda.baselines.analyse(one, o, method=xsda.baselines.ETKF(), sigma=0.5)
        for o in (table[1:2], obs.isel(time=[1]))
    ]
    np.testing.assert_array_equal(drawn[0].x, drawn[1].x)
    marks = [ax.figure for ax in np.ravel(a.sda.plot(truth=truth, obs=table))]
    assert marks


def test_quality_flags_travel_with_the_table(reports):
    table = long(reports).assign(quality="good")
    (ds,) = as_sources(table).values()
    assert ds.t2m_quality.attrs["standard_name"] == "t2m quality_flag"
    (other,) = as_sources(wide(reports).assign(t2m_qc="good", u10_qc="good")).values()
    xr.testing.assert_identical(ds, other)


BAD = {
    "text among numbers": (
        lambda t: t.assign(observation=t.observation.astype(object).where(t.index != 5, "n/a")),
        "column 'observation' of obs holds 'n/a' in row 5, expected a number",
    ),
    "no times": (lambda t: t.drop(columns="time"), r"obs has no column 'time'; its columns are 'lat', 'lon'.*df.rename\(columns=\{'\.\.\.': 'time'"),
    "misspelt": (
        lambda t: t.rename(columns={"lat": "lattitude"}),
        r"no column 'lat'; .*df.rename\(columns=\{'lattitude': 'lat'\}\)",
    ),
    "no positions": (lambda t: t.drop(columns=["lat", "lon"]), "no column 'lat'; its columns are 'time', 'station'"),
    "a day of the month first": (
        lambda t: t.assign(time="27/03/2026 06:00"),
        "column 'time' of obs holds '27/03/2026 06:00' in row 0, expected a date such as '2026-03-01T06:00'",
    ),
    "a missing latitude": (lambda t: t.assign(lat=t.lat.where(t.index != 7)), r"1 of \d+ values of obs have no lat, the first in row 7"),
    "fill values": (
        lambda t: t.assign(observation=t.observation.where(t.index % 20 != 3, -9999.0)),
        r"\d of 40 values of 't2m' in obs are -9999, which stands for a missing value; mark them as missing",
    ),
    "swapped": (
        lambda t: t.assign(lat=100 + t.lon, lon=t.lat),
        r"latitude \d+.* in row \d+, outside of -90 to 90; are latitudes and longitudes swapped",
    ),
    "unknown variable": (lambda t: t.assign(variable="t2"), "no variable of the grid .*'t2'; did you mean 't2m'"),
    "no values": (lambda t: t.drop(columns="observation"), "column 'variable' but none of values"),
    "two units": (lambda t: t.assign(units=["K", "degC"] * (len(t) // 2) + ["K"] * (len(t) % 2)), "has the units 'K', 'degC'"),
    "some errors": (lambda t: t.assign(error=t.error.where(t.index > 2)), "3 of 40 values of 't2m' in obs have no error"),
    "twice": (lambda t: t.rename(columns={"lat": "lon"}), "two columns 'lon'"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_tables(field, reports, case):
    spoil, said = BAD[case]
    with pytest.raises(ValueError, match=said):
        likelihood(field, spoil(long(reports)))


def test_blanks_are_missing(field, reports):
    table = long(reports)
    text = table.observation.astype(object).where(table.index % 3 > 0, " ")
    a = likelihood(field, table.assign(observation=text))
    assert torch.equal(a.y, likelihood(field, table[table.index % 3 > 0]).y)


def test_a_table_without_values(field, reports):
    with pytest.raises(ValueError, match="all observations are missing"):
        likelihood(field, long(reports).assign(observation=np.nan))


def test_offsets_of_zero_are_utc(reports, recwarn):
    table = long(reports)
    text = table.time.dt.strftime("%Y-%m-%dT%H:%M:%S") + np.where(table.index % 2, "Z", "+00:00")
    (a,), (b,) = as_sources(table.assign(time=text)).values(), as_sources(table).values()
    np.testing.assert_array_equal(a.time.values, b.time.values)
    assert not len(recwarn)


def test_bad_wide_tables(field, reports):
    table = wide(reports).assign(t2m=lambda t: t.t2m.astype(object).where(t.index != 9, "calm"))
    with pytest.raises(ValueError, match="column 't2m' of obs holds 'calm' in row 9"):
        likelihood(field, table)
    table = wide(reports).drop(columns=["t2m_error", "u10_error"]).assign(error=1.0)
    with pytest.raises(ValueError, match="one column 'error' and the variables 't2m', 'u10'; give each"):
        likelihood(field, table)


def test_a_table_made_a_dataset_without_coordinates(field, reports):
    ds = wide(reports).to_xarray()
    with pytest.raises(
        ValueError, match=r"'time', 'lat', 'lon' as variables.*pass the pandas DataFrame itself, or use .set_coords"
    ):
        likelihood(field, ds)
    assert_same(field, ds.set_coords(["time", "lat", "lon"]).drop_vars(["t2m_error", "u10_error"]), reports, sigma=0.7)


def test_text_where_a_variable_is_expected(field, reports):
    with pytest.raises(TypeError, match="'t2m' of obs holds text, expected numbers"):
        likelihood(field, reports.assign(t2m=("report", ["a"] * N)))


def test_what_is_no_observation():
    with pytest.raises(TypeError, match=r"xarray.Dataset or a pandas DataFrame, .* got str"):
        as_sources("stations.csv")
    with pytest.raises(TypeError, match=r"obs\[0\] is a Series"):
        as_sources([pd.Series([1.0])])
