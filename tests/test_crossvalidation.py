"""Cross-validation equals withholding by hand, and its scores are those of the predictions."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import xsda
from xsda.metrics import crps

TIME = np.datetime64("2026-03-01", "ns") + np.arange(6) * np.timedelta64(6, "h")
LAT, LON = np.linspace(50, 60, 5), np.linspace(-10, 0, 4)


def decay(x, length):
    return np.exp(-np.abs(x[:, None] - x) / length)


@pytest.fixture(scope="module")
def case():
    """(grid, prior, observations at eight stations) of a Gaussian field."""
    grid = xr.Dataset(
        {"t2m": (("time", "lat", "lon"), np.full((6, 5, 4), 280.0), {"units": "K"})},
        {"time": TIME, "lat": LAT, "lon": LON},
    )
    prior = xsda.GaussianPrior.separable(
        grid, decay(np.arange(6.0), 6), decay(LAT, 8), decay(LON, 8), channel_cov=np.array([[4.0]])
    )
    truth = xsda.sample(grid, prior, members=1, seed=2, progress=False).isel(member=0, drop=True)
    rng = np.random.default_rng(0)
    like = xr.Dataset(
        {"t2m": (("time", "station"), np.zeros((6, 8)))},
        {
            "time": TIME, "lat": ("station", rng.uniform(50, 60, 8)), "lon": ("station", rng.uniform(-10, 0, 8)),
            "station": [f"S{i}" for i in range(8)],
        },
    )  # fmt: skip
    obs = truth.sda.observe(like, sigma=0.3, seed=1)
    obs.t2m[2, 3] = np.nan
    return grid, prior, obs


def by_hand(grid, prior, obs, fold, dim, **options):
    """Predictions of the withheld part of each fold, assembled."""
    parts = []
    for k in np.unique(fold):
        train, withheld = obs.isel({dim: fold != k}), obs.isel({dim: fold == k})
        post = xsda.assimilate(grid, train, prior, progress=False, **options)
        parts.append(post.sda.observe(withheld))
    order = np.argsort(np.concatenate([np.flatnonzero(fold == k) for k in np.unique(fold)]))
    return xr.concat(parts, dim).isel({dim: order})


@pytest.mark.parametrize("by", ["station", "time"])
def test_it_equals_doing_it_by_hand(case, by):
    grid, prior, obs = case
    found = xsda.crossvalidate(grid, obs, prior, by=by, folds=3, members=4, steps=12, seed=5, progress=False)
    ds = found.predictions["model"]["obs"]
    other = "time" if by == "station" else "station"
    fold = ds.t2m_fold.isel({other: 0}).values
    assert (ds.t2m_fold == ds.t2m_fold.isel({other: 0})).all()  # whole stations, or whole times
    assert np.bincount(fold).max() - np.bincount(fold).min() <= 1
    expected = by_hand(grid, prior, obs, fold, by, members=4, steps=12, seed=5)
    np.testing.assert_array_equal(ds.t2m.transpose(*expected.t2m.dims), expected.t2m)  # to the last bit
    np.testing.assert_array_equal(ds.t2m_observed, obs.t2m)
    assert (ds.t2m_sigma == 0.3).all()


def test_by_source_and_scores(case):
    grid, prior, obs = case
    sources = {"north": obs.where(obs.lat > 55), "south": obs.where(obs.lat <= 55)}
    found = xsda.crossvalidate(grid, sources, prior, by="source", members=8, progress=False)
    assert found.folds == 2
    expected = {}
    for name, other in (("north", "south"), ("south", "north")):
        post = grid.sda.assimilate({other: sources[other]}, prior, members=8, progress=False)
        expected[name] = post.sda.observe(sources[name])
        np.testing.assert_array_equal(found.predictions["model"][name].t2m, expected[name].t2m)
    x = np.concatenate([expected[s].t2m.values.reshape(8, -1) for s in sources], 1)
    y = np.concatenate([sources[s].t2m.values.ravel() for s in sources])
    x, y = x[:, ~np.isnan(y)], y[~np.isnan(y)]
    scores = found.scores.sel(ensemble="model", variable="t2m")
    error = np.sqrt(((x.mean(0) - y) ** 2).mean())
    total = np.sqrt(((1 + 1 / 8) * x.var(0, ddof=1) + 0.3**2).mean())
    assert int(scores["values"]) == 47
    np.testing.assert_allclose(scores.rmse, error)
    np.testing.assert_allclose(scores.spread_skill, total / error)
    pair = xr.DataArray(x, dims=("member", "i")), xr.DataArray(y, dims="i")
    np.testing.assert_allclose(scores.crps, crps(*pair))
    assert int(found.ranks().sum()) == 47


def test_the_true_prior_is_calibrated_and_beats_its_yardsticks(case):
    grid, prior, _ = case
    skill, errors = [], []
    for seed in range(4):
        truth = xsda.sample(grid, prior, members=1, seed=100 + seed, progress=False).isel(member=0, drop=True)
        obs = truth.sda.observe(case[2], sigma=0.3, seed=seed)
        names = ("climatology", "interpolation", "gaussian")
        found = xsda.crossvalidate(
            grid, obs, prior, folds=4, members=24, seed=seed, yardsticks=names, progress=False
        ).scores
        skill.append(found.spread_skill.sel(ensemble="model").item())
        errors.append(found.crps.squeeze("variable"))
    assert 0.85 < np.mean(skill) < 1.2
    mean = xr.concat(errors, "seed").mean("seed")
    assert float(mean.sel(ensemble="model")) < float(mean.sel(ensemble="interpolation"))
    assert float(mean.sel(ensemble="model")) < float(mean.sel(ensemble="climatology"))
    assert abs(float(mean.sel(ensemble="gaussian") / mean.sel(ensemble="model")) - 1) < 0.15  # nearly the same Gaussian


def test_yardsticks_of_ones_own(case):
    """A prior equals the model it is a copy of, and a function predicts what it returns."""
    grid, prior, obs = case
    seen = []

    def constant(ds, observations):
        seen.append(observations)
        return ds + 3.0

    found = xsda.crossvalidate(
        grid, obs, prior, folds=2, members=4, steps=12, yardsticks={"same": prior, "constant": constant}, progress=False
    )
    full = xsda.crossvalidate(grid, obs, prior, folds=2, members=4, progress=False).predictions["model"]["obs"]
    xr.testing.assert_equal(found.predictions["same"]["obs"], full)  # a prior has the steps that suit it
    np.testing.assert_allclose(found.predictions["constant"]["obs"].t2m.isel(member=0), obs.t2m * 0 + 283)
    scores = found.scores.sel(ensemble="constant", variable="t2m")
    np.testing.assert_allclose(scores.crps, float(abs(obs.t2m - 283).mean()))  # one member: the mean absolute error
    assert np.isnan(scores.spread_skill)
    used = [int(obs.t2m.where(full.t2m_fold != k).count()) for k in (0, 1)]
    assert [int(o.t2m.count()) for o in seen] == used


def test_a_yardstick_may_be_a_file(case, tmp_path):
    grid, prior, obs = case
    path = prior.save(tmp_path / "again.safetensors")
    options = {"by": "time", "folds": 2, "members": 2, "progress": False}
    found = xsda.crossvalidate(grid, obs, prior, yardsticks={"again": path}, **options).predictions
    xr.testing.assert_equal(found["again"]["obs"], found["model"]["obs"])
    dated = obs.assign_coords(issued=("time", np.zeros(6, "datetime64[ns]")))[["issued", "t2m"]]
    same = xsda.crossvalidate(grid, dated, prior, **options).predictions["model"]["obs"]
    np.testing.assert_array_equal(same.t2m, found["model"]["obs"].t2m)  # dates of another kind are not the time


def test_interpolation_in_closed_form(case):
    """Between two stations at equal distance it is the mean of their anomalies."""
    grid, prior, _ = case
    obs = xr.Dataset(
        {"t2m": (("time", "station"), [[281.0, 284.0, 300.0]], {"error_std": 0.3})},
        {"time": TIME[:1], "lat": ("station", [50.0, 55.0, 52.5]), "lon": ("station", [-10.0, -10.0, -10.0])},
    )
    found = xsda.crossvalidate(
        grid, obs, prior, folds=3, members=2, steps=4, yardsticks="interpolation", progress=False
    )
    ds = found.predictions["interpolation"]["obs"]
    np.testing.assert_allclose(ds.t2m.isel(member=0, time=0, station=2), 282.5, atol=1e-3)
    weight = np.array([1 / 4, 1]) / 1.25  # the first station is twice as far from the second as the third is
    np.testing.assert_allclose(ds.t2m.isel(member=0, time=0, station=1), weight @ [281.0, 300.0], atol=1e-2)


def test_row_order_and_the_names_of_sources_do_not_matter(case):
    grid, prior, obs = case
    options = {
        "folds": 3,
        "members": 2,
        "steps": 8,
        "yardsticks": "interpolation",
        "precision": "float64",
        "progress": False,
    }
    one = xsda.crossvalidate(grid, obs, prior, **options)
    order = np.random.default_rng(1).permutation(8)
    two = xsda.crossvalidate(grid, {"other": obs.isel(station=order)}, prior, **options)
    for method in ("model", "interpolation"):
        a, b = one.predictions[method]["obs"], two.predictions[method]["other"].isel(station=np.argsort(order))
        np.testing.assert_array_equal(a.t2m_fold, b.t2m_fold)
        np.testing.assert_allclose(a.t2m.values, b.t2m.transpose(*a.t2m.dims).values, atol=1e-6)


def test_stations_are_found(case):
    """By the coordinate, by place, or by the only dimension that the grid lacks; a table of reports has the same."""
    grid, prior, obs = case
    options = {"folds": 4, "members": 1, "steps": 2, "progress": False}

    def folds(observations):
        ds = xsda.crossvalidate(grid, observations, prior, **options).predictions["model"]["obs"]
        return ds.t2m_fold

    flat = {"t2m": ("report", obs.t2m.values.ravel(), obs.t2m.attrs)}
    places = {d: ("report", np.tile(obs[d].values, 6)) for d in ("lat", "lon")}
    long = xr.Dataset(flat, {"time": ("report", np.repeat(TIME, 8)), **places})
    by_place = folds(long).values.reshape(6, 8)
    assert (by_place == by_place[0]).all()
    np.testing.assert_array_equal(folds(obs.drop_vars("station")).values, by_place)
    table = pd.DataFrame({k: v.values for k, v in long.variables.items()})
    known = np.sort(by_place[obs.t2m.notnull().values])  # a table lists the values that are there
    np.testing.assert_array_equal(np.sort(folds(table.assign(error=0.3)).values.ravel()), known)
    named = long.assign_coords(station=("report", np.tile(obs.station.values, 6)))
    np.testing.assert_array_equal(folds(named).values.reshape(6, 8), folds(obs).values)
    singles = {str(s): obs.sel(station=s) for s in obs.station.values}
    found = xsda.crossvalidate(grid, singles, prior, **options).predictions["model"]
    np.testing.assert_array_equal([int(found[f"S{i}"].t2m_fold[0]) for i in range(8)], folds(obs)[0])


def test_arguments_of_assimilate_are_passed_on(case):
    grid, prior, obs = case
    ds = xsda.crossvalidate(
        grid, obs, prior, folds=2, members=range(4, 6), steps=8, sigma=2.0, likelihood="student_t", progress=False
    ).predictions["model"]["obs"]
    assert (ds.t2m_sigma == 2.0).all()
    fold = ds.t2m_fold.isel(time=0).values
    hand = by_hand(grid, prior, obs, fold, "station", members=range(4, 6), steps=8, sigma=2.0, likelihood="student_t")
    np.testing.assert_array_equal(ds.t2m.transpose(*hand.t2m.dims), hand.t2m)


@pytest.mark.filterwarnings("ignore:.*(averaged|flags|outside):UserWarning")
def test_flags_places_outside_and_averages(case):
    """Each fold selects, averages what it uses, and predicts what it withholds value by value."""
    grid, prior, obs = case
    twice = xr.concat([obs, (obs + 0.5).assign_coords(time=obs.time + np.timedelta64(40, "m"))], "time").sortby("time")
    twice = twice.isel(time=slice(None, -1))
    far = twice.isel(station=[0]).assign_coords(lat=("station", [80.0]), station=["far"])
    came = xr.concat([twice, far], "station")
    came["t2m_qc"] = came.t2m.dims, np.zeros(came.t2m.shape, int)
    came.t2m_qc[4, 2] = 4
    came.t2m[4, 2] = 400.0
    came.t2m.attrs["error_std"] = 0.3
    options = {"members": 2, "steps": 4, "seed": 5, "superobs": "2h"}
    found = xsda.crossvalidate(
        grid, came, prior, folds=2, quality=0, outside="drop", progress=False, **options
    ).predictions["model"]["obs"]
    hand = twice.where(twice.t2m != twice.t2m[4, 2])
    hand.t2m.attrs["error_std"] = 0.3
    np.testing.assert_array_equal(found.t2m_observed, hand.t2m)
    expected = by_hand(grid, prior, hand, found.t2m_fold.isel(time=0).values, "station", **options)
    np.testing.assert_allclose(found.t2m.transpose(*expected.t2m.dims), expected.t2m, atol=1e-4)


def test_as_text_and_on_the_accessor(case):
    grid, prior, obs = case
    found = grid.sda.crossvalidate(obs, prior, folds=2, members=2, steps=4, progress=False)
    assert repr(found).splitlines()[0] == "predictions of observations withheld by station, in 2 folds"
    assert "<table" in found._repr_html_()
    assert found.to_dataframe().loc[("t2m", "model"), "rmse"] == found.scores.rmse.item()


def test_bad_input(case):
    grid, prior, obs = case
    with pytest.raises(ValueError, match=r"unknown by='stations'; did you mean 'station'\?"):
        xsda.crossvalidate(grid, obs, prior, by="stations")
    with pytest.raises(ValueError, match="folds=1 must be an integer of at least 2"):
        xsda.crossvalidate(grid, obs, prior, folds=1)
    with pytest.raises(ValueError, match="by='source' needs at least 2 of them, and the observations have 1"):
        xsda.crossvalidate(grid, obs, prior, by="source")
    with pytest.raises(ValueError, match="the stations of obs are not known"):
        xsda.crossvalidate(grid, grid.isel(time=[0, 3]), prior, sigma=1.0)
    with pytest.raises(ValueError, match="unknown yardstick 'kriging'; choose one of 'climatology'"):
        xsda.crossvalidate(grid, obs, prior, yardsticks="kriging")
    with pytest.raises(ValueError, match="outside='ignore' must be 'raise' or 'drop'"):
        xsda.crossvalidate(grid, obs, prior, outside="ignore")
    with pytest.raises(ValueError, match="a yardstick has the name 'model'"):
        xsda.crossvalidate(grid, obs, prior, yardsticks={"model": prior})
