"""Members at the places of stations, over time, against what the stations observed."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from xsda.arguments import choose
from xsda.labels.axes import is_datelike
from xsda.labels.cf import is_latitude, is_longitude
from xsda.observations import observe, outside
from xsda.observations.observe import grid_of
from xsda.observations.sources import as_sources
from xsda.plot.draw_series import draw_observed, draw_states, draw_truth, handles
from xsda.plot.panels import finish, label_time, panels
from xsda.plot.selection import (
    check_obs,
    drawable,
    drawn_coords,
    drawn_variables,
    find_drawn_axes,
    observed_points,
)
from xsda.plot.style import axis_label, axis_values

SHOWN = 4  # stations, if none are chosen


def stations(
    post: xr.Dataset,
    obs: Any,
    *,
    station: Hashable | Sequence[Hashable] | None = None,
    truth: xr.Dataset | None = None,
    variable: str | None = None,
    sigma: Any = None,
    members: int = 5,
    title: str | None = None,
    ax: Any = None,
) -> Figure:
    """Draw the ensemble at stations over time, with their observations and errors; one panel per station.

    Stations that were withheld from the assimilation show whether the spread is right: with Gaussian errors, about 90 %
    of their values lie in the light band, widened by the error bars.

    Parameters
    ----------
    post
        Ensemble with the dimension ``member``, or a trajectory, over time and space. It is interpolated to the
        stations as ``xsda.observe`` does it.
    obs
        Observations at fixed places, in any form that ``assimilate`` takes. The coordinate ``station``, or that of the
        dimension along which the places lie, holds the names. Without it, places are counted from 0.
    station
        Name or names of stations. Default: the first four.
    truth
        Trajectory to compare with, on the grid of the states.
    variable
        Name of what to draw. Default: the first variable that was observed.
    sigma
        Standard deviation of the observation error as in ``assimilate``. Default: what the observations say.
    members
        How many members to draw as lines.
    title
        Title of the figure.
    ax
        Matplotlib Axes to draw into, one for each station. Default: a new figure.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.

    Examples
    --------
    >>> places = {"lat": ("station", [52.0, 57.0]), "lon": ("station", [-4.0, -1.0]), "station": ["A", "B"]}
    >>> temperature = (("time", "station"), 280 + np.zeros((3, 2)), {"units": "K"})
    >>> withheld = xr.Dataset({"t2m": temperature}, {"time": weather.time, **places})
    >>> figure = xsda.plot.stations(weather, withheld, station="B", sigma=0.5)
    >>> figure.axes[0].get_title(loc="left")
    'B, 57 °N, 1 °W'
    """
    check_obs(obs, post)
    post, truth = drawable(post, truth)
    name = _observed(post, obs, variable)
    axis, space = find_drawn_axes(post)
    if axis is None or not space:
        raise ValueError(f"stations need states over time and space; these have {tuple(post.sizes)}")
    coords = drawn_coords(post, space)
    along = [str(c.name) for c in coords]
    found = _by_station(obs, name, post, (axis, *along), sigma)
    if not found:
        raise ValueError(f"obs holds no station with values of {name!r} at positions along {', '.join(along)}")
    chosen = list(found)[:SHOWN] if station is None else _as_list(station)
    for label in chosen:
        if label not in found:
            raise KeyError(f"no station {label!r} with values of {name!r}; {choose(label, found)}")
    places = {label: _place(found[label], along, label) for label in chosen}
    _check_inside(post, name, axis, places)
    states = {label: _states_at(post, name, axis, at) for label, at in places.items()}
    masked = _masked(states)
    figure, axes = panels(len(chosen), 1, ax, sharex=True, figsize=(8, 1.9 * len(chosen) + 0.6))
    coord = post[axis]
    origin = coord.values[0] if is_datelike(coord) else None
    for panel, label in zip(axes[:, 0], chosen, strict=True):
        at = places[label]
        if label not in masked:
            draw_states(panel, axis_values(coord, origin), states[label].values, members)
        if truth is not None:
            draw_truth(panel, _states_at(truth, name, axis, at), axis, origin)
        draw_observed(panel, found[label], axis, origin)
        text = [str(label), *(_position(c, value) for c, value in zip(coords, at.values(), strict=True))]
        text += ["masked"] if label in masked else []
        panel.set_title(", ".join(text), loc="left", fontsize="medium")
        panel.spines[["top", "right"]].set_visible(False)
    label_time(axes[-1, 0].xaxis, coord)
    if ax is None:
        figure.supylabel(axis_label(post[name]), fontsize="medium")
    else:
        axes[0, 0].set_ylabel(axis_label(post[name]))
    return finish(figure, axes, ax, handles(axes), title)


def _observed(post: xr.Dataset, obs: Any, variable: str | None) -> str:
    """The variable to draw: the one asked for, or the first that was observed."""
    if variable is not None:
        return drawn_variables(post, variable)[0]
    return next(str(v) for v in post.data_vars if any(v in ds for ds in as_sources(obs).values()))


def _by_station(obs: Any, name: str, post: xr.Dataset, dims: tuple[str, ...], sigma: Any) -> dict[Hashable, xr.Dataset]:
    """Observations that are not NaN by the name of their station, in the order in which they come."""
    found: dict[Hashable, list[xr.Dataset]] = {}
    for points in observed_points(obs, name, post, dims, sigma=sigma, named=True):
        for label in dict.fromkeys(points["station"].values.tolist()):
            found.setdefault(label, []).append(points.isel(point=np.flatnonzero(points["station"] == label)))
    return {label: xr.concat(parts, "point").sortby(dims[0]) for label, parts in found.items()}


def _as_list(station: Any) -> list[Hashable]:
    if isinstance(station, (str, bytes)) or not isinstance(station, (Sequence, np.ndarray, xr.DataArray)):
        return [station]
    return np.asarray(station, dtype=object).ravel().tolist()


def _place(points: xr.Dataset, space: Sequence[str], label: Hashable) -> dict[str, float]:
    """Where a station stands; raises if it moves."""
    for d in space:
        if np.ptp(points[d].values) > 1e-6 * max(1.0, float(np.abs(points[d]).max())):
            raise ValueError(
                f"station {label!r} moves: its {d} runs from {float(points[d].min()):g} to {float(points[d].max()):g}; "
                "this picture needs fixed places"
            )
    return {d: float(points[d][0]) for d in space}


def _check_inside(ds: xr.Dataset, name: str, axis: str, places: Mapping[Hashable, Mapping[str, float]]) -> None:
    """Raise if a station lies outside the states."""
    grid = grid_of(ds[[name]])
    for label, at in places.items():
        if bool(outside(grid, _like(ds, name, axis, at)[name]).any()):
            where = ", ".join(f"{d} {value:g}" for d, value in at.items())
            raise ValueError(f"station {label!r} lies outside the states, at {where}; choose others with station=...")


def _like(ds: xr.Dataset, name: str, axis: str, at: Mapping[str, float]) -> xr.Dataset:
    """Observations at one place and all times."""
    coords = {axis: ds[axis], **{d: ((), value, ds[d].attrs) for d, value in at.items()}}
    return xr.Dataset({name: (axis, np.zeros(ds.sizes[axis]))}, coords)


def _states_at(ds: xr.Dataset, name: str, axis: str, at: Mapping[str, float]) -> xr.DataArray:
    """States at one place and all times, interpolated as observations are; time comes last."""
    return observe(ds[[name]], _like(ds, name, axis, at))[name].transpose(..., axis)


def _masked(states: Mapping[Hashable, xr.DataArray]) -> list[Hashable]:
    """The stations where the states have no values; raises if that is all of them."""
    masked = [label for label, values in states.items() if bool(values.isnull().all())]
    if len(masked) == len(states):
        raise ValueError(
            f"the states have no values (their mask, such as land) at the station{'s' if len(masked) > 1 else ''} "
            f"{', '.join(map(repr, masked))}; choose others with station=..., or check the positions"
        )
    return masked


def _position(coord: xr.DataArray, value: float) -> str:
    """A position for a title, such as 54.2 °N."""
    if is_latitude(coord):
        return f"{round(abs(value), 2):g} °{'N' if value >= 0 else 'S'}"
    if is_longitude(coord):
        value = (value + 180) % 360 - 180
        return f"{round(abs(value), 2):g} °{'E' if value >= 0 else 'W'}"
    return f"{coord.name} = {value:.4g}"
