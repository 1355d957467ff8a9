r"""The local ensemble transform Kalman filter (Hunt et al. 2007, physics/0511236).

Each grid point has its own analysis, from the observations near it. Their error variances are divided by a taper of the
distance. Grid points are solved in batches: with symmetric square roots of (member, member) matrices, or of
(observation, observation) matrices where there are fewer observations than members.
"""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from xsda.baselines.cycle import Cycle
from xsda.baselines.distance import Metric
from xsda.baselines.enkf import observed, transform
from xsda.baselines.method import EnsembleFilter, split
from xsda.baselines.network import Batch, Geometry

NUMBERS = 2**17  # of gathered observed anomalies at a time: what stays in a cache
PAIRS = 2**22  # of grid points and observations whose distance is computed at a time
Block = tuple[Tensor, Tensor, Tensor]  # grid points, observations that count there, roots of what they count


@dataclass(frozen=True, kw_only=True)
class LETKF(EnsembleFilter):
    """Local ensemble transform Kalman filter: each grid point is analysed with the observations near it.

    Use it for fields, where the ensemble is much smaller than the state. The errors of the observations must be
    independent.

    Parameters
    ----------
    localization
        Length over which observations act: the standard deviation of the Gaussian that the taper approximates, in the
        units of the coordinates (kilometres on latitude and longitude). Beyond 3.65 lengths an observation has no
        effect. A mapping such as ``{"lat": 5.0, "lon": 8.0}`` gives one length for each dimension, in its own units
        (degrees).
    inflation
        Factor on the anomalies of the analysis, or an object such as ``RTPS(0.9)``, ``RTPP(0.5)`` or
        ``AdaptiveInflation()``.
    rotate
        Whether the anomalies are rotated at random after each analysis. Mean and covariance stay the same.

    Examples
    --------
    >>> system = xsda.systems.Lorenz96(n=20)
    >>> truth = system.simulate(10, seed=0)
    >>> obs = truth.sda.observe(truth.isel(x=slice(None, None, 2)), sigma=1.0, seed=1)
    >>> method = xsda.baselines.LETKF(localization=4.0, inflation=1.04)
    >>> run = truth.sda.filter(obs, system, method=method, members=8, sigma=1.0, progress=False)
    >>> dict(run.sizes)
    {'member': 8, 'time': 10, 'x': 20}
    """

    localization: float | Mapping[str, float]

    local = True

    def __post_init__(self) -> None:
        super().__post_init__()
        given = self.localization
        for value in given.values() if isinstance(given, Mapping) else (given,):
            if isinstance(value, bool) or not isinstance(value, numbers.Real) or not value > 0:
                raise ValueError(
                    f"localization={given!r} must be positive: it is a length in the units of the coordinates "
                    "(kilometres on latitude and longitude), or one for each dimension"
                )

    def analyse(self, x: Tensor, batch: Batch, cycle: Cycle, k: int) -> Tensor:
        check_independent(batch)
        mean, anomalies = split(x)
        s, d = observed(x, batch)
        blocks = neighbours(batch.geometry, self.localization, len(x))
        return mean + localized(anomalies, s, d, blocks, torch.get_num_threads())


def localized(anomalies: Tensor, s: Tensor, d: Tensor, blocks: list[Block], threads: int = 1) -> Tensor:
    """Analysis members less the forecast's mean, of anomalies (member, channel, *space)."""
    points = anomalies.flatten(2).permute(2, 0, 1)  # (point, member, channel)
    return local_analyses(points, s, d, blocks, threads).permute(1, 2, 0).reshape(anomalies.shape)


def check_independent(batch: Batch) -> None:
    """Raise if errors are correlated."""
    if batch.correlated:
        raise ValueError("LETKF weighs each observation by its distance, so their errors must be independent; use ETKF")


def local_analyses(points: Tensor, s: Tensor, d: Tensor, blocks: list[Block], threads: int = 1) -> Tensor:
    """Anomalies (point, member, channel) to analysis members less the forecast's mean, block by block."""
    out = points.clone()  # points without observations stay as they are
    rows, innovation = s.T.contiguous(), d[0]

    def solve(block: Block) -> None:
        where, index, root = block
        near = rows.index_select(0, index.ravel()).unflatten(0, index.shape)
        out[where] = local_analysis(points[where], near * root.unsqueeze(-1), innovation[index] * root)

    if threads > 1 and len(blocks) > 1:
        own = torch.get_num_threads()
        try:
            with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                list(pool.map(solve, blocks))
        finally:
            torch.set_num_threads(own)
    else:
        for block in blocks:
            solve(block)
    return out


def local_analysis(anomalies: Tensor, s: Tensor, d: Tensor) -> Tensor:
    """One block: anomalies (point, member, channel), S' (point, M, member), d (point, M)."""
    m, members = s.shape[-2:]
    n = members - 1.0
    if m >= members:
        return transform(s.mT, d.unsqueeze(-2), n) @ anomalies
    values, vectors = torch.linalg.eigh(s @ s.mT)  # (point, M, M)
    values = values.clamp(min=0)
    half = vectors.mT @ s  # (point, M, member): S' along the eigenvectors
    moved = half @ anomalies
    root = torch.sqrt(1 + values / n)
    shrink = -moved / (n * root * (1 + root)).unsqueeze(-1)  # ((1 + l/n)^-1/2 - 1) / l, with no l in a denominator
    weight = (vectors.mT @ d.unsqueeze(-1)) / (values + n).unsqueeze(-1)
    return anomalies + half.mT @ shrink + weight.mT @ moved


def neighbours(geometry: Geometry, localization: float | Mapping[str, float], members: int) -> list[Block]:
    """Which observations act where, in blocks of grid points with similar numbers of them; kept with the geometry."""
    key = ("neighbours", repr(localization), members)
    if key not in geometry.cache:
        geometry.cache[key] = blocks_of(Metric(geometry.grid, localization), geometry.position, members)
    return geometry.cache[key]


def blocks_of(metric: Metric, position: np.ndarray, members: int) -> list[Block]:
    """Blocks for observations at ``position`` (M, space)."""
    rows = metric.rows()
    step = max(1, PAIRS // (rows * max(len(position), 1)))
    blocks: list[Block] = []
    for first in range(0, metric.sizes[0], step):
        pairs = metric.near(position, first, min(first + step, metric.sizes[0]))
        blocks += _blocks(first * rows, *pairs, members)
    return blocks


def _blocks(first: int, point: np.ndarray, index: np.ndarray, weight: np.ndarray, members: int) -> list[Block]:
    """Pairs, by grid point, to rectangles: points of similar counts, padded with observation 0 of weight 0."""
    which, start, count = np.unique(point, return_index=True, return_counts=True)
    order = np.argsort(count, kind="stable")
    blocks, low = [], 0
    while low < len(order):
        alike = int(np.searchsorted(count[order], 1.2 * count[order[low]], side="right"))
        high = min(alike, low + max(64, NUMBERS // int(members * count[order[low]])))
        chosen = order[low:high]
        most = count[chosen[-1]]
        column = np.arange(most)
        inside = column < count[chosen][:, None]
        place = np.where(inside, start[chosen][:, None] + column, 0)
        root = np.where(inside, np.sqrt(weight[place]), 0)
        where = torch.as_tensor(first + which[chosen])
        blocks.append((where, torch.as_tensor(np.where(inside, index[place], 0)), torch.as_tensor(root)))
        low = high
    return blocks
