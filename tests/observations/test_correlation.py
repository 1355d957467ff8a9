"""Correlated errors of observation: y - H x has the covariance R = S C S, not a diagonal."""

import re

import numpy as np
import pytest
import torch
import xarray as xr

from xsda.guidance import MMPS, GaussianScore
from xsda.labels.grid import Grid
from xsda.labels.layout import Layout
from xsda.likelihood import StudentT
from xsda.observations import compile_observations
from xsda.observations.correlation import whitener

LENGTH, SIGMA = 4.0, 0.3


def exponential(x, length=LENGTH):
    return np.exp(-np.abs(np.subtract.outer(x, x)) / length)


class AutoRegression:
    """The inverse square root of exp(-lag / length) on equal steps, without a matrix."""

    def __init__(self, step=1.0, length=LENGTH):
        self.rho = float(np.exp(-step / length))

    def whiten(self, values):
        steps = (values[:, 1:] - self.rho * values[:, :-1]) / (1 - self.rho**2) ** 0.5
        return torch.cat([values[:, :1], steps], 1)


NAMED = [
    "calibrated",
    "pigdm",
    "projection",
    "proximal",
]  # TMPD sums over observations: their units matter; DPS has no errors
FORMS = {"matrix": exponential(np.arange(32.0)), "length": {"time": LENGTH}, "object": AutoRegression()}


@pytest.fixture(scope="module")
def case(rotation):
    """Observations of u everywhere with errors that vary from time to time, and the exact posterior."""
    grid, cov, _ = rotation
    rng = np.random.default_rng(2)
    std = np.linspace(0.2, 0.4, 32)
    r = exponential(np.arange(32.0)) * np.outer(std, std)
    truth = np.linalg.cholesky(cov + 1e-9 * np.eye(64)) @ rng.standard_normal(64)
    y = truth[:32] + np.linalg.cholesky(r) @ rng.standard_normal(32)
    gain = cov[:, :32] @ np.linalg.inv(cov[:32, :32] + r)
    obs = xr.Dataset({"u": ("time", y)}, {"time": grid.time})
    return obs, xr.DataArray(std, dims="time"), r, gain @ y, cov - gain @ cov[:32]


def members(ds):
    return np.concatenate([ds.u.values, ds.v.values], axis=1).astype(float)


@pytest.mark.parametrize("form", FORMS)
def test_the_posterior_is_exact(rotation, case, form):
    grid, cov, prior = rotation
    obs, std, r, mean, covariance = case
    post = grid.sda.assimilate(
        obs, prior, members=1500, sigma=std, correlation={"u": FORMS[form]}, seed=1, progress=False
    )
    x = members(post)
    assert np.linalg.norm(x.mean(0) - mean) < 2 * np.sqrt(np.trace(covariance) / 1500)  # twice that of exact samples
    assert np.linalg.norm(np.cov(x.T) - covariance) < 0.13 * np.linalg.norm(covariance)
    assert x.var(0).sum() == pytest.approx(np.trace(covariance), rel=0.05)
    # taken as independent, the same errors lead elsewhere
    wrong = cov[:, :32] @ np.linalg.inv(cov[:32, :32] + np.diag(np.diag(r)))
    assert np.linalg.norm(wrong @ obs.u.values - mean) > 0.1 * np.linalg.norm(mean)
    assert np.trace(cov - wrong @ cov[:32]) < 0.95 * np.trace(covariance)


@pytest.mark.parametrize("form", FORMS)
def test_the_quadratic_form_is_that_of_the_covariance(rotation, case, form):
    grid, _, prior = rotation
    obs, std, r, *_ = case
    likelihood = compile_observations(prior.bind(grid), obs, std, correlation={"u": FORMS[form]})
    x = torch.randn(5, 32, 2, generator=torch.Generator().manual_seed(0))
    layout = prior.layout
    d = obs.u.values - (x[:, :, 0].numpy() * layout.std[0] + layout.mean[0])
    expected = -np.einsum("bi,ij,bj->b", d, np.linalg.inv(r), d) / 2
    constant = -0.5 * 32 * np.log(2 * np.pi)  # of the whitened numbers, whose density it is
    np.testing.assert_allclose(likelihood.log_prob(x), expected + constant, rtol=1e-4)
    torch.testing.assert_close(likelihood.std, torch.ones(32))


def test_matrix_length_and_object_agree(rotation, case):
    grid, _, prior = rotation
    obs, std, *_ = case
    posts = [
        grid.sda.assimilate(
            obs, prior, members=3, sigma=std, correlation={"u": form}, guidance=MMPS(tolerance=1e-4), progress=False
        )
        for form in FORMS.values()
    ]
    xr.testing.assert_allclose(posts[0], posts[1], rtol=1e-5, atol=1e-6)
    xr.testing.assert_allclose(posts[0], posts[2], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("guidance", [MMPS(tolerance=1e-3), GaussianScore(gamma=0.3), *NAMED], ids=str)
def test_no_correlation_is_the_identity(rotation, case, guidance):
    """Whitening changes the units of the observations, and nothing else."""
    grid, _, prior = rotation
    obs, std, *_ = case
    options = {"members": 3, "sigma": std, "guidance": guidance, "steps": 64, "progress": False}
    plain, one = (grid.sda.assimilate(obs, prior, correlation=c, **options) for c in (None, {"u": np.eye(32)}))
    xr.testing.assert_allclose(plain, one, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("form", ["matrix", "length"])
def test_missing_observations_drop_rows_and_columns(rotation, case, form):
    grid, _, prior = rotation
    obs, std, *_ = case
    keep = np.r_[0:5, 9, 13:30]
    holes = obs.where(obs.time.isin(keep))
    short = obs.isel(time=keep)
    matrix = exponential(keep.astype(float))
    a = compile_observations(prior.bind(grid), holes, std, correlation={"u": FORMS[form]})
    b = compile_observations(prior.bind(grid), short, std.isel(time=keep), correlation={"u": matrix})
    x = torch.randn(3, 32, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(a.operator(x), b.operator(x))
    torch.testing.assert_close(a.y, b.y)


def test_only_the_named_variable_is_correlated(rotation):
    """v, between two correlated blocks of u, keeps its values and its errors."""
    grid, _, prior = rotation
    u, v = (grid.isel(time=slice(0, 32, 8))[[n]] + 1.0 for n in "uv")
    likelihood = compile_observations(prior.bind(grid), [u, v, u + 1], 0.5, correlation={"u": {"time": LENGTH}})
    plain = compile_observations(prior.bind(grid), [u, v, u + 1], 0.5)
    x = torch.randn(2, 32, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(likelihood.predict(x)[:, 4:8], plain.predict(x)[:, 4:8])
    torch.testing.assert_close(likelihood.std, torch.tensor([1.0] * 4 + [float(plain.std[4])] * 4 + [1.0] * 4))
    whiten = np.linalg.inv(np.linalg.cholesky(exponential(np.arange(0, 32, 8.0))))
    for block in (slice(0, 4), slice(8, 12)):
        raw = ((plain.y - plain.predict(x)) / plain.std)[:, block]
        torch.testing.assert_close(
            (likelihood.y - likelihood.predict(x))[:, block], raw @ torch.as_tensor(whiten, dtype=torch.float32).T
        )


def fields():
    """Dates and two space coordinates."""
    dates = np.datetime64("2024-01-01", "ns") + np.arange(5) * np.timedelta64(3, "h")
    return xr.Dataset(
        {"T": (("time", "y", "x"), np.zeros((5, 3, 4)))},
        {"time": dates, "y": np.arange(3) * 100.0, "x": np.arange(4) * 50.0},
    )


def lengths(obs, correlation):
    ds = fields()
    grid = Grid.match(Layout.of(ds), ds)
    likelihood = compile_observations(grid, obs, 0.5, correlation={"T": correlation})
    x = torch.randn(4, *grid.shape, generator=torch.Generator().manual_seed(1))
    d = 2 * (compile_observations(grid, obs, 1.0).operator(x) - compile_observations(grid, obs, 1.0).y)
    return ((likelihood.predict(x) - likelihood.y) ** 2).sum(1), d.numpy()


def check(found, d, *distances):
    """``found`` is the quadratic form of the product of exp(-distance)."""
    inverse = np.linalg.inv(np.exp(-sum(distances)))
    np.testing.assert_allclose(found, np.einsum("bi,ij,bj->b", d, inverse, d), rtol=1e-4)


def apart(values):
    return np.abs(np.subtract.outer(values, values))


def test_lengths_along_dates_and_space_multiply():
    """Whatever the order of the dimensions."""
    obs = fields().isel(time=[0, 2, 3], x=[0, 3]).transpose("x", "time", "y")
    x, hours, y = (g.ravel() for g in np.meshgrid([0, 150.0], [0, 6.0, 9], [0, 100.0, 200], indexing="ij"))
    found, d = lengths(obs, {"time": "6h", "x": 120.0, "y": 80.0})
    check(found, d, apart(x) / 120, apart(hours) / 6, apart(y) / 80)


def test_lengths_along_a_track():
    t = np.datetime64("2024-01-01", "ns") + np.array([0, 90, 200, 360]) * np.timedelta64(1, "m")
    x, y = np.array([0.0, 20, 75, 150]), np.array([200.0, 120, 40, 0])
    obs = xr.Dataset({"T": ("obs", np.ones(4))}, {"time": ("obs", t), "x": ("obs", x), "y": ("obs", y)})
    found, d = lengths(obs, {"time": "1h", "x": 100.0})
    check(found, d, apart(np.array([0, 90, 200, 360])) / 60, apart(x) / 100)


@pytest.mark.parametrize("length", ["6h", np.timedelta64(6, "h"), "360min"])
def test_lengths_in_time_are_spans(length):
    found, d = lengths(fields().isel(x=[1], y=[2]), {"time": length})
    check(found, d, apart(np.arange(5) * 3.0) / 6)


# --- what cannot be ---


def twice():
    """Two observations at the same time."""
    return xr.Dataset({"u": ("obs", np.zeros(3))}, {"time": ("obs", [0.0, 3.0, 3.0])})


def asymmetric():
    matrix = np.eye(4)
    matrix[0, 1] = 0.5
    return matrix


ERRORS = {
    "shape": (np.eye(3), {}, ValueError, r"has the shape \(3, 3\); the variable has 4 values"),
    "asymmetric": (asymmetric(), {}, ValueError, "must be symmetric with ones on its diagonal"),
    "covariance": (np.eye(4) * 0.09, {}, ValueError, r"C / np.outer\(s, s\)"),
    "singular": (np.ones((4, 4)), {}, ValueError, r"singular.*Merge them, or.*0\.95 \* correlation"),
    "indefinite": (2 * np.eye(4) - 1, {}, ValueError, "not positive"),
    "coordinate": ({"tim": 3.0}, {}, KeyError, "no coordinate 'tim'.*did you mean 'time'"),
    "length": ({"time": 0.0}, {}, ValueError, "length along 'time' must be positive, got 0.0"),
    "law": ({"time": 3.0}, {"likelihood": "student_t"}, ValueError, "'u' has correlated errors and the law StudentT"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(rotation, name):
    grid, _, prior = rotation
    correlation, options, kind, message = ERRORS[name]
    obs = grid[["u"]].isel(time=[0, 8, 16, 24])
    with pytest.raises(kind, match=message):
        grid.sda.assimilate(obs, prior, sigma=0.1, correlation={"u": correlation}, **options)


def test_variables_that_are_not_observed(rotation):
    grid, _, prior = rotation
    obs = grid[["u"]].isel(time=[0, 8])
    with pytest.raises(KeyError, match="correlation names 'v', which is not observed"):
        grid.sda.assimilate(obs, prior, sigma=0.1, correlation={"v": np.eye(2)})
    with pytest.raises(TypeError, match="correlation must be a mapping by observed variable, got ndarray"):
        grid.sda.assimilate(obs, prior, sigma=0.1, correlation=np.eye(2))


@pytest.mark.parametrize("seed", range(5))
def test_two_observations_at_one_place(seed):
    """However rounding has it."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(0, 150, 20), rng.uniform(0, 200, 20)
    x[13], y[13] = x[4], y[4]
    time = np.repeat(fields().time.values[1], 20)
    obs = xr.Dataset({"T": ("obs", np.ones(20))}, {"time": ("obs", time), "x": ("obs", x), "y": ("obs", y)})
    with pytest.raises(ValueError, match=r"two observations at one place\. Merge them"):
        lengths(obs, {"x": 100.0, "y": 70.0})


def test_the_law_of_another_variable_is_free(rotation):
    grid, _, prior = rotation
    obs = grid.isel(time=[0, 8])
    likelihood = compile_observations(
        prior.bind(grid), obs, 0.1, likelihood={"v": StudentT()}, correlation={"u": {"time": LENGTH}}
    )
    assert [str(g.law) for g in likelihood.groups] == ["Normal()", "StudentT(df=4.0)"]


def test_more_than_a_matrix_holds(rotation, monkeypatch):
    grid, _, prior = rotation
    monkeypatch.setattr("xsda.observations.correlation.LARGEST", 10)
    with pytest.raises(ValueError, match=r"'u' has 32 observations with correlated errors, more than the 10"):
        compile_observations(prior.bind(grid), grid[["u"]], 0.1, correlation={"u": {"time": LENGTH}})
    compile_observations(prior.bind(grid), grid[["u"]], 0.1, correlation={"u": AutoRegression()})


# --- what a length does not say ---


def test_dimensions_without_a_length_are_independent():
    """Time series of three stations: correlated in time, not from station to station."""
    times = np.array([0.0, 1.0, 3.0])
    obs = xr.Dataset({"u": (("time", "station"), np.zeros((3, 2)))}, {"time": times, "x": ("station", [0.0, 5.0])})
    found = whitener(obs.u, np.arange(6), {"time": 2.0})
    lower = found.lower.double().numpy()
    block = np.exp(-np.abs(np.subtract.outer(times, times)) / 2)
    np.testing.assert_allclose(lower @ lower.T, np.kron(block, np.eye(2)), atol=1e-6)


@pytest.mark.parametrize("length", [6, 21600.0, np.int64(3), "6", " 0.5", "6 bananas", "soon", [6]])
def test_a_number_is_no_duration(length):
    obs = xr.Dataset(
        {"u": ("time", np.zeros(3))}, {"time": np.array(["2020-01-01", "2020-01-02", "2020-01-03"], "M8[ns]")}
    )
    with pytest.raises(
        ValueError, match=re.escape(f"along the dates of 'time' must be a duration such as '6h', got {length!r}")
    ):
        whitener(obs.u, np.arange(3), {"time": length})


def test_objects_get_all_values_or_none():
    obs = xr.Dataset({"u": ("time", np.zeros(3))}, {"time": [0.0, 1.0, 2.0]})
    with pytest.raises(ValueError, match="1 missing values"):
        whitener(obs.u, np.array([0, 2]), AutoRegression())

    class Short:
        def whiten(self, values):
            return values[:, 1:]

    with pytest.raises(ValueError, match=r"must return a tensor of the shape \(3, 3\)"):
        whitener(obs.u, np.arange(3), Short())


@pytest.mark.parametrize(
    ("whiten", "message"),
    [
        (lambda v: torch.as_tensor(v.detach().numpy() * 2), "passes no gradients"),
        (lambda v: torch.as_tensor(v.numpy() * 2), "passes no gradients"),
        (lambda v: v / 0, "not finite"),
        (lambda v: v + 1, "must be linear"),
        (lambda v: v**3, "must be linear"),
    ],
)
def test_an_object_must_whiten_linearly(whiten, message):
    obs = xr.Dataset({"u": ("time", np.zeros(3))}, {"time": [0.0, 1.0, 2.0]})

    class Given:
        def whiten(self, values):
            return whiten(values)

    with pytest.raises(ValueError, match=f"whiten.. of 'u' .*{message}"):
        whitener(obs.u, np.arange(3), Given())


def test_what_is_no_correlation():
    obs = xr.Dataset({"u": ("time", np.zeros(3))}, {"time": [0.0, 1.0, 2.0]})

    class Solves:
        def solve(self, values):
            return values

    with pytest.raises(TypeError, match=r"matrix, a mapping .* or an object with a method whiten.* got <"):
        whitener(obs.u, np.arange(3), Solves())
    matrix = np.full((3, 3), -0.9) + 1.9 * np.eye(3)
    with pytest.raises(
        ValueError, match=r"smallest eigenvalue of the correlation -0\.8.*set its negative eigenvalues to zero"
    ):
        whitener(obs.u, np.arange(3), matrix)
    with pytest.raises(ValueError, match="not finite"):
        whitener(obs.u, np.arange(3), np.where(np.eye(3), 1, np.nan))


def test_laws_and_correlations_by_source(rotation):
    grid, _, prior = rotation
    bound, first, second = prior.bind(grid), grid[["u"]].isel(time=[0, 1]), grid[["u"]].isel(time=[5, 6, 7])
    likelihood = compile_observations(
        bound, {"a": first, "b": second}, 0.5, likelihood={"a": "student_t"}, correlation={"b": {"u": {"time": 2.0}}}
    )
    assert [str(g.law) for g in likelihood.groups] == ["StudentT(df=4.0)", "Normal()"]
    assert likelihood.whitening is not None
