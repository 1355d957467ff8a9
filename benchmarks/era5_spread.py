"""Two-metre temperature from 30 stations: does the spread match the error, over all days that a record has?

Three days are few to judge a spread. Here the 25 days from 1 to 25 March are withheld in turn, five at a time. All
priors are made from the other twenty days, with the defaults of the package; each day has its own 30 stations and 10
withheld places. ``three`` is the range that contains nine tenths of all sets of three of these days. It takes about
forty minutes on one core::

    python benchmarks/era5_spread.py
"""

import argparse
from itertools import combinations

import numpy as np
import torch
from era5_stations import SIGMA, TRAINING, land, scored, stations
from record import add_options, record

import xsda

FOLDS, FIRST = 5, 100  # parts of five days; number of the first draw of stations


def ratio(scores: np.ndarray) -> float:
    """Spread over error from (day, squared error | CRPS | variance)."""
    return float(np.sqrt(scores[:, 2].mean() / scores[:, 0].mean()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=16)
    add_options(parser, "era5_spread")
    args = parser.parse_args()
    torch.set_num_threads(1)
    ds = xsda.data.fetch("era5-t2m-uk").sel(time=TRAINING).load()
    where, days = land(ds), np.unique(ds.time.dt.floor("D"))
    scores: dict[str, dict[str, list[tuple[float, float, float]]]] = {}
    for part in np.array_split(np.arange(len(days)), FOLDS):
        others = ds.sel(time=~ds.time.dt.floor("D").isin(days[part]))
        priors = {
            "diffusion": xsda.train(others, window=24, progress=False),
            "Gaussian, patterns": xsda.GaussianPrior.fit(others, length=24),
        }
        for day in part:
            truth = ds.isel(time=ds.time.dt.floor("D") == days[day])
            places, withheld = stations(truth, where, seed=FIRST + day)
            obs = truth.sda.observe(places, sigma=SIGMA, seed=FIRST + day)
            obs = obs.where(np.random.default_rng(FIRST + day).random(obs.t2m.shape) > 0.2)
            values = truth.sda.observe(withheld).t2m
            for name, prior in priors.items():
                found = truth.sda.assimilate(obs, prior, sigma=SIGMA, members=args.members, progress=False)
                own = scores.setdefault(name, {"grid": [], "stations": []})
                own["grid"].append(scored(found.t2m, truth.t2m))
                own["stations"].append(scored(found.sda.observe(withheld[["t2m"]]).t2m, values))
                print(str(days[day])[:10], name, *(f"{ratio(np.array(s[-1:])):.2f}" for s in own.values()), flush=True)
    rows = []
    for name, places_scores in scores.items():
        row: dict[str, object] = {"method": name, "days": len(days)}
        for place, each in places_scores.items():
            found = np.array(each)
            three = [ratio(found[list(some)]) for some in combinations(range(len(found)), 3)]
            low, high = np.quantile(three, [0.05, 0.95])
            row |= {
                f"{place}_rmse": np.sqrt(found[:, 0].mean()), f"{place}_crps": found[:, 1].mean(),
                f"{place}_spread_skill": ratio(found), f"{place}_three_low": low, f"{place}_three_high": high,
            }  # fmt: skip
        rows.append(row)
        print(row, flush=True)
    units = {"rmse": ("K", ".2f"), "crps": ("K", ".2f"), **dict.fromkeys(
        ("spread_skill", "three_low", "three_high"), ("1", ".2f")
    )}  # fmt: skip
    record(
        args.name, rows, folder=args.results, seed=FIRST,
        question="Does the spread of maps from stations match their error?",
        columns={"method": "", "days": ("1", ".0f")} | {
            f"{p}_{k}": u for p in ("grid", "stations") for k, u in units.items()
        },
    )  # fmt: skip


if __name__ == "__main__":
    main()
