"""Reads labelled observations: values, errors, laws, correlations and a background, in the units of the grid.

``read`` returns one ``Observed`` for each variable of each source. ``assimilate``, ``filter``, ``observe``, the
scores in observation space and the plots all use it. On request it selects values by their quality flags, leaves out
those outside the grid, and averages those that lie close together, in this order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import xarray as xr

from xsda.arguments import choose, warn, what
from xsda.labels.axes import SPACE_NAMES, TIME_NAMES
from xsda.labels.cf import find_scale, in_units
from xsda.labels.curvilinear import curvilinear
from xsda.labels.fills import find_fill_value
from xsda.labels.grid import Grid
from xsda.likelihood.laws import LAWS, Censored, ErrorLaw, Normal
from xsda.observations.errors import check_positive, error_std, known_error
from xsda.observations.observed import Observed
from xsda.observations.operator import Derived, check_derived
from xsda.observations.selected import Selection
from xsda.observations.sources import (
    Sources,
    as_sources,
    by_source,
    check_observed,
    is_text,
    is_time,
    observed_variables,
)

Units = Mapping[str, str | None]


def read(
    obs: Sources,
    units: Units,
    *,
    sigma: Any = None,
    derived: Mapping[str, Derived] | None = None,
    likelihood: Any = None,
    correlation: Mapping[str, Any] | None = None,
    background: xr.Dataset | None = None,
    background_sigma: Any = None,
    errors: bool | Literal["known"] = True,
    quality: Any = None,
    outside: str = "raise",
    superobs: Any = None,
    grid: Grid | None = None,
    start: float = np.inf,
) -> list[Observed]:
    """Read the observations of all sources, and the background if there is one.

    Parameters
    ----------
    obs
        One or several Datasets or tables; see ``as_sources``.
    units
        The variables of the grid and their units (None: not known).
    sigma, derived, likelihood, correlation, background, background_sigma
        As in ``xsda.assimilate``.
    errors
        Whether to read standard deviations, and to refuse values such as -9999. Without them ``std`` of the result is
        None. "known": only where they are given, and no value is refused.
    quality, outside, superobs
        Which values are used, and which are averaged, as in ``xsda.assimilate``.
    grid
        The grid, which ``outside`` and ``superobs`` need.
    start
        For filters: the time of an initial ensemble before the grid, as a number of the grid. Observations may lie
        after it.

    Returns
    -------
    list of Observed
        One entry for each variable of each source, in their order. The background comes last, as the source
        "background".

    Examples
    --------
    >>> found = xsda.observations.read({"buoy": obs, "ship": obs + 1}, {"x": None}, sigma={"buoy": 0.5, "ship": 2.0})
    >>> [(o.source, o.name, float(o.errors[0])) for o in found]
    [('buoy', 'x', 0.5), ('ship', 'x', 2.0)]
    """
    check_derived(derived)
    selection = Selection(quality, outside, superobs)
    known = [*units, *(derived or {})]
    sources = as_sources(obs, known, None if grid is None else dims_of(grid))
    laws = _by_variable(likelihood, sources, "likelihood")
    correlations = _by_variable(correlation, sources, "correlation")
    found = []
    for source, ds in sources.items():
        _check_coordinates(ds, source, known)
        names = observed_variables(ds)
        if not names:
            raise ValueError(f"{source} holds no variables; expected one for each observed quantity")
        for name in names:
            find = known_error if errors == "known" else error_std
            std = find(ds, name, sigma, source, sources) if errors else None
            law = pick_law(laws.get((source, name)))
            good = selection.keep_good(ds, name, source)
            good = good.assign({name: good[name].compute()})
            if errors is True:
                _check_fill_values(good[name], source)
            found.append(_one(source, good, name, std, law, correlations.get((source, name)), derived, units))
    found = selection.narrow(found, grid, start)
    if background is not None:
        found += _background(background, background_sigma, units, sources)
    elif background_sigma is not None:
        raise ValueError("background_sigma was given without a background; pass background=... as well")
    return found


def units_of(grid: Grid) -> dict[str, str | None]:
    """Return the units of the variables of a grid.

    Parameters
    ----------
    grid
        The grid.

    Returns
    -------
    dict
        Units by the user's names of the variables; None where they are not known.

    Examples
    --------
    >>> from xsda.labels import Grid, Layout
    >>> xsda.observations.units_of(Grid.match(Layout.of(weather), weather))
    {'t2m': 'K'}
    """
    return {grid.names[v.name]: v.attrs.get("units") for v in grid.layout.variables}


def dims_of(grid: Grid) -> list[str]:
    """Names of the positions on the grid: its dimensions (or latitude and longitude) and those of its channels."""
    channels = {v.channel_dim for v in grid.layout.variables if v.channel_dim is not None}
    time, *space = grid.core_dims
    return [time, *(space if curvilinear(grid.template, space) is None else ("lat", "lon")), *sorted(channels)]


def _check_coordinates(ds: xr.Dataset, source: str, known: list[str]) -> None:
    """Raise if positions are variables instead of coordinates, or if text stands where numbers are expected."""
    names = {*TIME_NAMES, *(n for names in SPACE_NAMES.values() for n in names)}
    positions = [v for v in observed_variables(ds) if v not in known and (v.lower() in names or is_time(ds[v]))]
    if positions:
        raise ValueError(
            f"{source} holds {', '.join(map(repr, positions))} as variables, where coordinates are expected; pass the "
            f"pandas DataFrame itself, or use .set_coords({positions})"
        )
    text = [str(v) for v in ds.data_vars if v in known and is_text(ds[v])]
    if text:
        raise TypeError(f"observed variable {text[0]!r} of {source} holds text, expected numbers")


def _one(
    source: str, ds: xr.Dataset, name: str, std: np.ndarray | None, law: ErrorLaw, correlation: Any,
    derived: Mapping[str, Derived] | None, units: Units,
) -> Observed:  # fmt: skip
    """Read one variable of one source."""
    if ds[name].dtype.kind not in "biuf":
        raise TypeError(f"observed variable {name!r} of {source} holds {ds[name].dtype}, expected numbers")
    came, expected = ds[name].attrs.get("units"), None if name in (derived or {}) else units.get(name)
    factor, offset = find_scale(name, came, expected, "the grid")
    ds = ds.assign({name: in_units(ds[name], expected, "the grid")})
    values = np.asarray(ds[name].values, dtype=np.float64).ravel()
    if np.isinf(values).any():
        raise ValueError(f"observed variable {name!r} holds infinite values; mark missing values as NaN")
    pick = np.flatnonzero(~np.isnan(values))
    if std is not None:
        check_positive(std.ravel()[pick], name, came)
        std = std * abs(factor)
    if correlation is not None and not isinstance(law, Normal):
        raise ValueError(
            f"{name!r} has correlated errors and the law {law}; correlated errors must be Gaussian, so omit one of "
            "the two"
        )
    bound = _in_units(law, factor, offset).bind(values[pick])
    if isinstance(bound, Censored) and bound.side is not None and len(pick) and bool((bound.side != 0).all()):
        warn(
            f"all {len(pick)} values of {name!r} (from {values[pick].min():g} to {values[pick].max():g}, in the units "
            f"of the grid) are at or beyond the limits of {bound}; check the units of the limits"
        )
    return Observed(source, name, ds, std, bound, correlation, derived, pick)


def _check_fill_values(da: xr.DataArray, source: str) -> None:
    """Raise if numbers that stand for missing values are among the observations."""
    found = find_fill_value(np.asarray(da.values, dtype=np.float64), others=3) if da.dtype.kind in "iuf" else None
    if found is not None:
        code, count = found
        raise ValueError(
            f"{count} of {int(da.count())} values of {str(da.name)!r} in {source} are {code:g}, which stands for a "
            f"missing value; mark them as missing: obs.where(obs != {code:g}), or an empty cell of a table"
        )


def _in_units(law: ErrorLaw, factor: float, offset: float) -> ErrorLaw:
    """Convert the limits of a law from the units of the observations to those of the grid."""
    if not isinstance(law, Censored):
        return law
    lower, upper = (None if limit is None else limit * factor + offset for limit in (law.lower, law.upper))
    return replace(law, lower=lower, upper=upper)


def _background(background: xr.Dataset, sigma: Any, units: Units, sources: Mapping[str, Any]) -> list[Observed]:
    """Read a background (a forecast, a climatology) as one more source of observations."""
    if not isinstance(background, xr.Dataset):
        raise TypeError(f"background must be an xarray.Dataset on the grid, got a {type(background).__name__}")
    if "background" in sources:
        raise ValueError("a source has the name 'background', which background=... needs; rename the source")
    found = []
    for name in observed_variables(background):
        if name not in units:
            raise ValueError(
                f"background: the variable {name!r} is not one of the prior's; {choose(name, units)}, or drop it"
            )
        only = {"background": background}
        std = error_std(background, name, sigma, "background", only, argument="background_sigma")
        found.append(_one("background", background, name, std, Normal(), None, None, units))
    if not any(len(o.pick) for o in found):
        raise ValueError("the background holds no values (all NaN, or no variables); omit it, or fill it")
    return found


def pick_law(law: Any) -> ErrorLaw:
    """Return a law of errors by name, or as it is; None means Gaussian."""
    if law is None:
        return Normal()
    if isinstance(law, str):
        if law.lower() not in LAWS:
            raise ValueError(
                f"unknown likelihood {law!r}; {choose(law, LAWS)}, or pass an object such as Censored(lower=0.1)"
            )
        return LAWS[law.lower()]()
    if not isinstance(law, ErrorLaw):
        raise TypeError(f"a likelihood is a name or an object such as StudentT(df=4), got {what(law)}")
    return law


def _by_variable(given: Any, sources: Mapping[str, xr.Dataset], argument: str) -> dict[tuple[str, str], Any]:
    """Resolve an argument for each variable of each source: by variable, by source, or (laws only) one for all."""
    pairs = [(source, name) for source, ds in sources.items() for name in observed_variables(ds)]
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        if argument != "likelihood":
            raise TypeError(f"{argument} must be a mapping by observed variable, got {type(given).__name__}")
        return dict.fromkeys(pairs, given)
    names = {name for _, name in pairs}
    if by_source(given, sources):
        each = [_by_variable(value, {source: sources[source]}, argument) for source, value in given.items()]
        return {pair: value for found in each for pair, value in found.items()}
    check_observed(given, sources, names, argument)
    return {(source, name): given[name] for source, name in pairs if name in given}
