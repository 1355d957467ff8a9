"""Pictures show what they are given."""

import numpy as np
import pytest
import xarray as xr

import xsda


def test_series(rotation):
    grid, _, prior = rotation
    obs = grid.isel(time=slice(None, None, 4))[["u"]] + 1
    obs["u"].attrs["error_std"] = 0.1
    post = grid.sda.assimilate(obs, prior, members=8, progress=False)
    figure = post.sda.plot(truth=grid, obs=obs, members=3, title="a title")
    panels = figure.axes
    assert len(panels) == 2
    assert panels[0].get_ylabel() == "u [m s-1]"
    truth = next(line for line in panels[0].lines if line.get_label() == "truth")
    np.testing.assert_array_equal(truth.get_ydata(), grid.u)
    marks = next(c for c in panels[0].containers if c.get_label() == "observations")
    np.testing.assert_array_equal(marks[0].get_xdata(), obs.time)
    assert len(post.sda.plot(variables=["v"]).axes) == 1
    with pytest.raises(KeyError, match="did you mean 'u'"):
        post.sda.plot(variables=["uu"])


@pytest.mark.parametrize("space", [1, 2])
def test_fields(space):
    shape = (4, 5, 6)[: space + 1]
    dims = ("time", "lat", "lon")[: space + 1]
    coords = {d: np.arange(float(n)) for d, n in zip(dims, shape, strict=True)}
    grid = xr.Dataset({"T": (dims, np.random.default_rng(0).standard_normal(shape), {"units": "K"})}, coords)
    prior = xsda.GaussianPrior(grid, np.eye(int(np.prod(shape))))
    obs = grid.isel(time=[0, 3]) + 1
    post = grid.sda.assimilate(obs, prior, members=5, sigma=0.1, progress=False)
    figure = post.sda.plot(truth=grid, obs=obs, time=3)
    titles = [a.get_title() for a in figure.axes if a.get_title()]
    assert titles == ["truth", "ensemble mean", "one member", "spread"]
    drawn = figure.axes[1].collections[0].get_array()
    expected = post["T"].mean("member")
    np.testing.assert_allclose(drawn, expected.isel(time=3) if space == 2 else expected)
