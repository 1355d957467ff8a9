"""Balance a trained prior: measure the energy that its free samples lack at each wavenumber, and correct it."""

from __future__ import annotations

import math

import torch
import xarray as xr
from torch import Tensor
from tqdm import tqdm

from xsda.arguments import choose, whole_number
from xsda.diffusion.anchored import Anchored
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

LENGTH = 8  # states of a sample, unless the prior needs more
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
    """Correct the spectrum of the free samples of a prior to that of ``ds``.

    A network that has not learned all of the small scales makes samples with too little small-scale energy. This
    function draws ``members`` free samples once, finds the noise level at which each wavenumber loses energy, and
    returns a prior that adds it back there. The weights stay the same. It is for fields on grids that are periodic
    along all space axes.

    Parameters
    ----------
    prior
        A prior made by ``xsda.train``.
    ds
        Its training data, which are read in pieces.
    members
        Number of free samples. More samples give less noise: 64 samples of 64 x 64 points determine the rates to a few
        hundredths.
    seed
        Seed of the free samples.
    device
        "auto", "cpu" or "cuda".
    precision
        "float32", "bf16" or "fp16".
    progress
        Show a progress bar.

    Returns
    -------
    Prior
        The corrected prior. ``unbalanced()`` returns the original.

    Examples
    --------

    >>> truth = xsda.systems.Lorenz96().simulate(length=16, seed=0)
    >>> prior = xsda.balance(xsda.load_model("lorenz96"), truth, members=4, progress=False)  # doctest: +SKIP
    """
    plain = prior.unbalanced().denoiser
    if not isinstance(plain, Preconditioned):
        raise ValueError("a prior in closed form already has the correct spectrum; only trained priors are balanced")
    if isinstance(plain, Anchored):
        raise ValueError("an anchored prior has the spectrum of its Gaussian; train it with anchor=False to balance it")
    check_balance(prior.layout)
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
    """Raise if the space axes have no Fourier modes to balance.

    Parameters
    ----------
    layout
        Variables and axes of the prior.

    Examples
    --------
    >>> from xsda.training.balancing import check_balance
    >>> check_balance(xsda.load_model("lorenz96").layout)
    """
    walls = [a.name for a in layout.space if a.period is None]
    if walls or not layout.space:
        what = f"these have ends: {', '.join(walls)}" if walls else "this prior has no space axes"
        raise ValueError(
            f"balancing needs fields that are periodic along all space axes, and {what}; omit balance. If an axis is "
            "periodic, name it in periodic=[...] when training"
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
    """Measure the correction on free samples.

    Parameters
    ----------
    denoiser
        Denoiser without correction.
    windows
        Windows of the training data. Samples are as long as these, and use their contexts.
    members, seed, device, precision, progress
        As for ``balance``.

    Returns
    -------
    Balance
        The correction.
    """
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
    """A denoiser that evaluates ``size`` members at a time, each with its context, to save memory.

    Parameters
    ----------
    denoiser
        The denoiser.
    contexts
        Context of each member, or one for all (None: no context).
    size
        Number of members in one evaluation.
    """

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
    """Contexts of ``members`` windows."""
    if windows.context is None:
        return None
    if not windows.dated:
        return windows.context[None]
    parts: list[Tensor] = []
    for _, context in windows.batches(members, seed):
        assert context is not None
        parts.append(context)
        if sum(map(len, parts)) >= members:
            return torch.cat(parts)[:members]
    raise AssertionError("batches are endless")
