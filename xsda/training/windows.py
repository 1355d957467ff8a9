"""Windows of training trajectories: the data are read in pieces and never loaded as a whole.

The data are cut into pieces (some trajectories, a stretch of time). A few pieces are held in memory at once, and their
windows are shuffled together. The windows of batch n depend on the seed and n only, so an interrupted training resumes
exactly.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from xsda.labels.grid import Grid
from xsda.labels.layout import SAMPLE_DIMS, Layout, sample_dim
from xsda.labels.requirements import check_time
from xsda.labels.steps import step_numbers, stretches


@dataclass(frozen=True)
class Piece:
    """Trajectories ``rows`` over the times ``start`` to ``stop``.

    Parameters
    ----------
    rows
        The trajectories.
    start, stop
        The states.
    """

    rows: slice
    start: int
    stop: int

    def windows(self, window: int) -> int:
        """Return the number of windows of ``window`` states."""
        return (self.rows.stop - self.rows.start) * (self.stop - self.start - window + 1)


class Windows:
    """All windows of ``window`` consecutive states of a Dataset.

    Parameters
    ----------
    ds
        Variables over ``time`` and the space dimensions of the layout, and optionally ``trajectory`` (or ``member``).
    layout
        Layout of the prior, with its scaling.
    window
        Number of consecutive states.
    piece_bytes
        Size of a piece in memory, with its context if that changes in time.
    held
        Number of pieces in memory at once.
    """

    def __init__(self, ds: xr.Dataset, layout: Layout, window: int, *, piece_bytes: int = 2**26, held: int = 4):
        self.ds = ds
        self.sample_dim = sample_dim(ds)
        self.window = window
        self.grid = Grid.match(layout, self.ds)
        self.held = held
        time = self.grid.core_dims[0]
        length, rows = self.ds.sizes[time], self.ds.sizes[self.sample_dim] if self.sample_dim else 1
        if length < window:
            raise ValueError(f"the trajectories have {length} states, fewer than window={window}; use a smaller window")
        parts = self._stretches()
        self.dated = bool(layout.time_features)  # then the context changes in time, and is made piece by piece
        self.context = self._context(slice(0, 1))
        channels = layout.channels + (layout.context_channels if self.dated else 0)
        state = 4 * channels * math.prod(self.grid.shape[2:])
        span = min(length, max(2 * window, piece_bytes // state))
        per_piece = max(1, min(rows, piece_bytes // (state * span)))
        self.pieces = [
            Piece(slice(r, min(r + per_piece, rows)), s, min(s + span, part.stop))
            for r in range(0, rows, per_piece)
            for part in parts
            for s in range(part.start, part.stop - window + 1, span - window + 1)
        ]

    def _context(self, times: slice) -> Tensor | None:
        """The context of some times, (time or 1, context channel, *space)."""
        context = self.grid.part(times).context()
        return None if context is None else context[0]

    def _stretches(self) -> list[slice]:
        """The stretches of the record without gaps; raise if none holds a window."""
        time, step = self.grid.core_dims[0], self.grid.layout.dt
        parts = [slice(0, self.ds.sizes[time])]
        if time in self.ds.coords and step is not None:
            parts = stretches(step_numbers(self.ds[time]), step)
        for part in parts:
            check_time(self.grid.part(part))
        if all(p.stop - p.start < self.window for p in parts):
            raise ValueError(
                f"the record has {len(parts) - 1} gaps, and no stretch between them has window={self.window} states; "
                "use a smaller window, or fill the gaps"
            )
        return parts

    def __len__(self) -> int:
        return sum(p.windows(self.window) for p in self.pieces)

    def read(self, piece: Piece) -> Tensor:
        """Return the standardised states of a piece, (row, time, channel, *space), in single precision.

        Missing values are NaN.
        """
        return self.grid.standardise(self.values(piece), piece.start)

    def values(self, piece: Piece) -> np.ndarray:
        """Return the states of a piece in the units of the variables, in double precision."""
        time = self.grid.core_dims[0]
        picked: dict[Hashable, slice] = {time: slice(piece.start, piece.stop)}
        if self.sample_dim:
            picked[self.sample_dim] = piece.rows
        values = self.grid.stack(self.ds[list(self.grid.names.values())].isel(picked))
        values = values if self.sample_dim else values[None]
        gaps = self.grid.normals is not None
        if np.isinf(values).any() or (not gaps and np.isnan(values).any()):
            raise ValueError(
                f"the training data hold {'infinite values' if gaps else 'NaN or infinite values'} (trajectories "
                f"{piece.rows.start} to {piece.rows.stop - 1}, times {piece.start} to {piece.stop - 1}); "
                f"{'mark missing values as NaN' if gaps else 'use scaling=' + repr('point') + ', or fill or drop them'}"
            )
        return values

    def batches(
        self,
        size: int,
        seed: int,
        skip: int = 0,
        rows: Callable[[np.ndarray], np.ndarray] = lambda picked: picked,
        multiple: int = 1,
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yield batches without end.

        Parameters
        ----------
        size
            Number of windows in a batch.
        seed
            Seed of the shuffling.
        skip
            Number of batches to skip without reading them.
        rows
            Function that selects, from the windows of each batch, those of this process.
        multiple
            Batches hold a multiple of this number of windows.

        Yields
        ------
        states, context : Tensor
            Windows (size, window, channel, *space) and their context, which may be None.
        """
        epoch = 0
        cached: dict[int, tuple[Tensor, Tensor | None]] = {}
        while True:
            order = np.random.default_rng([seed, epoch, 0]).permutation(len(self.pieces))
            some = False
            for first in range(0, len(order), self.held):
                group = order[first : first + self.held].tolist()
                counts = [self.pieces[p].windows(self.window) for p in group]
                # every group gives at least one batch; an incomplete last batch is omitted
                size_here = min(size, sum(counts)) // multiple * multiple
                if not size_here:
                    continue
                some = True
                number = sum(counts) // size_here
                if skip >= number:
                    skip -= number
                    continue
                cached = {p: cached[p] if p in cached else self._load(self.pieces[p]) for p in group}
                shuffled = np.random.default_rng([seed, epoch, 1, first]).permutation(sum(counts))
                ends = np.cumsum(counts)
                for b in range(skip, number):
                    yield self._gather(rows(shuffled[b * size_here : (b + 1) * size_here]), group, ends, cached)
                skip = 0
            if not some:
                raise ValueError(f"there are too few windows ({len(self)}) for {multiple} processes; use more data")
            epoch += 1

    def _load(self, piece: Piece) -> tuple[Tensor, Tensor | None]:
        """Return the states of a piece and their context."""
        context = self._context(slice(piece.start, piece.stop)) if self.dated else self.context
        return self.read(piece), context

    def _gather(
        self, picked: np.ndarray, group: list[int], ends: np.ndarray, cached: dict[int, tuple[Tensor, Tensor | None]]
    ) -> tuple[Tensor, Tensor | None]:
        states, contexts = [], []
        for index in picked:
            which = int(np.searchsorted(ends, index, side="right"))
            piece = self.pieces[group[which]]
            inside = int(index) - (int(ends[which - 1]) if which else 0)
            row, start = divmod(inside, piece.stop - piece.start - self.window + 1)
            values, context = cached[group[which]]
            states.append(values[row, start : start + self.window])
            if context is not None:
                contexts.append(context[start : start + self.window] if self.dated else context)
        return torch.stack(states), torch.stack(contexts) if contexts else None


class Folds:
    """Windows of several parts of the data in turn, with the interface of ``Windows``.

    Parameters
    ----------
    parts
        The windows of each part.
    """

    def __init__(self, parts: Sequence[Windows]):
        self.parts = parts

    def batches(self, size: int, seed: int, skip: int = 0, **options: Any) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yield batches without end, of one part after another."""
        count = len(self.parts)
        each = [p.batches(size, seed, (skip + count - 1 - k) // count, **options) for k, p in enumerate(self.parts)]
        for number in itertools.count(skip):
            yield next(each[number % count])


def fit_scaling(ds: xr.Dataset, layout: Layout) -> Layout:
    """Compute the mean and standard deviation of each channel in one streamed pass.

    Parameters
    ----------
    ds
        The training data.
    layout
        Variables and axes.

    Returns
    -------
    Layout
        The layout with this scaling.

    Examples
    --------
    >>> from xsda.labels.layout import Layout
    >>> from xsda.training.windows import fit_scaling
    >>> ds = xr.Dataset({"x": ("time", [1.0, 3.0])}, {"time": [0.0, 1.0]})
    >>> scaled = fit_scaling(ds, Layout.of(ds))
    >>> scaled.variables[0].mean, scaled.variables[0].std
    ((2.0,), (1.0,))
    """
    windows = Windows(ds, layout, 1)
    count, total, square = 0, np.zeros(layout.channels), np.zeros(layout.channels)
    shift: np.ndarray | None = None
    for piece in windows.pieces:
        values = np.moveaxis(windows.values(piece), 2, 0).reshape(layout.channels, -1)
        shift = values.mean(1) if shift is None else shift  # avoids cancellation in the squares
        count += values.shape[1]
        total += (values - shift[:, None]).sum(1)
        square += np.square(values - shift[:, None]).sum(1)
    assert shift is not None  # there is at least one piece
    std = np.sqrt((square / count - (total / count) ** 2).clip(min=0))
    if (std == 0).any():
        constant = [n for n, s in layout.slices().items() if (std[s] == 0).any()]
        raise ValueError(
            f"the variables {constant} are constant in the training data; drop them or pass them as context"
        )
    mean, vector = shift + total / count, np.array(layout.signs) < 0
    std = np.where(vector, np.hypot(mean, std), std)  # scaled about zero, as they change sign beyond a pole
    return layout.scaled(np.where(vector, 0.0, mean).tolist(), std.tolist())


def split(ds: xr.Dataset, layout: Layout, window: int) -> tuple[xr.Dataset, xr.Dataset, xr.Dataset]:
    """Split data 80/10/10 into training, validation and test parts.

    Parameters
    ----------
    ds
        The data.
    layout
        Variables and axes.
    window
        Number of states that each part must have at least.

    Returns
    -------
    training, validation, test : Dataset
        Parts by trajectory if there are ten or more, otherwise in time.

    Examples
    --------
    >>> from xsda.labels.layout import Layout
    >>> from xsda.training.windows import split
    >>> ds = xr.Dataset({"x": ("time", np.arange(20.0))}, {"time": np.arange(20.0)})
    >>> [part.sizes["time"] for part in split(ds, Layout.of(ds), 2)]
    [16, 2, 2]
    """
    dim = next((d for d in SAMPLE_DIMS if ds.sizes.get(d, 0) >= 10), layout.time)
    n = ds.sizes[dim]
    if dim == layout.time and n // 10 < window:
        raise ValueError(
            f"{n} time steps are too few for an 80/10/10 split with window={window}; "
            "use a longer Dataset or a smaller window, or pass validation=..."
        )
    a, b = n * 8 // 10, n * 9 // 10
    return ds.isel({dim: slice(0, a)}), ds.isel({dim: slice(a, b)}), ds.isel({dim: slice(b, n)})
