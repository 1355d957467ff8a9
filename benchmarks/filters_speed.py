"""Filters beside DAPPER 1.7.1: the same truth and observations, the same machine, one run.

    pip install --no-deps dapper==1.7.1 struct-tools==0.2.5 mpl-tools tabulate pyyaml dill patlib pathos ppft pox multiprocess \
        threadpoolctl colorama
    python benchmarks/filters_speed.py

Lorenz-96 (sakov2008, 1,000 cycles): whole runs, each package with its own loop. A field of 128 x 128 points: the analysis
alone, so that nothing is held against DAPPER but the LETKF (its scores and bookkeeping of such states cost more than that).
DAPPER runs on one core (its own processes make small problems slower), xsda on one, and on two where that helps. There the forecast moves the field by one point along x, and the error is that of the last analysis.
"""

import argparse
import time
import warnings

import numpy as np
import torch
import xarray as xr
from record import add_options, record

import xsda
from xsda.baselines import ETKF, LETKF

SIZE = 128
TABLE: list[dict[str, object]] = []


class Shift(xsda.systems.MarkovChain):
    """A field that moves by one grid point each step."""

    variables = ("q",)

    @property
    def space(self) -> dict[str, int]:
        return {"y": SIZE, "x": SIZE}

    def step(self, x: torch.Tensor) -> torch.Tensor:
        return x.roll(1, -1)


def small(cycles: int) -> None:
    import dapper.da_methods as da
    from dapper.mods.Lorenz96.sakov2008 import HMM

    HMM.tseq.Ko = cycles
    system = xsda.systems.Lorenz96()
    truth = system.simulate(cycles + 2, seed=0)
    obs = truth.sda.observe(truth.isel(time=slice(1, None)), sigma=1.0, seed=1)
    xx, yy = truth.u.values, obs.u.values
    HMM.X0.mu = xx[0]
    rng = np.random.default_rng(0)
    for label, method, theirs in (
        ("square root, N=24", ETKF(inflation=1.013, rotate=True), da.EnKF("Sqrt", N=24, infl=1.013, rot=True)),
        (
            "LETKF, N=7",
            LETKF(localization=4.0, inflation=1.04, rotate=True),
            da.LETKF(N=7, rot=True, infl=1.04, loc_rad=4),
        ),
    ):
        noise = xr.DataArray(0.03 * rng.standard_normal((theirs.N, 40)), dims=("member", "x"))
        initial = (truth.isel(time=0) + noise).transpose("member", "x")
        seconds = []
        for _ in range(2):  # both in turn, twice; the faster of each counts
            start = time.perf_counter()
            run = truth.sda.filter(obs, system, method=method, initial=initial, progress=False)
            middle = time.perf_counter()
            theirs.assimilate(HMM, xx[: cycles + 2], yy, liveplots=False)
            seconds.append((middle - start, time.perf_counter() - middle))
        theirs.stats.average_in_time()
        ours, other = np.min(seconds, 0)
        error = float((((run.u.mean("member") - truth.u)[402:] ** 2).mean("x") ** 0.5).mean())
        row(f"Lorenz-96, {cycles:,} cycles, {label}", 1, ours, other, error, float(theirs.avrgs.err.rms.a.val))


def large(analyses: int, count: int) -> None:
    import dapper.mods as modelling
    from dapper.da_methods.ensemble import local_analyses
    from dapper.tools.localization import nd_Id_localization

    rng = np.random.default_rng(0)
    fields = smooth(rng.standard_normal((26, SIZE, SIZE)))
    axis = np.arange(float(SIZE))
    coords = {d: (d, axis, {"axis": d.upper(), "period": float(SIZE)}) for d in ("y", "x")}
    system = Shift()
    grid = xr.Dataset({"q": (("time", "y", "x"), np.stack([np.roll(fields[25], k, 1) for k in range(analyses)]))},
                      {"time": np.arange(float(analyses)), **coords})  # fmt: skip
    initial = xr.Dataset({"q": (("member", "y", "x"), fields[:25])}, coords)
    places = np.sort(rng.choice(SIZE * SIZE, count, replace=False))
    where = {"y": ("station", axis[places // SIZE]), "x": ("station", axis[places % SIZE])}
    like = xr.Dataset({"q": (("time", "station"), np.zeros((analyses, count)))}, {"time": grid.time, **where})
    obs = grid.sda.observe(like, sigma=0.5, seed=1)
    ours = {}
    for threads in (1, 2):
        torch.set_num_threads(threads)
        start = time.perf_counter()
        run = grid.sda.filter(obs, system, method=LETKF(localization=4.0), initial=initial, progress=False)
        ours[threads] = (time.perf_counter() - start) / analyses

    localizer = nd_Id_localization((SIZE, SIZE), (1, 1), places)
    noise, states = modelling.GaussRV(C=0.25, M=count).C, fields[:25].reshape(25, -1).copy()
    start = time.perf_counter()
    for k in range(analyses):
        if k:
            states = np.roll(states.reshape(25, SIZE, SIZE), 1, -1).reshape(25, -1)
        batches, taper = localizer(4.0, "x2y", "GC")
        states, _ = local_analyses(states, states[:, places], noise, obs.q.values[k], batches, taper)
    other = (time.perf_counter() - start) / analyses
    truth = grid.q.values[-1].ravel()
    errors = [float(np.sqrt(((x.mean(0) - truth) ** 2).mean())) for x in (run.q.values[:, -1].reshape(25, -1), states)]
    for threads, seconds in ours.items():
        row(
            f"field of {SIZE} x {SIZE}, LETKF, N=25, {count:,} observations, one analysis",
            threads,
            seconds,
            other,
            *errors,
        )


def smooth(noise: np.ndarray) -> np.ndarray:
    """Periodic fields of unit variance with a correlation length of about four points."""
    k = np.fft.fftfreq(SIZE) * 2 * np.pi
    keep = np.exp(-(k[:, None] ** 2 + k**2) * 4.0**2 / 2)
    fields = np.fft.ifft2(np.fft.fft2(noise) * keep).real
    return fields / fields.std()


def row(label: str, threads: int, ours: float, other: float, error: float, their_error: float) -> None:
    names = ("case", "threads", "seconds", "seconds_dapper", "speedup", "rmse", "rmse_dapper")
    TABLE.append(dict(zip(names, (label, threads, ours, other, other / ours, error, their_error), strict=True)))
    print(
        f"| {label} | {threads} | {ours:.3f} | {other:.3f} | {other / ours:.1f} | {error:.3f} | {their_error:.3f} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cycles", type=int, default=1000)
    parser.add_argument("--analyses", type=int, default=10)
    add_options(parser, "filters_speed")
    a = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    print("| | threads | xsda, s | DAPPER, s | ratio | RMSE xsda | RMSE DAPPER |\n|---|---|---|---|---|---|---|")
    small(a.cycles)
    for count in (300, 4000):
        large(a.analyses, count)
    record(
        a.name, TABLE, folder=a.results, seed=0, question="How fast are our filters beside DAPPER's?",
        columns={"case": "", "threads": ("1", ".0f"), "seconds": ("s", ".3f"), "seconds_dapper": ("s", ".3g"),
                 "speedup": ("1", ".1f"), "rmse": ("1", ".3f"), "rmse_dapper": ("1", ".3f")},
    )  # fmt: skip


if __name__ == "__main__":
    main()
