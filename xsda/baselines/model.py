"""What carries states from one time to another: one of our systems, or any function."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import pandas as pd
from torch import Tensor

from xsda.baselines.bound import BoundForecast
from xsda.baselines.function_model import FunctionModel
from xsda.baselines.system_model import SystemModel
from xsda.labels.grid import Grid
from xsda.systems import MarkovChain


class Model(Protocol):
    """What a forecast needs of a model: adapters of our systems and of functions have it."""

    variables: tuple[str, ...] | None  # in their order, where the model says so
    name: str  # for the attributes of a result
    title: str  # for messages

    def climate(self, members: int, seed: int) -> Tensor:
        """States (member, channel, *space) to start from."""

    def bind(self, grid: Grid, dt: float | None) -> BoundForecast:
        """The forecast on the axes of a grid."""


class Forecast:
    """A forecast model.

    Parameters
    ----------
    step
        One of ``xsda.systems``; or a function ``step(ds, start, stop)``. The function takes a Dataset with the
        dimensions ``(member, *space)`` that is valid at ``start``, and returns the same at ``stop``. Both times are as
        on the time axis of the grid.
    dt
        Length of one step on the time axis: a number, or a duration such as "6h". A function is then ``step(ds)``, and
        is called as often as needed. Default: the system's own ``dt``; it must be given where the time axis holds
        dates.
    tensors
        Whether ``step`` takes tensors ``(member, channel, *space)`` instead of Datasets: in physical units, on
        ascending axes, with the channels in the order of the variables. Use it for a PyTorch emulator, and for 4D-Var,
        which differentiates.

    Examples
    --------
    A damped system, written on labels, followed by its forecast without observations at the first times:

    >>> def step(ds, start, stop):
    ...     return ds * np.exp(-(stop - start))
    >>> grid = xr.Dataset({"u": ("time", np.zeros(3))}, {"time": [0.0, 1.0, 2.0]})
    >>> start = xr.Dataset({"u": ("member", np.array([1.0, 2.0, 3.0]))})
    >>> method = xsda.baselines.FreeRun()
    >>> system = xsda.baselines.Forecast(step)
    >>> run = grid.sda.filter(grid.isel(time=[2]), system, method=method, sigma=1.0, initial=start, progress=False)
    >>> run.u.mean("member").round(3).values.tolist()
    [2.0, 0.736, 0.271]
    """

    def __init__(self, step: MarkovChain | Callable[..., Any], *, dt: Any = None, tensors: bool = False):
        if isinstance(step, type):
            raise TypeError(f"system is the class {step.__name__}; pass an object of it: {step.__name__}()")
        self.step = step
        self.model: Model
        if isinstance(step, MarkovChain):
            self.model = SystemModel(step)
        elif callable(step):
            self.model = FunctionModel(step, tensors=tensors, fixed=dt is not None)
        else:
            raise TypeError(
                f"a system must be one of xsda.systems or a function step(ds, start, stop), got {type(step).__name__}"
            )
        self.dt = None if dt is None else _length(dt)
        self.dates = dt is not None and not _is_number(dt)

    @property
    def variables(self) -> tuple[str, ...] | None:
        """The variables of the state, in their order, where the model says so."""
        return self.model.variables

    @property
    def name(self) -> str:
        """The name of the model in the attributes of a result."""
        return self.model.name

    def climate(self, members: int, seed: int) -> Tensor:
        """States (member, channel, *space) of the model's climate.

        Parameters
        ----------
        members
            How many.
        seed
            Same seed, same numbers.

        Returns
        -------
        Tensor
            States (member, channel, *space). Functions have no climate, and raise.
        """
        return self.model.climate(members, seed)

    def bind(self, grid: Grid) -> BoundForecast:
        """The forecast on the axes of a grid.

        Parameters
        ----------
        grid
            The grid.

        Returns
        -------
        BoundForecast
            What carries tensors from time to time.
        """
        dates = grid.origin is not None
        bound = self.model.bind(grid, self.dt)
        if self.dt is not None and self.dates != dates:
            kinds = ("plain numbers", "dates")
            raise ValueError(f"dt is {'a duration' if self.dates else 'a number'}, the time axis holds {kinds[dates]}")
        return bound


def as_forecast(system: Any) -> Forecast:
    """A system or function as a forecast model."""
    return system if isinstance(system, Forecast) else Forecast(system)


def _is_number(dt: Any) -> bool:
    return isinstance(dt, numbers.Real) and not isinstance(dt, np.timedelta64)  # which numpy takes for an integer


def _length(dt: Any) -> float:
    """A duration as a number; in seconds if it says its unit."""
    try:
        value = float(dt) if _is_number(dt) else pd.Timedelta(dt).total_seconds()
    except (TypeError, ValueError) as error:
        raise ValueError(f"dt={dt!r} is neither a number nor a duration such as '6h'") from error
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"dt={dt!r} must be positive: it is the length of one step")
    return value
