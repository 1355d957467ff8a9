"""What tiles cost, and what they save: one guided evaluation of the prior ``kolmogorov`` on grids of 64 to 1,024 points.

    OMP_NUM_THREADS=1 python benchmarks/tiles.py

Each row is a process of its own that assimilates u and v at every fourth point of 8 states, for one member. The time is the
least CPU time of a guided evaluation (the network, its gradient, the operator and the correction), per point and state; the
memory is the peak of the process. The difference is that between members drawn with and without tiles from the same noise.
The reach is how far a point changes the network's result at all. About six minutes on one core.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
import warnings

import numpy as np
import torch
import xarray as xr
from record import add_options, record

import xsda
from xsda.diffusion.samplers import DPMpp2M
from xsda.guidance.guided import GuidedDenoiser

STATES = 8
CASES = ((128, None), (64, None), (512, None), (512, 160), (1024, 160), (1024, 256))


def grid(points: int, states: int = STATES) -> xr.Dataset:
    """A square with the spacing and the force of the training data."""
    prior = xsda.load_model("kolmogorov")
    x = (np.arange(points) + 0.5) * prior.layout.space[0].spacing
    force = np.broadcast_to(np.sin(4 * x)[:, None], (points, points))
    times = np.arange(states) * prior.layout.dt
    nothing = ("time", "y", "x"), np.broadcast_to(np.float32(0), (states, points, points))
    fields = {"u": nothing, "v": nothing, "forcing": (("y", "x"), force)}
    return xr.Dataset(fields, coords={"time": times, "y": x, "x": x})


def assimilate(points: int, tile: int | None, steps: int) -> xr.Dataset:
    """One member, given smooth observations at every fourth point."""
    ds = grid(points)
    y, x = ds.y[::4], ds.x[::4]
    wave = (np.sin(y) * np.cos(x) + 0 * ds.time).transpose("time", "y", "x")
    obs = xr.Dataset({"u": wave, "v": -wave})
    tiles = None if tile is None else {"y": tile, "x": tile}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the grid is larger than that of the prior, and a few steps fit poorly
        return ds.sda.assimilate(
            obs, "kolmogorov", members=1, sigma=0.1, sampler=DPMpp2M(steps=steps), redraw=0, tiles=tiles, progress=False
        )


def child(points: int, tile: int | None) -> None:
    """Print the least CPU time of an evaluation, and the peak of the memory."""
    torch.set_num_threads(1)
    spent: list[float] = []
    evaluate = GuidedDenoiser.evaluate

    def timed(self: GuidedDenoiser, *arguments: torch.Tensor) -> tuple[torch.Tensor, ...]:
        started = time.process_time()
        out = evaluate(self, *arguments)
        spent.append(time.process_time() - started)
        return out

    GuidedDenoiser.evaluate = timed  # type: ignore[method-assign]
    assimilate(points, tile, steps=24 if points < 256 else 3 if points < 1024 else 2)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"seconds": min(spent), "peak": peak}))


def measured(points: int, tile: int | None) -> dict[str, float]:
    """Run ``child`` in a process."""
    command = [sys.executable, __file__, "--child", str(points), str(tile or 0)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def reach() -> int:
    """The largest distance, in points, over which the network of ``kolmogorov`` passes a change on."""
    network = xsda.load_model("kolmogorov").denoiser.network.double()
    n, most = 160, 0
    for place in range(n // 2, n // 2 + 8):  # the places within a patch of the coarsest level differ
        x = torch.randn(
            1, 5, 2, n, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
        ).requires_grad_()
        value = network(x, torch.zeros(1).double(), torch.zeros(1, 1, 1, n, 16).double())
        slope = torch.autograd.grad(value[..., place, :].square().sum(), x)[0].abs().sum((0, 1, 2, 4))
        most = max(most, int((slope.nonzero() - place).abs().max()))
    return most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--child", nargs=2, type=int, metavar=("POINTS", "TILE"), help="measure one case, in this process"
    )
    add_options(parser, "tiles")
    options = parser.parse_args()
    if options.child:
        child(options.child[0], options.child[1] or None)
        return
    rows: list[dict[str, object]] = []
    reference = 1.0
    for points, tile in CASES:
        found = measured(points, tile)
        micro = 1e6 * found["seconds"] / (points**2 * STATES)
        reference = micro if points == 128 else reference
        rows.append({
            "grid": f"{points} x {points} x {STATES}", "tile": f"{tile} x {tile}" if tile else "whole",
            "seconds": found["seconds"], "microseconds": micro, "ratio": micro / reference, "peak": found["peak"],
        })  # fmt: skip
        print(rows[-1], flush=True)
    whole, tiled = (assimilate(256, tile, steps=6) for tile in (None, 64))
    difference = max(float(abs(whole[v] - tiled[v]).max()) for v in ("u", "v"))
    record(
        options.name, rows, folder=options.results, seed=0,
        question="What do tiles cost, and how much memory do they save?",
        columns={
            "grid": "", "tile": "", "seconds": ("s", ".2f"), "microseconds": ("us", ".2f"), "ratio": ("1", ".2f"),
            "peak": ("GiB", ".2f"),
        },
        difference=float(f"{difference:.2g}"), reach=reach(),
    )  # fmt: skip


if __name__ == "__main__":
    main()
