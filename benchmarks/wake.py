"""Drag, lift, frequency and length of the wake of a cylinder, and what a shedding period costs.

    OMP_NUM_THREADS=1 python benchmarks/wake.py

The flow starts from random vortices, at Reynolds number 40 from rest. Drag, lift and frequency are of the last
``--last`` units of time. The length of the steady wake is measured from the rear of the body to where the velocity on the
centreline changes sign.
"""

import argparse
import time

import numpy as np
import torch
from record import add_options, record

from xsda.systems import CylinderWake

CASES = ((40, 25, 60), (40, 50, 60), (100, 25, 90), (100, 50, 90), (200, 25, 60), (200, 50, 60))  # until that time


def measure(reynolds: float, resolution: int, until: float, last: float) -> dict[str, float | str]:
    wake = CylinderWake(reynolds=reynolds, resolution=resolution)
    x = wake.rest(1) if reynolds < 47 else wake.initial(1, torch.Generator().manual_seed(0))
    wake.step(x)  # the matrix of the body is made once
    began, forces = time.process_time(), []
    for _ in range(round(until / wake.dt)):
        x, force = wake._advance(x, wake.substeps)
        forces.append(force[0])
    seconds = (time.process_time() - began) / until
    drag, lift = np.array(forces[-round(last / wake.dt) :]).T
    row = {"reynolds": reynolds, "resolution": resolution, "substeps": wake.substeps, "drag": drag.mean()}
    if reynolds < 47:
        u = wake.velocity(wake.label(x[:, None, :1].numpy())).u.sel(y=0).squeeze()
        behind = u.where(u.x > 0.55, drop=True)
        end = int(np.flatnonzero(behind < 0)[-1])
        a, b = behind.values[end : end + 2]
        return row | {"length": float(behind.x[end]) - 0.5 + a / (a - b) / resolution, "seconds": seconds}
    rising = np.flatnonzero((lift[:-1] < 0) & (lift[1:] >= 0))
    at = rising - lift[rising] / (lift[rising + 1] - lift[rising])
    period = np.diff(at).mean() * wake.dt
    return row | {"lift": np.ptp(lift) / 2, "strouhal": 1 / period, "seconds": seconds, "period": seconds * period}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--last", type=float, default=25.0)
    add_options(parser, "wake")
    a = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for case in CASES:
        rows.append(measure(*case, a.last))
        print({k: round(float(v), 4) for k, v in rows[-1].items()}, flush=True)
    record(
        a.name, rows, folder=a.results, seed=0, question="Does the wake have the published drag, lift and frequency?",
        columns={
            "reynolds": ("1", ".0f"), "resolution": ("1", ".0f"), "substeps": ("1", ".0f"), "drag": ("1", ".3f"),
            "lift": ("1", ".3f"), "strouhal": ("1", ".4f"), "length": ("1", ".2f"), "seconds": ("s", ".2g"),
            "period": ("s", ".2g"),
        },
    )  # fmt: skip


if __name__ == "__main__":
    main()
