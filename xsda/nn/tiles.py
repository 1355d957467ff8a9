"""Evaluates a part of a network tile by tile: the same result, with memory that follows the tile and not the grid.

A part is local if its value at a position depends only on its inputs within some reach. Each tile is evaluated with
as many positions around it, and cut to its own positions. This is exact and not an approximation: at the ends of the
domain a tile ends as the domain does, and around a ring it continues on the other side.

A network that halves the grid several times reaches far (the network of the prior ``kolmogorov`` about 60 points), and
tiles of the whole network would be mostly surroundings. Therefore each level of the network is one part, with a reach
of a few positions. The fields between the parts are held whole. They are far smaller than the activations within.

For gradients, the activations of the first tiles of each part are kept; those of all others are computed again in the
backward pass. The weights get no gradient.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

KEPT = 3  # tiles of each part whose activations are kept for the gradient


@dataclass(frozen=True)
class Cut:
    """How an axis is divided.

    Parameters
    ----------
    axis
        Index of the axis, counted from the first.
    size
        Largest number of positions of a tile.
    reach
        Number of positions on both sides that the value at a position depends on.
    periodic
        Whether the axis is a ring.
    unit
        Number of consecutive entries that are one position.
    """

    axis: int
    size: int
    reach: int
    periodic: bool = False
    unit: int = 1

    def spans(self, length: int) -> list[Span]:
        """Return the parts of an axis of ``length`` entries."""
        count = length // self.unit
        tiles = -(-count // self.size)
        if tiles <= 1:
            return [Span(self.axis, length, [(0, length)], 0, 0, length)]
        found = []
        for k in range(tiles):
            start, stop = count * k // tiles, count * (k + 1) // tiles
            first, last = start - self.reach, stop + self.reach
            if not self.periodic:
                first, last = max(first, 0), min(last, count)
            runs = _around(first, last, count)
            own = (u * self.unit for u in (start - first, start, stop - start))
            found.append(Span(self.axis, length, [(a * self.unit, b * self.unit) for a, b in runs], *own))
        return found


@dataclass(frozen=True)
class Span:
    """A part of an axis of ``length`` entries.

    ``runs`` are the ranges that are read, one after another. ``size`` of these entries belong to the tile, from
    ``inner`` on. Their place on the axis is ``start``.
    """

    axis: int
    length: int
    runs: list[tuple[int, int]]
    inner: int
    start: int
    size: int

    def runs_in(self, x: Tensor) -> list[tuple[int, int]]:
        """Return the ranges that are read of ``x``, which may be coarser by a factor of two."""
        if x.shape[self.axis] == self.length:
            return self.runs
        return [(a // 2, (b + 1) // 2) for a, b in self.runs]

    def enlarge(self, piece: Tensor, coarse: bool) -> Tensor:
        """Repeat each entry of a piece that was read of a coarser field."""
        if not coarse:
            return piece
        index, before = [], 0
        for a, b in self.runs:
            index.append(torch.arange(a, b, device=piece.device) // 2 - a // 2 + before)
            before += (b + 1) // 2 - a // 2
        last = piece.movedim(1, -1)  # channels are last in memory
        return last.index_select(self.axis - (self.axis > 1), torch.cat(index)).movedim(-1, 1)


def _around(first: int, last: int, count: int) -> list[tuple[int, int]]:
    """Divide the positions from ``first`` to ``last`` on a ring of ``count`` into ranges."""
    runs = []
    while first < last:
        start = first % count
        stop = min(start + last - first, count)
        runs.append((start, stop))
        first += stop - start
    return runs


def tile_by_tile(function: Callable[..., Tensor], cuts: Sequence[Cut], *fields: Tensor) -> Tensor:
    """Evaluate a local function tile by tile.

    Parameters
    ----------
    function
        Takes a piece of each field and returns a field of the same size.
    cuts
        How the axes are divided; other axes stay whole.
    fields
        The inputs, (n, channel, ...). The last one has the full size. Others may be coarser by a factor of two: then
        the function receives their pieces with each entry repeated.

    Returns
    -------
    Tensor
        The value of the function on the whole fields.

    Examples
    --------
    >>> from xsda.nn.tiles import Cut, tile_by_tile
    >>> x = torch.arange(6.0).reshape(1, 1, 6)
    >>> tile_by_tile(lambda x: x + x.roll(1, 2), [Cut(2, 2, 1, periodic=True)], x)
    tensor([[[5., 1., 3., 5., 7., 9.]]])
    """
    tiles = list(itertools.product(*(cut.spans(fields[-1].shape[cut.axis]) for cut in cuts)))
    if torch.is_grad_enabled() and any(f.requires_grad for f in fields) and len(tiles) > 1:
        return _TileByTile.apply(function, tiles, *fields)  # type: ignore[no-any-return]
    return _evaluate(function, tiles, fields, None)


Tile = tuple[Span, ...]
Kept = dict[int, tuple[list[Tensor], Tensor]]


class _TileByTile(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], tiles: list[Tile], *fields: Tensor) -> Tensor:
        ctx.function, ctx.tiles, ctx.kept = function, tiles, {}
        ctx.save_for_backward(*fields)
        kind = fields[0].device.type
        ctx.half = {"device_type": kind, "enabled": torch.is_autocast_enabled(kind)}
        ctx.half["dtype"] = torch.get_autocast_dtype(kind)
        return _evaluate(function, tiles, fields, ctx.kept)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        fields = ctx.saved_tensors
        totals = [torch.zeros_like(f) for f in fields]
        for number, tile in enumerate(ctx.tiles):
            with torch.enable_grad(), torch.autocast(**ctx.half):
                pieces, value = ctx.kept.pop(number, None) or _with_graph(ctx.function, tile, fields)
                inner = _narrow(value, [(s.axis, s.inner, s.size) for s in tile])
            outer = _narrow(grad, [(s.axis, s.start, s.size) for s in tile])
            for total, part in zip(totals, torch.autograd.grad(inner, pieces, outer), strict=True):
                _add(total, part, [(s.axis, s.runs_in(total)) for s in tile])
        return None, None, *totals


def _evaluate(function: Callable[..., Tensor], tiles: list[Tile], fields: Sequence[Tensor], kept: Kept | None) -> Tensor:
    """Put the values on all tiles together."""
    out: Tensor | None = None
    for number, tile in enumerate(tiles):
        if kept is not None and number < KEPT:
            with torch.enable_grad():
                kept[number] = _with_graph(function, tile, fields)
            value = kept[number][1].detach()
        else:
            value = _value(function, tile, [_read(f, tile) for f in fields], fields)
        if len(tiles) == 1:
            return value
        if out is None:
            sizes = list(value.shape)
            for span in tile:
                sizes[span.axis] = span.length
            last = value.ndim == 4 and value.is_contiguous(memory_format=torch.channels_last)
            out = value.new_empty(sizes).contiguous(
                memory_format=torch.channels_last if last else torch.contiguous_format
            )
        _narrow(out, [(s.axis, s.start, s.size) for s in tile]).copy_(
            _narrow(value, [(s.axis, s.inner, s.size) for s in tile])
        )
    assert out is not None
    return out


def _with_graph(function: Callable[..., Tensor], tile: Tile, fields: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
    pieces = [_read(f, tile).detach().requires_grad_() for f in fields]
    return pieces, _value(function, tile, pieces, fields)


def _value(function: Callable[..., Tensor], tile: Tile, pieces: Sequence[Tensor], fields: Sequence[Tensor]) -> Tensor:
    sized = []
    for piece, field in zip(pieces, fields, strict=True):
        for span in tile:
            piece = span.enlarge(piece, field.shape[span.axis] != span.length)
        sized.append(piece)
    return function(*sized)


def _read(x: Tensor, tile: Tile) -> Tensor:
    """Return the piece of a field that a tile needs, in the memory format of the field."""
    piece = x
    for span in tile:
        parts = [piece.narrow(span.axis, a, b - a) for a, b in span.runs_in(x)]
        piece = parts[0] if len(parts) == 1 else torch.cat(parts, span.axis)
    last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return piece.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def _narrow(x: Tensor, ranges: Sequence[tuple[int, int, int]]) -> Tensor:
    for axis, start, size in ranges:
        x = x.narrow(axis, start, size)
    return x


def _add(total: Tensor, part: Tensor, reads: Sequence[tuple[int, list[tuple[int, int]]]]) -> None:
    """Add a piece to the places where it was read."""
    if not reads:
        total += part
        return
    (axis, runs), before = reads[0], 0
    for a, b in runs:
        _add(total.narrow(axis, a, b - a), part.narrow(axis, before, b - a), reads[1:])
        before += b - a
