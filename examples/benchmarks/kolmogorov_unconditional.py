"""Free samples of the prior `kolmogorov` beside simulations that it was not trained with.

    python examples/benchmarks/kolmogorov_unconditional.py --members 16 --figure free.png

Energy by wavenumber, energy, enstrophy, divergence, structure functions, and how near sampled states are to what the simulator makes
of those before.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import xarray as xr

import xsda
from xsda import flow

sys.path.insert(0, str(Path(__file__).parents[1] / "kolmogorov"))
import common


def structure(ds: xr.Dataset, order: int, distance: int) -> float:
    """Mean of |u(x + r) - u(x)|^order along x."""
    return float((np.abs(ds.u.roll(x=-distance, roll_coords=False) - ds.u) ** order).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prior", default="kolmogorov", help="name or file of the prior")
    parser.add_argument("--members", type=int, default=16)
    parser.add_argument("--truths", type=int, default=4, help="simulations, kept in the folder of --cache")
    parser.add_argument("--cache", type=Path, default=Path("kolmogorov-cache"))
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--length", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1, help="of the samples; the prior was balanced on those of 0")
    parser.add_argument("--data", help="the data set of the training, whose last tenth no prior has seen")
    o = parser.parse_args()
    model = xsda.load_model(o.prior)
    if not o.data:
        truth = common.truths(o.cache, o.truths, 29)
    else:
        whole = xr.open_zarr(o.data, chunks=None)
        truth = whole.isel(trajectory=slice(whole.sizes["trajectory"] * 9 // 10, None)).load()
    count = truth.sizes["trajectory"]
    grid = truth.isel(trajectory=0, time=slice(0, o.length))
    free = model.sample(grid, members=o.members, seed=o.seed)
    # states far apart, as independent as they come
    right = truth.isel(time=slice(0, None, 7))[["u", "v"]]
    e, reference = common.spectrum(free), common.spectrum(right)
    ratio = (e / reference).sel(wavenumber=slice(1, 20))
    single = [
        float(np.abs(common.spectrum(right.isel(trajectory=i)) / reference - 1).sel(wavenumber=slice(1, 20)).mean())
        for i in range(count)
    ]
    print(f"\n{model.name} ({model.hash}), {o.members} members of {o.length} states; data: {count} trajectories\n")
    print(f"E(k) over the data's, k = 1..20: {', '.join(f'{r:.2f}' for r in ratio.values)}")
    print(
        f"mean distance from 1: {float(np.abs(ratio - 1).mean()):.3f} (one trajectory of data from all of them: {np.mean(single):.3f})"
    )
    for name, what in {
        "energy": lambda d: flow.kinetic_energy(d).mean(),
        "enstrophy": lambda d: flow.enstrophy(d).mean(),
        "divergence over vorticity, rms": lambda d: flow.divergence(d).std() / flow.vorticity(d).std(),
        "flatness of the vorticity": lambda d: (flow.vorticity(d) ** 4).mean() / (flow.vorticity(d) ** 2).mean() ** 2,
        **{
            f"structure function of order {p}, {r} points": (lambda d, p=p, r=r: structure(d, p, r))
            for p in (2, 4)
            for r in (1, 4, 16)
        },
    }.items():
        ours = [float(what(free.isel(member=i))) for i in range(o.members)]
        theirs = [float(what(right.isel(trajectory=i))) for i in range(count)]
        print(
            f"{name}: samples {np.mean(ours):.4g} ± {np.std(ours) / len(ours) ** 0.5:.2g}, data {np.mean(theirs):.4g} ± {np.std(theirs) / len(theirs) ** 0.5:.2g}"
        )
    near, floor = common.resimulated(free[["u", "v"]], (1, 3)), common.resimulated(grid[["u", "v"]], (1, 3))
    print(f"re-simulated, 1 and 3 steps: samples {near[0]:.3f} {near[1]:.3f}, data {floor[0]:.3f} {floor[1]:.3f}")
    if o.figure:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt

        figure = plt.figure(figsize=(9.5, 4.6), layout="constrained")
        left, right_side = figure.subfigures(1, 2, width_ratios=(1, 1.15))
        above, below = left.subplots(2, 1, sharex=True, height_ratios=(1.6, 1))
        above.loglog(reference.wavenumber[1:32], reference[1:32], color="k", label="simulations")
        above.loglog(e.wavenumber[1:32], e[1:32], color="tab:blue", ls="--", label="free samples")
        above.set(ylabel="energy (model units)")
        above.legend(frameon=False)
        below.fill_between([1, 20], 0.9, 1.1, color="0.85", label="10 %, up to k = 20")
        below.semilogx(e.wavenumber[1:32], (e / reference)[1:32], color="tab:blue", marker=".", ms=4)
        below.axhline(1, color="k", lw=0.8)
        below.set(xlabel="wavenumber", ylabel="samples / simulations")
        below.legend(frameon=False, fontsize=8)
        panels = right_side.subplots(2, 2)
        for row, name, ds, dim in ((0, "simulated", right, "trajectory"), (1, "free sample", free, "member")):
            for i, ax in enumerate(panels[row]):
                w = flow.vorticity(ds.isel({dim: i, "time": 0}))
                image = ax.pcolormesh(w.x, w.y, w, cmap="RdBu_r", vmin=-15, vmax=15)
                ax.set(aspect="equal", xticks=[], yticks=[])
                ax.set_title(name, fontsize=9)
        right_side.colorbar(image, ax=panels, label="vorticity (1 / time unit)", extend="both", shrink=0.8)
        figure.savefig(o.figure, dpi=110)


if __name__ == "__main__":
    main()
