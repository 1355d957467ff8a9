"""What every forecast model on a grid can do, and the error of a forecast that cannot be used.

Inside the baselines a state ensemble is a tensor (member, channel, *space) in double precision and physical units.
"""

from __future__ import annotations

import datetime
import math
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from xsda.labels.axes import axis_text
from xsda.labels.grid import Grid


class ForecastError(RuntimeError):
    """A forecast or analysis that cannot be used.

    Parameters
    ----------
    message
        What happened.
    members
        Numbers of the members that it happened to, if it is known which.
    time
        The time at which it happened, as on the time axis of the grid.

    Attributes
    ----------
    partial : xarray.Dataset or None
        What ``filter`` computed before, labelled.
    """

    partial: xr.Dataset | None = None

    def __init__(self, message: str, *, members: tuple[int, ...] = (), time: Any = None):
        super().__init__(message)
        self.members, self.time = members, time


class Leg(NamedTuple):
    """A part of a forecast: from ``start`` to ``stop``, followed by noise of this variance."""

    start: float
    stop: float
    variance: float


class BoundForecast(ABC):
    """A forecast model on the axes of a grid."""

    name: str  # for messages
    noise: float = 0.0  # standard deviation of what is added to each number after a step
    gaussian: bool = True  # whether the noise is that and nothing else
    differentiable: bool = True  # whether PyTorch can differentiate the forecast
    autonomous: bool = False  # whether only the length of a forecast matters

    def __init__(self, grid: Grid):
        self.grid = grid
        self.time, self.origin = grid.core_dims[0], grid.origin

    @abstractmethod
    def __call__(self, x: Tensor, start: float, stop: float, generator: torch.Generator | None = None) -> Tensor:
        """States ``x`` (member, channel, *space) carried from ``start`` to ``stop``, both in the numbers of the grid.

        Without a ``generator`` the system's transition noise is left out.
        """

    def legs(self, start: float, stop: float) -> list[Leg]:
        """The forecast as a sequence of noiseless ones, each followed by independent noise."""
        return [Leg(start, stop, 0.0)]

    def tensor(self, ds: xr.Dataset) -> Tensor:
        """A labelled ensemble without time as a tensor (member, channel, *space)."""
        x = torch.as_tensor(self.grid.stack(ds.transpose("member", ...).expand_dims(self.time)))
        return x.movedim(-2 - len(self.grid.layout.space), 0)[0]

    def label(self, number: float) -> Any:
        """A time as the user writes it."""
        if self.origin is None:
            return number
        if isinstance(self.origin, np.datetime64):
            return self.origin + np.timedelta64(round(number * 1e9), "ns")
        return self.origin + datetime.timedelta(seconds=number)

    def text(self, number: float) -> str:
        """A time as messages write it."""
        return axis_text(number, self.origin)


def whole_steps(span: float, dt: float) -> tuple[int, float]:
    """How many whole steps there are in a span, and what is left after them."""
    whole = math.floor(span / dt + 1e-4)
    rest = span - whole * dt
    return whole, rest if rest > 1e-4 * dt else 0.0
