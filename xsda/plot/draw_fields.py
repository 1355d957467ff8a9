"""States as fields: maps of two space dimensions at one time, diagrams of time and one space dimension."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from xsda.plot.maps import choose_plane
from xsda.plot.panels import finish, panels
from xsda.plot.planes import Plane
from xsda.plot.selection import (
    Drawn,
    check_obs,
    drawable,
    drawn_variables,
    find_drawn_axes,
    observed_points,
    on_axes_of,
    one_state,
)
from xsda.plot.style import axis_label, colour_scale, error_scale, spread_scale

RING = {
    "edgecolors": "white", "linewidths": 0.9,
    "path_effects": [withStroke(linewidth=2.2, foreground="#1c1c1c")],
}  # fmt: skip
Column = str | int  # an integer is the position of a member
Values = Mapping[Column, np.ndarray]


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
    without members is one panel. The error is the mean, or the trajectory, minus the truth.

    Latitudes and longitudes are drawn with cartopy in a projection that fits the domain. Without cartopy the map is
    stretched by 1 / cos(latitude) at its centre. Cells without a value at any time and in any member are grey.

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


@dataclass(eq=False)
class Picture:
    """Panels of fields, one row per variable, whose values and marks can be replaced."""

    figure: Figure
    axes: np.ndarray
    plane: Plane
    post: xr.Dataset
    truth: xr.Dataset | None
    columns: Sequence[Column]
    names: Sequence[str]
    dims: tuple[str, ...]
    looks: Mapping[str, Mapping[Column, dict[str, Any]]] = field(default_factory=dict)
    meshes: dict[tuple[str, Column], Any] = field(default_factory=dict)
    marks: list[Artist] = field(default_factory=list)

    @classmethod
    def start(
        cls, post: xr.Dataset, truth: xr.Dataset | None, names: Sequence[str], dims: tuple[str, ...],
        columns: Sequence[Column], *, projection: Any, coastlines: bool | str, ax: Any,
    ) -> Picture:  # fmt: skip
        """Empty panels in the shape of the domain."""
        plane = choose_plane([post[d] for d in dims], dims == find_drawn_axes(post)[1], ax, projection, coastlines)
        width, height = _panel_size(plane)
        below = plane.bars == "bottom"
        size = (
            (width + (0.1 if below else 0.45)) * len(columns) + 0.8,
            (height + (1.0 if below else 0.2)) * len(names) + 0.8,
        )
        figure, axes = panels(len(names), len(columns), ax, figsize=size, **plane.options)
        return cls(figure, axes, plane, post, truth, columns, names, dims)

    def rows(self) -> dict[str, dict[Column, Axes]]:
        """The Axes by variable and column."""
        return {name: dict(zip(self.columns, row, strict=True)) for name, row in zip(self.names, self.axes, strict=True)}

    def draw(self, shown: Mapping[str, Values], looks: Mapping[str, Mapping[Column, dict[str, Any]]]) -> None:
        """Cells, masks, coastlines, labels and colour bars."""
        self.looks = looks
        for name, row in self.rows().items():
            masks = self._masks(name, shown[name])
            for column, panel in row.items():
                if column not in shown[name]:
                    panel.set_axis_off()
                    continue
                self.plane.draw_mask(panel, masks[column])
                self.meshes[name, column] = self.plane.draw_cells(panel, shown[name][column], **looks[name][column])
                self.plane.dress(panel, left=column == self.columns[0], bottom=name == self.names[-1])
            self._add_bars(name, row)
        for panel, column in zip(self.axes[0], self.columns, strict=True):
            panel.set_title(self._title(column))

    def update(self, shown: Mapping[str, Values]) -> None:
        """Other values in the same panels."""
        for (name, column), mesh in self.meshes.items():
            mesh.set_array(shown[name][column])

    def mark(self, obs: Any, drawn: Drawn) -> None:
        """Mark the observations that belong to the states, in place of earlier ones."""
        for mark in self.marks:
            mark.remove()
        self.marks = []
        for name, row in self.rows().items():
            for column in {"ensemble mean", "trajectory"} & row.keys():
                for points in observed_points(obs, name, self.post, self.dims, state=drawn.window):
                    size = float(np.clip(4000 / max(points.sizes["point"], 1), 4, 36))
                    self.marks.append(
                        self.plane.draw_points(
                            row[column], points, s=size, label="observations", zorder=5, **RING, **self.looks[name][column],
                        )
                    )  # fmt: skip

    def legend(self) -> list[Artist]:
        """Entries of the legend."""
        label = "observations, in the colour of their value"
        circle = Line2D([], [], ls="none", marker="o", ms=5, mfc="none", mec="#1c1c1c", label=label)
        return [circle] if self.marks else []

    def _title(self, column: Column) -> str:
        centre = "mean" if "ensemble mean" in self.columns else "trajectory"
        return f"{centre} minus truth" if column == "error" else column if isinstance(column, str) else f"member {column}"

    def _masks(self, name: str, shown: Values) -> dict[Column, np.ndarray]:
        """Where each panel has NaN because there is none but NaN at any time and in any member."""
        if not any(np.isnan(values).any() for values in shown.values()):
            return {column: np.zeros(values.shape, bool) for column, values in shown.items()}
        never = self._never(self.post, name)
        of_truth = self._never(on_axes_of(self.post, self.truth), name) if self.truth is not None else never
        either = {"truth": of_truth, "error": never | of_truth}
        return {column: np.isnan(values) & either.get(str(column), never) for column, values in shown.items()}

    def _never(self, ds: xr.Dataset, name: str) -> np.ndarray:
        if name not in ds:
            return np.zeros((), bool)
        _, space = find_drawn_axes(self.post)
        missing = ds[name].isnull().all([d for d in ds[name].dims if d not in space])
        return missing.broadcast_like(self.post[list(self.dims)]).transpose(*self.dims).values

    def _add_bars(self, name: str, row: Mapping[Column, Axes]) -> None:
        """Colour bars: one for all states, one each for spread and error."""
        label = axis_label(self.post[name])
        drawn = [column for column in row if (name, column) in self.meshes]
        states = [column for column in drawn if column not in ("spread", "error")]
        alone = {"spread": f"spread of {label}", "error": f"error of {label}"}
        for group in (states, *([column] for column in drawn if column in alone)):
            self.figure.colorbar(
                self.meshes[name, group[-1]], ax=[row[column] for column in group], location=self.plane.bars,
                aspect=20 * (len(group) if self.plane.bars == "bottom" else 1),
                label=alone.get(str(group[0]), label),
            )  # fmt: skip


def _panel_size(plane: Plane) -> tuple[float, float]:
    """Width and height of a panel in inches, in the shape of the domain."""
    width, height = (2.7, 2.8) if plane.bars == "bottom" else (3.0, 2.8)
    if plane.shape is not None:
        height = float(np.clip(width * plane.shape, 0.4, 4.5))
    return width, height
