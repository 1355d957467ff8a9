"""A comparison is the table of ``evaluate`` for each ensemble, on what all of them share."""

import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

import xsda
from xsda.compare import compare
from xsda.metrics import evaluate


@pytest.fixture
def case(rotation):
    """(truth, two ensembles): draws of the prior, the second with fewer members."""
    grid, _, prior = rotation
    truth = xsda.sample(grid, prior, members=1, seed=1, progress=False).isel(member=0, drop=True)
    sets = {"one": xsda.sample(grid, prior, members=8, seed=2, progress=False)}
    return truth, {**sets, "two": xsda.sample(grid, prior, members=5, seed=3, progress=False)}


def test_the_table_is_that_of_evaluate(case):
    truth, sets = case
    obs = truth[["u"]].isel(time=slice(None, None, 4))
    sets["two"] = sets["two"][["v", "u"]]
    found = compare(truth, sets, obs=obs, sigma=0.5).table
    assert found.rmse.dims == ("ensemble", "variable")
    for label, ens in sets.items():
        expected = evaluate(ens, truth, obs=obs, sigma=0.5)
        found_here = found.sel(ensemble=label, drop=True).drop_vars("members")
        xr.testing.assert_equal(found_here, expected.sel(variable=["u", "v"]))
        assert int(found.members.sel(ensemble=label)) == ens.sizes["member"]
    assert found.attrs["times"] == 32
    assert found.rmse.attrs["units"] == "m s-1"


def test_shared_times_and_variables(case):
    truth, sets = case
    sets["one"] = sets["one"].isel(time=slice(None, None, 2))
    sets["two"] = sets["two"][["v"]].isel(time=slice(4, None))
    found = compare(truth.isel(time=slice(20)), sets)
    common = slice(4, 20, 2)
    assert found.table.attrs["times"] == 8
    assert list(found.table["variable"].values) == ["v"]
    expected = evaluate(sets["two"].sel(time=truth.time[common]), truth[["v"]].isel(time=common))
    xr.testing.assert_equal(found.table.sel(ensemble="two", drop=True).drop_vars("members"), expected)
    np.testing.assert_array_equal(found.plot().axes[0].lines[0].get_xdata(), truth.time[common])
    plt.close("all")


def test_what_is_not_averaged_over_stays(case):
    truth, sets = case
    found = compare(truth, sets, dim=[])
    assert found.table.rmse.dims == ("ensemble", "variable", "time")
    assert found.to_dataframe().index.names == ["variable", "ensemble", "time"]


def test_in_a_notebook(case):
    truth, sets = case
    found = compare(truth, sets)
    lines = repr(found).splitlines()
    assert lines[0] == "2 ensembles against one truth on 32 times (units of u: m s-1, v: m s-1)"
    assert lines[1].split() == ["rmse", "bias", "crps", "spread", "spread_skill", "members"]
    assert lines[3].split()[:3] == ["u", "one", f"{float(found.table.rmse[0, 0]):.4g}"]
    before = plt.get_fignums()
    page = found._repr_html_()
    assert re.search(r"<table.*</table>\s*<img src=.data:image/png;base64,iVBOR", page, re.DOTALL)
    assert plt.get_fignums() == before  # the picture is in the page; it must not be shown a second time
    assert repr(compare(truth, sets["one"])).splitlines()[3].split()[:2] == ["u", "ensemble"]
    assert "<img" not in compare(truth, sets, figure=False)._repr_html_()


def test_errors(case):
    truth, sets = case
    with pytest.raises(ValueError, match="no ensembles were given"):
        compare(truth, {})
    with pytest.raises(TypeError, match="expected a Dataset under the label 'one', got DataArray"):
        compare(truth, {"one": sets["one"].u})
    with pytest.raises(ValueError, match=r"no 'time' in common: truth: 0\.0 to 9\.0; one: 20\.0 to 31\.0"):
        compare(truth.isel(time=slice(10)), {"one": sets["one"].isel(time=slice(20, None))})
    with pytest.raises(ValueError, match="'one' has no coordinate 'time'"):
        compare(truth, {"one": sets["one"].rename(time="t")})
    with pytest.raises(ValueError, match="share no variable: truth: h"):
        compare(truth[["u"]].rename(u="h"), sets)
    with pytest.raises(ValueError, match=r"no dimension 'member'(.|\n)*about the ensemble 'two'"):
        compare(truth, {**sets, "two": truth})
