"""Is the spread right? Simulation-based calibration of the default on Lorenz-63 and Lorenz-96.

    python benchmarks/calibration.py [--system lorenz63 lorenz96] [--truth prior system] [--truths 64]

Truths are drawn, observed and assimilated, each with 19 members. Drawn from the prior itself ("prior"), they leave only
the error of guidance and sampler; drawn from the system ("system"), they add that of the training. Per variable: chi-square
test of the rank histogram of one randomly chosen number per truth (10 bins), coverage of the central 50 % and 90 %
intervals of the order statistics (exact for 19 members), spread over skill, error of the mean and fair CRPS, over all
numbers. Ranges are two standard errors, from the spread over the truths.

A mean of squares lives on few of its numbers, so that spread over skill is not near one by itself where ensembles have
members far out. If members and truth are drawn alike, though, any of the 20 may be called the truth: "exchanged" are the
central 95 % of the ratio when one of them, chosen by chance for each truth, is.
"""

import argparse
import time

import numpy as np
import xarray as xr
from record import add_options, record
from scipy.stats import chisquare

import xsda
from xsda.diffusion.samplers import TDS, DPMpp2MSDE
from xsda.guidance import MMPS
from xsda.metrics import crps

MEMBERS, BINS = 19, 10
DRAWN = DPMpp2MSDE(steps=128, corrections=2, tau=0.1)  # truths of the prior: corrected, as the posterior's members are


def lorenz63(ds: xr.Dataset) -> xr.Dataset:
    """x at every fourth of 65 states."""
    return ds[["x"]].isel(time=slice(None, None, 4))


def lorenz96(ds: xr.Dataset) -> xr.Dataset:
    """Every second site at every second of 12 states."""
    (site,) = (d for d in ds.sizes if d != "time")
    return ds.isel({"time": slice(None, None, 2), site: slice(None, None, 2)})


CASES = {"lorenz63": (xsda.systems.Lorenz63, 65, lorenz63, 2.0), "lorenz96": (xsda.systems.Lorenz96, 12, lorenz96, 1.0)}

METHODS = {
    "default": {},
    "64 steps": {"steps": 64},
    "128 steps": {"steps": 128},
    "2 corrections": {"sampler": DPMpp2MSDE(steps=48, grid="centered", corrections=2, tau=0.5)},
    "tds": {"sampler": TDS(steps=64, particles=20)},
    "mmps": {"guidance": MMPS(iterations=6)},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--system", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--truth", nargs="+", default=["prior", "system"], choices=("prior", "system"))
    parser.add_argument("--truths", type=int, default=64)
    parser.add_argument("--method", default="default", choices=METHODS)
    parser.add_argument("--figure", help="draw the rank histograms there")
    add_options(parser, "calibration")
    a = parser.parse_args()
    histograms, rows = {}, []
    for name in a.system:
        make, length, like, sigma = CASES[name]
        system, model = make(), xsda.load_model(name)
        for kind in a.truth:
            start = time.perf_counter()
            truths = system.simulate(length, a.truths, seed=70)
            if kind == "prior":
                truths = truths.isel(member=0, drop=True).sda.sample(
                    model, members=a.truths, sampler=DRAWN, seed=71, progress=False
                )
            rng = np.random.default_rng(72)
            inside50, inside90, ratios = ({v: [] for v in truths.data_vars} for _ in range(3))
            picked, scores = ({v: [] for v in truths.data_vars} for _ in range(2))
            for i in range(a.truths):
                truth = truths.isel(member=i, drop=True)
                obs = truth.sda.observe(like(truth), sigma=sigma, seed=1000 + i)
                post = truth.sda.assimilate(obs, model, members=MEMBERS, seed=i, progress=False, **METHODS[a.method])
                fair = crps(post, truth)
                for v in truths.data_vars:
                    x, t = post[v].values.reshape(MEMBERS, -1), truth[v].values.ravel()
                    rank = (x < t).sum(0)
                    picked[v].append(int(rng.choice(rank)))
                    inside50[v].append(((rank >= 5) & (rank <= 14)).mean())
                    inside90[v].append(((rank >= 1) & (rank <= 18)).mean())
                    ratios[v].append(exchanged(np.concatenate([t[None], x])))
                    scores[v].append(float(fair[v]))
            print(
                f"{name}, truths of the {kind}: {a.truths} truths, {MEMBERS} members, {time.perf_counter() - start:.0f} s"
            )
            for v in truths.data_vars:
                counts = np.bincount(np.array(picked[v]) // 2, minlength=BINS)
                histograms[f"{name} {v}, {kind}"] = counts
                variance, error = np.moveaxis(ratios[v], -1, 0)  # (truth, who is called the truth)
                ratio = np.sqrt(variance[:, 0].mean() / error[:, 0].mean())
                spread = ratio * np.std(error[:, 0]) / np.mean(error[:, 0]) / np.sqrt(a.truths)
                called = np.arange(a.truths), rng.integers(MEMBERS + 1, size=(10_000, a.truths))
                low, high = np.quantile(np.sqrt(variance[called].mean(1) / error[called].mean(1)), (0.025, 0.975))
                shares = [(np.mean(c[v]), 2 * np.std(c[v]) / np.sqrt(a.truths)) for c in (inside50, inside90)]
                rows.append(
                    {"system": name.replace("lorenz", "Lorenz-"), "truths_of": kind, "truths": a.truths, "variable": v,
                     "p": chisquare(counts).pvalue, "coverage_50": shares[0][0], "coverage_50_2se": shares[0][1],
                     "coverage_90": shares[1][0], "coverage_90_2se": shares[1][1], "spread_skill": ratio,
                     "spread_skill_2se": spread, "exchanged_low": low, "exchanged_high": high,
                     "rmse": np.sqrt(error[:, 0].mean()), "crps": np.mean(scores[v])}
                )  # fmt: skip
                text = ", ".join(f"{m:.3f} +- {s:.3f}" for m, s in shares)
                print(f"  {v:<3} ranks {counts}, p = {chisquare(counts).pvalue:.3f}; coverage of 50 % and 90 %: {text}; "
                      f"spread/skill {ratio:.3f} +- {spread:.3f}, exchanged {low:.3f} to {high:.3f}; "
                      f"error {np.sqrt(error[:, 0].mean()):.4f}, CRPS {np.mean(scores[v]):.4f}", flush=True)  # fmt: skip
    formats = {"truths": ".0f", "p": ".2f", "coverage_50": ".3f", "coverage_50_2se": ".3f", "coverage_90": ".3f",
               "coverage_90_2se": ".3f", "spread_skill": ".2f", "spread_skill_2se": ".2f", "exchanged_low": ".2f",
               "exchanged_high": ".2f", "rmse": ".3f", "crps": ".3f"}  # fmt: skip
    record(
        a.name, rows, folder=a.results, seed=70, question="Is the spread of the default right, member by member?",
        columns={"system": "", "truths_of": "", "variable": "", **{k: ("1", f) for k, f in formats.items()}},
    )  # fmt: skip
    if a.figure:
        draw(histograms, a.figure)


def exchanged(x: np.ndarray) -> np.ndarray:
    """Variance of the others, made ready for the comparison, and squared error of their mean, for each of x (members + 1, ...)."""
    mean = (x.sum(0) - x) / MEMBERS
    square = (np.square(x).sum(0) - np.square(x)) / MEMBERS - np.square(mean)
    return np.stack([square.mean(1) * (MEMBERS + 1) / (MEMBERS - 1), np.square(mean - x).mean(1)], -1)


def draw(histograms: dict[str, np.ndarray], path: str) -> None:
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(2, -(-len(histograms) // 2), figsize=(11, 4.5), layout="constrained", sharey=True)
    for ax in axes.flat[len(histograms) :]:
        ax.remove()
    for ax, (name, counts) in zip(axes.flat, histograms.items(), strict=False):
        ax.bar((np.arange(BINS) + 0.5) / BINS, counts, 0.9 / BINS, color="0.6")
        mean = counts.sum() / BINS
        ax.axhline(mean, color="k")
        ax.axhspan(mean - 2 * mean**0.5, mean + 2 * mean**0.5, color="0.9", zorder=0)
        ax.set(title=name, xlabel="rank of the truth / 20")
    axes.flat[0].set_ylabel("truths")
    fig.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
