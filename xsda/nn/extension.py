"""Extends a field before a network reads it: over the poles of a globe, and to sizes that patches divide.

Poles. A great circle through both poles meets every row of latitude twice, at longitudes half a circle apart. Beyond a
pole, the neighbours of a row are therefore the rows before it, in reverse order and turned by half a circle:

    f(90 + a, lon) = s f(90 - a, lon + 180)

with s = 1 for scalars. For components of vectors s = -1, because east and north point the other way on the far side.

The network reads a field with some such rows at both ends, and its result is cut to the rows of the globe. The features
of the added rows are computed, not copied. Copied features would refer to the directions of the far side.

Sizes. A size that the patch of a network does not divide is extended at its end with what the boundary supplies, and
the result is cut. A field that needs neither is passed on as it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from xsda.nn.boundary import check_boundaries, pad_axis

POLES = ("on_poles", "between_poles")


class Extension(nn.Module):
    """Extend the last axes of a field; cut the result to the size before.

    Parameters
    ----------
    boundaries
        One per axis: "periodic", "reflect" or "zeros", or for latitudes "on_poles" (the first and the last row lie on
        the poles) or "between_poles" (they lie half a spacing before them). Next to latitudes there must be one
        periodic axis, the longitudes.
    halo
        Number of rows added beyond each pole.
    multiple
        Sizes become multiples of this number.
    signs
        1 or -1 for each of the first channels: -1 for components of vectors. Further channels are scalars.
    """

    signs: Tensor | None

    def __init__(self, boundaries: Sequence[str], *, halo: int, multiple: int = 1, signs: Sequence[int] = ()):
        super().__init__()
        self.boundaries = tuple(boundaries)
        polar = [i for i, b in enumerate(self.boundaries) if b in POLES]
        if polar and (len(self.boundaries) != 2 or "periodic" not in self.boundaries):
            raise ValueError(
                f"the boundaries {self.boundaries} reach over the poles, which needs two axes, the other one periodic"
            )
        self.latitude = polar[0] - 2 if polar else None  # counted from the end
        self.inner = check_boundaries(["reflect" if b in POLES else b for b in self.boundaries], len(boundaries))
        self.halo, self.multiple = halo, multiple
        column = torch.tensor(signs, dtype=torch.float32).reshape(-1, *(1,) * len(self.boundaries))
        self.register_buffer("signs", column if polar and -1 in signs else None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """``x``: ``(..., channel, *space)``."""
        rank = len(self.boundaries)
        if self.latitude is not None:
            size = x.shape[self.latitude]
            after = self.halo + -(size + 2 * self.halo) % self.multiple
            on = self.boundaries[self.latitude] == "on_poles"
            x = over_poles(x, self.latitude, self.halo, after, on_poles=on, signs=self.signs)
        for axis, boundary in zip(range(x.ndim - rank, x.ndim), self.inner, strict=True):
            if missing := -x.shape[axis] % self.multiple:
                x = pad_axis(x, axis, 0, missing, boundary)
        return x

    def cut(self, x: Tensor, sizes: Sequence[int]) -> Tensor:
        """Cut a result ``(..., channel, *space)`` to ``sizes``, those of the field before."""
        for axis, (size, boundary) in enumerate(zip(sizes, self.boundaries, strict=True), x.ndim - len(sizes)):
            if x.shape[axis] != size:
                x = x.narrow(axis, self.halo if boundary in POLES else 0, size)
        return x


def check_signs(signs: Sequence[int], channels: int) -> tuple[int, ...]:
    """Check the signs of channels beyond a pole.

    Parameters
    ----------
    signs
        1 or -1 for each channel; empty for scalars only.
    channels
        Number of channels.

    Returns
    -------
    tuple of int
        One sign per channel; empty for scalars only.

    Examples
    --------
    >>> from xsda.nn.extension import check_signs
    >>> check_signs([1, 1], 2), check_signs([1, -1], 2)
    ((), (1, -1))
    """
    if signs and (len(signs) != channels or not set(signs) <= {1, -1}):
        raise ValueError(f"signs={tuple(signs)} must be 1 or -1 for each of the {channels} channels")
    return tuple(signs) if -1 in signs else ()


def over_poles(x: Tensor, axis: int, before: int, after: int, *, on_poles: bool, signs: Tensor | None = None) -> Tensor:
    """Extend a field on a globe over both poles.

    Parameters
    ----------
    x
        (..., latitude, longitude) or (..., longitude, latitude).
    axis
        -2 or -1, the axis of latitude.
    before, after
        Number of rows added beyond the first and the last row.
    on_poles
        Whether the first and the last row lie on the poles. Otherwise they lie half a spacing before them.
    signs
        Factors (channel, 1, 1) of the first channels of rows from the far side, -1 for components of vectors.

    Returns
    -------
    Tensor
        The larger field.

    Examples
    --------
    >>> from xsda.nn.extension import over_poles
    >>> over_poles(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), -2, 1, 1, on_poles=False)
    tensor([[2., 1.],
            [1., 2.],
            [3., 4.],
            [4., 3.]])
    """
    around, size = -3 - axis, x.shape[axis]
    if x.shape[around] % 2:
        raise ValueError(
            f"there are {x.shape[around]} longitudes, expected an even number, because rows beyond a pole are turned "
            "by half a circle; interpolate to an even number, or train without the poles"
        )
    far = x.roll(x.shape[around] // 2, around)
    if signs is not None:
        vectors, scalars = far.split([len(signs), far.shape[-3] - len(signs)], -3)
        far = torch.cat([vectors * signs.to(x.dtype), scalars], -3)
    circle = max(2 * (size - on_poles), 1)  # rows of a great circle: down one side and up the other
    position = torch.arange(-before, size + after, device=x.device) % circle
    mirrored = size + circle - 1 + on_poles - position  # counted on through the rows of the far side
    return torch.cat([x, far], axis).index_select(axis, torch.where(position < size, position, mirrored))
