"""Energy, enstrophy and isotropic spectra of fields on a plane or a line.

With the Fourier coefficients c(k) = 1/N sum_x f(x) exp(-i k.x) of a periodic field, Parseval's identity reads

    mean over space of f^2 = sum over k of |c(k)|^2.

The isotropic spectrum sums the right side over shells of width dk = 2 pi / L, where L is the longest side of the
domain, and divides by that width. It is then a density that does not depend on the size of the domain:

    E(m dk) = 1/dk sum of |c(k)|^2 over the waves with m - 1/2 <= |k| / dk < m + 1/2,    m = 0, 1, 2, ...
    sum over m of E(m dk) dk = mean over space of f^2       (exactly; m = 0 holds the square of the mean)

``wavenumber`` has the attributes ``bin_width`` (dk) and ``nyquist``. Shells are whole circles up to the Nyquist
wavenumber. Beyond it they hold only the corners of the square of resolved waves. All functions are lazy on dask arrays.
A NaN in a field makes its spectrum NaN.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import xarray as xr

from xsda.arguments import choose
from xsda.labels.axes import axis_numbers, check_sorted, find_axes, own_period, uniform_step
from xsda.labels.cf import check_units, is_longitude
from xsda.metrics.pairs import mean

Labelled = TypeVar("Labelled", xr.Dataset, xr.DataArray)


def energy(ds: xr.Dataset, u: str = "u", v: str = "v") -> xr.DataArray:
    """Kinetic energy per mass: mean over space of (u^2 + v^2) / 2.

    Parameters
    ----------
    ds
        Dataset with both components of a velocity. Latitudes are weighted by their cosine.
    u, v
        Names of the components.

    Returns
    -------
    xarray.DataArray
        Energy over the other dimensions, in the square of the units of the velocity.

    Examples
    --------
    >>> flow = xr.Dataset({"u": ("x", [3.0, 3.0], {"units": "m s-1"}), "v": ("x", [4.0, 4.0])})
    >>> energy = xsda.metrics.energy(flow)
    >>> float(energy), energy.units
    (12.5, 'm2 s-2')
    """
    pair = _velocity(ds, u, v)
    out = mean((pair[u] ** 2 + pair[v] ** 2) / 2, _space(pair))
    return _named(out, "energy", "kinetic energy", units_of((pair[u].attrs.get("units"), 2)))


def vorticity(ds: xr.Dataset, u: str = "u", v: str = "v") -> xr.DataArray:
    """Vorticity dv/dx - du/dy of a flow on a plane.

    Derivatives are spectral along periodic axes and second-order differences along others.

    Parameters
    ----------
    ds
        Dataset with both components of a velocity, on coordinates that are lengths (not degrees). A periodic axis has
        the attribute ``period`` on its coordinate.
    u, v
        Names of the components along x and y.

    Returns
    -------
    xarray.DataArray
        Vorticity on the grid of ``u``.

    Examples
    --------
    >>> axis = np.arange(4.0)
    >>> x, y = (xr.DataArray(axis, {d: axis}, d) for d in "xy")
    >>> rotation = xr.Dataset({"u": -y + 0 * x, "v": x + 0 * y})
    >>> xsda.metrics.vorticity(rotation).mean().item()
    2.0
    """
    pair = _velocity(ds, u, v)
    space = _space(pair)
    if len(space) != 2:
        raise ValueError(
            f"vorticity needs two space dimensions, found {list(space)} among {list(pair.dims)}; call them 'y' and "
            "'x', or give their coordinates the attributes axis='Y' and axis='X'"
        )
    y, x = space
    if x in pair.coords and is_longitude(pair[x]):
        raise ValueError(
            f"{x!r} and {y!r} are angles on a sphere; vorticity needs a plane: project the field to metres"
        )
    out = _derivative(pair[v], pair, x) - _derivative(pair[u], pair, y)
    units = units_of((pair[u].attrs.get("units"), 1), (_axis_units(pair, space), -1))
    return _named(out.transpose(*pair[u].dims), "vorticity", "vorticity", units)


def enstrophy(ds: xr.Dataset, u: str = "u", v: str = "v") -> xr.DataArray:
    """Enstrophy: mean over space of vorticity^2 / 2.

    Parameters
    ----------
    ds
        Dataset with both components of a velocity; see ``vorticity``.
    u, v
        Names of the components along x and y.

    Returns
    -------
    xarray.DataArray
        Enstrophy over the other dimensions.

    Examples
    --------
    >>> axis = np.arange(4.0)
    >>> x, y = (xr.DataArray(axis, {d: axis}, d) for d in "xy")
    >>> rotation = xr.Dataset({"u": -y + 0 * x, "v": x + 0 * y})
    >>> float(xsda.metrics.enstrophy(rotation))
    2.0
    """
    curl = vorticity(ds, u, v)
    out = mean(curl**2, _space(_velocity(ds, u, v))) / 2
    return _named(out, "enstrophy", "enstrophy", units_of((curl.attrs.get("units"), 2)))


def spectrum(data: Labelled, dim: str | Sequence[str] | None = None) -> Labelled:
    """Isotropic spectrum E(k) of the square of each variable.

    Parameters
    ----------
    data
        Fields on one or two evenly spaced periodic axes; other dimensions (member, time) stay. A periodic axis has the
        attribute ``period`` on its coordinate, or holds longitudes around the globe.
    dim
        The one or two dimensions. Default: the space dimensions. Variables without them are left out.

    Returns
    -------
    xarray.Dataset or xarray.DataArray
        Spectral density over the dimension ``wavenumber``.
        ``E.sum("wavenumber") * E.wavenumber.attrs["bin_width"]`` is the mean square of the field.

    Examples
    --------
    A wave of amplitude 1 and wavenumber 2 has the mean square 1/2.

    >>> x = xr.DataArray(np.arange(8) * np.pi / 4, dims="x", attrs={"period": 2 * np.pi})
    >>> wave = xr.DataArray(np.cos(2 * x.values), {"x": x}, "x")
    >>> abs(xsda.metrics.spectrum(wave, "x").round(3)).values.tolist()
    [0.0, 0.0, 0.5, 0.0, 0.0]
    """
    if isinstance(data, xr.DataArray):
        own = data.name or "field"
        return spectrum(data.to_dataset(name=own), dim)[own].rename(data.name)
    ds: xr.Dataset = data
    dims = _space(ds, dim)
    names = [n for n, da in ds.data_vars.items() if set(dims) <= set(da.dims)]
    if not names or not 1 <= len(dims) <= 2:
        raise ValueError(
            f"a spectrum needs one or two space dimensions that a variable has; got {list(dims)} where there are "
            f"{list(ds.sizes)}; name them with dim="
        )
    lengths = [_ring(ds, d) for d in dims]
    units = _axis_units(ds, dims)
    width = 2 * np.pi / max(lengths)
    shell = _shells([ds.sizes[d] for d in dims], [max(lengths) / length for length in lengths])
    nyquist = min(2 * np.pi / length * (ds.sizes[d] // 2) for d, length in zip(dims, lengths, strict=True))
    out = xr.apply_ufunc(
        _density,
        ds[names],
        input_core_dims=[list(dims)],
        output_core_dims=[["wavenumber"]],
        kwargs={"shell": shell, "width": width, "axes": tuple(range(-len(dims), 0))},
        dask="parallelized",
        output_dtypes=[float],
        dask_gufunc_kwargs={"allow_rechunk": True, "output_sizes": {"wavenumber": int(shell.max()) + 1}},
        keep_attrs=False,
    )
    attrs = {"long_name": "wavenumber", "units": units_of(("rad", 1), (units, -1)), "bin_width": width}
    k = width * np.arange(shell.max() + 1)
    out = out.assign_coords(wavenumber=("wavenumber", k, {**attrs, "nyquist": nyquist}))
    for name in names:
        density = units_of((ds[name].attrs.get("units"), 2), (units, 1), ("rad", -1))
        _named(out[name], str(name), f"spectrum of {ds[name].attrs.get('long_name', name)}", density)
    return out


def energy_spectrum(ds: xr.Dataset, u: str = "u", v: str = "v", dim: str | Sequence[str] | None = None) -> xr.DataArray:
    """Spectrum of kinetic energy: half the sum of the spectra of both components.

    Parameters
    ----------
    ds
        Dataset with both components of a velocity on periodic axes; see ``spectrum``.
    u, v
        Names of the components.
    dim
        The one or two dimensions. Default: the space dimensions.

    Returns
    -------
    xarray.DataArray
        Spectral density over the dimension ``wavenumber``.

    Examples
    --------
    >>> x = xr.DataArray(np.arange(8) * np.pi / 4, dims="x", attrs={"period": 2 * np.pi})
    >>> flow = xr.Dataset({"u": ("x", np.cos(x.values)), "v": ("x", np.sin(x.values))}, {"x": x})
    >>> abs(xsda.metrics.energy_spectrum(flow, dim="x").round(3)).values.tolist()
    [0.0, 0.5, 0.0, 0.0, 0.0]
    """
    parts = spectrum(_velocity(ds, u, v), dim)
    out = (parts[u] + parts[v]) / 2
    return _named(out, "energy", "spectrum of kinetic energy", parts[u].attrs.get("units", ""))


def _velocity(ds: xr.Dataset, u: str, v: str) -> xr.Dataset:
    for name in (u, v):
        if name not in ds:
            raise KeyError(f"no variable {name!r} in the Dataset; {choose(name, ds.data_vars)}")
    if {*ds[u].dims} != {*ds[v].dims}:
        raise ValueError(f"{u!r} has the dimensions {ds[u].dims}, {v!r} {ds[v].dims}; put both on the same points")
    check_units(v, ds[v].attrs.get("units"), ds[u].attrs.get("units"), repr(u))
    return ds[[u, v]]


def _space(ds: xr.Dataset, dim: str | Sequence[str] | None = None) -> tuple[str, ...]:
    """The dimensions asked for, or the space dimensions (y before x), of a Dataset with or without time."""
    if dim is None:
        return find_axes(ds if "time" in ds.dims else ds.drop_vars("time", errors="ignore").expand_dims("time"))[1]
    return (dim,) if isinstance(dim, str) else tuple(dim)


def _positions(ds: xr.Dataset, dim: str, least: int) -> np.ndarray:
    if dim not in ds.coords or ds.sizes[dim] < least:
        raise ValueError(
            f"the axis {dim!r} needs a coordinate with at least {least} positions, it has "
            f"{ds.sizes[dim] if dim in ds.coords else 'no coordinate; give it one with .assign_coords'}"
        )
    x = axis_numbers(ds[dim])
    check_sorted(x, dim)
    return x


def ring_period(ds: xr.Dataset, dim: str, x: np.ndarray) -> float | None:
    """The period of an axis that covers it once, with every point; None for any other axis."""
    spacing = abs(float(x[-1] - x[0])) / (len(x) - 1)
    period = own_period(ds, dim, spacing)
    return period if period is not None and abs(spacing * len(x) - period) < 0.01 * spacing else None


def _ring(ds: xr.Dataset, dim: str) -> float:
    """The length of a periodic, evenly spaced axis; raises for others."""
    x = _positions(ds, dim, 2)
    length = abs(uniform_step(x, dim)) * len(x)
    period = ring_period(ds, dim, x)
    if period is None:
        own = ds[dim].attrs.get("period")
        why = "nothing says that it is periodic" if own is None else f"its period is {own}"
        raise ValueError(
            f"a spectrum needs whole periods; the {len(x)} points of {dim!r} span {length:g}, but {why}. Include every "
            f"point of the period once and set ds[{dim!r}].attrs['period']. If the field is not periodic, first "
            "remove its trend and taper it to zero at both ends"
        )
    return period


def _axis_units(ds: xr.Dataset, dims: Sequence[str]) -> str | None:
    units = [ds[d].attrs.get("units") for d in dims]
    check_units(dims[0], units[0], units[-1], repr(dims[-1]))
    return units[0] or units[-1]


def _derivative(da: xr.DataArray, ds: xr.Dataset, dim: str) -> xr.DataArray:
    x = _positions(ds, dim, 3)
    period = ring_period(ds, dim, x)
    if period is not None:
        uniform_step(x, dim)
        period = float(
            np.copysign(period, x[-1] - x[0])
        )  # negative on a descending axis, where waves run the other way
    return xr.apply_ufunc(
        _slope,
        da,
        input_core_dims=[[dim]],
        output_core_dims=[[dim]],
        kwargs={"x": x, "period": period},
        dask="parallelized",
        output_dtypes=[float],
        dask_gufunc_kwargs={"allow_rechunk": True},
        keep_attrs=False,
    )


def _slope(values: np.ndarray, x: np.ndarray, period: float | None) -> np.ndarray:
    values = values.astype(float)
    if period is None:
        return np.gradient(values, x, axis=-1, edge_order=2)
    n = values.shape[-1]
    k = 2 * np.pi / period * np.arange(n // 2 + 1)
    if n % 2 == 0:
        k[-1] = 0.0  # the grid points are the extremes of the shortest wave, with slope zero
    return np.fft.irfft(1j * k * np.fft.rfft(values), n)


def _shells(sizes: Sequence[int], ratios: Sequence[float]) -> np.ndarray:
    """Shell number of every wave; ``ratios``: fundamental wavenumber of each axis over the smallest one."""
    waves = np.meshgrid(*[np.fft.fftfreq(n, 1 / n) * r for n, r in zip(sizes, ratios, strict=True)], indexing="ij")
    radius = np.sqrt(sum(w**2 for w in waves))
    return np.floor(radius + 0.5 + 1e-9).astype(int).ravel()  # with a tolerance, so that halves round up


def _density(values: np.ndarray, shell: np.ndarray, width: float, axes: tuple[int, ...]) -> np.ndarray:
    """Shell sums of |c(k)|^2 over the last axes, divided by the width of a shell."""
    power = np.abs(np.fft.fftn(values.astype(float), axes=axes, norm="forward")) ** 2
    rows = [np.bincount(shell, weights=row) for row in power.reshape(-1, shell.size)]
    return np.reshape(rows, (*values.shape[: -len(axes)], shell.max() + 1)) / width


def units_of(*factors: tuple[str | None, int]) -> str:
    """Product of powers of units: ``("m s-1", 2), ("m", -1)`` is ``"m s-2"``; empty if the first one is unknown."""
    if not factors[0][0]:
        return ""
    powers: dict[str, int] = {}
    for units, exponent in factors:
        tokens = [re.fullmatch(r"([A-Za-z_]+)(-?\d+)?", token) for token in (units or "1").split() if token != "1"]
        bases = [(token[1], int(token[2] or 1)) for token in tokens if token]
        if len(bases) < len(tokens):
            bases = [(f"({units})", 1)]
        for base, power in bases:
            powers[base] = powers.get(base, 0) + power * exponent
    ordered = sorted(powers.items(), key=lambda item: item[1] < 0)
    return " ".join(base if power == 1 else f"{base}{power}" for base, power in ordered if power) or "1"


def _named(da: xr.DataArray, name: str, long_name: str, units: str) -> xr.DataArray:
    da.name, da.attrs = name, {"long_name": long_name, **({"units": units} if units else {})}
    return da
