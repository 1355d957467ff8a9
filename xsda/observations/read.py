"""The one reader of labelled observations.

``read`` turns what the user gives (instruments, errors, laws, correlations, a background) into a list of ``Observed``, one
for each observed variable of each source, in the units of the grid. ``assimilate``, ``filter``, ``observe``, the scores in
observation space and the plots all take it from there.
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

MANY = 2**24  # numbers of stencils, beyond which duplicates are not looked for
Units = Mapping[str, str | None]


@dataclass(frozen=True, eq=False)
class Observed:
    """One observed variable of one source.

    ``ds`` is the source with this variable in the units of the grid; ``std`` has the shape of the variable and is in these units,
    or None where no errors were asked for; ``pick`` are the ravelled positions that are not missing.
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
        """The variable."""
        return self.ds[self.name]

    @property
    def values(self) -> np.ndarray:
        """The values that are not missing, (M,), in double precision."""
        return np.asarray(self.da.values, dtype=np.float64).ravel()[self.pick]

    @property
    def errors(self) -> np.ndarray:
        """Standard deviations of their errors, (M,)."""
        assert self.std is not None
        return self.std.ravel()[self.pick]

    def compile(self, grid: Grid, *, quietly: bool = False) -> VariableOperator:
        """H for this variable; warns of values that were observed twice."""
        op = compile_variable(grid, self.ds, self.name, self.derived)
        if not quietly:
            self._warn_of_duplicates(op, grid)
        return op

    def _warn_of_duplicates(self, op: VariableOperator, grid: Grid) -> None:
        """Warn once with the number of values that lie at the same place and time as another of this source."""
        points = int(np.prod([g.stencil.weight.shape[1] for g in op.gathers]))
        if len(self.pick) * points > MANY or all(g.sizes and g.stencil.contiguous for g in op.gathers):
            return
        sizes = {d: grid.template.sizes[d] for d in grid.core_dims}
        if op.channel_dim is not None and op.channels is not None:
            sizes[op.channel_dim] = op.channels.stop - op.channels.start
        index, weight = op.stencil(sizes)
        rows = np.concatenate([*(i[self.pick] for i in index.values()), weight[self.pick].round(6)], axis=1)
        twice = len(rows) - len(np.unique(rows, axis=0))
        if twice:
            warn(
                f"{twice} of {len(rows)} values of {self.name!r} in {self.source} lie at the place and time of another value. Each counts "
                "as an independent observation; drop the duplicates, or average them, if they are not"
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
    """Read all sources, and a background if there is one.

    Parameters
    ----------
    obs
        One or several Datasets; see ``as_sources``.
    units
        The variables of the grid and their units (None: not known).
    sigma, derived, likelihood, correlation, background, background_sigma
        As in ``xsda.assimilate``.
    errors
        Whether standard deviations are needed; without them the result's ``std`` is None.

    Returns
    -------
    list of Observed
        In the order of the sources and of their variables; the background's come last, from the source "background".
    """
    check_derived(derived)
    sources = as_sources(obs)
    laws, correlations = (
        _by_variable(likelihood, sources, "likelihood"),
        _by_variable(correlation, sources, "correlation"),
    )
    found = []
    for source, ds in sources.items():
        names = observed_variables(ds)
        if not names:
            raise ValueError(f"{source} holds no variables")
        for name in names:
            std = error_std(ds, name, sigma, source, sources) if errors else None
            law = pick_law(laws.get((source, name)))
            found.append(_one(source, ds, name, std, law, correlations.get((source, name)), derived, units))
    if background is not None:
        found += _background(background, background_sigma, units, sources)
    elif background_sigma is not None:
        raise ValueError("background_sigma was given without background=...; pass the Dataset that it is the error of")
    return found


def units_of(grid: Grid) -> dict[str, str | None]:
    """The variables of a grid, by the user's names, and their units."""
    return {grid.names[v.name]: v.attrs.get("units") for v in grid.layout.variables}


def _one(
    source: str, ds: xr.Dataset, name: str, std: np.ndarray | None, law: ErrorLaw, correlation: Any,
    derived: Mapping[str, Derived] | None, units: Units,
) -> Observed:  # fmt: skip
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
        std = std * abs(factor)
        check_positive(std.ravel()[pick], name)
    if correlation is not None and not isinstance(law, Normal):
        raise ValueError(f"{name!r} has correlated errors and the law {law}; correlated errors must be Gaussian")
    bound = _in_units(law, factor, offset).bind(values[pick])
    if isinstance(bound, Censored) and bound.side is not None and len(pick) and bool((bound.side != 0).all()):
        warn(
            f"all {len(pick)} values of {name!r} (from {values[pick].min():g} to {values[pick].max():g}) are at or beyond the limits of "
            f"{law}: is it in the units of the variable?"
        )
    return Observed(source, name, ds, std, bound, correlation, derived, pick)


def _in_units(law: ErrorLaw, factor: float, offset: float) -> ErrorLaw:
    """The law with its limits, which are in the units of the observations, converted as their values are."""
    if not isinstance(law, Censored):
        return law
    limits = {k: v * factor + offset for k, v in (("lower", law.lower), ("upper", law.upper)) if v is not None}
    return replace(law, **limits)


def _background(background: xr.Dataset, sigma: Any, units: Units, sources: Mapping[str, Any]) -> list[Observed]:
    """A background (a forecast, a climatology) as one more source: it observes every number of the grid that it has."""
    if not isinstance(background, xr.Dataset):
        raise TypeError(f"background must be an xarray.Dataset on the grid, got {type(background).__name__}")
    if "background" in sources:
        raise ValueError("a source is called 'background', and background=... is given; rename the source")
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
        raise ValueError("the background holds no values (all NaN, or no variables)")
    return found


def pick_law(law: Any) -> ErrorLaw:
    """A law of errors by name or configured; None is the Gaussian one."""
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
    """What is said of each observed variable of each source: by variable, by source, or (laws) one for all."""
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
