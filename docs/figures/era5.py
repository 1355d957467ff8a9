"""Draws the map of temperature in the README: ERA5, 30 stations on land, and the posterior of a fitted Gaussian.

Run it from the root of the repository::

    python docs/figures/era5.py

The fit uses 1 to 25 March 2019. The map shows 28 March, which it has not seen.
"""

import sys
from pathlib import Path

import xsda

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
from era5_stations import land, stations  # noqa: E402

era5 = xsda.data.fetch("era5-t2m-uk").load()
record = era5.sel(time=slice("2019-03-01", "2019-03-25"))
truth = era5.sel(time="2019-03-28")
places, _ = stations(truth, land(record), seed=0)
obs = truth.sda.observe(places, sigma=0.5, seed=0)

prior = xsda.GaussianPrior.fit(record, length=24)
post = truth.sda.assimilate(obs, prior, members=16)
figure = post.sda.plot(truth=truth, obs=obs, time="2019-03-28T14:00", cmap="RdYlBu_r")
figure.savefig(ROOT / "docs" / "_static" / "era5.png", dpi=110, bbox_inches="tight")
print(post.sda.evaluate(truth, obs=obs).to_dataframe().T)
