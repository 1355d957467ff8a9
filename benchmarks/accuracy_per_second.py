"""What a second of CPU time buys: scores of the embedded priors under observations, by system and sampler.

    OMP_NUM_THREADS=1 python benchmarks/accuracy_per_second.py
    OMP_NUM_THREADS=1 python benchmarks/accuracy_per_second.py --methods recipe default --system kolmogorov --truths 2

``lorenz63``: 65 states, x at every eighth state with error 0.4. ``dense`` and ``sparse``: Lorenz-96, 41 states, every second
point of every state or every fourth point of every fourth state, error 1.5. ``every 4th`` and ``every 8th``: turbulence, 8
states, u and v at such points with error 0.1. The truths have seeds of their own and were used for nothing else (those
from 500 to 607 were seen in earlier versions). "default" draws with a quick sampler first where this is as good
(``xsda.sampling.choose``), "careful" with a correction in each step from the start. "noise" has the quick sampler alone,
with fewer steps for turbulence. "recipe" is that of the SDA paper, 256 steps with a correction each. Run it before a
release, and compare with the last one.
"""

import argparse
import time
import warnings

import numpy as np
import torch
import xarray as xr
from record import add_options, record

import xsda
from xsda.diffusion.samplers import DPMpp2MSDE, PredictorCorrector
from xsda.guidance import GaussianScore
from xsda.metrics import crps, rmse, spread_skill
from xsda.sampling.choose import default_sampler
from xsda.systems import KolmogorovFlow, Lorenz63, Lorenz96

CASES = {  # system, states, members, thinning in time and space, error
    "lorenz63": (Lorenz63(), 65, 64, 8, 1, 0.4),
    "dense": (Lorenz96(), 41, 16, 1, 2, 1.5),
    "sparse": (Lorenz96(), 41, 16, 4, 4, 1.5),
    "every 4th": (KolmogorovFlow(), 8, 4, 1, 4, 0.1),
    "every 8th": (KolmogorovFlow(), 8, 4, 1, 8, 0.1),
}
PRIORS = {Lorenz63: "lorenz63", Lorenz96: "lorenz96", KolmogorovFlow: "kolmogorov"}
METHODS = ("default", "careful", "noise", "recipe")


def options(method: str, prior: xsda.Prior) -> dict[str, object]:
    if method == "careful":
        return {"sampler": default_sampler(prior, guided=True)}
    if method == "noise":
        steps, high = (16, None) if len(prior.layout.space) == 2 else (32, 10.0)
        low = {"lorenz63": 0.002, "lorenz96": 0.02, "kolmogorov": 0.01}[prior.name]
        return {"sampler": DPMpp2MSDE(steps=steps, grid="centered", high=high, low=low, eta=4)}
    if method == "recipe":
        sampler = PredictorCorrector(steps=256, corrections=1, tau=0.5 if len(prior.layout.space) == 2 else 0.25)
        return {"sampler": sampler, "guidance": GaussianScore(gamma=0.03), "redraw": 0}
    return {}


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
    parser.add_argument("--methods", nargs="+", default=["default", "careful"], choices=METHODS)
    parser.add_argument("--truths", type=int, default=8)
    parser.add_argument("--seed", type=int, default=700, help="of the truths")
    add_options(parser, "accuracy_per_second")
    a = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
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
                post = truth.sda.assimilate(
                    obs, prior, members=members, seed=a.seed + i, progress=False, **options(method, prior)
                )
                seconds = (time.process_time() - began) / members
                scores = [
                    np.mean([float(f(post, truth)[v]) for v in system.variables]) for f in (crps, rmse, spread_skill)
                ]
                first = post.attrs.get("quick_evaluations", post.attrs["denoiser_evaluations"])
                found[method].append([*scores, seconds, first])
        for method, values in found.items():
            table = np.array(values)
            error_ = np.sqrt((table[:, 1] ** 2).mean())
            row = {
                "case": name, "method": method, "truths": a.truths, "members": members, "crps": table[:, 0].mean(),
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


if __name__ == "__main__":
    main()
