"""Observations that are plainly wrong, or stop at a limit: what the law of errors is worth on Lorenz-63.

    python examples/benchmarks/error_laws.py [--truths 16] [--members 32]

x at every second of 65 states with error 1. "gross": one value in ten is off by +-20. "censored": nothing below -5 is shown.
Root mean square error of the ensemble mean, fair CRPS, and spread over skill, over all variables (each in units of its
standard deviation in the prior) and truths.
"""

import argparse

import numpy as np
import xarray as xr

import xsda
from xsda.guidance import Censored, Huber, StudentT

SYSTEM = xsda.systems.Lorenz63()
SCALE = xr.Dataset({"x": 8.0, "y": 9.0, "z": 8.6})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--truths", type=int, default=16)
    parser.add_argument("--members", type=int, default=32)
    parser.add_argument("--match", default="", help="only cases whose names hold this")
    a = parser.parse_args()
    model = xsda.load_model("lorenz63")
    truths = SYSTEM.simulate(65, a.truths, seed=80)
    scores: dict[str, list[list[float]]] = {}
    for i in range(a.truths):
        truth = truths.isel(member=i, drop=True)
        clean = truth.sda.observe(truth[["x"]].isel(time=slice(None, None, 2)), sigma=1.0, seed=800 + i)
        rng = np.random.default_rng(900 + i)
        wrong = rng.random(clean.x.size) < 0.1
        gross = clean.copy(deep=True)
        gross.x[wrong] += 20 * rng.choice([-1, 1], int(wrong.sum()))
        limited = clean.copy(deep=True)
        limited["x"] = clean.x.clip(-5, None, keep_attrs=True)
        cases = {
            "clean, gaussian": (clean, None),
            "clean, student_t": (clean, StudentT(df=4)),
            "gross, gaussian": (gross, None),
            "gross, huber": (gross, Huber()),
            "gross, student_t": (gross, StudentT(df=4)),
            "gross, wrong values left out": (gross.where(xr.DataArray(~wrong, dims="time")), None),
            "censored, read as they are": (limited, None),
            "censored, left out": (limited.where(limited > -5), None),
            "censored, censored law": (limited, Censored(lower=-5)),
        }
        for name, (obs, law) in cases.items():
            if a.match not in name:
                continue
            post = truth.sda.assimilate(
                obs, model, sigma=1.0, members=a.members, likelihood=law, seed=i, progress=False
            )
            x, t = post / SCALE, truth / SCALE
            own = [float(d.to_array().mean()) for d in ((x.mean("member") - t) ** 2, x.var("member", ddof=1))]
            crps = xsda.metrics.crps(x, t)
            scores.setdefault(name, []).append([*own, float(crps.to_array().mean())])
    for name, rows in scores.items():
        error, variance, crps = np.mean(rows, 0)
        ratio = np.sqrt(variance * (1 + 1 / a.members) / error)
        print(f"{name:<30} rmse {np.sqrt(error):.3f}   crps {crps:.4f}   spread/skill {ratio:.2f}")


if __name__ == "__main__":
    main()
