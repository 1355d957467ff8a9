"""The grid that observations imply when none is given: the prior's own, over their time span."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from xsda.axes import axis_numbers, is_datelike
from xsda.priors.prior import Prior


def default_grid(prior: Prior, sources: Sequence[xr.Dataset]) -> xr.Dataset:
    """Time steps of the prior from the first to the last observation, and its space axes counted from zero."""
    layout = prior.layout
    times = [ds[layout.time] for ds in sources if layout.time in ds.coords]
    if not times or layout.dt is None:
        raise ValueError(
            f"the observations have no coordinate {layout.time!r}; give --grid, a file with the time axis wanted"
        )
    if any(a.name not in ("x",) for a in layout.space):
        raise ValueError("this prior has space dimensions; give --grid, a file with the coordinates wanted")
    origin = times[0].values.min() if is_datelike(times[0]) else None
    values = np.concatenate([np.atleast_1d(axis_numbers(t, origin)) for t in times])
    steps = max(int(np.ceil((values.max() - values.min()) / layout.dt - 1e-6)) + 1, prior.window)
    offsets = np.arange(steps) * layout.dt
    time: np.ndarray = values.min() + offsets
    if origin is not None:
        if times[0].dtype.kind != "M":
            raise ValueError("the observations have a cftime axis; give --grid, a file with the time axis wanted")
        time = np.datetime64(origin, "ns") + (offsets * 1e9).astype("timedelta64[ns]")
    coords = {layout.time: time, **{a.name: np.arange(a.size) * a.spacing for a in layout.space}}
    dims = (layout.time, *(a.name for a in layout.space))
    shape = tuple(len(coords[d]) for d in dims)
    data = {v.name: (dims, np.zeros(shape, np.float32), dict(v.attrs)) for v in layout.variables}
    grid = xr.Dataset(data, coords)
    for a in layout.space:
        if a.period:
            grid[a.name].attrs["period"] = a.period
    return grid
