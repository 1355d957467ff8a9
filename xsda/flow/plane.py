"""Check the velocities and find the two axes of the plane that they lie on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import xarray as xr
from torch import Tensor

from xsda.arguments import choose
from xsda.labels.axes import SPACE_NAMES, axis_numbers, check_sorted, find_axes, uniform_step
from xsda.labels.cf import check_units, is_longitude
from xsda.metrics.spectra import ring_period

Flow = xr.Dataset | Mapping[str, Tensor]
Spacing = float | Sequence[float] | None
ANGLES = (*SPACE_NAMES["Y"][1:], *SPACE_NAMES["X"][1:])  # names of latitudes and longitudes


@dataclass(frozen=True)
class PlaneAxis:
    """One axis of the plane.

    Parameters
    ----------
    dim
        Name of the dimension, or position of the axis of a tensor.
    step
        Distance between two points, negative along a descending axis.
    ring
        Whether the axis is periodic.
    """

    dim: Any
    step: float
    ring: bool


def velocity(flow: Flow, u: str, v: str) -> dict[str, Any]:
    """Return the velocities, or raise if they are missing or do not match.

    Parameters
    ----------
    flow
        Dataset or mapping of tensors.
    u, v
        Names of the velocities.

    Returns
    -------
    dict
        The fields "u" and "v".

    Examples
    --------
    >>> from xsda.flow.plane import velocity
    >>> list(velocity({"a": torch.zeros(2, 2), "b": torch.zeros(2, 2)}, "a", "b"))
    ['u', 'v']
    """
    if not isinstance(flow, Mapping):
        raise TypeError(
            f"expected a Dataset, or a mapping of tensors, with the velocities {u!r} and {v!r}, "
            f"got {type(flow).__name__}"
        )
    known = [str(k) for k in (flow.data_vars if isinstance(flow, xr.Dataset) else flow)]
    for name in (u, v):
        if name not in known:
            raise KeyError(f"no variable {name!r} in the flow, which has {known}; {choose(name, known)}")
    if isinstance(flow, xr.Dataset):
        check_units(v, flow[v].attrs.get("units"), flow[u].attrs.get("units"), repr(u))
        sizes: list[Any] = [dict(sorted(flow[name].sizes.items(), key=str)) for name in (u, v)]
    else:
        sizes = [checked(repr(name), flow[name]).shape for name in (u, v)]
    if sizes[0] != sizes[1]:
        raise ValueError(f"{u!r} has the sizes {sizes[0]}, {v!r} has {sizes[1]}; put both on the same points")
    return {"u": flow[u], "v": flow[v]}


def checked(name: str, field: Any) -> Tensor:
    """Return a floating-point tensor (..., y, x), or raise.

    Parameters
    ----------
    name
        Name for the error message.
    field
        What may be a tensor.

    Returns
    -------
    Tensor
        The field.

    Examples
    --------
    >>> from xsda.flow.plane import checked
    >>> checked("u", torch.zeros(2, 3)).shape
    torch.Size([2, 3])
    """
    if not isinstance(field, Tensor):
        raise TypeError(f"{name} is a {type(field).__name__}, expected a tensor; use torch.as_tensor, or a Dataset")
    if field.ndim < 2 or not field.is_floating_point():
        raise ValueError(
            f"{name} has the type {field.dtype} and the shape {tuple(field.shape)}, expected floating-point numbers "
            "(..., y, x)"
        )
    return field


def labelled_axes(ds: xr.Dataset, name: str, *, ring: bool) -> tuple[dict[str, PlaneAxis], str | None]:
    """Find the axes of a variable.

    Parameters
    ----------
    ds
        Dataset with the variable.
    name
        Name of the variable.
    ring
        Whether the axes must be periodic.

    Returns
    -------
    axes : dict
        The axes "y" and "x".
    unit : str or None
        Unit of length.

    Examples
    --------
    >>> from xsda.flow.plane import labelled_axes
    >>> ds = xr.Dataset({"u": (("y", "x"), np.zeros((2, 3)))}, {"y": [0.0, 2.0], "x": [0.0, 1.0, 2.0]})
    >>> labelled_axes(ds, "u", ring=False)[0]["y"]
    PlaneAxis(dim='y', step=2.0, ring=False)
    """
    axes = {}
    dims = plane_dims(ds[[name]])
    for along, dim in zip("yx", dims, strict=True):
        x = positions(ds, dim, ring=ring)
        axes[along] = PlaneAxis(dim, step(x), ring_period(ds, dim, x) is not None)
        if axes[along].ring:
            uniform_step(x, dim)
    units = [ds[d].attrs.get("units") for d in dims]
    check_units(dims[0], units[0], units[1], repr(dims[1]))
    return axes, units[0] or units[1]


def tensor_axes(flow: Any, spacing: Spacing, *, ring: bool) -> dict[str, PlaneAxis]:
    """Describe the axes of tensors (..., y, x).

    Parameters
    ----------
    flow
        Mapping of tensors, which may be the state of a prior.
    spacing
        A number or (dy, dx), or None to use that of the state.
    ring
        Whether the axes must be periodic.

    Returns
    -------
    dict
        The axes "y" and "x".

    Examples
    --------
    >>> from xsda.flow.plane import tensor_axes
    >>> tensor_axes({}, (2.0, 1.0), ring=True)["y"]
    PlaneAxis(dim=-2, step=2.0, ring=True)
    """
    space = getattr(flow, "space", ()) if spacing is None else ()
    if spacing is None:
        spacing = getattr(flow, "spacing", None)
        if spacing is None:
            raise ValueError("tensors have no coordinates; pass spacing=, a number or (dy, dx)")
    steps: list[Any] = [spacing] * 2 if isinstance(spacing, Real) else list(spacing) if np.iterable(spacing) else []
    numbers = [h for h in steps if isinstance(h, Real) and not isinstance(h, bool) and 0 < abs(float(h)) < math.inf]
    if len(steps) != 2 or len(numbers) != 2:
        raise ValueError(f"spacing={spacing!r} must be a number other than 0, or two of them, (dy, dx)")
    rings = _check_space(space, ring=ring) if space else (True, True)
    return {d: PlaneAxis(i, float(h), r) for d, i, h, r in zip("yx", (-2, -1), steps, rings, strict=True)}


def _check_space(axes: Sequence[Any], *, ring: bool) -> tuple[bool, bool]:
    """Say which of the last two axes of a prior's state are periodic; raise if they are not y and x of a plane."""
    for axis in axes[-2:]:
        if axis.name.lower() in ANGLES:
            raise ValueError(_angle_text(axis.name))
        if ring and axis.period is None:
            raise ValueError(
                f"the axis {axis.name!r} of the state is not periodic, and this quantity needs a periodic plane. If "
                f"the axis is periodic, set ds[{axis.name!r}].attrs['period'] (or periodic=) where the prior is made, "
                "or pass spacing="
            )
    if axes[-1].name.lower() in SPACE_NAMES["Y"]:
        raise ValueError(f"the last axes of the state are {[a.name for a in axes[-2:]]}, expected (y, x)")
    return axes[-2].period is not None, axes[-1].period is not None


def plane_dims(ds: xr.Dataset) -> tuple[str, str]:
    """Find the two dimensions of a plane.

    Parameters
    ----------
    ds
        Dataset on the plane.

    Returns
    -------
    tuple of str
        Names of the y and x dimensions.

    Examples
    --------
    >>> from xsda.flow.plane import plane_dims
    >>> plane_dims(xr.Dataset({"u": (("x", "y"), np.zeros((2, 3)))}))
    ('y', 'x')
    """
    timed = ds if "time" in ds.dims else ds.drop_vars("time", errors="ignore").expand_dims("time")
    space = find_axes(timed)[1]
    if len(space) != 2:
        raise ValueError(
            f"a plane has two axes, found {list(space)} among the dimensions {list(ds.dims)}; call them 'y' and 'x', "
            "or give their coordinates the attributes axis='Y' and axis='X'"
        )
    return space[0], space[1]


def positions(ds: xr.Dataset, dim: str, *, ring: bool = False) -> np.ndarray:
    """Return the coordinate of an axis as numbers.

    Parameters
    ----------
    ds
        Dataset with the coordinate.
    dim
        Name of the axis.
    ring
        Whether the axis must be periodic and evenly spaced.

    Returns
    -------
    ndarray
        Positions, ascending or descending.

    Examples
    --------
    >>> from xsda.flow.plane import positions
    >>> positions(xr.Dataset(coords={"x": [0.0, 1.0]}), "x")
    array([0., 1.])
    """
    if dim not in ds.coords:
        raise ValueError(f"{dim!r} has no coordinate; give it the centres of its cells: .assign_coords({dim}=...)")
    if ds.sizes[dim] < 2:
        raise ValueError(f"{dim!r} has only one point, so that its cells have no size; a plane needs at least 2")
    units = ds[dim].attrs.get("units")
    if is_longitude(ds[dim]) or str(units).startswith("deg") or (units is None and dim.lower() in ANGLES):
        raise ValueError(_angle_text(dim))
    x = axis_numbers(ds[dim])
    check_sorted(x, dim)
    if ring:
        uniform_step(x, dim)
        if ring_period(ds, dim, x) is None:
            raise ValueError(_open_text(ds, dim, x))
    return x


def _open_text(ds: xr.Dataset, dim: str, x: np.ndarray) -> str:
    own = ds[dim].attrs.get("period")
    why = "nothing says that it is periodic" if own is None else f"its period is {own}"
    return (
        f"this needs a periodic plane; the {len(x)} points of {dim!r} span {abs(step(x)) * len(x):g}, but {why}. Give "
        f"every point of the period once and set ds[{dim!r}].attrs['period']; on a domain with ends use "
        "scheme='centred' for "
        "derivatives and da.interp for interpolation"
    )


def step(x: np.ndarray) -> float:
    """Return the mean distance between two points, negative along a descending axis.

    Parameters
    ----------
    x
        Positions.

    Returns
    -------
    float
        The step.

    Examples
    --------
    >>> from xsda.flow.plane import step
    >>> step(np.array([3.0, 1.0]))
    -2.0
    """
    return float(x[-1] - x[0]) / (len(x) - 1)


def _angle_text(name: str) -> str:
    return f"{name!r} is an angle on a sphere, and this is flow on a plane; project the field to a length, like metres"
