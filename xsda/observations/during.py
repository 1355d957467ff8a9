"""Selects the observations of one period of a long record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from xsda.labels.axes import axis_numbers
from xsda.labels.grid import Grid
from xsda.observations.compile import matching_coordinate
from xsda.observations.read import dims_of, units_of
from xsda.observations.sources import Sources, as_sources, observed_variables

ROUNDING = 1e-6  # of a time step


@dataclass(frozen=True, eq=False)
class Period:
    """Opens the observations between the times of a grid. It can be sent to other processes.

    Parameters
    ----------
    obs
        All observations, or a function of two times.
    whole
        The grid of the whole record.
    outside
        "raise", or "drop": what happens to observations outside the record.
    """

    obs: Sources | Callable[[Any, Any], Sources]
    whole: Grid
    outside: str

    def __post_init__(self) -> None:
        if not callable(self.obs):
            sources = as_sources(self.obs, units_of(self.whole), dims_of(self.whole))
            if self.outside == "raise":
                check_within(sources, self.whole)
            object.__setattr__(self, "obs", sources)

    def __call__(self, grid: Grid) -> Mapping[str, xr.Dataset]:
        if not callable(self.obs):
            return self.obs  # type: ignore[return-value]
        times = grid.template[grid.core_dims[0]].to_index()  # pandas Timestamps, if they are dates
        return as_sources(self.obs(times[0], times[-1]), units_of(grid), dims_of(grid))


def during(sources: Mapping[str, xr.Dataset], grid: Grid, known: int = 0) -> dict[str, xr.Dataset]:
    """Return the observations between the first and the last state of a grid.

    Parameters
    ----------
    sources
        Datasets by source, as ``as_sources`` returns them.
    grid
        The grid of the period.
    known
        Number of states at its beginning that are known. Observations up to the last of them are left out.

    Returns
    -------
    dict
        Datasets by source; those without an observation in the period are left out.
    """
    numbers = grid.numbers(grid.core_dims[0])
    slack = _slack(numbers)
    start, found = numbers[known - 1] + slack if known else numbers[0] - slack, {}
    for source, ds in sources.items():
        coord = _times(source, ds, grid)
        values = axis_numbers(coord, grid.origin)
        keep = (values >= start) & (values <= numbers[-1] + slack)
        if keep.any():
            found[source] = ds.isel({d: np.flatnonzero(keep) for d in coord.dims})
    return found


def check_within(sources: Mapping[str, xr.Dataset], grid: Grid) -> None:
    """Raise if observations lie before or after a record."""
    numbers = grid.numbers(grid.core_dims[0])
    slack = _slack(numbers)
    for source, ds in sources.items():
        coord = _times(source, ds, grid)
        values = axis_numbers(coord, grid.origin)
        away = (values < numbers[0] - slack) | (values > numbers[-1] + slack)
        if away.any():
            first = np.ravel(coord.values)[np.flatnonzero(np.ravel(away))[0]]
            raise ValueError(
                f"{int(away.sum())} of {away.size} times of {source} lie outside the record (the first is {first}); "
                "extend the record, or pass outside='drop'"
            )


def _slack(numbers: np.ndarray) -> float:
    return ROUNDING * float(numbers[1] - numbers[0])


def _times(source: str, ds: xr.Dataset, grid: Grid) -> xr.DataArray:
    """Return the times of a source."""
    time = grid.core_dims[0]
    names = observed_variables(ds)
    coord = matching_coordinate(ds[names[0]], grid, time) if names else None
    if coord is None:
        raise ValueError(f"{source} has no times by which it can be divided into periods; add the coordinate {time!r}")
    if coord.ndim > 1:
        raise ValueError(f"the times of {source} have the dimensions {coord.dims}; stack them to one dimension")
    return coord
