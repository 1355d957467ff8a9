"""Observations that are plainly wrong, or stop at a limit: what the law of errors is worth on Lorenz-63.

    python benchmarks/error_laws.py [--truths 16] [--members 32]

x at every second of 65 states with error 1. "gross": one value in ten is off by +-20. "censored": nothing below -5 is shown.
Root mean square error of the ensemble mean, fair CRPS, and spread over skill, over all variables (each in units of its
standard deviation in the prior) and truths.
"""

import argparse

import numpy as np
import xarray as xr
from record import add_options, record

import xsda
from xsda.likelihood import Censored, Huber, StudentT

SYSTEM = xsda.systems.Lorenz63()
SCALE = xr.Dataset({"x": 8.0, "y": 9.0, "z": 8.6})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--truths", type=int, default=16)
    parser.add_argument("--members", type=int, default=32)
    parser.add_argument("--match", default="", help="only cases whose names hold this")
    add_options(parser, "error_laws")
    a = parser.parse_args()
    model = xsda.load_model("lorenz63")
    truths = SYSTEM.simulate(65, a.truths, seed=80)
    scores: dict[tuple[str, str], list[list[float]]] = {}
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
            ("clean", "Gaussian"): (clean, None),
            ("clean", "Student-t, df 4"): (clean, StudentT(df=4)),
            ("gross", "Gaussian"): (gross, None),
            ("gross", "Huber"): (gross, Huber()),
            ("gross", "Student-t, df 4"): (gross, StudentT(df=4)),
            ("gross, wrong ones left out", "Gaussian"): (gross.where(xr.DataArray(~wrong, dims="time")), None),
            ("censored", "Gaussian, read as they are"): (limited, None),
            ("censored, those at the limit left out", "Gaussian"): (limited.where(limited > -5), None),
            ("censored", "Censored(lower=-5)"): (limited, Censored(lower=-5)),
        }
        for name, (obs, law) in cases.items():
            if a.match not in ", ".join(name):
                continue
            post = truth.sda.assimilate(
                obs, model, sigma=1.0, members=a.members, likelihood=law, seed=i, progress=False
            )
            x, t = post / SCALE, truth / SCALE
            own = [float(d.to_array().mean()) for d in ((x.mean("member") - t) ** 2, x.var("member", ddof=1))]
            crps = xsda.metrics.crps(x, t)
            scores.setdefault(name, []).append([*own, float(crps.to_array().mean())])
    table = []
    for (observations, law), rows in scores.items():
        error, variance, crps = np.mean(rows, 0)
        ratio = np.sqrt(variance * (1 + 1 / a.members) / error)
        print(f"{observations}, {law}: rmse {np.sqrt(error):.3f}   crps {crps:.4f}   spread/skill {ratio:.2f}")
        table.append(
            {"observations": observations, "law": law, "rmse": np.sqrt(error), "crps": crps, "spread_skill": ratio}
        )
    record(
        a.name, table, folder=a.results, seed=80,
        question="What is the law of the observation errors worth when some values are wrong or cut off?",
        columns={"observations": "", "law": "", "rmse": ("1", ".3f"), "crps": ("1", ".3f"), "spread_skill": ("1", ".2f")},
    )  # fmt: skip


if __name__ == "__main__":
    main()
