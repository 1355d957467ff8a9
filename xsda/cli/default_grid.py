"""The grid where none is given: the prior's own, over the time span of the observations or over a number of states."""

from __future__ import annotations

import numpy as np
import xarray as xr

from xsda.arguments import whole_number
from xsda.labels.axes import axis_numbers, is_datelike
from xsda.labels.layout import Layout
from xsda.observations.sources import Sources, as_sources
from xsda.priors.prior import Prior


def default_grid(prior: Prior, obs: Sources, *, long: bool = False) -> xr.Dataset:
    """Time steps of the prior from the first to the last observation, and its space axes.

    A prior of trajectories of a fixed length has only so many steps, unless the record may be ``long``.
    """
    layout = prior.layout
    sources = as_sources(obs, [v.name for v in layout.variables])
    times = [ds[layout.time] for ds in sources.values() if layout.time in ds.coords]
    if not times or layout.dt is None:
        raise ValueError(
            f"the observations have no coordinate {layout.time!r}; give --grid, a file with the time axis wanted"
        )
    _check_own_space(layout)
    origin = min(t.values.min() for t in times) if is_datelike(times[0]) else None
    values = np.concatenate([np.atleast_1d(axis_numbers(t, origin)) for t in times])
    if not np.isfinite(values).all():
        raise ValueError(f"the observations' {layout.time!r} holds NaN or NaT; drop those observations")
    steps = max(int(np.ceil((values.max() - values.min()) / layout.dt - 1e-6)) + 1, prior.length or prior.window)
    offsets = np.arange(steps if long else prior.length or steps) * layout.dt
    time: np.ndarray = values.min() + offsets
    if origin is not None:
        if times[0].dtype.kind != "M":
            raise ValueError("the observations have a cftime axis; give --grid, a file with the time axis wanted")
        time = np.datetime64(origin, "ns") + (offsets * 1e9).astype("timedelta64[ns]")
    return _on_own_space(layout, time)


def own_grid(prior: Prior, length: int) -> xr.Dataset:
    """So many time steps of the prior from zero, and its space axes."""
    layout = prior.layout
    if layout.dt is None:
        raise ValueError("this prior has no time step; give --grid, a file with the coordinates wanted")
    if layout.time_features:
        raise ValueError("this prior reads the date; give --grid, a file with dates and the coordinates wanted")
    _check_own_space(layout)
    return _on_own_space(layout, np.arange(whole_number("length", length, least=1)) * layout.dt)


def _check_own_space(layout: Layout) -> None:
    """Raise unless the prior alone says where its states lie: without space, on points or on rings, without context."""
    if any(a.period is None and not a.points for a in layout.space):
        raise ValueError("this prior has space dimensions; give --grid, a file with the coordinates wanted")
    if layout.context:
        fields = ", ".join(repr(v.name) for v in layout.context)
        raise ValueError(f"this prior reads {fields}; give --grid, a file that holds it, with the coordinates wanted")


def _on_own_space(layout: Layout, time: np.ndarray) -> xr.Dataset:
    """The points of each axis, where the prior knows them; a ring without points is counted from zero."""
    grid = xr.Dataset(coords={layout.time: time})
    for a in layout.space:
        attrs = {} if a.period is None else {"period": a.period}
        grid[a.name] = a.name, np.array(a.points) if a.points else np.arange(a.size) * a.spacing, attrs
    return grid
