"""Long records, window by window: borders between windows, cost and memory.

``lorenz63``: 2,000 states, x at every fourth state with error 0.5. One-step residuals of the members at borders and
elsewhere, and the earth mover's distance of pieces of 64 states to a particle filter of 16,384 particles, beside that
of whole assimilations of 128 states around each piece. An exact sampler would score what two filters score.

``month``: two-metre temperature over the British Isles, ERA5, March 2019, 30 stations as in ``era5_stations.py``, a
Gaussian with patterns fitted to the whole month: steps of the members at midnight in a reanalysis, and in separate
daily assimilations.

``kolmogorov``: 512 states of turbulence, u and v at every fourth point of every state with error 0.1, one member, beside
its first 64 states. Curvature is the root mean square second difference in time, relative to that of the truth. It is
centred on the first state of a window ("border") and one state later ("beside").

``year``: time and memory of one member for 1, 3 and 12 months of hours with 10 stations and 16 steps, each in a process
of its own::

    python benchmarks/reanalysis.py lorenz63
    python benchmarks/reanalysis.py month
    python benchmarks/reanalysis.py kolmogorov
    python benchmarks/reanalysis.py year
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from era5_stations import SIGMA, land, stations
from lorenz63_posterior import distance
from record import add_options, record

import xsda
from xsda.sampling.long_records import plan_windows
from xsda.systems import KolmogorovFlow, Lorenz63

SYSTEM = Lorenz63()
PARTICLES, PIECE, EVERY, ERROR, LAG = 2**14, 64, 4, 0.5, 32


def filtered(obs: xr.Dataset, states: int, pool: torch.Tensor, starts: list[int], count: int, seed: int) -> list:
    """Trajectories (count, PIECE, 3) from each start, given all observations up to LAG states after their end."""
    generator = torch.Generator().manual_seed(seed)
    y = dict(zip((obs.time.values / SYSTEM.dt).round().astype(int).tolist(), obs.x.values, strict=True))
    x = pool[torch.randint(len(pool), (PARTICLES,), generator=generator)]
    history: list[tuple[torch.Tensor, torch.Tensor]] = []
    found = {}
    for k in range(states):
        if k:
            x = SYSTEM.transition(x, generator)
        index = torch.arange(len(x))
        if k in y:
            weight = (-((x[:, 0] - float(y[k])) / ERROR).square() / 2).softmax(0)
            points = (torch.arange(len(x)) + torch.rand((), generator=generator, dtype=torch.float64)) / len(x)
            index = torch.searchsorted(weight.cumsum(0), points).clamp(max=len(x) - 1)
            x = x[index]
        history = [*history[-(PIECE + LAG) :], (x, index)]
        for start in starts:
            if k == min(start + PIECE + LAG, states) - 1:
                which, path = torch.randint(len(x), (count,), generator=generator), []
                for past, parents in reversed(history):
                    path.append(past[which])
                    which = parents[which]
                path = path[::-1][len(path) - (k - start + 1) :]
                found[start] = torch.stack(path[:PIECE], 1).numpy()
    return [found[s] for s in starts]


def lorenz63(args: argparse.Namespace) -> None:
    states, members = args.states or 2000, args.members or 128
    truth = SYSTEM.simulate(states, seed=40)
    obs = truth.sda.observe(truth.isel(time=slice(None, None, EVERY))[["x"]], sigma=ERROR, seed=41)
    began = time.process_time()
    run = truth.sda.reanalyse(obs, "lorenz63", window=96, lag=LAG, members=members, progress=False)
    seconds = time.process_time() - began
    x = SYSTEM.to_tensor(run)
    residual = (x[:, 1:] - SYSTEM.step(x)[:, :-1]) / SYSTEM.noise
    borders = [w.settled - 1 for w in plan_windows(states, states, 96, LAG, run.attrs["overlap"])[:-1]]
    inside = torch.ones(states - 1, dtype=torch.bool)
    inside[borders] = False
    pool = SYSTEM.to_tensor(SYSTEM.simulate(1, PARTICLES, seed=42))[:, 0]
    starts = list(range(32, states - PIECE - LAG, 256))
    first, second = (filtered(obs, states, pool, starts, members, seed) for seed in (0, 1))
    distances = []
    for start, a, b in zip(starts, first, second, strict=True):
        around = slice(start - 32, start + PIECE + 32)
        near = obs.isel(
            time=(obs.time >= truth.time[around][0].item() - 1e-9) & (obs.time <= truth.time[around][-1].item() + 1e-9)
        )
        whole = truth.isel(time=around).sda.assimilate(near, "lorenz63", members=members, progress=False)
        own = [x[:, start : start + PIECE].numpy(), SYSTEM.to_tensor(whole)[:, 32 : 32 + PIECE].numpy()]
        distances.append([distance(a, b), *((distance(o, a) + distance(o, b)) / 2 for o in own)])
        print(start, *np.round(distances[-1], 3), flush=True)
    floor, windows, alone = np.mean(distances, 0)
    row = {
        "states": states, "members": members, "windows": len(borders) + 1, "seconds": seconds / members,
        "residual_border": float(residual[:, borders].square().mean().sqrt()),
        "residual_inside": float(residual[:, inside].square().mean().sqrt()),
        "w1_reanalysis": windows, "w1_whole": alone, "w1_floor": floor,
    }  # fmt: skip
    print(row)
    record(
        "reanalysis_lorenz63", [row], folder=args.results, seed=40,
        question="Are trajectories as good at borders between windows, and as good as if they were sampled whole?",
        columns=dict.fromkeys(("states", "members", "windows"), ("1", ".0f")) | {"seconds": ("s", ".2f")}
        | dict.fromkeys(("residual_border", "residual_inside", "w1_reanalysis", "w1_whole", "w1_floor"), ("1", ".3f")),
    )  # fmt: skip


def temperature() -> tuple[xr.Dataset, xr.Dataset]:
    """The month, and observations of 30 stations in it."""
    ds = xsda.data.fetch("era5-t2m-uk").load()
    places, _ = stations(ds, land(ds), seed=60)
    obs = ds.sda.observe(places, sigma=SIGMA, seed=60)
    return ds, obs.where(np.random.default_rng(60).random(obs.t2m.shape) > 0.2)


def month(args: argparse.Namespace) -> None:
    ds, obs = temperature()
    prior = xsda.GaussianPrior.fit(ds, length=24)
    members, options = args.members or 4, {"sigma": SIGMA, "progress": False}
    days = np.unique(ds.time.dt.floor("D"))

    def daily() -> xr.Dataset:
        parts = [ds.sel(time=str(day)[:10]) for day in days]
        seen = [obs.sel(time=part.time) for part in parts]
        return xr.concat(
            [p.sda.assimilate(o, prior, members=members, seed=i, **options) for i, (p, o) in enumerate(zip(parts, seen, strict=True))],
            "time",
        )  # fmt: skip

    rows = [{"method": "ERA5"} | steps(ds)]
    for name, draw in (
        ("reanalysis", lambda: ds.sda.reanalyse(obs, prior, members=members, **options)),
        ("separate days", daily),
    ):
        began = time.process_time()
        run = draw()
        seconds = time.process_time() - began
        error = float(np.sqrt(((run.t2m.mean("member") - ds.t2m) ** 2).mean()))
        rows.append({"method": name, "seconds": seconds / members, "rmse": error} | steps(run))
        print(rows[-1], flush=True)
    record(
        "reanalysis_month", rows, folder=args.results, seed=60, question="Are members continuous at midnight?",
        columns={"method": ""} | dict.fromkeys(("midnight", "border", "beside", "rmse"), ("K", ".2f")) | {"seconds": ("s", ".0f")},
    )  # fmt: skip


def steps(ds: xr.Dataset) -> dict[str, float]:
    """Root mean square change to midnight, to 6 and 18 hours, where windows end, and to the hours beside these."""
    change = ds.t2m.diff("time") ** 2
    hours = {"midnight": [0], "border": [6, 18], "beside": [5, 7, 17, 19]}
    return {k: float(np.sqrt(change[{"time": change.time.dt.hour.isin(h)}].mean())) for k, h in hours.items()}


def kolmogorov(args: argparse.Namespace) -> None:
    rows, states = [], args.states or 512
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "truth.nc"
        KolmogorovFlow().simulate(states, coarsen=4, burn_in=64, seed=50).to_netcdf(path)
        for length in (states // 8, states):
            rows.append(in_a_process("flow", "--states", str(length), "--prior", str(path)))
            print(rows[-1], flush=True)
    errors = dict.fromkeys(("rmse_border", "rmse_beside", "curvature_border", "curvature_beside"), ("1", ".3f"))
    record(
        "reanalysis_kolmogorov", rows, folder=args.results, seed=50,
        question="Is a long record of turbulence continuous, in constant memory and linear time?",
        columns={"states": ("1", ".0f"), "windows": ("1", ".0f"), "seconds": ("s", ".0f"), "seconds_a_state": ("s", ".2f"),
                 "megabytes": ("MB", ".0f")} | errors,
    )  # fmt: skip


def flow(args: argparse.Namespace) -> None:
    """One run of ``kolmogorov``, in a process of its own."""
    truth = xr.open_dataset(args.prior).isel(time=slice(args.states))
    points = {"y": slice(None, None, 4), "x": slice(None, None, 4)}
    obs = truth.sda.observe(truth[["u", "v"]].isel(points), sigma=0.1, seed=51)
    began = time.process_time()
    run = truth.sda.reanalyse(obs, "kolmogorov", members=1, progress=False).isel(member=0)
    seconds, peak = time.process_time() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    plan = plan_windows(args.states, args.states, *(run.attrs[k] for k in ("window", "lag", "overlap")))
    first = np.array([w.settled for w in plan[:-1]])  # of each window but the first

    def size(ds: xr.Dataset) -> float:
        return float(np.sqrt(sum((ds[v] ** 2).mean() for v in ("u", "v")) / 2))

    def second(ds: xr.Dataset) -> xr.Dataset:
        return ds[["u", "v"]].diff("time", 2, label="lower")  # the value at k is centred on k + 1

    def relative(states: np.ndarray) -> float:
        return size(second(run).isel(time=states)) / size(second(truth).isel(time=states))

    error = run[["u", "v"]] - truth[["u", "v"]]
    row = {
        "states": args.states, "windows": len(plan), "seconds": seconds, "seconds_a_state": seconds / args.states,
        "megabytes": peak, "rmse_border": size(error.isel(time=first)), "rmse_beside": size(error.isel(time=first + 1)),
        "curvature_border": relative(first - 1), "curvature_beside": relative(first),
    }  # fmt: skip
    print(json.dumps(row))


def in_a_process(*words: str) -> dict[str, float]:
    """Run a part of this script, and return what it prints."""
    found = subprocess.run([sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True, check=True).stdout
    return json.loads(found.splitlines()[-1])


def year(args: argparse.Namespace) -> None:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = xsda.GaussianPrior.fit(temperature()[0], length=24).save(Path(folder) / "prior.safetensors")
        for months in (1, 3, 12):
            rows.append({"months": months} | in_a_process("part", "--months", str(months), "--prior", str(path)))
            print(rows[-1], flush=True)
    record(
        "reanalysis_year", rows, folder=args.results, seed=60, question="How do time and memory grow with the record?",
        columns={"months": ("1", ".0f"), "states": ("1", ".0f"), "seconds": ("s", ".0f"), "seconds_a_day": ("s", ".2f"), "megabytes": ("MB", ".0f")},
    )  # fmt: skip


def part(args: argparse.Namespace) -> None:
    """One run of ``year``, in a process of its own."""
    ds, obs = temperature()
    obs = obs.isel(station=slice(10))
    days = 730 * args.months
    time_axis = np.datetime64("2019-01-01T00", "ns") + np.arange(days) * np.timedelta64(1, "h")
    grid = xr.Dataset(coords={"time": time_axis, "latitude": ds.latitude, "longitude": ds.longitude})

    def opened(first: np.datetime64, last: np.datetime64) -> xr.Dataset:
        """The month again and again, at the same hours of the day."""
        here = time_axis[(time_axis >= first) & (time_axis <= last)]
        hours = ((here - time_axis[0]) / np.timedelta64(1, "h")).astype(int) % 720
        return obs.isel(time=hours).assign_coords(time=here)

    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        grid.sda.reanalyse(
            opened, args.prior, members=1, sigma=SIGMA, steps=16, out=Path(folder) / "run.zarr", progress=False
        )
    seconds, peak = time.process_time() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"states": days, "seconds": seconds, "seconds_a_day": seconds / days * 24, "megabytes": peak}))


def main() -> None:
    parts = {"lorenz63": lorenz63, "month": month, "kolmogorov": kolmogorov, "flow": flow, "year": year, "part": part}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=parts)
    parser.add_argument("--members", type=int)
    parser.add_argument("--states", type=int)
    parser.add_argument("--months", type=int, default=1)
    parser.add_argument("--prior")
    add_options(parser)
    args = parser.parse_args()
    torch.set_num_threads(1)
    parts[args.part](args)


if __name__ == "__main__":
    main()
