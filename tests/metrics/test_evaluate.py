"""The table of scores."""

import numpy as np
import xarray as xr

import xsda
from xsda import metrics


def test_evaluate_is_a_table(rotation):
    grid, _, prior = rotation
    ens = xsda.sample(grid, prior, members=8, progress=False)
    obs = grid[["u"]].isel(time=[0]).assign_attrs()
    table = ens.sda.evaluate(grid, obs=obs, sigma=0.5)
    assert set(table) == {"rmse", "bias", "crps", "spread", "spread_skill", "chi_square"}
    assert table.rmse.attrs["units"] == "m s-1"
    assert table.spread_skill.attrs["units"] == "1"
    assert list(table["variable"].values) == ["u", "v"]
    assert np.isnan(table.chi_square.sel(variable="v"))
    both = xr.concat([table, table], "method")
    assert both.to_dataframe().shape[0] == 4


def test_the_table_holds_the_weighted_scores(globe):
    ens, truth = globe
    for weights in (None, False, abs(truth.lat)):
        table = metrics.evaluate(ens, truth, dim=["lat", "lon"], weights=weights)
        for name in ("rmse", "bias", "crps", "spread_skill"):
            score = getattr(metrics, name)(ens, truth, ["lat", "lon"], weights=weights)
            np.testing.assert_allclose(table[name].sel(variable="t"), score.t)
            np.testing.assert_allclose(table[name].sel(variable="q"), score.q)
        assert "units" not in table.rmse.attrs
        assert table.attrs["variable_units"] == "t: K, q: kg kg-1"
