"""What labels cost a forecast: the same Lorenz-96 model, written once on Datasets and once on tensors.

Run it with one thread on an idle machine::

    python benchmarks/labelled_forecast.py

A step is one or several steps of the Runge-Kutta scheme, as between two observation times. The script prints the
medians over pairs of runs of the CPU time of a step and of the ratio.
"""

import argparse
import statistics
import time

import numpy as np
import torch
import xarray as xr
from record import add_options, record

import xsda
from xsda.baselines import Forecast
from xsda.labels.grid import Grid
from xsda.labels.layout import Layout

H, FORCING = 0.05, 8.0


def runge_kutta(drift, x):
    k1 = drift(x)
    k2 = drift(x + H / 2 * k1)
    k3 = drift(x + H / 2 * k2)
    k4 = drift(x + H * k3)
    return x + H / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


def on_arrays(x: np.ndarray) -> np.ndarray:
    return (np.roll(x, -1, -1) - np.roll(x, 2, -1)) * np.roll(x, 1, -1) - x + FORCING


def on_tensors(x: torch.Tensor) -> torch.Tensor:
    return (x.roll(-1, -1) - x.roll(2, -1)) * x.roll(1, -1) - x + FORCING


def repeated(drift, x, steps):
    for _ in range(steps):
        x = runge_kutta(drift, x)
    return x


def milliseconds(bound, x: torch.Tensor, steps: int) -> float:
    """CPU time of one step."""
    began = time.process_time()
    for k in range(steps):
        x = bound(x, k * H, (k + 1) * H)
    return 1e3 * (time.process_time() - began) / steps


def measure(sites: int, inner: int, args: argparse.Namespace) -> dict[str, object]:
    """One row of the table."""

    def labelled(ds: xr.Dataset) -> xr.Dataset:
        return ds.copy(data={"u": repeated(on_arrays, ds.u.values, inner)})

    def tensors(x: torch.Tensor) -> torch.Tensor:
        return repeated(on_tensors, x, inner)

    ds = xsda.systems.Lorenz96(n=sites).simulate(2, members=args.members)
    one = ds.isel(member=0, drop=True)
    grid = Grid.match(Layout.of(one, even=False), one)
    x = torch.as_tensor(ds.u.isel(time=0).values)[:, None]
    kinds = {
        "labelled": Forecast(labelled, dt=H).bind(grid),
        "tensors": Forecast(tensors, dt=H, tensors=True).bind(grid),
    }
    torch.testing.assert_close(*(bound(x, 0.0, H) for bound in kinds.values()))
    pairs = [{n: milliseconds(b, x, args.steps) for n, b in kinds.items()} for _ in range(args.pairs)]
    row = {n: statistics.median(p[n] for p in pairs) for n in kinds}
    ratio = statistics.median(p["labelled"] / p["tensors"] for p in pairs)
    return {"sites": sites, "inner_steps": inner, **row, "ratio": ratio}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sites", type=int, nargs="+", default=[40, 1000, 10000])
    parser.add_argument("--inner", type=int, nargs="+", default=[1, 4, 16], help="Runge-Kutta steps in a step")
    parser.add_argument("--members", type=int, default=20)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--pairs", type=int, default=11)
    add_options(parser, "labelled_forecast")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = [measure(sites, inner, args) for sites in args.sites for inner in args.inner]
    for row in rows:
        print("  ".join(f"{k} {v:.3g}" for k, v in row.items()))
    record(
        args.name, rows, folder=args.results,
        question="What do labels cost a forecast?",
        columns={"sites": "1", "inner_steps": "1", "labelled": ("ms", ".3f"), "tensors": ("ms", ".3f"),
                 "ratio": ("1", ".2f")},
    )  # fmt: skip


if __name__ == "__main__":
    main()
