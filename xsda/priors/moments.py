r"""Mean and separable covariance of a labelled data set, computed in a stream.

With the anomalies z of N states from their mean at each point, in units of each channel's standard deviation,

.. math:: \rho_k = \frac{1}{N} \sum_t \langle z_t, z_{t-k} \rangle, \qquad
   C_x = \langle z(\cdot, x)\, z(\cdot, x') \rangle

and likewise along y and across channels. The angle brackets average over everything else. The divisor N (rather than
N - k) makes the Toeplitz matrix of the rho positive semi-definite (Priestley 1981, section 5.3).

The data are read twice in blocks along time: once for mean and standard deviation, once for the correlations.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from xsda.labels.axes import axis_text
from xsda.labels.grid import Grid
from xsda.labels.layout import Layout, sample_dim

BLOCK_NUMBERS = 2**22  # numbers held at once, in double precision


@dataclass(frozen=True)
class Moments:
    """The result of ``estimate``, with ascending axes as in a tensor (time, channel, *space).

    Parameters
    ----------
    mean
        (channel, *space), in the units of the variables.
    std
        (channel,), in the units of the variables.
    time, channel, space
        Correlation matrices; ``space`` has one for each space axis.
    source
        Description of the data.
    """

    mean: np.ndarray
    std: np.ndarray
    time: np.ndarray
    channel: np.ndarray
    space: tuple[np.ndarray, ...]
    source: str


def estimate(ds: xr.Dataset, layout: Layout, length: int) -> Moments:
    """Estimate the climatology of trajectories.

    Parameters
    ----------
    ds
        The data, which may be lazy.
    layout
        Variables and axes.
    length
        Number of states of a trajectory.

    Returns
    -------
    Moments
        Mean, standard deviation and correlations.

    Examples
    --------
    >>> from xsda.labels.layout import Layout
    >>> from xsda.priors.moments import estimate
    >>> ds = xr.Dataset({"x": ("time", np.tile([1.0, -1.0], 50))}, {"time": np.arange(100.0)})
    >>> estimate(ds, Layout.of(ds), 2).time
    array([[ 1.  , -0.99],
           [-0.99,  1.  ]])
    """
    check_length(ds, layout, length)
    blocks = Blocks(ds, layout)
    states = ds.sizes[layout.time]
    mean, std = _moments(blocks)
    numbers = blocks.grid.numbers(layout.time)
    first, last = (axis_text(n, blocks.grid.origin) for n in (numbers[0], numbers[-1]))
    source = f"{blocks.rows} x {states} states" if blocks.rows_dim else f"{states} states"
    return Moments(mean, std, *_correlations(blocks, mean, std, length), source=f"{source}, {first} to {last}")


def check_length(ds: xr.Dataset, layout: Layout, length: int) -> None:
    """Raise unless there are enough states for the covariance of trajectories of this length."""
    states = ds.sizes[layout.time]
    if states < 2 * length:
        raise ValueError(
            f"the data have {states} states along {layout.time!r}, too few for the covariance of trajectories of "
            f"{length}; use at least {2 * length} states, or a smaller length"
        )


class Blocks:
    """Consecutive blocks (start, values) of the data; values (row, time, channel, *space) start at state ``start``.

    Rows are trajectories. All blocks of some rows come before those of the next rows. Reads follow the edges of dask
    chunks, so that no chunk is read twice in a pass.

    Parameters
    ----------
    ds
        The data, which may be lazy.
    layout
        Variables and axes.
    """

    def __init__(self, ds: xr.Dataset, layout: Layout):
        self.grid = Grid.match(layout, ds)
        self.rows_dim = sample_dim(ds)
        for v in layout.names:
            if self.rows_dim is not None and self.rows_dim not in ds[v].dims:
                raise ValueError(
                    f"the variable {v!r} lacks the dimension {self.rows_dim!r} of the other variables; drop it, or use "
                    f".broadcast_like"
                )
        self.ds = ds[list(layout.names)].reset_coords(drop=True).unify_chunks()
        self.rows = ds.sizes[self.rows_dim] if self.rows_dim else 1

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        time = self.grid.core_dims[0]
        state = math.prod(self.grid.shape[1:])
        for rows in self._cuts(self.rows_dim, BLOCK_NUMBERS // (state * self.ds.sizes[time])):
            count = rows.stop - rows.start
            span = max(1, BLOCK_NUMBERS // (state * count))
            for part in self._cuts(time, span):
                held = self.ds.isel({time: part, **({self.rows_dim: rows} if self.rows_dim else {})}).compute()
                for start in range(part.start, part.stop, span):
                    some = slice(start - part.start, start - part.start + span)
                    values = self.grid.stack(held.isel({time: some}))
                    yield start, values.reshape(count, -1, *self.grid.shape[1:])

    def _cuts(self, dim: str | None, most: int) -> Iterator[slice]:
        """Yield stretches of about ``most`` entries, and at least one chunk."""
        if dim is None:
            yield slice(0, 1)
            return
        size, start = self.ds.sizes[dim], 0
        ends = np.cumsum(self.ds.chunks.get(dim, (1,) * size)).tolist()
        for end, following in zip(ends, [*ends[1:], math.inf], strict=True):
            if following - start > most:
                yield slice(start, end)
                start = end


def _moments(blocks: Blocks) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean at each point, and the standard deviation of each channel around it."""
    shift = total = square = np.zeros(())
    count = 0
    for start, x in blocks:
        _check_finite(blocks.grid, x, start)
        shift = x.mean((0, 1)) if count == 0 else shift  # avoids cancellation in the squares
        x -= shift
        total = total + x.sum((0, 1))
        square = square + np.square(x).sum((0, 1))
        count += x.shape[0] * x.shape[1]
    variance = square / count - (total / count) ** 2
    std = np.sqrt(variance.reshape(len(variance), -1).mean(1).clip(min=0))
    mean = shift + total / count
    level = np.abs(mean).reshape(len(mean), -1).max(1)
    constant = [n for n, s in blocks.grid.layout.slices().items() if (std[s] <= 1e-12 * level[s]).any()]
    if constant:
        raise ValueError(f"the variables {constant} are constant in time; drop them")
    return mean, std


def _check_finite(grid: Grid, x: np.ndarray, start: int) -> None:
    if np.isfinite(x).all():
        return
    bad = ~np.isfinite(x).all(axis=tuple(a for a in range(x.ndim) if a != 2))
    names = [n for n, s in grid.layout.slices().items() if bad[s].any()]
    raise ValueError(
        f"the variables {names} hold NaN or infinite values (among the states {start} to {start + x.shape[1] - 1}); "
        "this prior needs a number at every grid point. Fill them (.fillna, .interpolate_na), choose a region without "
        "gaps, or drop the variable"
    )


def _correlations(
    blocks: Blocks, mean: np.ndarray, std: np.ndarray, length: int
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, ...]]:
    """Return the correlation matrices of time, channels and each space axis."""
    scale = std.reshape(-1, *(1,) * (mean.ndim - 1))
    lags = np.zeros(length)
    grams: Sequence[np.ndarray] = [np.zeros((n, n)) for n in mean.shape]
    numbers = 0
    past = np.zeros(())  # the states before a block that its lags need
    for start, x in blocks:
        z = (x - mean) / scale
        seen = np.concatenate([past, z], axis=1) if start else z
        lags += _lagged(seen, seen.shape[1] - z.shape[1], length)
        past = seen[:, max(seen.shape[1] - length + 1, 0) :].copy()
        for axis, gram in enumerate(grams):
            flat = np.moveaxis(z, axis + 2, 0).reshape(len(gram), -1)
            gram += flat @ flat.T
        numbers += z.size
    index = np.arange(length)
    time = (lags / numbers)[np.abs(index[:, None] - index)]
    channel, *space = (gram * len(gram) / numbers for gram in grams)
    return time, channel, tuple(space)


def _lagged(z: np.ndarray, new: int, length: int) -> np.ndarray:
    """Sums of the products z_t z_(t-k) over the states t from ``new`` on, for each lag k below ``length``."""
    flat = z.reshape(*z.shape[:2], -1)
    sums = np.zeros(length)
    for k in range(min(length, flat.shape[1])):
        first = max(new, k)
        sums[k] = np.einsum("rts,rts->", flat[:, first:], flat[:, first - k : flat.shape[1] - k])
    return sums
