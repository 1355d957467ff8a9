"""What a cluster costs: two worker processes, and a real scheduler with 64 workers that sleep.

    OMP_NUM_THREADS=1 python benchmarks/cluster.py memory efficiency replay graph

memory      2,000 members of a 64 x 64 x 8 field into a store: peak memory of two workers and of the client.
efficiency  Kolmogorov members on one and on two workers. Other programs may use the machine, so it is computed from the
            CPU time of the workers, and from the share of the time for which they are busy with blocks.
replay      the block times of "efficiency", in random order, on 64 workers that sleep instead of computing.
graph       seconds and megabytes of the graph of 100,000 members, before any of them is computed.
"""

import argparse
import contextlib
import json
import resource
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import cloudpickle
import dask
import numpy as np
import xarray as xr
from distributed import Client, LocalCluster, get_task_stream
from record import add_options, record

import xsda
from xsda.sampling import finished
from xsda.sampling.blocks import Shared, compute
from xsda.sampling.keep import draw_into_store
from xsda.systems import KolmogorovFlow

ROWS: list[dict[str, object]] = []
GIB = 2**30


def cost(case: str, measure: str, value: float) -> None:
    ROWS.append({"case": case, "measure": measure, "value": value})
    print(f"{case}: {measure} {value:.4g}", flush=True)


@contextlib.contextmanager
def cluster(workers: int, **options: object):
    options = {"threads_per_worker": 1, "dashboard_address": None, **options}
    with LocalCluster(n_workers=workers, **options) as here, Client(here) as client:
        yield client


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB


def smooth(n: int) -> np.ndarray:
    return np.exp(-np.abs(np.subtract.outer(np.arange(n), np.arange(n))) / 8)


def memory(o: argparse.Namespace) -> None:
    grid = xr.Dataset(
        {"u": (("time", "y", "x"), np.zeros((8, 64, 64), np.float32))},
        {"time": np.arange(8.0), "y": np.arange(64.0), "x": np.arange(64.0)},
    )
    prior = xsda.GaussianPrior.separable(grid, smooth(8), smooth(64), smooth(64))
    obs = xsda.sample(grid, prior, members=1, progress=False).isel(
        member=0, y=slice(0, None, 4), x=slice(0, None, 4), drop=True
    )
    case = f"{o.members} members of 64 x 64 x 8"
    with tempfile.TemporaryDirectory() as folder, cluster(2) as client:
        start = time.perf_counter()
        post = grid.sda.assimilate(
            obs, prior, sigma=0.3, members=o.members, steps=8, chunks={"member": 16}, out=Path(folder) / "a.zarr"
        )
        cost(case, "s", time.perf_counter() - start)
        for k, value in enumerate(sorted(client.run(peak).values())):
            cost(case, f"peak memory of worker {k}, GiB", value)
        mean = post.u.mean("member").compute()
        assert bool(np.isfinite(mean).all())
        cost(case, "peak memory of a worker after the mean, GiB", max(client.run(peak).values()))
    cost(case, "peak memory of the client, GiB", peak())


def turbulence(members: int, path: Path) -> None:
    truth = KolmogorovFlow(resolution=64).simulate(8, seed=0)
    obs = truth[["u", "v"]].isel(x=slice(None, None, 4), y=slice(None, None, 4))
    truth.sda.assimilate(
        obs,
        "kolmogorov",
        members=members,
        sigma=0.1,
        steps=12,
        redraw=0,
        chunks={"member": 1},
        out=path,
        progress=False,
    )


def efficiency(o: argparse.Namespace) -> None:
    spent = {}
    for workers in (1, 2):
        with tempfile.TemporaryDirectory() as folder, cluster(workers) as client:
            turbulence(workers, Path(folder) / "first.zarr")  # each worker imports xsda and reads the prior
            before = sum(client.run(time.process_time).values())
            start = time.perf_counter()
            with get_task_stream(client) as stream:
                turbulence(o.blocks, Path(folder) / "a.zarr")
            wall = time.perf_counter() - start
            cpu = sum(client.run(time.process_time).values()) - before
        times = [s["stop"] - s["start"] for task in stream.data for s in task["startstops"] if s["action"] == "compute"]
        spent[workers] = cpu, sum(times) / (workers * wall), wall
        case = f"turbulence, {o.blocks} blocks of one member, {workers} worker{'s' * (workers > 1)}"
        for measure, value in (
            ("s", wall), ("CPU s", cpu), ("share of the time in blocks", spent[workers][1]),
        ):  # fmt: skip
            cost(case, measure, value)
    (one, share_of_one, first), (two, share, second) = spent[1], spent[2]
    case = "turbulence, efficiency of two workers"
    cost(case, "from CPU time and the share in blocks", one / two * share / share_of_one)
    cost(case, "from elapsed time, beside other programs", first / second / 2)
    o.times.write_text(json.dumps(times))


class Sleeping:
    """A task that takes a given time for each member, and returns a state of turbulence."""

    shape, notes, steps, group, token = (8, 2, 64, 64), (), 1, 1, "sleeping"
    fields = (SimpleNamespace(name="u", shape=(8, 2, 64, 64), dtype=np.dtype(np.float32)),)

    def __init__(self, times: list[float]):
        self.times, self.shared = times, Shared()

    def __call__(self, members, advance=None):
        time.sleep(sum(self.times[m] for m in members))
        return [np.zeros((len(members), *self.shape), np.float32)]


def awake(task, batch, part):
    """Compute a block beside others of this process."""
    return compute(task, part, batch=batch, progress=False, label="")


def replay(o: argparse.Namespace) -> None:
    finished.block = awake
    recorded, workers = json.loads(o.times.read_text()), 64
    times = np.random.default_rng(0).choice(recorded, workers * o.each).tolist()
    task, dims = Sleeping(times), ("member", "time", "channel", "y", "x")
    empty = np.broadcast_to(np.float32(0), (len(times), *task.shape))
    template = xr.Dataset({"u": (dims, empty)}, {"member": np.arange(len(times)), "time": np.arange(8.0)})
    with tempfile.TemporaryDirectory() as folder, cluster(workers, processes=False, memory_limit=0):
        start = time.perf_counter()
        draw_into_store(
            task, range(len(times)), template, path=Path(folder) / "a.zarr", overwrite=False, time="time", run={},
            chunk=1, batch=1, label="", progress=False,
        )  # fmt: skip
        wall = time.perf_counter() - start
    case = f"{len(times)} recorded blocks on {workers} workers"
    cost(case, "mean time of a block, s", float(np.mean(times)))
    cost(case, "s", wall)
    cost(case, "efficiency", sum(times) / (workers * wall))


def graph(_: argparse.Namespace) -> None:
    truth = xsda.systems.Lorenz63().simulate(32, seed=3)
    obs = truth.sda.observe(truth.isel(time=slice(None, None, 4))[["x"]], sigma=0.5, seed=4)
    for chunk in (1, 8):
        start = time.process_time()
        post = truth.sda.assimilate(obs, "lorenz63", members=100_000, chunks={"member": chunk})
        built = time.process_time()
        dask.optimize(*(post[v].data for v in post))
        optimised = time.process_time()
        case = f"graph of 100,000 members, {chunk} a block"
        cost(case, "CPU s to build", built - start)
        cost(case, "CPU s to optimise", optimised - built)
        cost(case, "MB", len(cloudpickle.dumps(post.__dask_graph__())) / 1e6)


PARTS = {"memory": memory, "efficiency": efficiency, "replay": replay, "graph": graph}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=PARTS)
    parser.add_argument("--members", type=int, default=2000, help="of the part memory")
    parser.add_argument("--blocks", type=int, default=12, help="of the part efficiency")
    parser.add_argument("--each", type=int, default=10, help="blocks of each worker in the part replay")
    parser.add_argument("--times", type=Path, default=Path("block_times.json"), help="file that keeps the block times")
    add_options(parser)
    o = parser.parse_args()
    columns = {"case": "", "measure": "", "value": ("see measure", ".3g")}
    for part in o.parts:
        ROWS.clear()
        PARTS[part](o)
        record(f"cluster_{part}", ROWS, columns=columns, question="What does a cluster cost?", seed=0, folder=o.results)
