r"""Mean kinetic energy and isotropic spectra of fields on a plane or a line.

With the Fourier coefficients c(k) = 1/N sum_x f(x) exp(-i k.x) of a periodic field, Parseval's identity reads

    mean over space of f^2 = sum over k of |c(k)|^2.

The isotropic spectrum collects the right side in shells of width dk = 2 pi / L, where L is the longest side of the
domain. It divides by that width, which makes it a density that does not depend on the size of the domain:

    E(m dk) = 1/dk sum of |c(k)|^2 over the waves with m - 1/2 <= |k| / dk < m + 1/2,    m = 0, 1, 2, ...
    sum over m of E(m dk) dk = mean over space of f^2       (exactly; m = 0 holds the square of the mean)

``wavenumber`` has the attributes ``bin_width`` (dk) and ``nyquist``. The shells up to ``nyquist`` are whole circles;
beyond it they hold only the waves in the corners of the grid's wavenumber plane. All functions are lazy on dask arrays.
A NaN in a field makes its spectrum NaN. Vorticity and enstrophy are in ``xsda.flow``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import xarray as xr

from xsda.arguments import choose
from xsda.labels.axes import axis_numbers, check_sorted, find_axes, own_period, uniform_step
from xsda.labels.cf import check_units
from xsda.metrics.pairs import mean

Labelled = TypeVar("Labelled", xr.Dataset, xr.DataArray)


def energy(ds: xr.Dataset, u: str = "u", v: str = "v") -> xr.DataArray:
    """Compute the mean kinetic energy per unit mass, the mean over space of (u^2 + v^2) / 2.

    Parameters
    ----------
    ds
        Velocities over the space dimensions. Latitudes are weighted by their areas.
    u, v
        Names of the velocities.

    Returns
    -------
    DataArray
        Mean energy over the other dimensions (member, time). ``xsda.flow.kinetic_energy`` gives it at each point.

    Examples
    --------
    >>> ds = xr.Dataset({"u": ("x", [1.0, 3.0]), "v": ("x", [0.0, 0.0])}, {"x": [0.0, 1.0]})
    >>> float(xsda.metrics.energy(ds))
    2.5
    """
    pair = _velocity(ds, u, v)
    out = mean((pair[u] ** 2 + pair[v] ** 2) / 2, _space(pair))
    return _named(out, "energy", "kinetic energy", units_of((pair[u].attrs.get("units"), 2)))


def spectrum(data: Labelled, dim: str | Sequence[str] | None = None) -> Labelled:
    """Compute the isotropic spectrum E(k) of each variable, along the new dimension ``wavenumber``.

    Parameters
    ----------
    data
        Field(s) on one or two evenly spaced periodic axes. Other dimensions (member, time) stay. An axis is periodic if
        its coordinate has the attribute ``period``, or if it holds longitudes all around the globe.
    dim
        The one or two dimensions to transform (default: the space dimensions). Variables without them are omitted.

    Returns
    -------
    Dataset or DataArray
        Spectral density. ``(E.sum("wavenumber") * E.wavenumber.attrs["bin_width"])`` is the mean square of the field,
        including the square of its mean.

    Examples
    --------
    >>> x = np.arange(8.0)
    >>> wave = xr.DataArray(np.cos(2 * np.pi * x / 8), {"x": ("x", x, {"period": 8.0})}, "x")
    >>> power = xsda.metrics.spectrum(wave, "x") * 2 * np.pi / 8
    >>> power.values.round(3) + 0
    array([0. , 0.5, 0. , 0. , 0. ])
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
    """Compute the spectrum of kinetic energy: half the sum of the spectra of ``u`` and ``v``.

    Parameters
    ----------
    ds
        Velocities on one or two evenly spaced periodic axes.
    u, v
        Names of the velocities.
    dim
        The one or two dimensions to transform (default: the space dimensions).

    Returns
    -------
    DataArray
        Spectral density of the energy, see ``spectrum``.

    Examples
    --------
    >>> axis = ("x", np.arange(4.0), {"period": 4.0})
    >>> ds = xr.Dataset({"u": ("x", [1.0, -1.0, 1.0, -1.0]), "v": ("x", [1.0, 1.0, 1.0, 1.0])}, {"x": axis})
    >>> (xsda.metrics.energy_spectrum(ds, dim="x") * 2 * np.pi / 4).values
    array([0.5, 0. , 0.5])
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
    """The dimensions asked for, or the space dimensions (y before x) of a Dataset with or without time."""
    if dim is None:
        return find_axes(ds if "time" in ds.dims else ds.drop_vars("time", errors="ignore").expand_dims("time"))[1]
    return (dim,) if isinstance(dim, str) else tuple(dim)


def _positions(ds: xr.Dataset, dim: str) -> np.ndarray:
    if dim not in ds.coords or ds.sizes[dim] < 2:
        raise ValueError(
            f"the axis {dim!r} needs a coordinate with at least 2 positions, it has "
            f"{ds.sizes[dim] if dim in ds.coords else 'no coordinate; give it one with .assign_coords'}"
        )
    x = axis_numbers(ds[dim])
    check_sorted(x, dim)
    return x


def ring_period(ds: xr.Dataset, dim: str, x: np.ndarray) -> float | None:
    """Return the period of an axis that holds every point of it once, None for any other axis.

    Parameters
    ----------
    ds
        Dataset with the coordinate.
    dim
        Name of the axis.
    x
        Its positions as numbers.

    Returns
    -------
    float or None
        The period.

    Examples
    --------
    >>> from xsda.metrics.spectra import ring_period
    >>> ds = xr.Dataset(coords={"x": ("x", np.arange(4.0), {"period": 4.0})})
    >>> ring_period(ds, "x", ds.x.values), ring_period(ds, "x", ds.x.values[:3])
    (4.0, None)
    """
    spacing = abs(float(x[-1] - x[0])) / (len(x) - 1)
    period = own_period(ds, dim, spacing)
    return period if period is not None and abs(spacing * len(x) - period) < 0.01 * spacing else None


def _ring(ds: xr.Dataset, dim: str) -> float:
    """Return the length of a periodic, evenly spaced axis; raise for others."""
    x = _positions(ds, dim)
    length = abs(uniform_step(x, dim)) * len(x)
    period = ring_period(ds, dim, x)
    if period is None:
        own = ds[dim].attrs.get("period")
        why = "nothing says that it is periodic" if own is None else f"its period is {own}"
        raise ValueError(
            f"a spectrum needs whole periods, and the {len(x)} points of {dim!r} span {length:g}, but {why}. Give "
            f"every point of the period once and set ds[{dim!r}].attrs['period']. If the field does not repeat "
            "itself, first "
            "remove its trend and taper it to zero at both ends"
        )
    return period


def _axis_units(ds: xr.Dataset, dims: Sequence[str]) -> str | None:
    units = [ds[d].attrs.get("units") for d in dims]
    check_units(dims[0], units[0], units[-1], repr(dims[-1]))
    return units[0] or units[-1]


def _shells(sizes: Sequence[int], ratios: Sequence[float]) -> np.ndarray:
    """Shell number of every Fourier mode; ``ratios``: fundamental of each axis over the smallest fundamental."""
    waves = np.meshgrid(*[np.fft.fftfreq(n, 1 / n) * r for n, r in zip(sizes, ratios, strict=True)], indexing="ij")
    radius = np.sqrt(sum(w**2 for w in waves))
    return np.floor(radius + 0.5 + 1e-9).astype(int).ravel()  # 1e-9: halves round up despite rounding errors


def _density(values: np.ndarray, shell: np.ndarray, width: float, axes: tuple[int, ...]) -> np.ndarray:
    """Shell sums of |c(k)|^2 over the last axes, divided by the width of a shell."""
    power = np.abs(np.fft.fftn(values.astype(float), axes=axes, norm="forward")) ** 2
    rows = [np.bincount(shell, weights=row) for row in power.reshape(-1, shell.size)]
    return np.reshape(rows, (*values.shape[: -len(axes)], shell.max() + 1)) / width


def units_of(*factors: tuple[str | None, int]) -> str:
    """Multiply powers of units.

    Parameters
    ----------
    factors
        Pairs of units and exponent.

    Returns
    -------
    str
        The product, or "" if the first units are unknown.

    Examples
    --------
    >>> from xsda.metrics.spectra import units_of
    >>> units_of(("m s-1", 2), ("m", -1))
    'm s-2'
    """
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
