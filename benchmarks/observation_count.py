"""What happens when the number of observations changes: a field of 2.5 million numbers, observed ever more densely.

    python benchmarks/observation_count.py [--strides 16 8 4 2] [--small] [--figure counts.png]

A separable Gaussian trajectory of 32 x 199 x 399 numbers (the size of the cylinder-wake problem) with variance one,
observed at every 2nd, 4th, 8th and 16th point in both directions, at all times, with error 0.1. Its posterior mean and
total variance are known. Per method: std((H x - y) / sigma) of the samples (1 is right), relative error of the posterior
mean, ratio of total variance. All methods are affine here (with bounded corrections, nearly), so that a member and its mirror image (the same noise with the
other sign) average to the method's posterior mean: no sampling error is left in it.
"""

import argparse
import time

import numpy as np
import torch
import xarray as xr
from record import add_options, record
from torch import Tensor

import xsda
from xsda.diffusion.noise import MemberNoise
from xsda.diffusion.samplers import DPMpp2MSDE, NonFiniteSampleError, Sampler
from xsda.guidance import MMPS, Calibrated, GaussianScore, Guidance, Scaling
from xsda.likelihood import Likelihood
from xsda.observations import compile_observations
from xsda.sampling.choose import default_sampler

SIGMA = 0.1


AS_NETWORKS = "calibrated, as fields of networks are sampled"  # 24 steps, stochastic, with corrections


def methods(reference: int) -> dict[str, Guidance]:
    """``reference``: the number of observations at which gamma would have been tuned, and the scalings change nothing."""
    return {
        "default (mmps)": MMPS(),
        "calibrated": Calibrated(),
        AS_NETWORKS: Calibrated(),
        "gamma 1e-2, sum": GaussianScore(gamma=1e-2),
        "gamma 1e-2, mean": GaussianScore(gamma=1e-2, scaling=Scaling(rule="mean")),
        "gamma 1e-2, std scaling": GaussianScore(gamma=1e-2, scaling=Scaling(rule="std", reference=reference)),
        "gamma 1e-2, dual scaling": GaussianScore(gamma=1e-2, scaling=Scaling(rule="dual", reference=reference)),
        "gamma 1e-2, adaptive, xi 1": GaussianScore(gamma=1e-2, scaling=Scaling(rule="adaptive", xi=1.0)),
    }


def matern(n: int, length: float) -> np.ndarray:
    """Matern 3/2 correlation, between a rough and a smooth field."""
    d = np.sqrt(3) * np.abs(np.subtract.outer(np.arange(n), np.arange(n))) / length
    return (1 + d) * np.exp(-d)


def along(x: np.ndarray, *matrices: np.ndarray) -> np.ndarray:
    """A matrix along each axis."""
    for axis, m in enumerate(matrices):
        x = np.moveaxis(np.tensordot(m, x, (1, axis)), 0, axis)
    return x


def exact(covs: list[np.ndarray], stride: int, y: np.ndarray) -> tuple[np.ndarray, float]:
    """Posterior mean and total variance: the observed covariance is separable as well."""
    cross = [covs[0], covs[1][:, ::stride], covs[2][:, ::stride]]  # Cov(x, Hx), axis by axis
    seen = [covs[0], covs[1][::stride, ::stride], covs[2][::stride, ::stride]]
    values, vectors = zip(*(np.linalg.eigh(c) for c in seen), strict=True)
    total = values[0][:, None, None] * values[1][:, None] * values[2] + SIGMA**2
    mean = along(along(y, *(v.T for v in vectors)) / total, *(c @ v for c, v in zip(cross, vectors, strict=True)))
    gains = [((c @ v) ** 2).sum(0) for c, v in zip(cross, vectors, strict=True)]
    explained = (gains[0][:, None, None] * gains[1][:, None] * gains[2] / total).sum()
    return mean, float(np.prod([np.trace(c) for c in covs]) - explained)


def mirrored(
    guidance: Guidance, prior: xsda.Prior, likelihood: Likelihood, shape: tuple[int, ...], sampler: Sampler, pairs: int
) -> tuple[Tensor, float]:
    """Members and their mirror images (member, ...), one after the other to save memory; products per evaluation."""
    members, products = [], 0
    for k in range(pairs):
        for sign in (1, -1):
            guided = guidance.guide(prior.denoiser, likelihood, prior.error)
            noise = MemberNoise(0, [k], shape)
            members.append(sampler.sample(guided, lambda: sign * noise()))  # noqa: B023
            products += getattr(guided, "products", 0)
    return torch.cat(members), products / len(members) / sampler.evaluations


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strides", nargs="+", type=int, default=[16, 8, 4, 2])
    parser.add_argument("--methods", nargs="+", default=list(methods(1)), help=f"among {list(methods(1))}")
    parser.add_argument("--pairs", type=int, default=1, help="pairs of a member and its mirror image")
    parser.add_argument("--small", action="store_true", help="8 x 50 x 100 numbers, for trying things")
    parser.add_argument("--figure", help="draw std((H x - y) / sigma) by number of observations there")
    add_options(parser, "observation_count")
    a = parser.parse_args()
    sizes = (8, 50, 100) if a.small else (32, 199, 399)
    covs = [
        np.exp(-np.abs(np.subtract.outer(np.arange(sizes[0]), np.arange(sizes[0]))) / 8),
        *(matern(n, 12.0) for n in sizes[1:]),
    ]
    zeros = xr.Dataset(
        {"u": (("time", "y", "x"), np.zeros(sizes, np.float32))},
        {d: np.arange(float(n)) for d, n in zip(("time", "y", "x"), sizes, strict=True)},
    )
    prior = xsda.GaussianPrior.separable(zeros, *covs)
    sampler = default_sampler(prior, guided=True)
    rng = np.random.default_rng(0)
    truth = zeros.assign(u=zeros.u.copy(data=along(rng.standard_normal(sizes), *(np.linalg.cholesky(c) for c in covs))))
    print(f"{zeros.u.size:,} numbers, error {SIGMA}, {sampler}, {prior.schedule}")
    residuals: dict[str, list[tuple[int, float]]] = {m: [] for m in a.methods}
    rows: list[dict[str, object]] = []
    for stride in a.strides:
        every = slice(None, None, stride)
        obs = truth.sda.observe(truth.isel(y=every, x=every), sigma=SIGMA, seed=1)
        mean, total = exact(covs, stride, obs.u.values.astype(float))
        grid = prior.bind(truth)
        likelihood = compile_observations(grid, obs)
        count = likelihood.y.numel()
        print(f"every {stride}: {count:,} observations; exact total variance {total / truth.u.size:.4f} of the prior's")
        for name in a.methods:
            start = time.perf_counter()
            guidance = methods(int(np.ceil(sizes[0] * np.prod([-(-n // max(a.strides)) for n in sizes[1:]]))))[name]
            try:
                how = DPMpp2MSDE(steps=24, grid="centered", corrections=1, tau=0.5) if name == AS_NETWORKS else sampler
                x, products = mirrored(guidance, prior, likelihood, grid.shape, how, a.pairs)
            except NonFiniteSampleError:
                print(f"  {name:<28} not finite", flush=True)
                residuals[name].append((count, np.inf))
                continue
            seconds = (time.perf_counter() - start) / len(x)
            residual = float(((likelihood.operator(x) - likelihood.y) / likelihood.std).std())
            x = x.numpy()[:, :, 0] * prior.layout.std[0] + prior.layout.mean[0]
            center = x.mean(0)
            half = (x[::2] - x[1::2]) / 2  # what the noise makes of a member
            variance = (half.astype(float) ** 2).sum() / len(half)
            residuals[name].append((count, residual))
            row = {"method": name, "stride": stride, "observations": count, "residual": residual,
                   "mean_error": float(np.linalg.norm(center - mean) / np.linalg.norm(mean)),
                   "variance_ratio": variance / total, "products": products, "seconds": seconds}  # fmt: skip
            rows.append({k: v for k, v in row.items() if isinstance(v, str) or np.isfinite(v)})
            print(f"  {name:<28} std of residuals {residual:9.3g}   mean off by {np.linalg.norm(center - mean) / np.linalg.norm(mean):9.3g}"
                  f"   variance ratio {variance / total:9.3g}   products {products:.1f}   {seconds:.0f} s a member", flush=True)  # fmt: skip
    formats = {"stride": ".0f", "observations": ",.0f", "residual": ".3g", "mean_error": ".3g",
               "variance_ratio": ".3g", "products": ".1f", "seconds": ".0f"}  # fmt: skip
    units = {"stride": "points", "seconds": "s"}
    record(
        a.name, rows, folder=a.results, seed=0,
        question="Does a guidance still work when there are many more observations?",
        columns={"method": "", **{k: (units.get(k, "1"), f) for k, f in formats.items()}},
    )  # fmt: skip
    if a.figure:
        draw(residuals, a.figure)


def draw(residuals: dict[str, list[tuple[int, float]]], path: str) -> None:
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(6.5, 4), layout="constrained")
    for name, points in residuals.items():
        counts, values = np.array(points).T
        ax.loglog(counts, np.clip(values, 1e-2, 1e3), "o-", label=name, lw=2.5 if "default" in name else 1)
    ax.axhspan(0.9, 1.1, color="0.9", zorder=0)
    ax.set(xlabel="number of observations", ylabel="std of (H x - y) / sigma (at most 1000 shown)")
    ax.legend(fontsize=7)
    fig.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
