"""The picture that fits the states: series, maps, or diagrams of time and space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import xarray as xr
from matplotlib.figure import Figure

from xsda.plot.draw_fields import fields
from xsda.plot.draw_series import series
from xsda.plot.selection import drawable, find_drawn_axes


def ensemble(
    post: xr.Dataset,
    *,
    truth: xr.Dataset | None = None,
    obs: Any = None,
    variable: str | Sequence[str] | None = None,
    time: Any = None,
    members: int | None = None,
    title: str | None = None,
    cmap: Any = None,
    projection: Any = None,
    coastlines: bool | str = True,
    ax: Any = None,
) -> Figure:
    """Draw an ensemble or a single trajectory, with truth and observations.

    States without space dimensions are drawn over time (see ``series``). States on two space dimensions are drawn as
    maps at one time, states on one space dimension as diagrams of time and space (see ``fields``). With one space
    dimension and ``time=``, the state at that time is drawn along its axis like a series.

    Parameters
    ----------
    post
        Ensemble with the dimension ``member``, or a trajectory without it.
    truth
        Trajectory to compare with, drawn beside or over the ensemble.
    obs
        Observations, in any form that ``assimilate`` takes. NaN are not marked. A map marks those observations that are
        nearer in time to its state than to any other.
    variable
        Name or names of what to draw. Default: all variables in a series, the first one on a map.
    time
        State to draw: a position (an integer), or a time such as ``"2026-03-01T06:00"``, a datetime or a number on the
        time axis, which selects the nearest state. Default: the last state on a map, all states otherwise.
    members
        How many members to draw: lines in a series (default 5), panels on a map (default 1).
    title
        Title of the figure. A map adds the time to it.
    cmap
        Matplotlib colour map of a field. Default: diverging colours centred on zero if values have both signs, and
        sequential colours otherwise.
    projection
        Projection of cartopy for a map of latitudes and longitudes. Default: one that fits the domain.
    coastlines
        Draw coastlines on such a map. True downloads nothing; ``"10m"``, ``"50m"`` or ``"110m"`` draws Natural Earth at
        that scale, which cartopy downloads if it is not on disk.
    ax
        Matplotlib Axes to draw into, one for each panel. Default: a new figure.

    Returns
    -------
    matplotlib.figure.Figure
        The figure, to show or to save with ``.savefig``.

    Examples
    --------
    ``post`` is an ensemble of Lorenz-63 trajectories, ``truth`` a trajectory, ``obs`` observations of its ``x``.

    >>> figure = xsda.plot.ensemble(post, truth=truth, obs=obs, variable="x")
    >>> figure.axes[0].get_ylabel()
    'x'
    """
    _, space = find_drawn_axes(drawable(post, None)[0])
    if len(space) == 2 or (space and time is None):
        number = 1 if members is None else members
        return fields(
            post, truth=truth, obs=obs, variable=variable, time=time, members=number, title=title, cmap=cmap,
            projection=projection, coastlines=coastlines, ax=ax,
        )  # fmt: skip
    for argument, value in (("cmap", cmap), ("projection", projection)):
        if value is not None:
            raise ValueError(f"{argument}= is for fields; these states are drawn as lines, so omit it")
    number = 5 if members is None else members
    return series(post, truth=truth, obs=obs, variable=variable, time=time, members=number, title=title, ax=ax)
