"""Every guidance method with every sampler on linear-Gaussian trajectories, where the posterior is exact.

    python benchmarks/guidance_exactness.py [--members 3000] [--truths 2]

A rotating AR(1) of 32 states and two components (64 numbers), observed in six ways. For each combination: relative error
of the ensemble mean, ratio of total variance, Gaussian 2-Wasserstein distance W2 to the exact posterior as a multiple of
the floor (what as many exact samples score), evaluations of the denoiser and products with its Jacobian per evaluation.
"""

import argparse
import time

import numpy as np
import pandas as pd
import xarray as xr
from record import add_options, record

import xsda
from xsda.diffusion.noise import MemberNoise
from xsda.diffusion.samplers import DDIM, TDS, DPMpp2M, DPMpp2MSDE, NonFiniteSampleError, PredictorCorrector, Sampler
from xsda.guidance import DPS, MMPS, TMPD, Calibrated, GaussianScore, Guidance, PiGDM, Projection, Proximal
from xsda.observations import compile_observations

LENGTH, A, ANGLE = 32, 0.9, 0.3
METHODS: dict[str, Guidance] = {
    "mmps": MMPS(),
    "mmps, gmres": MMPS(solver="gmres"),
    "calibrated": Calibrated(),
    "tmpd": TMPD(),
    "pigdm": PiGDM(),
    "sda, gamma 1e-2": GaussianScore(gamma=1e-2),
    "sda, gamma 1e-1": GaussianScore(gamma=1e-1),
    "sda, gamma 1, detached": GaussianScore(gamma=1.0, detach=True),
    "dps, zeta 1": DPS(),
    "projection": Projection(),
    "proximal": Proximal(),
}
SAMPLERS: dict[str, Sampler] = {
    "PC 256+256": PredictorCorrector(steps=256),
    "DDIM 64": DDIM(steps=64),
    "2M 16": DPMpp2M(steps=16),
    "2M 32": DPMpp2M(steps=32),
    "2M-SDE 32": DPMpp2MSDE(steps=32),
}
EXTRA: dict[str, tuple[Guidance, Sampler]] = {
    "calibrated, 2M 32 + 2 corrections": (Calibrated(), DPMpp2M(steps=32, corrections=2)),
    "projection, DDIM 64, resampled 4 times": (Projection(), DDIM(steps=64, eta=1.0, resampling=4)),
    "calibrated, as networks are sampled": (
        Calibrated(),
        DPMpp2MSDE(steps=48, grid="centered", corrections=1, tau=0.5),
    ),
    "calibrated, as fields of networks are sampled": (
        Calibrated(),
        DPMpp2MSDE(steps=24, grid="centered", corrections=1, tau=0.5),
    ),
    "calibrated, TDS 64, 500 particles": (Calibrated(), TDS(steps=64, particles=500)),
}


def covariance() -> np.ndarray:
    turn = A * np.array([[np.cos(ANGLE), -np.sin(ANGLE)], [np.sin(ANGLE), np.cos(ANGLE)]])
    cov = np.zeros((2, LENGTH, 2, LENGTH))
    for i in range(LENGTH):
        for j in range(i + 1):
            cov[:, i, :, j] = np.linalg.matrix_power(turn, i - j)
            cov[:, j, :, i] = cov[:, i, :, j].T
    return cov.reshape(2 * LENGTH, 2 * LENGTH)


def scenarios(grid: xr.Dataset) -> dict[str, tuple[xr.Dataset, float, dict[str, object]]]:
    """Where observed, with which error, and how errors are correlated."""
    blocks = grid.coarsen(time=4).mean()
    for v in blocks.data_vars:
        blocks[v].attrs["cell_methods"] = "time: mean"
    fourth = slice(None, None, 4)
    return {
        "sparse": (grid[["u"]].isel(time=fourth), 0.1, {}),
        "dense": (grid, 0.3, {}),
        "low noise": (grid.isel(time=fourth), 0.01, {}),
        "every second": (grid[["u"]], 0.3, {}),
        "block mean": (blocks, 0.1, {}),
        "correlated R": (grid[["u"]], 0.3, {"u": {"time": 4.0}}),
    }


def root(a: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(a)
    return (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T


def w2(x: np.ndarray, mean: np.ndarray, cov: np.ndarray) -> float:
    """Gaussian W2 of samples to N(mean, cov)."""
    half = root(cov)
    sample = np.cov(x.T)
    bures = np.trace(cov) + np.trace(sample) - 2 * np.trace(root(half @ sample @ half))
    return float(np.sqrt(((x.mean(0) - mean) ** 2).sum() + max(bures, 0)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=3000)
    parser.add_argument("--truths", type=int, default=2)
    parser.add_argument("--match", default="", help="only methods whose names begin so")
    add_options(parser, "exactness")
    a = parser.parse_args()
    zeros = ("time", np.zeros(LENGTH))
    ds = xr.Dataset({"u": zeros, "v": zeros}, {"time": np.arange(float(LENGTH))})
    cov = covariance()
    prior = xsda.GaussianPrior(ds, cov)
    truths = ds.sda.sample(prior, members=a.truths, seed=7, progress=False)
    basis = xr.Dataset(
        {v: (("member", "time"), part) for v, part in zip("uv", np.split(np.eye(64), 2, 1), strict=True)}, ds.coords
    )
    combinations = {f"{m}, {s}": (METHODS[m], SAMPLERS[s]) for m in METHODS for s in SAMPLERS} | EXTRA
    combinations = {k: v for k, v in combinations.items() if k.startswith(a.match)}
    rows = []
    for scenario, (like, sigma, correlation) in scenarios(ds).items():
        seen = basis.sda.observe(like)
        h = np.concatenate([seen[v].values for v in seen.data_vars], axis=1).T
        r = np.eye(len(h))
        if correlation:
            lag = np.abs(np.subtract.outer(np.arange(LENGTH), np.arange(LENGTH)))
            r = np.exp(-lag / correlation["u"]["time"])
        r = sigma**2 * r
        gain = cov @ h.T @ np.linalg.inv(h @ cov @ h.T + r)
        exact = cov - gain @ h @ cov
        rng = np.random.default_rng(5)
        for k in range(a.truths):
            truth = truths.isel(member=k, drop=True)
            clean = truth.sda.observe(like)
            noise = np.linalg.cholesky(r) @ rng.standard_normal(len(h))
            parts = np.split(noise, len(clean.data_vars))
            obs = clean.assign({v: clean[v] + e for v, e in zip(clean.data_vars, parts, strict=True)})
            for v in obs.data_vars:
                obs[v].attrs = clean[v].attrs
            mean = gain @ np.concatenate([obs[v].values for v in obs.data_vars])
            floor = w2(rng.multivariate_normal(mean, exact, a.members), mean, exact)
            grid = prior.bind(truth)
            likelihood = compile_observations(grid, obs, sigma, correlation=correlation)
            for name, (method, sampler) in combinations.items():
                guided = method.guide(prior.denoiser, likelihood, prior.error)
                start = time.perf_counter()
                row = {
                    "scenario": scenario,
                    "method": name,
                    "truth": k,
                    "floor": floor,
                    "evaluations": sampler.evaluations,
                }
                try:
                    draw = MemberNoise(100 + k, range(a.members), grid.shape)
                    post = grid.to_dataset(
                        sampler.sample(guided, draw).numpy(), {"member": xr.Variable("member", np.arange(a.members))}
                    )
                    x = np.concatenate([post[v].values for v in "uv"], axis=1).astype(float)
                    row |= {"mean error": np.linalg.norm(x.mean(0) - mean) / np.linalg.norm(mean),
                            "variance ratio": np.cov(x.T).trace() / np.trace(exact), "W2": w2(x, mean, exact)}  # fmt: skip
                except NonFiniteSampleError:
                    row |= {"mean error": np.inf, "variance ratio": np.inf, "W2": np.inf}
                row |= {"W2 / floor": row["W2"] / floor, "limit": 1.1 * floor + 0.02 * np.sqrt(np.trace(exact)),
                        "products": getattr(guided, "products", 0) / sampler.evaluations, "seconds": time.perf_counter() - start}  # fmt: skip
                rows.append(row)
        table = pd.DataFrame(rows).query("scenario == @scenario").groupby("method", sort=False).mean(numeric_only=True)
        print(f"\n{scenario}: floor {table['floor'].iloc[0]:.4f}, limit of mmps {table['limit'].iloc[0]:.4f}")
        print(table.drop(columns=["truth", "floor", "limit"]).to_string(float_format=lambda v: f"{v:.4g}"), flush=True)
    means = pd.DataFrame(rows).groupby(["scenario", "method"], sort=False).mean(numeric_only=True).reset_index()
    formats = {"floor": ".3f", "evaluations": ",.0f", "mean_error": ".3f", "variance_ratio": ".3g", "w2": ".3f",
               "w2_over_floor": ".2f", "limit": ".3f", "products": ".1f"}  # fmt: skip
    table = []
    for row in means.rename(columns={"W2 / floor": "w2_over_floor"}).to_dict("records"):
        guidance = max((g for g in METHODS if row["method"].startswith(f"{g}, ")), key=len)
        values = {k.lower().replace(" ", "_"): v for k, v in row.items() if not isinstance(v, str)}
        finite = {k: v for k, v in values.items() if k in formats and np.isfinite(v)}
        table.append(
            {"scenario": row["scenario"], "guidance": guidance, "sampler": row["method"][len(guidance) + 2 :], **finite}
        )
    record(
        a.name, table, folder=a.results, seed=7,
        question="How far from the exact posterior is each guidance with each sampler?",
        columns={"scenario": "", "guidance": "", "sampler": "", **{k: ("1", f) for k, f in formats.items()}},
    )  # fmt: skip


if __name__ == "__main__":
    main()
