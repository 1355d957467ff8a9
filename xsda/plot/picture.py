"""The panels of a picture of fields: cells, masks, marks and colour bars. They can be drawn again with other values."""

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
from xsda.plot.panels import panels
from xsda.plot.planes import Plane
from xsda.plot.selection import Drawn, drawn_coords, find_drawn_axes, observed_points, on_axes_of
from xsda.plot.style import axis_label

RING = {
    "edgecolors": "white", "linewidths": 0.9,
    "zorder": 5, "path_effects": [withStroke(linewidth=2.2, foreground="#1c1c1c")],
}  # fmt: skip
WIDE = 0.2  # height over width of a domain; the panels of wider ones lie one below the other
Column = str | int  # an integer is the position of a member
Values = Mapping[Column, np.ndarray]


@dataclass(eq=False)
class Picture:
    """Panels of fields, whose values and marks can be replaced; one row per variable, or one column if ``stacked``."""

    figure: Figure
    axes: np.ndarray
    plane: Plane
    post: xr.Dataset
    truth: xr.Dataset | None
    columns: Sequence[Column]
    names: Sequence[str]
    dims: tuple[str, ...]
    stacked: bool = False
    looks: Mapping[str, Mapping[Column, dict[str, Any]]] = field(default_factory=dict)
    meshes: dict[tuple[str, Column], Any] = field(default_factory=dict)
    marks: list[Artist] = field(default_factory=list)

    @classmethod
    def start(
        cls, post: xr.Dataset, truth: xr.Dataset | None, names: Sequence[str], dims: tuple[str, ...],
        columns: Sequence[Column], *, projection: Any, coastlines: bool | str, ax: Any,
    ) -> Picture:  # fmt: skip
        """Empty panels in the shape of the domain."""
        plane = choose_plane(drawn_coords(post, dims), dims == find_drawn_axes(post)[1], ax, projection, coastlines)
        stacked = ax is None and plane.shape is not None and plane.shape < WIDE
        if stacked:
            size = _stacked_size(plane, len(names), columns)
            figure, axes = panels(len(columns), len(names), None, figsize=size, **plane.options)
            return cls(figure, axes.T, plane, post, truth, columns, names, dims, stacked)
        size = _figure_size(plane, len(names), len(columns))
        figure, axes = panels(len(names), len(columns), ax, figsize=size, **plane.options)
        return cls(figure, axes, plane, post, truth, columns, names, dims)

    def rows(self) -> dict[str, dict[Column, Axes]]:
        """The Axes by variable and column."""
        return {
            name: dict(zip(self.columns, row, strict=True)) for name, row in zip(self.names, self.axes, strict=True)
        }

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
                left, bottom = column == self.columns[0], name == self.names[-1]
                if self.stacked:
                    left, bottom = name == self.names[0], column == self.columns[-1]
                self.plane.dress(panel, left=left, bottom=bottom)
            self._add_bars(name, row)
        for row in self.axes if self.stacked else self.axes[:1]:
            for panel, column in zip(row, self.columns, strict=True):
                panel.set_title(self._title(column))

    def update(self, shown: Mapping[str, Values]) -> None:
        """Other values in the same panels."""
        for (name, column), mesh in self.meshes.items():
            mesh.set_array(self.plane.shown(shown[name][column]))

    def mark(self, obs: Any, drawn: Drawn) -> None:
        """Mark the observations that belong to the states, in place of earlier ones."""
        for mark in self.marks:
            mark.remove()
        self.marks = []
        places = [str(c.name) for c in self.plane.coords]
        for name, row in self.rows().items():
            for column in {"ensemble mean", "trajectory"} & row.keys():
                for points in observed_points(obs, name, self.post, places, state=drawn.window):
                    size = float(np.clip(4000 / max(points.sizes["point"], 1), 4, 36))
                    look = {"s": size, "label": "observations", **RING, **self.looks[name][column]}
                    self.marks.append(self.plane.draw_points(row[column], points, **look))

    def legend(self, *, always: bool = False) -> list[Artist]:
        """Entries of the legend: the mark of observations where there are any, or always."""
        label = "observations, in the colour of their value"
        circle = Line2D([], [], ls="none", marker="o", ms=5, mfc="none", mec="#1c1c1c", label=label)
        return [circle] if always or self.marks else []

    def _title(self, column: Column) -> str:
        centre = "mean" if "ensemble mean" in self.columns else "trajectory"
        return (
            f"{centre} minus truth" if column == "error" else column if isinstance(column, str) else f"member {column}"
        )

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
        units = label[label.index(" [") :] if " [" in label else ""
        alone = {"spread": f"spread{units}", "error": f"error{units}"}
        groups = [states] + [[column] for column in drawn if column in alone]
        bars = "bottom" if self.stacked else self.plane.bars
        for group in groups:
            wide = 2 if self.stacked else len(group) if bars == "bottom" else 1
            self.figure.colorbar(
                self.meshes[name, group[-1]], ax=[row[column] for column in group], location=bars,
                aspect=20 * wide, label=alone.get(str(group[0]), label),
            )  # fmt: skip


def _stacked_size(plane: Plane, names: int, columns: Sequence[Column]) -> tuple[float, float]:
    """Width and height of a figure in inches, whose wide panels lie one below the other."""
    width = 7.0 if names == 1 else 5.0
    bars = 1 + len({"spread", "error"} & {*columns})
    panel = float(np.clip(width * (plane.shape or 1.0), 0.4, 5.0))
    return (width + 0.2) * names + 0.4, (panel + 0.35) * len(columns) + 0.6 * bars + 0.8


def _figure_size(plane: Plane, rows: int, columns: int) -> tuple[float, float]:
    """Width and height of a figure in inches, whose panels have the shape of the domain."""
    below = plane.bars == "bottom"
    width, height = (4.0 if columns == 1 else 2.7, 2.8) if below else (3.0, 2.8)
    if plane.shape is not None:
        height = float(np.clip(width * plane.shape, 0.4, 5.0))
    if below:
        return (width + 0.13) * columns + 0.35, (height + 1.0) * rows + 0.8
    return (width + 0.45) * columns + 0.8, (height + 0.2) * rows + 0.8
