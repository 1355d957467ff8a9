"""Free samples of the prior `kolmogorov` beside simulations that it was not trained with.

    python benchmarks/kolmogorov_unconditional.py --members 16 --figure free.png

Energy by wavenumber, energy, enstrophy, divergence, structure functions, and how near sampled states are to what the simulator makes
of those before.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import xarray as xr
from record import add_options, record

import xsda
from xsda import flow

sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "kolmogorov"))
import common


def structure(ds: xr.Dataset, order: int, distance: int) -> float:
    """Mean of |u(x + r) - u(x)|^order along x."""
    return float((np.abs(ds.u.roll(x=-distance, roll_coords=False) - ds.u) ** order).mean())


QUANTITIES = {
    "energy": lambda d: flow.kinetic_energy(d).mean(),
    "enstrophy": lambda d: flow.enstrophy(d).mean(),
    "divergence over vorticity": lambda d: flow.divergence(d).std() / flow.vorticity(d).std(),
    "flatness of the vorticity": lambda d: (flow.vorticity(d) ** 4).mean() / (flow.vorticity(d) ** 2).mean() ** 2,
    "standard deviation of the vorticity": lambda d: flow.vorticity(d).std(),
    **{
        f"{name} structure function, {r} point{'s' if r > 1 else ''} apart": (lambda d, p=p, r=r: structure(d, p, r))
        for name, p in (("second", 2), ("fourth", 4))
        for r in (1, 4, 16)
    },
}


def statistics(ds: xr.Dataset, dim: str, reference: xr.DataArray, states: xr.Dataset) -> dict[str, tuple[float, ...]]:
    """Values, some with standard errors: of ``ds`` along ``dim``, beside the spectrum of the data; ``states`` are forecast."""
    ratio = (common.spectrum(ds) / reference).sel(wavenumber=slice(1, 20))
    out = {f"energy over the simulations', k = {k}": (float(ratio.sel(wavenumber=k)),) for k in (2, 4, 8, 12, 16, 20)}
    off = 100 * np.abs(ratio - 1)
    if dim == "trajectory":  # of each trajectory from all of them
        each = [
            (common.spectrum(ds.isel({dim: i})) / reference - 1).sel(wavenumber=slice(1, 20))
            for i in range(ds.sizes[dim])
        ]
        off = 100 * np.abs(xr.concat(each, dim))
    out["energy, mean distance from 1, k = 1 to 20, %"] = (float(off.mean()),)
    out["energy, largest distance from 1, k = 1 to 20, %"] = (float(off.max()),)
    for name, what in QUANTITIES.items():
        values = [float(what(ds.isel({dim: i}))) for i in range(ds.sizes[dim])]
        out[name] = float(np.mean(values)), float(np.std(values) / len(values) ** 0.5)
    for lead, distance in zip(("1 step", "3 steps"), common.resimulated(states, (1, 3)), strict=True):
        out[f"distance to the simulator's forecast, {lead}"] = (distance,)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prior", default="kolmogorov", help="name or file of the prior")
    parser.add_argument("--members", type=int, default=16)
    parser.add_argument("--unbalanced", type=int, default=16, help="members of the prior without its balance")
    parser.add_argument("--truths", type=int, default=4, help="simulations, kept in the folder of --cache")
    parser.add_argument("--cache", type=Path, default=Path("kolmogorov-cache"))
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--length", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1, help="of the samples; the prior was balanced on those of 0")
    parser.add_argument("--data", help="the data set of the training, whose last tenth no prior has seen")
    add_options(parser, "kolmogorov_free")
    o = parser.parse_args()
    model = xsda.load_model(o.prior)
    if not o.data:
        truth = common.truths(o.cache, o.truths, 29)
    else:
        whole = xr.open_zarr(o.data, chunks=None)
        truth = whole.isel(trajectory=slice(whole.sizes["trajectory"] * 9 // 10, None)).load()
    grid = truth.isel(trajectory=0, time=slice(0, o.length))
    free = grid.sda.sample(model, members=o.members, seed=o.seed)
    plain = grid.sda.sample(model.unbalanced(), members=o.unbalanced, seed=o.seed)
    # states far apart, as independent as they come
    right = truth.isel(time=slice(0, None, 7))[["u", "v"]]
    e, reference = common.spectrum(free), common.spectrum(right)
    print(
        f"\n{model.name} ({model.hash}), {o.members} members of {o.length} states; data: {right.sizes['trajectory']} trajectories"
    )
    columns = {
        "samples": statistics(free, "member", reference, free[["u", "v"]]),
        "unbalanced": statistics(plain, "member", reference, plain[["u", "v"]]),
        "data": statistics(right, "trajectory", reference, grid[["u", "v"]]),
    }
    rows = []
    for quantity in columns["data"]:
        row = {"quantity": quantity}
        for name, table in columns.items():
            row |= dict(zip((f"{name}_value", f"{name}_error"), table[quantity], strict=False))
        rows.append(row)
        print(", ".join(f"{k} {v:.4g}" if isinstance(v, float) else v for k, v in row.items()))
    numbers = [f"{name}_{part}" for name in columns for part in ("value", "error")]
    record(
        o.name, rows, folder=o.results, seed=o.seed,
        question="Do free samples of the embedded turbulence prior look like simulations?",
        columns={"quantity": "", **dict.fromkeys(numbers, ("1", ".3g"))},
    )  # fmt: skip
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
