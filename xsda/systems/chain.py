"""Base classes of the simulators: Markov chains and ordinary differential equations that make labelled trajectories.

A system of your own takes five lines::

    class Pendulum(DiscreteODE):
        variables = ("angle", "speed")

        def drift(self, x):
            return torch.stack([x[..., 1], -torch.sin(x[..., 0])], -1)

    Pendulum(dt=0.1, noise=0.01).simulate(length=100, seed=0)

Inside the simulator, a state is a tensor (..., channel, *space) in double precision. Outside it is a labelled
``xarray.Dataset``.
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

BLOCK = 16  # torch draws normal numbers in blocks of this size; an incomplete last block is drawn differently


class MarkovChain(ABC):
    """A system with a deterministic step and Gaussian transition noise, which may be zero.

    Subclasses set ``variables`` (one name per channel) and define ``step``. If the state is a field, they also set
    ``space`` (dimension name -> size). They define ``initial`` if standard normal initial states are not suitable.

    Parameters
    ----------
    dt
        Time between two states, in the time unit of the system.
    noise
        Standard deviation of the noise added to every number of the state after each step.
    """

    variables: ClassVar[tuple[str, ...]] = ("x",)
    remedy: ClassVar[str] = "use a smaller dt, or more substeps"  # advice if states are not finite
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
        """Shape of one state, (channel, *space)."""
        return (len(self.variables), *self.space.values())

    @abstractmethod
    def step(self, x: Tensor) -> Tensor:
        """Return the expected next state.

        Parameters
        ----------
        x
            States (..., channel, *space).

        Returns
        -------
        Tensor
            The states one ``dt`` later.
        """

    def initial(self, members: int, generator: torch.Generator) -> Tensor:
        """Draw initial states.

        Parameters
        ----------
        members
            Number of states.
        generator
            Source of the random numbers.

        Returns
        -------
        Tensor
            States (members, channel, *space).
        """
        return torch.randn(members, *self.state_shape, dtype=torch.float64, generator=generator)

    def initial_of(self, number: int, seed: int) -> Tensor:
        """Draw one initial state (channel, *space), the ``number``-th of all that follow from ``seed``.

        It equals ``initial(members)[number]`` with the generator of ``seed``, if ``members`` is a multiple of 16.
        """
        members = (number // BLOCK + 1) * BLOCK
        return self.initial(members, torch.Generator().manual_seed(seed))[number]

    def transition(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Draw a random next state."""
        x = self.step(x)
        if self.noise:
            x = x + self.noise * torch.randn(x.shape, dtype=x.dtype, generator=generator)
        return x

    def states(
        self, x: Tensor, generator: torch.Generator, *, length: int, burn_in: int, every: int = 1, coarsen: int = 1
    ) -> Iterator[Tensor]:
        """Yield the kept states one after another, starting from the initial states ``x`` (..., channel, *space).

        Only one state is kept in memory, so a fine grid does not limit the length.
        """
        for k in range(length):
            for _ in range(every if k else burn_in):
                x = self.transition(x, generator)
            yield self.coarsened(x, coarsen)

    def coarsened(self, x: Tensor, factor: int) -> Tensor:
        """Average ``x`` (..., channel, *space) over blocks of ``factor`` points along each space dimension."""
        for axis in range(-1, -1 - len(self.space), -1) if factor > 1 else ():
            x = x.unflatten(axis, (-1, factor)).mean(axis)
        return x

    def check_coarsen(self, factor: int) -> int:
        """Return ``factor`` if blocks of ``factor`` points along each side fill the space; raise otherwise."""
        factor = as_count("coarsen", factor, 1)
        if factor > 1 and not self.space:
            raise ValueError(f"coarsen={factor}: {type(self).__name__} has no space to average over; use coarsen=1")
        common = math.gcd(*self.space.values())
        for name, size in self.space.items():
            if size % factor:
                fit = ", ".join(str(n) for n in range(2, common + 1) if common % n == 0) or "none but 1"
                raise ValueError(
                    f"coarsen={factor} does not divide the {size} points along {name!r}; possible factors: {fit}"
                )
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
            Number of states that are kept.
        members
            Number of independent trajectories, along the dimension ``member``. ``None`` gives one without this
            dimension.
        seed
            The same seed gives the same numbers.
        burn_in
            Number of steps before the first kept state (default: enough to forget the initial state).
        every
            Keep every ``every``-th step.
        coarsen
            Keep means over blocks of ``coarsen`` points along each space dimension.

        Returns
        -------
        Dataset
            Trajectories over ``time`` and the space dimensions.

        Examples
        --------
        >>> dict(xsda.systems.Lorenz63().simulate(length=8, members=2, seed=0).sizes)
        {'member': 2, 'time': 8}
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
            raise FloatingPointError(f"{type(self).__name__} produced values that are not finite; {self.remedy}")
        ds = self.label(values.numpy(), every=every)
        ds.attrs["history"] = (
            f"xsda {__version__}: {self!r}.simulate({length=}, {members=}, {seed=}, {burn_in=}, {every=}, {coarsen=})"
        )
        return ds if members is not None else ds.isel(member=0, drop=True)

    def label(self, values: np.ndarray, *, every: int = 1) -> xr.Dataset:
        """Label values (member, time, channel, *space).

        Parameters
        ----------
        values
            The numbers.
        every
            Number of steps between two states.

        Returns
        -------
        Dataset
            The same numbers with names and coordinates.
        """
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
        """Return values and attributes of a space coordinate: by default the numbers of the sites on a ring.

        If there are fewer points than sites, each point lies in the middle of the sites that it averages.
        """
        sites = self.space[name]
        values = np.arange(sites) if size == sites else (np.arange(size) + 0.5) * (sites / size) - 0.5
        return values, {"axis": name.upper(), "units": "1", "period": float(sites)}

    def to_tensor(self, ds: xr.Dataset) -> Tensor:
        """Convert a labelled trajectory to a tensor.

        Parameters
        ----------
        ds
            Trajectory with the variables of this system.

        Returns
        -------
        Tensor
            Values (..., time, channel, *space).
        """
        missing = [v for v in self.variables if v not in ds]
        if missing:
            raise KeyError(f"{type(self).__name__} has the variables {self.variables}; the Dataset lacks {missing}")
        inner = ("time", *self.space)
        arrays = [ds[v].transpose(..., *inner).values for v in self.variables]
        axis = arrays[0].ndim - len(self.space)
        return torch.as_tensor(np.stack(arrays, axis), dtype=torch.float64)

    def transition_log_prob(self, ds: xr.Dataset) -> xr.DataArray:
        """Compute log p(x_2, ..., x_L | x_1) of labelled trajectories.

        Use it to test whether samples follow the dynamics. It needs transition noise.

        Parameters
        ----------
        ds
            Trajectories with the variables of this system.

        Returns
        -------
        DataArray
            The log-probability summed over time, for each member.
        """
        if not self.noise:
            raise ValueError(f"{self!r} is deterministic, so it has no transition density; construct it with noise > 0")
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
    """Check that a number is an integer of at least ``least``.

    Parameters
    ----------
    name
        Name of the option, for the error message.
    value
        Its value.
    least
        Smallest value that is allowed.

    Returns
    -------
    int
        The value.

    Examples
    --------
    >>> from xsda.systems.chain import as_count
    >>> as_count("length", np.int64(3), 1)
    3
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or number < least:
        raise ValueError(f"{name}={value!r} must be an integer of at least {least}")
    return number


class DiscreteODE(MarkovChain):
    """An ordinary differential equation, sampled every ``dt``. Subclasses define ``drift(x)`` = dx/dt.

    Each step consists of ``substeps`` steps of the classical fourth-order Runge-Kutta method.

    Parameters
    ----------
    dt, noise
        As for ``MarkovChain``.
    substeps
        Number of Runge-Kutta steps between two states.
    """

    def __init__(self, *, dt: float = 0.01, noise: float = 0.0, substeps: int = 1):
        super().__init__(dt=dt, noise=noise)
        if substeps < 1:
            raise ValueError(f"substeps={substeps} must be at least 1")
        self.substeps = substeps

    @abstractmethod
    def drift(self, x: Tensor) -> Tensor:
        """Return dx/dt.

        Parameters
        ----------
        x
            States (..., channel, *space).

        Returns
        -------
        Tensor
            Their rate of change.
        """

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
    """Raise if a parameter is not a finite number.

    Parameters
    ----------
    parameters
        Names and values.

    Examples
    --------
    >>> from xsda.systems.chain import check_finite
    >>> check_finite(dt=0.1, noise=0)
    """
    for name, value in parameters.items():
        try:
            finite = math.isfinite(value)
        except TypeError:
            finite = False
        if not finite:
            raise ValueError(f"{name}={value!r} must be a finite number")
