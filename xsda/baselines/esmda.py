r"""The ensemble smoother with multiple data assimilation (Emerick & Reynolds 2013).

All observations of the run update the initial ensemble together. This is repeated a times, with the error variances
multiplied by a. For linear forecasts the result is that of one update; for nonlinear forecasts the updates are smaller
steps. With anomalies A of the initial ensemble, scaled anomalies S of what it predicts of the observations, n = members
- 1 and standard normal perturbations e, each time

.. math:: x \leftarrow x + (R^{-1/2}(y - H(x)) + \sqrt{a}\,e)\, S' (S S' + n a)^{-1} A .
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from xsda.baselines.cycle import Cycle, check_finite
from xsda.baselines.enkf import weights
from xsda.baselines.ienks import carried, check_count, check_deterministic
from xsda.baselines.method import Event, Method, split
from xsda.baselines.network import Batch


@dataclass(frozen=True, kw_only=True)
class ESMDA(Method):
    """Ensemble smoother with multiple data assimilation: it improves the initial ensemble with all observations.

    Use it for runs that are short compared with the time in which errors grow. The system must be deterministic. The
    stage "forecast" is the run from the first initial ensemble, "smoothed" the run from the last. The cost is
    ``iterations + 1`` runs.

    Parameters
    ----------
    iterations
        How many times the observations are assimilated; their error variances are multiplied by the same number.
    """

    iterations: int = 4

    stages = ("forecast", "smoothed")

    def __post_init__(self) -> None:
        check_count("iterations", self.iterations, 1)

    def check(self, cycle: Cycle) -> None:
        check_deterministic(self, cycle)

    def run(self, cycle: Cycle, x: Tensor) -> Iterator[Event]:
        batches = {k: b for k in range(len(cycle)) if (b := cycle.batch(k)) is not None}
        for number in range(self.iterations):
            anomalies, innovations, noise = [], [], []
            for k, state in _run(cycle, x):
                if number == 0:
                    yield "forecast", k, state
                if k in batches:
                    s, d = _compared(state, batches[k])
                    anomalies.append(s)
                    innovations.append(d)
                    noise.append(self._perturbations(cycle, number, k, d))
            a = self.iterations**0.5
            s, d, e = (torch.cat(parts, 1) for parts in (anomalies, innovations, noise))
            x = x + (weights(s / a, d / a + e) @ split(x.flatten(1))[1]).reshape(x.shape)
            check_finite(x, f"update {number + 1} of the initial ensemble", cycle.forecast.label(cycle.start))
        for k, state in _run(cycle, x):
            yield "smoothed", k, state

    def _perturbations(self, cycle: Cycle, number: int, k: int, like: Tensor) -> Tensor:
        """Standard normal numbers (member, M) that add up to zero over the members."""
        e = torch.randn(like.shape, dtype=like.dtype, generator=cycle.generator(k, f"perturbations {number}"))
        return e - e.mean(0)


def _run(cycle: Cycle, x: Tensor) -> Iterator[tuple[int, Tensor]]:
    """All times and the states that follow from the initial ones."""
    for k in range(len(cycle)):
        x = carried(cycle, x, k)
        cycle.check_finite(x, k, "forecast")
        yield k, x


def _compared(x: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Scaled anomalies and innovations of the members, both (member, M)."""
    seen = batch.geometry.observe(x)
    return batch.scaled(seen - seen.mean(0, keepdim=True)), batch.scaled(batch.y - seen)
