"""Converts labelled Datasets to tensors and back.

A ``Grid`` is the layout of a prior matched with a user's Dataset. It keeps the user's dimension names, coordinates,
units and orientation. Tensors are (..., time, channel, *space), standardised, with ascending axes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from xsda.arguments import choose
from xsda.labels.axes import find_axes, is_datelike, own_period, time_feature_waves
from xsda.labels.climatology import Normals, StateScaling
from xsda.labels.layout import SAMPLE_DIMS, Layout, Variable
from xsda.labels.points import Points
from xsda.labels.requirements import check_positions, places
from xsda.labels.sphere import check_meridians
from xsda.labels.static import read_position, read_static

RESOLVED = 1e-3  # single precision is enough if its steps are smaller than this, in standard deviations


@dataclass(frozen=True, eq=False)
class Field:
    """Extracts one variable from states in the user's units, in his order of dimensions, orientation and dtype.

    ``channels`` are its channels, and ``single`` is true if it has no channel dimension. ``dims`` and ``shape`` are
    those of the result. ``order`` permutes (time, [channel], *space) to ``dims``; the axes ``flipped`` descend.
    """

    name: str
    channels: slice
    single: bool
    dims: tuple[str, ...]
    order: tuple[int, ...]
    flipped: tuple[int, ...]
    dtype: np.dtype
    shape: tuple[int, ...]

    def __call__(self, values: Any, dtype: Any = None) -> Any:
        """Return the variable (*outer, *dims) from states in double precision (numpy or dask)."""
        outer = (slice(None),) * (values.ndim - len(self.dims) - self.single)  # but time, channel and space
        block = values[(*outer, slice(None), self.channels)]
        if self.single:
            block = block[(*outer, slice(None), 0)]
        flips = [slice(None, None, -1) if axis in self.flipped else slice(None) for axis in range(len(self.dims))]
        block = block[(*outer, *flips)].transpose(*range(len(outer)), *(len(outer) + axis for axis in self.order))
        return block.astype(dtype or self.dtype)


def _dtype(source: xr.DataArray | None, v: Variable) -> np.dtype:
    """The dtype of the user's variable; without one, single precision if that resolves the variable."""
    if source is not None:
        return np.result_type(source.dtype, np.float32)
    coarse = any(np.spacing(np.float32(abs(m))) > RESOLVED * s for m, s in zip(v.mean, v.std, strict=True))
    return np.dtype(np.float64 if coarse else np.float32)


@dataclass(frozen=True, eq=False)
class Grid(Points):
    """A layout matched with a user's Dataset.

    Parameters
    ----------
    layout
        The layout, in the user's units.
    template
        The user's Dataset.
    dims
        The user's dimension names by the prior's, time first.
    names
        The user's variable names by the prior's.
    converted
        Messages about converted units, for ``history``.
    normals
        The normals of the prior at the points of the user.

    Examples
    --------
    >>> from xsda.labels import Grid, Layout
    >>> grid = Grid.match(Layout.of(weather), weather)
    >>> grid.shape, grid.to_tensor(weather).shape
    ((3, 1, 4, 5), torch.Size([4, 3, 1, 4, 5]))
    """

    names: Mapping[str, str]
    converted: tuple[str, ...] = ()
    normals: Normals | None = None

    @classmethod
    def match(cls, layout: Layout, ds: xr.Dataset) -> Grid:
        """Match a layout with a Dataset by names, standard names and axes; raise if they do not fit."""
        names = {v.name: _match_variable(v, ds) for v in layout.variables}
        if len(set(names.values())) < len(names):
            raise ValueError(
                f"several of the prior's variables {list(names)} match one variable of the Dataset; rename its "
                "variables"
            )
        time, space = find_axes(ds, prefer=(layout.time, *(a.name for a in layout.space)))
        if len(space) != len(layout.space):
            raise ValueError(
                f"the prior has the space dimensions {[a.name for a in layout.space]}, the Dataset has {list(space)}; "
                "rename its dimensions, or mark them with the attribute axis='X' / 'Y'"
            )
        dims = {layout.time: time, **{a.name: d for a, d in zip(layout.space, space, strict=True)}}
        known = {v.name: ds[names[v.name]].attrs.get("units") for v in layout.variables if names[v.name] in ds}
        own = layout.in_units(known)
        pairs = zip(layout.variables, own.variables, strict=True)
        converted = [
            f"{names[a.name]} of the prior converted from {a.attrs['units']} to {b.attrs['units']}"
            for a, b in pairs
            if a.attrs.get("units", b.attrs.get("units")) != b.attrs.get("units")
        ]
        grid = cls(own, ds, dims, names, tuple(converted))
        for name in grid.core_dims:
            check_meridians(ds, name)
        if own.normals is not None:
            normals = own.normals.part(places(grid))
            check_positions(grid, normals.position)
            grid = replace(grid, normals=normals)
        for name in grid.core_dims:
            grid.numbers(name)  # raises if the coordinate cannot be used
        for v in layout.variables:
            if names[v.name] in ds:
                _check_variable(v, ds[names[v.name]], grid.core_dims)
        return grid

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one trajectory, (time, channel, *space)."""
        time, *space = self.core_dims
        return (self.template.sizes[time], self.layout.channels, *(self.template.sizes[d] for d in space))

    def stack(self, ds: xr.Dataset) -> np.ndarray:
        """Stack the variables into one array (..., time, channel, *space), in their units and in double precision."""
        parts = []
        time, *space = self.core_dims
        for v in self.layout.variables:
            da = ds[self.names[v.name]]
            da = da.expand_dims("_channel") if v.channel_dim is None else da.rename({v.channel_dim: "_channel"})
            da = da.drop_vars("_channel", errors="ignore")
            parts.append(np.asarray(self.orient(da).transpose(..., time, "_channel", *space).values, dtype=np.float64))
        return np.concatenate(parts, axis=parts[0].ndim - len(space) - 1)

    def to_tensor(self, ds: xr.Dataset) -> Tensor:
        """Convert a Dataset to standardised values (..., time, channel, *space) in single precision."""
        return self.standardise(self.stack(ds))

    def standardise(self, values: np.ndarray, start: int = 0) -> Tensor:
        """Standardise what ``stack`` returned, from the state ``start`` on: deviations over the standard deviation."""
        states = values.shape[-2 - len(self.layout.space)]
        scaling = self._scaling_at(slice(start, start + states))  # of these states only: a record may be long
        return torch.as_tensor(scaling.standardise(values), dtype=torch.float32)

    @cached_property
    def scaling(self) -> StateScaling:
        """Converts states between units and standardised anomalies."""
        return self._scaling_at(slice(None))

    def _scaling_at(self, times: slice) -> StateScaling:
        """The scaling at some of the times."""
        shape = (-1, *(1,) * len(self.layout.space))
        mean, std = self.layout.mean.reshape(shape), self.layout.std.reshape(shape)
        if self.normals is None:
            return StateScaling(mean[None], std)
        time = self.core_dims[0]
        if self.normals.cycles and not (time in self.template.coords and is_datelike(self.template[time])):
            raise ValueError(
                f"this prior has a climatology by {' and '.join(self.normals.cycles)}, so {time!r} must hold dates"
            )
        dates = self.template[time].isel({time: times}) if self.normals.cycles else None
        center = mean + std * self.normals.center(dates)
        valid = self.normals.valid if self.normals.masked else None
        return StateScaling(center, std, self.normals.std.astype(np.float64), valid)

    @property
    def mask(self) -> np.ndarray | None:
        """Where states have values, (channel, *space); None if everywhere."""
        return self.normals.valid if self.normals is not None and self.normals.masked else None

    def beyond_mask(self) -> int:
        """Return at how many points the Dataset has values where the climatology of the prior has none.

        The first, the middle and the last state are looked at.
        """
        names, time = list(self.names.values()), self.core_dims[0]
        if self.normals is None or not self.normals.masked:
            return 0
        if any(n not in self.template or not {*self.core_dims} <= {*self.template[n].dims} for n in names):
            return 0
        last = self.template.sizes[time] - 1
        states = self.stack(self.template[names].isel({time: sorted({0, last // 2, last})}))
        known = np.isfinite(states).reshape(-1, *states.shape[-1 - len(self.layout.space) :]).any(0)
        return int((known & ~self.normals.valid).sum())

    def context(self) -> Tensor | None:
        """Return static fields, positions, time features and the mask for the network.

        The shape is (1, time or 1, context channel, *space). None if the prior has none of them.
        """
        time, *space = self.core_dims
        sizes = self.shape[2:]
        own = {a.name: d for a, d in zip(self.layout.space, space, strict=True)}
        fields = [read_static(self.template, space, v.name, v.attrs) for v in self.layout.context]
        fields += [read_position(self.template, own, v.name, v.attrs) for v in self.layout.position]
        parts = []
        for v, field in zip((*self.layout.context, *self.layout.position), fields, strict=True):
            whole = field.expand_dims([d for d in space if d not in field.dims])
            values = self.orient(whole).transpose(*space).values
            scaled = np.nan_to_num((values - v.mean[0]) / v.std[0])  # NaN: no point of a two-dimensional grid is there
            parts.append(np.broadcast_to(scaled, (1, 1, *sizes)))
        if self.layout.time_features:
            waves = time_feature_waves(self.template[time], self.layout.time_features)
            shape = (*waves.shape, *(1,) * len(sizes))
            parts = [np.broadcast_to(p, (len(waves), 1, *sizes)) for p in parts]
            parts.append(np.broadcast_to(waves.reshape(shape), (*waves.shape, *sizes)))
        if self.mask is not None:
            parts.append(np.broadcast_to(self.mask, (max([1, *map(len, parts)]), *self.shape[1:])))
        if not parts:
            return None
        return torch.as_tensor(np.concatenate(parts, axis=1)[None], dtype=torch.float32)

    @property
    def fields(self) -> tuple[Field, ...]:
        """One ``Field`` for each variable."""
        time, *space = self.core_dims
        sizes = {d: self.template.sizes[d] for d in self.core_dims}
        found = []
        for v, channels in zip(self.layout.variables, self.layout.slices().values(), strict=True):
            source = self.template.get(self.names[v.name])
            inner = (time, *([v.channel_dim] if v.channel_dim else []), *space)
            order = [d for d in (source.dims if source is not None else ()) if d in inner] or list(inner)
            found.append(
                Field(
                    self.names[v.name], channels, v.channel_dim is None,
                    tuple(order), tuple(inner.index(d) for d in order),
                    tuple(i for i, d in enumerate(inner) if d in space and self.descends(d)),
                    _dtype(source, v), tuple(sizes.get(d, v.channels) for d in order),
                )
            )  # fmt: skip
        return tuple(found)

    def to_dataset(self, values: Any, outer: Mapping[str, xr.DataArray]) -> xr.Dataset:
        """Convert standardised values (*outer, time, channel, *space) to a Dataset like the user's.

        The precision is that of the values; ``outer`` holds the coordinates of the outer dimensions.
        """
        units = self.scaling.to_units(values)
        return self.label([field(units, values.dtype) for field in self.fields], outer)

    def label(self, arrays: Sequence[Any], outer: Mapping[str, xr.DataArray]) -> xr.Dataset:
        """Make a Dataset of the arrays that ``fields`` returned (numpy or dask), with the user's coordinates."""
        space = self.core_dims[1:]
        data = {}
        for v, field, array in zip(self.layout.variables, self.fields, arrays, strict=True):
            source = self.template.get(field.name)
            attrs = {**v.attrs, **(source.attrs if source is not None else {})}
            data[field.name] = xr.DataArray(array, dims=(*outer, *field.dims), attrs=attrs)
        labels = {v.channel_dim: list(v.labels) for v in self.layout.variables if v.channel_dim and v.labels}
        keep = {*self.core_dims, *(v.channel_dim for v in self.layout.variables)}
        coords = {k: c for k, c in self.template.coords.items() if set(c.dims) <= keep}
        out = xr.Dataset(data).assign_coords({**labels, **coords, **outer})
        for axis, dim in zip(self.layout.space, space, strict=True):
            if axis.period and dim in out.coords and own_period(self.template, dim, axis.spacing) is None:
                out[dim].attrs["period"] = self.period(dim)
        for coord in out.coords.values():
            if coord.attrs.get("bounds", coord.name) not in out.coords:
                del coord.attrs["bounds"]
        return out

    def part(self, times: slice) -> Grid:
        """Return the grid at some of its times."""
        return replace(self, template=self.template.isel({self.core_dims[0]: times}))


def _match_variable(v: Variable, ds: xr.Dataset) -> str:
    """Find the user's variable by name, then by standard name."""
    if v.name in ds.data_vars or len(ds.data_vars) == 0:
        return v.name
    wanted = v.attrs.get("standard_name")
    found = [str(name) for name, da in ds.data_vars.items() if wanted and da.attrs.get("standard_name") == wanted]
    if len(found) == 1:
        return found[0]
    raise KeyError(
        f"the prior's variable {v.name!r} is not in the Dataset, which has {list(ds.data_vars)}; "
        f"{choose(v.name, ds.data_vars)}"
    )


def _check_variable(v: Variable, da: xr.DataArray, core: Sequence[str]) -> None:
    """Raise unless a variable of the grid has the dimensions and channels of the prior."""
    expected = (*core, *([v.channel_dim] if v.channel_dim else []))
    if {*da.dims} - {*SAMPLE_DIMS} != {*expected}:
        raise ValueError(f"variable {da.name!r} of the grid has the dimensions {da.dims}, the prior expects {expected}")
    if v.channel_dim is None:
        return
    own = da[v.channel_dim].values.tolist() if v.channel_dim in da.coords else []
    if da.sizes[v.channel_dim] != v.channels or (own and v.labels and own != list(v.labels)):
        raise ValueError(
            f"variable {da.name!r} of the grid has {v.channel_dim} = {own or da.sizes[v.channel_dim]}, the prior was "
            f"trained with {list(v.labels) or v.channels}; use .sel({v.channel_dim}=...) to select them in that order"
        )
