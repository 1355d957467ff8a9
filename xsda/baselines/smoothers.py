r"""Ensemble Kalman smoothers around any of the ensemble filters.

EnKS (Evensen & van Leeuwen 2000): the analysis of a filter that sees the whole state combines members:
:math:`x^a = X x^f` with a matrix X (member, member) whose rows add up to one. Applied to earlier states, the
same X improves them with the later observations.

Rauch-Tung-Striebel (Raanes 2016): backwards in time, with the anomalies A of the analysis and :math:`A_{f+}` of the
forecast that starts from it, :math:`x^s = x^a + (x^s_+ - x^f_+)\, A_{f+}^{-1} A`, rows being members and the inverse a
pseudo-inverse. Where the filter makes one combination of members for the whole state, the increment :math:`x^s_+ -
x^f_+ = W A_{f+}` is one too: the pseudo-inverse projects W, which makes it no larger, however small the singular values
are. Where each grid point has its own combination it is none, and the inverse has a ridge (``regression.py``).
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from xsda.baselines.cycle import Cycle
from xsda.baselines.enkf import ETKF
from xsda.baselines.inflation import as_inflation
from xsda.baselines.method import EnsembleFilter, Event, Method, rotated, split
from xsda.baselines.network import Batch, Geometry
from xsda.baselines.regression import ridge_share

RTOL = 1e-8  # of the largest: directions whose spread is less are not inverted
WIDE = 2.0  # times the variance of the analysis: more cannot come from later observations


@dataclass(frozen=True, kw_only=True)
class EnKS(Method):
    """The ensemble Kalman smoother: each observation also improves the states before it (Evensen & van Leeuwen 2000).

    Inflation is not applied to earlier states. The ensembles within ``lag`` are kept in memory.

    Parameters
    ----------
    filter
        The filter that makes the analyses: ``EnKF``, ``DEnKF``, ``ETKF``, ``EAKF`` or ``EnKFN``. ``LETKF`` cannot be
        used, because covariances over time are not localized; use it in ``EnRTS``.
    lag
        How many later observation times improve a state (default: all).
    """

    filter: EnsembleFilter = field(default_factory=ETKF)
    lag: int | None = None

    stages = ("forecast", "analysis", "smoothed")

    def __post_init__(self) -> None:
        _check_filter(self.filter)
        if self.filter.local:
            raise TypeError(
                "EnKS needs a filter that makes one combination of members for the whole state, and LETKF makes one at "
                "each point; use EnRTS(filter=LETKF(...)), or ETKF in EnKS"
            )
        lag = self.lag
        if lag is not None and (isinstance(lag, bool) or not isinstance(lag, int) or lag < 1):
            raise ValueError(f"lag={lag!r} must be an integer of at least 1, or None for all observation times")

    @property
    def remembers(self) -> tuple[str, ...]:
        return self.filter.remembers

    def check(self, cycle: Cycle) -> None:
        self.filter.check(cycle)

    def run(self, cycle: Cycle, x: Tensor) -> Iterator[Event]:
        waiting: deque[tuple[int, Tensor]] = deque()
        mixes: deque[tuple[int, Tensor]] = deque()  # of the times after the first that waits
        for k in range(len(cycle)):
            x = cycle.advance(x, k)
            yield "forecast", k, x
            batch = cycle.batch(k)
            if batch is not None:
                x, mix = mixed(self.filter, cycle, k, x, batch)
                mixes.append((k, mix))
            yield "analysis", k, x
            waiting.append((k, x))
            while self.lag is not None and (late := _after(mixes, waiting[0][0])) and len(late) >= self.lag:
                first, state = waiting.popleft()
                for _, mix in late:
                    state = _combined(mix, state)
                yield "smoothed", first, state
        done, total = [], torch.eye(len(x), dtype=x.dtype)
        for k, state in reversed(waiting):
            while mixes and mixes[-1][0] > k:
                total = total @ mixes.pop()[1]
            done.append((k, _combined(total, state)))
        for k, state in reversed(done):
            yield "smoothed", k, state


@dataclass(frozen=True, kw_only=True)
class EnRTS(Method):
    """The ensemble Rauch-Tung-Striebel smoother: a pass backwards in time over the ensembles of a filter (Raanes 2016).

    It can be used with any ensemble filter. With ``LETKF`` the pass has a small ridge, which vanishes as members are
    added. All ensembles are kept in memory.

    Parameters
    ----------
    filter
        The filter that makes the analyses.
    decay
        Share of the correction that is passed back at each forecast. A value below 1, such as 0.9, damps chance
        correlations.
    """

    filter: EnsembleFilter = field(default_factory=ETKF)
    decay: float = 1.0

    stages = ("forecast", "analysis", "smoothed")

    def __post_init__(self) -> None:
        _check_filter(self.filter)
        if not 0 <= self.decay <= 1:
            raise ValueError(f"decay={self.decay} must lie between 0 (nothing is passed back) and 1 (all is)")

    @property
    def remembers(self) -> tuple[str, ...]:
        return self.filter.remembers

    def check(self, cycle: Cycle) -> None:
        self.filter.check(cycle)

    def run(self, cycle: Cycle, x: Tensor) -> Iterator[Event]:
        states: list[Tensor] = []
        changes: list[list[Change]] = []  # the steps to each time, in order
        for k in range(len(cycle)):
            before, x = x, cycle.advance(x, k)
            changes.append([Change(before, x, self.decay, local=self.filter.local)])
            yield "forecast", k, x
            batch = cycle.batch(k)
            if batch is not None:
                x = self._analysis(cycle, k, x, batch, changes[-1])
            yield "analysis", k, x
            states.append(x)
        wide = 1.0
        turned = torch.eye(len(x), dtype=x.dtype)  # all rotations after a time, so that a member is one trajectory
        for k in range(len(states) - 1, 0, -1):
            for change in reversed(changes.pop()):
                x = change.undone(x)
                turned = turned if change.turn is None else turned @ change.turn
            wide = max(wide, _widening(states[k - 1], x))
            states[k - 1] = _combined(turned, x)
        _warn_wide(wide)
        for k, x in enumerate(states):
            yield "smoothed", k, x

    def _analysis(self, cycle: Cycle, k: int, x: Tensor, batch: Batch, changes: list[Change]) -> Tensor:
        """The filter's ``update``; it adds to ``changes`` what is done to the members before and after the analysis."""
        inflation = as_inflation(self.filter.inflation)
        prior = inflation.before(cycle, k, x, batch)
        posterior = self.filter.analyse(prior, batch, cycle, k)
        inflated = inflation.after(prior, posterior)
        changes += [Change(x, prior), Change(posterior, inflated)]
        if self.filter.rotate:
            turn = rotated(torch.eye(len(x), dtype=x.dtype), cycle.generator(k, "rotation"))
            inflated = _combined(turn, inflated)
            changes.append(Change(inflated, inflated, turn=turn))
        cycle.check_finite(inflated, k, "analysis")
        return inflated


@dataclass(frozen=True, eq=False)
class Change:
    """A forecast or inflation, which turned ``before`` into ``after``; or a rotation of the members.

    ``local``: whether increments may be other than combinations of the members, so that the regression needs a ridge.
    """

    before: Tensor
    after: Tensor
    decay: float = 1.0
    turn: Tensor | None = None
    local: bool = False

    def undone(self, x: Tensor) -> Tensor:
        """The members before the change, by regression, given the members ``x`` after it."""
        if self.turn is not None:
            return _combined(self.turn.T, x)
        if self.before is self.after:
            return x
        increment, before = (x - self.after).flatten(1), split(self.before)[1]
        after = split(self.after.flatten(1))[1]
        share = ridge_share(increment, after) if self.local else increment @ torch.linalg.pinv(after, rtol=RTOL)
        return self.before + _combined(self.decay * share, before)


@dataclass(frozen=True, eq=False)
class Seen(Geometry):
    """A geometry that has been observed, whatever the states are."""

    values: Tensor = field(kw_only=True)

    def observe(self, x: Tensor) -> Tensor:
        return self.values


def mixed(filter: EnsembleFilter, cycle: Cycle, k: int, x: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """The analysis ensemble as the filter's ``update`` makes it, and the matrix for the states before."""
    inflation = as_inflation(filter.inflation)
    prior = inflation.before(cycle, k, x, batch)
    g = batch.geometry
    seen = Seen(g.grid, g.parts, g.position, g.cache, values=g.observe(prior))
    # the analysis of unit vectors, with what the members are seen as, is the matrix
    matrix = filter.analyse(torch.eye(len(x), dtype=x.dtype), replace(batch, geometry=seen), cycle, k)
    posterior = inflation.after(prior, _combined(matrix, prior))
    if filter.rotate:  # the same turn for all times, or members would no longer belong together
        matrix, posterior = (rotated(m, cycle.generator(k, "rotation")) for m in (matrix, posterior))
    cycle.check_finite(posterior, k, "analysis")
    return posterior, matrix


def _combined(matrix: Tensor, x: Tensor) -> Tensor:
    return (matrix @ x.flatten(1)).reshape(x.shape)


def _after(mixes: deque[tuple[int, Tensor]], k: int) -> deque[tuple[int, Tensor]]:
    """Those after the ``k``-th time; earlier ones are dropped."""
    while mixes and mixes[0][0] <= k:
        mixes.popleft()
    return mixes


def _widening(analysis: Tensor, smoothed: Tensor) -> float:
    """The variance of a smoothed ensemble in units of that of the analysis, averaged over the numbers that vary."""
    before = analysis.var(0)
    varies = before > 0
    return float((smoothed.var(0)[varies] / before[varies]).mean()) if bool(varies.any()) else 1.0


def _warn_wide(ratio: float) -> None:
    """Warn if a smoothed ensemble is wider than the filter's."""
    if ratio > WIDE:
        warnings.warn(
            f"at some time the smoothed ensemble has {ratio:.3g} times the variance of the analysis, but later "
            "observations can only reduce it: chance correlations were passed back; use EnRTS(decay=0.9), more "
            "inflation, or another number of members",
            RuntimeWarning,
            stacklevel=2,
        )


def _check_filter(filter: Any) -> None:
    if not isinstance(filter, EnsembleFilter):
        came = f"the class {filter.__name__}" if isinstance(filter, type) else type(filter).__name__
        raise TypeError(f"filter must be one of the ensemble filters, such as ETKF(inflation=1.02), got {came}")
