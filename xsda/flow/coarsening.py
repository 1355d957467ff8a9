"""Change the resolution of fields on a plane: means over blocks of cells, and interpolation to finer cells."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import reduce
from numbers import Integral
from typing import Any, TypeVar

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from xsda.flow.plane import checked, plane_dims, positions, step
from xsda.labels.axes import uniform_step

Fields = TypeVar("Fields", xr.Dataset, xr.DataArray, Tensor, Mapping[str, Tensor])
METHOD = re.compile(r"((?:\w+:\s+)+)(\w+(?:\s+(?:where|over|within)\s+\w+)*(?:\s*\([^)]*\))?)")


def coarsen(flow: Fields, factor: int) -> Fields:
    """Average over blocks of ``factor`` x ``factor`` cells.

    A block that holds a NaN is NaN. A coarse Dataset says in CF ``cell_methods`` and bounds over which cells its values
    are means. ``ds.sda.observe(coarse)`` therefore takes the same means of any other trajectory on the grid.

    Parameters
    ----------
    flow
        Dataset or DataArray over two evenly spaced axes, periodic or not. Or a tensor (..., y, x), or a mapping of such
        tensors.
    factor
        Cells along each side of a block. It must divide the sizes of both axes. 1 changes nothing.

    Returns
    -------
    Dataset, DataArray, Tensor or mapping
        The same kind as ``flow``, with coordinates at the centres of the blocks. Variables along neither axis stay as
        they are; other coordinates along the axes are dropped. Only a Dataset can hold the bounds of the cells, and
        ``coarse[["u"]]`` loses them, so select variables first: ``coarsen(ds[["u"]], 8)``.

    Examples
    --------
    >>> xsda.flow.coarsen(torch.arange(16.0).reshape(4, 4), 2)
    tensor([[ 2.5000,  4.5000],
            [10.5000, 12.5000]])
    """
    return _resize(flow, _whole(factor), means=True)


def upsample(flow: Fields, factor: int) -> Fields:
    """Interpolate linearly to the centres of ``factor`` x ``factor`` cells in each cell.

    Interpolation wraps around the periodic axes and is of second order in the spacing. It preserves the mean over the
    plane.

    Parameters
    ----------
    flow
        As for ``coarsen``, on periodic axes.
    factor
        New cells along each side of an old one. 1 changes nothing.

    Returns
    -------
    Dataset, DataArray, Tensor or mapping
        The same kind as ``flow``, on the finer grid.

    Examples
    --------
    >>> xsda.flow.upsample(torch.tensor([[0.0, 4.0], [0.0, 4.0]]), 2)[0]
    tensor([1., 1., 3., 3.])
    """
    return _resize(flow, _whole(factor), means=False)


def _block_means(f: Any, axis: Any, factor: int) -> Any:
    if isinstance(f, Tensor):
        return f.unflatten(axis, (-1, factor)).mean(axis)
    return f.coarsen({axis: factor}).reduce(np.mean)


def _interpolated(f: Any, axis: Any, factor: int) -> Any:
    size = f.shape[axis] if isinstance(f, Tensor) else f.sizes[axis]
    place = (np.arange(size * factor) + 0.5) / factor - 0.5
    lower = np.floor(place).astype(int)
    share, ends = place - lower, (lower % size, (lower + 1) % size)
    if isinstance(f, Tensor):
        a, b = (f.index_select(axis, torch.as_tensor(i, device=f.device)) for i in ends)
        return a + (b - a) * torch.as_tensor(share).to(a).reshape(-1, *(1,) * (-1 - axis))
    a, b = (f.isel({axis: i}) for i in ends)
    return a + (b - a) * xr.DataArray(share.astype(np.result_type(f.dtype, np.float32)), dims=axis)


def _resize(flow: Any, factor: int, *, means: bool) -> Any:
    """Fewer cells by block means, or more by interpolation."""
    if isinstance(flow, xr.DataArray):
        return _resize(flow.rename("_field").to_dataset(), factor, means=means)["_field"].rename(flow.name)
    if not isinstance(flow, (Tensor, Mapping)):
        raise TypeError(f"expected a Dataset, a DataArray, a tensor or a mapping of them, got {type(flow).__name__}")
    if factor == 1:
        return flow
    if isinstance(flow, xr.Dataset):
        return _resize_labelled(flow, factor, means)
    if isinstance(flow, Mapping):
        return {name: _resize(checked(repr(name), flow[name]), factor, means=means) for name in flow}
    ny, nx = checked("the field", flow).shape[-2:]
    if not means:
        return _interpolated(_interpolated(flow, -1, factor), -2, factor)
    _check_blocks({"y": ny, "x": nx}, factor)
    return _block_means(_block_means(flow, -1, factor), -2, factor)


def _resize_labelled(ds: xr.Dataset, factor: int, means: bool) -> xr.Dataset:
    dims, along = plane_dims(ds), _block_means if means else _interpolated
    if means:
        _check_blocks({d: ds.sizes[d] for d in dims}, factor)
    axes = {name: coord for d in dims for name, coord in _new_axis(ds, d, factor, means).items()}
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


def _new_axis(ds: xr.Dataset, d: str, factor: int, means: bool) -> dict[str, Any]:
    """The coordinate of the new cells, and for means also their bounds."""
    x, attrs = positions(ds, d, ring=not means), _without(ds[d].attrs, "bounds")
    if not means:
        inner = ((np.arange(factor) + 0.5) / factor - 0.5) * step(x)
        return {d: (d, (x[:, None] + inner).ravel(), attrs)}
    uniform_step(x, d)
    edges = np.concatenate([[x[0] - step(x) / 2], (x[1:] + x[:-1]) / 2, [x[-1] + step(x) / 2]])[::factor]
    return {
        d: (d, x.reshape(-1, factor).mean(1), {**attrs, "bounds": f"{d}_bounds"}),
        f"{d}_bounds": ((d, "bounds"), np.sort(np.stack([edges[:-1], edges[1:]], axis=1))),
    }


def _without(attrs: Mapping[Any, Any], key: str) -> dict[Any, Any]:
    return {k: a for k, a in attrs.items() if k != key}


def _other_methods(da: xr.DataArray, dims: Sequence[str]) -> list[str]:
    """What CF ``cell_methods`` says of other dimensions than these."""
    kept = []
    for names, method in METHOD.findall(str(da.attrs.get("cell_methods", ""))):
        others = [name for name in names.split() if name[:-1] not in dims]
        kept += [" ".join([*others, method])] if others else []
    return kept


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
                f"{size} cells along {name!r} cannot be cut into blocks of factor={factor}; factors that divide the "
                f"sizes {dict(sizes)} are {fitting}"
            )
