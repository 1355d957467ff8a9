"""What all scores share: they pair ensemble and truth, average, and set units.

A score averages over cases. A case where the truth or a member is NaN is left out, the same one in every score. On a
grid of latitudes the cells shrink towards the poles. The average of z over the cases i is therefore

    sum_i w_i z_i / sum_i w_i,    w_i = area of the row or cell of case i (``xsda.labels.area``),

unless the caller passes other weights (a DataArray) or none (``weights=False``).
"""

from __future__ import annotations

import importlib
from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Any, Literal, TypeVar

import numpy as np
import xarray as xr

from xsda.arguments import choose
from xsda.labels.area import area_weights, cell_areas
from xsda.labels.axes import check_same_kind
from xsda.labels.cf import in_units, is_latitude, is_longitude

Labelled = TypeVar("Labelled", xr.Dataset, xr.DataArray)
Dim = str | Collection[Hashable] | None
Weights = xr.DataArray | Literal[False] | None
Ensembles = xr.Dataset | Mapping[str, xr.Dataset]


def pair(ensemble: Labelled, truth: Labelled, *, least: int = 1) -> tuple[Labelled, Labelled]:
    """Ensemble and truth with the same variables on the same coordinates, NaN where either lacks a value."""
    if "member" not in ensemble.dims:
        raise ValueError(f"the ensemble has no dimension 'member'; it has {tuple(ensemble.sizes)}")
    if ensemble.sizes["member"] < least:
        raise ValueError(f"this score needs at least {least} members, got {ensemble.sizes['member']}")
    if "member" in truth.dims:
        raise ValueError("the truth has a dimension 'member'; choose one with .isel(member=0)")
    ensemble, truth = match(ensemble, truth, ("ensemble", "truth"))
    valid = truth.notnull() & ensemble.notnull().all("member")  # the same cases in every score
    return ensemble.where(valid), truth.where(valid)


def match(a: Labelled, b: Labelled, names: tuple[str, str]) -> tuple[Labelled, Labelled]:
    """The variables that both have; raises unless coordinates, dimensions (except ``member``) and units agree."""
    first, second = names
    if isinstance(a, xr.Dataset) != isinstance(b, xr.Dataset):
        raise TypeError(
            f"the {first} is a {type(a).__name__}, the {second} a {type(b).__name__}; "
            "give two Datasets or two DataArrays"
        )
    if isinstance(a, xr.Dataset) and isinstance(b, xr.Dataset):
        shared = [v for v in a.data_vars if v in b]
        if not shared:
            raise ValueError(f"{first} {list(a.data_vars)} and {second} {list(b.data_vars)} share no variable")
        a, b = a[shared], b[shared]
    check_same_kind(a, b, names)
    try:
        a, b = xr.align(a, b, join="exact", copy=False, exclude={"member"})
    except ValueError as error:
        differ = [d for d in a.indexes if d != "member" and d in b.indexes and not a.indexes[d].equals(b.indexes[d])]
        along = f" along {', '.join(map(repr, differ))}" if differ else f" ({error})"
        raise ValueError(
            f"{first} and {second} lie on different coordinates{along}; use .sel or .interp first"
        ) from error
    if isinstance(a, xr.Dataset) and isinstance(b, xr.Dataset):
        return a, b.assign({name: _alike(str(name), a[name], b[name], names) for name in a.data_vars})
    return a, _alike(str(a.name or b.name or "values"), a, b, names)


def _alike(name: str, a: xr.DataArray, b: xr.DataArray, names: tuple[str, str]) -> xr.DataArray:
    """The second in the units of the first; raises unless they have the same dimensions."""
    first, second = names
    if extra := [d for d in a.dims if d == "stage" and d not in b.dims]:
        raise ValueError(
            f"{name!r} of the {first} has the dimension {extra[0]!r}, which the {second} lacks; choose one with "
            ".sel(stage='analysis')"
        )
    if {*a.dims} - {"member"} != {*b.dims} - {"member"}:
        raise ValueError(
            f"{name!r} of the {second} has the dimensions {b.dims}, of the {first} {a.dims}; rename or "
            f"reduce those of the {second} until they agree, apart from 'member'"
        )
    return in_units(b, a.attrs.get("units"), f"the {first}")


def dims_of(value: xr.Dataset | xr.DataArray, dim: Dim) -> tuple[Hashable, ...]:
    """``dim`` as a tuple of dimensions of ``value``; None means all but ``member``."""
    known = tuple(d for d in value.dims if d != "member")
    dims = known if dim is None else (dim,) if isinstance(dim, str) else tuple(dim)
    unknown = [d for d in dims if d not in known]
    if unknown:
        raise ValueError(f"dim names {unknown[0]!r}; this score reduces dimensions among {known}")
    return dims


def mean(value: Labelled, dim: Dim, weights: Weights = None) -> Labelled:
    """Weighted mean over ``dim`` without NaN and without attributes."""
    dims = dims_of(value, dim)
    check_weights(value, weights)
    if isinstance(value, xr.Dataset):
        return xr.Dataset({name: _mean(da, dims, weights) for name, da in value.data_vars.items()})
    return _mean(value, dims, weights)


def _mean(da: xr.DataArray, dims: Collection[Hashable], weights: Weights) -> xr.DataArray:
    own = [d for d in dims if d in da.dims]
    found = find_weights(da, own, weights)
    if found is None:
        return da.mean(own, keep_attrs=False)
    return da.weighted(found).mean(own, keep_attrs=False)


def check_weights(value: xr.Dataset | xr.DataArray, weights: Weights) -> None:
    """Raise unless ``weights`` can be weights of ``value``."""
    if weights is None or weights is False:
        return
    if not isinstance(weights, xr.DataArray):
        raise TypeError(f"weights must be a DataArray, False (none) or None (area), got {type(weights).__name__}")
    unknown = [d for d in weights.dims if d not in value.dims]
    if unknown:
        raise ValueError(
            f"the weights have the dimension {unknown[0]!r}, which is not among {tuple(value.dims)}; rename it"
        )
    if not bool((np.isfinite(weights) & (weights >= 0)).all()):
        raise ValueError("the weights hold NaN, infinite or negative values; give zero to leave out a case")


def find_weights(da: xr.DataArray, dims: Collection[Hashable], weights: Weights) -> xr.DataArray | None:
    """The weights of the average of ``da`` over ``dims``; None if all cases have equal weight."""
    if weights is False:
        return None
    if weights is None:
        return _areas(da, dims)
    if not set(weights.dims) & set(dims):
        return None
    if not set(weights.dims) <= set(da.dims):
        raise ValueError(f"the weights have the dimensions {weights.dims}, {da.name!r} has {da.dims}; drop the others")
    try:
        return xr.align(da, weights, join="exact", copy=False)[1]
    except ValueError as error:
        raise ValueError(f"weights and {da.name!r} lie on different coordinates; use .sel first ({error})") from error


def _areas(da: xr.DataArray, dims: Collection[Hashable]) -> xr.DataArray | None:
    """Areas of the rows of latitude, or of the cells where coordinates are two-dimensional; None without latitudes."""
    rows = [da[d] for d in dims if d in da.coords and is_latitude(da[d])]
    plane = [c for c in da.coords.values() if c.ndim == 2 and set(c.dims) & set(dims)]
    lats, lons = [c for c in plane if is_latitude(c)], [c for c in plane if is_longitude(c)]
    try:
        if rows:
            return xr.DataArray(area_weights(rows[0]), {rows[0].name: rows[0]}, rows[0].dims)
        if lats and lons:
            return xr.DataArray(cell_areas(lats[0], lons[0].transpose(*lats[0].dims)), dims=lats[0].dims)
    except ValueError as error:
        raise ValueError(f"{error}, or pass weights=False") from error
    return None


def with_units(result: Labelled, like: Labelled, power: int = 1) -> Labelled:
    """``result`` with the units of ``like`` raised to a power, and no other attributes."""
    if isinstance(result, xr.Dataset):
        for name in result.data_vars:
            result[name].attrs = power_of(like[name].attrs.get("units"), power)
    else:
        result.attrs = power_of(like.attrs.get("units"), power)
    return result


def power_of(units: Any, power: int) -> dict[str, str]:
    """The attribute ``units`` raised to a power; empty if the units are unknown."""
    if power == 0 or units == "1":
        return {"units": "1"}
    return {} if not units else {"units": str(units) if power == 1 else f"({units}){power}"}


def scipy_module(name: str) -> Any:
    """``scipy.<name>``, which only some scores need."""
    try:
        return importlib.import_module(f"scipy.{name}")
    except ImportError as error:
        raise ImportError("this score needs scipy; install it with: pip install 'xsda[verify]'") from error


def by_label(ensembles: Ensembles) -> dict[str, xr.Dataset]:
    """Ensembles by their label; one alone is called 'ensemble'."""
    if isinstance(ensembles, xr.Dataset):
        return {"ensemble": ensembles}
    if not isinstance(ensembles, Mapping):
        raise TypeError(
            f"expected ensembles by label such as {{'LETKF': filtered, 'SDA': post}}, got {type(ensembles).__name__}"
        )
    sets: dict[str, Any] = {str(label): ds for label, ds in ensembles.items()}
    for label, ds in sets.items():
        if not isinstance(ds, xr.Dataset):
            raise TypeError(f"expected a Dataset under the label {label!r}, got {type(ds).__name__}")
    if not sets:
        raise ValueError("no ensembles were given; expected one, or several by label such as {'SDA': post}")
    return sets


def shared_variables(sets: Mapping[str, xr.Dataset], variable: str | Sequence[str] | None = None) -> list[str]:
    """The variables asked for, or those that all Datasets have; raises for what is missing."""
    first, *others = sets.values()
    if variable is None:
        names = [str(v) for v in first.data_vars if all(v in ds for ds in others)]
        if not names:
            have = "; ".join(f"{label}: {', '.join(map(str, ds.data_vars)) or 'none'}" for label, ds in sets.items())
            raise ValueError(f"these share no variable: {have}")
        return names
    wanted = [variable] if isinstance(variable, str) else list(variable)
    for label, ds in sets.items():
        for name in wanted:
            if name not in ds:
                raise KeyError(f"no variable {name!r} in {label!r}; {choose(name, ds.data_vars)}")
    return wanted
