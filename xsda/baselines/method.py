"""What a filter is: a way through a cycle of forecasts and analyses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from xsda.baselines.cycle import Cycle
from xsda.baselines.inflation import Inflation, as_inflation
from xsda.baselines.network import Batch

Event = tuple[str, int, Tensor]  # stage, number of the time, states (member, channel, *space)
STAGES = ("forecast", "analysis", "smoothed")


class Method(ABC):
    """A way through a cycle. Its results depend only on its arguments and the seed."""

    least: ClassVar[int] = 2  # members
    stages: ClassVar[tuple[str, ...]] = ("forecast", "analysis")
    forecasts: ClassVar[bool] = True  # whether it needs a forecast model

    @property
    def remembers(self) -> tuple[str, ...]:
        """Which of the numbers that it notes it needs at the next time."""
        return ()

    @abstractmethod
    def run(self, cycle: Cycle, x: Tensor) -> Iterator[Event]:
        """Go through the times from the initial ensemble ``x``, yielding each stage of each time once, in order."""

    def check(self, cycle: Cycle) -> None:
        """Raise if this method cannot be used with the model or the observations."""
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
                cycle.check_finite(x, k, "analysis")
            yield "analysis", k, x

    @abstractmethod
    def update(self, cycle: Cycle, k: int, x: Tensor, batch: Batch) -> Tensor:
        """The analysis ensemble of a time from its forecast ``x`` (member, channel, *space)."""


@dataclass(frozen=True, kw_only=True)
class EnsembleFilter(Filter):
    """An ensemble Kalman filter: an analysis, with inflation before or after it.

    Parameters
    ----------
    inflation
        Factor on the anomalies of the analysis, or an object such as ``RTPS(0.9)``, ``RTPP(0.5)`` or
        ``AdaptiveInflation()``.
    rotate
        Whether the anomalies are rotated at random after each analysis. Mean and covariance stay the same.
    """

    inflation: float | Inflation = 1.0
    rotate: bool = False

    local: ClassVar[bool] = False  # whether each grid point has its own combination of the members

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
