"""The search for the taper, where the scale of the correlations is known."""

import numpy as np
import xarray as xr

from xsda.labels import Layout
from xsda.priors.anomalies import Anomalies
from xsda.priors.normals import fit_normals
from xsda.priors.taper_choice import choose_taper


def test_a_short_record_of_small_scales_gets_a_short_taper(monkeypatch):
    """Correlations over 4 of 200 points; the search knows drawn values; a fine taper that costs too much is not tried."""
    monkeypatch.setattr("xsda.priors.taper_choice.POINTS", 80)
    places = np.arange(200.0)
    root = np.linalg.cholesky(np.exp(-np.square(np.subtract.outer(places, places) / 4) / 2) + 1e-4 * np.eye(200))
    rng = np.random.default_rng(0)
    values, known = rng.standard_normal((24, 200)) @ root.T, rng.random((24, 200)) < 0.95
    ds = xr.Dataset({"t": (("time", "x"), np.where(known, values, np.nan))}, {"time": np.arange(24.0), "x": places})
    data = Anomalies(ds, fit_normals(ds, Layout.of(ds)))
    np.testing.assert_array_equal(data.known(np.arange(200))[0], known)
    assert choose_taper(data, places[:, None], 199.0, 2).length <= 20
    monkeypatch.setattr("xsda.priors.taper_choice.WORK", 24 * 200 * 5)
    assert choose_taper(data, places[:, None], 199.0, 2).length >= 0.15 * 199
