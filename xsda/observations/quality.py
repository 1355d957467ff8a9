"""Selects observed values by their quality flags.

The flags of a variable are, in this order: an ancillary variable with the CF standard name ``<name> quality_flag`` or
``<name> status_flag``; a variable ``<name>_quality``, ``<name>_qc`` or ``<name>_flag``; a variable ``quality``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

STANDARD = ("quality_flag", "status_flag")
SUFFIXES = ("_quality", "_qc", "_flag")


class NothingAccepted(ValueError):
    """No value of an observed variable has an accepted flag."""


def is_flag(ds: xr.Dataset, name: str) -> bool:
    """Whether a variable holds quality flags of others."""
    named = name == "quality" or any(name.endswith(s) and name.removesuffix(s) in ds.data_vars for s in SUFFIXES)
    return named or str(ds[name].attrs.get("standard_name", "")).endswith(STANDARD)


def flags_of(ds: xr.Dataset, name: str) -> xr.DataArray | None:
    """The quality flags of a variable; None if it has none."""
    own = ds[name].attrs.get("standard_name", name)
    standard = {f"{n} {s}" for n in (own, name) for s in STANDARD}
    for v in ds.data_vars.values():
        if v.attrs.get("standard_name") in standard:
            return v
    return next((ds[n] for n in (*(name + s for s in SUFFIXES), "quality") if n in ds.variables), None)


def accepted(ds: xr.Dataset, name: str, quality: Any, source: str) -> xr.DataArray | None:
    """Whether the flag of each value is among those that ``quality`` names; None if there are no flags.

    Words stand for numbers if the flags have the CF attributes ``flag_values`` and ``flag_meanings``.
    """
    flags = flags_of(ds, name)
    if flags is None:
        return None
    words = str(flags.attrs.get("flag_meanings", "")).split()
    meanings = dict(zip(words, np.ravel(flags.attrs.get("flag_values", ())).tolist(), strict=False))
    several = isinstance(quality, (set, frozenset, list, tuple, range, np.ndarray))
    wanted = {meanings.get(q, q) for q in (quality if several else [quality])}
    came = set(np.ravel(flags.values).tolist()) - {None}
    if came and not wanted & came:
        shown = ", ".join(sorted(map(repr, [*came, *meanings]))[:8])
        raise NothingAccepted(f"quality={quality!r} accepts no value of {name!r} in {source}; its flags are {shown}")
    good = np.array([f in wanted for f in np.ravel(flags.values).tolist()], dtype=bool).reshape(flags.shape)
    return xr.DataArray(good, dims=flags.dims)
