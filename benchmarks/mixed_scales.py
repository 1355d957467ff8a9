"""Variables of very different size and precision under a Gaussian prior: is the posterior exact in each of them?

    python benchmarks/mixed_scales.py [--members 2000] [--truths 2]

For each variable: total variance over that of the exact posterior; mean squared error of the ensemble mean in units of
what as many exact samples are expected to have (1 is perfect); W2 of all variables together, each in units of its
posterior spread, over that of exact samples; products with the Jacobian for each evaluation.
"""

import argparse

import numpy as np
import xarray as xr
from guidance_exactness import w2
from record import add_options, record

import xsda
from xsda.diffusion.noise import MemberNoise
from xsda.diffusion.samplers import DPMpp2M
from xsda.guidance import MMPS
from xsda.observations import compile_observations

N = 24


def rotating(a: float = 0.9, angle: float = 0.3) -> np.ndarray:
    turn = a * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    cov = np.zeros((2, N, 2, N))
    for i in range(N):
        for j in range(i + 1):
            cov[:, i, :, j] = np.linalg.matrix_power(turn, i - j)
            cov[:, j, :, i] = cov[:, i, :, j].T
    return cov.reshape(2 * N, 2 * N)


def coupled() -> np.ndarray:
    lag = np.abs(np.subtract.outer(np.arange(N), np.arange(N)))
    return np.kron(np.array([[1, 0.6, 0.3], [0.6, 1, 0.5], [0.3, 0.5, 1]]), np.exp(-lag / 6))


CASES = {  # covariance; standard deviations, means, errors; every which state is observed
    "two variables, 8 and 300": (rotating(), [8.0, 300.0], [280.0, 1e4], [1.0, 1.0], 1),
    "three variables over six decades": (coupled(), [1e-3, 1.0, 1e3], [0.0, 5.0, 1e5], [1e-4, 0.01, 1e3], 2),
    "errors of .003 standard deviations": (rotating(), [1.0, 1.0], [0.0, 0.0], [0.003, 0.003], 1),
    "equal variables, errors of .3": (rotating(), [1.0, 1.0], [0.0, 0.0], [0.3, 0.3], 1),
}


def run(name: str, members: int, truths: int) -> list[dict[str, object]]:
    base, std, mean, sigma, every = CASES[name]
    names = [f"v{i}" for i in range(len(std))]
    scale = np.repeat(std, N)
    cov = base * np.outer(scale, scale)
    columns = {v: ("time", np.full(N, m)) for v, m in zip(names, mean, strict=True)}
    grid = xr.Dataset(columns, {"time": np.arange(float(N))})
    prior = xsda.GaussianPrior(grid, cov)
    errors = dict(zip(names, sigma, strict=True))
    seen = np.concatenate([i * N + np.arange(N)[::every] for i in range(len(std))])
    h = np.eye(len(cov))[seen]
    r = np.diag(np.repeat(sigma, len(seen) // len(std)) ** 2.0)
    gain = cov @ h.T @ np.linalg.inv(h @ cov @ h.T + r)
    exact = cov - gain @ h @ cov
    spread = np.sqrt(np.diag(exact))
    found = []
    for k in range(truths):
        truth = xsda.sample(grid, prior, members=1, seed=7 + k, progress=False).isel(member=0, drop=True)
        obs = truth.sda.observe(truth.isel(time=slice(None, None, every)), sigma=errors, seed=k)
        bound = prior.bind(grid)
        guided = MMPS().guide(prior.denoiser, compile_observations(bound, obs, errors), prior.error)
        sampler = DPMpp2M(steps=32)
        values = sampler.sample(guided, MemberNoise(2 + k, range(members), bound.shape)).double().numpy()
        post = bound.to_dataset(values, {"member": xr.DataArray(np.arange(members), dims="member")})
        x = np.concatenate([post[v] - m for v, m in zip(names, mean, strict=True)], axis=1) / spread
        center = gain @ np.concatenate([obs[v] - m for v, m in zip(names, mean, strict=True)]) / spread
        law = exact / np.outer(spread, spread)
        floor = w2(np.random.default_rng(1).multivariate_normal(center, law, members), center, law)
        parts = [slice(i * N, (i + 1) * N) for i in range(len(std))]
        found.append({
            "variance": [x[:, p].var(0, ddof=1).mean() for p in parts],
            "mean": [members * ((x[:, p].mean(0) - center[p]) ** 2).mean() for p in parts],
            "w2": w2(x, center, law) / floor, "products": guided.products / sampler.evaluations,
        })  # fmt: skip
    return [
        {
            "case": name, "variable": v, "variance_ratio": np.mean([f["variance"][i] for f in found]),
            "mean_error": np.mean([f["mean"][i] for f in found]), "w2_over_floor": np.mean([f["w2"] for f in found]),
            "products": np.mean([f["products"] for f in found]),
        }
        for i, v in enumerate(names)
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=2000)
    parser.add_argument("--truths", type=int, default=2)
    add_options(parser, "mixed_scales")
    a = parser.parse_args()
    rows = [row for name in CASES for row in run(name, a.members, a.truths)]
    for row in rows:
        print("  ".join(f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()))
    record(
        a.name, rows, folder=a.results, seed=7,
        question="Is the posterior exact for variables of very different size and precision?",
        columns={"case": "", "variable": "", "variance_ratio": ("1", ".3f"), "mean_error": ("1", ".1f"),
                 "w2_over_floor": ("1", ".2f"), "products": ("1", ".2f")},
    )  # fmt: skip


if __name__ == "__main__":
    main()
