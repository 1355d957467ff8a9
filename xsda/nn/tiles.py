"""Evaluates a part of a network tile by tile: the same result, with memory that follows the tile and not the grid.

A part is local if its value at a position depends only on its input within some reach. Each tile is evaluated with as
many positions around it, and cut to its own positions. This is exact and not an approximation. At the ends of the
domain a tile ends as the domain does, and around a ring it continues on the other side.

A network that halves the grid several times sees far (that of the prior ``kolmogorov`` sees 63 points), and tiles of
the whole network would consist mostly of their surroundings. Therefore the layers of one level are a part: they reach a
few positions. The fields between the levels are held whole; they are far smaller than the activations.

For a gradient, the input of each part is kept, and the activations of one tile at a time are computed again in the
backward pass. The weights get no gradient. Coarser levels have fewer activations, and their tiles more surroundings: a
coarser level of few tiles is evaluated as a whole.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

WHOLE = 9  # a coarser level of at most so many tiles is evaluated as a whole

Local = Callable[..., Tensor]


@dataclass(frozen=True)
class Tiles:
    """How a network divides its fields.

    Parameters
    ----------
    sizes
        Points of a tile along each space axis; None leaves the axis whole.
    states
        Number of states of a tile, over all batch items.
    """

    sizes: tuple[int | None, ...]
    states: int

    def along_space(self, first: int, boundaries: Sequence[str], reach: int, points: float = 1.0) -> list[Cut]:
        """Return the cuts of the space axes, from axis ``first`` on, where a position stands for ``points`` points."""
        cuts = []
        for axis, (size, boundary) in enumerate(zip(self.sizes, boundaries, strict=True), first):
            own = None if size is None else max(round(size / points), reach, 1)
            cuts.append(Cut(axis, own, reach, boundary == "periodic"))
        return cuts

    def along_time(self, axis: int, reach: int, batch: int, unit: int = 1) -> Cut:
        """Return the cut of the time axis."""
        return Cut(axis, max(self.states // batch, 2 * reach, 1), reach, unit=unit)


@dataclass(frozen=True)
class Cut:
    """How one axis is divided.

    Parameters
    ----------
    axis
        Index of the axis, counted from the first.
    size
        Largest number of positions of a tile; None leaves the axis whole.
    reach
        Number of positions on each side that the value at a position depends on.
    periodic
        Whether the axis is a ring.
    unit
        Number of consecutive entries that make one position.
    """

    axis: int
    size: int | None
    reach: int
    periodic: bool = False
    unit: int = 1

    def spans(self, length: int) -> list[Span]:
        """Divide an axis of ``length`` entries."""
        count = length // self.unit
        tiles = 1 if self.size is None else -(-count // self.size)
        if tiles == 1:
            return [Span(self.axis, length, ((0, length),), 0, 0, length)]
        found = []
        for k in range(tiles):
            start, stop = count * k // tiles, count * (k + 1) // tiles
            first, last = start - self.reach, stop + self.reach
            if not self.periodic:
                first, last = max(first, 0), min(last, count)
            runs = tuple((a * self.unit, b * self.unit) for a, b in _around(first, last, count))
            own = (n * self.unit for n in (start - first, start, stop - start))
            found.append(Span(self.axis, length, runs, *own))
        return found


@dataclass(frozen=True)
class Span:
    """One tile along an axis of ``length`` entries.

    ``runs`` are the ranges that it reads, one after another. From ``inner`` on, ``size`` of these entries belong to the
    tile; their place on the axis is ``start``.
    """

    axis: int
    length: int
    runs: tuple[tuple[int, int], ...]
    inner: int
    start: int
    size: int

    def reads(self, x: Tensor) -> list[tuple[int, int]]:
        """Return the ranges that are read of a field, which may be coarser by a factor of two."""
        if x.shape[self.axis] == self.length:
            return list(self.runs)
        return [(a // 2, (b + 1) // 2) for a, b in self.runs]

    def enlarge(self, piece: Tensor) -> Tensor:
        """Repeat the entries of a piece of a coarser field, so that there is one for each entry of the finer field."""
        index, before = [], 0
        for a, b in self.runs:
            index.append(torch.arange(a, b, device=piece.device) // 2 - a // 2 + before)
            before += (b + 1) // 2 - a // 2
        last = piece.movedim(1, -1)  # as they are in memory
        return last.index_select(self.axis - 1, torch.cat(index)).movedim(-1, 1)


Tile = tuple[Span, ...]


def _around(first: int, last: int, count: int) -> list[tuple[int, int]]:
    """Divide the positions from ``first`` to ``last`` on a ring of ``count`` into ranges."""
    runs = []
    while first < last:
        start = first % count
        stop = min(start + last - first, count)
        runs.append((start, stop))
        first += stop - start
    return runs


def few_tiles(cuts: Sequence[Cut], shape: Sequence[int]) -> bool:
    """Whether a field of this shape has so few tiles that a coarser level is evaluated as a whole."""
    return math.prod(len(cut.spans(shape[cut.axis])) for cut in cuts) <= WHOLE


def tile_by_tile(function: Local, cuts: Sequence[Cut], *fields: Tensor) -> Tensor:
    """Evaluate a local function tile by tile.

    Parameters
    ----------
    function
        Takes a piece of each field and returns a field over the same positions. It treats the ends of a piece like
        those of the domain.
    cuts
        How axes are divided.
    fields
        The inputs, (n, channel, ...). All but the last may have half the size along axes from the third on. The entries
        of their pieces are repeated to the full size.

    Returns
    -------
    Tensor
        ``function(*fields)``.

    Examples
    --------
    >>> from xsda.nn.tiles import Cut, tile_by_tile
    >>> x = torch.arange(6.0).reshape(1, 1, 6)
    >>> tile_by_tile(lambda x: x + x.roll(1, 2), [Cut(2, 2, 1, periodic=True)], x)
    tensor([[[5., 1., 3., 5., 7., 9.]]])
    """
    tiles = list(itertools.product(*(cut.spans(fields[-1].shape[cut.axis]) for cut in cuts)))
    if len(tiles) == 1:
        return function(*fields)
    if torch.is_grad_enabled() and any(f.requires_grad for f in fields):
        return _TileByTile.apply(function, tiles, *fields)
    return _joined(function, tiles, fields)


class _TileByTile(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Local, tiles: list[Tile], *fields: Tensor) -> Tensor:
        ctx.save_for_backward(*fields)
        kind = fields[0].device.type
        half = {"enabled": torch.is_autocast_enabled(kind), "dtype": torch.get_autocast_dtype(kind)}
        ctx.function, ctx.tiles, ctx.autocast = function, tiles, {"device_type": kind, **half}
        return _joined(function, tiles, fields)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        fields = ctx.saved_tensors
        totals = [torch.zeros_like(f) for f in fields]
        for tile in ctx.tiles:
            with torch.enable_grad(), torch.autocast(**ctx.autocast):
                pieces = [_read(f, tile).detach().requires_grad_() for f in fields]
                own = _inner(_value(ctx.function, pieces, fields, tile), tile)
            found = torch.autograd.grad(own, pieces, _place(grad, tile))
            for total, part in zip(totals, found, strict=True):
                _add(total, part, [(s.axis, s.reads(total)) for s in tile])
        return None, None, *totals


def _value(function: Local, pieces: Sequence[Tensor], fields: Sequence[Tensor], tile: Tile) -> Tensor:
    """Evaluate the function on the pieces that a tile reads, of equal size."""
    sized = []
    for piece, field in zip(pieces, fields, strict=True):
        for span in tile:
            piece = piece if field.shape[span.axis] == span.length else span.enlarge(piece)
        sized.append(piece)
    return function(*sized)


def _joined(function: Local, tiles: list[Tile], fields: Sequence[Tensor]) -> Tensor:
    """Put the values on all tiles together, in the memory format of the first."""
    out = torch.empty(0)
    for number, tile in enumerate(tiles):
        value = _value(function, [_read(f, tile) for f in fields], fields, tile)
        if number == 0:
            sizes = {span.axis: span.length for span in tile}
            shape = [sizes.get(axis, n) for axis, n in enumerate(value.shape)]
            out = torch.empty(shape, dtype=value.dtype, device=value.device, memory_format=_memory_format(value))
        _place(out, tile).copy_(_inner(value, tile))
    return out


def _read(x: Tensor, tile: Tile) -> Tensor:
    """Return the piece of a field that a tile reads."""
    piece = x
    for span in tile:
        parts = [piece.narrow(span.axis, a, b - a) for a, b in span.reads(x)]
        piece = parts[0] if len(parts) == 1 else torch.cat(parts, span.axis)
    return piece.contiguous(memory_format=_memory_format(x))


def _add(total: Tensor, piece: Tensor, reads: Sequence[tuple[int, list[tuple[int, int]]]]) -> None:
    """Add a piece to the places where it was read: ranges along some axes."""
    if not reads:
        total += piece
        return
    (axis, runs), before = reads[0], 0
    for a, b in runs:
        _add(total.narrow(axis, a, b - a), piece.narrow(axis, before, b - a), reads[1:])
        before += b - a


def _inner(value: Tensor, tile: Tile) -> Tensor:
    """Return the part of a value that belongs to the tile."""
    for span in tile:
        value = value.narrow(span.axis, span.inner, span.size)
    return value


def _place(whole: Tensor, tile: Tile) -> Tensor:
    """Return the place of a tile in the whole field."""
    for span in tile:
        whole = whole.narrow(span.axis, span.start, span.size)
    return whole


def _memory_format(x: Tensor) -> torch.memory_format:
    last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format
