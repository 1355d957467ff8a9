"""Mean and standard deviation that a prior, or a background, expects of each observed value.

- Exact priors: the mean state, and the spread of random states around it, both after H. Averages and derived variables
  come out right. The spread has a sampling error of 3 %.
- Networks: H of the mean and of the standard deviation of each grid point. Averages get too large a spread, because
  the correlation between points is not known in closed form, and derived variables are not compared.
- An ensemble as background: its own mean and standard deviation.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from xsda.arguments import choose
from xsda.labels.grid import Grid
from xsda.observations.observe import observe
from xsda.observations.operator import State, VariableOperator, derived_field
from xsda.observations.read import Observed
from xsda.observations.survey import Survey
from xsda.priors.exact import ExactDenoiser
from xsda.priors.prior import Prior

DRAWS = 512  # random states of an exact prior
BATCH_NUMBERS = 2**24  # numbers of the states drawn at once

Moments = tuple[np.ndarray, np.ndarray]


def expected(
    found: Survey, grid: Grid, prior: Prior, background: xr.Dataset | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and standard deviation of each ravelled value of a variable; NaN where they are not known.

    Parameters
    ----------
    found
        The observed variable.
    grid
        The grid of the prior.
    prior
        The prior.
    background
        A field or an ensemble on the grid. Values are compared with it. The spread is its own if it is an ensemble,
        otherwise that of the prior.
    """
    if found.readable is None:
        return (unknown := np.full(len(found.missing), np.nan)), unknown
    seen = None if background is None else _observed(found, background)
    if seen is not None and len(seen) > 1:
        mean, std = seen.mean(0), seen.std(0, ddof=1) * (1 + 1 / len(seen)) ** 0.5
    else:
        mean, std = _of_prior(found.readable, grid, prior)
        mean = mean if seen is None else seen[0]
    nowhere = found.outside | found.masked
    return np.where(nowhere, np.nan, mean), np.where(nowhere, np.nan, std)


def _observed(found: Survey, background: xr.Dataset) -> np.ndarray:
    """H of a background, (member, value)."""
    observed, name = found.observed, found.observed.name
    kept = [
        name,
        *(str(c.attrs["bounds"]) for c in observed.ds.coords.values() if c.attrs.get("bounds") in observed.ds),
    ]
    like = observed.ds[kept].assign({name: xr.zeros_like(observed.da, dtype=float)})
    seen = observe(background, like, derived=observed.derived)[name]
    seen = seen if "member" in seen.dims else seen.expand_dims("member")
    return seen.transpose("member", *observed.da.dims).values.reshape(seen.sizes["member"], -1).astype(float)


def _of_prior(op: VariableOperator, grid: Grid, prior: Prior) -> Moments:
    """The moments of H under the prior."""
    if isinstance(prior.denoiser, ExactDenoiser):
        return _of_draws(op, grid, prior.denoiser)
    if op.channels is None:
        return (unknown := np.full(int(np.prod(op.shape)), np.nan)), unknown
    fields = [np.broadcast_to(a, grid.shape).copy() for a in (grid.scaling.center, grid.scaling.std)]
    mean, std = (_apply(op, torch.as_tensor(f)[None])[0] for f in fields)
    return mean, std


def _of_draws(op: VariableOperator, grid: Grid, denoiser: ExactDenoiser) -> Moments:
    """The moments of H over random states. The mean of a linear H is exact."""
    center = denoiser(torch.zeros(1, *grid.shape), torch.ones(1))  # at the highest noise the mean of the prior
    mean = _seen(op, grid, center)[0]
    total, square = np.zeros_like(mean), np.zeros_like(mean)
    for states in _states(denoiser, grid.shape):
        departure = _seen(op, grid, states) - mean
        total, square = total + departure.sum(0), square + (departure**2).sum(0)
    if op.derived is None:
        return mean, (square / DRAWS) ** 0.5
    shift = total / DRAWS
    return mean + shift, ((square / DRAWS - shift**2).clip(0)) ** 0.5


def _states(denoiser: ExactDenoiser, shape: tuple[int, ...]) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(0)
    size = max(1, min(DRAWS, BATCH_NUMBERS // int(np.prod(shape))))
    for first in range(0, DRAWS, size):
        yield denoiser.draw(min(size, DRAWS - first), generator)


def _seen(op: VariableOperator, grid: Grid, x: Tensor) -> np.ndarray:
    """H of standardised states, in the units of the grid, (state, value)."""
    if op.derived is None:
        return _apply(op, grid.scaling.state(x.double()))
    field = derived_field(op.name, op.derived, State(grid.layout, grid.names, grid.scaling, x), x)
    return op.apply(field).reshape(len(x), -1).double().numpy()


def _apply(op: VariableOperator, states: Tensor) -> np.ndarray:
    """H of states in units, (state, time, channel, *space)."""
    values = states[:, :, op.channels]
    return op.apply(values if op.channel_dim is not None else values[:, :, 0]).reshape(len(states), -1).numpy()


def anywhere(observed: Observed, prior: Prior) -> Moments:
    """Return the mean and standard deviation of a variable over the whole region of the prior, for each value.

    Parameters
    ----------
    observed
        The observed variable, in the units of the prior.
    prior
        The prior.
    """
    layout, size = prior.layout, observed.da.size
    if observed.name in (observed.derived or {}):
        return np.full(size, np.nan), np.full(size, np.nan)
    if observed.name not in layout.names:
        raise KeyError(
            f"observed variable {observed.name!r} is not a variable of the prior; {choose(observed.name, layout.names)}"
        )
    channels = layout.slices()[observed.name]
    mean, std = layout.mean[channels], layout.std[channels]
    if isinstance(prior.denoiser, ExactDenoiser) and layout.normals is None:
        states = prior.denoiser.draw(DRAWS // 8, torch.Generator().manual_seed(0))[:, :, channels].double()
        mean, std = mean + std * float(states.mean()), std * float(states.std())
    overall = float(np.mean(mean))
    return np.full(size, overall), np.full(size, float(np.sqrt(np.mean(std**2 + (mean - overall) ** 2))))
