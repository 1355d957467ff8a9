"""Computes a block of members: draws them, draws poor ones again, and converts them to the user's units."""

from __future__ import annotations

import contextlib
import math
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xsda.arguments import warn
from xsda.diffusion.anchored import Anchored
from xsda.diffusion.balance import Balanced
from xsda.diffusion.denoisers import Denoiser
from xsda.diffusion.noise import MemberNoise
from xsda.diffusion.samplers import NonFiniteSampleError, Sampler
from xsda.files import SharedFile
from xsda.guidance import Guidance, GuidedDenoiser
from xsda.labels.climatology import StateScaling
from xsda.labels.grid import Field
from xsda.likelihood import Likelihood
from xsda.priors.eof import EofDenoiser
from xsda.priors.prior import Prior
from xsda.priors.reference import PriorReference
from xsda.sampling.blocks import Shared, shared
from xsda.sampling.choose import pick_guidance
from xsda.sampling.devices import pick_device
from xsda.sampling.hold import hold
from xsda.sampling.pieces import MEMORY, in_pieces, place
from xsda.sampling.redraw import draw_again, modes
from xsda.sampling.shipping import Shipment

DIVERGED = 100.0  # members beyond this many standard deviations have diverged
HELD = 0.5  # share of the energy correction with observations, which constrain the large scales (docs/kolmogorov.md)

Advance = Callable[[int], None]


@dataclass(frozen=True, eq=False)
class SamplingTask:
    """Draws members of the prior, or of the posterior if there is a likelihood.

    ``factor`` multiplies the variances of a prior with patterns. ``past`` holds the first states (known, channel,
    *space) of each member, if they are known. ``shipment`` holds (likelihood or None, context or None, scaling).
    """

    prior: Prior | PriorReference
    shape: tuple[int, ...]
    fields: tuple[Field, ...]
    sampler: Sampler
    guidance: Guidance | None
    shipment: Shipment
    seed: int
    device: str
    precision: str
    redraw: int = 0
    factor: float = 1.0
    past: Mapping[int, Tensor] | None = None
    key: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def token(self) -> str:
        """A hash of everything that the members depend on."""
        from dask.base import tokenize

        return str(tokenize(
            self.prior, self.shape, self.fields, str(self.sampler), str(self.guidance), self.shipment.hash, self.seed,
            self.device, self.precision, self.redraw, self.factor,
        ))  # fmt: skip

    @property
    def files(self) -> list[SharedFile]:
        """The files that workers need."""
        prior = [self.prior.file] if isinstance(self.prior, PriorReference) else []
        return prior + [file for file in (self.shipment.file,) if file is not None]

    @property
    def steps(self) -> int:
        return self.sampler.steps

    @property
    def notes(self) -> tuple[str, ...]:
        return self.sampler.notes

    @property
    def group(self) -> int:
        """Number of members that must be sampled together."""
        return self.sampler.population

    @property
    def shared(self) -> Shared:
        """What the blocks of this ensemble share in this process."""
        return shared(self.key)

    def __call__(self, members: Sequence[int], advance: Advance | None = None) -> list[np.ndarray]:
        """Compute these members: one array for each variable, then one for each note."""
        run = Run.of(self)
        x, notes = run.draw(members, 0, advance)
        if run.likelihood is not None:
            attempts = 0 if run.prior.exact or self.sampler.population > 1 else self.redraw
            if self.past is not None:  # members differ in what they know, so each is compared with what is expected
                self.shared.best = float(run.likelihood.y.numel()), math.inf
            again = draw_again(
                x, run.likelihood, members, attempts, lambda wanted, attempt: run.draw(wanted, attempt, advance)[0],
                run.settle, self.shared,
            )  # fmt: skip
            self.warn("misfit", again)
        run.check_far(x, members)
        values = run.scaling.to_units(x.double().cpu().numpy())
        return [f(values) for f in self.fields] + [notes[k].float().cpu().numpy() for k in self.notes]

    def warn(self, key: str, text: str | None) -> None:
        """Warn once for each key, however many batches there are."""
        if text is not None and key not in self.shared.warned:
            self.shared.warned.add(key)
            warn(text)


@dataclass(frozen=True, eq=False)
class Run:
    """A task with its prior and likelihood on the device."""

    task: SamplingTask
    prior: Prior
    denoiser: Denoiser
    likelihood: Likelihood | None
    scaling: StateScaling
    device: torch.device
    dtype: torch.dtype

    @classmethod
    def of(cls, task: SamplingTask) -> Run:
        """Load the prior and the likelihood and put them on the device."""
        prior = task.prior.load() if isinstance(task.prior, PriorReference) else task.prior
        likelihood, context, scaling = task.shipment.load()
        device = pick_device(task.device)
        dtype = torch.float64 if task.precision == "float64" else torch.float32
        own = prior.denoiser
        if isinstance(own, EofDenoiser | Anchored) and task.factor != 1.0:
            own = own.times(task.factor)
        placed = place(own, context, device, dtype)
        denoiser = in_pieces(placed, task.shape, context, MEMORY >> task.shared.halved)
        if likelihood is not None:
            likelihood = likelihood.to(device, dtype)
            if isinstance(denoiser, Balanced):
                denoiser = denoiser.times(HELD)
        return cls(task, prior, denoiser, likelihood, scaling, device, dtype)

    def draw(
        self, wanted: Sequence[int], attempt: int, advance: Advance | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Draw members, with the sampler's notes on them.

        If the sampler uses weighted particles, whole populations are sampled.
        """
        task = self.task
        size = task.sampler.population
        everyone = (
            [size * p + k for p in sorted({m // size for m in wanted}) for k in range(size)] if size > 1 else wanted
        )
        guided, likelihood = self.denoiser, self.likelihood
        if task.past is not None:
            past = torch.stack([task.past[m] for m in everyone]).to(self.device, self.dtype)
            guided, likelihood = hold(guided, likelihood, past)
        if likelihood is not None:
            assert task.guidance is not None
            guided = task.guidance.guide(guided, likelihood, self.prior.error)
        noise = MemberNoise(task.seed, everyone, task.shape, attempt=attempt, device=self.device, dtype=self.dtype)
        notes: dict[str, Tensor] = {}
        with autocast("auto" if self.prior.exact else task.precision, self.device):
            x = task.sampler.sample(guided, noise, callback=advance, notes=notes)
        if isinstance(guided, GuidedDenoiser):
            task.warn("guidance", guided.complaint())
        task.warn("sampler", task.sampler.complaint(notes))
        place_of = {m: i for i, m in enumerate(everyone)}
        rows = [place_of[m] for m in wanted]
        return x[rows], {k: v[rows] for k, v in notes.items()}

    def settle(self, x: Tensor) -> Tensor:
        """Move members to the modes of the posterior."""
        assert self.likelihood is not None
        with autocast(self.task.precision, self.device):
            guidance = pick_guidance("auto", self.prior)
            return modes(x, guidance.guide(self.denoiser, self.likelihood, self.prior.error))

    def check_far(self, x: Tensor, members: Sequence[int]) -> None:
        """Raise if a member is far outside the range of the prior and of the observations."""
        bound = DIVERGED
        if self.prior.exact and float(x.abs().max()) > DIVERGED:  # means and observations may be that large
            mean = self.denoiser(torch.zeros_like(x[:1]), torch.ones((), dtype=torch.float64))
            bound *= max(1.0, float(mean.abs().max()))
            bound = bound if self.likelihood is None else max(bound, DIVERGED * float(self.likelihood.y.abs().max()))
        far = (x.flatten(1).abs() > bound).any(1).nonzero().flatten().tolist()
        if far:
            raise NonFiniteSampleError(
                f"member {', '.join(str(members[i]) for i in far[:8])} diverged (more than {bound:.3g} standard "
                "deviations from the mean). Try more steps, corrections, or the default guidance (guidance='auto')"
            )


def autocast(precision: str, device: torch.device) -> Any:
    """Return the context in which networks compute in half precision, if ``precision`` asks for it."""
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    return torch.autocast(device.type, dtype=half) if half else contextlib.nullcontext()
