"""Posterior of a Gaussian prior, through the public API, against the closed form.

    python examples/benchmarks/gaussian_exactness.py [--members 2000]

A rotating AR(1) of 32 states and two components, observed in five ways, eight truths each; relative error of the
ensemble mean (root of summed squares over the truths), ratio of total variance, evaluations of the denoiser. The floor
is the error of the mean of as many exact samples.
"""

import argparse

import numpy as np
import xarray as xr

import xsda
from xsda.diffusion.samplers import DDIM, DPMpp2M, DPMpp2MSDE, PredictorCorrector
from xsda.guidance import MMPS, Calibrated, GaussianScore

LENGTH, A, ANGLE, TRUTHS = 32, 0.9, 0.3, 8
METHODS = {
    "default": {},
    "mmps, 16 steps": {"guidance": MMPS(), "sampler": DPMpp2M(steps=16)},
    "mmps, SDE 32": {"guidance": MMPS(), "sampler": DPMpp2MSDE(steps=32)},
    "mmps, DDIM 64": {"guidance": MMPS(), "sampler": DDIM(steps=64)},
    "calibrated, 32 steps": {"guidance": Calibrated(), "sampler": DPMpp2M(steps=32)},
    "calibrated, 2 corrections": {"guidance": Calibrated(), "sampler": DPMpp2M(steps=32, corrections=2)},
    "sda gamma 1e-2, 256 steps": {"guidance": GaussianScore(), "sampler": PredictorCorrector()},
}


def covariance() -> np.ndarray:
    turn = A * np.array([[np.cos(ANGLE), -np.sin(ANGLE)], [np.sin(ANGLE), np.cos(ANGLE)]])
    cov = np.zeros((2, LENGTH, 2, LENGTH))
    for i in range(LENGTH):
        for j in range(i + 1):
            cov[:, i, :, j] = np.linalg.matrix_power(turn, i - j)
            cov[:, j, :, i] = cov[:, i, :, j].T
    return cov.reshape(2 * LENGTH, 2 * LENGTH)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=2000)
    members = parser.parse_args().members
    zeros = ("time", np.zeros(LENGTH))
    grid = xr.Dataset({"u": zeros, "v": zeros}, {"time": np.arange(float(LENGTH))})
    cov = covariance()
    prior = xsda.GaussianPrior(grid, cov)
    blocks = grid.coarsen(time=4).mean()
    for v in blocks.data_vars:
        blocks[v].attrs["cell_methods"] = "time: mean"
    late = xr.DataArray(np.arange(10) * 3 + 0.37, dims="time")
    cases = {
        "every 4th step, one component, sigma 0.1": (grid.isel(time=slice(None, None, 4))[["u"]], 0.1),
        "everywhere, sigma 0.01": (grid, 0.01),
        "every second component, sigma 0.3": (grid[["u"]], 0.3),
        "block means of 4 steps, sigma 0.1": (blocks, 0.1),
        "off-grid times, sigma 0.1": (grid[["u"]].interp(time=late), 0.1),
    }
    truths = prior.sample(grid, members=TRUTHS, seed=7, progress=False)
    names = ("u", "v")
    basis = xr.Dataset(
        {v: (("member", "time"), np.eye(2 * LENGTH)[:, LENGTH * i :][:, :LENGTH]) for i, v in enumerate(names)},
        grid.coords,
    )
    for case, (like, sigma) in cases.items():
        seen = basis.sda.observe(like)
        rows = np.concatenate([seen[v].values for v in seen.data_vars], axis=1).T
        gain = cov @ rows.T @ np.linalg.inv(rows @ cov @ rows.T + sigma**2 * np.eye(len(rows)))
        total = np.trace(cov - gain @ rows @ cov)
        observed = [truths.isel(member=i, drop=True).sda.observe(like, sigma=sigma, seed=i) for i in range(TRUTHS)]
        means = [gain @ np.concatenate([obs[v].values for v in obs.data_vars]) for obs in observed]
        size = np.sqrt(sum(m @ m for m in means))
        print(f"{case}; floor {np.sqrt(TRUTHS * total / members) / size:.4f}")
        for name, options in METHODS.items():
            error, variance = 0.0, 0.0
            for i, (obs, mean) in enumerate(zip(observed, means, strict=True)):
                post = grid.sda.assimilate(obs, prior, members=members, seed=i, progress=False, **options)
                x = np.concatenate([post[v].values for v in names], axis=1).astype(float)
                error += ((x.mean(0) - mean) ** 2).sum()
                variance += x.var(0, ddof=1).sum() / TRUTHS
            print(
                f"  {name:<28} mean {np.sqrt(error) / size:.4f}   variance {variance / total:.3f}   "
                f"evaluations {post.attrs['denoiser_evaluations']}",
                flush=True,
            )


if __name__ == "__main__":
    main()
