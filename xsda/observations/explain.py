"""Explains how each observed value enters an assimilation, without computing anything expensive."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from xsda.labels.cf import cell_method, find_scale, is_latitude, is_longitude
from xsda.labels.grid import Grid
from xsda.likelihood.laws import Normal
from xsda.observations.compile import swapped
from xsda.observations.operator import Derived, Gather
from xsda.observations.read import Observed, dims_of, read, units_of
from xsda.observations.selected import Selection
from xsda.observations.sources import Sources, as_sources
from xsda.observations.survey import NO_SIGMA, Survey, sigma_of, survey
from xsda.priors.pool import Pool
from xsda.priors.registry import Model, Models, load_model


@dataclass(frozen=True, eq=False, repr=False)
class Explanation:
    """What happens to each value of the observations. A notebook shows it as a table.

    Attributes
    ----------
    table
        One row for each source and variable: the rule along each dimension of the grid, counts, sigma, units, law and
        correlation of the errors.
    notes
        What the table does not say, such as that an assimilation would raise an error.
    """

    table: pd.DataFrame
    notes: tuple[str, ...] = ()

    @property
    def _heading(self) -> str:
        used, total = int(self.table["used"].sum()), int(self.table["values"].sum())
        return f"{used} of {total} observed values are used"

    def __repr__(self) -> str:
        return "\n".join([self._heading, self.table.T.to_string(), *self.notes])

    def _repr_html_(self) -> str:
        notes = "".join(f"\n<p>{html.escape(note)}</p>" for note in self.notes)
        return f"<p>{html.escape(self._heading)}</p>\n{self.table.T.to_html()}{notes}"


def explain(
    ds: xr.Dataset,
    obs: Sources,
    model: Model | Models,
    *,
    sigma: Any = None,
    likelihood: Any = None,
    correlation: Mapping[str, Any] | None = None,
    derived: Mapping[str, Derived] | None = None,
    quality: Any = None,
    outside: str = "raise",
    superobs: Any = None,
) -> Explanation:
    """Explain what an assimilation would do with each observed value. Nothing is assimilated.

    Parameters
    ----------
    ds
        The grid, as in ``xsda.assimilate``.
    obs, model, sigma, likelihood, correlation, derived, quality, outside, superobs
        As in ``xsda.assimilate``.

    Returns
    -------
    Explanation
        ``.table`` is a pandas DataFrame with one row for each source and variable. Values outside the grid are counted
        and do not raise an error; a note says if an assimilation would. Duplicates are used values at the place and
        time of another used value. Empty cells of a table are not counted. With ``quality``, *rejected* counts the
        values whose flags are not accepted. With ``superobs``, *averaged to* counts the averages that are used, and
        rules and sigma are those of the averages.

    Examples
    --------
    >>> found = xsda.observations.explain(truth, obs, "lorenz63")
    >>> row = found.table.loc[("obs", "x")]
    >>> row["rule along time"], int(row["used"]), int(row["outside"]), row["sigma from"]
    ('selected', 4, 0, 'attribute error_std')
    """
    prior = load_model(model)
    grid = (prior.priors[0] if isinstance(prior, Pool) else prior).bind(_one_member(ds))
    sources = as_sources(obs, [*units_of(grid), *(derived or {})], dims_of(grid))
    selection = Selection(quality, outside, superobs)
    options: dict[str, Any] = {"likelihood": likelihood, "correlation": correlation, "derived": derived}
    rows, exchanged = {}, False
    for observed in read(sources, units_of(grid), errors=False, quality=quality, **options):
        ds, found = sources[observed.source], survey(grid, observed)
        exchanged |= bool(found.outside.any()) and swapped(grid, observed.da)
        origin, std = sigma_of(observed, sigma, sources)
        last = found if superobs is None else found.averaged(grid, selection, std)
        std = std if last is found else last.observed.std
        rows[observed.source, observed.name] = {
            **{f"rule along {d}": rule for d, rule in _rules(grid, last).items()},
            **_counts(grid, found, int(ds[observed.name].isnull().sum()), last, selection),
            "sigma": "" if std is None else _range(std.ravel()[last.observed.pick]),
            "sigma from": f"{origin}; pass sigma=..." if origin == NO_SIGMA else origin,
            "units": _conversion(observed, ds, units_of(grid)),
            "law": "gaussian" if isinstance(observed.law, Normal) else str(observed.law),
            "correlation": _correlation(observed.correlation),
        }
    index = pd.MultiIndex.from_tuples(list(rows), names=["source", "variable"])
    table = pd.DataFrame(list(rows.values()), index=index).fillna("")
    beyond = int(table["outside"].sum()) if outside == "raise" else 0
    hint = "some are inside if latitude and longitude are swapped" if exchanged else "pass outside='drop'"
    note = f"an assimilation raises an error, because {beyond} values lie outside the grid; {hint}"
    return Explanation(table, (note,) if beyond else ())


def _one_member(ds: xr.Dataset) -> xr.Dataset:
    return ds.isel(member=0, drop=True) if "member" in ds.dims else ds


def _counts(grid: Grid, found: Survey, missing: int, last: Survey, selection: Selection) -> dict[str, Any]:
    """Count the values, of which ``missing`` came as NaN, and the averages."""
    twice = last.duplicates(grid)
    rejected = {} if selection.quality is None else {"rejected": int(found.missing.sum()) - missing}
    averages = {} if selection.superobs is None else {"averaged to": int(last.used.sum())}
    return {
        "values": len(found.missing),
        "used": int(found.used.sum()),
        "missing": missing,
        **rejected,
        "outside": int(found.outside.sum()),
        "masked": int(found.masked.sum()),
        **averages,
        "duplicate": "too many to search" if twice is None else twice,
    }


def _rules(grid: Grid, found: Survey) -> dict[str, str]:
    """Say along each dimension of the grid how the values are computed."""
    op, da = found.operator, found.observed.da
    if op is None:
        return dict.fromkeys(grid.core_dims, "all outside")
    sizes = {d: grid.template.sizes[d] for d in grid.core_dims}
    if op.channel_dim is not None and op.channels is not None:
        sizes[op.channel_dim] = op.channels.stop - op.channels.start
    return {d: _rule(grid, da, g, d, sizes) for d in op.grid_dims for g in op.gathers if d in g.source}


def _rule(grid: Grid, da: xr.DataArray, g: Gather, dim: str, sizes: Mapping[str, int]) -> str:
    """Name the rule along one dimension, from the grid points that the stencil reads."""
    places = np.unravel_index(g.stencil.index, [sizes[d] for d in g.source])[g.source.index(dim)]
    steps = np.diff(np.sort(places, axis=1), axis=1) > 0
    points = 1 + int(steps.sum(1).max(initial=0))
    if not g.target and points == sizes[dim] > 1:
        return "mean over all"
    mean = points > 2 or cell_method(da, {dim}) == "mean"
    rule = "selected" if points == 1 else "averaged" if mean else "interpolated"
    own = len(g.source) == 1 and (not g.target or _same_axis(grid, da, dim, g.target[0]))
    return rule if own else f"pointwise, {rule}"


def _same_axis(grid: Grid, da: xr.DataArray, dim: str, own: str) -> bool:
    """Whether a dimension of the observations is that of the grid, perhaps under another name."""
    if own == dim or own not in da.coords or dim not in grid.template.coords:
        return own == dim
    a, b = da[own], grid.template[dim]
    return any(test(a) and test(b) for test in (is_latitude, is_longitude))


def _range(std: np.ndarray) -> str:
    low, high = (std.min(), std.max()) if len(std) else (np.nan, np.nan)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _conversion(observed: Observed, ds: xr.Dataset, units: Mapping[str, str | None]) -> str:
    """Say how the units of the values become those of the grid."""
    name = observed.name
    came, expected = ds[name].attrs.get("units"), units.get(name)
    if name in (observed.derived or {}):
        return f"{came or 'no units'}; derived, not converted"
    if not came or not expected:
        return f"no units; taken as {expected}" if expected else f"{came or 'no units'}; the prior has none"
    factor, offset = find_scale(name, came, expected, "the grid")
    return str(came) if (factor, offset) == (1.0, 0.0) else f"{came} to {expected}"


def _correlation(correlation: Any) -> str:
    """Describe the correlation of the errors."""
    if correlation is None:
        return "independent"
    if isinstance(correlation, Mapping):
        return ", ".join(f"{length} along {coord}" for coord, length in correlation.items())
    shape = getattr(correlation, "shape", None)
    return type(correlation).__name__ if shape is None else f"matrix of {' x '.join(map(str, shape))}"
