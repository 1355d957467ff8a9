"""Computes a block of members: draws them, draws poor ones again, and converts them to the user's units."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
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
from xsda.sampling.devices import on, pick_device, to_host
from xsda.sampling.half import in_half
from xsda.sampling.hold import Pinned, hold
from xsda.sampling.pieces import MEMORY, in_pieces, place
from xsda.sampling.redraw import draw_again, modes
from xsda.sampling.shipping import Shipment

DIVERGED = 100.0  # members beyond this many standard deviations have diverged
HELD = 0.5  # share of the energy correction with observations, which constrain the large scales (docs/kolmogorov.md)
FIT = 1.5  # chi-square over its mean up to which quick draws of fields are kept
KEPT = 2  # ensembles whose weights stay on the devices of a dask worker
_WARNING = threading.Lock()

Advance = Callable[[int], None]


@dataclass(frozen=True, eq=False)
class Placed:
    """The prior and the likelihood of a task on one device. They go there once, not once for each batch.

    ``halved`` is how often the memory for activations was halved before.
    """

    prior: Prior
    denoiser: Denoiser
    likelihood: Likelihood | None
    scaling: StateScaling
    device: torch.device
    dtype: torch.dtype
    halved: int

    @classmethod
    def of(cls, task: SamplingTask, device: torch.device) -> Placed:
        """Load the prior and the likelihood of a task and put them on a device."""
        prior = task.prior.load() if isinstance(task.prior, PriorReference) else task.prior
        likelihood, context, scaling = task.shipment.load()
        dtype = torch.float64 if task.precision == "float64" else torch.float32
        own, halved = prior.denoiser, task.shared.halved
        if isinstance(own, EofDenoiser | Anchored) and task.factor != 1.0:
            own = own.times(task.factor)
        placed = place(own, context, device, dtype)
        denoiser = in_pieces(placed, task.shape, context, MEMORY >> halved, task.tiles)
        if likelihood is not None:
            likelihood = likelihood.to(device, dtype)
            if isinstance(denoiser, Balanced):
                denoiser = denoiser.times(HELD)
        draw = partial(MemberNoise, task.seed, [0], task.shape, device=device, dtype=dtype)
        guided = likelihood is not None or task.past is not None
        denoiser, complaint = in_half(denoiser, task.precision, prior.error, draw, gradient=guided)
        task.warn("precision", complaint)
        return cls(prior, denoiser, likelihood, scaling, device, dtype, halved)


@dataclass(frozen=True, eq=False)
class SamplingTask:
    """Draws members of the prior, or of the posterior if there is a likelihood.

    ``quick`` is a cheaper sampler for first draws; members that do not fit the observations are drawn with ``sampler``.
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
    device: str | Sequence[str]
    precision: str
    redraw: int = 0
    factor: float = 1.0
    past: Mapping[int, Tensor] | None = None
    tiles: tuple[int | None, ...] | None = None
    quick: Sampler | None = None
    key: str = field(default_factory=lambda: uuid.uuid4().hex)
    places: dict[torch.device, Placed] = field(default_factory=dict)  # freed with the task

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k != "places"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, places=_places(state["key"]))

    @property
    def token(self) -> str:
        """A hash of everything that the members depend on."""
        from dask.base import tokenize

        return str(tokenize(
            self.prior, self.shape, self.fields, str(self.sampler), str(self.guidance), self.shipment.hash, self.seed,
            self.device, self.precision, self.redraw, self.factor, self.tiles, str(self.quick),
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
    def careful(self) -> int:
        """The attempt from which on ``sampler`` draws, and not ``quick``."""
        if self.quick is None:
            return 0
        return self.redraw + 1 if len(self.shape) < 4 else 1

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
        device = pick_device(self.device)
        with on(device):
            run = Run(self, self.placed(device))
            x, notes = run.draw(members, 0, advance)
            if run.placed.likelihood is not None:
                attempts = 0 if run.placed.prior.exact or self.sampler.population > 1 else self.redraw
                if self.past is not None:  # members differ in what they know, so each is compared with what is expected
                    self.shared.best = (float(run.placed.likelihood.y.numel()),) * 2
                again = draw_again(
                    x, run.placed.likelihood, members, attempts,
                    lambda wanted, attempt: run.draw(wanted, attempt, advance)[0], run.settle, self.shared,
                    self.careful,
                )  # fmt: skip
                self.warn("misfit", again)
            run.check_far(x, members)
            x, *found = to_host(x, *(notes[k].float() for k in self.notes))
        values = run.placed.scaling.to_units(x.double().numpy())
        return [f(values) for f in self.fields] + [v.numpy() for v in found]

    def placed(self, device: torch.device) -> Placed:
        """Return the prior and the likelihood on a device."""
        found = self.places.get(device)
        if found is None or found.halved != self.shared.halved:
            found = None
            self.places.pop(device, None)  # first, to make room
            self.places[device] = found = Placed.of(self, device)
        return found

    def warn(self, key: str, text: str | None) -> None:
        """Warn once for each key, however many batches there are."""
        if text is None:
            return
        with _WARNING:
            known = key in self.shared.warned
            self.shared.warned.add(key)
        if not known:
            warn(text)


@lru_cache(maxsize=KEPT)
def _places(key: str) -> dict[torch.device, Placed]:
    """Return what is placed for an ensemble in a dask worker, where each block brings a copy of the task."""
    return {}


@dataclass(frozen=True, eq=False)
class Run:
    """A task on a device."""

    task: SamplingTask
    placed: Placed

    def draw(
        self, wanted: Sequence[int], attempt: int, advance: Advance | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Draw members, with the sampler's notes on them."""
        task, likelihood = self.task, self.placed.likelihood
        if task.quick is None or attempt >= task.careful:
            return self._drawn(task.sampler, wanted, attempt, advance)
        try:
            x, notes = self._drawn(task.quick, wanted, attempt, advance)
        except NonFiniteSampleError:  # of some member: the others must not depend on it
            if len(wanted) == 1:
                return self._drawn(task.sampler, wanted, attempt, advance)
            return torch.cat([self.draw([m], attempt, advance)[0] for m in wanted]), {}
        if likelihood is None or len(task.shape) < 4:  # members of series are judged by each other (draw_again)
            return x, notes
        poor = (~(likelihood.deviance(x) <= FIT * likelihood.y.numel())).nonzero().flatten().tolist()
        if poor:
            x[poor] = self._drawn(task.sampler, [wanted[i] for i in poor], attempt, advance)[0]
        return x, notes

    def _drawn(
        self, sampler: Sampler, wanted: Sequence[int], attempt: int, advance: Advance | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Draw members with this sampler. If it uses weighted particles, whole populations are sampled."""
        task = self.task
        size = sampler.population
        everyone = (
            [size * p + k for p in sorted({m // size for m in wanted}) for k in range(size)] if size > 1 else wanted
        )
        placed = self.placed
        guided, likelihood = placed.denoiser, placed.likelihood
        if task.past is not None:
            past = torch.stack([task.past[m] for m in everyone]).to(placed.device, placed.dtype)
            guided, likelihood = hold(guided, likelihood, past)
        if likelihood is not None:
            assert task.guidance is not None
            guided = task.guidance.guide(guided, likelihood, placed.prior.error)
        noise = MemberNoise(
            task.seed, everyone, task.shape, attempt=attempt, device=placed.device, dtype=placed.dtype,
            ahead=placed.device.type != "cpu" and size == 1,
        )  # fmt: skip
        notes: dict[str, Tensor] = {}
        with torch.inference_mode(likelihood is None):
            source = guided if task.past is None else Pinned(guided, past)
            x = sampler.sample(source, noise, callback=advance, notes=notes)
        if isinstance(guided, GuidedDenoiser):
            task.warn("guidance", guided.complaint())
        task.warn("sampler", sampler.complaint(notes))
        place_of = {m: i for i, m in enumerate(everyone)}
        rows = [place_of[m] for m in wanted]
        return x[rows], {k: v[rows] for k, v in notes.items()}

    def settle(self, x: Tensor) -> Tensor:
        """Move members to the modes of the posterior."""
        placed = self.placed
        assert placed.likelihood is not None
        guidance = pick_guidance("auto", placed.prior)
        return modes(x, guidance.guide(placed.denoiser, placed.likelihood, placed.prior.error))

    def check_far(self, x: Tensor, members: Sequence[int]) -> None:
        """Raise if a member is far outside the range of the prior and of the observations."""
        bound, placed = DIVERGED, self.placed
        if placed.prior.exact and float(x.abs().max()) > DIVERGED:  # means and observations may be that large
            mean = placed.denoiser(torch.zeros_like(x[:1]), torch.ones((), dtype=torch.float64))
            bound *= max(1.0, float(mean.abs().max()))
            if placed.likelihood is not None:
                bound = max(bound, DIVERGED * float(placed.likelihood.y.abs().max()))
        far = (x.flatten(1).abs() > bound).any(1).nonzero().flatten().tolist()
        if far:
            raise NonFiniteSampleError(
                f"member {', '.join(str(members[i]) for i in far[:8])} diverged (more than {bound:.3g} standard "
                "deviations from the mean). Try more steps, corrections, or the default guidance (guidance='auto')"
            )
