"""Unconditional samples of the embedded Lorenz-63 prior against the system itself.

    python examples/benchmarks/lorenz63_unconditional.py [--members 512] [--length 65]

Mean and covariance of the invariant measure, and the mean log transition density of whole trajectories; true
trajectories of 65 states have 81.70 (every transition contributes -log(2 pi e 0.025) / 2 per number).
"""

import argparse
import time

import numpy as np

import xsda
from xsda.diffusion.samplers import DDIM, DPMpp2M, DPMpp2MSDE

METHODS = {
    "default": "auto",
    "ODE, 32 steps": DPMpp2M(steps=32),
    "ODE, 64 steps": DPMpp2M(steps=64),
    "SDE, 64 steps": DPMpp2MSDE(steps=64),
    "SDE, 64 steps, centered": DPMpp2MSDE(steps=64, grid="centered"),
    "SDE, 128 steps": DPMpp2MSDE(steps=128),
    "ancestral, 128 steps": DDIM(steps=128, eta=1.0),
    "ODE, 32 steps, 2 corrections": DPMpp2M(steps=32, corrections=2),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=512)
    parser.add_argument("--length", type=int, default=65)
    parser.add_argument("--methods", nargs="+", default=["default"], help=f"'all', or among {list(METHODS)}")
    parser.add_argument("--model", default="lorenz63")
    a = parser.parse_args()
    system = xsda.systems.Lorenz63()
    model = xsda.load_model(a.model)
    truth = system.simulate(2000, 500, seed=20).to_array("variable").transpose("variable", ...).values.reshape(3, -1)
    mean, cov = truth.mean(1), np.cov(truth)
    exact = -(a.length - 1) * 3 * 0.5 * np.log(2 * np.pi * np.e * system.noise**2)
    like = system.simulate(a.length, seed=0)
    print(f"exact log transition density {exact:.2f}")
    for name in METHODS if a.methods == ["all"] else a.methods:
        start = time.perf_counter()
        post = model.sample(like, members=a.members, sampler=METHODS[name], seed=1, progress=False)
        seconds = time.perf_counter() - start
        x = post.to_array("variable").transpose("variable", ...).values.reshape(3, -1)
        density = system.transition_log_prob(post)
        # the mean against the spread of the measure, the covariance in the Frobenius norm
        shift = np.linalg.norm((x.mean(1) - mean) / np.sqrt(np.diag(cov))) / np.sqrt(3)
        relative = np.linalg.norm(x.mean(1) - mean) / np.linalg.norm(mean)
        spread = np.linalg.norm(np.cov(x) - cov) / np.linalg.norm(cov)
        print(
            f"{name:<30} mean off by {relative:.3f} (in standard deviations {shift:.3f})  covariance off by {spread:.3f}  "
            f"log transition density {float(density.mean()):.2f} (median {float(density.median()):.2f})  {seconds:.1f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
