"""A cycle: the times to go through, what is observed at each, and the forecast between them."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xsda.baselines.bound import BoundForecast, ForecastError
from xsda.baselines.network import Batch, Network
from xsda.labels.grid import Grid

TO = {"forecast": "to", "analysis": "at"}  # for messages


@dataclass(frozen=True, eq=False)
class Cycle:
    """The times to go through, in the numbers of the grid, with what is observed at each.

    ``start`` is when the initial ensemble is valid. ``notes`` holds the numbers that methods note at each time, and
    ``memory`` the last of each (at first those of an earlier run that ended with the initial ensemble).
    """

    grid: Grid
    forecast: BoundForecast
    network: Network
    times: np.ndarray
    start: float
    seed: int
    notes: dict[str, dict[int, float]] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.times)

    def batch(self, k: int) -> Batch | None:
        """What is observed at the ``k``-th time."""
        number = int(np.searchsorted(self.network.numbers, self.times[k]))
        here = number < len(self.network.numbers) and self.network.numbers[number] == self.times[k]
        return self.network(number) if here else None

    def generator(self, k: int, purpose: str) -> torch.Generator:
        """The stream of random numbers for a purpose at a time: the same wherever a run starts from."""
        return stream(self.seed, purpose, self.forecast.label(float(self.times[k])))

    def advance(self, x: Tensor, k: int, since: float | None = None) -> Tensor:
        """States carried to the ``k``-th time from the one before (or ``since``); with the system's noise, checked."""
        before = (self.start if k == 0 else float(self.times[k - 1])) if since is None else since
        stop = float(self.times[k])
        if before == stop:
            return x
        x = self.forecast(x, before, stop, self.generator(k, "forecast"))
        what = f"the forecast from {self.forecast.text(before)} to {self.forecast.text(stop)}"
        check_finite(x, what, self.forecast.label(stop))
        return x

    def check_finite(self, x: Tensor, k: int, stage: str) -> None:
        """Raise if a member is not finite at a stage of the ``k``-th time."""
        time = float(self.times[k])
        check_finite(x, f"the {stage} {TO[stage]} {self.forecast.text(time)}", self.forecast.label(time))

    def note(self, k: int, name: str, value: float) -> None:
        """Keep a number that belongs to a time."""
        self.notes.setdefault(name, {})[k] = value
        self.memory[name] = value


def check_finite(x: Tensor, what: str, time: Any) -> None:
    """Raise if a member is not finite; ``what`` made it so, at ``time``."""
    if bool(torch.isfinite(x).all()):
        return
    bad = (~torch.isfinite(x).flatten(1).all(1)).nonzero().flatten().tolist()
    raise ForecastError(
        f"{what} made member {', '.join(map(str, bad[:5]))}{' ...' if len(bad) > 5 else ''} of {len(x)} non-finite; "
        "more inflation or members, a shorter time step, or a better initial ensemble may help. What was computed "
        "before is in the exception's .partial",
        members=tuple(bad),
        time=time,
    )


def stream(seed: int, purpose: str, label: Any) -> torch.Generator:
    """Random numbers that belong to a purpose at a time."""
    return torch.Generator().manual_seed(zlib.crc32(f"{seed} {purpose} {label!r}".encode()))  # which takes 32 bits
