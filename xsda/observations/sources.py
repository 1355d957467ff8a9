"""Lists the sources of observations (instruments), each a named Dataset, and the variables that each observes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import xarray as xr

from xsda.arguments import choose, warn
from xsda.labels.axes import is_datelike
from xsda.labels.cf import helper_variables
from xsda.observations.quality import is_flag
from xsda.observations.tables import datasets_of, has_sources, in_utc, is_table, join_tables

Source: TypeAlias = xr.Dataset | xr.DataArray | pd.DataFrame
Sources: TypeAlias = Source | Sequence[Source] | Mapping[str, Source]


def as_sources(
    obs: Sources, variables: Collection[str] | None = None, dims: Collection[str] | None = None
) -> dict[str, xr.Dataset]:
    """Return the observations as a mapping of source names to Datasets.

    Parameters
    ----------
    obs
        A Dataset, a named DataArray or a table (a DataFrame of pandas or polars), or a list or mapping of them.
    variables, dims
        Variables that can be observed and dimensions of the grid, which help to read tables. Default: not known.

    Returns
    -------
    dict
        Datasets by source. The name is "obs" for one Dataset, and "obs[0]", "obs[1]", ... for a list. A table with a
        column ``source`` gives one Dataset for each of its sources. Times with a time zone are converted to UTC.

    Examples
    --------
    >>> list(xsda.observations.as_sources(obs)), list(xsda.observations.as_sources([obs, obs]))
    (['obs'], ['obs[0]', 'obs[1]'])
    >>> import pandas as pd
    >>> table = pd.DataFrame({"time": [0.1, 0.2], "source": ["buoy", "ship"], "x": [1.5, 2.5]})
    >>> {name: ds.x.values.tolist() for name, ds in xsda.observations.as_sources(table).items()}
    {'buoy': [1.5], 'ship': [2.5]}
    """
    if isinstance(obs, list | tuple) and obs and all(is_table(o) and has_sources(o) for o in obs):
        obs = join_tables(obs)
    if isinstance(obs, xr.DataArray) and obs.name is None:
        raise ValueError("the observed DataArray has no name; use .rename('variable') or .to_dataset(name='variable')")
    if isinstance(obs, xr.DataArray | xr.Dataset) or is_table(obs):
        return _datasets("obs", obs, variables, dims)
    if not isinstance(obs, (Mapping, list, tuple)):
        raise TypeError(
            "observations must be an xarray.Dataset or a pandas DataFrame, or a list or mapping of them, got "
            f"{type(obs).__name__}; open a file with xr.open_dataset, or a table with pd.read_csv"
        )
    given = obs.items() if isinstance(obs, Mapping) else ((f"obs[{i}]", o) for i, o in enumerate(obs))
    named: dict[str, xr.Dataset] = {}
    for key, source in given:
        found = _datasets(str(key), source, variables, dims)
        named |= found if len(found) == 1 and str(key) in found else {f"{key}/{s}": ds for s, ds in found.items()}
    if not named:
        raise ValueError("no observations were given; expected at least one Dataset")
    return named


def _datasets(
    name: str, source: Any, variables: Collection[str] | None, dims: Collection[str] | None
) -> dict[str, xr.Dataset]:
    """The Datasets of one entry, by name."""
    if is_table(source):
        return datasets_of(source, name, variables, dims)
    if isinstance(source, xr.DataArray) and source.name is not None:
        source = source.to_dataset()
    if not isinstance(source, xr.Dataset):
        raise TypeError(
            f"{name} is a {type(source).__name__}, expected an xarray.Dataset, a named DataArray or a pandas DataFrame"
        )
    zoned = {k: c for k, c in source.coords.items() if _zoned(c)}
    if zoned:
        source = source.assign_coords(
            {k: (c.dims, in_utc(_dates(c)).reshape(c.shape), c.attrs) for k, c in zoned.items()}
        )
    return {name: source}


def _dates(coord: xr.DataArray) -> Any:
    """Dates with their time zones, on one axis."""
    return coord.values.ravel() if coord.dtype == object else coord.to_index()


def is_time(da: xr.DataArray) -> bool:
    """Whether a variable holds dates, with or without a time zone."""
    return is_datelike(da) or _zoned(da)


def _zoned(da: xr.DataArray) -> bool:
    """Whether a variable holds dates with a time zone."""
    if isinstance(da.dtype, pd.DatetimeTZDtype):
        return True
    return da.dtype == object and da.size > 0 and getattr(da.values.flat[0], "tzinfo", None) is not None


def observed_variables(ds: xr.Dataset) -> list[str]:
    """Names of the observed variables; bounds, errors, quality flags, text and other helpers are left out."""
    helpers = helper_variables(ds)
    return [str(v) for v in ds.data_vars if v not in helpers and not is_flag(ds, str(v)) and not is_text(ds[v])]


def is_text(da: xr.DataArray) -> bool:
    """Whether a variable holds text, such as names of stations."""
    if da.dtype == object:
        return any(isinstance(v, str) for v in np.ravel(da.values)[:100])
    return da.dtype.kind in "US" or isinstance(da.dtype, pd.StringDtype)


def check_observed(given: Iterable[Any], sources: Mapping[str, xr.Dataset], names: Collection[str], what: str) -> None:
    """Raise if an option names what is not among these observed variables; sources are suggested too."""
    unknown = [k for k in given if str(k) not in names]
    if unknown:
        strange = next((k for k in unknown if k not in sources), unknown[0])
        known = [*names, *sources] if len(sources) > 1 else names
        raise KeyError(f"{what} names {strange!r}, which is not observed; {choose(strange, known)}")


def known_names(given: Any, sources: Mapping[str, xr.Dataset], what: str) -> Any:
    """Leave out of an option by variable or by source what is not there, with a warning.

    For one window of a record, where a source or a variable may have no observations.

    Parameters
    ----------
    given
        The option. Other values than mappings are returned as they are.
    sources
        The observations by source.
    what
        The name of the option, for the warning.

    Examples
    --------
    >>> from xsda.observations.sources import known_names
    >>> known_names({"buoy": 0.5}, {"buoy": obs}, "sigma"), known_names(0.5, {"buoy": obs}, "sigma")
    ({'buoy': 0.5}, 0.5)
    """
    if not isinstance(given, Mapping):
        return given
    names = sorted({name for ds in sources.values() for name in observed_variables(ds)})
    absent = [k for k in given if k not in names and k not in sources]
    if absent:
        warn(
            f"{what} names {', '.join(map(repr, absent))}, which is not among the sources and variables of a window "
            f"({', '.join(map(repr, [*sources, *names]))}); correct the name, unless other windows have it"
        )
    return {
        k: known_names(v, {str(k): sources[str(k)]}, what) if k in sources and k not in names else v
        for k, v in given.items()
        if k not in absent
    }


def by_source(given: Mapping[Any, Any], sources: Mapping[str, xr.Dataset]) -> bool:
    """Whether the keys are names of sources. A name that belongs to a source and a variable means the variable."""
    names = {name for ds in sources.values() for name in observed_variables(ds)}
    return set(given) <= set(sources) and not set(given) <= names
