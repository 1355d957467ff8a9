"""The Gaussian with patterns: equal to the dense one, exact at every noise level, masked, and fitted from data."""

import warnings

import numpy as np
import pytest
import torch
import xarray as xr

import xsda
from xsda.labels import Layout
from xsda.labels.climatology import waves
from xsda.labels.grid import Grid
from xsda.observations import compile_observations
from xsda.priors.anomalies import Anomalies
from xsda.priors.eof import EofDenoiser, time_factors
from xsda.priors.eof_fit import fit_eof, leading
from xsda.priors.exact import GaussianDenoiser
from xsda.priors.normals import fit_normals, point_scaling
from xsda.priors.taper import positions, taper_functions

LENGTH, CHANNELS, NY, NX = 4, 2, 3, 5
SHAPE = (LENGTH, CHANNELS, NY, NX)
RHO = ([1.0, 0.9, 0.7, 0.5], [1.0, 0.5, 0.2, 0.1], [1.0, 0.1, 0.0, 0.0])


def denoiser(patterns=12, masked=6, rest=0.3):
    """Random patterns in three groups, and their dense covariance of the valid numbers."""
    rng = np.random.default_rng(0)
    valid = np.ones(CHANNELS * NY * NX, bool)
    valid[rng.choice(len(valid), masked, replace=False)] = False
    e = np.linalg.qr(rng.standard_normal((valid.sum(), patterns)))[0].T
    variance, ends = 5.0 / (1 + np.arange(patterns)), [2, 5, patterns]
    values, vectors = time_factors([torch.tensor(r, dtype=torch.float64) for r in (*RHO, RHO[-1])])
    index = np.abs(np.subtract.outer(np.arange(LENGTH), np.arange(LENGTH)))
    cov = rest * np.kron(np.array(RHO[-1])[index], np.eye(valid.sum()) - e.T @ e)
    for (a, b), rho in zip(((0, 2), (2, 5), (5, patterns)), RHO, strict=True):
        cov += np.kron(np.array(rho)[index], (e[a:b].T * variance[a:b]) @ e[a:b])
    tensors = (torch.as_tensor(e), torch.as_tensor(variance), torch.tensor(ends), values, vectors, torch.tensor(rest))
    return EofDenoiser(*tensors, torch.as_tensor(valid), torch.tensor(SHAPE)), cov, valid


@pytest.mark.parametrize(("patterns", "masked"), [(12, 6), (30, 0), (24, 6)])
def test_it_is_the_dense_gaussian(patterns, masked):
    """Denoised states, draws, density and error, with a mask, and with patterns that span all states."""
    eof, cov, valid = denoiser(patterns, masked)
    numbers = len(cov)
    dense = GaussianDenoiser.of(
        torch.zeros(1, numbers, dtype=torch.float64), torch.as_tensor(cov)[None], torch.ones(1),
        (LENGTH, numbers // LENGTH), eof.schedule,
    )  # fmt: skip
    x = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(1))
    for level in (0.05, 1.0, 20.0):
        t = eof.schedule.time(torch.tensor(level))
        out = eof(level * x, t).flatten(2)
        expected = dense((level * x).flatten(2)[..., valid], t)
        torch.testing.assert_close(out[..., valid], expected, rtol=1e-4, atol=1e-4 * max(1.0, level))
        assert not out[..., ~valid].any()
        mean_square = dense.mean_square(torch.tensor(level)).mean()
        weights = torch.as_tensor(valid.reshape(CHANNELS, -1).sum(1) / valid.sum())
        assert float(eof.mean_square(torch.tensor(level)) @ weights) == pytest.approx(float(mean_square), rel=1e-4)
    x = torch.zeros(2, *SHAPE).flatten(2)
    x[..., valid] = torch.randn(2, LENGTH, valid.sum(), generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(eof.log_prob(x.reshape(2, *SHAPE)), dense.log_prob(x[..., valid]), rtol=1e-4, atol=1e-3)
    drawn = eof.draw(40_000, torch.Generator().manual_seed(3)).flatten(2)[..., valid].flatten(1).double()
    assert float((torch.cov(drawn.T) - torch.as_tensor(cov)).abs().max()) < 0.15


def test_errors_of_neighbours():
    """In closed form as in samples, with a mask."""
    eof, _, valid = denoiser()
    level = torch.tensor(0.8)
    found = eof.neighbours(level)
    x0 = eof.draw(20_000, torch.Generator().manual_seed(4))
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(5))
    error = (eof(x0 + level * noise, eof.schedule.time(level)) - x0).double()
    mask = torch.as_tensor(valid.reshape(SHAPE[1:]))
    variance = (error**2 * mask).sum() / mask.sum() / LENGTH / len(error)
    for i, axis in enumerate((1, 3, 4)):
        n = error.shape[axis]
        pairs = (error.narrow(axis, 1, n - 1) * error.narrow(axis, 0, n - 1)).sum() / len(error)
        if axis == 1:
            count = mask.sum() * (n - 1)
        else:
            count = (mask.narrow(axis - 2, 1, n - 1) & mask.narrow(axis - 2, 0, n - 1)).sum() * LENGTH
        assert float(found[i]) == pytest.approx(float(pairs / count / variance), abs=0.01)


def weather(states=400, land=True):
    """Anomalies around a climatology with a daily cycle; each second point along x varies twice as much."""
    rng = np.random.default_rng(0)
    time = xr.date_range("2020-01-01", periods=states, freq="3h")
    wave = np.exp(-np.square(np.subtract.outer(np.linspace(0, 1, 8), np.linspace(0, 1, 4))) / 0.1)
    a = np.zeros((states, 4))
    for k in range(1, states):
        a[k] = 0.8 * a[k - 1] + 0.6 * rng.standard_normal(4)
    spread = np.where(np.arange(8) % 2, 2.0, 1.0)
    field = np.einsum("tk,xk,yx->tyx", a, wave, 1 + 0.1 * rng.standard_normal((6, 8))) * spread
    daily = 3 * np.cos(2 * np.pi * time.hour.values / 24)
    values = 280 + np.arange(6)[:, None] + daily[:, None, None] + field
    if land:
        values[:, 2:4, 3:5] = np.nan
    coords = {"time": time, "lat": np.linspace(60, 50, 6), "lon": np.linspace(0, 7, 8)}
    return xr.Dataset({"t": (("time", "lat", "lon"), values, {"units": "K"})}, coords)


def test_normals_are_least_squares():
    """Mean, cycle and spread are those of a regression at each point; gaps are left out; land is a mask."""
    ds = weather()
    gaps = ds.where(xr.DataArray(np.random.default_rng(1).random(ds.t.shape) > 0.3, dims=ds.t.dims))
    layout = fit_normals(gaps, Layout.of(gaps), ("hour_of_day",))
    normals = layout.normals
    w = waves(ds.time, ("hour_of_day",))
    center = layout.mean[0] + layout.std[0] * normals.center(ds.time)[:, 0]
    for y, x in ((0, 0), (5, 7), (2, 2)):
        values = gaps.t.sortby("lat").values[:, y, x]
        known = np.isfinite(values)
        coefficients = np.linalg.lstsq(w[known], values[known], rcond=None)[0]
        np.testing.assert_allclose(center[:, y, x], w @ coefficients, rtol=1e-6)
        spread = np.sqrt(np.square(values - w @ coefficients)[known].mean())
        np.testing.assert_allclose(layout.std[0] * normals.std[0, y, x], spread, rtol=1e-5)
    np.testing.assert_array_equal(normals.valid[0], np.isfinite(ds.t.sortby("lat").values).all(0))


def test_leading_patterns_are_those_of_the_tapered_covariance():
    ds = weather(land=False).rename(lat="y", lon="x")  # a plane
    layout = fit_normals(ds, Layout.of(ds), ("hour_of_day",))
    data = Anomalies(ds, layout)
    places = np.random.default_rng(0).standard_normal((data.points, 2))
    phi = taper_functions(places, 1.5)
    z = data.map(lambda block: block, data.points)[0].astype(float)
    taper = np.exp(-np.square(np.linalg.norm(places[:, None] - places[None], axis=-1) / 1.5) / 2)
    np.testing.assert_allclose(phi.T @ phi, taper, atol=0.02)
    values, vectors = np.linalg.eigh(z.T @ z / len(z) * (phi.T @ phi))
    found, patterns = leading(data, phi.astype(np.float32), 10)
    np.testing.assert_allclose(found, values[::-1][:10], rtol=1e-4)
    np.testing.assert_allclose(np.abs(patterns[0] @ vectors[:, -1]), 1, atol=1e-4)


def test_patterns_on_the_sphere_are_weighted_by_area():
    """They span the eigenvectors of W^1/2 C W^1/2 over W^1/2 and are orthonormal; all of them together give C."""
    rng = np.random.default_rng(0)
    lat, lon = np.linspace(-85, 85, 8), np.arange(6) * 60.0
    series = rng.standard_normal((300, 48)) @ (0.6 ** np.arange(48)[:, None] * rng.standard_normal((48, 48)))
    coords = {"time": np.arange(300.0), "lat": lat, "lon": lon}
    ds = xr.Dataset({"t": (("time", "lat", "lon"), series.reshape(300, 8, 6))}, coords)
    data = Anomalies(ds, fit_normals(ds, Layout.of(ds)))
    z = data.map(lambda block: block, 48)[0].astype(float)
    cov, root = z.T @ z / 300, np.sqrt(np.repeat(np.cos(np.radians(lat)), 6))
    expected = np.linalg.eigh(cov * root * root[:, None])[1][:, -5:] / root[:, None]
    found, patterns = leading(data, np.ones((1, 48), np.float32), 5)
    np.testing.assert_allclose(patterns @ patterns.T, np.eye(5), atol=1e-5)
    inside = np.linalg.lstsq(patterns.T, expected, rcond=None)[0]
    np.testing.assert_allclose(patterns.T @ inside, expected, atol=2e-3)
    np.testing.assert_allclose(patterns @ cov @ patterns.T, np.diag(found), atol=1e-4 * found[0])
    found, patterns = leading(data, np.ones((1, 48), np.float32), 48)
    np.testing.assert_allclose((patterns.T * found) @ patterns, cov, atol=1e-5 * found[0])


def test_two_dimensional_coordinates_are_on_the_same_sphere():
    ds = weather().isel(time=slice(0, 3))
    lat, lon = xr.broadcast(ds.lat, ds.lon)
    mesh = ds.drop_vars(["lat", "lon"]).rename(lat="j", lon="i").assign_coords(
        latitude=(("j", "i"), lat.values, {"units": "degrees_north"}), longitude=(("j", "i"), lon.values, {"units": "degrees_east"})
    )  # fmt: skip
    flat, curved = (positions(Grid.match(Layout.of(d), d)) for d in (ds, mesh))
    np.testing.assert_allclose(curved, flat.reshape(6, 8, 3)[::-1].reshape(-1, 3))
    assert point_scaling(mesh, Layout.of(mesh), "auto")


def test_gaps_weaken_no_correlation():
    """With half of the values missing, spread and correlations in space and time are nearly those of the whole record."""
    whole = weather().isel(time=slice(0, 320))
    found = []
    for share in (0.0, 0.5):
        gaps = xr.DataArray(np.random.default_rng(1).random(whole.t.shape) < share, dims=whole.t.dims)
        prior = xsda.GaussianPrior.fit(whole.where(~gaps), length=4, taper=None)
        x = prior.denoiser.draw(4000, torch.Generator().manual_seed(0))[:, :, 0]
        a, b = x[:, :, 0, 0], x[:, :, 0, 1]
        found.append([x.std(), (a * b).mean() / (a.std() * b.std()), (a[:, 1:] * a[:, :-1]).mean() / a.var()])
    np.testing.assert_allclose(found[1], found[0], rtol=0.06)


def test_positions_of_two_dimensional_coordinates_are_checked():
    ds = weather()
    lat, lon = xr.broadcast(ds.lat, ds.lon)
    mesh = ds.drop_vars(["lat", "lon"]).rename(lat="j", lon="i")
    mesh = mesh.assign_coords(lat=(("j", "i"), lat.values), lon=(("j", "i"), lon.values))
    prior = xsda.GaussianPrior.fit(mesh, length=4, taper=None)
    day = mesh.isel(time=slice(0, 4))
    prior.bind(day.assign_coords(lon=day.lon - 360))
    for moved in (day.isel(j=slice(None, None, -1)), day.assign_coords(lon=day.lon + 40)):
        with pytest.raises(ValueError, match="degrees away from those of the prior"):
            prior.bind(moved)


def test_no_variance_is_lost():
    """The mean variance is one, however few patterns there are, with and without a taper."""
    ds = weather()
    layout = fit_normals(ds, Layout.of(ds), ("hour_of_day",))
    for modes in (1, 5, 44):
        eof, _ = fit_eof(ds, layout, 6, modes=modes, taper=30.0)
        assert float(eof.mean_square(torch.tensor(1e6))) == pytest.approx(1, rel=1e-3)


def test_fit_assimilate_and_file(tmp_path):
    """Land is NaN, its values never matter, a file holds the climatology, and the order of latitudes is no matter."""
    ds = weather()
    prior = xsda.GaussianPrior.fit(ds.isel(time=slice(0, 320)), length=8)
    assert prior.info["climatology"] == "hour_of_day"
    day = ds.isel(time=slice(360, 368))
    stations = day.isel(lat=[0, 5, 1], lon=[1, 6, 2], time=slice(None, None, 2))
    options = {"sigma": 0.5, "members": 4, "progress": False}
    post = day.sda.assimilate(stations, prior, **options)
    assert bool((post.t.isnull() == day.t.isnull()).all())
    assert float(np.abs(post.t - day.t).mean()) < 0.5 * float(day.t.std())
    again = xsda.load_model(prior.save(tmp_path / "prior.safetensors"))
    xr.testing.assert_equal(day.sda.assimilate(stations, again, **options), post)
    turned = day.fillna(-9999.0).sortby("lat")
    xr.testing.assert_allclose(turned.sda.assimilate(stations, prior, **options).sortby("lat", ascending=False), post)
    lazy = day.sda.assimilate(stations, prior, chunks={"member": 2}, **options)
    xr.testing.assert_allclose(lazy.compute(), post)


def test_a_known_cycle_changes_nothing():
    """Data and observations with a daily cycle added have posteriors with this cycle added."""
    ds = weather()
    cycle = 5 * np.sin(2 * np.pi * ds.time.dt.hour / 24) * (ds.lat - 50)
    options = {"sigma": 0.1, "members": 3, "progress": False}
    found = []
    for data in (ds, ds + cycle):
        prior = xsda.GaussianPrior.fit(data.isel(time=slice(0, 320)), length=8, taper=None)
        day = data.isel(time=slice(360, 368))
        found.append(day.sda.assimilate(day.isel(lat=[0, 5], lon=[1, 6]), prior, **options))
    xr.testing.assert_allclose(found[1].t, (found[0].t + cycle).transpose(*found[0].t.dims), atol=2e-3)


def test_observations_in_the_mask():
    """They are counted and not used; near the coast the sea points count, and a grid elsewhere is refused."""
    ds = weather()
    prior = xsda.GaussianPrior.fit(ds, length=4, taper=None)
    day = ds.isel(time=slice(0, 4))

    def at(lat, lon):
        coords = {"time": day.time[:1], "lat": ("station", lat), "lon": ("station", lon)}
        return xr.Dataset({"t": (("time", "station"), np.full((1, len(lat)), 285.0))}, coords)

    options = {"sigma": 0.1, "members": 2, "progress": False}
    one = day.sda.assimilate(at([58.0], [1.0]), prior, **options)
    with pytest.warns(RuntimeWarning, match="1 of 2 values of 't' in obs lie where the prior has no values"):
        two = day.sda.assimilate(at([58.0, 55.0], [1.0, 3.4]), prior, **options)
    xr.testing.assert_allclose(two, one, atol=1e-4)
    coast = day.sda.assimilate(at([60.0], [2.4]), prior, **options)
    assert bool(coast.t.isnull().any())
    near = day.sda.assimilate(at([54.0], [2.0]), prior, **options)
    coastal = day.sda.assimilate(at([54.0], [2.4]), prior, **options)  # only the sea point at 2 has a value
    xr.testing.assert_allclose(coastal, near, atol=1e-4)
    seen = near.sda.observe(at([54.0, 55.0], [2.4, 3.4])).t
    np.testing.assert_array_equal(seen[..., 0], near.t.sel(lat=54, lon=2)[:, :1])
    assert bool(seen[..., 1].isnull().all())
    with (
        warnings.catch_warnings(action="error"),  # one sentence
        pytest.raises(ValueError, match="all observations lie where the prior has no values"),
    ):
        day.sda.assimilate(at([55.0], [3.4]), prior, **options)
    with pytest.raises(ValueError, match="the grid has lat 20 to 30, the prior 50 to 60 by 2; its climatology"):
        day.assign_coords(lat=day.lat - 30).sda.assimilate(at([28.0], [1.0]), prior, **options)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"structure": "eofs"}, ValueError, "structure='eofs' is unknown; did you mean 'eof'"),
        ({"climatology": "hour"}, ValueError, "climatology='hour' is unknown"),
        ({"taper": -1}, ValueError, "taper=-1 must be a positive length, 'auto' or None"),
        ({"modes": 0}, ValueError, "modes=0"),
        ({"length": 300}, ValueError, "too few for the covariance of trajectories of 300"),
    ],
)
def test_bad_options(change, error, message):
    with pytest.raises(error, match=message):
        xsda.GaussianPrior.fit(weather(), **{"length": 4, **change})


def test_bad_data():
    ds = weather()
    with pytest.raises(TypeError, match=r"must be an xarray.Dataset, got DataArray; use .to_dataset"):
        xsda.GaussianPrior.fit(ds.t, length=4)
    with pytest.raises(ValueError, match="the mask says that 4 points have values, but the data have"):
        xsda.GaussianPrior.fit(ds, length=4, mask=xr.ones_like(ds.t[0]))
    with pytest.raises(ValueError, match="have no values"):
        xsda.GaussianPrior.fit(ds.where(ds.t < 0), length=4)
    with pytest.raises(ValueError, match="1600 values of the data are -9999, which stands for a missing value"):
        xsda.GaussianPrior.fit(ds.fillna(-9999.0), length=4)
    with pytest.raises(ValueError, match="the mask has other coordinates along 'lat' than the data"):
        xsda.GaussianPrior.fit(ds, length=4, mask=ds.t[0].notnull().assign_coords(lat=ds.lat + 1))
    turned = xsda.GaussianPrior.fit(ds, length=4, taper=None, mask=ds.t[0].notnull().sortby("lat"))
    np.testing.assert_array_equal(turned.layout.normals.valid[0], ds.t[0].notnull().sortby("lat"))


def test_celsius_without_units():
    ds = weather()
    prior = xsda.GaussianPrior.fit(ds, length=4, taper=None)
    obs = (ds.isel(time=slice(0, 4), lat=[0, 5], lon=[0, 7]) - 273.15).drop_attrs()
    for units, said in (({}, "has no units and is taken to be in K"), ({"units": "K"}, "is given in K")):
        with pytest.warns(RuntimeWarning, match=f"'t' in obs {said}, but its median is"):
            compile_observations(prior.bind(ds.isel(time=slice(0, 4))), obs.assign(t=obs.t.assign_attrs(units)), 0.5)


def test_small_patterns_have_the_variance_of_new_states():
    """Patterns fit their own states too well. The model's variance of each group is nearly that of other states."""
    rng = np.random.default_rng(4)
    y, x = np.mgrid[0:8, 0:12]
    spectrum = 1 / (1 + np.arange(96.0))
    vectors = np.linalg.qr(rng.standard_normal((96, 96)))[0]
    values = (rng.standard_normal((1200, 96)) * np.sqrt(spectrum)) @ vectors.T
    ds = xr.Dataset({"v": (("time", "y", "x"), values.reshape(-1, 8, 12))}, {"time": np.arange(1200.0)})
    ds = ds.assign_coords(y=y[:, 0] * 1.0, x=x[0] * 1.0)
    old, new = ds.isel(time=slice(0, 200)), ds.isel(time=slice(200, None))
    layout = fit_normals(old, Layout.of(old))
    found = {}
    for taper in (None, "auto"):
        denoiser = fit_eof(old, layout, 2, modes=60, taper=taper)[0]
        z = Grid.match(layout, new).standardise(new.v.values[None, :, None]).flatten(3)[0, :, 0]
        along = (z @ denoiser.patterns.T).square().mean(0)
        rest = (z.square().sum(1).mean() - along.sum()) / 36
        found[taper] = [float(along[27:40].sum() / denoiser.variance[27:40].sum()), float(rest / denoiser.rest)]
    assert found[None][1] > 2  # the remainder
    assert max(found["auto"]) < 1.2
    assert min(found["auto"]) > 0.8


def test_a_grid_with_values_in_the_mask_is_told():
    """The mask of the prior differs from that of the grid: the points are counted, and missing in the result."""
    ds = weather(120)
    prior = xsda.GaussianPrior.fit(ds, length=4, taper=None)
    dry = ds.isel(time=slice(0, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prior.bind(dry)
        prior.bind(dry.where(dry.lat > 52))
    with pytest.warns(UserWarning, match=r"values at 4 points where this prior has none .its mask"):
        prior.bind(dry.fillna(280.0))


def test_a_ring_in_another_convention_is_refused():
    """A Gaussian of one grid knows its points by their order; columns must not meet it in another."""
    ds = weather(120, land=False).drop_vars("lon").assign_coords(lon=np.arange(8) * 45.0)
    prior = xsda.GaussianPrior.fit(ds, length=4, taper=None)
    turned = ds.assign_coords(lon=(ds.lon + 180) % 360 - 180).sortby("lon").isel(time=slice(0, 4))
    with pytest.raises(ValueError, match=r"'lon' has the points of this prior in another order.*begins at 0 and ends"):
        prior.bind(turned)
    prior.bind(ds.isel(time=slice(0, 4)))
    prior.bind(ds.isel(time=slice(0, 4), lat=slice(None, None, -1)))
