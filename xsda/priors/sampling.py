"""Sampling a prior, with or without observations: the task that a block of members runs, and its labels."""

from __future__ import annotations

import contextlib
import copy
import uuid
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from xsda.arguments import what, whole_number
from xsda.devices import pick_device
from xsda.diffusion.denoisers import Denoiser, Preconditioned
from xsda.diffusion.noise import MemberNoise
from xsda.diffusion.samplers import SAMPLERS, TDS, DPMpp2M, DPMpp2MSDE, NonFiniteSampleError, Sampler
from xsda.ensemble import Shared, check_core_chunks, compute, lazy, member_chunks, member_numbers, shared
from xsda.grid import Grid
from xsda.guidance import GUIDANCE, MMPS, Calibrated, Guidance, GuidedDenoiser, Likelihood
from xsda.names import choose
from xsda.nn import MarkovNet
from xsda.nn.segments import Segments, activation_bytes
from xsda.priors.prior import Prior
from xsda.priors.redraw import draw_again, modes
from xsda.priors.reference import PriorReference, refer
from xsda.provenance import describe

NOTES = {
    "effective_sample_size": {
        "long_name": "least effective number of particles in the population of this member",
        "units": "1",
    }
}
PRECISIONS = ("auto", "float32", "float64", "bf16", "fp16")
DIVERGED = 100.0  # no standardised trajectory is that far out
HELD = 0.5  # share of the balance of free samples that is owed where observations hold the large scales (docs/kolmogorov.md)
BATCH_NUMBERS = 2**19  # numbers sampled at once by default; activations are a hundred times more
MEMORY = 6 * 2**30  # bytes of activations of a network that are kept for a gradient; less where a device has less


@dataclass(frozen=True, eq=False)
class SamplingTask:
    """Draw members of the prior, or of the posterior if there is a likelihood."""

    prior: Prior | PriorReference
    shape: tuple[int, ...]
    sampler: Sampler
    guidance: Guidance | None
    likelihood: Likelihood | None
    context: Tensor | None
    seed: int
    device: str
    precision: str
    redraw: int = 0
    key: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def steps(self) -> int:
        return self.sampler.steps

    @property
    def shared(self) -> Shared:
        """With the other blocks of this ensemble, in this process."""
        return shared(self.key)

    @property
    def group(self) -> int:
        """Members that are sampled together."""
        return self.sampler.particles if isinstance(self.sampler, TDS) else 1

    @property
    def notes(self) -> tuple[str, ...]:
        return ("effective_sample_size",) if isinstance(self.sampler, TDS) else ()

    def __call__(
        self, members: Sequence[int], advance: Callable[[int], None] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        prior = self.prior.load() if isinstance(self.prior, PriorReference) else self.prior
        device = pick_device(self.device)
        dtype = torch.float64 if self.precision == "float64" else torch.float32
        denoiser = in_pieces(
            place(prior.denoiser, self.context, device, dtype), self.shape, MEMORY >> self.shared.halved
        )
        likelihood = None if self.likelihood is None else self.likelihood.to(device, dtype)
        if likelihood is not None and isinstance(denoiser, Preconditioned) and denoiser.balance is not None:
            denoiser = denoiser.balanced(denoiser.balance.times(HELD))

        def draw(
            wanted: Sequence[int], attempt: int, advance: Callable[[int], None] | None = None
        ) -> tuple[Tensor, dict[str, Tensor]]:
            """These members, and the sampler's notes on them; with particles, whole populations are sampled."""
            all_of = _whole_populations(wanted, self.sampler.particles) if isinstance(self.sampler, TDS) else wanted
            guided: Denoiser = denoiser
            if likelihood is not None:
                assert self.guidance is not None
                guided = self.guidance.guide(denoiser, likelihood, prior.error)
            noise = MemberNoise(self.seed, all_of, self.shape, attempt=attempt, device=device, dtype=dtype)
            notes: dict[str, Tensor] = {}
            with _precision("auto" if prior.exact else self.precision, device):
                x = self.sampler.sample(guided, noise, callback=advance, notes=notes)
            if isinstance(guided, GuidedDenoiser):
                self._warn("complaint", guided.complaint())
            if "effective_sample_size" in notes and isinstance(self.sampler, TDS):
                self._warn("collapse", _collapse(float(notes["effective_sample_size"].min()), self.sampler.particles))
            place_of = {m: i for i, m in enumerate(all_of)}
            rows = [place_of[m] for m in wanted]
            return x[rows], {k: v[rows] for k, v in notes.items()}

        x, notes = draw(members, 0, advance)
        if likelihood is not None:
            attempts = 0 if prior.exact or isinstance(self.sampler, TDS) else self.redraw

            def settle(x: Tensor) -> Tensor:
                assert likelihood is not None
                with _precision(self.precision, device):
                    return modes(x, pick_guidance("auto", prior).guide(denoiser, likelihood, prior.error))

            def once_more(wanted: Sequence[int], attempt: int) -> Tensor:
                return draw(wanted, attempt, advance)[0]

            again = draw_again(x, likelihood, members, attempts, once_more, settle, self.shared)
            self._warn("misfit", again)
        self._check_far(x, denoiser, likelihood, prior.exact, members)
        columns = [notes[k].float().cpu().numpy() for k in self.notes]
        return x.float().cpu().numpy(), np.stack(columns, 1) if columns else np.empty((len(members), 0), np.float32)

    def _check_far(
        self, x: Tensor, denoiser: Denoiser, likelihood: Likelihood | None, exact: bool, members: Sequence[int]
    ) -> None:
        """Raise if a member has left the world of the prior and of the observations."""
        bound = DIVERGED
        if exact and float(x.abs().max()) > DIVERGED:  # means and observations may be that far out
            bound *= max(1.0, float(denoiser(torch.zeros_like(x[:1]), torch.ones((), dtype=torch.float64)).abs().max()))
            bound = bound if likelihood is None else max(bound, DIVERGED * float(likelihood.y.abs().max()))
        far = (x.flatten(1).abs() > bound).any(1).nonzero().flatten().tolist()
        if far:
            raise NonFiniteSampleError(
                f"member {', '.join(str(members[i]) for i in far[:8])} diverged (more than {bound:.3g} standard deviations "
                "from the mean). Try more steps, corrections, or the default guidance (guidance='auto')"
            )

    def _warn(self, key: str, text: str | None) -> None:
        """Warn once, however many batches there are."""
        if text is not None and key not in self.shared.warned:
            self.shared.warned.add(key)
            warnings.warn(text, RuntimeWarning, stacklevel=2)


def _whole_populations(members: Sequence[int], size: int) -> list[int]:
    """The members of all populations that these belong to."""
    return [size * p + k for p in sorted({m // size for m in members}) for k in range(size)]


def _collapse(size: float, particles: int) -> str | None:
    """A warning where the weights gathered on few particles."""
    if size >= 0.1 * particles:
        return None
    return (
        f"the weights of TDS gathered on {size:.1f} of {particles} particles: members share ancestors, some may be copies of "
        "each other, and their spread is too small. Use more particles, fewer or less precise observations, or another sampler"
    )


def _precision(precision: str, device: torch.device) -> Any:
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    return torch.autocast(device.type, dtype=half) if half else contextlib.nullcontext()


def place(denoiser: Denoiser, context: Tensor | None, device: torch.device, dtype: torch.dtype) -> Denoiser:
    """The denoiser on a device, in a precision, reading its context; the prior's own stays where it is."""
    if device.type != "cpu" or dtype != torch.float32:
        denoiser = copy.deepcopy(denoiser).to(device, dtype)
    if context is not None and isinstance(denoiser, Preconditioned):
        denoiser = denoiser.conditioned(context.to(device, dtype))
    return denoiser


def in_pieces(denoiser: Denoiser, shape: tuple[int, ...], memory: int) -> Denoiser:
    """The denoiser with a network that takes a trajectory of this shape in pieces, if it is long; the weights are shared.

    ``memory``: bytes of activations that are kept for a gradient.
    """
    if not isinstance(denoiser, Preconditioned):
        return denoiser
    network, context = denoiser.network, denoiser.context
    made: nn.Module
    if isinstance(network, MarkovNet):
        window = 2 * network.order + 1
        made = MarkovNet(
            network.local, network.order, windows=_room(network, min(shape[0], window), 1, shape, context, memory)
        )
    elif hasattr(network, "reach"):
        states = min(shape[0], 2)
        made = Segments(network, _room(network, states, states, shape, context, memory))
    else:
        return denoiser
    other = Preconditioned(made, denoiser.schedule, denoiser.parameterization, denoiser.data_std)
    return other.conditioned(context).balanced(denoiser.balance)


def _room(
    network: nn.Module, states: int, units: int, shape: tuple[int, ...], context: Tensor | None, memory: int
) -> int:
    """How many units of work (states, windows) have their activations in memory, if so many states make so many of them."""
    like = next(network.parameters(), torch.zeros(()))
    inputs = [like.new_zeros(1, states, *shape[1:]), like.new_zeros(1)]
    if context is not None:
        inputs.append(context[:1, :states])
    return max(1, memory * units // max(activation_bytes(network, *inputs), 1))


def pick_sampler(sampler: str | Sampler, steps: int | None, default: Sampler) -> Sampler:
    """A sampler by name, configured by hand, or the default; ``steps`` overrides its number of steps."""
    if isinstance(sampler, str):
        if sampler != "auto" and sampler not in SAMPLERS:
            raise ValueError(f"unknown sampler {sampler!r}; {choose(sampler, SAMPLERS)}")
        sampler = default if sampler == "auto" else SAMPLERS[sampler]()
    if not isinstance(sampler, Sampler):
        raise TypeError(f"sampler must be a name or an xsda Sampler, got {what(sampler)}")
    if steps is None:
        return sampler
    return type(sampler)(**{**vars(sampler), "steps": steps})


def pick_guidance(guidance: str | Guidance, prior: Prior) -> Guidance:
    """A guidance by name, configured by hand, or what suits the prior."""
    if isinstance(guidance, Guidance):
        return guidance
    if not isinstance(guidance, str):
        raise TypeError(f"guidance must be a name or an xsda Guidance, got {what(guidance)}")
    if guidance == "auto":
        return MMPS() if prior.exact or prior.error is None else Calibrated()
    if guidance not in GUIDANCE:
        raise ValueError(f"unknown guidance {guidance!r}; {choose(guidance, GUIDANCE)}")
    return GUIDANCE[guidance]()


def default_sampler(prior: Prior, guided: bool) -> Sampler:
    """What passes the yardsticks at the least cost (docs/benchmarks.md).

    Closed forms need 32 evaluations for five decades of noise, and as many a decade where large fields ask for more. A
    network's guidance is approximate: one correction a step lets members leave futures that the observations exclude.
    For fields 24 steps do; 48 gain a tenth in CRPS with nonlinear or very precise observations.
    """
    if prior.exact:
        low, high = (float(prior.schedule.noise_level(torch.tensor(t, dtype=torch.float64))) for t in (0.0, 1.0))
        return DPMpp2M(steps=max(32, round(32 * np.log10(high / low) / 5)))
    if not guided:
        return DPMpp2MSDE(steps=64)
    steps = 24 if len(prior.layout.space) == 2 else 48
    return DPMpp2MSDE(steps=steps, grid="centered", corrections=1, tau=0.5)


def draw_ensemble(
    prior: Prior,
    grid: Grid,
    *,
    members: int | Sequence[int],
    sampler: Sampler,
    guidance: Guidance | None,
    likelihood: Likelihood | None,
    redraw: int = 0,
    seed: int,
    chunks: Any,
    batch: int | None,
    device: str,
    precision: str,
    progress: bool | None,
    attrs: Mapping[str, Any],
) -> xr.Dataset:
    """Plan, run (or defer), label."""
    numbers = member_numbers(members)
    count = len(numbers)
    seed = whole_number("seed", seed, least=0)
    batch = None if batch is None else whole_number("batch", batch, least=1)
    if precision not in PRECISIONS:
        raise ValueError(f"unknown precision {precision!r}; {choose(precision, PRECISIONS)}")
    check_core_chunks(grid.template, grid.core_dims)
    chunk = member_chunks(count, chunks, grid.core_dims)
    defer = chunks is not None or any(v.chunks is not None for v in grid.template.data_vars.values())
    if not defer:
        pick_device(device)
    redraw = whole_number("redraw", redraw, least=0)
    given, batch = batch, batch or int(np.clip(BATCH_NUMBERS // int(np.prod(grid.shape)), 1, 512))
    if isinstance(sampler, TDS):  # whole populations, so that none is sampled twice
        if list(numbers) != list(range(numbers[0], numbers[0] + count)) or numbers[0] % sampler.particles:
            raise ValueError(
                f"TDS samples populations of {sampler.particles} particles: members must be a number, or a range from a "
                f"multiple of {sampler.particles}; a pool of priors cannot share them out"
            )
        if given is not None and given < sampler.particles:
            raise ValueError(
                f"batch={given} is smaller than a population of {sampler.particles} particles, which is sampled at once; use "
                f"sampler=TDS(particles={max(given, 2)}), or leave batch out"
            )
        batch = -(-batch // sampler.particles) * sampler.particles
        if chunk is not None and chunk < count and chunk % sampler.particles:
            raise ValueError(
                f"chunks of {chunk} members divide populations of {sampler.particles} particles; use a multiple of them, "
                f"such as chunks={{'member': {sampler.particles}}}"
            )
    task = SamplingTask(
        refer(prior) if defer else prior,
        grid.shape,
        sampler,
        guidance,
        likelihood,
        grid.context(),
        seed,
        device,
        precision,
        redraw,
    )
    if defer:
        values, notes = lazy(task, numbers, chunk=chunk or min(batch, count), batch=batch)
    else:
        values, notes = compute(
            task, numbers, batch=batch, progress=progress, label="assimilating" if likelihood else "sampling"
        )
    member = xr.DataArray(np.array(numbers), dims="member", attrs={"standard_name": "realization", "units": "1"})
    ds = grid.to_dataset(values, {"member": member})
    for i, name in enumerate(task.notes):
        ds = ds.assign_coords({name: ("member", notes[:, i], NOTES[name])})
    return describe(ds, grid, {"prior": prior.name, "prior_hash": prior.hash, "sampler": str(sampler),
                               "steps": sampler.steps, "denoiser_evaluations": sampler.evaluations,
                               "seed": seed, **attrs})  # fmt: skip


def sample(
    prior: Prior,
    like: xr.Dataset,
    *,
    members: int | Sequence[int] = 16,
    sampler: str | Sampler = "auto",
    steps: int | None = None,
    seed: int = 0,
    chunks: Any = None,
    batch: int | None = None,
    device: str = "auto",
    precision: str = "auto",
    progress: bool | None = None,
) -> xr.Dataset:
    """Unconditional trajectories on the axes of ``like``."""
    grid = prior.bind(like)
    return draw_ensemble(
        prior, grid, members=members, sampler=pick_sampler(sampler, steps, default_sampler(prior, guided=False)),
        guidance=None, likelihood=None, seed=seed, chunks=chunks, batch=batch, device=device, precision=precision,
        progress=progress, attrs={"guidance": "none"},
    )  # fmt: skip
