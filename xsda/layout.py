"""From labelled Datasets to tensors and back.

A ``Layout`` belongs to a prior: which variables, how scaled, on which axes. Bound to a user's Dataset it becomes a
``Grid``, which knows the user's own dimension names, coordinates and orientation. Inside, a trajectory is a tensor
(..., time, channel, *space) of standardised numbers with every axis ascending; outside, it is what the user gave.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from xsda.axes import (
    axis_numbers,
    check_sorted,
    check_time_features,
    find_axes,
    is_datelike,
    own_period,
    time_feature_waves,
    uniform_step,
)
from xsda.names import choose

KEPT_ATTRS = ("units", "standard_name", "long_name")
SAMPLE_DIMS = ("trajectory", "member")


@dataclass(frozen=True)
class Variable:
    """One variable: one channel, or one channel per entry of ``channel_dim``. ``mean`` and ``std`` per channel."""

    name: str
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    channel_dim: str | None = None
    labels: tuple[Any, ...] = ()
    attrs: Mapping[str, str] = field(default_factory=dict)

    @property
    def channels(self) -> int:
        return len(self.mean)


@dataclass(frozen=True)
class Axis:
    """A space axis as the prior knows it; ``period`` is the length of the ring if it is one."""

    name: str
    size: int
    spacing: float
    period: float | None = None


@dataclass(frozen=True)
class Layout:
    """The shape of a prior's world.

    Parameters
    ----------
    variables
        One entry per variable, in channel order.
    space
        Space axes in tensor order.
    time
        Name of the time dimension.
    dt
        Time step: in seconds where time is a date, in the units of the coordinate otherwise.
    dates
        Whether the prior was trained on dates.
    context
        Static fields that the network reads beside the state, scaled like variables.
    time_features
        What the network is told of the date: any of "hour_of_day", "day_of_year".
    """

    variables: tuple[Variable, ...]
    space: tuple[Axis, ...] = ()
    time: str = "time"
    dt: float | None = None
    dates: bool = False
    context: tuple[Variable, ...] = ()
    time_features: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        ds: xr.Dataset,
        *,
        periodic: Sequence[str] = (),
        space: Sequence[str] | None = None,
        context: Sequence[str] = (),
        time_features: Sequence[str] = (),
        sample_dims: Sequence[str] = SAMPLE_DIMS,
        even: bool = True,
    ) -> Layout:
        """Read a layout off a Dataset; the scaling is left at mean 0 and standard deviation 1.

        The time axis must be evenly spaced, as a prior's is, unless ``even`` is False: then there is no time step.
        """
        time, found = find_axes(ds)
        dims = tuple(space) if space is not None else found
        for name in (*dims, *periodic):
            if name not in ds.dims:
                raise ValueError(f"no dimension {name!r} in the Dataset, which has {tuple(ds.sizes)}; {choose(name, ds.dims)}")
        numbers = axis_numbers(ds[time]) if time in ds.coords else np.arange(ds.sizes[time], dtype=float)
        check_sorted(numbers, time)
        dt = uniform_step(numbers, time) if even and len(numbers) > 1 else None
        axes = []
        for name in dims:
            x = np.sort(axis_numbers(ds[name])) if name in ds.coords else np.arange(ds.sizes[name], dtype=float)
            spacing = float(np.median(np.diff(x))) if len(x) > 1 else 1.0
            axes.append(Axis(name, len(x), spacing, spacing * len(x) if name in periodic else own_period(ds, name, spacing)))
        fixed = tuple(_context(ds, v, dims) for v in context)
        others = {*context, *(v.attrs.get("bounds") for v in ds.variables.values())}
        variables = [_variable(ds[v], (time, *dims), sample_dims) for v in ds.data_vars if v not in others]
        if not variables:
            raise ValueError(f"the Dataset has no variables over {(time, *dims)}")
        dates = time in ds.coords and is_datelike(ds[time])
        check_time_features(time_features, dates)
        return cls(tuple(variables), tuple(axes), time, dt, dates, fixed, tuple(time_features))

    @property
    def channels(self) -> int:
        return sum(v.channels for v in self.variables)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(v.name for v in self.variables)

    @property
    def context_channels(self) -> int:
        return len(self.context) + 2 * len(self.time_features)

    @property
    def mean(self) -> np.ndarray:
        return np.concatenate([v.mean for v in self.variables])

    @property
    def std(self) -> np.ndarray:
        return np.concatenate([v.std for v in self.variables])

    def scaled(self, mean: Sequence[float], std: Sequence[float]) -> Layout:
        """The same layout with this mean and standard deviation for each channel."""
        variables, start = [], 0
        for v in self.variables:
            part = slice(start, start + v.channels)
            variables.append(replace(v, mean=tuple(map(float, mean[part])), std=tuple(map(float, std[part]))))
            start += v.channels
        return replace(self, variables=tuple(variables))

    def slices(self) -> dict[str, slice]:
        """The channels of each variable."""
        out, start = {}, 0
        for v in self.variables:
            out[v.name] = slice(start, start + v.channels)
            start += v.channels
        return out

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Layout:
        parts = {
            key: tuple(Variable(**{**v, **{k: tuple(v[k]) for k in ("mean", "std", "labels")}}) for v in data[key])
            for key in ("variables", "context")
        }
        space = tuple(Axis(**a) for a in data["space"])
        return cls(**{**data, **parts, "space": space, "time_features": tuple(data["time_features"])})

    def bind(self, ds: xr.Dataset) -> Grid:
        """Match a user's Dataset with this layout; see ``Grid``."""
        return Grid.match(self, ds)


def _variable(da: xr.DataArray, core: Sequence[str], sample_dims: Sequence[str]) -> Variable:
    lacking = [d for d in core if d not in da.dims]
    if lacking:
        raise ValueError(
            f"variable {da.name!r} lacks the dimension {lacking[0]!r} of the trajectory; drop it, or pass it as context=... "
            "if it is a static field"
        )
    extra = [str(d) for d in da.dims if d not in {*core, *sample_dims}]
    if len(extra) > 1:
        raise ValueError(
            f"variable {da.name!r} has the dimensions {extra} beside time and space; at most one (its channels) is "
            "possible. Mark space dimensions with the attribute axis='X' / 'Y', or pass space=(...)."
        )
    attrs = {k: str(da.attrs[k]) for k in KEPT_ATTRS if k in da.attrs}
    if not extra:
        return Variable(str(da.name), attrs=attrs)
    size = da.sizes[extra[0]]
    labels = tuple(np.asarray(da[extra[0]].values).tolist()) if extra[0] in da.coords else ()
    return Variable(str(da.name), (0.0,) * size, (1.0,) * size, extra[0], labels, attrs)


def _context(ds: xr.Dataset, name: str, space: Sequence[str]) -> Variable:
    if name not in ds:
        raise KeyError(f"context field {name!r} is not in the Dataset; {choose(name, ds.data_vars)}")
    if set(ds[name].dims) != set(space):
        raise ValueError(f"context field {name!r} has the dimensions {ds[name].dims}, expected {tuple(space)}: a static field")
    std = float(ds[name].std())
    return Variable(name, (float(ds[name].mean()),), (std or 1.0,))


@dataclass(frozen=True, eq=False)
class Grid:
    """A layout bound to a user's Dataset.

    ``dims`` maps the prior's dimension names (time, then space) to the user's; ``names`` maps variables likewise.
    """

    layout: Layout
    template: xr.Dataset
    dims: Mapping[str, str]
    names: Mapping[str, str]

    @classmethod
    def match(cls, layout: Layout, ds: xr.Dataset) -> Grid:
        names = {v.name: _match_variable(v, ds) for v in layout.variables}
        time, space = find_axes(ds, prefer=(layout.time, *(a.name for a in layout.space)))
        if len(space) != len(layout.space):
            raise ValueError(
                f"the prior has the space dimensions {[a.name for a in layout.space]}, the Dataset has {list(space)}; "
                "rename its dimensions, or mark them with the attribute axis='X' / 'Y'"
            )
        dims = {layout.time: time, **{a.name: d for a, d in zip(layout.space, space, strict=True)}}
        grid = cls(layout, ds, dims, names)
        for name in grid.core_dims:
            grid.numbers(name)  # raises if the coordinate is not usable
        for v in layout.variables:
            if names[v.name] in ds:
                _check_variable(v, ds[names[v.name]], grid.core_dims)
        return grid

    @property
    def core_dims(self) -> tuple[str, ...]:
        """The user's names of (time, *space)."""
        return tuple(self.dims.values())

    @property
    def shape(self) -> tuple[int, ...]:
        """(time, channel, *space)."""
        time, *space = self.core_dims
        return (self.template.sizes[time], self.layout.channels, *(self.template.sizes[d] for d in space))

    def numbers(self, dim: str) -> np.ndarray:
        """The coordinate of one of the user's dimensions, ascending, as numbers (dates: seconds since the first)."""
        values = self._raw_numbers(dim)
        return values[::-1] if self.descends(dim) else values

    def _raw_numbers(self, dim: str) -> np.ndarray:
        if dim not in self.template.coords:
            return np.arange(self.template.sizes[dim], dtype=float)
        values = axis_numbers(self.template[dim], self.origin if dim == self.core_dims[0] else None)
        check_sorted(values, dim)
        if dim == self.core_dims[0] and len(values) > 1 and values[1] < values[0]:
            raise ValueError(f"the time axis {dim!r} runs backwards; use .sortby({dim!r})")
        return values

    @property
    def origin(self) -> Any:
        """The first date of the time axis, from which dates are counted in seconds."""
        time = self.template[self.core_dims[0]]
        return time.values[0] if is_datelike(time) else None

    def descends(self, dim: str) -> bool:
        if dim not in self.template.coords or self.template.sizes[dim] < 2:
            return False
        values = self._raw_numbers(dim)
        return bool(values[1] < values[0])

    def stack(self, ds: xr.Dataset) -> np.ndarray:
        """The values of the variables as one array (..., time, channel, *space), in their own units, double precision."""
        parts = []
        time, *space = self.core_dims
        for v in self.layout.variables:
            da = ds[self.names[v.name]]
            da = da.expand_dims("_channel") if v.channel_dim is None else da.rename({v.channel_dim: "_channel"})
            da = da.drop_vars("_channel", errors="ignore")
            parts.append(np.asarray(self.orient(da).transpose(..., time, "_channel", *space).values, dtype=np.float64))
        return np.concatenate(parts, axis=parts[0].ndim - len(space) - 1)

    def to_tensor(self, ds: xr.Dataset) -> Tensor:
        """Standardised values (..., time, channel, *space) in single precision."""
        shape = (-1, *(1,) * len(self.layout.space))
        scaled = (self.stack(ds) - self.layout.mean.reshape(shape)) / self.layout.std.reshape(shape)
        return torch.as_tensor(scaled, dtype=torch.float32)

    def context(self) -> Tensor | None:
        """What the network reads beside the state, (1, time or 1, context channel, *space), or None."""
        time, *space = self.core_dims
        sizes = self.shape[2:]
        parts = []
        for v in self.layout.context:
            if v.name not in self.template:
                raise KeyError(f"the prior needs the static field {v.name!r} in the grid; add it as a variable")
            field = self.orient(self.template[v.name]).transpose(*space).values
            parts.append(np.broadcast_to((field - v.mean[0]) / v.std[0], (1, 1, *sizes)))
        if self.layout.time_features:
            waves = time_feature_waves(self.template[time], self.layout.time_features)
            shape = (*waves.shape, *(1,) * len(sizes))
            parts = [np.broadcast_to(p, (len(waves), 1, *sizes)) for p in parts]
            parts.append(np.broadcast_to(waves.reshape(shape), (*waves.shape, *sizes)))
        if not parts:
            return None
        return torch.as_tensor(np.concatenate(parts, axis=1)[None], dtype=torch.float32)

    def orient(self, da: xr.DataArray) -> xr.DataArray:
        """Turn descending space axes around (its own inverse)."""
        flips = {d: slice(None, None, -1) for d in self.core_dims[1:] if self.descends(d) and d in da.dims}
        return da.isel(flips) if flips else da

    def to_dataset(self, values: Any, outer: Mapping[str, xr.DataArray]) -> xr.Dataset:
        """Label standardised values (*outer, time, channel, *space), a numpy or dask array, in the user's terms."""
        time, *space = self.core_dims
        data = {}
        for v, part in zip(self.layout.variables, self.layout.slices().values(), strict=True):
            index = (slice(None),) * (len(outer) + 1)
            block = values[(*index, part)]
            if v.channel_dim is None:
                block, dims = block[(*index, 0)], (*outer, time, *space)
            else:
                dims = (*outer, time, v.channel_dim, *space)
            std, mean = (np.asarray(a, np.float32) for a in (v.std, v.mean))
            if v.channel_dim is None:
                std, mean = std[0], mean[0]
            else:
                std, mean = (a.reshape(-1, *(1,) * len(space)) for a in (std, mean))
            name = self.names[v.name]
            source = self.template.get(name)
            attrs = dict(source.attrs) if source is not None else dict(v.attrs)
            da = self.orient(xr.DataArray(block * std + mean, dims=dims, attrs=attrs))
            order = [d for d in (source.dims if source is not None else ()) if d in dims and d not in outer]
            data[name] = da.transpose(*outer, *order) if order else da
        labels = {v.channel_dim: list(v.labels) for v in self.layout.variables if v.channel_dim and v.labels}
        keep = {*self.core_dims, *(v.channel_dim for v in self.layout.variables)}
        coords = {k: c for k, c in self.template.coords.items() if set(c.dims) <= keep}
        return xr.Dataset(data).assign_coords({**labels, **coords, **outer})

    def check_spacing(self) -> list[str]:
        """Differences to the prior's own grid that a network may or may not bear, as sentences."""
        notes = []
        for axis, dim in zip(self.layout.space, self.core_dims[1:], strict=True):
            x = self.numbers(dim)
            spacing = float(np.median(np.diff(x))) if len(x) > 1 else axis.spacing
            if dim in self.template.coords and abs(spacing - axis.spacing) > 1e-3 * abs(axis.spacing):
                notes.append(f"spacing {spacing:g} along {dim!r} where the prior was trained with {axis.spacing:g}")
            if len(x) != axis.size:
                notes.append(f"{len(x)} points along {dim!r} where the prior was trained with {axis.size}")
        return notes

    def check_time(self) -> None:
        """Raise unless the time step is the prior's."""
        dim = self.core_dims[0]
        time = self.template[dim]
        if self.layout.dt is None or self.template.sizes[dim] < 2 or dim not in self.template.coords:
            return
        if is_datelike(time) != self.layout.dates:
            kinds = ("plain numbers", "dates")
            raise ValueError(
                f"the time axis {dim!r} holds {kinds[is_datelike(time)]}, the prior was trained on {kinds[self.layout.dates]} "
                f"with a step of {self.layout.dt:g}{' s' if self.layout.dates else ''}; give the grid such a time axis"
            )
        step = uniform_step(self.numbers(dim), dim)
        if abs(step - self.layout.dt) > 1e-3 * self.layout.dt:
            unit = " s" if self.layout.dates else ""
            raise ValueError(
                f"the time step of the grid is {step:g}{unit}, the prior was trained with {self.layout.dt:g}{unit}; "
                "put the grid on that step (observations may lie at any time)"
            )


def _match_variable(v: Variable, ds: xr.Dataset) -> str:
    if v.name in ds.data_vars:
        return v.name
    wanted = v.attrs.get("standard_name")
    for name, da in ds.data_vars.items():
        if wanted and da.attrs.get("standard_name") == wanted:
            return str(name)
    if len(ds.data_vars) == 0:
        return v.name
    raise KeyError(f"the prior's variable {v.name!r} is not in the Dataset, which has {list(ds.data_vars)}; {choose(v.name, ds)}")


def _check_variable(v: Variable, da: xr.DataArray, core: Sequence[str]) -> None:
    """Raise unless a variable of the grid has the prior's dimensions and channels."""
    expected = (*core, *([v.channel_dim] if v.channel_dim else []))
    if {*da.dims} - {*SAMPLE_DIMS} != {*expected}:
        raise ValueError(f"variable {da.name!r} of the grid has the dimensions {da.dims}, the prior expects {expected}")
    if v.channel_dim is None:
        return
    own = da[v.channel_dim].values.tolist() if v.channel_dim in da.coords else []
    if da.sizes[v.channel_dim] != v.channels or (own and v.labels and own != list(v.labels)):
        raise ValueError(
            f"variable {da.name!r} of the grid has {v.channel_dim} = {own or da.sizes[v.channel_dim]}, the prior was trained "
            f"with {list(v.labels) or v.channels}; use .sel({v.channel_dim}=...) to pick them in that order"
        )
