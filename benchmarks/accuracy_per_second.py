"""What a second of CPU time buys: scores of the embedded priors under observations, by system and sampler.

    OMP_NUM_THREADS=1 python benchmarks/accuracy_per_second.py
    OMP_NUM_THREADS=1 python benchmarks/accuracy_per_second.py --methods all --truths 2 --figure accuracy.png

``lorenz63``: 65 states, x at every eighth state with error 0.4. ``dense`` and ``sparse``: Lorenz-96, 41 states, every second
point of every state or every fourth point of every fourth state, error 1.5. ``every 4th`` and ``every 8th``: turbulence, 8
states, u and v at such points with error 0.1. The truths have seeds of their own and were used for nothing else (those
from 500 to 607 were seen in earlier versions). "default" draws with a quick sampler first where this is as good
(``xsda.sampling.choose``), "careful" with a correction in each step from the start. "noise" has the quick sampler alone,
with fewer steps for turbulence. "recipe 256" is that of the SDA paper, 256 steps with a correction each, and "mmps" is MMPS
(Rozet et al. 2024, arXiv 2405.13712) in 64 steps. "filter" is the LETKF (Lorenz-63: ETKF) with the simulator itself, which
starts from the climate, as the priors do; its settings were chosen on other truths. Run it before a release, and compare
with the last one.
"""

import argparse
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from record import add_options, record

import xsda
from xsda import flow
from xsda.baselines import ETKF, LETKF
from xsda.diffusion.samplers import DPMpp2MSDE, PredictorCorrector
from xsda.guidance import GaussianScore
from xsda.metrics import crps, rmse, spread_skill
from xsda.sampling.choose import default_sampler
from xsda.systems import KolmogorovFlow, Lorenz63, Lorenz96

sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "kolmogorov"))
from common import COARSE, climate, with_cells

CASES = {  # system, states, members, thinning in time and space, error
    "lorenz63": (Lorenz63(), 65, 64, 8, 1, 0.4),
    "dense": (Lorenz96(), 41, 16, 1, 2, 1.5),
    "sparse": (Lorenz96(), 41, 16, 4, 4, 1.5),
    "every 4th": (KolmogorovFlow(), 8, 4, 1, 4, 0.1),
    "every 8th": (KolmogorovFlow(), 8, 4, 1, 8, 0.1),
}
PRIORS = {Lorenz63: "lorenz63", Lorenz96: "lorenz96", KolmogorovFlow: "kolmogorov"}
RECIPES = tuple(f"recipe {steps}" for steps in (32, 64, 128, 256))
METHODS = ("default", "noise", "mmps", *RECIPES, "filter", "careful")
FILTERS = {  # and their members
    "lorenz63": (ETKF(inflation=1.02), 64),
    "dense": (LETKF(localization=7.0, inflation=1.03, rotate=True), 40),
    "sparse": (LETKF(localization=4.0, inflation=1.01, rotate=True), 40),
    "every 4th": (LETKF(localization=0.5, inflation=1.05), 32),
    "every 8th": (LETKF(localization=0.5, inflation=1.3), 32),
}


def options(method: str, prior: xsda.Prior) -> dict[str, object]:
    if method == "careful":
        return {"sampler": default_sampler(prior, guided=True)}
    if method == "noise":
        steps, high = (16, None) if len(prior.layout.space) == 2 else (32, 10.0)
        low = {"lorenz63": 0.002, "lorenz96": 0.02, "kolmogorov": 0.01}[prior.name]
        return {"sampler": DPMpp2MSDE(steps=steps, grid="centered", high=high, low=low, eta=4)}
    if method == "mmps":
        return {"guidance": "mmps", "steps": 64, "redraw": 0}
    if method in RECIPES:
        tau = 0.5 if len(prior.layout.space) == 2 else 0.25
        sampler = PredictorCorrector(steps=int(method.split()[1]), corrections=1, tau=tau)
        return {"sampler": sampler, "guidance": GaussianScore(gamma=0.03), "redraw": 0}
    return {}


def filtered(case: str, truth: xr.Dataset, obs: xr.Dataset, cache: Path) -> xr.Dataset:
    """The run of a filter. The simulator of turbulence runs at full resolution."""
    system, method, members = CASES[case][0], *FILTERS[case]
    how = {"method": method, "members": members, "sigma": CASES[case][-1], "progress": False}
    if not isinstance(system, KolmogorovFlow):
        start = system.simulate(members, every=50, seed=10).rename(time="member").drop_vars("member")
        return truth.sda.filter(obs, system, initial=start, **how)
    fine = climate(cache, members)
    grid = fine.isel(member=0, drop=True).expand_dims(time=truth.time)
    run = grid.sda.filter(with_cells(obs, truth), system, initial=fine, **how)
    return flow.coarsen(run[["u", "v"]], COARSE).drop_vars(["x_bounds", "y_bounds"]).assign_coords(y=truth.y, x=truth.x)


def observed(truth: xr.Dataset, system: object, every: int, thinning: int, error: float, seed: int) -> xr.Dataset:
    if isinstance(system, Lorenz63):
        like = truth[["x"]].isel(time=slice(None, None, every))
    else:
        space = {d: slice(None, None, thinning) for d in ("y", "x") if d in truth.dims}
        like = truth[list(system.variables)].isel(time=slice(every - 1, None, every), **space)
    return truth.sda.observe(like, sigma=error, seed=seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--system", nargs="+", default=list(CASES), choices=[*CASES, "kolmogorov"])
    parser.add_argument("--methods", nargs="+", default=["default", "careful"], choices=[*METHODS, "all"])
    parser.add_argument("--truths", type=int, default=8)
    parser.add_argument("--seed", type=int, default=700, help="of the truths")
    parser.add_argument(
        "--cache", type=Path, default=Path("kolmogorov-cache"), help="where filters of turbulence start"
    )
    parser.add_argument("--figure", type=Path, help="draw CRPS over seconds there")
    add_options(parser, "accuracy_per_second")
    a = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    a.methods = list(METHODS) if "all" in a.methods else a.methods
    if "filter" in a.methods and {"every 4th", "every 8th", "kolmogorov"} & {*a.system}:
        climate(a.cache, FILTERS["every 4th"][1])  # before the clock runs
    chosen = [c for n in a.system for c in (("every 4th", "every 8th") if n == "kolmogorov" else (n,))]
    rows: list[dict[str, object]] = []
    made: dict[tuple[type, int], xr.Dataset] = {}
    for name in chosen:
        system, states, members, every, thinning, error = CASES[name]
        prior = xsda.load_model(PRIORS[type(system)])
        found: dict[str, list[list[float]]] = {m: [] for m in a.methods}
        for i in range(a.truths):
            coarse = {"coarsen": 4} if isinstance(system, KolmogorovFlow) else {}
            key = type(system), i
            if key not in made:
                made[key] = system.simulate(states, seed=a.seed + i, **coarse)
            truth = made[key]
            obs = observed(truth, system, every, thinning, error, a.seed + i)
            for method in a.methods:
                began = time.process_time()
                if method == "filter":
                    post = filtered(name, truth, obs, a.cache)
                else:
                    plain = method == "mmps" or method in RECIPES  # the balance is for our sampler
                    post = truth.sda.assimilate(
                        obs, prior.unbalanced() if plain else prior, members=members, seed=a.seed + i, progress=False,
                        **options(method, prior),
                    )  # fmt: skip
                seconds = (time.process_time() - began) / post.sizes["member"]
                scores = [
                    np.mean([float(f(post, truth)[v]) for v in system.variables]) for f in (crps, rmse, spread_skill)
                ]
                evaluations = post.attrs.get("quick_evaluations", post.attrs.get("denoiser_evaluations", 0))
                found[method].append([*scores, seconds, evaluations, post.sizes["member"]])
        for method, values in found.items():
            table = np.array(values)
            error_ = np.sqrt((table[:, 1] ** 2).mean())
            row = {
                "case": name, "method": method, "truths": a.truths, "members": table[0, 5],
                "crps": table[:, 0].mean(),
                "crps_ratio": table[:, 0].mean() / np.mean([v[0] for v in found[a.methods[-1]]]),
                "rmse": error_, "spread_skill": np.sqrt(((table[:, 1] * table[:, 2]) ** 2).mean()) / error_,
                "evaluations": table[0, 4], "seconds": table[:, 3].mean(),
                "time_ratio": np.mean([v[3] for v in found[a.methods[-1]]]) / table[:, 3].mean(),
            }  # fmt: skip
            rows.append({k: v if isinstance(v, str) else float(v) for k, v in row.items()})
            print({k: v if isinstance(v, str) else round(v, 4) for k, v in rows[-1].items()}, flush=True)
    formats = {"truths": ".0f", "members": ".0f", "crps": ".3g", "crps_ratio": ".2f", "rmse": ".3g",
               "spread_skill": ".2f", "evaluations": ".0f", "time_ratio": ".1f"}  # fmt: skip
    record(
        a.name, rows, folder=a.results, seed=a.seed, question="What does a second of CPU time buy?",
        columns={"case": "", "method": "", **{k: ("1", f) for k, f in formats.items()}, "seconds": ("s", ".3g")},
        compared_with=a.methods[-1],
    )  # fmt: skip
    if a.figure:
        draw(rows, a.figure)


def draw(rows: list[dict[str, object]], path: Path) -> None:
    """CRPS over the CPU time of a member, one panel for each case."""
    import matplotlib.pyplot as plt

    cases = list(dict.fromkeys(r["case"] for r in rows))
    fig, axes = plt.subplots(1, len(cases), figsize=(3.2 * len(cases) + 2.6, 3.4), layout="constrained", squeeze=False)
    marks = {"default": ("*", "C3"), "careful": ("o", "C1"), "noise": ("^", "C0"), "mmps": ("s", "C4")}
    for ax, case in zip(axes[0], cases, strict=True):
        here = {r["method"]: (r["seconds"], r["crps"]) for r in rows if r["case"] == case}
        recipe = [(m.split()[1], here[m]) for m in RECIPES if m in here]
        if recipe:
            ax.plot(
                *zip(*(v for _, v in recipe), strict=True), "v-", color="0.4", label="paper's recipe, 32 to 256 steps"
            )
        for method, (mark, colour) in marks.items():
            if method in here:
                ax.plot(*here[method], mark, color=colour, ms=13 if mark == "*" else 7, label=method)
        if "filter" in here:
            crps_ = here["filter"][1]
            ax.axhline(crps_, ls="--", color="C2", label="filter")
        ax.set(xscale="log", yscale="log", title=case, xlabel="CPU seconds a member")
        for ticks in (ax.yaxis.set_major_formatter, ax.yaxis.set_minor_formatter, ax.xaxis.set_major_formatter):
            ticks("{x:g}")
    axes[0, 0].set_ylabel("CRPS")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    fig.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
