"""Compares observations with what a prior expects, and flags values that are probably wrong.

A value y is compared with the mean m that the prior, or a background, expects at its place, in units of the joint
spread: z = (y - m) / sqrt(s^2 + sigma^2), with the spread s of the prior and the error sigma of the observation.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from xsda.arguments import real_number, whole_number
from xsda.labels.grid import Grid
from xsda.observations.compile import swapped
from xsda.observations.expected import anywhere, expected
from xsda.observations.operator import Derived
from xsda.observations.read import Observed, dims_of, read, units_of
from xsda.observations.select import select
from xsda.observations.sources import Sources, as_sources, observed_variables
from xsda.observations.survey import Survey, list_values, sigma_of, survey, without_positions
from xsda.observations.suspects import is_fill, stuck, unit_mistake
from xsda.priors.pool import Pool
from xsda.priors.registry import Model, Models, load_model

REASONS = ("good", "fill value", "wrong unit", "stuck sensor", "gross error", "outside the grid", "masked")
GOOD, FILL, UNIT, STUCK, GROSS, OUTSIDE, MASKED = range(len(REASONS))
SHOWN = 10  # flagged values in the text of the result


@dataclass(frozen=True, eq=False, repr=False)
class Flags:
    """Flags of observed values, with reasons. A notebook shows them as tables.

    Attributes
    ----------
    sources
        For each source a Dataset on the coordinates of its observations. For a variable x it holds ``x`` (the values,
        in the units of the grid), ``x_flag``, ``x_expected`` and ``x_z`` (the departure in joint spreads).
    observations
        The observations as they came, or as they were selected and averaged, by source.
    notes
        Remarks by source and variable.
    """

    sources: Mapping[str, xr.Dataset]
    observations: Mapping[str, xr.Dataset]
    notes: Mapping[tuple[str, str], str]

    @property
    def good(self) -> Any:
        """Whether each value is good, with the variables of the observations: a Dataset, or several by source.

        ``obs.where(flags.good)`` makes the other values NaN. Missing values are good.
        """
        out = {s: self._good(s) for s in self.sources}
        return next(iter(out.values())) if len(out) == 1 else out

    def _good(self, source: str) -> xr.Dataset:
        ds, flags = self.observations[source], self.sources[source]
        return xr.Dataset(
            {
                v: flags[f"{v}_flag"] == GOOD if f"{v}_flag" in flags else xr.ones_like(da, dtype=bool)
                for v, da in ds.data_vars.items()
            }
        ).drop_attrs()

    @property
    def accepted(self) -> dict[str, xr.Dataset]:
        """The observations by source, with NaN for every flagged value. They can be assimilated as they are."""
        return {
            s: ds.assign({v: ds[v].where(self._good(s)[v]) for v in observed_variables(ds)})
            for s, ds in self.observations.items()
        }

    @cached_property
    def table(self) -> pd.DataFrame:
        """Number of values with each flag, for each source and variable."""
        rows = {}
        for (source, name), note in self.notes.items():
            ds = self.sources[source]
            present = ds[name].notnull().values
            counts = np.bincount(ds[f"{name}_flag"].values[present], minlength=len(REASONS))
            largest = np.nanmax(np.abs(ds[f"{name}_z"].values), initial=0)
            rows[source, name] = {"values": int(present.sum()), **dict(zip(REASONS, counts, strict=True))}
            rows[source, name] |= {"largest |z|": round(float(largest), 2), "note": note}
        index = pd.MultiIndex.from_tuples(list(rows), names=["source", "variable"])
        return pd.DataFrame(list(rows.values()), index=index)

    def to_dataframe(self) -> pd.DataFrame:
        """List the flagged values, those that lie farthest from what is expected first.

        Returns
        -------
        pandas.DataFrame
            One row per value: source, variable, reason, value, expected value, z and coordinates.
        """
        parts = []
        for source, name in self.notes:
            ds = self.sources[source]
            columns = {"value": name, "expected": f"{name}_expected", "z": f"{name}_z", "reason": f"{name}_flag"}
            flat = list_values(ds[name], {k: ds[v].values for k, v in columns.items()})
            flat = flat[(flat["reason"] != GOOD) & flat["value"].notna()]
            flat["reason"] = [REASONS[code] for code in flat["reason"]]
            flat.insert(0, "variable", name)
            flat.insert(0, "source", source)
            parts.append(flat)
        out = pd.concat(parts, ignore_index=True)
        order = out["z"].abs().sort_values(ascending=False, kind="stable").index
        return out.loc[order].reset_index(drop=True)

    @property
    def _heading(self) -> str:
        total = int(self.table["values"].sum())
        return f"{total - int(self.table['good'].sum())} of {total} observed values are flagged"

    def __repr__(self) -> str:
        flagged = self.to_dataframe()
        lines = [self._heading, self.table.T.to_string()]
        if len(flagged):
            lines += [f"\nthe first {min(SHOWN, len(flagged))} of {len(flagged)} flagged values:"]
            lines += [flagged.head(SHOWN).to_string(float_format="{:.5g}".format)]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        flagged = self.to_dataframe().head(SHOWN).to_html(float_format="{:.5g}".format)
        return f"<p>{html.escape(self._heading)}</p>\n{self.table.T.to_html()}\n{flagged}"


def check(
    obs: Sources,
    model: Model | Models,
    *,
    grid: xr.Dataset | None = None,
    background: xr.Dataset | None = None,
    sigma: Any = None,
    derived: Mapping[str, Derived] | None = None,
    limit: float = 5.0,
    repeats: int = 12,
    quality: Any = None,
    outside: str = "raise",
    superobs: Any = None,
) -> Flags:
    """Compare each observed value with what the prior expects, and flag values that are probably wrong.

    Nothing is removed. ``obs.where(flags.good)`` or ``flags.accepted`` leaves out what is flagged.

    Parameters
    ----------
    obs, model, sigma, derived
        As in ``xsda.assimilate``. Errors that are not given count as zero.
    grid
        The grid of the assimilation, so that values are compared with what is expected at their place. Default: that of
        the background. With neither, values are compared with the mean and spread over the whole region.
    background
        A field or an ensemble on the grid, such as a forecast, that the values are compared with. With an ensemble the
        spread is its own.
    limit
        Values farther away than this many joint spreads are gross errors.
    repeats
        A sensor is stuck if one station has the same value so many times in a row.
    quality, outside, superobs
        Which values are compared, and which are averaged before, as in ``xsda.assimilate``. Values outside the grid
        are flagged, or with "drop" left out. Omit ``superobs`` to check each report instead of the averages.

    Returns
    -------
    Flags
        ``.good`` is a mask, ``.table`` counts the flags, ``.to_dataframe()`` lists the flagged values.

    Notes
    -----
    Each value gets the first of these flags that applies. *Fill value*: a number such as -9999 or 1e20 that is far from
    what is expected. *Wrong unit*: most values of a source are gross errors, and no longer are after a change of
    unit; all its values are flagged. *Stuck sensor*, unless the value is frequent elsewhere, such as zero
    rain. *Gross error*. *Outside the grid* and *masked*: the value has no place.

    Examples
    --------
    >>> spoilt = obs.copy(deep=True)
    >>> spoilt.x[1] = -9999.0
    >>> flags = xsda.observations.check(spoilt, "lorenz63", grid=truth)
    >>> flags.table.loc[("obs", "x"), ["values", "good", "fill value"]].tolist()
    [4, 3, 1]
    >>> int(spoilt.where(flags.good).x.count())
    3
    """
    real_number("limit", limit, "be positive", above=0)
    whole_number("repeats", repeats, least=2)
    prior = load_model(model)
    prior = prior.priors[0] if isinstance(prior, Pool) else prior
    place = grid if grid is not None else background
    bound = None if place is None else Grid.match(prior.layout, _one_member(place))
    units = {v.name: v.attrs.get("units") for v in prior.layout.variables} if bound is None else units_of(bound)
    sources = as_sources(obs, [*units, *(derived or {})], None if bound is None else dims_of(bound))
    sources, sigma = select(sources, bound, sigma, derived=derived, quality=quality, outside=outside, superobs=superobs)
    found: dict[str, dict[str, xr.DataArray]] = {}
    notes = {}
    for observed in read(sources, units, derived=derived, errors=False):
        surveyed = without_positions(observed) if bound is None else survey(bound, observed)
        mean, std = anywhere(observed, prior) if bound is None else expected(surveyed, bound, prior, background)
        _, error = sigma_of(observed, sigma, sources)
        joint = np.sqrt(std**2 + (0.0 if error is None else error.ravel() ** 2))
        code, note = _codes(observed, sources[observed.source], surveyed, mean, joint, units, limit, repeats)
        if not note and bound is not None and swapped(bound, observed.da):
            note = "inside the grid if latitude and longitude are swapped"
        notes[observed.source, observed.name] = note
        values = np.asarray(observed.da.values, float).ravel()
        parts = {"flag": code, "expected": mean, "z": (values - mean) / joint}
        found.setdefault(observed.source, {}).update(_labelled(observed, parts))
    return Flags({s: xr.Dataset(v) for s, v in found.items()}, sources, notes)


def _one_member(ds: xr.Dataset) -> xr.Dataset:
    return ds.isel(member=0, drop=True) if "member" in ds.dims else ds


def _codes(
    observed: Observed, ds: xr.Dataset, found: Survey, mean: np.ndarray, joint: np.ndarray,
    units: Mapping[str, str | None], limit: float, repeats: int,
) -> tuple[np.ndarray, str]:  # fmt: skip
    """The flag of each ravelled value, and a note."""
    raw = np.asarray(ds[observed.name].values, float).ravel()
    values = np.asarray(observed.da.values, float).ravel()
    z = np.abs(values - mean) / joint
    known = np.isfinite(z)
    note = "" if known.any() or not found.used.any() else "not compared: the prior has no closed form for it"
    gross = known & (z > limit)
    fill = is_fill(raw) & (gross | ~known)
    tried = found.used & known & ~fill
    mistake = unit_mistake(observed, ds, units, raw[tried], mean[tried], joint[tried], limit)
    code = np.zeros(len(raw), np.int8)
    tests = (
        (MASKED, found.masked), (OUTSIDE, found.outside), (GROSS, gross),
        (STUCK, stuck(observed.da, repeats)), (UNIT, tried if mistake else np.zeros_like(tried)), (FILL, fill),
    )  # fmt: skip
    for flag, where in tests:
        code[where & ~found.missing] = flag
    return code, mistake or note


def _labelled(observed: Observed, parts: Mapping[str, np.ndarray]) -> dict[str, xr.DataArray]:
    """The values of a variable with flag, expected value and departure."""
    da, name = observed.da, observed.name
    units = {"units": da.attrs["units"]} if "units" in da.attrs else {}
    attrs = {
        "flag": {
            "standard_name": "quality_flag",
            "flag_values": np.arange(len(REASONS), dtype=np.int8),
            "flag_meanings": " ".join(r.replace(" ", "_") for r in REASONS),
        },
        "expected": {"long_name": f"expected {name}", **units},
        "z": {"long_name": f"departure of {name} from what is expected, in joint spreads", "units": "1"},
    }
    made = {f"{name}_{k}": da.copy(data=v.reshape(da.shape)).assign_attrs() for k, v in parts.items()}
    for key, part in made.items():
        part.attrs = attrs[key.removeprefix(f"{name}_")]
    return {name: da, **made}
