"""One of our systems as a forecast model."""

from __future__ import annotations

import copy
import math

import numpy as np
import torch
from torch import Tensor

from xsda.baselines.bound import BoundForecast, Leg, whole_steps
from xsda.labels.grid import Grid
from xsda.systems import DiscreteODE, MarkovChain


class SystemModel:
    """Adapter of one of ``xsda.systems``: it knows its variables, its step and its climate."""

    def __init__(self, system: MarkovChain):
        self.system = system
        self.variables: tuple[str, ...] | None = system.variables
        self.name = repr(system)
        self.title = type(system).__name__

    def climate(self, members: int, seed: int) -> Tensor:
        """States (member, channel, *space) of the system's climate."""
        return self.system.to_tensor(self.system.simulate(1, members, seed=seed))[:, 0]

    def bind(self, grid: Grid, dt: float | None) -> BoundForecast:
        """The forecast on a grid; ``dt``: the length of a step on its time axis, if it is not the system's own."""
        _check_state(self.system, grid)
        if dt is None and grid.origin is not None:
            raise ValueError(
                f"the time axis holds dates, and {self.title} counts time in its own unit; say how long one of its "
                "steps lasts: xsda.baselines.Forecast(system, dt='6h')"
            )
        return BoundSystem(self.system, grid, self.system.dt if dt is None else dt)


class BoundSystem(BoundForecast):
    """Whole steps of a system, and a shorter one for what is left of the span."""

    autonomous = True

    def __init__(self, system: MarkovChain, grid: Grid, dt: float):
        super().__init__(grid)
        self.system, self.dt = system, dt
        self.name, self.noise = type(system).__name__, system.noise
        self.gaussian = type(system).transition is MarkovChain.transition

    def __call__(self, x: Tensor, start: float, stop: float, generator: torch.Generator | None = None) -> Tensor:
        whole, rest = whole_steps(stop - start, self.dt)
        systems = [self.system] * whole + ([_part(self.system, rest / self.dt)] if rest else [])
        for system in systems:
            x = system.step(x) if generator is None else system.transition(x, generator)
        return x

    def legs(self, start: float, stop: float) -> list[Leg]:
        whole, rest = whole_steps(stop - start, self.dt)
        last = round(rest / self.dt, 4) * self.dt
        lengths = [self.dt] * whole + ([last] if rest else [])
        return [Leg(0.0, length, self.noise**2 * length / self.dt) for length in lengths]


def _part(system: MarkovChain, share: float) -> MarkovChain:
    """The same system with a step shorter by the factor ``share``."""
    if not isinstance(system, DiscreteODE):
        raise ValueError(
            f"{type(system).__name__} makes whole steps, and {share:.3g} of one is left until the next time; put grid "
            "and observations on its steps"
        )
    part = copy.copy(system)
    part.dt, part.noise = share * system.dt, system.noise * math.sqrt(share)
    return part


def _check_state(system: MarkovChain, grid: Grid) -> None:
    """Raise unless the grid has the shape of the system's states, and its size where lengths matter."""
    if system.state_shape != grid.shape[1:]:
        raise ValueError(
            f"{type(system).__name__} has states of the shape (variable, *space) = {system.state_shape}, the grid has "
            f"{grid.shape[1:]}"
        )
    domain = getattr(system, "domain", None)  # of systems to which lengths matter
    if domain is None:
        return
    for dim in grid.core_dims[1:]:
        if dim not in grid.template.coords:
            continue
        length = float(np.median(np.diff(grid.numbers(dim)))) * grid.template.sizes[dim]
        if not math.isclose(length, domain, rel_tol=1e-3):
            raise ValueError(
                f"the grid is {length:.5g} long along {dim!r}, the domain of {type(system).__name__} {domain:.5g}; use "
                f"{type(system).__name__}(domain={length:.5g}), or the system's own coordinates"
            )
