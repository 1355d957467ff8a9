"""Divides observations into folds for cross-validation: by station, by time or by source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from xsda.labels.axes import TIME_NAMES, is_datelike
from xsda.labels.cf import is_latitude, is_longitude
from xsda.labels.grid import Grid
from xsda.observations.sources import observed_variables


def labels(ds: xr.Dataset, source: str, by: str, grid: Grid) -> xr.DataArray:
    """Say what each value belongs to, as text over the dimensions that tell it.

    Parameters
    ----------
    ds, source
        A source of observations and its name.
    by
        "station", "time" or "source". A station is an entry of the coordinate ``station``, or else one place.
    grid
        The grid.
    """
    if by == "source":
        return xr.DataArray(source)
    if by == "time":
        names = (*TIME_NAMES, grid.core_dims[0])
        times = [c for c in ds.coords.values() if str(c.name).lower() in names or is_datelike(c)]
        if not times:
            raise ValueError(f"{source} has no time coordinate; use by='station' or by='source'")
        return _text(sorted(times, key=lambda c: c.name != grid.core_dims[0])[:1])
    if "station" in ds.coords:
        return _text([ds["station"]])
    space = grid.core_dims[1:]
    places = [c for c in ds.coords.values() if c.name in space or is_latitude(c) or is_longitude(c)]
    shared = [c for c in places if c.ndim == 1 and c.dims != (c.name,)]
    if shared and len({c.dims for c in shared}) == 1:
        return _text(sorted(shared, key=lambda c: str(c.name)))
    if places and all(c.ndim == 0 for c in places):
        return _text(sorted(places, key=lambda c: str(c.name)))
    known = {*grid.core_dims, *(v.channel_dim for v in grid.layout.variables), *(c.name for c in places)}
    own = list(dict.fromkeys(d for v in observed_variables(ds) for d in ds[v].dims if d not in known))
    if len(own) != 1:
        raise ValueError(
            f"the stations of {source} are not known: it needs a coordinate 'station', or one dimension that the grid "
            f"lacks, and it has {own or 'none'}; or use by='time' or by='source'"
        )
    return xr.DataArray([f"{source} {i}" for i in range(ds.sizes[own[0]])], dims=own)


def _text(coords: Sequence[xr.DataArray]) -> xr.DataArray:
    """Coordinates over the same dimensions as one text for each position."""
    columns = [np.ravel(c.values) for c in coords]
    texts = [
        " ".join(f"{x:.6g}" if isinstance(x, float) else str(x) for x in row) for row in zip(*columns, strict=True)
    ]
    return xr.DataArray(np.array(texts).reshape(coords[0].shape), dims=coords[0].dims)


def fold_numbers(labels: Mapping[str, xr.DataArray], by: str, folds: int, seed: int) -> dict[str, xr.DataArray]:
    """Distribute labels over folds at random. The result does not depend on the order of rows or of sources.

    Parameters
    ----------
    labels
        Labels by source.
    by
        What they are, for the message.
    folds
        Number of folds; with fewer labels there are as many folds as labels.
    seed
        Seed of the distribution.
    """
    known = np.unique(np.concatenate([np.ravel(a.values) for a in labels.values()]))
    if len(known) < 2:
        raise ValueError(f"by={by!r} needs at least 2 of them, and the observations have {len(known)}")
    order = np.random.default_rng(seed).permutation(len(known))
    number = np.empty(len(known), int)
    number[order] = np.arange(len(known)) % folds
    return {s: a.copy(data=number[np.searchsorted(known, a.values)]) for s, a in labels.items()}
