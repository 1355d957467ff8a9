"""A reanalysis beside filters and smoothers with a long history on Lorenz-96: the same truth, observations and labels.

    OMP_NUM_THREADS=1 python benchmarks/filters_with_history.py --workers 2
    OMP_NUM_THREADS=1 python benchmarks/filters_with_history.py --tune

Three networks: "dense", every second point at every step with error 1.5; "sparse", every fourth point at every fourth step
with error 1.5; "moving", eight observers that move along the ring by 1 to 3 sites a step and report at random times, once per
step on average, seven of them u with error 0.5, the eighth u squared with error 5. All methods see 240 states; the last 200
are scored. Filters know the model and cycle through all observations. A reanalysis has the embedded prior; with lag 16,
every state has at least 16 states of later observations, with lag 0, some have none. "Last" are the states without any later
observation, where windows of the reanalysis with lag 0 end; the filters are scored at the same states.

Filters have 20 members and the reanalysis 10, with 32 steps and Langevin noise, which cost two fifths of the default; the
CRPS is that of infinitely many. Inflation, localization and lags of
the filters were chosen on three truths of another seed (--tune).
"""

import argparse
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import torch
import xarray as xr
from record import add_options, record

import xsda
from xsda.baselines import LETKF, IEnKS
from xsda.diffusion.samplers import DPMpp2MSDE
from xsda.metrics import crps, rmse, spread_skill
from xsda.sampling.long_records import plan_windows

STATES, SPIN, WINDOW = 240, 40, 41
MEMBERS, DRAWN = 20, 10  # of filters, and of a reanalysis; scores are those of infinitely many members
SAMPLER = DPMpp2MSDE(steps=32, grid="centered", eta=4, high=10, low=0.02)
NETWORKS = ("dense", "sparse", "moving")
SQUARE = {"u_squared": lambda s: s["u"] ** 2}
FILTERS = {
    "dense": {"LETKF": LETKF(localization=10.0, inflation=1.03, rotate=True), "iEnKS": IEnKS(lag=16, inflation=1.01)},
    "sparse": {"LETKF": LETKF(localization=4.0, inflation=1.01, rotate=True), "iEnKS": IEnKS(lag=1, inflation=1.06)},
    "moving": {"LETKF": LETKF(localization=7.0, inflation=1.003, rotate=True), "iEnKS": IEnKS(lag=32, inflation=1.003)},
}
COLUMNS = ("rmse", "crps", "spread_skill", "rmse_last", "crps_last", "spread_skill_last")


def tuning(network: str) -> dict[str, object]:
    """Settings to choose from. Moving observers report one by one, and filters inflate at every report."""
    rates = (1.001, 1.003, 1.006) if network == "moving" else (1.01, 1.03, 1.06, 1.1)
    lags = (8, 16, 32) if network == "moving" else (1, 2, 4, 8, 16)
    return {
        **{f"LETKF {r} {i}": LETKF(localization=r, inflation=i, rotate=True) for r in (4.0, 7.0, 10.0) for i in rates},
        **{f"iEnKS {k} {i}": IEnKS(lag=k, inflation=i) for k in lags for i in rates[:3]},
    }


def observed(truth: xr.Dataset, network: str, seed: int) -> list[xr.Dataset]:
    if network != "moving":
        points, steps = {"dense": (2, 1), "sparse": (4, 4)}[network]
        like = truth.isel(time=slice(steps - 1, None, steps), x=slice(None, None, points))
        return [truth.sda.observe(like, sigma=1.5, seed=seed)]
    generator = np.random.default_rng(seed)
    end, dt, n = float(truth.time[-1]), float(truth.time[1] - truth.time[0]), truth.sizes["x"]
    found = []
    for number in range(8):
        start, speed = n * number / 8, generator.choice((-1, 1)) * generator.uniform(1, 3)  # sites per step
        times = np.sort(generator.uniform(dt, end, STATES - 1))
        name, error = ("u_squared", 5.0) if number == 7 else ("u", 0.5)
        places = xr.Dataset(
            {name: ("report", np.zeros(len(times)))},
            coords={"time": ("report", times), "x": ("report", (start + speed * times / dt) % n)},
        )
        found.append(truth.sda.observe(places, sigma=error, derived=SQUARE, seed=100 * seed + number))
    return found


def scores(run: xr.Dataset, truth: xr.Dataset, last: np.ndarray) -> list[float]:
    """RMSE, CRPS and spread of the scored states, and of those without a later observation."""
    found = []
    for states in (np.arange(SPIN, STATES), last):
        e, t = run.isel(time=states), truth.isel(time=states)
        error = float(rmse(e, t).u)
        found += [error, float(crps(e, t).u), error * float(spread_skill(e, t).u)]
    return found


def measure(network: str, label: str, method: object, number: int, seed: int) -> dict[str, list[float]]:
    """Scores of one method on one truth, by stage, each with the CPU seconds."""
    torch.set_num_threads(1)
    system = xsda.systems.Lorenz96()
    truth = system.simulate(STATES, seed=1000 * (seed + 1) + number)
    obs = observed(truth, network, 100 * (seed + 1) + number)
    derived = SQUARE if network == "moving" else None
    plan = plan_windows(STATES, STATES, WINDOW, 0, overlap())
    last = np.array([w.settled - 1 for w in plan if w.settled > SPIN])
    began = time.process_time()
    if method is None:
        run = truth.sda.reanalyse(
            obs, "lorenz96", window=WINDOW, lag=int(label.split()[-1]), overlap=overlap(), members=DRAWN, seed=number,
            derived=derived, sampler=SAMPLER, progress=False,
        )  # fmt: skip
        return {label: [*scores(run, truth, last), time.process_time() - began]}
    noise = np.random.default_rng(number).standard_normal((MEMBERS, truth.sizes["x"]))
    initial = (truth.isel(time=0) + xr.DataArray(noise, dims=("member", "x"))).transpose("member", "x")
    smooths = "smoothed" in method.stages
    keep = ["analysis", "smoothed"] if smooths else "analysis"
    out = truth.sda.filter(
        obs, system, method=method, initial=initial, keep=keep, derived=derived, seed=number, progress=False
    )
    seconds = time.process_time() - began
    stages = {k: out.sel(stage=k, drop=True) for k in keep} if smooths else {"analysis": out}
    return {f"{label}, {k}": [*scores(v, truth, last), seconds] for k, v in stages.items()}


def overlap() -> int:
    return xsda.load_model("lorenz96").window // 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--truths", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0, help="of the truths; tune on another")
    parser.add_argument("--network", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument(
        "--tune", action="store_true", help="scores of many settings of the filters, on three other truths"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes")
    add_options(parser, "filters_with_history")
    a = parser.parse_args()
    seed, truths = (7, 3) if a.tune else (a.seed, a.truths)
    rows: list[dict[str, object]] = []
    with ProcessPoolExecutor(a.workers, get_context("spawn")) as pool:
        for network in a.network:
            chosen = {"xsda, lag 16": None, "xsda, lag 0": None, **FILTERS[network]}
            for label, method in (tuning(network) if a.tune else chosen).items():
                jobs = [pool.submit(measure, network, label, method, i, seed) for i in range(truths)]
                try:
                    found = [job.result() for job in jobs]
                except xsda.baselines.ForecastError:
                    print(f"{network}: {label} diverged", flush=True)
                    continue
                for stage in found[0]:
                    row = {"network": network, "method": stage} | pooled(np.array([f[stage] for f in found]))
                    print({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}, flush=True)
                    rows.append(row)
    if not a.tune:
        columns = {k: ("1", ".2f" if k.startswith("spread") else ".3f") for k in (*COLUMNS, "crps_2se", "seconds")}
        record(
            a.name, rows, folder=a.results, seed=a.seed, columns={"network": "", "method": "", **columns, "seconds": ("s", ".3g")},
            question="Is a reanalysis without the model as good as filters that know it and have a long history?",
        )  # fmt: skip


def pooled(table: np.ndarray) -> dict[str, float]:
    """Root mean squares over truths, means of the CRPS and of the CPU seconds."""
    error, spread = np.sqrt((table[:, [0, 3]] ** 2).mean(0)), np.sqrt((table[:, [2, 5]] ** 2).mean(0))
    mean, ratio = table.mean(0), spread / error
    numbers = (error[0], mean[1], ratio[0], error[1], mean[4], ratio[1])
    half = 2 * table[:, 1].std(ddof=1) / np.sqrt(len(table)) if len(table) > 1 else 0.0
    return dict(zip(COLUMNS, map(float, numbers), strict=True)) | {"crps_2se": float(half), "seconds": float(mean[-1])}


if __name__ == "__main__":
    main()
