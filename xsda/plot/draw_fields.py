"""States as fields: maps of two space dimensions at one time, diagrams of time and one space dimension."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from xsda.plot.panels import finish
from xsda.plot.picture import Column, Picture, Values
from xsda.plot.selection import (
    Drawn,
    check_obs,
    drawable,
    drawn_variables,
    find_drawn_axes,
    on_axes_of,
    one_state,
)
from xsda.plot.style import colour_scale, error_scale, spread_scale


def fields(
    post: xr.Dataset,
    *,
    truth: xr.Dataset | None = None,
    obs: Any = None,
    variable: str | Sequence[str] | None = None,
    time: Any = None,
    members: int = 1,
    title: str | None = None,
    cmap: Any = None,
    projection: Any = None,
    coastlines: bool | str = True,
    ax: Any = None,
) -> Figure:
    """Draw truth, ensemble mean, some members, spread and error as fields; one row per variable.

    Two space dimensions make maps at one time. One space dimension makes diagrams of time and space. A trajectory
    without members is one panel. The error is the mean, or the trajectory, minus the truth. Panels of a domain that is
    more than five times as wide as high lie one below the other.

    Latitudes and longitudes are drawn with cartopy in a projection that fits the domain, also two-dimensional ones
    (rotated pole, ROMS): each cell lies where it is on the Earth. Without cartopy the map is stretched by
    1 / cos(latitude) at its centre. Cells without a value at any time and in any member are hatched.

    Parameters
    ----------
    post
        Ensemble over ``(member, time, *space)``, or a trajectory over ``(time, *space)``. A map needs no time
        dimension.
    truth
        Trajectory to compare with.
    obs
        Observations, in any form that ``assimilate`` takes. They are marked on the mean as circles filled with the
        colour of the observed value. NaN are not marked. A map marks those that are nearer in time to its state than to
        any other.
    variable
        Name or names of what to draw (default: the first variable).
    time
        State on the map: a position (an integer), or a time such as ``"2026-03-01T06:00"``, a datetime or a number on
        the time axis, which selects the nearest state. Default: the last state.
    members
        How many members to draw.
    title
        Title of the figure. A map adds the time to it.
    cmap
        Matplotlib colour map. Default: diverging colours centred on zero if values have both signs, and sequential
        colours otherwise. Spread and error keep their own colours.
    projection
        Projection of cartopy. Default: one that fits the domain; see ``xsda.plot.maps.choose_projection``.
    coastlines
        False omits the coastlines. True draws those of Natural Earth if cartopy has them on disk, and otherwise a
        simplified copy that comes with xsda; nothing is downloaded. A scale of Natural Earth, ``"10m"``, ``"50m"`` or
        ``"110m"``, makes cartopy download it if it is not on disk.
    ax
        Matplotlib Axes to draw into, one for each panel. Maps need GeoAxes to be drawn in a projection. Default: a new
        figure.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.

    Examples
    --------
    ``weather`` is an ensemble of temperatures over (member, time, lat, lon).

    >>> figure = xsda.plot.fields(weather, time="2026-03-01T06:00", title="Analysis")
    >>> figure.get_suptitle()
    'Analysis, 2026-03-01 06:00'
    >>> [axes.get_title() for axes in figure.axes[:3]]
    ['ensemble mean', 'member 0', 'spread']
    """
    post, truth = drawable(post, truth, variable, first=True)
    names = drawn_variables(post, variable)[: 1 if variable is None else None]
    check_obs(obs, post)
    drawn, dims = _choose(post, truth, time)
    columns = choose_columns(post, members, with_truth=truth is not None)
    picture = Picture.start(post, truth, names, dims, columns, projection=projection, coastlines=coastlines, ax=ax)
    shown = {name: panel_values(drawn, name, columns, dims) for name in names}
    picture.draw(shown, {name: choose_looks(post[name], shown[name], cmap) for name in names})
    picture.mark(obs, drawn)
    text = ", ".join(part for part in (title, drawn.label) if part)
    return finish(picture.figure, picture.axes, ax, picture.legend(), text)


def _choose(post: xr.Dataset, truth: xr.Dataset | None, time: Any) -> tuple[Drawn, tuple[str, ...]]:
    """The states to draw, and the dimensions up and across."""
    axis, space = find_drawn_axes(post)
    if len(space) == 2:
        return one_state(post, truth, axis, time), space
    if axis is None or not space:
        raise ValueError(
            f"a field needs two space dimensions, or time and one space dimension, among {tuple(post.sizes)}; draw "
            "lines with xsda.plot.series"
        )
    if time is not None:
        raise ValueError(
            f"time= selects the state on a map; a diagram of {axis!r} and {space[0]!r} shows all, so omit it"
        )
    return Drawn(post, None if truth is None else on_axes_of(post, truth)), (axis, *space)


def choose_columns(states: xr.Dataset, members: int, *, with_truth: bool) -> list[Column]:
    """The panels of a row."""
    found: list[Column] = ["trajectory"]
    if "member" in states.dims:
        found = ["ensemble mean", *range(min(members, states.sizes["member"])), "spread"]
    return ["truth", *found, "error"] if with_truth else found


def panel_values(drawn: Drawn, name: str, columns: Sequence[Column], dims: tuple[str, ...]) -> dict[Column, np.ndarray]:
    """The numbers of each panel, (up, across); without truth and error if the truth lacks the variable."""
    da = drawn.states[name]
    if {*da.dims} - {"member"} != {*dims}:
        raise ValueError(
            f"{name!r} has the dimensions {da.dims}; a field needs {dims} besides 'member'. Select one entry of the "
            "others first, e.g. .isel(level=0)"
        )
    found: dict[Column, np.ndarray] = {}
    centre = da.mean("member") if "member" in da.dims else da
    truth = None if drawn.truth is None else drawn.truth.get(name)
    for column in columns:
        if column in ("truth", "error"):
            if truth is None:
                continue
            panel = truth if column == "truth" else centre - truth
        elif column in ("ensemble mean", "trajectory"):
            panel = centre
        else:
            panel = da.std("member", ddof=1) if column == "spread" else da.isel(member=int(column))
        found[column] = panel.transpose(*dims).values
    if all(np.isnan(values).all() for values in found.values()):
        raise ValueError(
            f"{name!r} is NaN everywhere {'at ' + drawn.label if drawn.label else ''}; there is nothing to draw"
        )
    return found


def choose_looks(da: xr.DataArray, shown: Values, cmap: Any) -> dict[Column, dict[str, Any]]:
    """Colour map and limits of each panel; states share theirs."""
    own = {"spread": spread_scale, "error": error_scale}
    scale = colour_scale(da, np.concatenate([v.ravel() for k, v in shown.items() if k not in own]), cmap)
    return {k: own[str(k)](v) if k in own else scale for k, v in shown.items()}
