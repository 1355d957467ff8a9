"""Defines and checks the options of ``assimilate`` and ``sample`` that do not concern observations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from xsda.arguments import choose, whole_number

if TYPE_CHECKING:  # the command line reads this file for its help texts, without torch
    from xsda.diffusion.samplers import Sampler
    from xsda.guidance import Guidance

PRECISIONS = ("auto", "float32", "float64", "bf16", "fp16")
BATCH_NUMBERS = 2**19  # numbers of the states sampled at once by default; activations are about a hundred times more


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """Options for drawing an ensemble, with the defaults of ``xsda.assimilate`` and the command line.

    The descriptions below are also the help texts of the command line.

    Parameters
    ----------
    members
        Size of the ensemble, or the numbers of the members wanted: ``range(16, 32)`` adds to an ensemble of 16.
    guidance
        How observations enter the denoiser. "auto" chooses by the prior.
    sampler
        How the reverse process is integrated. "auto" chooses by the prior.
    steps
        Number of steps of the sampler (default: the sampler's own).
    redraw
        How often at most a member that does not fit the observations is drawn again. 0: never.
    seed
        Each member's noise depends on the seed and the member's number alone.
    chunks
        ``{"member": 8}`` gives a lazy, dask-backed result.
    batch
        Members sampled at once (default: by the size of the state). A smaller number needs less memory.
    tiles
        Number of points of a tile along dimensions of space, for grids whose activations do not fit into memory.
    device
        Where to compute: "auto" (all GPUs, or the CPU if there is none), "cpu", "cuda", one GPU such as "cuda:1", or
        several of them. Members are shared out among the devices.
    precision
        Floating-point numbers of the computation. "auto" is float32. bf16 and fp16 are for networks, and only used if
        they agree with float32.
    progress
        Show a progress bar (default: where there is a terminal or a notebook).
    """

    members: int | Sequence[int] = 16
    guidance: str | Guidance = "auto"
    sampler: str | Sampler = "auto"
    steps: int | None = None
    redraw: int = 16
    seed: int = 0
    chunks: Any = None
    batch: int | None = None
    tiles: Mapping[str, int] | None = None
    device: str | Sequence[str] = "auto"
    precision: str = "auto"
    progress: bool | None = None

    def __post_init__(self) -> None:
        _ = self.numbers  # raises if members are not valid
        whole_number("seed", self.seed, least=0)
        whole_number("redraw", self.redraw, least=0)
        for name, least in (("batch", 1), ("steps", 2)):
            if getattr(self, name) is not None:
                whole_number(name, getattr(self, name), least=least)
        if self.tiles is not None and not isinstance(self.tiles, Mapping):
            raise TypeError(
                f"tiles={self.tiles!r} must be a mapping of dimensions to numbers of points: {{'lat': 256, 'lon': 256}}"
            )
        for name, size in (self.tiles or {}).items():
            whole_number(f"tiles[{name!r}]", size, least=1)
        if self.precision not in PRECISIONS:
            raise ValueError(f"unknown precision {self.precision!r}; {choose(self.precision, PRECISIONS)}")

    @property
    def numbers(self) -> Sequence[int]:
        """The numbers of the members to draw."""
        return member_numbers(self.members)

    def at_once(self, shape: Sequence[int]) -> int:
        """How many members of this shape are sampled together."""
        return self.batch or min(max(BATCH_NUMBERS // math.prod(shape), 1), 512)


def member_numbers(members: int | Sequence[int]) -> Sequence[int]:
    """Return the numbers of the members to draw; an array of them becomes a list."""
    members = getattr(members, "tolist", lambda: members)()
    if not isinstance(members, Sequence) or isinstance(members, str):
        try:
            return range(whole_number("members", members, least=1))
        except ValueError as error:
            raise ValueError(f"{error}, or the numbers of members, such as range(16, 32) or [0, 3, 5]") from None
    numbers = [whole_number("members", m, least=0) for m in members]
    if not numbers or len(set(numbers)) < len(numbers):
        raise ValueError(f"members={members!r} must name each member once, and at least one")
    return numbers
