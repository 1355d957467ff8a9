r"""Two-dimensional flow on a periodic plane: vorticity, divergence, energy, circulation, block means, interpolation.

Derivatives are centred differences of second order that go around the ring,

    d f / d x  at i   =   (f[i+1] - f[i-1]) / (2 dx) + O(dx^2).

The velocities (u along x, v along y) lie at the same points, the centres of the cells. Every function takes a labelled
Dataset, which stays lazy on dask, or a mapping of tensors (..., y, x), through which gradients flow: each may serve as a
function of ``derived=``, where what it returns lies on the points of the state.

With the velocity on an edge as the average of the cells on both sides, Stokes' theorem holds for any block of cells to
rounding: summed over the block, the centred differences telescope, and what is left is the line integral along its edges,

    sum of (dv/dx - du/dy) dx dy over the block   =   closed integral of u . dl    (counterclockwise).

On a plane that closes on itself the circulations of all blocks cancel. (``xsda.metrics`` has spectral derivatives and means
over the plane.)
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from numbers import Integral, Real
from typing import Any, TypeVar

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from xsda.arguments import choose
from xsda.labels.axes import SPACE_NAMES, axis_numbers, check_sorted, find_axes, uniform_step
from xsda.labels.cf import check_units, is_longitude
from xsda.metrics.spectra import ring_period, units_of

Flow = xr.Dataset | Mapping[str, Tensor]
Field = Any  # a DataArray where the flow is a Dataset, a tensor where it is of tensors
Fields = TypeVar("Fields", xr.Dataset, xr.DataArray, Tensor, Mapping[str, Tensor])
Spacing = float | Sequence[float] | None
METHOD = re.compile(r"((?:\w+:\s+)+)(\w+(?:\s+(?:where|over|within)\s+\w+)*(?:\s*\([^)]*\))?)")
ANGLES = (*SPACE_NAMES["Y"][1:], *SPACE_NAMES["X"][1:])  # names of latitudes and longitudes


def vorticity(flow: Flow, *, u: str = "u", v: str = "v", spacing: Spacing = None) -> Field:
    """dv/dx - du/dy, positive counterclockwise.

    Parameters
    ----------
    flow
        Dataset on two periodic, evenly spaced axes (the attributes ``axis`` and ``period`` of their coordinates say so, or
        the names y and x), ascending or descending, in any order, among others. Or a mapping of tensors (..., y, x).
    u, v
        Names of the velocities along x and y.
    spacing
        Of tensors only: a number or (dy, dx), negative along a descending axis. By default ``flow.spacing``, which the
        state of ``derived=`` has.
    """
    plane = _Plane.of(flow, u, v, spacing)
    return plane.label(plane.curl(), "vorticity", power=1, length=-1)


def divergence(flow: Flow, *, u: str = "u", v: str = "v", spacing: Spacing = None) -> Field:
    """du/dx + dv/dy; the parameters are those of ``vorticity``."""
    plane = _Plane.of(flow, u, v, spacing)
    return plane.label(plane.slope("u", "x") + plane.slope("v", "y"), "divergence", power=1, length=-1)


def enstrophy(flow: Flow, *, u: str = "u", v: str = "v", spacing: Spacing = None) -> Field:
    """vorticity^2 / 2 at each point; the parameters are those of ``vorticity``."""
    plane = _Plane.of(flow, u, v, spacing)
    return plane.label(plane.curl() ** 2 / 2, "enstrophy", power=2, length=-2)


def kinetic_energy(flow: Flow, *, u: str = "u", v: str = "v") -> Field:
    """(u^2 + v^2) / 2 at each point, per mass; ``u`` and ``v`` as in ``vorticity``, on axes of any kind."""
    fields = _velocity(flow, u, v)
    out = (fields["u"] ** 2 + fields["v"] ** 2) / 2
    return _Plane(fields).label(out, "kinetic_energy", power=2)


def circulation(flow: Flow, factor: int, *, u: str = "u", v: str = "v", spacing: Spacing = None) -> Field:
    """Line integral of the velocity, counterclockwise, around each block of ``factor`` x ``factor`` cells.

    It is the area of the block times its mean vorticity (the module says why that is exact). Among ``derived=`` it is
    therefore ``lambda s: area * vorticity(s)``, observed as a mean over the block by ``cell_methods`` and bounds.

    Parameters
    ----------
    flow, u, v, spacing
        As in ``vorticity``.
    factor
        Cells along each side of a block; it must divide the sizes of both axes.
    """
    plane = _Plane.of(flow, u, v, spacing)
    means = coarsen(plane.label(plane.curl(), "vorticity", power=1, length=-1), factor)
    area = abs(plane.steps["y"] * plane.steps["x"]) * factor**2
    out = plane.label(area * means, "circulation", power=1, length=1)
    if isinstance(out, xr.DataArray) and factor > 1:
        out.attrs["cell_methods"] = means.attrs["cell_methods"]
    return out


def coarsen(flow: Fields, factor: int) -> Fields:
    """Means over blocks of ``factor`` x ``factor`` cells; a block that holds a NaN is NaN.

    A coarse Dataset says by CF ``cell_methods`` and bounds over which cells its values are means, so that
    ``ds.sda.observe(coarse)`` takes these means of any other trajectory on the grid.

    Parameters
    ----------
    flow
        Dataset or DataArray over two evenly spaced axes, periodic or not (as for ``vorticity``), tensor (..., y, x) or
        mapping of such tensors.
    factor
        Cells along each side of a block; it must divide the sizes of both axes. 1 leaves everything as it is.

    Returns
    -------
    The same kind, the coordinates at the centres of the blocks. Variables along neither axis pass through, other
    coordinates along them are dropped. A DataArray cannot hold the bounds of its cells; only a Dataset has them,
    and ``coarse[["u"]]`` loses them: select variables before, ``coarsen(ds[["u"]], 8)``.
    """
    return _resize(flow, _whole(factor), means=True)


def upsample(flow: Fields, factor: int) -> Fields:
    """Linear interpolation, around the ring, to the centres of ``factor`` x ``factor`` cells in each cell.

    Of second order in the spacing; the mean over the plane stays as it is.

    Parameters
    ----------
    flow
        As for ``coarsen``, but the axes must be periodic.
    factor
        How many times as many cells along each axis. 1 leaves everything as it is.
    """
    return _resize(flow, _whole(factor), means=False)


@dataclass(frozen=True)
class _Plane:
    """The velocities "u" and "v", and of "y" and "x": dimension (or position in a tensor) and signed step."""

    fields: Mapping[str, Field]
    axes: Mapping[str, Any] = field(default_factory=dict)
    steps: Mapping[str, float] = field(default_factory=dict)
    unit: str | None = None  # of length

    @classmethod
    def of(cls, flow: Flow, u: str, v: str, spacing: Spacing) -> _Plane:
        fields = _velocity(flow, u, v)
        if not isinstance(flow, xr.Dataset):
            return cls(fields, {"y": -2, "x": -1}, _tensor_steps(flow, spacing))
        if spacing is not None:
            raise ValueError(f"spacing={spacing} is for tensors; a Dataset has that of its coordinates: leave it away")
        y, x = _dims(flow[[u]])
        steps = {"y": _step(_positions(flow, y, ring=True)), "x": _step(_positions(flow, x, ring=True))}
        units = [flow[d].attrs.get("units") for d in (y, x)]
        check_units(y, units[0], units[1], repr(x))
        return cls(fields, {"y": y, "x": x}, steps, units[0] or units[1])

    def curl(self) -> Field:
        return self.slope("v", "x") - self.slope("u", "y")

    def slope(self, name: str, along: str) -> Field:
        """Centred differences along a ring."""
        f, axis, step = self.fields[name], self.axes[along], self.steps[along]
        if _size(f, axis) < 3:
            raise ValueError(f"centred differences need at least 3 points, there are {_size(f, axis)} along {along!r}")
        if isinstance(f, Tensor):
            return (f.roll(-1, axis) - f.roll(1, axis)) / (2 * step)
        return (f.roll({axis: -1}, roll_coords=False) - f.roll({axis: 1}, roll_coords=False)) / (2 * step)

    def label(self, out: Field, name: str, *, power: int, length: int = 0) -> Field:
        """Name and attributes; the units are a power of those of the velocity times a power of those of length."""
        if isinstance(out, Tensor):
            return out
        own = self.fields["u"].attrs.get("units")
        unit = self.unit or ("1" if own == "1" or length == 0 else None)
        units = units_of((own, power), (unit, length)) if unit else ""
        out = out.transpose(*self.fields["u"].dims).rename(name)
        out.attrs = {"long_name": name.replace("_", " "), **({"units": units} if units else {})}
        return out


def _block_means(f: Field, axis: Any, factor: int) -> Field:
    if isinstance(f, Tensor):
        return f.unflatten(axis, (-1, factor)).mean(axis)
    return f.coarsen({axis: factor}).reduce(np.mean)


def _interpolated(f: Field, axis: Any, factor: int) -> Field:
    size = _size(f, axis)
    place = (np.arange(size * factor) + 0.5) / factor - 0.5
    lower = np.floor(place).astype(int)
    share, ends = place - lower, (lower % size, (lower + 1) % size)
    if isinstance(f, Tensor):
        a, b = (f.index_select(axis, torch.as_tensor(i, device=f.device)) for i in ends)
        return a + (b - a) * torch.as_tensor(share).to(a).reshape(-1, *(1,) * (-1 - axis))
    a, b = (f.isel({axis: i}) for i in ends)
    return a + (b - a) * xr.DataArray(share.astype(np.result_type(f.dtype, np.float32)), dims=axis)


def _resize(flow: Any, factor: int, *, means: bool) -> Any:
    """Fewer cells by block means, or more by interpolation, of whatever kind of fields came."""
    if isinstance(flow, xr.DataArray):
        return _resize(flow.rename("_field").to_dataset(), factor, means=means)["_field"].rename(flow.name)
    if not isinstance(flow, (Tensor, Mapping)):
        raise TypeError(f"expected a Dataset, a DataArray, a tensor or a mapping of them, got {type(flow).__name__}")
    if factor == 1:
        return flow
    if isinstance(flow, xr.Dataset):
        return _resize_labelled(flow, factor, means)
    if isinstance(flow, Mapping):
        return {name: _resize(_checked(repr(name), flow[name]), factor, means=means) for name in flow}
    ny, nx = _checked("the field", flow).shape[-2:]
    if not means:
        return _interpolated(_interpolated(flow, -1, factor), -2, factor)
    _check_blocks({"y": ny, "x": nx}, factor)
    return _block_means(_block_means(flow, -1, factor), -2, factor)


def _resize_labelled(ds: xr.Dataset, factor: int, means: bool) -> xr.Dataset:
    dims, along = _dims(ds), _block_means if means else _interpolated
    if means:
        _check_blocks({d: ds.sizes[d] for d in dims}, factor)
    axes: dict[str, Any] = {}
    for d in dims:
        x, attrs = _positions(ds, d, ring=not means), _without(ds[d].attrs, "bounds")
        if means:
            edges = np.concatenate([[x[0] - _step(x) / 2], (x[1:] + x[:-1]) / 2, [x[-1] + _step(x) / 2]])[::factor]
            axes[d] = (d, x.reshape(-1, factor).mean(1), {**attrs, "bounds": f"{d}_bounds"})
            axes[f"{d}_bounds"] = ((d, "bounds"), np.sort(np.stack([edges[:-1], edges[1:]], axis=1)))
        else:
            inner = ((np.arange(factor) + 0.5) / factor - 0.5) * _step(x)
            axes[d] = (d, (x[:, None] + inner).ravel(), attrs)
    helpers = {*ds.coords, *(ds[d].attrs.get("bounds") for d in dims)}
    old = [name for name in ds.variables if name in helpers and {*dims} & {*ds[name].dims}]
    changed = {}
    for name, da in ds.data_vars.items():
        own = [d for d in dims if d in da.dims]
        if own and name not in old:
            values = reduce(lambda f, d: along(f, d, factor), own, da.drop_vars(old, errors="ignore"))
            methods = " ".join([*_other_methods(da, own), *(f"{d}: mean" for d in own if means)])
            values.attrs = {**da.attrs, "cell_methods": methods} if methods else _without(da.attrs, "cell_methods")
            changed[name] = values
    return ds.drop_vars([*old, *changed]).assign(changed).assign_coords(axes)


def _without(attrs: Mapping[Any, Any], key: str) -> dict[Any, Any]:
    return {k: a for k, a in attrs.items() if k != key}


def _other_methods(da: xr.DataArray, dims: Sequence[str]) -> list[str]:
    """What CF ``cell_methods`` says of other dimensions than these."""
    kept = []
    for names, method in METHOD.findall(str(da.attrs.get("cell_methods", ""))):
        others = [name for name in names.split() if name[:-1] not in dims]
        kept += [" ".join([*others, method])] if others else []
    return kept


def _velocity(flow: Flow, u: str, v: str) -> dict[str, Field]:
    if not isinstance(flow, Mapping):
        raise TypeError(
            f"expected a Dataset, or a mapping of tensors, with the velocities {u!r} and {v!r}, got {type(flow).__name__}"
        )
    known = [str(k) for k in (flow.data_vars if isinstance(flow, xr.Dataset) else flow)]
    for name in (u, v):
        if name not in known:
            raise KeyError(f"no variable {name!r} in the flow, which has {known}; {choose(name, known)}")
    if isinstance(flow, xr.Dataset):
        check_units(v, flow[v].attrs.get("units"), flow[u].attrs.get("units"), repr(u))
        sizes: list[Any] = [dict(sorted(flow[name].sizes.items(), key=str)) for name in (u, v)]
    else:
        sizes = [_checked(repr(name), flow[name]).shape for name in (u, v)]
    if sizes[0] != sizes[1]:
        raise ValueError(f"{u!r} has the sizes {sizes[0]}, {v!r} has {sizes[1]}; put both on the same points")
    return {"u": flow[u], "v": flow[v]}


def _checked(name: str, field: Any) -> Tensor:
    if not isinstance(field, Tensor):
        raise TypeError(f"{name} is a {type(field).__name__}, expected a tensor; use torch.as_tensor, or a Dataset")
    if field.ndim < 2 or not field.is_floating_point():
        raise ValueError(
            f"{name} is of {field.dtype} and the shape {tuple(field.shape)}, expected floating-point numbers (..., y, x)"
        )
    return field


def _tensor_steps(flow: Any, spacing: Spacing) -> dict[str, float]:
    if spacing is None:
        spacing = getattr(flow, "spacing", None)
        if spacing is None:
            raise ValueError("tensors have no coordinates; pass spacing=, a number or (dy, dx)")
        _check_space(getattr(flow, "space", ()))
    steps: list[Any] = [spacing] * 2 if isinstance(spacing, Real) else list(spacing) if np.iterable(spacing) else []
    numbers = [h for h in steps if isinstance(h, Real) and not isinstance(h, bool) and 0 < abs(float(h)) < math.inf]
    if len(steps) != 2 or len(numbers) != 2:
        raise ValueError(f"spacing={spacing!r} must be a number other than 0, or two of them, (dy, dx)")
    return {"y": float(steps[0]), "x": float(steps[1])}


def _check_space(axes: Sequence[Any]) -> None:
    """Raise unless the last two axes of a prior's state are the y and x of a periodic plane."""
    for axis in axes[-2:]:
        if axis.name.lower() in ANGLES:
            raise ValueError(_angle_text(axis.name))
        if axis.period is None:
            raise ValueError(
                f"the axis {axis.name!r} of the state is not periodic, and differences here go around a ring. If it is one, "
                f"set ds[{axis.name!r}].attrs['period'] (or periodic=) where the prior is made, or pass spacing="
            )
    if axes and axes[-1].name.lower() in SPACE_NAMES["Y"]:
        raise ValueError(f"the last axes of the state are {[a.name for a in axes[-2:]]}, expected (y, x)")


def _dims(ds: xr.Dataset) -> tuple[str, str]:
    timed = ds if "time" in ds.dims else ds.drop_vars("time", errors="ignore").expand_dims("time")
    space = find_axes(timed)[1]
    if len(space) != 2:
        raise ValueError(
            f"a plane has two axes, found {list(space)} among the dimensions {list(ds.dims)}; call them 'y' and 'x', or give "
            "their coordinates the attributes axis='Y' and axis='X'"
        )
    return space[0], space[1]


def _positions(ds: xr.Dataset, dim: str, *, ring: bool = False) -> np.ndarray:
    """The coordinate of an evenly spaced axis (all around a ring) as numbers."""
    if dim not in ds.coords:
        raise ValueError(f"{dim!r} has no coordinate; give it the centres of its cells: .assign_coords({dim}=...)")
    if ds.sizes[dim] < 2:
        raise ValueError(f"{dim!r} has only one point, so that its cells have no size; a plane needs at least 2")
    units = ds[dim].attrs.get("units")
    if is_longitude(ds[dim]) or str(units).startswith("deg") or (units is None and dim.lower() in ANGLES):
        raise ValueError(_angle_text(dim))
    x = axis_numbers(ds[dim])
    check_sorted(x, dim)
    uniform_step(x, dim)
    if ring and ring_period(ds, dim, x) is None:
        own = ds[dim].attrs.get("period")
        why = "nothing says that it is periodic" if own is None else f"its period is {own}"
        raise ValueError(
            f"differences and interpolation go around a ring; the {len(x)} points of {dim!r} span {abs(_step(x)) * len(x):g}, "
            f"but {why}. Give every point of the ring once and set ds[{dim!r}].attrs['period']; on a domain with ends use "
            "da.differentiate or da.interp"
        )
    return x


def _size(f: Field, axis: Any) -> int:
    return f.shape[axis] if isinstance(f, Tensor) else f.sizes[axis]


def _step(x: np.ndarray) -> float:
    return float(x[-1] - x[0]) / (len(x) - 1)


def _angle_text(name: str) -> str:
    return f"{name!r} is an angle on a sphere, and this is flow on a plane; project the field to a length, like metres"


def _whole(factor: Any) -> int:
    if not isinstance(factor, Integral) or isinstance(factor, bool) or factor < 1:
        raise ValueError(f"factor={factor!r} must be a whole number of cells, at least 1")
    return int(factor)


def _check_blocks(sizes: Mapping[str, int], factor: int) -> None:
    common = math.gcd(*sizes.values())
    for name, size in sizes.items():
        if size % factor:
            fitting = ", ".join(str(f) for f in range(1, common + 1) if common % f == 0)
            raise ValueError(
                f"{size} cells along {name!r} cannot be cut into blocks of factor={factor}; factors that divide the sizes "
                f"{dict(sizes)} are {fitting}"
            )
