"""Lorenz-63 posterior against a bootstrap particle filter (the two set-ups of arXiv 2306.10574).

    python examples/benchmarks/lorenz63_posterior.py [--setup lo hi] [--series 8] [--samples 512]

65 states; standardised x is observed every eighth step with error 0.05 ("lo") or at every step with error 0.25 ("hi").
For each series two filters of 65,536 particles with independent randomness give the posterior and the floor: the earth
mover's distance between their samples, which an exact sampler would score as well. Trajectories are compared in
physical units, as 195 numbers. Also printed: the mean log transition density of samples minus that of the filter's.
"""

import argparse
import time

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

import xsda
from xsda.diffusion.samplers import DPMpp2M, DPMpp2MSDE, PredictorCorrector
from xsda.guidance import MMPS, Calibrated, GaussianScore
from xsda.systems import Lorenz63

SETUPS = {"lo": (8, 0.05), "hi": (1, 0.25)}
LENGTH, SCALE = 65, 8.0
SYSTEM = Lorenz63()
METHODS = {
    "default": {},
    "default, 32 steps": {"steps": 32},
    "default, 128 steps": {"steps": 128},
    "paper's recipe": {"guidance": GaussianScore(gamma=1e-2), "sampler": PredictorCorrector(steps=256, corrections=1, tau=0.25)},
    "no correction": {"sampler": DPMpp2MSDE(steps=64, grid="centered")},
    "no correction, 128 steps": {"sampler": DPMpp2MSDE(steps=128, grid="centered")},
    "no limit": {"guidance": Calibrated(limit=1e9)},
    "ODE 32, 2 corrections": {"sampler": DPMpp2M(steps=32, grid="centered", corrections=2)},
    "gamma 1e-2": {"guidance": GaussianScore(gamma=1e-2)},
    "mmps": {"guidance": MMPS()},
}  # fmt: skip


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setup", nargs="+", default=["lo", "hi"], choices=SETUPS)
    parser.add_argument("--series", type=int, default=8)
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--particles", type=int, default=2**16)
    parser.add_argument("--methods", nargs="+", default=["default"], help=f"'all', or among {list(METHODS)}")
    parser.add_argument("--seed", type=int, default=10, help="of the truths, the particles and the observations")
    parser.add_argument("--model", default="lorenz63")
    a = parser.parse_args()
    methods = METHODS if a.methods == ["all"] else {m: METHODS[m] for m in a.methods}
    model = xsda.load_model(a.model)
    truths = SYSTEM.simulate(LENGTH, a.series, seed=a.seed)
    pool = SYSTEM.to_tensor(SYSTEM.simulate(1, a.particles, seed=a.seed + 1))[:, 0]
    for setup in a.setup:
        every, std = SETUPS[setup]
        results: dict[str, list[tuple[float, float, float]]] = {m: [] for m in ("filter", *methods)}
        for i in range(a.series):
            truth = truths.isel(member=i, drop=True)
            obs = truth.sda.observe(
                truth.isel(time=slice(None, None, every))[["x"]], sigma=std * SCALE, seed=10 * a.seed + i
            )
            y = obs["x"].values / SCALE
            first, second = (particle_filter(y, every, std, pool, a.samples, s) for s in (2 * i, 2 * i + 1))
            results["filter"].append((distance(first.numpy(), second.numpy()), 0.0, 0.0))
            for name, options in methods.items():
                start = time.perf_counter()
                post = truth.sda.assimilate(obs, model, members=a.samples, seed=i, progress=False, **options)
                seconds = time.perf_counter() - start
                x = SYSTEM.to_tensor(post)
                both = [distance(x.numpy(), f.numpy()) for f in (first, second)]
                gap = log_prior(x) - (log_prior(first) + log_prior(second)) / 2
                results[name].append((sum(both) / 2, gap, seconds))
        floor = np.array(results["filter"])[:, 0]
        print(
            f"{setup}: {a.series} series, {a.samples} samples; floor (filter against filter) mean {floor.mean():.2f}, median {np.median(floor):.2f}"
        )
        for name in methods:
            w1, gap, seconds = np.array(results[name]).T
            print(
                f"  {name:<34} W1 mean {w1.mean():6.2f} median {np.median(w1):6.2f}  ratio {w1.mean() / floor.mean():.3f} "
                f"(medians {np.median(w1) / np.median(floor):.3f})  log-prior gap {gap.mean():+7.1f}  {seconds.mean():.1f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
