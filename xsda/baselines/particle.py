r"""Particle filter and smoother: they assume nothing Gaussian and need many members (Gordon et al. 1993).

Members are weighted by their likelihood, :math:`w_i \propto w_i \exp(-|R^{-1/2}(y - H(x_i))|^2 / 2)`; resampling copies
members with large weights and drops those with small ones. The effective sample size is :math:`1 / \sum_i w_i^2`.

Copies would stay equal in a deterministic system. Regularisation adds to them a Gaussian kernel with the covariance of
the weighted members times :math:`(\mathrm{jitter} \cdot h)^2`, with the bandwidth :math:`h = N^{-1/(d+4)}` for states
of d numbers (Musso et al. 2001).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from xsda.baselines.cycle import Cycle
from xsda.baselines.method import Event, Filter, Method
from xsda.baselines.network import Batch

FEW = 10  # ancestors


@dataclass(frozen=True, kw_only=True)
class ParticleFilter(Filter):
    """The bootstrap particle filter, resampled at every time with observations (Gordon et al. 1993).

    Use it for states of a few numbers and with hundreds of members or more. The members of each analysis have equal
    weights.

    Parameters
    ----------
    jitter
        Width of the noise added to copies, in units of the usual bandwidth. Use 0 for a system with noise, about 1 for
        a system without.
    """

    jitter: float = 0.0

    def __post_init__(self) -> None:
        _check_jitter(self.jitter)

    def update(self, cycle: Cycle, k: int, x: Tensor, batch: Batch) -> Tensor:
        weight = reweighted(torch.ones(len(x), dtype=x.dtype), x, batch)
        cycle.note(k, "effective_sample_size", effective_sample_size(weight))
        return _copied(cycle, k, x, weight, systematic(weight, cycle.generator(k, "resampling")), self.jitter)


@dataclass(frozen=True, kw_only=True)
class ParticleSmoother(Method):
    """Particle smoother: trajectories of the bootstrap filter, traced back through their ancestors (Kitagawa 1996).

    Weights are kept from time to time. The members of "forecast" and "analysis" are drawn by them, so that they have
    equal weights. All states are kept in memory.

    Parameters
    ----------
    resample_below
        Members are resampled when the effective sample size is below this share of their number.
    jitter
        As in ``ParticleFilter``.
    """

    resample_below: float = 0.5
    jitter: float = 0.0

    stages = ("forecast", "analysis", "smoothed")

    def __post_init__(self) -> None:
        _check_jitter(self.jitter)
        if not 0 <= self.resample_below <= 1:
            raise ValueError(
                f"resample_below={self.resample_below} must lie between 0 (never) and 1 (at all times with "
                "observations): it is a share of the members"
            )

    def run(self, cycle: Cycle, x: Tensor) -> Iterator[Event]:
        even = torch.full((len(x),), 1 / len(x), dtype=x.dtype)
        weight, parents, states = even, [], []
        for k in range(len(cycle)):
            x = cycle.advance(x, k)
            yield "forecast", k, x[_drawn(cycle, k, weight, "forecast copies")]
            batch, parent = cycle.batch(k), torch.arange(len(x))
            if batch is not None:
                weight = reweighted(weight, x, batch)
                size = effective_sample_size(weight)
                cycle.note(k, "effective_sample_size", size)
                if size < self.resample_below * len(x):
                    parent = systematic(weight, cycle.generator(k, "resampling"))
                    x, weight = _copied(cycle, k, x, weight, parent, self.jitter), even
            yield "analysis", k, x[_drawn(cycle, k, weight, "analysis copies")]
            states.append(x)
            parents.append(parent)
        which = _drawn(cycle, len(cycle) - 1, weight, "trajectories")
        paths = []
        for parent in reversed(parents):
            paths.append(which)
            which = parent[which]
        _warn_few(len(which.unique()), len(x))
        for k, path in enumerate(reversed(paths)):
            yield "smoothed", k, states[k][path]


def reweighted(weight: Tensor, x: Tensor, batch: Batch) -> Tensor:
    """Weights (member,) that add up to one, times the likelihood of the observations."""
    return (weight.log() - batch.innovations(x).square().sum(1) / 2).softmax(0)


def effective_sample_size(weight: Tensor) -> float:
    return 1 / float(weight.square().sum())


def systematic(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Numbers of members (member,), ascending: each N w times on average, rounded up or down (Kitagawa 1996)."""
    n = len(weight)
    points = (torch.arange(n) + torch.rand((), dtype=weight.dtype, generator=generator)) / n
    total = weight.cumsum(0)
    return torch.searchsorted(total / total[-1], points, right=True).clamp(max=n - 1)


def _drawn(cycle: Cycle, k: int, weight: Tensor, purpose: str) -> Tensor:
    """Members that count alike instead of weighted ones."""
    if bool((weight == weight[0]).all()):
        return torch.arange(len(weight))
    return systematic(weight, cycle.generator(k, purpose))


def _copied(cycle: Cycle, k: int, x: Tensor, weight: Tensor, index: Tensor, jitter: float) -> Tensor:
    """The members ``index`` (ascending), with noise on all copies but the first of each."""
    copies = (index[1:] == index[:-1]).nonzero().flatten() + 1
    new = x[index]
    if jitter and len(copies):
        root = kernel_root(x.flatten(1), weight)
        width = jitter * len(x) ** (-1 / (root.shape[1] + 4))
        noise = torch.randn(len(copies), len(root), dtype=x.dtype, generator=cycle.generator(k, "jitter"))
        new[copies] += (width * noise @ root).reshape(len(copies), *x.shape[1:])
    return new


def kernel_root(x: Tensor, weight: Tensor) -> Tensor:
    """L (., numbers), so that L' L is the covariance of weighted members (member, numbers).

    Where the effective sample size is below two, all members count alike: the ensemble lost track and has to be spread
    again.
    """
    if effective_sample_size(weight) < 2:
        weight = torch.full_like(weight, 1 / len(weight))
    anomalies = (x - weight @ x) * (weight / (1 - weight.square().sum())).sqrt().unsqueeze(1)
    return torch.linalg.qr(anomalies, mode="r")[1]


def _check_jitter(jitter: float) -> None:
    if not 0 <= jitter < math.inf:
        raise ValueError(
            f"jitter={jitter} must not be negative: it is the width of the noise added to copies (0: none)"
        )


def _warn_few(count: int, members: int) -> None:
    if count < FEW:
        warnings.warn(
            f"all smoothed trajectories descend from {count} of the {members} initial members, so that the early times "
            "say little about the spread; use more members, a lower resample_below, or a shorter run",
            RuntimeWarning,
            stacklevel=2,
        )
