"""Unconditional samples of the embedded Lorenz-63 prior against the system itself.

    python benchmarks/lorenz63_unconditional.py [--members 512] [--length 65 256]

Mean and covariance of the invariant measure, and the mean log transition density of whole trajectories; true
trajectories of 65 states have 81.70 (every transition contributes -log(2 pi e 0.025) / 2 per number).
"""

import argparse
import time

import numpy as np
from record import add_options, record

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
    parser.add_argument("--length", type=int, nargs="+", default=[65])
    parser.add_argument("--methods", nargs="+", default=["default"], help=f"'all', or among {list(METHODS)}")
    parser.add_argument("--model", default="lorenz63")
    add_options(parser, "lorenz63_free")
    a = parser.parse_args()
    system = xsda.systems.Lorenz63()
    model = xsda.load_model(a.model)
    truth = system.simulate(2000, 500, seed=20).to_array("variable").transpose("variable", ...).values.reshape(3, -1)
    mean, cov = truth.mean(1), np.cov(truth)
    table = []
    for length in a.length:
        exact = -(length - 1) * 3 * 0.5 * np.log(2 * np.pi * np.e * system.noise**2)
        like = system.simulate(length, seed=0)
        print(f"{length} states, exact log transition density {exact:.2f}")
        for name in METHODS if a.methods == ["all"] else a.methods:
            start = time.perf_counter()
            post = like.sda.sample(model, members=a.members, sampler=METHODS[name], seed=1, progress=False)
            seconds = time.perf_counter() - start
            x = post.to_array("variable").transpose("variable", ...).values.reshape(3, -1)
            density = system.transition_log_prob(post)
            # the mean against the spread of the measure, the covariance in the Frobenius norm
            shift = np.linalg.norm((x.mean(1) - mean) / np.sqrt(np.diag(cov))) / np.sqrt(3)
            relative = np.linalg.norm(x.mean(1) - mean) / np.linalg.norm(mean)
            spread = np.linalg.norm(np.cov(x) - cov) / np.linalg.norm(cov)
            print(
                f"{name:<30} mean off by {relative:.3f} (in standard deviations {shift:.3f})  covariance off by "
                f"{spread:.3f}  log transition density {float(density.mean()):.2f} "
                f"(median {float(density.median()):.2f})  {seconds:.1f} s",
                flush=True,
            )
            row = {"states": length, "method": name, "mean_off": 100 * relative, "covariance_off": 100 * spread}
            table.append(row | {"log_density": float(density.mean()), "log_density_true": exact})
    record(
        a.name, table, folder=a.results, seed=1,
        question="Do free samples of the embedded Lorenz-63 prior have the climate and the dynamics of the system?",
        columns={"states": ("1", ".0f"), "method": "", "mean_off": ("%", ".1f"), "covariance_off": ("%", ".1f"),
                 "log_density": ("1", ".1f"), "log_density_true": ("1", ".1f")},
    )  # fmt: skip


if __name__ == "__main__":
    main()
