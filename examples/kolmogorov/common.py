"""What the experiments with Kolmogorov flow share: truths, methods, scores, and one picture.

The experiments are those of Rozet & Louppe (arXiv 2306.10574), each in a script of its own beside this file:
points, blocks, patch, saturation, ring and loop. Common options::

    python examples/kolmogorov/blocks.py --members 16 --truths 4 --methods default,paper,dps,letkf,interpolation

The truths are simulated with a seed that no prior was trained with, at 256 x 256 points, and kept in the folder of
``--cache``. Scores are of the vorticity, which is harder than the velocity: it is made of the small scales. Where nobody
knows the truth (ring, loop), the cases differ by the seed of the sampler.

LETKF is a filter: it has 32 members, and its states know nothing of later observations, which the columns of the last state take
into account. Its localization and inflation were chosen for each experiment among two or three on a truth of another seed::

    python examples/kolmogorov/blocks.py --methods letkf --truths 1 --truth-seed 40000 --localization 0.5 --inflation 1.05
"""

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import xsda
from xsda import flow
from xsda.baselines import LETKF, ForecastError
from xsda.diffusion.samplers import NonFiniteSampleError, PredictorCorrector
from xsda.guidance import DPS, GaussianScore
from xsda.systems import KolmogorovFlow
from xsda.systems.simulation import simulate_to

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from record import record

METHODS = ("default", "paper", "dps", "letkf", "interpolation")
COARSE = 4  # the simulation has as many points per point of the prior, along each side


@dataclass
class Experiment:
    """Observations of a trajectory of ``frames`` states, and how they are made."""

    name: str
    frames: int
    sigma: float
    observed: Callable[[xr.Dataset], xr.Dataset]  # truth -> what ``observe`` is asked for
    derived: dict[str, Any] = field(default_factory=dict)
    values: Callable[[xr.Dataset], xr.Dataset] | None = None  # where there is no truth: the observations themselves
    interpolate: Callable[[xr.Dataset, xr.Dataset], xr.Dataset] | None = None
    gamma: float = 1e-2  # the paper's
    steps: int = 256  # the paper's
    show: tuple[int, ...] = (0, -1)
    means: bool = True  # shown as well: they say nothing where members have nothing in common
    localization: float = 0.5  # of LETKF
    inflation: float = 1.05

    def observe(self, truth: xr.Dataset, seed: int) -> xr.Dataset:
        if self.values is not None:
            return self.values(truth)
        return truth.sda.observe(self.observed(truth), sigma=self.sigma, seed=seed, derived=self.derived or None)


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options that all experiments have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prior", default="kolmogorov", help="name or file of the prior")
    parser.add_argument("--members", type=int, default=16)
    parser.add_argument("--truths", type=int, default=4)
    parser.add_argument("--methods", default="default,interpolation", help=f"any of {','.join(METHODS)}")
    parser.add_argument("--truth-seed", type=int, default=20_000)
    parser.add_argument("--localization", type=float, help="of LETKF, instead of the one chosen for the experiment")
    parser.add_argument("--inflation", type=float, help="the same")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--cache", type=Path, default=Path("kolmogorov-cache"))
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--results", type=Path, help="folder where the table is written as JSON")
    return parser


def truths(cache: Path, count: int, length: int, seed: int = 20_000) -> xr.Dataset:
    """Trajectories of the simulator as the prior sees them: means over 4 x 4 points."""
    cache.mkdir(exist_ok=True)
    path = cache / f"truths-{count}-{length}-{seed}.zarr"
    simulate_to(path, KolmogorovFlow(), trajectories=count, length=length, coarsen=COARSE, seed=seed)
    return xr.open_zarr(path, consolidated=False)[["u", "v", "forcing"]].load()


def climate(cache: Path, members: int) -> xr.Dataset:
    """Independent states of the simulator at full resolution, from which the filter starts."""
    cache.mkdir(exist_ok=True)
    path = cache / f"climate-{members}.zarr"
    simulate_to(path, KolmogorovFlow(), trajectories=members, length=1, seed=30_000)
    return xr.open_zarr(path, consolidated=False)[["u", "v"]].load().isel(time=0).rename(trajectory="member")


def posterior(
    method: str, e: Experiment, truth: xr.Dataset, obs: xr.Dataset, o: argparse.Namespace, seed: int
) -> xr.Dataset | None:
    """The ensemble of one method; None where it has nothing to say."""
    if method == "interpolation":
        return None if e.interpolate is None else e.interpolate(obs, truth).expand_dims("member")
    if method == "letkf":
        return filtered(e, truth, obs, o)
    paper = PredictorCorrector(steps=e.steps, corrections=1, tau=0.5)
    how: dict[str, Any] = {
        "default": {},
        "paper": {"guidance": GaussianScore(gamma=e.gamma), "sampler": paper, "redraw": 0},
        "dps": {"guidance": DPS(), "sampler": paper, "redraw": 0},
    }[method]
    return truth.sda.assimilate(
        obs,
        o.prior if method == "default" else o.prior.unbalanced(),  # it was balanced for our sampler
        members=o.members,
        sigma=e.sigma,
        derived=e.derived or None,
        precision=o.precision,
        seed=seed,
        progress=None,
        **how,
    )


def filtered(e: Experiment, truth: xr.Dataset, obs: xr.Dataset, o: argparse.Namespace) -> xr.Dataset | None:
    """LETKF with the simulator itself at full resolution, started from the climate; seen on the points of the prior."""
    if e.values is not None:
        return None
    fine = climate(o.cache, 32)
    cells = obs if e.derived or "x_bounds" in obs.coords else with_cells(obs, truth)
    grid = fine.isel(member=0, drop=True).expand_dims(time=truth.time)
    out = grid.sda.filter(
        cells,
        KolmogorovFlow(),
        method=LETKF(
            localization=e.localization if o.localization is None else o.localization,
            inflation=e.inflation if o.inflation is None else o.inflation,
        ),
        initial=fine,
        sigma=e.sigma,
        derived=e.derived or None,
        progress=False,
    )
    kept = flow.coarsen(out[["u", "v"]], COARSE).drop_vars(["x_bounds", "y_bounds"]).assign_coords(y=truth.y, x=truth.x)
    for name in kept.data_vars:
        kept[name].attrs = truth[name].attrs
    return kept


def with_cells(obs: xr.Dataset, truth: xr.Dataset) -> xr.Dataset:
    """Points of the prior's grid are means over cells of the simulator's."""
    for d in ("y", "x"):
        half = float(truth[d][1] - truth[d][0]) / 2
        bounds = np.stack([obs[d].values - half, obs[d].values + half], -1)
        obs = obs.assign_coords({f"{d}_bounds": ((d, "bounds"), bounds)})
        obs[d].attrs["bounds"] = f"{d}_bounds"
    for name in obs.data_vars:
        obs[name].attrs["cell_methods"] = "y: mean x: mean"
    return obs


def scores(e: Experiment, method: str, ensemble: xr.Dataset, truth: xr.Dataset, obs: xr.Dataset) -> dict[str, float]:
    """Misfit over sigma, scores of the vorticity, divergence, and how far the flow is from a flow."""
    wind = ensemble[["u", "v"]]
    seen = xsda.observe(wind, obs, derived=e.derived or None)
    misfit = np.concatenate([((seen[v] - obs[v]) / e.sigma).values.ravel() for v in obs.data_vars])
    row = {"misfit / sigma": float(np.sqrt(np.nanmean(misfit**2)))}
    if e.values is None:
        vorticity, right = (flow.vorticity(d).to_dataset(name="vorticity") for d in (wind, truth))
        names = {"RMSE": "rmse", "fair CRPS": "crps", "spread/skill": "spread_skill"}
        for when, states in (("", slice(None)), (", last state", slice(-1, None))):
            table = xsda.evaluate(vorticity.isel(time=states), right.isel(time=states)).sel(variable="vorticity")
            row |= {k + when: float(table[v]) for k, v in names.items()}
    k = slice(1, 20)
    ours = spectrum(wind).sel(wavenumber=k)
    row["energy k <= 20, off by"] = float(np.abs(ours / spectrum(truth).sel(wavenumber=k) - 1).mean())
    row["re-simulated, 1 step"], row["3 steps"] = resimulated(wind, (1, 3))
    return row


def spectrum(ds: xr.Dataset) -> xr.DataArray:
    """Energy by wavenumber, averaged over everything else."""
    e = xsda.metrics.energy_spectrum(ds[["u", "v"]], dim=("y", "x"))
    return e.mean([d for d in e.dims if d != "wavenumber"])


def interpolated(obs: xr.Dataset, truth: xr.Dataset) -> xr.Dataset:
    """Linear in space, around the ring, and in time between observed states."""
    ds = obs.drop_vars([c for c in obs.coords if c not in obs.dims])
    for d in ("y", "x"):
        period = truth[d].attrs["period"]
        around = [ds.isel({d: [-1]}), ds, ds.isel({d: [0]})]
        for part, shift in zip(around[::2], (-period, period), strict=True):
            part[d] = part[d] + shift
        ds = xr.concat(around, d, data_vars="all").interp({d: truth[d]})
    return ds.interp(time=truth.time) if ds.sizes["time"] > 1 else ds.reindex_like(truth, method="nearest")


def resimulated(ds: xr.Dataset, leads: tuple[int, ...], members: int = 4) -> list[float]:
    """RMS distance of sampled states to the simulator's forecast from the sampled state ``lead`` steps earlier.

    In units of what the flow changes in that time. The start is interpolated to the simulator's points, which costs a truth
    about as much as it costs a good sample: see the row "truth".
    """
    system = KolmogorovFlow(resolution=ds.sizes["x"] * COARSE)
    some = ds.isel(member=slice(members)) if "member" in ds.dims else ds.expand_dims("member")
    start = some.isel(time=0)
    x = system.to_tensor(flow.upsample(start, COARSE).expand_dims("time", 1))[:, 0]
    out = []
    for lead in range(1, max(leads) + 1):
        x = system.step(x)
        if lead in leads:
            coarse = system.coarsened(x, COARSE).numpy()
            later = system.to_tensor(some.isel(time=[lead]))[:, 0].numpy()
            change = later - system.to_tensor(start.expand_dims("time", 1))[:, 0].numpy()
            out.append(float(np.sqrt(((coarse - later) ** 2).mean() / (change**2).mean())))
    return out


def run(e: Experiment, o: argparse.Namespace) -> None:
    """All methods on all truths, a table in Markdown, and a picture of the first truth."""
    warnings.simplefilter("ignore")
    o.prior = xsda.load_model(o.prior)
    data = truths(o.cache, o.truths, e.frames, o.truth_seed)
    if "letkf" in o.methods:
        climate(o.cache, 32)  # before the clock runs
    table: dict[str, list[dict[str, float]]] = {}
    first: dict[str, xr.Dataset] = {}
    for i in range(o.truths):
        truth = data.isel(trajectory=i)
        obs = e.observe(truth, seed=i)
        if e.values is None:
            table.setdefault("truth", []).append(scores(e, "truth", truth.expand_dims("member"), truth, obs))
        for method in o.methods.split(","):
            started = time.perf_counter()
            try:
                ensemble = posterior(method, e, truth, obs, o, seed=i)
            except (ForecastError, NonFiniteSampleError) as error:
                print(f"case {i}, {method} diverged: {error}", flush=True)
                continue
            if ensemble is None:
                continue
            row = scores(e, method, ensemble, truth, obs) | {"seconds": time.perf_counter() - started}
            table.setdefault(method, []).append(row)
            print(f"case {i}, {method}: " + ", ".join(f"{k} {v:.3f}" for k, v in row.items()), flush=True)
            if i == 0:
                first[method] = ensemble
                if o.figure:
                    picture(e, truth, obs, first, o.figure)
    if not table:
        raise SystemExit(f"none of {o.methods} has anything to say of this experiment")
    columns = list(dict.fromkeys(c for rows in table.values() for c in rows[0]))
    print(f"\n{e.name}: {o.truths} cases, {o.members} members, prior {o.prior.name} ({o.prior.hash})\n")
    print("| | " + " | ".join(columns) + " |\n|---|" + "---|" * len(columns))
    for method, rows in table.items():
        means = [np.mean([r[c] for r in rows]) if c in rows[0] else np.nan for c in columns]
        print(f"| {method} | " + " | ".join("" if np.isnan(m) else f"{m:.3g}" for m in means) + " |")
    if o.results:
        write_results(e, o, {m: {c: np.mean([r[c] for r in rows]) for c in rows[0]} for m, rows in table.items()})


def write_results(e: Experiment, o: argparse.Namespace, means: dict[str, dict[str, float]]) -> None:
    """The same table as data."""
    names = {"misfit / sigma": "misfit", "RMSE": "rmse", "fair CRPS": "crps", "spread/skill": "spread_skill",
             "energy k <= 20, off by": "energy_off", "re-simulated, 1 step": "resimulated_1", "3 steps": "resimulated_3",
             "RMSE, last state": "rmse_last", "fair CRPS, last state": "crps_last",
             "spread/skill, last state": "spread_skill_last", "seconds": "seconds"}  # fmt: skip
    rows = [
        {"experiment": e.name, "method": m, "cases": o.truths, "members": o.members}
        | {names[c]: 100 * v if c.startswith("energy") else v for c, v in row.items() if np.isfinite(v)}
        for m, row in means.items()
    ]
    units = {"misfit": "sigma", "energy_off": "%", "seconds": "s"}
    record(
        "kolmogorov_" + e.name.replace(" ", "_"), rows, folder=o.results, seed=o.truth_seed,
        question="Does this experiment of the paper work?",
        columns={"experiment": "", "method": "", **{n: (units.get(n, "1"), "#.3g") for n in names.values()},
                 "cases": ("1", ".0f"), "members": ("1", ".0f")},
    )  # fmt: skip


def picture(e: Experiment, truth: xr.Dataset, obs: xr.Dataset, ensembles: dict[str, xr.Dataset], path: Path) -> None:
    """Vorticity: truth (dots: observed points, or middles of blocks), two members and the mean of each method, at the frames that the experiment shows."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = [("truth", truth)] if e.values is None else []
    for name, ensemble in ensembles.items():
        if ensemble.sizes["member"] == 1:
            rows.append((name, ensemble.isel(member=0)))
            continue
        rows += [(f"{name}, member {m}", ensemble.isel(member=m)) for m in (0, 1)]
        if e.means:
            rows.append((f"{name}, mean", ensemble.mean("member")))
    figure, axes = plt.subplots(
        len(e.show), len(rows), figsize=(2.1 * len(rows), 2.2 * len(e.show)), squeeze=False, layout="constrained"
    )
    limit = 1.2 * float(np.abs(flow.vorticity(truth)).quantile(0.99))
    for j, (name, ds) in enumerate(rows):
        w = flow.vorticity(ds)
        for i, frame in enumerate(e.show):
            ax = axes[i, j]
            image = ax.pcolormesh(truth.x, truth.y, w.isel(time=frame), cmap="RdBu_r", vmin=-limit, vmax=limit)
            if name == "truth" and truth.time.values[frame] in obs.time.values:
                ax.plot(*(c.ravel() for c in np.meshgrid(obs.x.values, obs.y.values)), "k.", markersize=1.5)
            ax.set(aspect="equal", xticks=[], yticks=[])
            if i == 0:
                ax.set_title(name, fontsize=8)
            if j == 0:
                ax.set_ylabel(f"time {float(truth.time[frame]):.1f}", fontsize=8)
    figure.colorbar(image, ax=axes, label="vorticity (1 / time unit)", shrink=0.8)
    figure.suptitle(e.name, fontsize=10)
    figure.savefig(path, dpi=110)
    plt.close(figure)
