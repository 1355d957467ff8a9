r"""Vorticity, divergence, enstrophy, kinetic energy and circulation of a flow on a plane.

Two schemes for the derivatives are available:

- ``"centred"``: differences of second order, d f / d x = (f[i+1] - f[i-1]) / (2 dx) + O(dx^2). They wrap around a
  periodic axis and are one-sided, also of second order, at the ends of any other axis.
- ``"spectral"``: the derivative of the Fourier series through the points. It is exact for every wave that the grid
  resolves, and it needs periodic axes.

Spectral derivatives are larger, because centred differences multiply the derivative of a wave by sin(k dx) / (k dx).
Use ``"centred"`` (the default) to compare with finite-difference models and for observed quantities, which then depend
on neighbouring points only. Use ``"spectral"`` for budgets of smooth periodic flow.

With the velocity on an edge as the average of the cells on both sides, Stokes' theorem holds for any block of cells to
rounding error: the centred differences telescope when they are summed over the block, which leaves the line integral

    sum of (dv/dx - du/dy) dx dy over the block   =   closed integral of u . dl    (counterclockwise).

On a periodic plane the circulations of all blocks add up to zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from xsda.flow.coarsening import coarsen
from xsda.flow.plane import Flow, PlaneAxis, Spacing, labelled_axes, tensor_axes, velocity
from xsda.metrics.spectra import units_of

Field = Any  # a DataArray for a Dataset, a tensor for tensors
Scheme = Literal["centred", "spectral"]
SCHEMES = ("centred", "spectral")


def vorticity(flow: Flow, *, u: str = "u", v: str = "v", scheme: Scheme = "centred", spacing: Spacing = None) -> Field:
    """Compute the vorticity dv/dx - du/dy, which is positive counterclockwise.

    Parameters
    ----------
    flow
        Dataset on two axes, ascending or descending, in any order and among other dimensions. The attributes ``axis``
        of their coordinates, or the names y and x, identify them. The attribute ``period`` makes an axis periodic. Or
        a mapping of tensors (..., y, x), which are periodic unless they are the state of a prior on axes with ends.
    u, v
        Names of the velocities along x and y.
    scheme
        ``"centred"``: differences of second order, from neighbouring points. ``"spectral"``: exact for every wave that
        the grid resolves, for periodic axes only.
    spacing
        For tensors only: a number or (dy, dx), negative along a descending axis. The default is ``flow.spacing``, which
        the state passed to ``derived=`` has. Tensors with ``spacing`` count as periodic.

    Returns
    -------
    DataArray or Tensor
        The vorticity at each point.

    Examples
    --------
    >>> x = xr.DataArray(np.arange(16) * np.pi / 8, dims="x", attrs={"period": 2 * np.pi})
    >>> y = xr.DataArray(np.arange(8.0), dims="y", attrs={"period": 8.0})
    >>> ds = xr.Dataset({"u": 0 * y + 0 * x, "v": np.sin(x) + 0 * y}).assign_coords(x=x, y=y).transpose("y", "x")
    >>> [round(float(xsda.flow.vorticity(ds, scheme=s).max()), 3) for s in ("centred", "spectral")]
    [0.974, 1.0]
    """
    plane = _Plane.of(flow, u, v, spacing, scheme)
    return plane.label(plane.curl(), "vorticity", power=1, length=-1)


def divergence(flow: Flow, *, u: str = "u", v: str = "v", scheme: Scheme = "centred", spacing: Spacing = None) -> Field:
    """Compute the divergence du/dx + dv/dy.

    Parameters
    ----------
    flow, u, v, scheme, spacing
        As for ``vorticity``.

    Returns
    -------
    DataArray or Tensor
        The divergence at each point.

    Examples
    --------
    >>> wind = {"u": torch.arange(4.0).repeat(4, 1), "v": torch.zeros(4, 4)}
    >>> xsda.flow.divergence(wind, spacing=1.0)[0]
    tensor([-1.,  1.,  1., -1.])
    """
    plane = _Plane.of(flow, u, v, spacing, scheme)
    return plane.label(plane.slope("u", "x") + plane.slope("v", "y"), "divergence", power=1, length=-1)


def enstrophy(flow: Flow, *, u: str = "u", v: str = "v", scheme: Scheme = "centred", spacing: Spacing = None) -> Field:
    """Compute the enstrophy at each point: half the square of the vorticity.

    Parameters
    ----------
    flow, u, v, scheme, spacing
        As for ``vorticity``. Mean values depend on the scheme: centred differences weaken short waves.

    Returns
    -------
    DataArray or Tensor
        The enstrophy at each point. Its mean over the plane is ``enstrophy(ds).mean(["y", "x"])``.

    Examples
    --------
    >>> wind = {"u": torch.zeros(4, 4), "v": torch.tensor([0.0, 1.0, 0.0, -1.0]).repeat(4, 1)}
    >>> xsda.flow.enstrophy(wind, spacing=0.5)[0]
    tensor([2., 0., 2., 0.])
    """
    plane = _Plane.of(flow, u, v, spacing, scheme)
    return plane.label(plane.curl() ** 2 / 2, "enstrophy", power=2, length=-2)


def kinetic_energy(flow: Flow, *, u: str = "u", v: str = "v") -> Field:
    """Compute the kinetic energy per unit mass at each point, (u^2 + v^2) / 2.

    Parameters
    ----------
    flow
        Dataset on axes of any kind, or mapping of tensors.
    u, v
        Names of the velocities along x and y.

    Returns
    -------
    DataArray or Tensor
        The kinetic energy at each point. ``xsda.metrics.energy`` is its mean over space.

    Examples
    --------
    >>> xsda.flow.kinetic_energy({"u": torch.full((2, 2), 3.0), "v": torch.full((2, 2), 4.0)})[0]
    tensor([12.5000, 12.5000])
    """
    fields = velocity(flow, u, v)
    out = (fields["u"] ** 2 + fields["v"] ** 2) / 2
    return _Plane(fields).label(out, "kinetic_energy", power=2)


def circulation(flow: Flow, factor: int, *, u: str = "u", v: str = "v", spacing: Spacing = None) -> Field:
    """Compute the circulation around blocks of ``factor`` x ``factor`` cells.

    The circulation is the line integral of the velocity, counterclockwise. It equals the area of the block times its
    mean vorticity, exactly for centred differences (see the module's introduction). In ``derived=`` it is therefore
    ``lambda s: area * vorticity(s)``, observed as a block mean with ``cell_methods`` and bounds.

    Parameters
    ----------
    flow, u, v, spacing
        As for ``vorticity``, on periodic axes that are evenly spaced.
    factor
        Cells along each side of a block. It must divide the sizes of both axes.

    Returns
    -------
    DataArray or Tensor
        The circulation around each block.

    Examples
    --------
    >>> wind = {"u": torch.zeros(4, 4), "v": torch.tensor([0.0, 1.0, 0.0, -1.0]).repeat(4, 1)}
    >>> xsda.flow.circulation(wind, 2, spacing=1.0)[0]
    tensor([ 2., -2.])
    """
    plane = _Plane.of(flow, u, v, spacing, "centred", ring=True)
    means = coarsen(plane.label(plane.curl(), "vorticity", power=1, length=-1), factor)
    area = abs(plane.axes["y"].step * plane.axes["x"].step) * factor**2
    out = plane.label(area * means, "circulation", power=1, length=1)
    if isinstance(out, xr.DataArray) and factor > 1:
        out.attrs["cell_methods"] = means.attrs["cell_methods"]
    return out


@dataclass(frozen=True)
class _Plane:
    """The velocities "u" and "v", the axes "y" and "x", and the scheme of the derivatives."""

    fields: Mapping[str, Field]
    axes: Mapping[str, PlaneAxis] = field(default_factory=dict)
    scheme: str = "centred"
    unit: str | None = None  # of length

    @classmethod
    def of(cls, flow: Flow, u: str, v: str, spacing: Spacing, scheme: str, *, ring: bool = False) -> _Plane:
        """Check what came. ``ring``: the axes must be periodic, as they must for spectral derivatives."""
        if scheme not in SCHEMES:
            raise ValueError(f"scheme={scheme!r} is unknown; choose 'centred' or 'spectral'")
        ring = ring or scheme == "spectral"
        fields = velocity(flow, u, v)
        if not isinstance(flow, xr.Dataset):
            return cls(fields, tensor_axes(flow, spacing, ring=ring), scheme)
        if spacing is not None:
            raise ValueError(
                f"spacing={spacing} is for tensors; a Dataset has the spacing of its coordinates: omit spacing="
            )
        axes, unit = labelled_axes(flow, u, ring=ring)
        return cls(fields, axes, scheme, unit)

    def curl(self) -> Field:
        return self.slope("v", "x") - self.slope("u", "y")

    def slope(self, name: str, along: str) -> Field:
        """The derivative of a velocity along an axis."""
        f, axis = self.fields[name], self.axes[along]
        size = f.shape[axis.dim] if isinstance(f, Tensor) else f.sizes[axis.dim]
        if size < 3:
            raise ValueError(f"derivatives need at least 3 points, there are {size} along {along!r}")
        if self.scheme == "spectral":
            return _spectral(f, axis)
        return _wrapped(f, axis) if axis.ring else _one_sided(f, axis)

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


def _wrapped(f: Field, axis: PlaneAxis) -> Field:
    """Centred differences around a periodic axis."""
    d = axis.dim
    if isinstance(f, Tensor):
        return (f.roll(-1, d) - f.roll(1, d)) / (2 * axis.step)
    return (f.roll({d: -1}, roll_coords=False) - f.roll({d: 1}, roll_coords=False)) / (2 * axis.step)


def _one_sided(f: Field, axis: PlaneAxis) -> Field:
    """Centred differences inside, one-sided differences of second order at both ends."""
    if isinstance(f, Tensor):
        return torch.gradient(f, spacing=axis.step, dim=axis.dim, edge_order=2)[0]
    if f.chunks:
        f = f.chunk({axis.dim: -1})
    return f.differentiate(axis.dim, edge_order=2)


def _spectral(f: Field, axis: PlaneAxis) -> Field:
    if isinstance(f, Tensor):
        return _fourier_slope(f.movedim(axis.dim, -1), axis.step).movedim(-1, axis.dim)
    kind = f.dtype if f.dtype.kind == "f" else np.dtype(float)
    return xr.apply_ufunc(
        lambda values: _fourier_slope(torch.as_tensor(np.array(values, kind)), axis.step).numpy(),
        f,
        input_core_dims=[[axis.dim]],
        output_core_dims=[[axis.dim]],
        dask="parallelized",
        output_dtypes=[kind],
        dask_gufunc_kwargs={"allow_rechunk": True},
        keep_attrs=False,
    )


def _fourier_slope(f: Tensor, step: float) -> Tensor:
    """The derivative, along the last axis, of the Fourier series through ``n`` points of one period n ``step``."""
    n = f.shape[-1]
    k = torch.arange(n // 2 + 1, device=f.device, dtype=f.dtype) * (2 * np.pi / (n * step))
    if n % 2 == 0:
        k[-1] = 0.0  # the shortest wave has its crests and troughs at the points: slope zero
    return torch.fft.irfft(1j * k * torch.fft.rfft(f), n)
