"""Combines all observed variables into one likelihood.

Values and errors are scaled to standard deviations of the prior. Correlated errors are whitened.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import xarray as xr

from xsda.arguments import warn
from xsda.labels.grid import Grid
from xsda.likelihood.laws import ErrorLaw
from xsda.likelihood.likelihood import Group, Likelihood
from xsda.likelihood.whitening import Whitener, Whitening
from xsda.observations.correlation import whitener
from xsda.observations.footprints import Footprints
from xsda.observations.masking import on_valid_points
from xsda.observations.observed import NothingObserved, Observed
from xsda.observations.operator import (
    Derived,
    ObservationOperator,
    VariableOperator,
    check_differentiable,
    derived_offset,
)
from xsda.observations.read import read, units_of
from xsda.observations.sources import Sources

FAR = 20.0  # standard deviations of the prior; a median beyond is probably in other units


@dataclass(frozen=True, eq=False)
class Scaled:
    """One observed variable: its operator, and its values and errors in standard deviations of the prior."""

    operator: VariableOperator
    pick: np.ndarray
    y: np.ndarray
    std: np.ndarray
    law: ErrorLaw
    whitener: Whitener | None


@dataclass(frozen=True, eq=False)
class Labels:
    """What messages need to describe a value of one variable: name, units, coordinates and scaling.

    ``coords`` holds, for each coordinate, its dimensions (as axes of the variable) and its values.
    """

    name: str
    units: str
    shape: tuple[int, ...]
    coords: dict[str, tuple[tuple[int, ...], np.ndarray]]
    pick: np.ndarray
    y: np.ndarray
    mean: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, observed: Observed, scaled: Scaled, mean: np.ndarray, scale: np.ndarray) -> Labels:
        """Collect them from an observed variable."""
        da = observed.da
        axes = {str(n): tuple(da.dims.index(d) for d in c.dims) for n, c in da.coords.items()}
        coords = {n: (a, np.asarray(da[n].values)) for n, a in axes.items()}
        units = "" if da.attrs.get("units") in (None, "1") else str(da.attrs["units"])
        return cls(observed.name, units, da.shape, coords, observed.pick, scaled.y, mean, scale)

    def describe(self, index: int, predicted: float) -> str:
        """Describe one value, its place, and the mean of the members there."""
        place = self.pick[index]
        axes = np.unravel_index(place, self.shape) if self.shape else ()
        where = ", ".join(f"{n} {_text(v[tuple(axes[a] for a in own)])}" for n, (own, v) in self.coords.items())
        value, seen = (v * self.scale[place] + self.mean[place] for v in (self.y[index], predicted))
        return f"{self.name} = {value:.5g} {self.units}".rstrip() + f" at {where}, where members average {seen:.5g}"


@dataclass(frozen=True, eq=False)
class JointLabels:
    """The labels of all observed variables, one after another."""

    parts: tuple[Labels, ...]

    def describe(self, index: int, predicted: float) -> str:
        """Describe the value number ``index`` of all."""
        for part in self.parts:
            if index < len(part.y):
                return part.describe(index, predicted)
            index -= len(part.y)
        raise IndexError(index)


def _text(value: Any) -> str:
    if np.issubdtype(np.asarray(value).dtype, np.datetime64):
        return str(np.datetime_as_string(value, unit="s"))
    return f"{value:g}" if isinstance(value, float | np.floating) else str(value)


def compile_observations(
    grid: Grid, obs: Sources, sigma: Any = None, derived: Mapping[str, Derived] | None = None, **options: Any
) -> Likelihood:
    """Build the likelihood of labelled observations.

    Parameters
    ----------
    grid
        The grid.
    obs, sigma, derived
        Observations and their errors, as in ``xsda.assimilate``.
    **options
        Other options of ``read``: ``likelihood``, ``correlation``, ``background``, ``background_sigma``, ``quality``,
        ``outside``, ``superobs``.

    Returns
    -------
    Likelihood
        The likelihood of standardised trajectories (batch, time, channel, *space).

    Examples
    --------
    >>> from xsda.labels import Grid, Layout
    >>> grid = Grid.match(Layout.of(truth), truth)
    >>> likelihood = xsda.observations.compile_observations(grid, obs)
    >>> likelihood.y.shape, likelihood.std[:2], likelihood.linear
    (torch.Size([4]), tensor([0.5000, 0.5000]), True)
    """
    return join(grid, read(obs, units_of(grid), sigma=sigma, derived=derived, grid=grid, **options))


def join(grid: Grid, observed: Sequence[Observed]) -> Likelihood:
    """Build one likelihood from variables that ``read`` returned.

    Parameters
    ----------
    grid
        The grid.
    observed
        The observed variables.

    Returns
    -------
    Likelihood
        The likelihood of standardised trajectories (batch, time, channel, *space). Missing values are left out.

    Examples
    --------
    >>> from xsda.labels import Grid, Layout
    >>> grid = Grid.match(Layout.of(truth), truth)
    >>> observed = xsda.observations.read(obs, xsda.observations.units_of(grid))
    >>> likelihood = xsda.observations.join(grid, observed)
    >>> likelihood.operator(grid.to_tensor(truth)[None]).shape
    torch.Size([1, 4])
    """
    if not any(len(o.pick) for o in observed):
        raise NothingObserved(
            "all observations are missing (NaN), so there is nothing to assimilate; for samples of the prior use "
            "ds.sda.sample"
        )
    pairs = _outside_mask(grid, [o for o in observed if len(o.pick)])
    parts, labels = [p for p, _ in pairs], JointLabels(tuple(label for _, label in pairs))
    operator = ObservationOperator(
        grid.layout, grid.names, grid.scaling, [p.operator for p in parts], [p.pick for p in parts]
    )
    y, std = (
        torch.as_tensor(np.concatenate(a), dtype=torch.float32) for a in ([p.y for p in parts], [p.std for p in parts])
    )
    ends = np.cumsum([0, *(len(p.y) for p in parts)]).tolist()
    spans = zip(parts, ends[:-1], ends[1:], strict=True)
    blocks = [(a, b, std[a:b].clone(), p.whitener) for p, a, b in spans if p.whitener is not None]
    groups = tuple(Group(len(p.y), p.operator.name, p.law) for p in parts)
    whitening = Whitening(blocks) if blocks else None
    if whitening is not None:
        y = whitening.whiten(y[None])[0]
        for start, stop, _, _ in blocks:
            std[start:stop] = 1
    found = [Footprints.of(p.operator, p.pick, grid.shape, grid.scaling.relative) for p in parts]
    footprints = None if None in found else tuple(f for f in found if f is not None)
    return Likelihood(
        operator,
        y,
        std,
        linear=operator.linear,
        groups=groups,
        whitening=whitening,
        footprints=footprints,
        places=labels,
    )


def _outside_mask(grid: Grid, observed: Sequence[Observed]) -> list[tuple[Scaled, Labels]]:
    """Scale each variable, and leave out those inside the mask; raise if that is all of them."""
    found = [_scaled(grid, o) for o in observed]
    if not any(len(s.pick) for s, _ in found):
        raise NothingObserved(
            "all observations lie where the prior has no values (its mask, such as land); check their coordinates, or "
            "use a prior of this region"
        )
    for o, (s, _) in zip(observed, found, strict=True):
        if not len(s.pick):
            _tell_of_mask(o, len(o.pick))
    return [(s, label) for s, label in found if len(s.pick)]


def _tell_of_mask(observed: Observed, lost: int) -> None:
    warn(
        f"{lost} of {len(observed.pick)} values of {observed.name!r} in {observed.source} lie where the prior has no "
        "values (its mask), and are not used"
    )


def _scaled(grid: Grid, observed: Observed) -> tuple[Scaled, Labels]:
    """Compile one variable and scale its values, with labels for messages."""
    if observed.source == "background":
        observed = _on_the_grid(grid, observed)
    op, valid = on_valid_points(observed.compile(grid), grid)
    pick = observed.pick[valid[observed.pick]]
    if len(pick) < len(observed.pick):
        if len(pick):
            _tell_of_mask(observed, len(observed.pick) - len(pick))
        observed = replace(observed, pick=pick)
        observed = replace(observed, law=observed.law.bind(observed.values))
    if op.derived is not None:
        check_differentiable(op, grid)
        op.offset = derived_offset(op, grid)
    mean, scale = _scaling(grid, op, observed.da)
    white = None if observed.correlation is None else whitener(observed.da, pick, observed.correlation)
    y = (observed.law.limited(observed.values) - mean[pick]) / scale[pick]
    _check_units(grid, observed, y)
    scaled = Scaled(op.standardised(grid), pick, y, observed.errors / scale[pick], observed.law, white)
    return scaled, Labels.of(observed, scaled, mean, scale)


def _check_units(grid: Grid, observed: Observed, y: np.ndarray) -> None:
    """Warn if values are so far from the prior that they are probably in other units."""
    if not grid.layout.mean.any():  # a grid without a prior
        return
    expected = units_of(grid).get(observed.name)
    if expected and len(y) and abs(np.median(y)) > FAR:
        given = "is given" if "units" in observed.da.attrs else "has no units and is taken to be"
        warn(
            f"{observed.name!r} in {observed.source} {given} in {expected}, but its median is "
            f"{abs(np.median(y)):.0f} standard deviations of the prior from the mean; give its units (degC?) as an "
            "attribute or a column units, and see xsda.observations.check"
        )


def _on_the_grid(grid: Grid, observed: Observed) -> Observed:
    """Repeat a background without time at all times of the grid; raise unless it lies on grid points."""
    da = observed.da
    absent = {d: grid.template[d] for d in grid.core_dims if d not in da.dims and d not in da.coords}
    if absent:  # a climatology
        assert observed.std is not None
        std = xr.DataArray(observed.std, dims=da.dims).expand_dims({d: c.size for d, c in absent.items()})
        da = da.expand_dims(absent).assign_attrs(da.attrs)
        values = np.asarray(da.values, dtype=np.float64).ravel()
        observed = replace(
            observed, ds=observed.ds.assign({observed.name: da}), std=std.values, pick=np.flatnonzero(~np.isnan(values))
        )
    if not all(g.stencil.trivial for g in observed.compile(grid, quietly=True).gathers):
        raise ValueError(
            f"the background's {observed.name!r} lies between grid points, or averages them; put it on the grid first: "
            "background.interp_like(grid)"
        )
    return observed


def _scaling(grid: Grid, op: VariableOperator, da: xr.DataArray) -> tuple[np.ndarray, np.ndarray]:
    """The mean and scale of each observed value: H of the prior's mean and of the standard deviation of the channel."""
    if op.channels is None:
        if op.offset is None:
            return np.zeros(da.size), np.ones(da.size)
        return op.apply(op.offset[None]).reshape(-1).numpy().astype(np.float64), np.ones(da.size)
    seen = []
    for constant in (grid.scaling.center, grid.scaling.scale):
        field = torch.as_tensor(np.broadcast_to(constant, grid.shape).copy())[None, :, op.channels]
        seen.append(op.apply(field if op.channel_dim is not None else field[:, :, 0]).reshape(-1).numpy())
    return seen[0], seen[1]
