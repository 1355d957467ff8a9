"""Markov chains and ordinary differential equations as simulators of labelled trajectories.

A system of your own takes five lines::

    class Pendulum(DiscreteODE):
        variables = ("angle", "speed")

        def drift(self, x):
            return torch.stack([x[..., 1], -torch.sin(x[..., 0])], -1)

    Pendulum(dt=0.1, noise=0.01).simulate(length=100, seed=0)

Inside, a state is a tensor ``(..., channel, *space)`` in double precision; outside, a labelled ``xarray.Dataset``.
"""

from __future__ import annotations

import inspect
import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from xsda.version import __version__

BLOCK = 16  # torch draws normal numbers in blocks of so many, and otherwise the last ones anew


class MarkovChain(ABC):
    """A state, a deterministic step, and Gaussian transition noise (possibly none).

    Subclasses set ``variables`` (one name per channel), and ``space`` (dimension name -> size) where the state is a
    field, and define ``step``; ``initial`` if standard normal initial states will not do.

    Parameters
    ----------
    dt
        Time between two states, in the system's own time unit.
    noise
        Standard deviation of the noise added to every number of the state after each step.
    """

    variables: ClassVar[tuple[str, ...]] = ("x",)
    remedy: ClassVar[str] = "use a smaller dt, or more substeps"  # where states are not finite
    burn_in: ClassVar[int] = 0  # steps after which an initial state has reached the invariant measure

    def __init__(self, *, dt: float = 1.0, noise: float = 0.0):
        check_finite(dt=dt, noise=noise)
        if not dt > 0:
            raise ValueError(f"dt={dt} must be positive: it is the time between two states")
        if not noise >= 0:
            raise ValueError(f"noise={noise} must not be negative: it is a standard deviation")
        self.dt = dt
        self.noise = noise

    @property
    def space(self) -> dict[str, int]:
        """Name and size of the space dimensions; none by default."""
        return {}

    @property
    def state_shape(self) -> tuple[int, ...]:
        """Shape of one state: ``(channel, *space)``."""
        return (len(self.variables), *self.space.values())

    @abstractmethod
    def step(self, x: Tensor) -> Tensor:
        """The expected next state; ``x``: ``(..., channel, *space)``."""

    def initial(self, members: int, generator: torch.Generator) -> Tensor:
        """Initial states ``(members, channel, *space)``."""
        return torch.randn(members, *self.state_shape, dtype=torch.float64, generator=generator)

    def initial_of(self, number: int, seed: int) -> Tensor:
        """One initial state ``(channel, *space)``: the ``number``-th of all that follow from ``seed``.

        It is ``initial(members)[number]``, with the generator of ``seed``, for as many ``members`` as a multiple of 16.
        """
        members = (number // BLOCK + 1) * BLOCK
        return self.initial(members, torch.Generator().manual_seed(seed))[number]

    def transition(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """A random next state."""
        x = self.step(x)
        if self.noise:
            x = x + self.noise * torch.randn(x.shape, dtype=x.dtype, generator=generator)
        return x

    def states(
        self, x: Tensor, generator: torch.Generator, *, length: int, burn_in: int, every: int = 1, coarsen: int = 1
    ) -> Iterator[Tensor]:
        """The kept states one after another, from the initial states ``x`` ``(..., channel, *space)``.

        Nothing else is remembered, so that fine states need not fit into memory together.
        """
        for k in range(length):
            for _ in range(every if k else burn_in):
                x = self.transition(x, generator)
            yield self.coarsened(x, coarsen)

    def coarsened(self, x: Tensor, factor: int) -> Tensor:
        """Means over blocks of ``factor`` along each space dimension; ``x``: ``(..., channel, *space)``."""
        for axis in range(-1, -1 - len(self.space), -1) if factor > 1 else ():
            x = x.unflatten(axis, (-1, factor)).mean(axis)
        return x

    def check_coarsen(self, factor: int) -> int:
        """``factor`` if blocks of so many points along each side fill the space; raises otherwise."""
        factor = as_count("coarsen", factor, 1)
        if factor > 1 and not self.space:
            raise ValueError(f"coarsen={factor}: {type(self).__name__} has no space to average over; leave it at 1")
        common = math.gcd(*self.space.values())
        for name, size in self.space.items():
            if size % factor:
                fit = ", ".join(str(n) for n in range(2, common + 1) if common % n == 0) or "none but 1"
                raise ValueError(f"coarsen={factor} does not divide the {size} points along {name!r}; would do: {fit}")
        return factor

    def simulate(
        self,
        length: int,
        members: int | None = None,
        *,
        seed: int = 0,
        burn_in: int | None = None,
        every: int = 1,
        coarsen: int = 1,
    ) -> xr.Dataset:
        """Simulate labelled trajectories.

        Parameters
        ----------
        length
            Number of states kept.
        members
            Number of independent trajectories, along the dimension ``member``; ``None`` gives one, without it.
        seed
            Same seed, same numbers.
        burn_in
            Steps made before the first kept state (default: enough to forget the initial state).
        every
            Keep every so many-th step.
        coarsen
            Keep means over blocks of so many points along each space dimension.
        """
        length, every = as_count("length", length, 1), as_count("every", every, 1)
        burn_in = as_count("burn_in", self.burn_in if burn_in is None else burn_in, 0)
        coarsen = self.check_coarsen(coarsen)
        members = None if members is None else as_count("members", members, 1)
        generator = torch.Generator().manual_seed(seed)
        x = self.initial(members or 1, generator)
        kept = self.states(x, generator, length=length, burn_in=burn_in, every=every, coarsen=coarsen)
        values = torch.stack(list(kept), 1)
        if not bool(torch.isfinite(values).all()):
            raise FloatingPointError(f"{type(self).__name__} left the range of finite numbers; {self.remedy}")
        ds = self.label(values.numpy(), every=every)
        ds.attrs["history"] = (
            f"xsda {__version__}: {self!r}.simulate({length=}, {members=}, {seed=}, {burn_in=}, {every=}, {coarsen=})"
        )
        return ds if members is not None else ds.isel(member=0, drop=True)

    def label(self, values: np.ndarray, *, every: int = 1) -> xr.Dataset:
        """Name the axes of ``(member, time, channel, *space)`` values."""
        dims = ("member", "time", *self.space)
        time = np.arange(values.shape[1]) * (self.dt * every)
        coords = {
            "time": ("time", time, {"long_name": "time", "units": "1", "axis": "T"}),
            "member": ("member", np.arange(values.shape[0]), {"standard_name": "realization"}),
            **{d: (d, *self.coordinate(d, n)) for d, n in zip(self.space, values.shape[3:], strict=True)},
        }
        data = {name: (dims, values[:, :, i], {"units": "1"}) for i, name in enumerate(self.variables)}
        return xr.Dataset(data, coords, {"Conventions": "CF-1.11", "title": f"{type(self).__name__} trajectory"})

    def coordinate(self, name: str, size: int) -> tuple[np.ndarray, dict[str, Any]]:
        """Values and attributes of a space coordinate: by default sites on a ring, counted.

        With fewer points than sites, each lies in the middle of those that it is the mean of.
        """
        sites = self.space[name]
        values = np.arange(sites) if size == sites else (np.arange(size) + 0.5) * (sites / size) - 0.5
        return values, {"axis": name.upper(), "units": "1", "period": float(sites)}

    def to_tensor(self, ds: xr.Dataset) -> Tensor:
        """The values of a labelled trajectory as ``(..., time, channel, *space)``."""
        missing = [v for v in self.variables if v not in ds]
        if missing:
            raise KeyError(f"{type(self).__name__} has the variables {self.variables}; {missing} not in the Dataset")
        inner = ("time", *self.space)
        arrays = [ds[v].transpose(..., *inner).values for v in self.variables]
        axis = arrays[0].ndim - len(self.space)
        return torch.as_tensor(np.stack(arrays, axis), dtype=torch.float64)

    def transition_log_prob(self, ds: xr.Dataset) -> xr.DataArray:
        """log p(x_2, ..., x_L | x_1) of labelled trajectories, summed over time; needs transition noise."""
        if not self.noise:
            raise ValueError(f"{self!r} is deterministic: it has no transition density; construct it with noise > 0")
        states = self.to_tensor(ds).movedim(-1 - len(self.state_shape), 0)
        residual = (states[1:] - self.step(states[:-1])) / self.noise
        each = -residual.square() / 2 - math.log(self.noise) - math.log(2 * math.pi) / 2
        value = each.sum(dim=(0, *range(-len(self.state_shape), 0)))
        outer = [d for d in ds[self.variables[0]].dims if d not in ("time", *self.space)]
        coords = {d: ds[d] for d in outer if d in ds.coords}
        return xr.DataArray(value.numpy(), coords, outer, name="transition_log_prob", attrs={"units": "1"})

    def __repr__(self) -> str:
        known = inspect.signature(type(self)).parameters
        parameters = ", ".join(f"{k}={v!r}" for k, v in vars(self).items() if k in known)
        return f"{type(self).__name__}({parameters})"


def as_count(name: str, value: Any, least: int) -> int:
    """``value`` if it is an integer of at least ``least``; raises otherwise."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or number < least:
        raise ValueError(f"{name}={value!r} must be an integer of at least {least}")
    return number


class DiscreteODE(MarkovChain):
    """An ordinary differential equation sampled every ``dt``; define ``drift(x)`` = dx/dt.

    Each step is made of ``substeps`` steps of the classical fourth-order Runge-Kutta method.
    """

    def __init__(self, *, dt: float = 0.01, noise: float = 0.0, substeps: int = 1):
        super().__init__(dt=dt, noise=noise)
        if substeps < 1:
            raise ValueError(f"substeps={substeps} must be at least 1")
        self.substeps = substeps

    @abstractmethod
    def drift(self, x: Tensor) -> Tensor:
        """dx/dt; ``x``: ``(..., channel, *space)``."""

    def step(self, x: Tensor) -> Tensor:
        h = self.dt / self.substeps
        for _ in range(self.substeps):
            k1 = self.drift(x)
            k2 = self.drift(x + h / 2 * k1)
            k3 = self.drift(x + h / 2 * k2)
            k4 = self.drift(x + h * k3)
            x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return x


def check_finite(**parameters: Any) -> None:
    """Raise unless each is a finite number."""
    for name, value in parameters.items():
        try:
            finite = math.isfinite(value)
        except TypeError:
            finite = False
        if not finite:
            raise ValueError(f"{name}={value!r} must be a finite number")
