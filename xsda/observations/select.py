"""Observations as an assimilation with the same options would use them, still as labelled Datasets in their own units.

For functions that work on whole Datasets: ``check``, ``crossvalidate``, ``analyse`` and the innovations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import xarray as xr

from xsda.labels.grid import Grid
from xsda.observations.observed import Observed
from xsda.observations.operator import Derived
from xsda.observations.read import read, units_of
from xsda.observations.selected import Selection
from xsda.observations.sources import observed_variables


def select(
    sources: Mapping[str, xr.Dataset],
    grid: Grid | None,
    sigma: Any = None,
    *,
    derived: Mapping[str, Derived] | None = None,
    quality: Any = None,
    outside: str = "raise",
    superobs: Any = None,
) -> tuple[dict[str, xr.Dataset], Any]:
    """Select and average observations.

    Parameters
    ----------
    sources
        Datasets by source, as ``as_sources`` returns them.
    grid
        The grid, which ``outside`` and ``superobs`` need.
    sigma, derived, quality, outside, superobs
        As in ``xsda.assimilate``. Errors need not be given.

    Returns
    -------
    sources, sigma
        What is left of each source, with NaN for values whose flags are not accepted. Their errors are ancillary
        variables, and ``sigma`` is None. Without any of the options both are what was passed.
    """
    if not Selection(quality, outside, superobs):
        return dict(sources), sigma
    names = [v for ds in sources.values() for v in observed_variables(ds)] if grid is None else [*units_of(grid)]
    found = read(
        sources, dict.fromkeys(names), sigma=sigma, derived=derived, errors="known", quality=quality, outside=outside,
        superobs=superobs, grid=grid,
    )  # fmt: skip
    return {s: _joined([o for o in found if o.source == s]) for s in dict.fromkeys(o.source for o in found)}, None


def _joined(observed: Sequence[Observed]) -> xr.Dataset:
    """The variables of one source in one Dataset; as a list of reports if they lie at different places."""
    parts = [_alone(o) for o in observed]
    try:
        return xr.merge(parts, join="exact", compat="equals", combine_attrs="override")
    except ValueError:
        listed = [_listed(ds, o.name) for ds, o in zip(parts, observed, strict=True)]
        shared = set.intersection(*({str(c) for c in ds.coords} for ds in listed))  # averages have no station
        listed = [ds.drop_vars(set(ds.coords) - shared) for ds in listed]
        return xr.concat(listed, "report", data_vars="all", coords="all", join="exact", combine_attrs="override")


def _alone(observed: Observed) -> xr.Dataset:
    """One variable with its error, if that is known, and the bounds of its cells."""
    name, da, ds = observed.name, observed.da, observed.ds
    bounds = {str(c.attrs["bounds"]) for c in da.coords.values() if c.attrs.get("bounds") in ds.variables}
    out = ds[[name, *sorted(bounds)]]
    if observed.std is None:
        return out
    error, attrs = f"{name}_error", {k: v for k, v in da.attrs.items() if k != "error_std"}
    units = {"units": attrs["units"]} if "units" in attrs else {}
    own = {"standard_name": f"{attrs.get('standard_name', name)} standard_error", **units}
    values = da.copy(data=observed.std.reshape(da.shape))
    values.attrs = own
    out = out.assign({error: values})
    out[name].attrs = {**attrs, "ancillary_variables": error}
    return out


def _listed(ds: xr.Dataset, name: str) -> xr.Dataset:
    """One variable along the dimension ``report``."""
    dims = ds[name].dims
    if dims == ("report",):
        return ds
    if not dims:
        return ds.expand_dims("report")
    return ds.stack(kept=dims, create_index=False).rename(kept="report")
