r"""Windows that slide along the observations, and the iterative ensemble Kalman smoother in them.

A window starts ``lag`` observation times before the one that is assimilated, and slides by one. Each observation is
assimilated once: it corrects the states at the start of the window, and a forecast carries the correction to later
times. In the span of the background ensemble at the start, x = mean + w A, the iterative smoother (Bocquet & Sakov
2014) minimises with Gauss-Newton

.. math:: (M-1)\,w w' + |R^{-1/2}(y - H(x(w)))|^2

with sensitivities from the ensemble itself: :math:`S = T^{-1} Y`, Y being the scaled anomalies of the observed ensemble
that starts from mean + (w + T) A, with :math:`T = (S S' / (M-1) + 1)^{-1/2}` of the iteration before.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from xsda.baselines.cycle import Cycle
from xsda.baselines.enkf import observed
from xsda.baselines.inflation import AdaptiveInflation, Inflation, as_inflation
from xsda.baselines.method import Event, Method, rotated, split
from xsda.baselines.network import Batch


@dataclass(eq=False)
class Window:
    """The states at the start of a window, from which its later states are forecast.

    Parameters
    ----------
    start
        Number of the time at which the states are valid; -1: that of the initial ensemble.
    x
        The current estimate (member, channel, *space) at the start.
    errors
        Model errors, which are added to the forecast for a time, by number of the time.
    fresh
        The observations that were assimilated since the window started there, by time.
    background
        ``x`` and ``errors`` before that.
    control
        The minimum that was found last, as a first guess for the next; dropped when the window slides.
    kept
        What a method keeps from one window to the next.
    """

    start: int
    x: Tensor
    errors: dict[int, Tensor] = field(default_factory=dict)
    fresh: dict[int, Batch] = field(default_factory=dict)
    background: tuple[Tensor, dict[int, Tensor]] = field(init=False)
    control: Tensor | None = None
    kept: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.background = self.x, dict(self.errors)

    def states(self, cycle: Cycle, stop: int, *, checked: bool = True) -> Iterator[tuple[int, Tensor]]:
        """The times from the start to ``stop`` and their states."""
        x = self.x
        yield self.start, x
        for k in range(self.start + 1, stop + 1):
            x = carried(cycle, x, k)
            if k in self.errors:
                x = x + self.errors[k]
            if checked:
                cycle.check_finite(x, k, "forecast")
            yield k, x

    def last(self, cycle: Cycle, stop: int) -> Tensor:
        """The states at ``stop``."""
        *_, (_, x) = self.states(cycle, stop)
        return x


def carried(cycle: Cycle, x: Tensor, k: int) -> Tensor:
    """States carried to the ``k``-th time from the one before, without noise of the system."""
    before, stop = cycle.start if k == 0 else float(cycle.times[k - 1]), float(cycle.times[k])
    return x if before == stop else cycle.forecast(x, before, stop, None)


@dataclass(frozen=True, kw_only=True, eq=False)
class SlidingWindow(Method):
    """A method that corrects the states of ``lag`` observation times before each observation."""

    lag: int = 1

    stages = ("forecast", "analysis", "smoothed")

    def __post_init__(self) -> None:
        check_count("lag", self.lag, 0)

    def run(self, cycle: Cycle, x: Tensor) -> Iterator[Event]:
        window, seen, done = Window(-1, x), [-1] * self.lag, 0
        for k in range(len(cycle)):
            batch = cycle.batch(k)
            if batch is None:
                continue
            seen.append(k)
            start = seen[-1 - self.lag]
            if start > window.start:
                for i, x in window.states(cycle, start):
                    if 0 <= i < start:
                        yield "smoothed", i, x
                    if i >= done:
                        yield from _passed(i, x, i == k)
                done = max(done, start + 1)
                errors = {i: e for i, e in window.errors.items() if i > start}
                window = Window(start, x, errors, kept=window.kept)
            self.extend(cycle, window, k)
            for i, x in window.states(cycle, k):
                if i >= done:
                    yield from _passed(i, x, i == k)
            done = k + 1
            window.fresh[k] = batch
            x = self.assimilate(cycle, window, k, x)
            cycle.check_finite(x, k, "analysis")
            yield "analysis", k, x
        for i, x in window.states(cycle, len(cycle) - 1):
            if i >= 0:
                yield "smoothed", i, x
            if i >= done:
                yield from _passed(i, x, False)

    def extend(self, cycle: Cycle, window: Window, k: int) -> None:
        """Prepare a window that now ends at ``k``, before the forecast to there."""
        return None

    @abstractmethod
    def assimilate(self, cycle: Cycle, window: Window, k: int, ahead: Tensor) -> Tensor:
        """Better states at the window's start from what is observed at ``k``; returns the analysis there.

        ``ahead``: the forecast to ``k`` from the window's states.
        """


def _passed(k: int, x: Tensor, observed: bool) -> Iterator[Event]:
    """The events of a time without an analysis of its own: the forecast, and the analysis if nothing is observed."""
    yield "forecast", k, x
    if not observed:
        yield "analysis", k, x


@dataclass(frozen=True, kw_only=True)
class IEnKS(SlidingWindow):
    """Iterative ensemble Kalman smoother, for strongly nonlinear forecasts and observations (Bocquet & Sakov 2014).

    The system must be deterministic. The stage "smoothed" is the estimate of a time when it leaves the window;
    "analysis" uses only observations up to its time. Each iteration costs one forecast of the ensemble through the
    window.

    Parameters
    ----------
    lag
        Length of the window, in observation times. 1 is the iterative ensemble Kalman filter. 0 is the maximum
        likelihood ensemble filter: it iterates only over observations that are nonlinear functions of the state.
    iterations, tolerance
        Gauss-Newton stops after this many iterations, or when the mean moves by less than ``tolerance`` standard
        deviations of the background (root mean square over its directions).
    inflation
        Factor on the anomalies after each observation time, or ``RTPS(0.9)`` or ``RTPP(0.5)``.
    rotate
        Whether the anomalies are then rotated at random. Mean and covariance stay the same.
    certainty
        If given, the inflation is found from the innovations, as in ``EnKFN`` (Bocquet & Sakov 2012).
    """

    iterations: int = 10
    tolerance: float = 1e-3
    inflation: float | Inflation = 1.0
    rotate: bool = False
    certainty: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("iterations", self.iterations, 1)
        check_tolerance(self.tolerance)
        if isinstance(as_inflation(self.inflation), AdaptiveInflation):
            raise TypeError("inflation=AdaptiveInflation(...) belongs to filters; here certainty=1.0 adapts it")
        if self.certainty is not None and not self.certainty > 0:
            raise ValueError(f"certainty={self.certainty} must be positive")

    def check(self, cycle: Cycle) -> None:
        check_deterministic(self, cycle)

    def assimilate(self, cycle: Cycle, window: Window, k: int, ahead: Tensor) -> Tensor:
        mean, anomalies = split(window.x.flatten(1))
        forecast, x = split(ahead.flatten(1))[1], ahead
        n = len(x) - 1.0
        w = torch.zeros(1, len(x), dtype=x.dtype)
        turn = back = torch.eye(len(x), dtype=x.dtype)  # T and its inverse
        for number in range(1, self.iterations + 1):
            if number > 1:
                states = (mean + (w + turn) @ anomalies).reshape(x.shape)
                x = Window(window.start, states).last(cycle, k)
            s, d = observed(x, window.fresh[k])
            s, old = back @ s, turn
            values, vectors = torch.linalg.eigh(s @ s.T)
            values = values.clamp(min=0)
            zeta = n if self.certainty is None else self._degrees(values, w)
            step = (d @ s.T - zeta * w) @ (vectors / (values + zeta)) @ vectors.T
            root = torch.sqrt((values + zeta) / n)
            turn, back = (vectors / root) @ vectors.T, (vectors * root) @ vectors.T
            w = w + step
            if float(n * step.square().mean()) < self.tolerance**2:
                break
        cycle.note(k, "iterations", number)
        if self.certainty is not None:
            cycle.note(k, "inflation", (n / zeta) ** 0.5)
        analysis = x + ((step + turn - old) @ forecast).reshape(x.shape)
        states = (mean + (w + turn) @ anomalies).reshape(x.shape)
        window.x = self._spread(cycle, k, window.x, states)
        return self._spread(cycle, k, ahead, analysis)

    def _degrees(self, values: Tensor, w: Tensor) -> float:
        """The effective number of degrees of freedom, given the weights of the mean (Bocquet et al. 2015)."""
        members = len(values)
        e, g = (members + 1) / members, members / (members - 1.0)
        correction = (e / g) ** (float(((members - 1) / (values + members - 1)).mean()) / 2)
        e, g = self.certainty * e / correction, self.certainty * g * correction  # type: ignore[operator]
        return (members - 1) * g / (e + float(w.square().sum()))

    def _spread(self, cycle: Cycle, k: int, prior: Tensor, posterior: Tensor) -> Tensor:
        posterior = as_inflation(self.inflation).after(prior, posterior)
        return rotated(posterior, cycle.generator(k, "rotation")) if self.rotate else posterior


def check_deterministic(method: Method, cycle: Cycle) -> None:
    """Raise if the system has noise."""
    name, noise = cycle.forecast.name, cycle.forecast.noise
    if noise:
        raise ValueError(
            f"{name} has transition noise (noise={noise:g}), and {type(method).__name__} needs forecasts that follow "
            f"from where they start; use {name}(..., noise=0), or a method that takes noise: ETKF as a filter, EnKS as "
            "a smoother"
        )


def check_count(name: str, value: int, least: int) -> None:
    """Raise unless an option is an integer of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}={value!r} must be an integer of at least {least}")


def check_tolerance(value: float) -> None:
    if not 0 <= value < float("inf"):
        raise ValueError(f"tolerance={value!r} must be 0 (all iterations are made) or a positive number")
