"""Which network for the same cost? Each is trained for as many minutes on one core, and judged on the same windows.

    OMP_NUM_THREADS=1 python benchmarks/kolmogorov_networks.py kolmogorov-data.zarr --minutes 10

Two judges. The denoising error of trajectories of 16 states at several noise levels (windows composed where a network takes
windows), as a share of what the best linear denoiser of white noise leaves: lower is better. And the posterior: fair CRPS of
the vorticity of two unseen trajectories of 16 states, of which every 4th point is observed with an error of 0.1 (default
settings, 8 members), beside the processor time of a member.
"""

import argparse
import math
import time
from copy import deepcopy

import torch
import xarray as xr
from record import add_options, record
from torch import Tensor, nn
from torch.nn import functional

import xsda
from xsda import flow
from xsda.diffusion import VE, Preconditioned
from xsda.diffusion.samplers import NonFiniteSampleError
from xsda.labels.layout import Layout
from xsda.nn import MarkovNet, WindowUNet
from xsda.nn.norm import ChannelNorm
from xsda.training.networks import make_network
from xsda.training.windows import Windows, fit_scaling, split

LEVELS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


class Attention(nn.Module):
    """Every position of a level looks at all others of its state, or of its window, with 4 heads. Starts as the identity."""

    def __init__(self, width: int):
        super().__init__()
        self.norm, self.ask, self.answer = ChannelNorm(), nn.Conv2d(width, 3 * width, 1), nn.Conv2d(width, width, 1)
        nn.init.zeros_(self.answer.weight)

    def forward(self, x: Tensor | list[Tensor], *_: object) -> Tensor | list[Tensor]:
        if isinstance(x, list):
            return [self(piece) for piece in x]
        heads = self.ask(self.norm(x)).flatten(2).unflatten(1, (12, -1)).transpose(-1, -2)
        out = functional.scaled_dot_product_attention(*heads.chunk(3, dim=1))
        return x + self.answer(out.transpose(-1, -2).reshape(x.shape))


class GroupNorm(nn.Module):
    """Eight groups of channels, each over all positions of a state."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.group_norm(x, 8)


class Patches(nn.Module):
    """A network on windows that reads squares of 2 x 2 points."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, log_noise: Tensor, context: Tensor | None = None) -> Tensor:
        context = None if context is None else functional.pixel_unshuffle(context, 2)
        return functional.pixel_shuffle(self.net(functional.pixel_unshuffle(x, 2), log_noise, context), 2)


def attending(net: nn.Module) -> nn.Module:
    """With attention after the blocks of the coarsest level."""
    unet = net.local.unet if isinstance(net, MarkovNet) else net
    unet.encode[-1].append(Attention(unet.down[-1].conv.out_channels))
    return net


def grouped(net: nn.Module) -> nn.Module:
    """Normalised over groups of channels and all positions, instead of over the channels of each position."""
    for part in net.modules():
        if isinstance(getattr(part, "norm", None), ChannelNorm):
            part.norm = GroupNorm()
    return net


def patched(net: nn.Module) -> nn.Module:
    """On windows, with patches."""
    config = net.local.config
    config = {**config, "channels": 4 * config["channels"], "context": 4 * config["context"]}
    return MarkovNet(Patches(WindowUNet(**config)), net.order)


NETWORKS = {  # window, network, options of the training
    "space-time UNet, 32-64-128, patches of 2": (16, {"name": "SpaceTimeUNet"}, {}),
    "space-time UNet, 64-128-256, patches of 2": (16, {"name": "SpaceTimeUNet", "hidden": (64, 128, 256)}, {}),
    "space-time UNet, 48-96-192, patches of 2": (16, {"name": "SpaceTimeUNet", "hidden": (48, 96, 192)}, {}),
    "windows of 5, UNet 32-64-128": (5, {"name": "WindowUNet"}, {}),
    "windows of 5, UNet 16-32-64": (5, {"name": "WindowUNet", "hidden": (16, 32, 64)}, {}),
    "space-time UNet, 16-32-64, no patches": (16, {"name": "SpaceTimeUNet", "hidden": (16, 32, 64), "patch": 1}, {}),
    "the first, predicting noise": (16, {"name": "SpaceTimeUNet"}, {"parameterization": "eps"}),
    "the first, noise levels around 0.3": (16, {"name": "SpaceTimeUNet"}, {"noise_center": 0.3, "noise_width": 1.7}),
    "the first, with attention": (16, {"name": "SpaceTimeUNet"}, {"change": attending}),
    "the first, with group normalisation": (16, {"name": "SpaceTimeUNet"}, {"change": grouped}),
    "windows of 5, with attention": (5, {"name": "WindowUNet"}, {"change": attending}),
    "windows of 5, patches of 2": (5, {"name": "WindowUNet"}, {"change": patched}),
    "windows of 9": (9, {"name": "WindowUNet"}, {}),
    "space-time UNet, 16-32-64-128, one block at all points": (
        16,
        {"name": "SpaceTimeUNet", "hidden": (16, 32, 64, 128), "blocks": (1, 2, 2, 2), "patch": 1},
        {},
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--steps", type=int, help="so many instead, where the machine is too busy to time them")
    parser.add_argument("--precision", default="bf16", choices=("bf16", "float32"))
    parser.add_argument("--seeds", type=int, default=1, help="so many of each, and their pool with 8 members from each")
    parser.add_argument("--networks", default="0,1,2,3,4,5,6,7,8,9,10,11,12,13")
    add_options(parser, "kolmogorov_networks")
    a = parser.parse_args()
    rows: list[dict[str, object]] = []
    torch.set_num_threads(1)
    ds = xr.open_zarr(a.data, chunks=None)
    layout = Layout.of(ds, context=["forcing"])
    training, held_out, unseen = split(ds, layout, 16)
    layout = fit_scaling(training, layout)
    judge = Windows(held_out, layout, 16)
    x0, context = next(judge.batches(16, seed=2))
    print(
        "| | parameters, M | steps | states seen | ms a state | "
        + " | ".join(f"{s:g}" for s in LEVELS)
        + " | mean | CRPS | s a member |"
    )
    print("|---|---|---|---|---|" + "---|" * (len(LEVELS) + 3), flush=True)
    for number in map(int, a.networks.split(",")):
        name, (window, network, more) = list(NETWORKS.items())[number]
        change = more.pop("change", lambda net: net)
        batch = 96 // window
        options = {"window": window, "batch_size": batch, "context": ["forcing"], "optimizer": "muon", "learning_rate": 4e-3,
                   "noise_center": 1.0, "noise_width": 1.8, "precision": a.precision, "warmup": 100, "ema": 0.99,
                   "validation_batches": 1, "validate_every": 10**6, "progress": False, **more}  # fmt: skip
        priors = []
        for seed in range(a.seeds):
            torch.manual_seed(seed)
            net = change(make_network(network, layout, window, None))
            if not priors:
                spent = step_time(deepcopy(net), window, batch, x0, context, a.precision)
                steps = a.steps or max(1, round(60 * a.minutes / spent))
            priors.append(xsda.train(ds, steps=steps, network=net, seed=seed, **options))
            denoiser = priors[-1].denoiser.conditioned(context[:1])
            scores = [share(denoiser, x0, s) for s in LEVELS]
            started = time.process_time()
            with torch.no_grad():
                denoiser(x0[:2], torch.tensor(0.5))
            cost = (time.process_time() - started) / 32 * 1e3
            crps, spent_each = posterior(priors[-1], unseen, a.precision)
            row = {"network": name, "seed": seed, "parameters": priors[-1].info["parameters"] / 1e6, "steps": steps,
                   "states_seen": steps * batch * window, "ms_per_state": cost,
                   **{f"error_{s:g}": e for s, e in zip(LEVELS, scores, strict=True)},
                   "error_mean": sum(scores) / len(scores), "crps": crps, "seconds_per_member": spent_each}  # fmt: skip
            finite = {k: v for k, v in row.items() if isinstance(v, str) or math.isfinite(v)}
            rows.append(finite if "crps" in finite else finite | {"remark": "diverges"})
            print(
                f"| {name} | {priors[-1].info['parameters'] / 1e6:.2f} | {steps} | {steps * batch * window} | {cost:.1f} | "
                + " | ".join(f"{s:.4f}" for s in scores)
                + f" | {sum(scores) / len(scores):.4f} | "
                + f"{crps:.3f} | {spent_each:.3f} |",
                flush=True,
            )
        if a.seeds > 1:
            crps, cost = posterior(priors, unseen, a.precision, 8 * a.seeds)
            rows.append({"network": f"{name}, pool of {a.seeds}", "crps": crps, "seconds_per_member": cost})
            print(
                f"the pool of these {a.seeds}, {8 * a.seeds} members: CRPS {crps:.3f}, {cost:.3f} s a member",
                flush=True,
            )
    formats = {"seed": ".0f", "parameters": ".2f", "steps": ".0f", "states_seen": ",.0f", "ms_per_state": ".1f",
               **{f"error_{s:g}": ".3f" for s in LEVELS}, "error_mean": ".3f", "crps": ".3f",
               "seconds_per_member": ".1f"}  # fmt: skip
    units = {"parameters": "10^6", "ms_per_state": "ms", "seconds_per_member": "s"}
    record(
        a.name, rows, folder=a.results, seed=0, question="Which network is better for the same training?",
        columns={"network": "", "remark": "", **{k: (units.get(k, "1"), f) for k, f in formats.items()}},
    )  # fmt: skip


def posterior(
    prior: xsda.Prior | list[xsda.Prior], unseen: xr.Dataset, precision: str, members: int = 8
) -> tuple[float, float]:
    """Mean CRPS of two cases, and seconds of the processor a member; not numbers where members diverge."""
    scores, started = [], time.process_time()
    for i in range(2):
        truth = unseen.isel(trajectory=i, time=slice(16), drop=True)
        points = slice(2, None, 4)
        obs = truth.sda.observe(truth[["u", "v"]].isel(y=points, x=points), sigma=0.1, seed=i)
        try:
            post = truth.sda.assimilate(obs, prior, members=members, sigma=0.1, precision=precision, progress=False)
        except NonFiniteSampleError:
            return math.nan, math.nan
        w, right = (flow.vorticity(d).to_dataset(name="w") for d in (post, truth))
        scores.append(float(xsda.evaluate(w, right).isel(variable=0).crps))
    return sum(scores) / 2, (time.process_time() - started) / (2 * members)


def step_time(
    net: torch.nn.Module, window: int, batch: int, x0: torch.Tensor, context: torch.Tensor, precision: str
) -> float:
    """Processor time of a training step."""
    denoiser = Preconditioned(net, VE(sigma_min=2e-3, sigma_max=80.0)).conditioned(context[:1])
    x = x0[0, :window].expand(batch, -1, -1, -1, -1)
    times = []
    for _ in range(4):
        started = time.process_time()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            loss = denoiser(x, torch.full((batch,), 0.5)).square().mean()
        loss.backward()
        times.append(time.process_time() - started)
    return 1.05 * min(times)


@torch.no_grad()
def share(denoiser: Preconditioned, x0: torch.Tensor, level: float) -> float:
    """Mean squared error at a noise level over s^2 / (1 + s^2)."""
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    t = denoiser.schedule.time(torch.tensor(level, dtype=torch.float64))
    error = torch.cat(
        [
            denoiser(denoiser.schedule.add_noise(x, t, n), t) - x
            for x, n in zip(x0.split(2), noise.split(2), strict=True)
        ]
    )
    return float(error.square().mean()) / (level**2 / (1 + level**2))


if __name__ == "__main__":
    main()
