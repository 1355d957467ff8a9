"""Reads labelled observations: values, errors, laws, correlations and a background, in the units of the grid.

``read`` returns one ``Observed`` for each variable of each source. ``assimilate``, ``filter``, ``observe``, the
scores in observation space and the plots all use it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr

from xsda.arguments import choose, warn, what
from xsda.labels.cf import find_scale, in_units
from xsda.labels.grid import Grid
from xsda.likelihood.laws import LAWS, Censored, ErrorLaw, Normal
from xsda.observations.compile import compile_variable
from xsda.observations.errors import check_positive, error_std
from xsda.observations.operator import Derived, VariableOperator, check_derived
from xsda.observations.sources import Sources, as_sources, by_source, observed_variables

MANY = 2**24  # with more stencil points than this, duplicates are not searched for
Units = Mapping[str, str | None]


@dataclass(frozen=True, eq=False)
class Observed:
    """One observed variable of one source, as ``read`` returns it.

    Parameters
    ----------
    source, name
        Names of the source and of the variable.
    ds
        The source, with this variable in the units of the grid.
    std
        Standard deviations of the errors in these units, of the shape of the variable; None if they were not read.
    law
        The law of the errors.
    correlation
        The description of correlated errors; None if they are independent.
    derived
        Functions for derived variables.
    pick
        Ravelled positions of the values that are not missing.

    Examples
    --------
    >>> (x,) = xsda.observations.read(obs, {"x": None})
    >>> x.source, x.name, x.values.shape, x.errors[0]
    ('obs', 'x', (4,), np.float64(0.5))
    """

    source: str
    name: str
    ds: xr.Dataset
    std: np.ndarray | None
    law: ErrorLaw
    correlation: Any
    derived: Mapping[str, Derived] | None
    pick: np.ndarray

    @property
    def da(self) -> xr.DataArray:
        """The observed variable."""
        return self.ds[self.name]

    @property
    def values(self) -> np.ndarray:
        """Values that are not missing, (M,), in double precision."""
        return np.asarray(self.da.values, dtype=np.float64).ravel()[self.pick]

    @property
    def errors(self) -> np.ndarray:
        """Standard deviations of the errors of ``values``, (M,)."""
        assert self.std is not None
        return self.std.ravel()[self.pick]

    def compile(self, grid: Grid, *, quietly: bool = False) -> VariableOperator:
        """Build H for this variable; warn of duplicates unless ``quietly``."""
        op = compile_variable(grid, self.ds, self.name, self.derived)
        if not quietly:
            self._warn_of_duplicates(op, grid)
        return op

    def _warn_of_duplicates(self, op: VariableOperator, grid: Grid) -> None:
        """Warn of values at the same place and time as another value of this source."""
        points = int(np.prod([*op.shape, *(g.stencil.weight.shape[1] for g in op.gathers)]))
        if points > MANY or all(g.sizes and g.stencil.contiguous for g in op.gathers):
            return
        sizes = {d: grid.template.sizes[d] for d in grid.core_dims}
        if op.channel_dim is not None and op.channels is not None:
            sizes[op.channel_dim] = op.channels.stop - op.channels.start
        index, weight = op.stencil(sizes)
        rows = np.concatenate([*(i[self.pick] for i in index.values()), weight[self.pick].round(6)], axis=1)
        twice = len(rows) - len(np.unique(rows, axis=0))
        if twice:
            warn(
                f"{twice} of {len(rows)} values of {self.name!r} in {self.source} lie at the place and time of "
                "another value. Each counts as an independent observation; if they are not, drop or average the "
                "duplicates"
            )


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
    errors: bool = True,
) -> list[Observed]:
    """Read the observations of all sources, and the background if there is one.

    Parameters
    ----------
    obs
        One or several Datasets; see ``as_sources``.
    units
        The variables of the grid and their units (None: not known).
    sigma, derived, likelihood, correlation, background, background_sigma
        As in ``xsda.assimilate``.
    errors
        Whether to read standard deviations. Without them ``std`` of the result is None.

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
    sources = as_sources(obs)
    laws = _by_variable(likelihood, sources, "likelihood")
    correlations = _by_variable(correlation, sources, "correlation")
    found = []
    for source, ds in sources.items():
        names = observed_variables(ds)
        if not names:
            raise ValueError(f"{source} holds no variables; expected one for each observed quantity")
        for name in names:
            std = error_std(ds, name, sigma, source, sources) if errors else None
            law = pick_law(laws.get((source, name)))
            found.append(_one(source, ds, name, std, law, correlations.get((source, name)), derived, units))
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


def _one(
    source: str, ds: xr.Dataset, name: str, std: np.ndarray | None, law: ErrorLaw, correlation: Any,
    derived: Mapping[str, Derived] | None, units: Units,
) -> Observed:  # fmt: skip
    """Read one variable of one source."""
    if ds[name].dtype.kind not in "biuf":
        raise TypeError(f"observed variable {name!r} of {source} holds {ds[name].dtype}, expected numbers")
    came, expected = ds[name].attrs.get("units"), None if name in (derived or {}) else units.get(name)
    factor, offset = find_scale(name, came, expected, "the grid")
    ds = ds.assign({name: in_units(ds[name], expected, "the grid").compute()})
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
    unknown = [k for k in given if k not in names]
    if unknown:
        raise KeyError(f"{argument} names {unknown[0]!r}, which is not observed; {choose(unknown[0], names)}")
    return {(source, name): given[name] for source, name in pairs if name in given}
