"""Several instruments, each a labelled Dataset with a name, and what each of them observes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import xarray as xr

from xsda.labels.cf import helper_variables

Sources = xr.Dataset | xr.DataArray | Sequence[xr.Dataset] | Mapping[str, xr.Dataset]


def as_sources(obs: Sources) -> dict[str, xr.Dataset]:
    """Observations by the name of their source: "obs" for one Dataset, "obs[0]" and so on for a list."""
    if isinstance(obs, xr.DataArray):
        if obs.name is None:
            raise ValueError(
                "the observed DataArray has no name; use .rename('variable') or .to_dataset(name='variable')"
            )
        obs = obs.to_dataset()
    if isinstance(obs, xr.Dataset):
        return {"obs": obs}
    if not isinstance(obs, (Mapping, list, tuple)):
        raise TypeError(
            f"observations must be an xarray.Dataset, or a list or mapping of them, got {type(obs).__name__}; "
            "open a file with xr.open_dataset, turn a table into one with df.to_xarray().set_coords([...])"
        )
    named: dict[str, Any] = (
        {str(k): o for k, o in obs.items()} if isinstance(obs, Mapping) else {f"obs[{i}]": o for i, o in enumerate(obs)}
    )
    named = {k: o.to_dataset() if isinstance(o, xr.DataArray) and o.name is not None else o for k, o in named.items()}
    for name, source in named.items():
        if not isinstance(source, xr.Dataset):
            raise TypeError(f"{name} is a {type(source).__name__}, expected an xarray.Dataset")
    if not named:
        raise ValueError("no observations were given")
    return named


def observed_variables(ds: xr.Dataset) -> list[str]:
    """The variables that are observations, not bounds or errors of others."""
    helpers = helper_variables(ds)
    return [str(v) for v in ds.data_vars if v not in helpers]


def by_source(given: Mapping[Any, Any], sources: Mapping[str, xr.Dataset]) -> bool:
    """Whether the keys are names of sources; a name that is also that of an observed variable means the variable."""
    names = {name for ds in sources.values() for name in observed_variables(ds)}
    return set(given) <= set(sources) and not set(given) <= names
