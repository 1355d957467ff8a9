"""Reference methods, which leave out observations, forecasts, or both."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from xsda.baselines.cycle import Cycle
from xsda.baselines.method import Event, Filter, split
from xsda.baselines.network import Batch, Geometry
from xsda.labels.cf import check_units
from xsda.labels.grid import Grid


@dataclass(frozen=True, kw_only=True)
class FreeRun(Filter):
    """The forecast alone. Observations are not used.

    It takes no parameters. Its error is what any assimilation must improve on.
    """

    least = 1

    def update(self, cycle: Cycle, k: int, x: Tensor, batch: Batch) -> Tensor:
        return x


@dataclass(frozen=True, kw_only=True)
class Persistence(FreeRun):
    """The initial states at all times. Neither observations nor forecasts are used."""

    def resume(self, cycle: Cycle, x: Tensor, first: int) -> Iterator[Event]:
        for k in range(first, len(cycle)):
            yield "forecast", k, x
            yield "analysis", k, x


@dataclass(frozen=True, kw_only=True, eq=False)
class Climatology(FreeRun):
    """Random states of a long run at each time. Neither observations nor forecasts are used, so no model is needed.

    Parameters
    ----------
    climatology
        A long run: states over time, and over "member" or "trajectory" if there are several.
    """

    climatology: xr.Dataset = field(repr=False)

    forecasts = False

    def resume(self, cycle: Cycle, x: Tensor, first: int) -> Iterator[Event]:
        states = climate(self.climatology, cycle.grid)
        for k in range(first, len(cycle)):
            generator = cycle.generator(k, "climatology")
            if len(x) <= len(states):
                pick = torch.randperm(len(states), generator=generator)[: len(x)]
            else:
                pick = torch.randint(len(states), (len(x),), generator=generator)
            x = states[pick].reshape(x.shape)
            yield "forecast", k, x
            yield "analysis", k, x


@dataclass(frozen=True, kw_only=True, eq=False)
class OptimalInterpolation(Filter):
    """Optimal interpolation: a Gaussian climate and the observations of one time, without forecasts (Gandin 1963).

    The members of the stage "forecast" are Gaussian draws with the covariance of the climate and exactly its mean. The
    members of the analysis are these, updated with perturbed observations. Their mean is exactly that of the posterior,
    and their covariance is unbiased. A single member is the mean. A derived quantity is used through its covariances
    with the state in the climate. No forecast model is needed. ``GaussianPrior.fit`` also uses the correlations in
    time, and knows how much a short record can tell.

    Parameters
    ----------
    climatology
        A long run: states over time, and over "member" or "trajectory" if there are several.

    Examples
    --------
    >>> system = xsda.systems.Lorenz63()
    >>> method = xsda.baselines.OptimalInterpolation(climatology=system.simulate(500, seed=2))
    >>> run = truth.sda.filter(obs, method=method, members=10, sigma=0.5, progress=False)
    >>> dict(run.sizes)
    {'member': 10, 'time': 16}
    """

    climatology: xr.Dataset = field(repr=False)

    least = 1
    forecasts = False

    def resume(self, cycle: Cycle, x: Tensor, first: int) -> Iterator[Event]:
        mean, anomalies = split(climate(self.climatology, cycle.grid))
        root = anomalies / (len(anomalies) - 1) ** 0.5
        if len(root) > root.shape[1]:
            root = torch.linalg.qr(root, mode="r")[1]
        for k in range(first, len(cycle)):
            x = (mean + centred(cycle, k, "climatology", len(x), len(root)) @ root).reshape(x.shape)
            yield "forecast", k, x
            batch = cycle.batch(k)
            if batch is not None:
                x = self.update(cycle, k, x, batch)
            yield "analysis", k, x

    def update(self, cycle: Cycle, k: int, x: Tensor, batch: Batch) -> Tensor:
        cross, own = self._covariances(batch.geometry, x)
        gram = batch.scaled(batch.scaled(own).T) + torch.eye(len(own), dtype=x.dtype)
        gain = torch.cholesky_solve(batch.scaled(cross).T, torch.linalg.cholesky((gram + gram.T) / 2))
        noise = centred(cycle, k, "perturbations", len(x), len(own))
        return x + ((batch.innovations(x) + noise) @ gain).reshape(x.shape)

    def _covariances(self, geometry: Geometry, x: Tensor) -> tuple[Tensor, Tensor]:
        """Of states with what is observed (numbers, M), and of that (M, M)."""
        key = ("climatology", id(self))
        if key not in geometry.cache:
            states = climate(self.climatology, geometry.grid)
            seen = split(geometry.observe(states.reshape(-1, *x.shape[1:])))[1]
            n = len(states) - 1
            geometry.cache[key] = split(states)[1].T @ seen / n, seen.T @ seen / n
        return geometry.cache[key]


def climate(climatology: xr.Dataset, grid: Grid) -> Tensor:
    """The states of a long run on the grid, (state, numbers)."""
    if not isinstance(climatology, xr.Dataset):
        raise TypeError(f"climatology must be a Dataset of many states, got {type(climatology).__name__}")
    time, *space = grid.core_dims
    missing = [v for v in grid.names.values() if v not in climatology]
    if missing:
        raise KeyError(f"the climatology lacks the variable {missing[0]!r}; it has {list(climatology.data_vars)}")
    for v in grid.names.values():
        check_units(v, climatology[v].attrs.get("units"), grid.template[v].attrs.get("units"), "the grid")
    for d in space:
        own = grid.template.sizes[d]
        if climatology.sizes.get(d) != own:
            raise ValueError(f"the climatology has the sizes {dict(climatology.sizes)}; along {d!r} the grid has {own}")
        if d in climatology.coords and d in grid.template.coords and not np.allclose(climatology[d], grid.template[d]):
            raise ValueError(f"the climatology lies on other coordinates along {d!r} than the grid; use .interp first")
    if time not in climatology.dims:
        climatology = climatology.drop_vars(time, errors="ignore").expand_dims(time)
    states = torch.as_tensor(grid.stack(climatology)).reshape(-1, math.prod(grid.shape[1:]))
    if len(states) < 2:
        raise ValueError("the climatology holds one state; pass at least 2, better hundreds: a long run of the model")
    if not bool(torch.isfinite(states).all()):
        raise ValueError("the climatology holds NaN or infinite values")
    return states


def centred(cycle: Cycle, k: int, purpose: str, members: int, size: int) -> Tensor:
    """Standard normal numbers (member, size) that add up to zero over the members."""
    noise = torch.randn(members, size, dtype=torch.float64, generator=cycle.generator(k, purpose))
    return noise - noise.mean(0)
