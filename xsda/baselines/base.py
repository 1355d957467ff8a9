"""What a filter is, and the cycle that it runs in."""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from xsda.baselines.inflation import Inflation, as_inflation
from xsda.baselines.model import BoundForecast, ForecastError
from xsda.baselines.network import Batch, Network
from xsda.grid import Grid

Event = tuple[str, int, Tensor]  # stage, number of the time, states (member, channel, *space)
STAGES = ("forecast", "analysis", "smoothed")


@dataclass(frozen=True, eq=False)
class Cycle:
    """The times to go through, in the numbers of the grid, with what is observed at each.

    ``start`` is when the initial ensemble is valid; ``notes`` collects what methods tell of each time, and ``memory`` holds
    the last of each (at first: what an earlier run told of the initial ensemble).
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
        check_finite(x, f"the forecast from {self.forecast.text(before)} to {self.forecast.text(stop)}")
        return x

    def note(self, k: int, name: str, value: float) -> None:
        """Keep a number that belongs to a time."""
        self.notes.setdefault(name, {})[k] = value
        self.memory[name] = value


def check_finite(x: Tensor, what: str) -> None:
    """Raise if a member is not finite, naming it."""
    if bool(torch.isfinite(x).all()):
        return
    bad = (~torch.isfinite(x).flatten(1).all(1)).nonzero().flatten().tolist()
    raise ForecastError(
        f"{what} made member {', '.join(map(str, bad[:5]))}{' ...' if len(bad) > 5 else ''} of {len(x)} non-finite; more inflation or "
        "members, a shorter time step, or a better initial ensemble may help. What was computed before is in the exception's "
        ".partial"
    )


class Method(ABC):
    """A way through a cycle. Results do not depend on anything but its arguments and the seed."""

    least: ClassVar[int] = 2  # members
    stages: ClassVar[tuple[str, ...]] = ("forecast", "analysis")

    @property
    def remembers(self) -> tuple[str, ...]:
        """Which of the numbers it notes it needs to go on from the last of them."""
        return ()

    @abstractmethod
    def run(self, cycle: Cycle, x: Tensor) -> Iterator[Event]:
        """Go through the times from the initial ensemble ``x``, yielding each stage of each time once, in order."""

    def check(self, cycle: Cycle) -> None:
        """Raise if this method cannot do what the observations ask."""
        return None


class Filter(Method):
    """A method that needs nothing but the last ensemble and the observations of one time."""

    def run(self, cycle: Cycle, x: Tensor) -> Iterator[Event]:
        return self.resume(cycle, x, 0)

    def resume(self, cycle: Cycle, x: Tensor, first: int) -> Iterator[Event]:
        """The same from the ``first``-th time on, ``x`` being the analysis of the time before."""
        for k in range(first, len(cycle)):
            x = cycle.advance(x, k)
            yield "forecast", k, x
            batch = cycle.batch(k)
            if batch is not None:
                x = self.update(cycle, k, x, batch)
                check_finite(x, f"the analysis at {cycle.forecast.text(float(cycle.times[k]))}")
            yield "analysis", k, x

    @abstractmethod
    def update(self, cycle: Cycle, k: int, x: Tensor, batch: Batch) -> Tensor:
        """The analysis ensemble of a time from its forecast ``x`` (member, channel, *space)."""


@dataclass(frozen=True, kw_only=True)
class EnsembleFilter(Filter):
    """A Kalman filter of ensembles: an analysis, between what inflation does before and after it.

    Parameters
    ----------
    inflation
        Factor on the anomalies of the analysis, or ``RTPS``, ``RTPP``, ``AdaptiveInflation``.
    rotate
        Whether the anomalies are rotated at random after each analysis, with mean and covariance left as they are.
    """

    inflation: float | Inflation = 1.0
    rotate: bool = False

    def __post_init__(self) -> None:
        as_inflation(self.inflation)  # raises if it is none

    @property
    def remembers(self) -> tuple[str, ...]:
        return as_inflation(self.inflation).remembers

    def update(self, cycle: Cycle, k: int, x: Tensor, batch: Batch) -> Tensor:
        inflation = as_inflation(self.inflation)
        prior = inflation.before(cycle, k, x, batch)
        posterior = self.analyse(prior, batch, cycle, k)
        posterior = inflation.after(prior, posterior)
        if self.rotate:
            posterior = rotated(posterior, cycle.generator(k, "rotation"))
        return posterior

    @abstractmethod
    def analyse(self, x: Tensor, batch: Batch, cycle: Cycle, k: int) -> Tensor:
        """The analysis ensemble, before inflation and rotation."""


def stream(seed: int, purpose: str, label: Any) -> torch.Generator:
    """Random numbers that belong to a purpose at a time."""
    return torch.Generator().manual_seed(zlib.crc32(f"{seed} {purpose} {label!r}".encode()))  # which takes 32 bits


def split(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (1, ...) and anomalies (member, ...)."""
    mean = x.mean(0, keepdim=True)
    return mean, x - mean


def rotated(x: Tensor, generator: torch.Generator) -> Tensor:
    """Anomalies multiplied by a random orthogonal matrix that leaves the vector of ones as it is."""
    mean, anomalies = split(x)
    n = len(x)
    turn, upper = torch.linalg.qr(torch.randn(n - 1, n - 1, dtype=x.dtype, generator=generator))
    basis = helmert(n).to(x)
    turn = basis @ (turn * torch.sign(torch.diagonal(upper))) @ basis.T
    return mean + (turn @ anomalies.flatten(1)).reshape(x.shape)


@lru_cache(maxsize=4)
def helmert(n: int) -> Tensor:
    """An orthonormal basis (n, n - 1) of the vectors that add up to zero."""
    k = torch.arange(1, n, dtype=torch.float64)
    basis = torch.triu(torch.ones(n, n - 1, dtype=torch.float64))
    basis[range(1, n), range(n - 1)] = -k
    return basis / torch.sqrt(k * (k + 1))
