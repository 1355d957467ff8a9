"""The prior and the likelihood of a task on one device. They go there once, not once for each batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from xsda.diffusion.anchored import Anchored
from xsda.diffusion.balance import Balanced
from xsda.diffusion.denoisers import Denoiser
from xsda.diffusion.noise import MemberNoise
from xsda.labels.climatology import StateScaling
from xsda.likelihood import Likelihood
from xsda.priors.eof import EofDenoiser
from xsda.priors.prior import Prior
from xsda.priors.reference import PriorReference
from xsda.sampling.fast import TOLERANCE, disagreement, faster
from xsda.sampling.pieces import MEMORY, in_pieces, place

if TYPE_CHECKING:
    from xsda.sampling.task import SamplingTask

HELD = 0.5  # share of the energy correction with observations, which constrain the large scales (docs/kolmogorov.md)


@dataclass(frozen=True, eq=False)
class Placed:
    """What a task needs on a device. ``halved``: how often the memory for activations was halved before."""

    prior: Prior
    denoiser: Denoiser
    likelihood: Likelihood | None
    scaling: StateScaling
    device: torch.device
    dtype: torch.dtype
    halved: int

    @classmethod
    def of(cls, task: SamplingTask, device: torch.device, warn: Callable[[str, str], None]) -> Placed:
        """Load the prior and the likelihood of a task and put them on a device."""
        prior = task.prior.load() if isinstance(task.prior, PriorReference) else task.prior
        likelihood, context, scaling = task.shipment.load()
        dtype = torch.float64 if task.precision == "float64" else torch.float32
        own, halved = prior.denoiser, task.shared.halved
        if isinstance(own, EofDenoiser | Anchored) and task.factor != 1.0:
            own = own.times(task.factor)
        denoiser = in_pieces(place(own, context, device, dtype), task.shape, context, MEMORY >> halved)
        if likelihood is not None:
            likelihood = likelihood.to(device, dtype)
            if isinstance(denoiser, Balanced):
                denoiser = denoiser.times(HELD)
        fast = faster(denoiser, task.precision, task.compile)
        if fast is not denoiser:
            draw = MemberNoise(task.seed, [0, 1], task.shape, device=device, dtype=dtype)
            found = disagreement(fast, denoiser, prior.error, draw, gradient=likelihood is not None)
            if found > TOLERANCE:
                warn("fast", _told(task, found))
            else:
                denoiser = fast
        return cls(prior, denoiser, likelihood, scaling, device, dtype, halved)


def _told(task: SamplingTask, found: float) -> str:
    options = [f"precision={task.precision!r}"] * (task.precision != "auto") + ["compile=True"] * task.compile
    share = f"differs by {found:.0%} of the error of the prior" if math.isfinite(found) else "fails"
    return f"the network with {' and '.join(options)} {share}; it is computed in float32, without compiling"
