"""What a posterior of Kolmogorov flow costs, each as a ratio in one run on one machine.

    OMP_NUM_THREADS=1 python benchmarks/kolmogorov_speed.py b c d e f s [--prior kolmogorov] [--device cuda]

b. the loop's overhead over the bare network calls that it makes.
c. forward and product of the network of the paper's size, executed in several ways. ``--public DIR`` adds the authors' own
   network, from a checkout of github.com/francois-rozet/sda (which needs zuko).
d. time and peak memory over the length of the trajectory.
e. members in dask chunks on one and on two worker processes, one thread each.
s. a step of the simulator beside jax-cfd's bare loop of the same size, for one state and for an ensemble.
f. training steps of the network of the paper's size, ours beside the authors' network, loss and optimiser (``--public DIR``).

Run it on a quiet machine. On a GPU the times are the same lines, with ``--device cuda``; d reports the device's memory.
"""

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from record import add_options, record
from torch.nn import functional

import xsda
from xsda.diffusion import VE, Preconditioned
from xsda.diffusion.samplers import DPMpp2MSDE
from xsda.labels.layout import Layout
from xsda.nn import WindowUNet
from xsda.nn.boundary import BoundaryConv
from xsda.nn.norm import ChannelNorm
from xsda.sampling import pieces
from xsda.sampling.pieces import place
from xsda.systems import KolmogorovFlow
from xsda.training import TrainingOptions
from xsda.training.loop import Trainer
from xsda.training.networks import make_network
from xsda.training.parallel import Team
from xsda.training.windows import Windows

SIGMA, FRAMES = 0.1, 8
NETWORK: dict[str, dict[str, object]] = {}  # parts c and f
LENGTHS: list[dict[str, object]] = []  # part d
PARTS_COST: list[dict[str, object]] = []  # parts b, e and s


def seconds(function: Callable[[], object], repeat: int = 3) -> float:
    """The best of some runs, after one that does not count."""
    times = []
    for k in range(repeat + 1):
        started = time.perf_counter()
        function()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if k:
            times.append(time.perf_counter() - started)
    return min(times)


def cost(part: str, measure: str, value: float) -> None:
    PARTS_COST.append({"trial": part, "measure": measure, "value": value})


def timed(name: str, what: str, spent: float, first: float) -> None:
    """A row of parts c and f, which share a table."""
    name = name if name.startswith(("ours", "the authors")) else f"ours, {name}"
    row = NETWORK.setdefault(name, {"network": name})
    row |= {f"seconds_{what}": spent, f"speedup_{what}": first / spent}


def observed(seed: int, every: int = 4) -> tuple[xr.Dataset, xr.Dataset]:
    """A truth that no prior was trained with, and every fourth point of it."""
    truth = KolmogorovFlow().simulate(FRAMES, seed=10_000 + seed, coarsen=4)
    points = slice(every // 2, None, every)
    like = truth[["u", "v"]].isel(y=points, x=points)
    return truth, truth.sda.observe(like, sigma=SIGMA, seed=seed)


def part_b(o: argparse.Namespace) -> None:
    truth, obs = observed(0)
    prior = o.prior
    count = 4
    steps = 24
    sampler = DPMpp2MSDE(steps=steps, grid="centered", corrections=1, tau=0.5)
    shape = (count, *prior.bind(truth).shape)
    denoiser = place(prior.denoiser, prior.bind(truth).context(), torch.device(o.device), torch.float32)

    def whole() -> None:
        truth.sda.assimilate(
            obs, prior, members=count, sigma=SIGMA, sampler=sampler, redraw=0, device=o.device, progress=False
        )

    def bare() -> None:
        x, t = torch.randn(shape, device=o.device).requires_grad_(), torch.tensor(0.5, device=o.device)
        for _ in range(sampler.evaluations):
            y = denoiser(x, t)
            torch.autograd.grad(y, x, torch.ones_like(y))

    pairs = [
        (seconds(bare, repeat=1), seconds(whole, repeat=1)) for _ in range(3)
    ]  # in turns: other work disturbs both
    a, b = (min(times) for times in zip(*pairs, strict=True))
    cost("loop around the network", f"{sampler.evaluations} calls of the network alone, s", a)
    cost("loop around the network", "the whole assimilation, s", b)
    cost("loop around the network", "overhead, %", 100 * (b / a - 1))
    print(
        f"\nb. {sampler.evaluations} calls of the network alone {a:.2f} s, the whole assimilation {b:.2f} s: {b / a - 1:+.1%}"
    )


def part_c(o: argparse.Namespace) -> None:
    sizes = {"hidden": (96, 192, 384), "blocks": (3, 3, 3), "features": 64}
    net = WindowUNet(2, 5, boundaries=("periodic", "periodic"), context=1, **sizes).to(o.device).requires_grad_(False)
    for p in net.parameters():
        p.normal_(std=0.02)
    windows = 1 if o.device == "cpu" else 16
    x = torch.randn(windows, 5, 2, 64, 64, device=o.device)
    level, context = torch.zeros((), device=o.device), torch.randn(1, 1, 1, 64, 64, device=o.device)

    def product(call: Callable[[torch.Tensor], torch.Tensor], half: bool = False) -> Callable[[], object]:
        def once() -> object:
            z = x.clone().requires_grad_()
            with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=half):
                y = call(z)
            return torch.autograd.grad(y.float(), z, torch.ones_like(z))

        return once

    ways: dict[str, Callable[[], object]] = {}
    if o.public:
        ways["the authors' network"] = product(in_windows(public(o.public, x)[0]))
    ways["float32"] = product(lambda z: net(z, level, context))
    last = WindowUNet(2, 5, boundaries=("periodic", "periodic"), context=1, **sizes).to(o.device).requires_grad_(False)
    last.load_state_dict(net.state_dict())
    last = last.to(memory_format=torch.channels_last)
    ways["float32, weights channels-last"] = product(lambda z: last(z, level, context))
    ways["bf16"] = product(lambda z: net(z, level, context), half=True)
    ways["bf16, weights channels-last"] = product(lambda z: last(z, level, context), half=True)
    written_out, circular = plainer(net, norm=True), plainer(net, padding=True)
    ways["float32, normalisation written out"] = product(lambda z: written_out(z, level, context))
    ways["float32, torch's circular padding"] = product(lambda z: circular(z, level, context))
    if o.compile:
        compiled = torch.compile(last)
        ways["float32, compiled"] = product(lambda z: compiled(z, level, context))
        ways["bf16, compiled"] = product(lambda z: compiled(z, level, context), half=True)
    trained = WindowUNet(2, 5, boundaries=("periodic", "periodic"), context=1, **sizes).to(o.device)

    def with_weights() -> object:
        y = trained(x.clone().requires_grad_(), level, context)
        return y.sum().backward()

    ways["float32, gradients of the weights as well"] = with_weights
    print(
        f"\nc. forward and product, {sum(p.numel() for p in net.parameters()) / 1e6:.1f} M parameters, {windows} windows\n"
    )
    print("| | seconds | times as fast |\n|---|---|---|")
    first = None
    for name, way in ways.items():
        spent = seconds(way)
        first = first or spent
        timed(name, "forward", spent, first)
        print(f"| {name} | {spent:.3f} | {first / spent:.2f} |", flush=True)


def plainer(net: torch.nn.Module, norm: bool = False, padding: bool = False) -> torch.nn.Module:
    """The same network without what makes its normalisation or its padding cheap."""
    net = deepcopy(net)
    for part in net.modules():
        if norm and isinstance(part, ChannelNorm):
            part.forward = lambda z: (
                (z - z.mean(1, keepdim=True)) * (z.var(1, keepdim=True, correction=0) + 1e-5).rsqrt()
            )
        if padding and isinstance(part, BoundaryConv):
            part.forward = lambda z, c=part.conv: c(functional.pad(z, (1, 1, 1, 1), mode="circular"))
    return net


def public(folder: str, x: torch.Tensor) -> tuple[Callable[..., torch.Tensor], torch.nn.Module]:
    """The network of the paper's experiment from the authors' repository, reading the force, and its parameters."""
    sys.path.insert(0, folder)
    from sda.score import ScoreUNet

    net = ScoreUNet(
        10, context=1, embedding=64, hidden_channels=(96, 192, 384), hidden_blocks=(3, 3, 3), kernel_size=3,
        activation=torch.nn.SiLU, spatial=2, padding_mode="circular",
    ).to(x.device)  # fmt: skip
    force = torch.sin(4 * (torch.arange(64, device=x.device) + 0.5) * (2 * torch.pi / 64)).expand(1, 64, 64)
    print(f"(the authors' network has {sum(p.numel() for p in net.parameters()) / 1e6:.1f} M parameters)")
    return lambda z, t, c=None: net(z, t, force), net


def in_windows(call: Callable[..., torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    """The same on windows (batch, time, channel, *space)."""
    return lambda z: call(z.flatten(1, 2), torch.zeros(len(z), device=z.device)).reshape(z.shape)


def part_d(o: argparse.Namespace) -> None:
    print("\nd. one member, 4 steps (7 evaluations)\n")
    print("| states | seconds | seconds a state | peak memory, GiB |\n|---|---|---|---|")
    for length in (8, 32, 128, 512):
        command = [
            sys.executable,
            "-W",
            "ignore",
            __file__,
            "one",
            "--prior",
            o.prior_name,
            "--device",
            o.device,
            "--length",
            str(length),
            "--room",
            str(o.room),
        ]
        spent, peak = map(float, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
        LENGTHS.append({"states": length, "seconds": spent, "seconds_per_state": spent / length, "memory": peak})
        print(f"| {length} | {spent:.2f} | {spent / length:.4f} | {peak:.2f} |", flush=True)


def part_one(o: argparse.Namespace) -> None:
    """In a process of its own, for its peak memory."""
    pieces.MEMORY = int(o.room * 2**30)
    system = KolmogorovFlow(resolution=64)
    grid = system.label(np.zeros((1, o.length, 2, 64, 64), np.float32)).isel(member=0, drop=True)
    obs = grid[["u", "v"]].isel(time=slice(None, None, 4), x=slice(None, None, 8), y=slice(None, None, 8))
    sampler = DPMpp2MSDE(steps=4, grid="centered", corrections=1, tau=0.5)

    def once() -> None:
        grid.sda.assimilate(
            obs, o.prior, members=1, sigma=SIGMA, sampler=sampler, redraw=0, device=o.device, progress=False
        )

    spent = seconds(once, repeat=1)
    peak = (
        torch.cuda.max_memory_allocated()
        if o.device == "cuda"
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    print(spent, peak / 2**30)


def part_e(o: argparse.Namespace) -> None:
    from distributed import Client, LocalCluster

    truth, obs = observed(0)
    spent = {}
    for workers in (1, 2):
        with LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster):

            def once() -> None:
                truth.sda.assimilate(
                    obs,
                    o.prior,
                    members=o.members,
                    sigma=SIGMA,
                    steps=12,
                    redraw=0,
                    device=o.device,
                    chunks={"member": o.members // 4},
                ).compute()

            spent[workers] = seconds(once, repeat=2)
    case = f"workers, {o.members // 4} members a chunk"
    cost(case, "one worker, s", spent[1])
    cost(case, "two workers, s", spent[2])
    cost(case, "efficiency", spent[1] / spent[2] / 2)
    print(
        f"\ne. {o.members} members in 4 chunks: 1 worker {spent[1]:.1f} s, 2 workers {spent[2]:.1f} s: "
        f"efficiency {spent[1] / spent[2] / 2:.2f}"
    )


def part_f(o: argparse.Namespace) -> None:
    batch = 2 if o.device == "cpu" else 32
    ds = KolmogorovFlow(resolution=64).label(np.random.default_rng(0).normal(size=(8, 32, 2, 64, 64)).astype("f4"))
    layout = Layout.of(ds, context=["forcing"])
    network = {"name": "WindowUNet", "hidden": (96, 192, 384), "blocks": (3, 3, 3)}
    ways: dict[str, Callable[[], object]] = {}
    if o.public:
        call, net = public(o.public, torch.zeros(batch, 5, 2, 64, 64, device=o.device))
        from sda.score import VPSDE

        sde = VPSDE(call, shape=(10, 64, 64)).to(o.device)
        optimizer = torch.optim.AdamW(net.parameters(), lr=2e-4, weight_decay=1e-3)
        x = torch.randn(batch, 10, 64, 64, device=o.device)

        def theirs() -> None:
            optimizer.zero_grad()
            sde.loss(x).backward()
            optimizer.step()

        ways["the authors' network"] = theirs
    for name, settings in {
        "float32": {},
        "bf16": {"precision": "bf16"},
        "bf16, compiled": {"precision": "bf16", "compile": True},
    }.items():
        if settings.get("compile") and not o.compile:
            continue
        options = TrainingOptions(batch_size=batch, learning_rate=2e-4, warmup=0, **settings)
        denoiser = Preconditioned(make_network(network, layout, 5, None), VE(sigma_min=2e-3, sigma_max=80.0))
        trainer = Trainer(denoiser, options, Team.join(o.device))
        samples = trainer.samples(Windows(ds, layout, 5))
        ways[f"ours, {name}"] = lambda trainer=trainer, samples=samples: trainer.update(samples)
    print(f"\nf. training, {batch} windows a step\n\n| | seconds a step | times as fast |\n|---|---|---|")
    first = None
    for name, way in ways.items():
        spent = seconds(way)
        first = first or spent
        timed(name, "training", spent, first)
        print(f"| {name} | {spent:.3f} | {first / spent:.2f} |", flush=True)


def part_s(o: argparse.Namespace) -> None:
    import jax
    import jax.numpy as jnp
    from jax_cfd.base import equations, forcings, funcutils, grids, initial_conditions

    system = KolmogorovFlow()
    grid = grids.Grid((256, 256), domain=((0, 2 * np.pi), (0, 2 * np.pi)))
    force = forcings.simple_turbulence_forcing(
        grid, constant_magnitude=1, constant_wavenumber=4, linear_coefficient=-0.1, forcing_type="kolmogorov"
    )
    step = equations.semi_implicit_navier_stokes(
        grid=grid, forcing=force, dt=0.2 / system.substeps, density=1.0, viscosity=1e-3
    )
    many = funcutils.repeated(step, system.substeps)
    print(f"\ns. a state of {system.substeps} inner steps at 256 x 256")
    for members, loop in ((1, jax.jit(many)), (o.members, jax.jit(jax.vmap(many)))):
        states = system.step(system.initial(members, torch.Generator().manual_seed(0)))
        fields = [
            initial_conditions.filtered_velocity_field(
                jax.random.PRNGKey(k), grid, maximum_velocity=3, peak_wavenumber=4
            )
            for k in range(members)
        ]
        start = fields[0] if members == 1 else jax.tree.map(lambda *x: jnp.stack(x), *fields)

        def bare(loop: Callable[..., object] = loop, start: object = start) -> None:
            jax.block_until_ready(loop(start))

        def ours(states: torch.Tensor = states) -> None:
            system.step(states)

        pairs = [(seconds(bare, repeat=2), seconds(ours, repeat=2)) for _ in range(8)]
        a, b = (min(times) for times in zip(*pairs, strict=True))
        case = f"simulator, {members} state{'s' if members > 1 else ''}"
        cost(case, "jax-cfd alone, s", a)
        cost(case, "KolmogorovFlow.step, s", b)
        print(
            f"{members} at once: jax-cfd alone {a:.4f} s, KolmogorovFlow.step {b:.4f} s: {b / a - 1:+.1%}", flush=True
        )


def write_results(folder: Path) -> None:
    """One table for each group of parts that was run."""

    def numbers(units: dict[str, str], **formats: str) -> dict[str, tuple[str, str]]:
        return {k: (units.get(k, "1"), f) for k, f in formats.items()}

    tables = {
        "kolmogorov_speed_network": (
            list(NETWORK.values()), "How fast is the network of the paper's size, and how fast does it train?",
            {"network": "", **numbers({"seconds_forward": "s", "seconds_training": "s"}, seconds_forward=".3f",
             speedup_forward=".2f", seconds_training="#.3g", speedup_training=".2f")},
        ),
        "kolmogorov_speed_length": (
            LENGTHS, "How do time and memory grow with the length of a trajectory?",
            numbers({"seconds": "s", "seconds_per_state": "s", "memory": "GiB"}, states=".0f", seconds=".3g",
                    seconds_per_state=".3f", memory=".2f"),
        ),
        "kolmogorov_speed_parts": (
            PARTS_COST, "What do the parts of a posterior of turbulence cost?",
            {"trial": "", "measure": "", "value": "see measure"},
        ),
    }  # fmt: skip
    for name, (rows, question, columns) in tables.items():
        if rows:
            record(name, rows, folder=folder, columns=columns, question=question, seed=0)


PARTS = {"b": part_b, "c": part_c, "d": part_d, "e": part_e, "f": part_f, "s": part_s, "one": part_one}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=PARTS)
    parser.add_argument("--prior", dest="prior_name", default="kolmogorov")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--truths", type=int, default=2)
    parser.add_argument("--length", type=int, default=8)
    parser.add_argument("--room", type=float, default=6, help="GiB of activations that are kept, for part d")
    parser.add_argument("--compile", action="store_true", help="also torch.compile in part c")
    parser.add_argument("--public", help="checkout of the authors' code, for parts c and f")
    add_options(parser)
    o = parser.parse_args()
    o.prior = xsda.load_model(o.prior_name)
    for part in o.parts:
        PARTS[part](o)
    write_results(o.results)
