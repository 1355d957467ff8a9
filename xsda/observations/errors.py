"""Where the standard deviation of the observation error comes from.

In this order: the argument ``sigma`` (a number, a mapping by variable or by source, an array, a DataArray, a Dataset); a
CF ancillary variable with the standard name ``<name> standard_error``; the attribute ``error_std``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from xsda.arguments import choose
from xsda.labels.cf import find_scale, standard_error
from xsda.observations.sources import by_source


def error_std(
    ds: xr.Dataset, name: str, sigma: Any, source: str, sources: Mapping[str, xr.Dataset], *, argument: str = "sigma"
) -> np.ndarray:
    """Standard deviation of each value of the variable ``name`` of the source ``source``, in the units of that variable.

    ``argument`` is what the user calls ``sigma``.
    """
    da = ds[name]
    value = _argument(sigma, name, source, sources, argument)
    if value is None:
        value = standard_error(ds, da)
    if value is None:
        value = da.attrs.get("error_std")
    if value is None:
        raise ValueError(
            f"no observation error for {name!r}: pass {argument}=... (a number in the units of the variable, or "
            f"{{{name!r}: ...}}), or set its attribute error_std"
        )
    if isinstance(value, xr.DataArray):
        value = value * find_scale(name, value.attrs.get("units"), da.attrs.get("units"), "the observations")[0]
        missing = [d for d in value.dims if d not in da.dims]
        if missing or any(value.sizes[d] != da.sizes[d] for d in value.dims):
            raise ValueError(
                f"{argument} of {name!r} has the shape {dict(value.sizes)}, the observations have {dict(da.sizes)}; "
                "give one value, or one per observation"
            )
        other = {d: da[d] for d in value.dims if d in da.coords and d in value.coords}
        if any(not np.array_equal(value[d].values, c.values) for d, c in other.items()):
            raise ValueError(f"the coordinates of {argument} differ from those of the observed {name!r}")
        return np.broadcast_to(
            value.transpose(*(d for d in da.dims if d in value.dims)).values.reshape(
                [da.sizes[d] if d in value.dims else 1 for d in da.dims]
            ),
            da.shape,
        ).astype(float)
    array = np.asarray(value, dtype=float)
    if array.ndim and array.shape != da.shape:
        raise ValueError(
            f"{argument} of {name!r} has the shape {array.shape}, the observations have {da.shape}; give one value, or one per "
            "observation"
        )
    return np.broadcast_to(array, da.shape)


def check_positive(std: np.ndarray, name: str) -> None:
    """Raise unless every standard deviation is a positive number."""
    bad = ~(std > 0) | ~np.isfinite(std)
    if bad.any():
        raise ValueError(
            f"sigma of {name!r} must be positive and finite where there is an observation, got {std[bad][0]:g}"
        )


def _argument(sigma: Any, name: str, source: str, sources: Mapping[str, xr.Dataset], argument: str) -> Any:
    if isinstance(sigma, (list, tuple)) and len(sigma) == len(sources) and len(sources) > 1:
        sigma = sigma[list(sources).index(source)]
    if isinstance(sigma, Mapping) and not isinstance(sigma, xr.Dataset) and by_source(sigma, sources):
        sigma = sigma.get(source)
    if isinstance(sigma, (Mapping, xr.Dataset)):
        names = {str(v) for s in sources.values() for v in s.data_vars}
        unknown = [k for k in sigma if str(k) not in names]
        if unknown:
            raise KeyError(f"{argument} names {unknown[0]!r}, which is not observed; {choose(unknown[0], names)}")
        return sigma.get(name)
    return sigma
