"""Separable Gaussians: the same as the whole matrix, and estimated from data that are never loaded whole."""

from typing import ClassVar

import dask
import dask.array as da
import numpy as np
import pytest
import torch
import xarray as xr

import xsda
from xsda.labels.layout import Layout
from xsda.priors import moments
from xsda.priors.moments import estimate

COORDS = {"time": np.arange(3.0), "lat": [50.0, 40.0, 30.0, 20.0], "lon": np.arange(5.0)}
WORLDS = {"fields": ("time", "lat", "lon"), "ring": ("time", "lon"), "profile": ("time", "lat"), "series": ("time",)}


def random_covariance(n, rng):
    root = rng.normal(size=(n, 2 * n))
    return root @ root.T / (2 * n)


@pytest.fixture(params=WORLDS)
def twins(request):
    """(grid, separable prior, the same prior with its whole covariance)."""
    dims = WORLDS[request.param]
    rng = np.random.default_rng(0)
    shape = tuple(len(COORDS[d]) for d in dims)
    coords = {d: COORDS[d] for d in dims}
    mean = xr.Dataset(
        {v: (dims, 2 * rng.normal(size=shape), {"units": u}) for v, u in (("T", "K"), ("p", "Pa"))}, coords
    )
    channel = np.array([[4.0, 30.0], [30.0, 900.0]])
    time, *space = (random_covariance(n, rng) for n in shape)
    prior = xsda.GaussianPrior.separable(mean, time, *space, channel_cov=channel)
    whole = channel
    for factor in (time, *space):
        whole = np.kron(whole, factor)
    return mean, prior, xsda.GaussianPrior(mean, whole, schedule=prior.schedule)


def test_it_is_the_gaussian_with_the_whole_covariance(twins):
    mean, prior, whole = twins
    assert prior.exact
    np.testing.assert_allclose(prior.layout.std, whole.layout.std, rtol=1e-6)
    np.testing.assert_allclose(prior.layout.mean, whole.layout.mean, rtol=1e-6)
    x_t = torch.randn(3, *prior.bind(mean).shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    for t in (torch.tensor(0.5), torch.tensor([0.05, 0.5, 0.9])):
        a, b = (p.denoiser(x_t, t) for p in (prior, whole))
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
        a, b = (torch.autograd.grad(y, x_t, torch.cos(y.detach()))[0] for y in (a, b))
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(prior.error.rms, whole.error.rms, atol=1e-6, rtol=1e-4)
    sample = xsda.sample(mean, whole, members=4, progress=False)
    np.testing.assert_allclose(xsda.log_prob(sample, prior), xsda.log_prob(sample, whole), rtol=1e-4)
    xr.testing.assert_allclose(xsda.sample(mean, prior, members=4, progress=False), sample, rtol=1e-3, atol=1e-3)


def test_its_posterior_is_that_of_the_whole_covariance(twins):
    mean, prior, whole = twins
    truth = xsda.sample(mean, whole, members=1, seed=5, progress=False).isel(member=0, drop=True)
    obs = truth.isel({d: slice(None, None, 2) for d in mean.dims})[["T"]]
    a, b = (mean.sda.assimilate(obs, p, members=8, sigma=0.3, progress=False) for p in (prior, whole))
    xr.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-2)
    free = xsda.sample(mean, prior, members=64, progress=False)
    assert float(a["T"].std("member").mean()) < 0.9 * float(free["T"].std("member").mean())


def test_samples_have_its_covariance():
    rng = np.random.default_rng(1)
    mean = xr.Dataset({"a": (("time", "y", "x"), rng.normal(size=(2, 3, 2)))})
    time, y, x = (random_covariance(n, rng) for n in (2, 3, 2))
    prior = xsda.GaussianPrior.separable(mean, time, y, x)
    expected = np.kron(time, np.kron(y, x))
    drawn = prior.denoiser.draw(20_000, torch.Generator().manual_seed(0)).numpy() * prior.layout.std + prior.layout.mean
    sampled = xsda.sample(mean, prior, members=20_000, progress=False).a.values
    for values in (drawn, sampled):
        flat = values.reshape(20_000, -1)
        assert np.linalg.norm(np.cov(flat.T) - expected) < 0.05 * np.linalg.norm(expected)
        assert np.abs(flat.mean(0) - mean.a.values.ravel()).max() < 0.05


def test_patterns_of_the_whole_domain_keep_their_variance_and_mean():
    """What all 14,400 numbers share varies 120 times as much as one of them: more than the noise of an ordinary schedule."""
    rows = np.linspace(-5, 5, 60)
    mean = xr.Dataset({"a": (("time", "y", "x"), np.broadcast_to(rows[:, None], (4, 60, 60)).copy())})
    ones, smooth = np.ones((4, 4)), np.exp(-((rows[:, None] - rows) ** 2) / 200)
    prior = xsda.GaussianPrior.separable(mean, ones, smooth, smooth)
    anomalies = (xsda.sample(mean, prior, members=500, progress=False) - mean).a
    weights = np.ones(60) / 60
    expected = weights @ smooth @ weights
    assert float(anomalies.mean(("time", "y", "x")).std("member")) == pytest.approx(expected, rel=0.1)
    slope = (anomalies * xr.DataArray(rows, dims="y")).mean(("time", "y", "x")) / (rows**2).mean()
    assert float(slope.mean("member")) == pytest.approx(0, abs=4 * float(slope.std("member")) / 500**0.5 + 1e-3)


TRUE = {
    "time": 0.8 ** np.abs(np.subtract.outer(np.arange(6), np.arange(6))),
    "channel": np.array([[1.0, -0.6], [-0.6, 1.0]]),
    "lat": np.exp(-np.abs(np.subtract.outer(np.arange(5), np.arange(5))) / 2),
    "lon": np.exp(-(np.subtract.outer(np.arange(4), np.arange(4)) ** 2) / 8),
}


def simulate(states, trajectories=1, seed=0):
    """A separable AR(1) with the correlations TRUE, standard deviations 3 and 0.5 and a mean that varies in space."""
    rng = np.random.default_rng(seed)
    roots = [np.linalg.cholesky(TRUE[k]) for k in ("channel", "lat", "lon")]
    noise = np.einsum("rtcyx,ac,by,dx->rtabd", rng.normal(size=(trajectories, states, 2, 5, 4)), *roots)
    z = noise.copy()
    for t in range(1, states):
        z[:, t] = 0.8 * z[:, t - 1] + 0.6 * noise[:, t]
    dims = ("trajectory", "time", "lat", "lon")
    coords = {"time": np.arange(states) * 0.5, "lat": [60.0, 50, 40, 30, 20], "lon": np.arange(4.0)}
    mean = 280 + np.arange(20.0).reshape(5, 4)
    ds = xr.Dataset({"T": (dims, mean + 3 * z[:, :, 0]), "q": (dims, 0.5 * z[:, :, 1])}, coords)
    return ds if trajectories > 1 else ds.isel(trajectory=0)


def test_fit_recovers_a_separable_process():
    """4,000 states of memory 9 give correlations to about 0.05 at the worst."""
    data = simulate(4000)
    prior = xsda.GaussianPrior.fit(data, length=6, structure="separable")
    assert prior.exact
    assert prior.length == 6
    assert "4000 states" in repr(prior)
    np.testing.assert_allclose(prior.layout.std, [3, 0.5], rtol=0.05)
    found = estimate(data, Layout.of(data), 6)
    for name, matrix in zip(("time", "channel", "lat", "lon"), (found.time, found.channel, *found.space), strict=True):
        expected = TRUE[name][::-1, ::-1] if name == "lat" else TRUE[name]
        np.testing.assert_allclose(matrix, expected, atol=0.05)
        np.testing.assert_allclose(np.diag(matrix).mean(), 1, rtol=1e-10)
    # on the grid, in the user's orientation: mean, and covariance of samples
    grid = data.isel(time=slice(0, 6))
    sample = xsda.sample(grid, prior, members=4000, progress=False)
    bias = sample["T"].mean(("member", "time")) - data["T"].mean("time")
    assert float(np.abs(bias).max()) < 0.2
    first = sample["T"].isel(lat=0, lon=0) - sample["T"].isel(lat=0, lon=0).mean("member")
    for at, lag in ((1, 0), (0, 3), (2, 2)):
        other = sample["T"].isel(lat=at, lon=0) - sample["T"].isel(lat=at, lon=0).mean("member")
        got = float((first.isel(time=0) * other.isel(time=lag)).mean())
        assert got == pytest.approx(9 * TRUE["lat"][0, at] * TRUE["time"][0, lag], abs=0.9)


def test_the_autocorrelation_has_the_divisor_n_and_is_positive():
    data = simulate(40, trajectories=3)
    found = estimate(data, Layout.of(data), 20)
    z = (data - data.mean(("time", "trajectory"))) / data.std()
    z = np.stack([z["T"] / z["T"].std(), z["q"] / z["q"].std()])
    expected = [(z[:, :, k:] * z[:, :, : 40 - k]).sum() / z.size for k in range(20)]
    np.testing.assert_allclose(found.time[0], expected, atol=1e-10)
    assert np.linalg.eigvalsh(found.time)[0] > -1e-12


def same(a, b):
    for name in ("mean", "std", "time", "channel"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), atol=1e-9)
    for x, y in zip(a.space, b.space, strict=True):
        np.testing.assert_allclose(x, y, atol=1e-9)


@pytest.mark.parametrize("trajectories", [1, 4])
@pytest.mark.parametrize(
    "chunks", [{"time": 1}, {"time": 7}, {"time": 50, "lat": 2}, {"time": -1}, {"trajectory": 2, "time": 9}]
)
@pytest.mark.parametrize("numbers", [1, 1000, 2**22])
def test_blocks_do_not_matter(trajectories, chunks, numbers, monkeypatch):
    data = simulate(50, trajectories)
    layout = Layout.of(data)
    expected = estimate(data, layout, 8)
    monkeypatch.setattr(moments, "BLOCK_NUMBERS", numbers)
    same(estimate(data, layout, 8), expected)
    same(estimate(data.chunk({d: n for d, n in chunks.items() if d in data.dims}), layout, 8), expected)


class Store:
    """An array that notes how many numbers are read."""

    read: ClassVar[list[int]] = []

    def __init__(self, values):
        self.values, self.shape, self.dtype, self.ndim = values, values.shape, values.dtype, values.ndim

    def __getitem__(self, index):
        self.read.append(self.values[index].size)
        return self.values[index]


class Counter:
    """A scheduler that notes how many numbers each computation reads."""

    held: ClassVar[list[int]] = []

    def __call__(self, graph, keys, **options):
        before = sum(Store.read)
        result = dask.get(graph, keys, **options)
        self.held.append(sum(Store.read) - before)
        return result


def test_data_are_read_twice_and_never_whole(monkeypatch):
    monkeypatch.setattr(moments, "BLOCK_NUMBERS", 1000)
    data = simulate(200)
    lazy = data.copy(data={v: da.from_array(Store(data[v].values), (10, 5, 4)) for v in data})
    with dask.config.set(scheduler=Counter()):
        found = estimate(lazy, Layout.of(lazy), 8)
    assert sum(Counter.held) == sum(Store.read) == 2 * 200 * 40
    assert max(Counter.held) <= 1000
    same(found, estimate(data, Layout.of(data), 8))


def test_fit_reads_files(tmp_path):
    data = simulate(60)
    data.to_netcdf(tmp_path / "data.nc")
    with xr.open_dataset(tmp_path / "data.nc") as stored:
        same(estimate(stored, Layout.of(stored), 8), estimate(data, Layout.of(data), 8))


def test_a_file_gives_back_the_same_prior(twins, tmp_path):
    mean, prior, _ = twins
    back = xsda.load_model(prior.save(tmp_path / "prior.safetensors"))
    assert back.hash == prior.hash
    assert back.exact
    assert back.schedule == prior.schedule
    a, b = (xsda.sample(mean, p, members=2, progress=False) for p in (prior, back))
    xr.testing.assert_identical(a.drop_attrs(), b.drop_attrs())


def test_directions_without_variance():
    """A covariance of rank one: every sample is the same profile, and there is no density."""
    mean = xr.Dataset({"a": (("time", "x"), np.zeros((2, 4)))})
    profile = np.array([1.0, 2.0, -1.0, 0.5])
    prior = xsda.GaussianPrior.separable(mean, np.eye(2), x_cov=np.outer(profile, profile))
    sample = xsda.sample(mean, prior, members=8, progress=False)
    ratio = (sample.a / profile).values
    np.testing.assert_allclose(ratio, ratio[..., :1].repeat(4, -1), atol=0.02)
    with pytest.raises(ValueError, match="rank 1 of 4"):
        xsda.log_prob(sample, prior)


GRID = xr.Dataset({"a": (("time", "lat", "lon"), np.zeros((2, 3, 4)))})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"time_cov": np.eye(3)}, r"time_cov has the shape \(3, 3\), 'time' has 2 states; expected \(2, 2\)"),
        ({"x_cov": np.eye(3)}, "x_cov has the shape .* 'lon' has 4 points"),
        ({"channel_cov": np.eye(2)}, "channel_cov has the shape .* 1 channels"),
        ({"y_cov": None}, r"got \['x_cov'\] for the space dimensions \['lat', 'lon'\]; need y_cov and x_cov"),
        ({"y_cov": np.triu(np.ones((3, 3)))}, "y_cov is not symmetric"),
        ({"time_cov": np.diag([1.0, -1.0])}, "time_cov is not positive semi-definite"),
        ({"time_cov": np.diag([1.0, np.nan])}, "time_cov holds NaN"),
        ({"time_cov": np.zeros((2, 2))}, r"variables \['a'\] have no variance"),
        ({"mean": GRID.where(GRID.lat > 0)}, "mean of 'a' holds NaN"),
        ({"mean": GRID.expand_dims(member=2)}, "average over the others"),
    ],
)
def test_factors_that_do_not_fit(change, message):
    options = {"mean": GRID, "time_cov": np.eye(2), "y_cov": np.eye(3), "x_cov": np.eye(4), **change}
    with pytest.raises(ValueError, match=message):
        xsda.GaussianPrior.separable(**options)


@pytest.mark.parametrize(
    ("data", "length", "message"),
    [
        (lambda d: d.where(d.lat < 60), 4, r"\['T', 'q'\] hold NaN"),
        (lambda d: d.assign(q=d.q.where(d.time != 3.0)), 4, r"\['q'\] hold NaN or infinite values \(among the states"),
        (lambda d: d, 21, "use at least 42 states, or a smaller length"),
        (lambda d: d, 0, "length=0 must be a positive integer"),
        (lambda d: d.assign(q=d.q * 0 + 0.1), 4, r"\['q'\] are constant"),
        (lambda d: d.expand_dims(trajectory=2, member=2), 4, "expected at most one of them"),
        (lambda d: d.assign(q=d.q.expand_dims(member=2)), 4, "'T' lacks the dimension 'member'"),
    ],
)
def test_data_that_do_not_do(data, length, message):
    with pytest.raises(ValueError, match=message):
        xsda.GaussianPrior.fit(data(simulate(40)), length=length, structure="separable")
