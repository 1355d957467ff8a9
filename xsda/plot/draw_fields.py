"""States as fields: maps of two space dimensions at one time, diagrams of time and one space dimension."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import xarray as xr
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from xsda.labels.axes import axis_numbers, is_datelike
from xsda.plot.panels import finish, label_time, panels
from xsda.plot.selection import (
    Drawn,
    drawable,
    drawn_variables,
    find_drawn_axes,
    observed_points,
    on_axes_of,
    one_state,
)
from xsda.plot.style import OBSERVED, SPREAD, aspect_of, axis_label, axis_values, colour_scale


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
    ax: Any = None,
) -> Figure:
    """Draw truth, ensemble mean, some members and spread as fields; one row per variable.

    Two space dimensions make maps at one time. One space dimension makes diagrams of time and space. A trajectory
    without members is one panel. Maps on latitudes and longitudes are stretched by 1 / cos(latitude) at their centre.

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
        colours otherwise. The spread keeps its own colours.
    ax
        Matplotlib Axes to draw into, one for each panel. Default: a new figure.

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
    post, truth = drawable(post, truth)
    names = drawn_variables(post, variable)[: 1 if variable is None else None]
    truth = None if truth is None or not set(names) & set(truth.data_vars) else truth
    drawn, dims = _choose(post, truth, time)
    columns = _columns(drawn.states, members, with_truth=truth is not None)
    coords = [drawn.states[d] for d in dims]
    aspect = aspect_of(*coords) if dims == find_drawn_axes(post)[1] else None
    width, height = _panel_size(coords, aspect)
    bars: Literal["right", "bottom"] = "right" if height > width / 2 else "bottom"
    figure, axes = panels(
        len(names), len(columns), ax, layout="compressed" if aspect else "constrained", sharex=True, sharey=True,
        figsize=((width + 0.5) * len(columns) + 0.6, (height + (0.2 if bars == "right" else 0.9)) * len(names) + 0.9),
    )  # fmt: skip
    marked: dict[str, Artist] = {}
    for row, name in zip(axes, names, strict=True):
        shown = _values(drawn, name, columns, dims)
        scale = colour_scale(post[name], np.concatenate([v.ravel() for k, v in shown.items() if k != "spread"]), cmap)
        _draw_row(dict(zip(columns, row, strict=True)), shown, coords, scale, axis_label(post[name]), bars)
        for panel in (p for p, column in zip(row, columns, strict=True) if column in ("ensemble mean", "trajectory")):
            for points in observed_points(obs, name, post, dims, state=drawn.window):
                marked["observations"] = _mark(panel, points, coords, scale)
    _label(axes, columns, coords, aspect)
    text = ", ".join(part for part in (title, drawn.label) if part)
    return finish(figure, axes, ax, list(marked.values()), text)


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


def _columns(states: xr.Dataset, members: int, *, with_truth: bool) -> list[str | int]:
    """Panels of a row; an integer is the position of a member."""
    if "member" in states.dims:
        found: list[str | int] = ["ensemble mean", *range(min(members, states.sizes["member"])), "spread"]
    else:
        found = ["trajectory"]
    return ["truth", *found] if with_truth else found


def _values(
    drawn: Drawn, name: str, columns: Sequence[str | int], dims: tuple[str, ...]
) -> dict[str | int, np.ndarray]:
    """The numbers of each panel, (up, across)."""
    da = drawn.states[name]
    if {*da.dims} - {"member"} != {*dims}:
        raise ValueError(
            f"{name!r} has the dimensions {da.dims}; a field needs {dims} besides 'member'. Select one entry of the "
            "others first, e.g. .isel(level=0)"
        )
    found: dict[str | int, np.ndarray] = {}
    for column in columns:
        if column == "truth":
            if drawn.truth is None or name not in drawn.truth:
                continue
            panel = drawn.truth[name]
        elif column == "ensemble mean":
            panel = da.mean("member")
        elif column == "spread":
            panel = da.std("member", ddof=1)
        else:
            panel = da if column == "trajectory" else da.isel(member=int(column))
        found[column] = panel.transpose(*dims).values
    if all(np.isnan(values).all() for values in found.values()):
        raise ValueError(
            f"{name!r} is NaN everywhere {'at ' + drawn.label if drawn.label else ''}; there is nothing to draw"
        )
    return found


def _draw_row(
    row: Mapping[str | int, Axes], shown: Mapping[str | int, np.ndarray], coords: Sequence[xr.DataArray],
    scale: dict[str, Any], label: str, bars: Literal["right", "bottom"],
) -> None:  # fmt: skip
    """The panels of one variable, with their colour bars at the right or the bottom."""
    y, x = (axis_values(c, c.values[0]) for c in coords)
    alike = []
    for column, panel in row.items():
        if column not in shown:
            panel.set_axis_off()
            continue
        look = {"cmap": SPREAD} if column == "spread" else scale
        mesh = panel.pcolormesh(x, y, shown[column], shading="nearest", rasterized=True, **look)
        if column == "spread":
            panel.figure.colorbar(mesh, ax=panel, label=f"spread of {label}", location=bars)
        else:
            alike.append((panel, mesh))
    panel.figure.colorbar(alike[-1][1], ax=[p for p, _ in alike], label=label, location=bars)


def _mark(panel: Axes, points: xr.Dataset, coords: Sequence[xr.DataArray], scale: dict[str, Any]) -> Artist:
    """Observations as circles in the colours of the field."""
    y, x = (axis_values(points[c.name], c.values[0] if is_datelike(c) else None) for c in coords)
    size = float(np.clip(4000 / max(points.sizes["point"], 1), 4, 36))
    panel.scatter(
        x, y, c=points["value"].values, s=size, edgecolors=OBSERVED, linewidths=0.8, label="observations", **scale
    )
    return Line2D(
        [],
        [],
        ls="none",
        marker="o",
        ms=5,
        mfc="none",
        mec=OBSERVED,
        label="observations, in the colour of their value",
    )


def _label(
    axes: np.ndarray, columns: Sequence[str | int], coords: Sequence[xr.DataArray], aspect: float | None
) -> None:
    for panel, column in zip(axes[0], columns, strict=True):
        panel.set_title(column if isinstance(column, str) else f"member {column}")
    for panel in axes.flat:
        panel.set_aspect(aspect or "auto")
    for panel in axes[-1]:
        label_time(panel.xaxis, coords[1])
    for panel in axes[:, 0]:
        label_time(panel.yaxis, coords[0])


def _panel_size(coords: Sequence[xr.DataArray], aspect: float | None) -> tuple[float, float]:
    """Width and height of a panel in inches, in the shape of the domain."""
    width, height = 3.0, 2.8
    if aspect is not None:
        up, across = (float(np.ptp(axis_numbers(c))) or 1.0 for c in coords)
        height = float(np.clip(width * aspect * up / across, 0.4, 4.5))
    return width, height
