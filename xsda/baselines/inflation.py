r"""Inflation: what keeps the spread of an ensemble from collapsing.

Factor: anomalies of the analysis times a number. RTPS (Whitaker & Hamill 2012): their standard deviation s_a is relaxed
to that of the forecast, s_a + c (s_f - s_a), for each number of the state. RTPP (Zhang et al. 2004): the anomalies
themselves are relaxed. Adaptive: the factor :math:`\lambda` on the forecast's covariance is estimated from the
innovations,
:math:`\hat\lambda = (d'R^{-1}d - M) / tr(HBH'R^{-1})`, and filtered in time (Miyoshi 2011).
"""

from __future__ import annotations

import numbers
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from xsda.baselines.cycle import Cycle
    from xsda.baselines.network import Batch


class Inflation:
    """What is done to an ensemble before and after its analysis. This base class does nothing.

    Derive from it for an inflation of your own: ``before`` gets the forecast and returns it inflated, ``after`` gets
    the forecast and the analysis and returns the analysis inflated.
    """

    remembers: ClassVar[tuple[str, ...]] = ()  # which of the numbers that it notes it needs at the next time

    def before(self, cycle: Cycle, k: int, x: Tensor, batch: Batch) -> Tensor:
        return x

    def after(self, prior: Tensor, posterior: Tensor) -> Tensor:
        return posterior


@dataclass(frozen=True)
class Factor(Inflation):
    """Anomalies of the analysis times ``factor``."""

    factor: float = 1.0

    def __post_init__(self) -> None:
        if not (self.factor > 0 and self.factor < float("inf")):
            raise ValueError(f"inflation={self.factor} must be positive: it multiplies the anomalies (1: none)")

    def after(self, prior: Tensor, posterior: Tensor) -> Tensor:
        if self.factor == 1:
            return posterior
        mean = posterior.mean(0, keepdim=True)
        return mean + self.factor * (posterior - mean)


@dataclass(frozen=True)
class RTPS(Inflation):
    """Relaxation to prior spread: the spread moves towards that of the forecast (Whitaker & Hamill 2012).

    Parameters
    ----------
    share
        0 leaves the spread of the analysis, 1 restores that of the forecast.
    """

    share: float = 0.9

    def __post_init__(self) -> None:
        _check_share(self.share)

    def after(self, prior: Tensor, posterior: Tensor) -> Tensor:
        mean = posterior.mean(0, keepdim=True)
        before, now = prior.std(0, keepdim=True), posterior.std(0, keepdim=True)
        ratio = torch.where(now > 0, 1 + self.share * (before - now) / now, 1)
        return mean + ratio * (posterior - mean)


@dataclass(frozen=True)
class RTPP(Inflation):
    """Relaxation to prior perturbations: the anomalies are moved towards those of the forecast (Zhang et al. 2004).

    Parameters
    ----------
    share
        0 leaves the anomalies of the analysis, 1 restores those of the forecast.
    """

    share: float = 0.5

    def __post_init__(self) -> None:
        _check_share(self.share)

    def after(self, prior: Tensor, posterior: Tensor) -> Tensor:
        mean = posterior.mean(0, keepdim=True)
        return mean + (1 - self.share) * (posterior - mean) + self.share * (prior - prior.mean(0, keepdim=True))


@dataclass(frozen=True)
class AdaptiveInflation(Inflation):
    """One factor on the variance of the forecast, estimated from the innovations (Miyoshi 2011).

    Use it where the right inflation is not known. The factor of each time is in the coordinate ``inflation`` of the
    result.

    Parameters
    ----------
    initial, sigma
        First guess of the factor, and the standard deviation of its error.
    growth
        Factor on the variance of that error from one time to the next. A larger value adapts faster.
    lower
        Smallest factor allowed.
    """

    initial: float = 1.0
    sigma: float = 0.2
    growth: float = 1.03
    lower: float = 1.0

    remembers = ("inflation", "inflation_variance")

    def __post_init__(self) -> None:
        for name in ("initial", "sigma", "growth", "lower"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name}={getattr(self, name)} of AdaptiveInflation must be positive")

    def before(self, cycle: Cycle, k: int, x: Tensor, batch: Batch) -> Tensor:
        guess = cycle.memory.get("inflation", self.initial)
        variance = self.growth * cycle.memory.get("inflation_variance", self.sigma**2)
        seen = batch.geometry.observe(x)
        mean = seen.mean(0, keepdim=True)
        d, anomalies = batch.scaled(batch.y - mean), batch.scaled(seen - mean)
        m, trace = len(batch.y), float(anomalies.square().sum()) / (len(x) - 1)
        if trace > 0:
            estimate = (float(d.square().sum()) - m) / trace
            # variance of the estimate for Gaussian innovations of variance guess * trace / m + 1
            error = 2 * m * ((guess * trace / m + 1) / trace) ** 2
            gain = variance / (variance + error)
            guess, variance = max(guess + gain * (estimate - guess), self.lower), (1 - gain) * variance
        cycle.note(k, "inflation", guess)
        cycle.note(k, "inflation_variance", variance)
        centre = x.mean(0, keepdim=True)
        return centre + guess**0.5 * (x - centre)


def as_inflation(value: Any) -> Inflation:
    """A factor as an object."""
    if isinstance(value, Inflation):
        return value
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"inflation must be a number, or an object such as RTPS(0.9), got {value!r}")
    return Factor(float(value))


def _check_share(share: float) -> None:
    if not 0 <= share <= 1:
        raise ValueError(f"the share {share} must lie between 0 (the analysis as it is) and 1 (all of the forecast)")
