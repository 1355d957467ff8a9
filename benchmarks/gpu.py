"""Assimilation on a GPU: agreement with the CPU, seconds, memory, overlap of copies, bf16 and compiled networks.

    python benchmarks/gpu.py [--device cuda:0] [--minutes 10]
    python benchmarks/gpu.py --device cpu --small   # a dry run of one minute, which writes no results

- agreement: the same two members on the CPU and on the device, in standard deviations of the prior.
- seconds: the whole call, the best of three. The first time is another column.
- memory: the peak of the device. Without CUDA it is left out.
- noise: the same call if the device waits for the random numbers, which are otherwise drawn ahead in a thread.
- copy: members to the CPU, through pinned memory and without.
- devices: the same members on one GPU and on all, if there are several.
- network: one evaluation and its gradient, also compiled. The first time holds the compilation, and the difference is
  that from the plain network.

Observations are zero: neither the times nor the agreement depend on them. A trial that fails is printed and left out, and
none is started after ``--minutes``. (The script is not called cuda.py: torch imports a package of that name.)
"""

import argparse
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
import xarray as xr
from record import add_options, record

import xsda
from xsda.diffusion.noise import MemberNoise
from xsda.sampling import task
from xsda.sampling.devices import find_devices, to_host
from xsda.sampling.half import Half
from xsda.sampling.pieces import place

QUESTION = "What does a GPU gain, and does it draw the same members?"
COLUMNS = {
    "part": "", "case": "", "way": "", "members": "1", "difference": ("1", ".1e"), "first_seconds": ("s", ".2f"),
    "seconds": ("s", ".3f"), "memory": ("GiB", ".2f"),
}  # fmt: skip
SIZES = {"lorenz63": (128, 512), "lorenz96": (64, 256), "kolmogorov": (8, 16)}  # states, members
WAYS = {
    "float32": {},
    "float32, no TF32": {"tf32": False},
    "bf16": {"precision": "bf16"},
}
ROWS: list[dict[str, object]] = []


def grid_of(name: str, states: int) -> xr.Dataset:
    """A grid of zeros for a prior."""
    if name == "kolmogorov":
        flow = xsda.systems.KolmogorovFlow(resolution=64)
        return flow.label(np.zeros((1, states, 2, 64, 64), np.float32)).isel(member=0, drop=True)
    system = {"lorenz63": xsda.systems.Lorenz63, "lorenz96": xsda.systems.Lorenz96}[name]()
    return 0 * system.simulate(states, seed=0)


def assimilated(name: str, grid: xr.Dataset, *, tf32: bool = True, **options: object) -> xr.Dataset:
    """Members given every fourth point of the last dimension."""
    obs = grid.isel({list(grid.dims)[-1]: slice(None, None, 4)})
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=tf32):
        return grid.sda.assimilate(obs, name, sigma=0.5, redraw=0, progress=False, **options)


def seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def row(part: str, case: str, way: str, **values: object) -> None:
    ROWS.append({"part": part, "case": case, "way": way, **values})
    print("  ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{v}" for k, v in ROWS[-1].items()), flush=True)


def agreement(o: argparse.Namespace, name: str) -> None:
    grid = grid_of(name, 16 if name != "kolmogorov" else 8)
    std = xsda.load_model(name).layout.std
    for precision in ("float64", "float32", "bf16"):
        for tf32 in (True, False) if precision == "float32" else (True,):
            draw = partial(assimilated, name, grid, members=2, steps=8, precision=precision, tf32=tf32)
            here, there = (draw(device=d).to_array().values for d in ("cpu", o.device))
            way = precision if tf32 else "float32, no TF32"
            row("agreement", name, way, members=2, difference=float(np.abs(here - there).max() / np.max(std)))


def speed(o: argparse.Namespace, name: str, way: str) -> None:
    states, members = (16, 4) if o.small else SIZES[name]
    call = partial(assimilated, name, grid_of(name, states), members=members, device=o.device, **WAYS[way])
    if o.small:
        call = partial(call, steps=4)
    first = seconds(call)
    values: dict[str, object] = {}
    if o.device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(o.device)
    again = min(seconds(call) for _ in range(1 if o.small else 3))
    if o.device.startswith("cuda"):
        values["memory"] = torch.cuda.max_memory_allocated(o.device) / 2**30
    row("seconds", name, way, members=members, first_seconds=first, seconds=again, **values)


def noise(o: argparse.Namespace, name: str) -> None:
    """In turns, because other work disturbs both."""
    states, members = (16, 4) if o.small else SIZES[name]
    call = partial(assimilated, name, grid_of(name, states), members=members, steps=8, device=o.device)
    spent: dict[str, list[float]] = {"drawn ahead": [], "waited for": []}
    for _ in range(3):
        spent["drawn ahead"].append(seconds(call))
        with waiting():
            spent["waited for"].append(seconds(call))
    for way, times in spent.items():
        row("noise", name, way, members=members, seconds=min(times))


@contextmanager
def waiting() -> Iterator[None]:
    """Random numbers are drawn when they are needed."""
    task.MemberNoise = lambda *a, **k: MemberNoise(*a, **{**k, "ahead": False})
    try:
        yield
    finally:
        task.MemberNoise = MemberNoise


def copy(o: argparse.Namespace) -> None:
    x = torch.zeros(2 ** (20 if o.small else 28), device=o.device)
    case = f"{x.nbytes / 2**20:.0f} MiB"
    for way, call in {"pinned": partial(to_host, x), "pageable": x.cpu}.items():
        row("copy", case, way, seconds=min(seconds(call) for _ in range(4)))


def devices(o: argparse.Namespace, name: str) -> None:
    states, members = (16, 8) if o.small else SIZES[name]
    call = partial(assimilated, name, grid_of(name, states), members=4 * members, batch=members, steps=8)
    for way in (o.device, "auto"):
        seconds(partial(call, device=way))
        several = f"{len(find_devices(way))} devices"
        row("devices", name, several, members=4 * members, seconds=seconds(partial(call, device=way)))


def network(o: argparse.Namespace, name: str) -> None:
    states, members = (16, 4) if o.small else SIZES[name]
    prior = xsda.load_model(name)
    grid = prior.bind(grid_of(name, states))
    plain = place(prior.denoiser, grid.context(), find_devices(o.device)[0], torch.float32)
    net = plain.network.requires_grad_(False)
    x, t = MemberNoise(0, range(members), grid.shape, device=o.device)(), torch.tensor(0.5, dtype=torch.float64)
    ways = {
        "float32": net, "bf16": Half(net, torch.bfloat16), "float32, compiled": torch.compile(net, dynamic=False),
        "bf16, compiled": Half(torch.compile(net, dynamic=False), torch.bfloat16),
    }  # fmt: skip
    first = None
    for way, form in ways.items():
        denoiser, found = plain.with_network(form), []

        def once(denoiser: torch.nn.Module = denoiser, found: list[torch.Tensor] = found) -> None:
            z = x.clone().requires_grad_()
            y = denoiser(z, t.to(z.device))
            found[:] = [torch.stack([y.detach(), torch.autograd.grad(y, z, x)[0]])]

        spent = [seconds(once) for _ in range(5)]
        first = found[0] if first is None else first
        difference = float((found[0] - first).abs().max() / first.abs().max())
        row(
            "network", name, way, members=members, first_seconds=spent[0], seconds=min(spent[1:]), difference=difference
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--small", action="store_true", help="a dry run, without results")
    parser.add_argument("--minutes", type=float, default=10.0, help="no trial is started later than this")
    add_options(parser, "gpu")
    o = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*do not fit")
    end, names = time.perf_counter() + 60 * o.minutes, ["lorenz63"] if o.small else list(SIZES)
    trials = [partial(agreement, o, name) for name in names]
    trials += [partial(speed, o, name, way) for way in WAYS for name in names]
    trials += [partial(noise, o, name) for name in names] + [partial(copy, o)]
    trials += [partial(devices, o, names[-1])] if len(find_devices("auto")) > 1 else []
    trials += [partial(network, o, name) for name in names]
    for trial in trials:
        if time.perf_counter() > end:
            print(f"left out after {o.minutes:g} minutes: {trial.func.__name__} {trial.args[1:]}")
            continue
        try:
            trial()
        except Exception:
            traceback.print_exc()
    if not o.small and ROWS:
        print(record(o.name, ROWS, columns=COLUMNS, question=QUESTION, seed=0, folder=o.results))


if __name__ == "__main__":
    main()
