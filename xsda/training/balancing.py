"""Balance a trained prior: see what its free samples lose in each wavenumber, and have it given back."""

from __future__ import annotations

import math

import torch
import xarray as xr
from torch import Tensor
from tqdm import tqdm

from xsda.arguments import choose, whole_number
from xsda.diffusion.balance import Balance, Balanced, measure_balance, power
from xsda.diffusion.denoisers import Denoiser, Preconditioned
from xsda.diffusion.noise import MemberNoise
from xsda.labels.layout import Layout
from xsda.priors.prior import Prior
from xsda.sampling.devices import pick_device
from xsda.sampling.options import BATCH_NUMBERS
from xsda.sampling.pieces import place
from xsda.training.training_options import PRECISIONS
from xsda.training.windows import Windows

LENGTH = 8  # states of the samples, or as many as the prior needs
STEPS = 64


def balance(
    prior: Prior,
    ds: xr.Dataset,
    *,
    members: int = 64,
    seed: int = 0,
    device: str = "auto",
    precision: str = "float32",
    progress: bool = True,
) -> Prior:
    """The same prior, whose free samples have the spectrum of ``ds``.

    A network that has not learnt all there is to know of the small scales makes samples that have too little of them. This draws
    ``members`` free samples once, finds at which noise level each wavenumber loses energy, and returns a prior that
    gives it back there; the weights stay. For fields on grids that are periodic along all space axes.

    Parameters
    ----------
    prior
        Made by ``xsda.train``.
    ds
        Its training data, read in pieces.
    members
        More of them make less noise: 64 members of 64 x 64 points tell the rates to a few hundredths.
    precision
        "float32", "bf16" or "fp16".
    """
    check_balance(prior.layout)
    plain = prior.unbalanced().denoiser
    if not isinstance(plain, Preconditioned):
        raise ValueError("a prior in closed form has the right spectrum; only trained priors are balanced")
    if precision not in PRECISIONS:
        raise ValueError(f"unknown precision {precision!r}; {choose(precision, PRECISIONS)}")
    members, seed = whole_number("members", members, least=1), whole_number("seed", seed, least=0)
    length = max(prior.window, min(LENGTH, ds.sizes.get(prior.layout.time, LENGTH)))
    windows = Windows(ds, prior.layout, length)
    found = find_balance(
        plain, windows, members=members, seed=seed, device=pick_device(device), precision=precision, progress=progress
    )  # fmt: skip
    return Prior(
        Balanced(plain, found),
        prior.layout,
        window=prior.window,
        length=prior.length,
        error=prior.error,
        info={**prior.info, "balanced_over": members},
        name=prior.name,
    )


def check_balance(layout: Layout) -> None:
    """Raise where there are no Fourier modes to balance."""
    walls = [a.name for a in layout.space if a.period is None]
    if walls or not layout.space:
        what = f"these have ends: {', '.join(walls)}" if walls else "this prior has no space axes"
        raise ValueError(
            f"balancing needs fields that are periodic along all space axes, and {what}; leave balance out, or name the axis "
            "in periodic=[...] when training, if it is a ring"
        )


def find_balance(
    denoiser: Preconditioned,
    windows: Windows,
    *,
    members: int,
    seed: int,
    device: torch.device,
    precision: str,
    progress: bool,
) -> Balance:
    """Measure it on free samples as long as the windows, in the contexts of windows of the data."""
    count, spectrum = 0, torch.zeros((), dtype=torch.float64)
    for piece in windows.pieces:
        x = windows.read(piece)
        states = x.shape[0] * x.shape[1]
        spectrum, count = spectrum + power(x) * states, count + states
    shape = (windows.window, *windows.grid.shape[1:])
    placed = place(denoiser, None, device, torch.float32)
    free = InParts(placed, _contexts(windows, members, seed), max(1, BATCH_NUMBERS // math.prod(shape)))
    draw = MemberNoise(seed, range(members), shape, device=device, dtype=torch.float32)
    half = PRECISIONS[precision]
    with (
        tqdm(total=STEPS - 1, desc="balancing", unit="step", disable=not progress) as bar,
        torch.autocast(device.type, dtype=half, enabled=half is not None),
    ):
        return measure_balance(free, spectrum / count, shape, draw, steps=STEPS, callback=lambda _: bar.update())


class InParts(Denoiser):
    """A denoiser that takes ``size`` members at once, each in its context: activations of all of them need not fit."""

    def __init__(self, denoiser: Denoiser, contexts: Tensor | None, size: int):
        super().__init__()
        self.denoiser, self.schedule, self.contexts, self.size = denoiser, denoiser.schedule, contexts, size

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        parts = x_t.split(self.size)
        contexts = [None] * len(parts) if self.contexts is None else self.contexts.to(x_t).split(self.size)
        if len(contexts) < len(parts):  # one for all
            contexts = contexts * len(parts)
        return torch.cat([self.denoiser.conditioned(c)(x, t) for x, c in zip(parts, contexts, strict=True)])


def _contexts(windows: Windows, members: int, seed: int) -> Tensor | None:
    """What the network reads beside the states, of so many windows."""
    if windows.context is None:
        return None
    if len(windows.context) == 1:
        return windows.context[None]
    parts: list[Tensor] = []
    for _, context in windows.batches(members, seed):
        assert context is not None
        parts.append(context)
        if sum(map(len, parts)) >= members:
            return torch.cat(parts)[:members]
    raise AssertionError("batches are endless")
