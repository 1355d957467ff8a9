"""Lorenz-63 posterior against a bootstrap particle filter (the two set-ups of arXiv 2306.10574).

    python benchmarks/lorenz63_posterior.py [--setup lo hi] [--series 8] [--samples 512]

65 states; standardised x is observed every eighth step with error 0.05 ("lo") or at every step with error 0.25 ("hi").
For each series two filters of 65,536 particles with independent randomness give the posterior and the floor: the earth
mover's distance between their samples, which an exact sampler would score as well. Trajectories are compared in
physical units, as 195 numbers. Also printed: the mean log transition density of the samples (log-prior, to be compared with
that of the filter's) and the mean log-likelihood of the standardised observations (14.19 and -2.12 are expected).
"""

import argparse
import time

import numpy as np
import torch
from record import add_options, record
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

import xsda
from xsda.diffusion.samplers import TDS, DPMpp2MSDE, NonFiniteSampleError, PredictorCorrector
from xsda.guidance import DPS, MMPS, TMPD, GaussianScore, PiGDM, Projection, Proximal
from xsda.systems import Lorenz63

SETUPS = {"lo": (8, 0.05), "hi": (1, 0.25)}
LENGTH, SCALE = 65, 8.0
SYSTEM = Lorenz63()
METHODS = {
    "default": {},
    "quick": {"sampler": DPMpp2MSDE(steps=32, grid="centered", eta=4, high=10)},
    "default, redraw 0": {"redraw": 0},
    "default, 32 steps": {"steps": 32},
    "default, 64 steps": {"steps": 64},
    "no correction": {"sampler": DPMpp2MSDE(steps=48, grid="centered")},
    "no correction, redraw 0": {"sampler": DPMpp2MSDE(steps=48, grid="centered"), "redraw": 0},
    "tds 32": {"sampler": TDS(steps=32)},
    "tds 64": {"sampler": TDS(steps=64)},
    **{
        f"paper, gamma {gamma:g}, C={c}": {
            "guidance": GaussianScore(gamma=gamma),
            "sampler": PredictorCorrector(steps=256, corrections=c, tau=0.25),
            "redraw": 0,
        }
        for gamma in (1e-2, 3e-2)
        for c in (0, 1, 2, 4, 8, 16)
    },
    "mmps": {"guidance": MMPS(iterations=6)},
    "mmps, gmres": {"guidance": MMPS(iterations=6, solver="gmres")},
    "tmpd": {"guidance": TMPD()},
    "pigdm": {"guidance": PiGDM()},
    "dps": {"guidance": DPS()},
    "projection": {"guidance": Projection()},
    "proximal": {"guidance": Proximal()},
}


def particle_filter(y: np.ndarray, every: int, std: float, pool: torch.Tensor, count: int, seed: int) -> torch.Tensor:
    """``count`` trajectories (count, time, 3) from a bootstrap filter whose particles start from ``pool``."""
    generator = torch.Generator().manual_seed(seed)
    x = pool[torch.randint(len(pool), (len(pool),), generator=generator)]
    states, parents = [], []
    for k in range(LENGTH):
        if k:
            x = SYSTEM.transition(x, generator)
        index = torch.arange(len(x))
        if k % every == 0:
            weight = (-((x[:, 0] / SCALE - y[k // every]) / std).square() / 2).softmax(0)
            points = (torch.arange(len(x)) + torch.rand((), generator=generator, dtype=torch.float64)) / len(x)
            index = torch.searchsorted(weight.cumsum(0), points).clamp(max=len(x) - 1)
            x = x[index]
        states.append(x)
        parents.append(index)
    which = torch.randint(len(x), (count,), generator=generator)
    path = []
    for k in range(LENGTH - 1, -1, -1):
        path.append(states[k][which])
        which = parents[k][which]
    return torch.stack(path[::-1], 1)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Earth mover's distance between equally many samples."""
    cost = cdist(a.reshape(len(a), -1), b.reshape(len(b), -1))
    return float(cost[linear_sum_assignment(cost)].mean())


def log_prior(x: torch.Tensor) -> float:
    residual = (x[:, 1:] - SYSTEM.step(x)[:, :-1]) / SYSTEM.noise
    return float((-residual.square() / 2 - np.log(SYSTEM.noise) - np.log(2 * np.pi) / 2).sum((1, 2)).mean())


def log_likelihood(x: torch.Tensor, y: np.ndarray, every: int, std: float) -> float:
    z = (x[:, ::every, 0].numpy() / SCALE - y) / std
    return float((-(z**2) / 2 - np.log(std) - np.log(2 * np.pi) / 2).sum(1).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setup", nargs="+", default=["lo", "hi"], choices=SETUPS)
    parser.add_argument("--series", type=int, default=16)
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--particles", type=int, default=2**16)
    parser.add_argument("--methods", nargs="+", default=["default"], help=f"'all', or among {list(METHODS)}")
    parser.add_argument("--seed", type=int, default=10, help="of the truths, the particles and the observations")
    parser.add_argument("--model", default="lorenz63")
    add_options(parser, "lorenz63_posterior")
    a = parser.parse_args()
    table: list[dict[str, object]] = []
    evaluations: dict[str, int] = {}
    methods = METHODS if a.methods == ["all"] else {m: METHODS[m] for m in a.methods}
    model = xsda.load_model(a.model)
    truths = SYSTEM.simulate(LENGTH, a.series, seed=a.seed)
    pool = SYSTEM.to_tensor(SYSTEM.simulate(1, a.particles, seed=a.seed + 1))[:, 0]
    for setup in a.setup:
        every, std = SETUPS[setup]
        results: dict[str, list[tuple[float, ...]]] = {m: [] for m in ("filter", *methods)}
        print(f"{setup}: series of seed {a.seed}, {a.samples} samples")
        for i in range(a.series):
            truth = truths.isel(member=i, drop=True)
            like = truth.isel(time=slice(None, None, every))[["x"]]
            obs = truth.sda.observe(like, sigma=std * SCALE, seed=10 * a.seed + i)
            y = obs["x"].values / SCALE
            first, second = (particle_filter(y, every, std, pool, a.samples, s) for s in (2 * i, 2 * i + 1))
            results["filter"].append(
                (distance(first.numpy(), second.numpy()), log_prior(first), log_likelihood(first, y, every, std), 0.0)
            )
            for name, options in methods.items():
                start = time.perf_counter()
                try:
                    post = truth.sda.assimilate(obs, model, members=a.samples, seed=i, progress=False, **options)
                except NonFiniteSampleError:
                    results[name].append((np.inf, -np.inf, -np.inf, np.nan))
                    continue
                seconds = time.perf_counter() - start
                evaluations[name] = int(post.attrs["denoiser_evaluations"])
                x = SYSTEM.to_tensor(post)
                both = [distance(x.numpy(), f.numpy()) for f in (first, second)]
                results[name].append((sum(both) / 2, log_prior(x), log_likelihood(x, y, every, std), seconds))
            latest = ", ".join(f"{m} {r[-1][0]:.2f}" for m, r in results.items())
            print(f"  series {i}: {latest}", flush=True)
        floor = np.array(results["filter"])[:, 0]
        for name, rows in results.items():
            w1, prior, likelihood, seconds = np.array(rows).T
            print(
                f"  {name:<28} W1 mean {w1.mean():6.2f} median {np.median(w1):6.2f}  ratio {w1.mean() / floor.mean():.3f} "
                f"(medians {np.median(w1) / np.median(floor):.3f})  log-prior {prior.mean():8.2f}  "
                f"log-likelihood {likelihood.mean():7.2f}  {seconds.mean():.1f} s",
                flush=True,
            )
            row = {"setup": setup, "samples": a.samples, "series": a.series, "method": name, "w1": w1.mean(),
                   "w1_each": ", ".join(f"{w:.3g}" for w in w1), "ratio": w1.mean() / floor.mean(),
                   "ratio_medians": np.median(w1) / np.median(floor), "log_prior": prior.mean(),
                   "log_likelihood": likelihood.mean(), "evaluations": evaluations.get(name, np.nan)}  # fmt: skip
            if name in methods and "default" in methods:
                row["time_ratio"] = seconds.mean() / np.array(results["default"])[:, 3].mean()
            table.append({k: v for k, v in row.items() if isinstance(v, str) or np.isfinite(v)})
    formats = {"samples": ",.0f", "series": ".0f", "evaluations": ",.0f", "w1": ".2f", "ratio": ".3f",
               "ratio_medians": ".3f", "log_prior": ".1f", "log_likelihood": ".2f", "time_ratio": ".1f"}  # fmt: skip
    record(
        a.name, table, folder=a.results, seed=a.seed,
        question="How close is the posterior of Lorenz-63 to a particle filter?",
        columns={"setup": "", "method": "", "w1_each": "", **{k: ("1", f) for k, f in formats.items()}},
    )  # fmt: skip


if __name__ == "__main__":
    main()
