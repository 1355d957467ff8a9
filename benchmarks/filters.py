"""Filters on published set-ups: are our scores those that DAPPER publishes?

    python benchmarks/filters.py [--seeds 3] [--cycles 1000] [--only etkf]

Each set-up is that of the file of the same name in DAPPER's ``mods``. The score is the mean over the cycles, after 400 of
burn-in, of the root mean square error (over the state) of the analysis mean; ensembles start close to the truth, as there.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from record import add_options, record

import xsda
from xsda.baselines import (
    EAKF,
    ETKF,
    LETKF,
    Climatology,
    DEnKF,
    EnKF,
    EnKFN,
    FourDVar,
    IEnKS,
    OptimalInterpolation,
    ParticleFilter,
    ThreeDVar,
)

BURN_IN = 400


@dataclass(frozen=True)
class SetUp:
    """A system, how often and where it is observed, with which error, and how far from the truth ensembles start."""

    system: xsda.systems.MarkovChain
    every: int
    sigma: float
    start: float
    step: int = 1  # every so-many-th site

    def truth(self, cycles: int, seed: int) -> xr.Dataset:
        return self.system.simulate(cycles + BURN_IN + 1, every=self.every, seed=seed)

    def observed(self, truth: xr.Dataset, seed: int) -> xr.Dataset:
        like = truth.isel(time=slice(1, None), **{d: slice(None, None, self.step) for d in truth.dims if d != "time"})
        return truth.sda.observe(like, sigma=self.sigma, seed=seed)

    def initial(self, truth: xr.Dataset, members: int, seed: int) -> xr.Dataset:
        first = truth.isel(time=0)
        rng = np.random.default_rng(seed)
        shape = (members, *(first[d].size for d in next(iter(first.data_vars.values())).dims))
        noise = {v: (("member", *first[v].dims), self.start * rng.standard_normal(shape)) for v in first.data_vars}
        return first + xr.Dataset(noise)


def lorenz96(dt: float = 0.05) -> xsda.systems.Lorenz96:
    return xsda.systems.Lorenz96(dt=dt)


SETUPS = {
    "Lorenz63/sakov2012": SetUp(xsda.systems.Lorenz63(dt=0.01, noise=0.0), 25, 2**0.5, 2**0.5),
    "Lorenz96/sakov2008": SetUp(lorenz96(), 1, 1.0, 0.03),
    "Lorenz96/sakov2008, every 0.2": SetUp(lorenz96(), 4, 1.0, 0.03),
    "Lorenz96/bocquet2010_m40, error 1.5": SetUp(lorenz96(), 1, 1.5, 0.03, 2),
    "Lorenz96/spantini2019": SetUp(lorenz96(0.02), 20, 0.5**0.5, 0.3, 2),
}

Make = Callable[[xr.Dataset], object]
RUNS: list[tuple[str, str, int, Make, float]] = [
    ("Lorenz63/sakov2012", "EnKF, N=10, infl 1.04", 10, lambda c: EnKF(inflation=1.04), 0.65),
    ("Lorenz63/sakov2012", "EnKF, N=100, infl 1.01", 100, lambda c: EnKF(inflation=1.01), 0.56),
    ("Lorenz63/sakov2012", "ETKF, N=10, infl 1.02, rotated", 10, lambda c: ETKF(inflation=1.02, rotate=True), 0.60),
    ("Lorenz63/sakov2012", "EnKF-N, N=10, rotated", 10, lambda c: EnKFN(rotate=True), 0.54),
    ("Lorenz63/sakov2012", "iEnKS, N=10, infl 1.02, rotated", 10, lambda c: IEnKS(inflation=1.02, rotate=True), 0.31),
    ("Lorenz63/sakov2012", "particle filter, N=800", 800, lambda c: ParticleFilter(jitter=0.9), 0.28),
    ("Lorenz63/sakov2012", "climatology", 800, lambda c: Climatology(climatology=c), 7.6),
    ("Lorenz63/sakov2012", "optimal interpolation", 20, lambda c: OptimalInterpolation(climatology=c), 1.25),
    ("Lorenz63/sakov2012", "3D-Var, 0.1 of the climate's covariance", 1, lambda c: ThreeDVar(climatology=c, scale=0.1), 1.04),
    ("Lorenz96/sakov2008", "EnKF, N=40, infl 1.06", 40, lambda c: EnKF(inflation=1.06), 0.22),
    ("Lorenz96/sakov2008", "DEnKF, N=40, infl 1.01", 40, lambda c: DEnKF(inflation=1.01), 0.18),
    ("Lorenz96/sakov2008", "ETKF, N=24, infl 1.013, rotated", 24, lambda c: ETKF(inflation=1.013, rotate=True), 0.18),
    ("Lorenz96/sakov2008", "EAKF, N=28, infl 1.02, rotated", 28, lambda c: EAKF(inflation=1.02, rotate=True), 0.18),
    ("Lorenz96/sakov2008", "EnKF-N, N=24, rotated, certainty 2", 24, lambda c: EnKFN(rotate=True, certainty=2.0), 0.18),
    ("Lorenz96/sakov2008", "LETKF, N=7, infl 1.04, rotated, length 4", 7,
     lambda c: LETKF(localization=4.0, inflation=1.04, rotate=True), 0.22),
    ("Lorenz96/sakov2008", "climatology", 800, lambda c: Climatology(climatology=c), 3.6),
    ("Lorenz96/sakov2008", "optimal interpolation", 50, lambda c: OptimalInterpolation(climatology=c), 0.95),
    ("Lorenz96/sakov2008, every 0.2", "4D-Var, lag 4, 0.02 of the climate's covariance", 1, lambda c: FourDVar(climatology=c, scale=0.02, lag=4), 0.37),
    ("Lorenz96/bocquet2010_m40, error 1.5", "iEnKS, N=19, lag 2, infl 1.04, rotated", 19, lambda c: IEnKS(lag=2, inflation=1.04, rotate=True), 0.46),
    ("Lorenz96/spantini2019", "LETKF, N=40, length 4, infl 1.10", 40, lambda c: LETKF(localization=4.0, inflation=1.10), 1.0),
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cycles", type=int, default=1000)
    parser.add_argument("--only", default="", help="runs whose name holds this")
    add_options(parser, "filters")
    a = parser.parse_args()
    table = []
    torch.set_num_threads(1)
    print(
        "| set-up | method | published | ours, seed by seed | mean | spread | seconds |\n|---|---|---|---|---|---|---|"
    )
    for name, label, members, make, published in RUNS:
        if a.only.lower() not in f"{name} {label}".lower():
            continue
        setup = SETUPS[name]
        climate = setup.system.simulate(5000, every=10, seed=99)
        scores, spreads, seconds = [], [], 0.0
        for seed in range(a.seeds):
            truth = setup.truth(a.cycles, seed)
            obs = setup.observed(truth, seed + 100)
            start = time.perf_counter()
            run = truth.sda.filter(
                obs, setup.system, method=make(climate), initial=setup.initial(truth, members, seed), seed=seed,
                keep="analysis", progress=False,
            )  # fmt: skip
            seconds += time.perf_counter() - start
            later = slice(BURN_IN + 1, None)
            x, t = (ds.isel(time=later).to_dataarray("_variable") for ds in (run, truth))
            state = [d for d in t.dims if d != "time"]
            scores.append(float((((x.mean("member") - t) ** 2).mean(state) ** 0.5).mean()))
            if members > 1:
                spreads.append(float((x.var("member", ddof=1).mean(state) ** 0.5).mean()))
        each = ", ".join(f"{s:.3f}" for s in scores)
        ok = "" if abs(np.mean(scores) - published) <= 0.05 * published + 0.01 else " (!)"
        spread = f"{np.mean(spreads):.3f}" if spreads else "-"
        print(
            f"| {name} | {label} | {published} | {each} | {np.mean(scores):.3f}{ok} | {spread} | {seconds / a.seeds:.1f} |",
            flush=True,
        )
        row = {"setup": name, "method": label, "published": published, "each": each, "mean": np.mean(scores)}
        table.append(row | ({"spread": np.mean(spreads)} if spreads else {}))
    record(
        a.name, table, folder=a.results, seed=0, question="Do our filters reach the scores that DAPPER publishes?",
        columns={"setup": "", "method": "", "published": ("1", ".2f"), "each": "", "mean": ("1", ".3f"),
                 "spread": ("1", ".3f")},
    )  # fmt: skip


if __name__ == "__main__":
    main()
