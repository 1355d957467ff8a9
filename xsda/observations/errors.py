"""Finds the standard deviation of the observation errors.

The first of these that exists is used: the argument ``sigma`` (a number, a mapping by variable or by source, an
array, a DataArray, a Dataset); a CF ancillary variable with the standard name ``<name> standard_error``; the
attribute ``error_std``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from xsda.labels.cf import find_scale, standard_error
from xsda.observations.sources import by_source, check_observed


def error_std(
    ds: xr.Dataset, name: str, sigma: Any, source: str, sources: Mapping[str, xr.Dataset], *, argument: str = "sigma"
) -> np.ndarray:
    """Return the standard deviation of each value of one variable of one source, in the units of that variable.

    Parameters
    ----------
    ds, name
        The observations, and the variable.
    sigma
        What the user passed.
    source, sources
        The name of the source, and all sources by name.
    argument
        The name of the user's argument, for messages.
    """
    da, whose = ds[name], f"{argument} of {name!r}"
    value = _argument(sigma, name, source, sources, argument)
    if value is None:
        value, whose = standard_error(ds, da), f"the standard error of {name!r}"
    if value is None:
        value, whose = da.attrs.get("error_std"), f"the attribute error_std of {name!r}"
    if value is None:
        raise ValueError(
            f"no observation error for {name!r}: pass {argument}=... (a number in the units of the variable, or "
            f"{{{name!r}: ...}}), or set its attribute error_std"
        )
    try:
        array = value.astype(float) if isinstance(value, xr.DataArray) else np.asarray(value, dtype=float)
    except (TypeError, ValueError):
        held = f"holds {value.dtype}" if isinstance(value, xr.DataArray) else f"is {value!r:.60}"
        raise ValueError(
            f"{whose} {held}; give a number in the units of the variable, or one for each observation"
        ) from None
    if isinstance(array, xr.DataArray):
        return _spread(array, da, name, argument)
    if array.ndim and array.shape != da.shape:
        raise ValueError(
            f"{argument} of {name!r} has the shape {array.shape}, the observations have {da.shape}; give one value, "
            "or one per observation"
        )
    return np.broadcast_to(array, da.shape)


def known_error(
    ds: xr.Dataset, name: str, sigma: Any, source: str, sources: Mapping[str, xr.Dataset]
) -> np.ndarray | None:
    """Return the same as ``error_std``, or None if no error is given."""
    attrs = {"error_std": np.nan, **ds[name].attrs}
    std = error_std(ds.assign({name: ds[name].assign_attrs(attrs)}), name, sigma, source, sources)
    return None if np.isnan(std).all() else std


def _spread(value: xr.DataArray, da: xr.DataArray, name: str, argument: str) -> np.ndarray:
    """Labelled standard deviations in the units of the variable, broadcast to its shape."""
    value = value * find_scale(name, value.attrs.get("units"), da.attrs.get("units"), "the observations")[0]
    missing = [d for d in value.dims if d not in da.dims]
    if missing or any(value.sizes[d] != da.sizes[d] for d in value.dims):
        raise ValueError(
            f"{argument} of {name!r} has the shape {dict(value.sizes)}, the observations have {dict(da.sizes)}; "
            "give one value, or one per observation"
        )
    other = {d: da[d] for d in value.dims if d in da.coords and d in value.coords}
    if any(not np.array_equal(value[d].values, c.values) for d, c in other.items()):
        raise ValueError(
            f"the coordinates of {argument} differ from those of the observed {name!r}; use .sel or .reindex_like first"
        )
    ordered = value.transpose(*(d for d in da.dims if d in value.dims)).values
    sizes = [da.sizes[d] if d in value.dims else 1 for d in da.dims]
    return np.broadcast_to(ordered.reshape(sizes), da.shape).astype(float)


def check_positive(std: np.ndarray, name: str, units: Any) -> None:
    """Raise unless every standard deviation, in ``units``, is positive and finite."""
    bad = ~(std > 0) | ~np.isfinite(std)
    if bad.any():
        raise ValueError(
            f"sigma of {name!r} must be positive and finite where there is an observation, got {std[bad][0]:g}"
            f"{f' {units}' if units not in (None, '', '1') else ''}"
        )


def _argument(sigma: Any, name: str, source: str, sources: Mapping[str, xr.Dataset], argument: str) -> Any:
    """The part of ``sigma`` for one variable of one source; None if there is none."""
    if isinstance(sigma, (list, tuple)) and len(sigma) == len(sources) and len(sources) > 1:
        sigma = sigma[list(sources).index(source)]
    if isinstance(sigma, Mapping) and not isinstance(sigma, xr.Dataset) and by_source(sigma, sources):
        sigma = sigma.get(source)
    if isinstance(sigma, (Mapping, xr.Dataset)):
        names = {str(v) for s in sources.values() for v in s.data_vars}
        check_observed(sigma, sources, names, argument)
        return sigma.get(name)
    return sigma
