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


def test_a_trajectory_has_the_scores_of_all_members_alike(globe):
    """Its mean absolute error is their CRPS."""
    ens, truth = globe
    best = ens.isel(member=0, drop=True)
    single, alike = best.sda.evaluate(truth), xr.concat([best] * 3, "member").sda.evaluate(truth)
    assert set(single) == {"rmse", "bias", "mae"}
    assert single.rmse.attrs["long_name"] == "root mean square error"
    xr.testing.assert_allclose(single.rename(mae="crps"), alike[["rmse", "bias", "crps"]])
