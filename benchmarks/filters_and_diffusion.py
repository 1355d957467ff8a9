"""The diffusion posterior beside filters, smoothers and 4D-Var on Lorenz-96: the same truth, observations and labels.

    python benchmarks/filters_and_diffusion.py [--truths 8] [--figure comparison.png]

Two networks: "dense", every second point at every step (Bocquet 2010, m=40), and "sparse", every fourth point at every fourth
step; error 1.5. Filters cycle through 140 steps and start close to the truth (error 1); the diffusion prior sees only the last 40 of them,
with no first guess, and gives all of them at once. Scored as smoother: all states of the last 41. Scored as filter: the last state, when no
later observation helps anybody. 40 members each. Inflation (and localization) were chosen on truths of another seed (--tune).
"""

import argparse
import time

import numpy as np
import torch
import xarray as xr
from record import add_options, record

import xsda
from xsda import plot
from xsda.baselines import LETKF, FourDVar, IEnKS
from xsda.metrics import crps, rmse, spread_skill

SPIN, WINDOW, MEMBERS, SIGMA = 100, 41, 40, 1.5
NETWORKS = {"dense": (2, 1), "sparse": (4, 4)}  # every so-many-th point, every so-many-th step


def methods(network: str, climate: xr.Dataset) -> dict[str, object]:
    if network == "dense":
        return {
            "LETKF": LETKF(localization=7.0, inflation=1.03, rotate=True),
            "iEnKS": IEnKS(lag=8, inflation=1.01),
            "4D-Var": FourDVar(climatology=climate, scale=0.005, lag=8),
        }
    return {
        "LETKF": LETKF(localization=4.0, inflation=1.01, rotate=True),
        "iEnKS": IEnKS(lag=1, inflation=1.03),
        "4D-Var": FourDVar(climatology=climate, scale=0.1, lag=2),
    }


def tuning(network: str, climate: xr.Dataset) -> dict[str, object]:
    infl = (1.01, 1.03, 1.06)
    lags = (2, 4, 8) if network == "dense" else (1, 2, 4)
    return {
        **{f"LETKF {r} {i}": LETKF(localization=r, inflation=i, rotate=True) for r in (4.0, 7.0) for i in infl},
        **{f"iEnKS {k} {i}": IEnKS(lag=k, inflation=i) for k in lags for i in infl},
        **{
            f"4D-Var {k} {s}": FourDVar(climatology=climate, scale=s, lag=k)
            for k in lags[1:]
            for s in (0.005, 0.02, 0.1)
        },
    }


def observed(truth: xr.Dataset, network: str, seed: int) -> xr.Dataset:
    points, steps = NETWORKS[network]
    first = (truth.sizes["time"] - 1) % steps  # so that the last state is observed
    like = truth.isel(time=slice(first or steps, None, steps), x=slice(None, None, points))
    return truth.sda.observe(like, sigma=SIGMA, seed=seed)


def run(method: object, truth: xr.Dataset, obs: xr.Dataset, system: object, seed: int) -> dict[str, xr.Dataset]:
    """The last states of a filter's run, as filter ("analysis") and as smoother."""
    smooths = "smoothed" in method.stages
    keep = ["analysis", "smoothed"] if smooths else "analysis"
    noise = np.random.default_rng(seed).standard_normal((MEMBERS, truth.sizes["x"]))
    initial = (truth.isel(time=0) + xr.DataArray(noise, dims=("member", "x"))).transpose("member", "x")
    out = truth.sda.filter(
        obs, system, method=method, initial=initial, keep=keep, seed=seed, progress=False
    ).isel(time=slice(-WINDOW, None))  # fmt: skip
    if not smooths:
        return {"analysis": out, "smoothed": out}
    return {k: out.sel(stage=k, drop=True) for k in keep}


def diffusion(truth: xr.Dataset, obs: xr.Dataset, model: xsda.Prior, seed: int) -> dict[str, xr.Dataset]:
    last = truth.isel(time=slice(-WINDOW, None))
    seen = obs.sel(time=slice(float(last.time[0]) - 1e-6, None))
    post = last.sda.assimilate(seen, model, members=MEMBERS, seed=seed, progress=False)
    return {"analysis": post, "smoothed": post}


def described(label: str, method: object) -> str:
    """The name of a method with the settings that were chosen."""
    names = {"localization": "length", "lag": "lag", "inflation": "infl", "scale": "scale"}
    return ", ".join(
        [
            label,
            *(f"{names[k]} {getattr(method, k):g}" for k in names if isinstance(getattr(method, k, None), int | float)),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--truths", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0, help="of the truths; tune on another")
    parser.add_argument("--network", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument(
        "--tune", action="store_true", help="scores of many settings instead, without the diffusion prior"
    )
    parser.add_argument("--figure", help="error over time of the last network and truth is drawn there")
    add_options(parser, "filters_and_diffusion")
    a = parser.parse_args()
    rows: list[dict[str, object]] = []
    torch.set_num_threads(1)
    system, model = xsda.systems.Lorenz96(), xsda.load_model("lorenz96")
    climate = system.simulate(5000, every=10, seed=99)
    truths = [system.simulate(SPIN + WINDOW, seed=1000 * (a.seed + 1) + i) for i in range(a.truths)]
    for network in a.network:
        chosen = tuning(network, climate) if a.tune else {"SDA": None, **methods(network, climate)}
        print(f"\n{network}: {a.truths} truths\n")
        print(
            "| | RMSE | CRPS | spread/skill | RMSE, last | CRPS, last | spread/skill, last | seconds |\n|---|---|---|---|---|---|---|---|"
        )
        shown: dict[str, xr.Dataset] = {}
        for label, method in chosen.items():
            scores, seconds = [], 0.0
            for i, truth in enumerate(truths):
                obs = observed(truth, network, 100 + i)
                start = time.perf_counter()
                try:
                    got = diffusion(truth, obs, model, i) if method is None else run(method, truth, obs, system, i)
                except xsda.baselines.ForecastError:
                    print(f"| {label} | diverged at truth {i} |", flush=True)
                    break
                seconds += time.perf_counter() - start
                pairs = (
                    (got["smoothed"], truth.isel(time=slice(-WINDOW, None))),
                    (got["analysis"].isel(time=[-1]), truth.isel(time=[-1])),
                )
                scores.append([float(f(e, t).u) for e, t in pairs for f in (rmse, crps, spread_skill)])
                shown[label] = got["smoothed"]
            else:
                table = np.array(scores)
                # pooled: root mean squares, and spread over error of all truths together
                error, spread = table[:, [0, 3]], table[:, [0, 3]] * table[:, [2, 5]]
                pooled = np.sqrt((error**2).mean(0))
                ratio = np.sqrt((spread**2).mean(0)) / pooled
                crps_ = table[:, [1, 4]].mean(0)
                half = (
                    2 * table[:, [0, 3]].std(0, ddof=1) / np.sqrt(len(table)) if len(table) > 1 else np.full(2, np.nan)
                )
                print(
                    f"| {label} | {pooled[0]:.3f} ± {half[0]:.3f} | {crps_[0]:.3f} | {ratio[0]:.2f} | "
                    f"{pooled[1]:.3f} ± {half[1]:.3f} | {crps_[1]:.3f} | {ratio[1]:.2f} | {seconds / len(table):.1f} |",
                    flush=True,
                )
                row = (
                    {"network": network, "method": label if method is None else described(label, method),
                     "rmse": pooled[0], "rmse_2se": half[0], "crps": crps_[0], "spread_skill": ratio[0],
                     "rmse_last": pooled[1], "rmse_last_2se": half[1], "crps_last": crps_[1],
                     "spread_skill_last": ratio[1], "seconds": seconds / len(table)}
                )  # fmt: skip
                rows.append(
                    {k: v for k, v in row.items() if isinstance(v, str) or np.isfinite(v)}
                )  # one truth has no range
    columns = dict.fromkeys(
        ("rmse", "rmse_2se", "crps", "spread_skill", "rmse_last", "rmse_last_2se", "crps_last"), ("1", ".3f")
    )
    columns |= {"spread_skill": ("1", ".2f"), "spread_skill_last": ("1", ".2f"), "seconds": ("s", ".3g")}
    if not a.tune:
        record(
            a.name, rows, folder=a.results, seed=a.seed, columns={"network": "", "method": "", **columns},
            question="Is a diffusion posterior better than a filter, a smoother or 4D-Var on Lorenz-96?",
        )  # fmt: skip
    if a.figure:
        last = truths[-1].isel(time=slice(-WINDOW, None))
        plot.error_over_time(shown, last, title=f"Lorenz-96, {a.network[-1]} network").savefig(a.figure, dpi=120)


if __name__ == "__main__":
    main()
