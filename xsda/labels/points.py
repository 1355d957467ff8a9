"""Where the points of a user's grid lie along the axes of a prior."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from xsda.labels.axes import axis_numbers, check_sorted, is_datelike, own_period
from xsda.labels.curvilinear import curvilinear
from xsda.labels.layout import Layout


@dataclass(frozen=True, eq=False)
class Points:
    """The coordinates of a user's Dataset, in the order of a layout.

    Parameters
    ----------
    layout
        The layout, in the user's units.
    template
        The user's Dataset.
    dims
        The user's dimension names by the prior's, time first.
    """

    layout: Layout
    template: xr.Dataset
    dims: Mapping[str, str]

    @property
    def core_dims(self) -> tuple[str, ...]:
        """The user's names of the dimensions (time, *space)."""
        return tuple(self.dims.values())

    def numbers(self, dim: str) -> np.ndarray:
        """Return a coordinate of the user as ascending numbers (dates: seconds since the first)."""
        values = self._raw_numbers(dim)
        return values[::-1] if self.descends(dim) else values

    def _raw_numbers(self, dim: str) -> np.ndarray:
        if dim not in self.template.coords:
            spacing = {d: a.spacing for d, a in zip(self.core_dims[1:], self.layout.space, strict=True)}
            return np.arange(self.template.sizes[dim]) * spacing.get(dim, self.layout.dt or 1.0)
        values = axis_numbers(self.template[dim], self.origin if dim == self.core_dims[0] else None)
        check_sorted(values, dim)
        if dim == self.core_dims[0] and len(values) > 1 and values[1] < values[0]:
            raise ValueError(f"the time axis {dim!r} runs backwards; use .sortby({dim!r})")
        return values

    @property
    def origin(self) -> Any:
        """The first date of the time axis, from which dates are counted in seconds."""
        time = self.template[self.core_dims[0]]
        return time.values[0] if is_datelike(time) else None

    def descends(self, dim: str) -> bool:
        """Whether the user's coordinate descends."""
        if dim not in self.template.coords or self.template.sizes[dim] < 2:
            return False
        values = self._raw_numbers(dim)
        return bool(values[1] < values[0])

    def period(self, dim: str) -> float | None:
        """The length of the ring along a space axis of the user's grid; None if the axis is not periodic."""
        axis = self.layout.space[self.core_dims[1:].index(dim)]
        if axis.period is None or self.template.sizes[dim] < 2:
            return axis.period
        spacing = self.spacing(dim)
        return own_period(self.template, dim, spacing) or spacing * self.template.sizes[dim]

    def spacing(self, dim: str) -> float:
        """Return the median distance between points along one axis."""
        return float(np.median(np.diff(self.numbers(dim))))

    def orient(self, da: xr.DataArray) -> xr.DataArray:
        """Reverse descending space axes; applied twice it gives back the original."""
        flips = {d: slice(None, None, -1) for d in self.core_dims[1:] if self.descends(d) and d in da.dims}
        return da.isel(flips) if flips else da

    def positions(self) -> np.ndarray | None:
        """Return two-dimensional latitudes and longitudes, (2, *space); None if the grid has none."""
        space = self.core_dims[1:]
        pair = curvilinear(self.template, space) if len(space) == 2 else None
        if pair is None:
            return None
        return np.stack([np.asarray(self.orient(c).transpose(*space).values, dtype=float) for c in pair])
