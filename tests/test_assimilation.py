"""The whole path, against posteriors that are known."""

import dask
import fresh
import numpy as np
import pytest
import torch
import xarray as xr
from lazy import computes_nothing

import xsda
from xsda.diffusion.samplers import DPMpp2M, DPMpp2MSDE
from xsda.guidance import GaussianScore
from xsda.likelihood import Censored


def exact_posterior(cov, rows, y, sigma):
    """Mean and covariance of x given rows @ x + error = y."""
    gain = cov @ rows.T @ np.linalg.inv(rows @ cov @ rows.T + sigma**2 * np.eye(len(rows)))
    return gain @ y, cov - gain @ rows @ cov


def ravel(ds):
    return np.concatenate(
        [ds[v].transpose("member", ...).values.reshape(ds.sizes["member"], -1) for v in ("u", "v")], 1
    )


def cases(grid):
    """Observation templates of the five operators, with their errors."""
    late = xr.DataArray(np.arange(10) * 3 + 0.37, dims="time")
    means = grid.coarsen(time=4).mean()
    for v in means.data_vars:
        means[v].attrs["cell_methods"] = "time: mean"
    return {
        "every 4th step, one component": (grid.isel(time=slice(None, None, 4))[["u"]], 0.1),
        "everywhere": (grid, 0.01),
        "every second component": (grid[["u"]], 0.3),
        "block means": (means, 0.1),
        "off-grid times": (grid[["u"]].interp(time=late), 0.1),
    }


@pytest.mark.parametrize(
    "name", ["every 4th step, one component", "everywhere", "every second component", "block means", "off-grid times"]
)
@pytest.mark.parametrize("guidance", ["auto", "mmps"])
def test_posterior_of_a_gaussian_prior_is_exact(rotation, name, guidance):
    grid, cov, prior = rotation
    like, sigma = cases(grid)[name]
    n = cov.shape[0]
    basis = xr.Dataset(
        {v: (("member", "time"), np.eye(n)[:, i * 32 : (i + 1) * 32]) for i, v in enumerate(("u", "v"))}, grid.coords
    )
    seen = basis.sda.observe(like)
    rows = np.concatenate([seen[v].values for v in seen.data_vars], axis=1).T
    rng = np.random.default_rng(7)
    y = rows @ np.linalg.cholesky(cov + 1e-9 * np.eye(n)) @ rng.standard_normal(n) + sigma * rng.standard_normal(
        len(rows)
    )
    obs, start = like.copy(deep=True), 0
    for v in obs.data_vars:
        obs[v] = obs[v].copy(data=y[start : start + obs[v].size].reshape(obs[v].shape))
        start += obs[v].size
    post = grid.sda.assimilate(obs, prior, members=2000, sigma=sigma, guidance=guidance, seed=1, progress=False)
    assert post.attrs["denoiser_evaluations"] <= 32
    mean, covariance = exact_posterior(cov, rows, y, sigma)
    x = ravel(post)
    assert np.linalg.norm(x.mean(0) - mean) < 0.03 * np.linalg.norm(mean)
    assert x.var(0, ddof=1).sum() == pytest.approx(np.trace(covariance), rel=0.05)


def test_members_do_not_depend_on_chunks_or_scheduler(lorenz):
    truth, obs = lorenz
    options = {"members": 4, "steps": 16, "seed": 5}
    eager = truth.sda.assimilate(obs, "lorenz63", progress=False, **options)
    for chunk, scheduler in ((1, "threads"), (3, "synchronous"), (4, "threads"), (2, "processes")):
        with computes_nothing():
            lazy = truth.sda.assimilate(obs, "lorenz63", chunks={"member": chunk}, **options)
        assert lazy.x.chunks is not None
        with dask.config.set({"multiprocessing.context": fresh.CONTEXT.get_start_method()}):
            xr.testing.assert_allclose(lazy.compute(scheduler=scheduler), eager, rtol=1e-4, atol=1e-4)


def test_members_on_a_cluster(lorenz):
    distributed = pytest.importorskip("distributed")
    fresh.prepare()
    truth, obs = lorenz
    options = {"members": 4, "steps": 16, "seed": 5}
    eager = truth.sda.assimilate(obs, "lorenz63", progress=False, **options)
    with (
        dask.config.set({"distributed.worker.multiprocessing-method": fresh.CONTEXT.get_start_method()}),
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster),
    ):
        lazy = truth.sda.assimilate(obs, "lorenz63", chunks={"member": 2}, **options)
        xr.testing.assert_allclose(lazy.compute(), eager, rtol=1e-4, atol=1e-4)


def test_a_member_never_depends_on_its_batch_mates(rotation):
    grid, _, prior = rotation
    obs = grid.isel(time=slice(None, None, 4))[["u"]] + 1
    many = grid.sda.assimilate(obs, prior, members=12, sigma=0.1, progress=False)
    few = grid.sda.assimilate(obs, prior, members=12, sigma=0.1, batch=5, progress=False)
    xr.testing.assert_allclose(many, few, rtol=1e-4, atol=1e-5)
    other = grid.sda.assimilate(obs, prior, members=3, sigma=0.1, progress=False)
    xr.testing.assert_allclose(many.isel(member=slice(3)), other, rtol=1e-4, atol=1e-5)


def test_seeds(rotation):
    grid, _, prior = rotation
    a, b, c = (xsda.sample(grid, prior, members=4, seed=s, progress=False) for s in (0, 0, 1))
    assert a.identical(a.assign_attrs(b.attrs)) or np.array_equal(a.u, b.u)
    assert np.array_equal(a.u, b.u)
    assert not np.allclose(a.u, c.u)


def test_graph_of_many_members_is_small_and_runs_nothing(lorenz, monkeypatch):
    import time

    import cloudpickle

    truth, obs = lorenz
    monkeypatch.setattr("xsda.nn.temporal.TemporalNet.forward", lambda *a: pytest.fail("the network ran"))
    start = time.process_time()
    with computes_nothing():
        post = truth.sda.assimilate(obs, "lorenz63", members=2000, chunks={"member": 1})
    optimised = dask.optimize(post)[0].x.__dask_graph__()
    assert time.process_time() - start < 4  # of the processor, whatever else runs
    assert len(post.x.chunks[0]) == 2000
    assert len(optimised) <= 2 * 2000
    assert len(cloudpickle.dumps(dict(post.x.__dask_graph__()))) < 2_000_000


def test_blocks_do_not_carry_the_observations():
    """64 x 64 x 8 values, fully observed: 1.6 MB, once in the cache, not once in every block."""
    import cloudpickle

    rng = np.random.default_rng(0)
    grid = xr.Dataset(
        {"u": (("time", "y", "x"), rng.normal(size=(8, 64, 64)).astype(np.float32))},
        {"time": np.arange(8.0), "y": np.arange(64.0), "x": np.arange(64.0)},
    )
    near = np.exp(-np.abs(np.subtract.outer(np.arange(64), np.arange(64))) / 8)
    prior = xsda.GaussianPrior.separable(grid, np.eye(8) / 2 + 0.5, near, near)
    with computes_nothing():
        lazy = grid.sda.assimilate(grid, prior, members=4, sigma=0.5, chunks={"member": 1}, steps=4)
    blocks = [task for key, task in dict(lazy.u.__dask_graph__()).items() if len(key) == 2]
    assert len(blocks) == 4
    assert max(len(cloudpickle.dumps(task)) for task in blocks) < 20_000
    again = grid.sda.assimilate(grid, prior, members=4, sigma=0.5, chunks={"member": 1}, steps=4)
    assert lazy.u.__dask_keys__() == again.u.__dask_keys__()  # keys are those of what is computed
    other = grid.sda.assimilate(grid + 1, prior, members=4, sigma=0.5, chunks={"member": 1}, steps=4)
    assert lazy.u.__dask_keys__() != other.u.__dask_keys__()
    eager = grid.sda.assimilate(grid, prior, members=4, sigma=0.5, steps=4, progress=False)
    assert np.array_equal(lazy.u.compute(scheduler="synchronous"), eager.u)


def test_annotations_survive_optimisation(lorenz):
    """What is said with ``dask.annotate`` around the call holds for every block that is computed."""
    from dask._expr import HLGExpr

    truth, obs = lorenz
    with dask.annotate(resources={"GPU": 1}):
        post = truth.sda.assimilate(obs, "lorenz63", members=4, chunks={"member": 2}, steps=4)
    found = HLGExpr.from_collection(post.x.data, optimize_graph=True).optimize().__dask_annotations__()
    assert sum(len(key) == 2 for key in found["resources"]) == 2
    assert set(map(str, found["resources"].values())) == {"{'GPU': 1}"}


def test_a_member_is_the_same_whatever_the_batch(lorenz):
    """To about 1e-4 in single precision, where sums of other sizes round otherwise; to the bit, or nearly, in double."""
    truth, obs = lorenz
    for precision, close in (("float32", 1e-3), ("float64", 1e-9)):
        one, two = (
            truth.sda.assimilate(
                obs, "lorenz63", members=5, batch=b, steps=16, precision=precision, redraw=0, progress=False
            )
            for b in (5, 2)
        )
        off = max(float(np.abs(one[v] - two[v]).max() / truth[v].std()) for v in "xyz")
        assert off < close


def test_a_posterior_resolves_what_its_prior_does():
    """Of mean 1e7 and standard deviation 1: single precision would leave seven different values."""
    grid = xr.Dataset({"u": ("time", np.full(6, 1e7))}, {"time": np.arange(6.0)})
    prior = xsda.GaussianPrior(grid, np.eye(6))
    post = grid.sda.assimilate(grid.isel(time=[0]) + 0.25, prior, members=50, sigma=1.0, progress=False)
    assert post.u.dtype == np.float64
    assert len(np.unique(post.u)) == 300
    assert float(post.u[:, 0].mean()) == pytest.approx(1e7 + 0.125, abs=0.5)
    single = grid.astype(np.float32).sda.assimilate(grid.isel(time=[0]), prior, members=2, sigma=1.0, progress=False)
    assert single.u.dtype == np.float32  # that of the grid
    places = xr.Dataset(coords=grid.coords)
    assert places.sda.sample(prior, members=2, progress=False).u.dtype == np.float64


def test_a_dask_backed_grid_gives_a_lazy_result(lorenz):
    truth, obs = lorenz
    with computes_nothing():
        post = truth.chunk().sda.assimilate(obs, "lorenz63", members=2, steps=4)
    assert post.x.chunks is not None
    with pytest.raises(ValueError, match=r"\.chunk\(\{'time': -1\}\)"):
        truth.chunk({"time": 8}).sda.assimilate(obs, "lorenz63")
    with pytest.raises(ValueError, match="sampled whole"):
        truth.sda.assimilate(obs, "lorenz63", chunks={"time": 8})
    with pytest.raises(ValueError, match="'members'"):
        truth.sda.assimilate(obs, "lorenz63", chunks={"members": 8})


def test_netcdf_round_trip(lorenz, tmp_path):
    truth, _ = lorenz
    dates = np.datetime64("2026-01-01", "ns") + np.arange(32) * np.timedelta64(1, "h").astype("timedelta64[ns]")
    grid = truth.assign_coords(time=dates).assign_attrs(institution="here")
    grid["x"].attrs.update(units="K", long_name="warmth")
    cov = np.eye(96)
    prior = xsda.GaussianPrior(grid, cov)
    post = grid.sda.assimilate(grid[["x"]].isel(time=[3, 9]), prior, members=3, sigma=1.0, progress=False)
    assert post.x.dtype == truth.x.dtype
    post.to_netcdf(tmp_path / "post.nc")
    with xr.open_dataset(tmp_path / "post.nc") as back:
        xr.testing.assert_equal(back.load(), post)
        assert back.x.attrs == {"units": "K", "long_name": "warmth"}
        assert back.attrs["institution"] == "here"
        assert back.attrs["prior_hash"] == prior.hash
        assert back.attrs["guidance"].startswith("MMPS")
        assert back.member.attrs["standard_name"] == "realization"
        assert "_FillValue" not in back.time.encoding
        assert "_FillValue" not in back.member.encoding
    post.to_netcdf(tmp_path / "again.nc")


def test_the_users_names_survive():
    lat, lon = np.linspace(60, 50, 5), np.linspace(0, 4, 4)
    shape = (6, 5, 4)
    dates = xr.date_range("2019-03-01", periods=6, freq="1h", use_cftime=True)
    coords = {
        "t": ("t", dates, {"axis": "T"}),
        "breite": ("breite", lat, {"standard_name": "latitude", "units": "degrees_north"}),
        "laenge": ("laenge", lon, {"standard_name": "longitude", "units": "degrees_east"}),
    }
    grid = xr.Dataset({"T2": (("t", "breite", "laenge"), np.zeros(shape))}, coords)
    prior = xsda.GaussianPrior(grid, np.eye(120))
    obs = grid.isel(t=[0], breite=[1]) + 2
    post = grid.sda.assimilate(obs, prior, members=200, sigma=0.1, progress=False)
    assert post.T2.dims == ("member", "t", "breite", "laenge")
    xr.testing.assert_equal(post.breite, grid.breite)
    mean = post.T2.mean("member")
    assert float(abs(mean.isel(t=0, breite=1) - 2 / 1.01).max()) < 0.05
    assert float(abs(mean.isel(t=0, breite=3)).max()) < 0.4


def test_nan_is_a_missing_observation(rotation):
    grid, _, prior = rotation
    obs = grid.isel(time=slice(None, None, 4))[["u"]] + 1
    holes = obs.where(obs.time != 8)
    a = grid.sda.assimilate(holes, prior, members=3, sigma=0.1, progress=False)
    b = grid.sda.assimilate(holes.dropna("time"), prior, members=3, sigma=0.1, progress=False)
    xr.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_a_gross_error_is_forgotten_where_tails_are_heavy(rotation):
    grid, _, prior = rotation
    obs = grid.isel(time=slice(None, None, 4))[["u"]] + 1
    wrong = obs.where(obs.time != 12, 30.0)
    options = {"members": 200, "sigma": 0.2, "progress": False}
    right = grid.sda.assimilate(obs.where(obs.time != 12), prior, **options).mean("member")

    def off(**more):
        post = grid.sda.assimilate(wrong, prior, **options, **more).mean("member")
        return float(abs(post - right).to_array().max())

    assert off(likelihood="student_t") < 0.2
    assert off(likelihood="huber") < 0.5 * off()
    assert off() > 5


def test_a_limit_says_no_more_than_it_does(rotation):
    """An observation at a limit that all states obey changes nothing; one that half of them obey shifts them."""
    grid, _, prior = rotation
    obs = xr.Dataset({"u": ("time", [-50.0, 0.0])}, {"time": [3.0, 20.0]})
    options = {"members": 1000, "sigma": 0.1, "progress": False}
    free = xsda.sample(grid, prior, members=1000, progress=False, sampler=DPMpp2M(steps=32))
    post = grid.sda.assimilate(obs, prior, likelihood=Censored(lower=50.0), **options)
    xr.testing.assert_allclose(post, free, rtol=1e-3, atol=1e-3)
    post = grid.sda.assimilate(obs.isel(time=[1]), prior, likelihood=Censored(lower=0.0), **options)
    u = post.u.sel(time=20)  # below zero, up to the error: half a normal distribution
    assert float(u.mean()) == pytest.approx(-np.sqrt(2 / np.pi) / 1.01**0.5, abs=0.08)
    assert float(u.std()) == pytest.approx(np.sqrt(1 - 2 / np.pi), abs=0.08)
    assert float((u > 0.1).mean()) < 0.08


@pytest.mark.parametrize("guidance", ["calibrated", "mmps"])
def test_derived_observations_pull_as_far_as_they_should(rotation, guidance):
    """Observed speeds of 3, in the tail of the prior: Hamiltonian Monte Carlo finds 2.979 with a spread of 0.235."""
    grid, _, prior = rotation
    speed = {"speed": lambda s: (s["u"] ** 2 + s["v"] ** 2).sqrt()}
    obs = xr.Dataset({"speed": ("time", np.full(32, 3.0))}, {"time": grid.time})
    sampler = DPMpp2MSDE(steps=64, corrections=1, tau=0.5)
    post = grid.sda.assimilate(
        obs, prior, members=256, sigma=0.3, derived=speed, guidance=guidance, sampler=sampler, progress=False
    )
    came = np.sqrt(post.u**2 + post.v**2)
    assert float(came.mean()) == pytest.approx(2.979, abs=0.03)
    assert float(came.std()) == pytest.approx(0.235, abs=0.02)


@pytest.mark.parametrize(
    "guidance", ["calibrated", "mmps", GaussianScore(gamma=0.1), GaussianScore(gamma=0.1, detach=True)]
)
def test_every_guidance_with_every_sampler_follows_the_observations(rotation, guidance):
    grid, _, prior = rotation
    obs = grid.isel(time=slice(None, None, 4))[["u"]] + 1
    free = xsda.sample(grid, prior, members=32, progress=False)
    for sampler in xsda.samplers.SAMPLERS:
        post = grid.sda.assimilate(
            obs, prior, members=32, sigma=0.5, guidance=guidance, sampler=sampler, steps=64, progress=False
        )
        misfit = [float(((d.u - obs.u) ** 2).mean()) for d in (post, free)]
        assert misfit[0] < 0.4 * misfit[1], (sampler, misfit)


def test_non_finite_members_raise(rotation):
    grid, cov, _ = rotation
    prior = xsda.GaussianPrior(grid, cov)
    broken = prior.denoiser.forward

    def forward(x, t):
        out = broken(x, t)
        out[1:2] = torch.where(prior.schedule.noise_level(t) < 1, torch.nan, out[1:2])
        return out

    prior.denoiser.forward = forward
    with pytest.raises(xsda.NonFiniteSampleError, match=r"member 1 became non-finite at step \d+ of 16"):
        xsda.sample(grid, prior, members=3, sampler=DPMpp2M(steps=16), progress=False)


def test_precision(rotation):
    grid, _, prior = rotation
    obs = grid.isel(time=slice(None, None, 4))[["u"]] + 1
    single, double = (
        grid.sda.assimilate(obs, prior, members=3, sigma=0.1, precision=p, progress=False)
        for p in ("float32", "float64")
    )
    assert double.u.dtype == grid.u.dtype
    assert 0 < float(abs(single - double).to_array().max()) < 1e-2
    assert prior.denoiser.means.dtype == torch.float32


GRID_ERRORS = {
    "backwards": (lambda g: g.isel(time=slice(None, None, -1)), "runs backwards"),
    "unsorted": (lambda g: g.isel(time=[0, 2, 1, *range(3, 32)]), "neither ascending nor descending"),
    "repeated": (lambda g: g.isel(time=[0, 0, *range(1, 31)]), r"'time' of .* \(1 of 32 points\); use .drop_dup"),
    "nan": (lambda g: g.assign_coords(time=np.where(np.arange(32) == 3, np.nan, np.arange(32.0))), "NaN"),
    "step": (lambda g: g.assign_coords(time=np.arange(32) * 2.0), "time step of the grid is 2"),
    "dates": (lambda g: g.assign_coords(time=np.datetime64("2020-01-01", "ns") + np.arange(32)), "holds dates"),
    "short": (
        lambda g: g.isel(time=slice(9)),
        r"exactly 32 states, the grid has 9; select 32 states \(.isel\), or fit one with length=9",
    ),
    "variables": (lambda g: g.rename(u="uu"), "'u' is not in the Dataset"),
}


@pytest.mark.parametrize("name", GRID_ERRORS)
def test_grids_that_do_not_fit(rotation, name):
    grid, _, prior = rotation
    change, message = GRID_ERRORS[name]
    obs = grid.isel(time=[0])[["u"]]
    with pytest.raises((ValueError, KeyError), match=message):
        change(grid).sda.assimilate(obs, prior, sigma=1.0)


def test_shorter_than_the_window(lorenz):
    truth, obs = lorenz
    window = xsda.load_model("lorenz63").window
    with pytest.raises(ValueError, match=f"window of this prior \\({window}\\)"):
        truth.isel(time=slice(window - 1)).sda.assimilate(obs.isel(time=[0]), "lorenz63")


def test_other_space_sizes_warn_or_raise():
    system = xsda.systems.Lorenz96(n=20)
    truth = system.simulate(8, seed=0)
    obs = truth.isel(time=[0, 4])
    with pytest.warns(UserWarning, match="20 points along 'x' where the prior was trained with 40"):
        truth.sda.assimilate(obs, "lorenz96", sigma=1.0, members=1, steps=2, progress=False)
    fields = xr.Dataset({"u": (("time", "x"), np.zeros((3, 4)))}, {"time": np.arange(3), "x": np.arange(4.0)})
    prior = xsda.GaussianPrior(fields, np.eye(12))
    wider = fields.assign_coords(x=np.arange(4) * 2.0)
    with pytest.raises(ValueError, match="spacing 2"):
        wider.sda.assimilate(wider.isel(time=[0]), prior, sigma=1.0)


CALL_ERRORS = {
    "members": (
        {"members": 0},
        r"members=0 must be an integer .*numbers of members, such as range\(16, 32\) or \[0, 3",
    ),
    "members in words": ({"members": "eight"}, r"members='eight' must .* such as range\(16, 32\)"),
    "guidance": ({"guidance": "mmsp"}, "did you mean 'mmps'"),
    "sampler": ({"sampler": "dpm2m"}, "did you mean 'dpmpp2m'"),
    "model": ({"model": "lorenz36"}, "did you mean 'lorenz"),
    "file": (
        {"model": "nowhere/prior.safetensors"},
        "no prior at nowhere/prior.safetensors; check the path, or choose a prior by name: 'lorenz63', 'lorenz96', ",
    ),
    "sigma": ({"sigma": -1.0}, "must be positive"),
    "precision": ({"precision": "float31"}, "did you mean 'float32'"),
    "device": ({"device": "gpu"}, "use 'auto', 'cpu' or 'cuda'"),
    "seed": ({"seed": -1}, "seed=-1"),
    "steps": ({"steps": 1}, "at least 2"),
}


@pytest.mark.parametrize("name", CALL_ERRORS)
def test_calls_that_cannot_be(lorenz, name):
    truth, obs = lorenz
    options, message = CALL_ERRORS[name]
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        truth.sda.assimilate(obs, **{"model": "lorenz63", **options})


def test_units_are_converted_or_refused(rotation):
    """Observations in km/h, with their error, say the same as in m s-1; a grid in km/h gets its posterior in km/h."""
    grid, _, prior = rotation
    obs = grid[["u"]].isel(time=[0, 4]) + 1.0
    obs["u"].attrs["units"] = "m s**-1"
    fast = (3.6 * obs).assign(u=lambda d: d.u.assign_attrs(units="km/h"))
    expected = grid.sda.assimilate(obs, prior, members=3, sigma=0.5, progress=False)
    xr.testing.assert_allclose(
        grid.sda.assimilate(fast, prior, members=3, sigma=1.8, progress=False), expected, rtol=1e-5, atol=1e-5
    )
    other = grid.assign(u=grid.u.assign_attrs(units="km h-1"))
    post = other.sda.assimilate(fast, prior, members=3, sigma=1.8, progress=False)
    np.testing.assert_allclose(post.u, 3.6 * expected.u, rtol=1e-4, atol=1e-4)
    assert post.u.attrs["units"] == "km h-1"
    assert "u of the prior converted from m s-1 to km h-1" in post.attrs["history"]
    obs["u"].attrs["units"] = "K"
    with pytest.raises(ValueError, match="'u' is in 'K', the grid in 'm s-1', and one cannot be converted"):
        grid.sda.assimilate(obs, prior, sigma=1.0)


@pytest.mark.parametrize("batch", [0, -1, 2.5])
def test_batches_are_whole_and_positive(rotation, batch):
    grid, _, prior = rotation
    with pytest.raises(ValueError, match="batch="):
        xsda.sample(grid, prior, members=4, batch=batch)


def test_a_changed_prior_is_shipped_as_it_is(lorenz):
    """What was loaded from a file and then changed in memory is not what the file holds."""
    truth, _ = lorenz
    prior = xsda.load_model("lorenz63")
    before = prior.hash
    with torch.no_grad():
        next(prior.denoiser.parameters()).mul_(0.9)
    assert prior.hash != before
    eager, lazy = (
        xsda.sample(truth, prior, members=1, steps=16, progress=False, **chunks)
        for chunks in ({}, {"chunks": {"member": 1}})
    )
    xr.testing.assert_allclose(lazy.compute(), eager, rtol=1e-3, atol=1e-2)


def test_a_tree_of_grids(lorenz):
    """Each node is assimilated as it would be alone; groups without data are passed on."""
    truth, obs = lorenz
    options = {"members": 2, "steps": 8, "redraw": 0, "progress": False}
    tree = xr.DataTree.from_dict({"warm": truth, "cold/north": truth.isel(time=slice(16))})
    seen = obs.isel(time=slice(4))
    out = tree.map_over_datasets(lambda ds: ds.sda.assimilate(seen, "lorenz63", **options) if ds else ds)
    assert {path for path, node in out.subtree_with_keys if node.data_vars} == {"warm", "cold/north"}
    for path in ("warm", "cold/north"):
        alone = tree[path].to_dataset().sda.assimilate(seen, "lorenz63", **options)
        xr.testing.assert_equal(out[path].to_dataset(), alone)


def test_members_agree_to_rounding_in_float64(lorenz):
    truth, obs = lorenz
    options = {"members": 6, "steps": 8, "redraw": 0, "precision": "float64", "progress": False}
    whole = truth.astype(float).sda.assimilate(obs, "lorenz63", **options)
    parts = truth.astype(float).sda.assimilate(obs, "lorenz63", batch=4, **options)
    for name in ("x", "y", "z"):
        assert whole[name].dtype == np.float64
        np.testing.assert_allclose(whole[name], parts[name], rtol=0, atol=1e-11 * float(truth[name].std()))
