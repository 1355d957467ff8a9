"""What must not matter: units, order, how observations are bundled, repeated, or batched. Same seed, same numbers."""

import numpy as np
import pytest
import xarray as xr

import xsda
from xsda.diffusion.samplers import TDS
from xsda.guidance import GUIDANCE, MMPS, TMPD, Calibrated, GaussianScore, PiGDM, Projection, Proximal, Scaling
from xsda.likelihood import Censored, StudentT

CLOSE = {"rtol": 1e-3, "atol": 1e-3}
TIGHT = MMPS(tolerance=1e-3, iterations=60)
METHODS = {
    "mmps": TIGHT,
    "gmres": MMPS(solver="gmres", tolerance=1e-3, iterations=60),
    **{name: kind() for name, kind in GUIDANCE.items() if name not in ("mmps", "dps", "sda")},
    "sda": GaussianScore(gamma=0.3),
    "adaptive": GaussianScore(gamma=0.3, scaling=Scaling(rule="adaptive")),
}  # not DPS: it does not know the errors, so that units of a variable weigh it


def both(grid):
    """u and v every fourth step."""
    return grid.isel(time=slice(None, None, 4)).assign(u=lambda d: d.u + 1, v=lambda d: d.v - 0.5)


def run(grid, obs, prior, *, guidance=TIGHT, **options):
    return grid.sda.assimilate(obs, prior, **{"members": 3, "guidance": guidance, "progress": False, **options})


# --- units: u in m s-1 or km s-1, v in K or shifted by 273.15 ---


@pytest.fixture(scope="module")
def converted(rotation):
    """(the same grid and prior in other units, and the conversion of a Dataset with these variables)."""
    grid, cov, _ = rotation
    factor, offset = {"u": 1e-3, "v": 1.0}, {"u": 0.0, "v": 273.15}

    def convert(ds):
        new = ds.assign({v: ds[v] * factor[str(v)] + offset[str(v)] for v in ds.data_vars})
        for v, units in (("u", "km s-1"), ("v", "K")):
            if v in new:
                new[v].attrs["units"] = units
        return new

    scale = np.repeat([1e-3, 1.0], 32)
    return convert(grid), xsda.GaussianPrior(convert(grid), cov * np.outer(scale, scale)), convert


@pytest.mark.parametrize("name", METHODS)
def test_units(rotation, converted, name):
    grid, _, prior = rotation
    other, rescaled, convert = converted
    one = run(grid, both(grid), prior, guidance=METHODS[name], sigma={"u": 0.3, "v": 0.5})
    two = run(other, convert(both(grid)), rescaled, guidance=METHODS[name], sigma={"u": 0.3e-3, "v": 0.5})
    for v in "uv":
        np.testing.assert_allclose(two[v], convert(one)[v], rtol=0, atol=2e-3 * float(prior.layout.std[0]) * (1e-3 if v == "u" else 1))  # fmt: skip


@pytest.mark.parametrize(
    ("here", "there"),
    [
        ({"likelihood": StudentT()}, {"likelihood": StudentT()}),
        ({"likelihood": {"u": Censored(lower=1.0)}}, {"likelihood": {"u": Censored(lower=1e-3)}}),
        ({"correlation": {"u": {"time": 9.0}}}, {"correlation": {"u": {"time": 9.0}}}),
        ({"likelihood": "huber", "sampler": TDS(steps=24, particles=4)},) * 2,
        ({"derived": {"w": lambda s: s["u"] * s["v"]}}, {"derived": {"w": lambda s: 1e3 * s["u"] * (s["v"] - 273.15)}}),
    ],
    ids=["student", "censored", "correlated", "particles", "derived"],
)
def test_units_with_other_errors(rotation, converted, here, there):
    grid, _, prior = rotation
    other, rescaled, convert = converted
    obs, sigma = both(grid), {"u": 0.3, "v": 0.5}
    if "derived" in here:
        extra = {"w": ("time", np.full(8, 0.4))}
        one = run(grid, obs.assign(extra), prior, sigma={**sigma, "w": 0.5}, **here)
        two = run(other, convert(obs).assign(extra), rescaled, sigma={"u": 0.3e-3, "v": 0.5, "w": 0.5}, **there)
    else:
        one = run(grid, obs, prior, sigma=sigma, **here)
        two = run(other, convert(obs), rescaled, sigma={"u": 0.3e-3, "v": 0.5}, **there)
    np.testing.assert_allclose(two.u * 1e3, one.u, rtol=0, atol=3e-3)
    np.testing.assert_allclose(two.v - 273.15, one.v, rtol=0, atol=3e-3)


# --- order and bundling ---


@pytest.mark.parametrize("name", METHODS)
def test_order_and_sources(rotation, name):
    grid, _, prior = rotation
    obs, options = both(grid), {"guidance": METHODS[name], "sigma": {"u": 0.3, "v": 0.5}}
    reference = run(grid, obs, prior, **options)
    bundles = {
        "another order": obs[["v", "u"]],
        "a variable each": {"a": obs[["v"]], "b": obs[["u"]]},
        "in pieces": [obs.isel(time=[5, 2]), obs[["u"]].isel(time=[0, 1, 3, 4, 6, 7]), obs[["v"]].isel(time=[7, 6, 0, 1, 3, 4])],
        "with gaps": [obs.where(obs.time < 10), obs.where(obs.time >= 10)],
    }  # fmt: skip
    for bundle in bundles.values():
        xr.testing.assert_allclose(run(grid, bundle, prior, **options), reference, **CLOSE)


def test_order_and_sources_with_laws(rotation):
    grid, _, prior = rotation
    obs = both(grid)
    options = {"sigma": {"u": 0.3, "v": 0.5}, "likelihood": {"u": "student_t"}, "correlation": {"v": {"time": 6.0}}}
    reference = run(grid, obs, prior, **options)
    xr.testing.assert_allclose(run(grid, obs[["v", "u"]], prior, **options), reference, **CLOSE)
    xr.testing.assert_allclose(run(grid, [obs[["u"]], obs[["v"]]], prior, **options), reference, **CLOSE)


# --- repetition ---


def repeated(obs, n):
    """A list with n observations at each time."""
    return xr.concat([obs] * n, "time").swap_dims(time="obs")


@pytest.mark.parametrize("n", [2, 9])
@pytest.mark.parametrize("guidance", [TIGHT, METHODS["gmres"], TMPD(), PiGDM(), Projection(), Proximal()], ids=str)
def test_repeated_observations_are_one_with_a_smaller_error(rotation, n, guidance):
    """n values of error sigma at one place say what one of sigma / sqrt(n) says: what stands for H V H' is shared."""
    grid, _, prior = rotation
    obs = both(grid)[["u"]]
    once = run(grid, obs, prior, sigma=0.6 / n**0.5, guidance=guidance)
    often = run(grid, repeated(obs, n), prior, sigma=0.6, guidance=guidance)
    assert often.attrs["observations"] == 8 * n
    xr.testing.assert_allclose(often, once, rtol=2e-3, atol=2e-3)


def test_how_much_copies_of_observations_change(rotation):
    """The Gaussian score adds gamma s^2 to each observation, as if the predictions of copies were wrong independently.

    While gamma s^2 is what counts, n copies therefore pull n times as much; the calibrated score knows better.
    """
    grid, _, prior = rotation
    obs = both(grid)[["u"]]
    changes = []
    for guidance in (GaussianScore(gamma=1.0), Calibrated()):
        once = run(grid, obs, prior, sigma=0.2, guidance=guidance)
        often = run(grid, repeated(obs, 9), prior, sigma=0.6, guidance=guidance)
        changes.append(float(abs(often - once).to_array().max()))
    assert changes[0] > 1
    assert changes[1] < 0.02


def test_different_values_at_one_place_are_their_mean(rotation):
    grid, _, prior = rotation
    obs = both(grid)[["u"]]
    spread = [obs + 0.3, obs - 0.1, obs - 0.2]
    xr.testing.assert_allclose(
        run(grid, spread, prior, sigma=0.6), run(grid, obs, prior, sigma=0.6 / 3**0.5), rtol=2e-3, atol=2e-3
    )


# --- batch mates ---


@pytest.mark.parametrize("name", METHODS)
def test_batches(rotation, name):
    grid, _, prior = rotation
    options = {"guidance": METHODS[name], "sigma": 0.3, "likelihood": {"v": "huber"}}
    many = run(grid, both(grid), prior, members=7, **options)
    for other in ({"members": 7, "batch": 3}, {"members": 2}):
        few = run(grid, both(grid), prior, **options, **other)
        xr.testing.assert_allclose(few, many.isel(member=slice(other["members"])), **CLOSE)
