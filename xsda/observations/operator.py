"""Defines the observation operator H as a chain of stencils that works on tensors and on labelled arrays.

``VariableOperator`` is H of one variable. ``ObservationOperator`` is H of all variables, on standardised tensors.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from xsda.arguments import choose
from xsda.labels.climatology import StateScaling
from xsda.labels.grid import Grid
from xsda.labels.layout import Layout
from xsda.likelihood.likelihood import CARE
from xsda.likelihood.linearity import linear_offset
from xsda.observations.stencils import Stencil

Derived = Callable[[Mapping[str, Tensor]], Tensor]
PROBED = 4096  # the derivative of a derived variable is tested at random states with at least this many numbers in all


@dataclass(frozen=True, eq=False)
class Gather:
    """Replace the grid dimensions ``source`` by the observed dimensions ``target`` of sizes ``sizes``."""

    source: tuple[str, ...]
    target: tuple[str, ...]
    sizes: tuple[int, ...]
    stencil: Stencil


@dataclass(eq=False)
class VariableOperator:
    """H of one observed variable.

    Parameters
    ----------
    name
        The observed variable.
    grid_dims
        Dimensions of the field that H reads: (time, [channel], *space).
    gathers
        Stencils, in the order in which they are applied.
    dims, shape
        Dimensions and shape of the observed variable.
    channels
        Channels of the field, for a variable of the prior.
    derived
        The function that computes the field, for a derived variable.
    channel_dim
        The channel dimension, for a variable of several channels.
    offset
        For a derived variable that is linear: its value at the mean of the prior, (time, *space).

    Examples
    --------
    >>> from xsda.labels import Grid, Layout
    >>> grid = Grid.match(Layout.of(truth), truth)
    >>> operator = xsda.observations.compile_variable(grid, obs, "x")
    >>> operator.apply(grid.to_tensor(truth)[None, :, 0]).shape
    torch.Size([1, 4])
    """

    name: str
    grid_dims: tuple[str, ...]
    gathers: tuple[Gather, ...]
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    channels: slice | None = None
    derived: Derived | None = None
    channel_dim: str | None = None
    offset: Tensor | None = None
    _tensors: dict[tuple[int, str, torch.dtype], tuple[Tensor, Tensor]] = field(default_factory=dict)

    def apply(self, values: Tensor) -> Tensor:
        """Apply H to ``values`` (batch, *grid_dims); returns (batch, *dims)."""
        names = list(self.grid_dims)
        for number, g in enumerate(self.gathers):
            axes = [1 + names.index(d) for d in g.source]
            rest = [d for d in names if d not in g.source]
            if len(axes) > 1:  # bring the grouped axes to the end and flatten them
                keep = [1 + names.index(d) for d in rest]
                values = values.permute(0, *keep, *axes).flatten(1 + len(rest))
                names, axis = [*rest, "+".join(g.source)], 1 + len(rest)
            else:
                axis = axes[0]
            index, weight = self._on_device(number, g.stencil, values)
            values = values.index_select(axis, index)
            if not g.stencil.trivial:
                values = values.unflatten(axis, g.stencil.index.shape)
                shape = [1] * values.ndim
                shape[axis], shape[axis + 1] = g.stencil.weight.shape
                values = (values * weight.reshape(shape)).sum(axis + 1)
            values = values.unflatten(axis, g.sizes) if g.sizes else values.squeeze(axis)
            names[axis - 1 : axis] = g.target
        return values.permute(0, *(1 + names.index(d) for d in self.dims))

    def stencil(self, sizes: Mapping[str, int]) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Return the grid points of each observed value and their weights.

        Positions along each of ``grid_dims``, and weights, are all (value, point), with ravelled values. ``sizes``
        are the sizes of the grid.
        """
        count = int(np.prod(self.shape))
        index: dict[str, np.ndarray] = {}
        weight = np.ones((count, 1))
        for g in self.gathers:
            target = dict(zip(g.target, g.sizes, strict=True))
            rows = np.arange(len(g.stencil.index)).reshape([target.get(d, 1) for d in self.dims])
            rows = np.broadcast_to(rows, self.shape).ravel()
            points, own = weight.shape[1], g.stencil.weight.shape[1]
            index = {d: np.repeat(i, own, axis=1) for d, i in index.items()}
            for d, part in zip(g.source, _split(g.stencil, [sizes[d] for d in g.source]), strict=True):
                index[d] = np.tile(part.index[rows], (1, points))
            weight = np.repeat(weight, own, axis=1) * np.tile(g.stencil.weight[rows], (1, points))
        return index, weight

    def standardised(self, grid: Grid) -> VariableOperator:
        """Return the operator on values in standard deviations of their channel.

        The results are in units of H of these standard deviations. It differs where levels are combined.
        """
        if self.channel_dim is None or self.channels is None:
            return self
        std = grid.layout.std[self.channels]
        sizes = {**{d: grid.template.sizes[d] for d in grid.core_dims}, self.channel_dim: len(std)}
        gathers = []
        for g in self.gathers:
            if self.channel_dim in g.source and not g.stencil.trivial:
                channel = _split(g.stencil, [sizes[d] for d in g.source])[g.source.index(self.channel_dim)].index
                weight = g.stencil.weight * std[channel]
                g = replace(g, stencil=replace(g.stencil, weight=weight / weight.sum(1, keepdims=True)))
            gathers.append(g)
        return replace(self, gathers=tuple(gathers), _tensors={})

    def _on_device(self, number: int, stencil: Stencil, like: Tensor) -> tuple[Tensor, Tensor]:
        key = (number, str(like.device), like.dtype)
        if key not in self._tensors:
            index = torch.as_tensor(stencil.index.ravel().copy(), device=like.device)
            self._tensors[key] = index, torch.as_tensor(stencil.weight, dtype=like.dtype, device=like.device)
        return self._tensors[key]

    def apply_labelled(self, da: xr.DataArray, descending: frozenset[str]) -> xr.DataArray:
        """Apply H to a labelled array, eagerly or lazily; other dimensions are kept."""
        outer = [d for d in da.dims if d not in self.grid_dims]
        for g in self.gathers:
            if not set(g.source) <= set(da.dims):
                continue
            stencils = _split(g.stencil, [da.sizes[d] for d in g.source])
            indexers = {}
            for d, s in zip(g.source, stencils, strict=True):
                s = s.reversed() if d in descending else s
                indexers[d] = xr.DataArray(s.index.reshape(*g.sizes, -1), dims=(*g.target, "_point"))
            da = da.drop_vars([c for c in da.coords if set(da[c].dims) & set(g.source)]).isel(indexers)
            if g.stencil.trivial:
                da = da.isel(_point=0)
            else:
                dtype = np.result_type(da.dtype, np.float32)  # integers are averaged as numbers
                weight = xr.DataArray(g.stencil.weight.reshape(*g.sizes, -1).astype(dtype), dims=(*g.target, "_point"))
                da = (da * weight).sum("_point", skipna=False)
        return da.transpose(*outer, *self.dims)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_tensors": {}}


def _split(stencil: Stencil, sizes: list[int]) -> list[Stencil]:
    """Split a stencil on flattened axes into one for each axis."""
    shape = stencil.index.shape
    parts = np.unravel_index(stencil.index.ravel(), sizes)  # some numpy releases are wrong on long columns
    return [Stencil(part.reshape(shape), stencil.weight, size) for part, size in zip(parts, sizes, strict=True)]


class State(Mapping[str, Tensor]):
    """The variables that a derived quantity is computed from, in their own units, (member, time, [channel], *space)."""

    def __init__(self, layout: Layout, names: Mapping[str, str], scaling: StateScaling, x: Tensor):
        self._slices = {names[v.name]: (layout.slices()[v.name], v) for v in layout.variables}
        self._x = scaling.state(x)
        self.space = layout.space

    @property
    def spacing(self) -> tuple[float, ...]:
        """The grid spacing of the last two space axes, (dy, dx)."""
        return tuple(axis.spacing for axis in self.space[-2:])

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._slices:
            raise KeyError(f"the state has no variable {name!r}; {choose(name, self._slices)}")
        channels, v = self._slices[name]
        part = self._x[:, :, channels]
        return part if v.channel_dim is not None else part[:, :, 0]

    def __iter__(self) -> Any:
        return iter(self._slices)

    def __len__(self) -> int:
        return len(self._slices)


class ObservationOperator:
    """H of all sources: standardised trajectories (batch, time, channel, *space) -> (batch, M).

    Variables of the prior are returned in standard deviations of their channel, derived ones in their own units.

    Parameters
    ----------
    layout, names, scaling
        The layout of the grid, the user's names of its variables, and the scaling of states.
    operators
        H of each observed variable.
    picks
        For each variable, the ravelled positions of the values that are not missing.

    Examples
    --------
    >>> from xsda.labels import Grid, Layout
    >>> grid = Grid.match(Layout.of(truth), truth)
    >>> operator = xsda.observations.compile_variable(grid, obs, "x")
    >>> h = xsda.observations.ObservationOperator(
    ...     grid.layout, grid.names, grid.scaling, [operator], [np.array([0, 2])]
    ... )
    >>> h(grid.to_tensor(truth)[None]).shape
    torch.Size([1, 2])
    """

    def __init__(
        self,
        layout: Layout,
        names: Mapping[str, str],
        scaling: StateScaling,
        operators: list[VariableOperator],
        picks: list[np.ndarray],
    ):
        self.layout, self.names, self.scaling, self.operators = layout, dict(names), scaling, operators
        self.picks = [torch.as_tensor(p) for p in picks]

    @property
    def linear(self) -> bool:
        return all(op.derived is None or op.offset is not None for op in self.operators)

    def __call__(self, x: Tensor) -> Tensor:
        parts = []
        for op, pick in zip(self.operators, self.picks, strict=True):
            if op.derived is not None:
                values = derived_field(op.name, op.derived, State(self.layout, self.names, self.scaling, x), x)
                values = values if op.offset is None else values - op.offset.to(values)
            else:
                assert op.channels is not None
                values = x[:, :, op.channels]
                if self.scaling.relative is not None:
                    values = values * torch.as_tensor(self.scaling.relative[op.channels]).to(x)
                values = values if op.channel_dim is not None else values[:, :, 0]
            flat = op.apply(values).reshape(len(x), -1)
            parts.append(flat if len(pick) == flat.shape[1] else flat.index_select(1, pick.to(x.device)))
        return torch.cat(parts, dim=1)


def check_derived(derived: Any) -> None:
    """Raise unless ``derived`` is None or a mapping of names to functions."""
    if derived is None:
        return
    if not isinstance(derived, Mapping):
        raise TypeError(
            "derived must be a mapping of names to functions, such as "
            "{'speed': lambda s: (s['u']**2 + s['v']**2).sqrt()}, "
            f"got {derived!r}"
        )
    for name, function in derived.items():
        if not callable(function):
            raise TypeError(
                f"derived[{name!r}] must be a function of the state s, such as lambda s: s['u']**2, got {function!r}"
            )


def check_differentiable(op: VariableOperator, grid: Grid) -> None:
    """Raise if a derived variable passes no gradient to the state: its observations would then have no effect."""
    assert op.derived is not None
    name, function, states = op.name, op.derived, max(2, PROBED // math.prod(grid.shape))
    text = (
        f"the derived variable {name!r} does not pass gradients back to the state; compute it with torch functions of "
        "s[...], without numpy, .detach(), .item() or comparisons alone"
    )
    length, channels, *space = grid.shape
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(states, length, channels, *space, generator=generator)
    shift = torch.randn(states, 1, channels, *(1,) * len(space), generator=generator)
    x[1::2] += 2 * shift[1::2]  # averages over the fields must vary as well
    x.requires_grad_()

    def field(x: Tensor) -> Tensor:
        return derived_field(name, function, State(grid.layout, grid.names, grid.scaling, x), x)

    with torch.enable_grad():
        try:
            values = field(x)
        except RuntimeError as error:
            if "numpy" in str(error):  # numpy refuses tensors that need gradients
                raise ValueError(text) from error
            raise
        if not values.requires_grad:
            raise ValueError(text)
        if values.is_complex():
            raise ValueError(f"the derived variable {name!r} is complex; observe its .real, .imag or .abs()")
        if not bool(torch.isfinite(values).all()):  # random states may lie outside the domain of the function
            return
        # random weights, since differences around a ring add up to zero
        weight = torch.randn(values.shape, generator=generator).to(values)
        slope = torch.autograd.grad(values, x, weight, allow_unused=True)[0]
    if slope is None or not bool(slope.any()):
        raise ValueError(
            f"{text}. Its derivative is zero at all states that were tried, as if it were rounded or a sign"
        )
    forward = slope
    with contextlib.suppress(RuntimeError):  # some functions have no forward derivative
        forward = torch.func.jvp(field, (x.detach(),), (torch.ones_like(x),))[1]
    if not bool(torch.isfinite(slope).all() and torch.isfinite(forward).all()):
        raise ValueError(f"the derivative of the derived variable {name!r} is not finite at some states ({CARE})")


def derived_offset(op: VariableOperator, grid: Grid) -> Tensor | None:
    """Return a derived variable at the mean of the prior, (time, *space); None unless it is linear plus a constant."""
    assert op.derived is not None
    function, (length, _, *space) = op.derived, grid.shape

    def field(x: Tensor) -> Tensor:
        return derived_field(op.name, function, State(grid.layout, grid.names, grid.scaling, x), x).flatten(1)

    offset = linear_offset(field, grid.shape)
    return None if offset is None else offset.reshape(length, *space)


def derived_field(name: str, function: Derived, state: State, x: Tensor) -> Tensor:
    """Evaluate a derived variable and check its shape."""
    values = function(state)
    expected = (*x.shape[:2], *x.shape[3:])
    if not isinstance(values, Tensor) or tuple(values.shape) != expected:
        came = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(
            f"the derived variable {name!r} must be a tensor of shape (member, time, *space) = {expected}, got {came}; "
            "compute it with torch functions, without reducing or dropping dimensions"
        )
    return values
