"""The plane of a picture of fields: where its cells, its observations and its coastlines lie."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
import xarray as xr
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap
from matplotlib.patches import PathPatch
from matplotlib.path import Path

from xsda.labels.axes import axis_numbers, is_datelike
from xsda.observations.mesh import unit_vectors
from xsda.plot.coastlines import lines_within
from xsda.plot.panels import label_time
from xsda.plot.style import COAST, HATCHED, MASKED, aspect_of, axis_values


class Plane:
    """Two axes of any kind, drawn on plain matplotlib Axes.

    ``coords`` are the coordinates up and across. With ``aspect`` the panel has the shape of the domain.
    """

    transform: dict[str, Any] = {}  # noqa: RUF012  (of artists that lie on longitudes and latitudes)

    def __init__(self, coords: Sequence[xr.DataArray], *, shaped: bool = True):
        self.coords = coords
        self.y, self.x = (axis_values(c, c.values[0]) for c in coords)
        self.aspect = aspect_of(*coords) if shaped else None

    @property
    def options(self) -> dict[str, Any]:
        """Options of the figure's Axes."""
        return {"layout": "compressed" if self.aspect else "constrained", "sharex": True, "sharey": True}

    @property
    def shape(self) -> float | None:
        """Height over width; None if a panel may have any shape."""
        if self.aspect is None:
            return None
        up, across = (float(np.ptp(axis_numbers(c))) or 1.0 for c in self.coords)
        return self.aspect * up / across

    @property
    def bars(self) -> Literal["right", "bottom"]:
        """Where colour bars fit: below flat panels, beside tall ones."""
        return "right" if self.shape is None or self.shape > 0.5 else "bottom"

    def draw_cells(self, panel: Axes, values: np.ndarray, **look: Any) -> Any:
        """Coloured cells, (up, across)."""
        return panel.pcolormesh(self.x, self.y, values, shading="nearest", rasterized=True, **look)

    def shown(self, values: np.ndarray) -> np.ndarray:
        """The numbers of the cells that are drawn."""
        return values

    def draw_mask(self, panel: Axes, mask: np.ndarray) -> None:
        """Grey, hatched cells where there never is a value."""
        if not mask.any():
            return
        grey = self.draw_cells(panel, np.where(mask, 1.0, np.nan), cmap=ListedColormap([MASKED]), zorder=0.9)
        grey.set_label("masked")
        corners = np.asarray(grey.get_coordinates(), float)
        up, across = np.nonzero(
            np.isfinite(np.ma.filled(grey.get_array(), np.nan)).reshape(np.array(corners.shape[:2]) - 1)
        )
        cells = np.stack([corners[up + a, across + b] for a, b in ((0, 0), (0, 1), (1, 1), (1, 0))], axis=1)
        cells = cells[np.isfinite(cells).all((1, 2))]
        if len(cells):  # all cells are one patch, because a mesh has no hatching
            outline = Path.make_compound_path_from_polys(cells)
            look = {"facecolor": "none", "edgecolor": HATCHED, "hatch": "////", "linewidth": 0, "zorder": 0.95}
            panel.add_artist(PathPatch(outline, transform=grey.get_transform(), **look))

    def draw_points(self, panel: Axes, points: xr.Dataset, **look: Any) -> Artist:
        """Circles at observations, as ``observed_points`` gives them."""
        y, x = (axis_values(points[c.name], c.values[0] if is_datelike(c) else None) for c in self.coords)
        return panel.scatter(self.place(x), y, c=points["value"].values, **look, **self.transform)

    def place(self, x: np.ndarray) -> np.ndarray:
        """Positions across, moved to where the picture shows them."""
        return x

    def dress(self, panel: Axes, *, left: bool, bottom: bool) -> None:
        """Shape, ticks and labels; at the left and the bottom of the figure only."""
        panel.set_aspect(self.aspect or "auto")
        if bottom:
            label_time(panel.xaxis, self.coords[1])
        if left:
            label_time(panel.yaxis, self.coords[0])


class LatLon(Plane):
    """Latitudes and longitudes on plain Axes, stretched by 1 / cos(latitude), with the outline of land.

    ``lat`` and ``lon`` are the edges of the cells along each axis, or with two-dimensional coordinates their corners.
    Cells without coordinates are not drawn, and neither are those that lie across the edge of the picture.
    """

    def __init__(self, coords: Sequence[xr.DataArray], *, coastlines: bool = True):
        super().__init__(coords)
        self.coastlines = coastlines
        self.curved = self.y.ndim == 2
        if self.curved:
            self.lat, self.lon = corners(self.y, self.x)
        else:
            self.lat, self.lon = np.clip(edges(self.y), -90, 90), edges(continuous(self.x))

    @cached_property
    def known(self) -> np.ndarray:
        """Whether each cell can be drawn."""
        if not self.curved:
            return np.ones((), bool)
        around = np.stack([self.lon[:-1, :-1], self.lon[:-1, 1:], self.lon[1:, :-1], self.lon[1:, 1:]])
        return np.isfinite(self.y + self.x) & (np.ptp(around, axis=0) < 180)

    @property
    def shape(self) -> float | None:
        west, east, south, north = self.extent
        return (self.aspect or 1.0) * (north - south) / (east - west)

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """West, east, south, north."""
        return self.lon.min(), self.lon.max(), self.lat.min(), self.lat.max()

    @property
    def bars(self) -> Literal["right", "bottom"]:
        return "bottom" if (self.shape or 1) < 1.6 else "right"

    @property
    def coast_width(self) -> float:
        """Width of coastlines in points: thinner where more of them share a panel."""
        west, east, south, north = self.extent
        return 0.7 if max(east - west, north - south) < 40 else 0.45

    def shown(self, values: np.ndarray) -> np.ndarray:
        return np.where(self.known, values, np.nan)

    def draw_cells(self, panel: Axes, values: np.ndarray, **look: Any) -> Any:
        return panel.pcolormesh(self.lon, self.lat, self.shown(values), rasterized=True, **look, **self.transform)

    def place(self, x: np.ndarray) -> np.ndarray:
        west = self.extent[0]
        return west + (x - west) % 360

    def dress(self, panel: Axes, *, left: bool, bottom: bool) -> None:
        super().dress(panel, left=left, bottom=bottom)
        west, east, south, north = self.extent
        if self.coastlines:
            outline = LineCollection(lines_within(self.extent), colors=COAST, linewidths=self.coast_width)
            panel.add_collection(outline, autolim=False)
        panel.set_xlim(west, east)
        panel.set_ylim(south, north)


def continuous(lon: np.ndarray) -> np.ndarray:
    """Longitudes without a jump at 180 or 360 degrees, with their middle between -180 and 180."""
    lon = np.unwrap(np.asarray(lon, float), period=360)
    return lon - 360 * np.ceil(((lon.min() + lon.max()) / 2 - 180) / 360)


def edges(centres: np.ndarray) -> np.ndarray:
    """Edges of cells: the midpoints of their centres, and as far again beyond the first and last."""
    if len(centres) == 1:
        return centres[0] + np.array([-0.5, 0.5])
    middle = (centres[1:] + centres[:-1]) / 2
    return np.array([2 * centres[0] - middle[0], *middle, 2 * centres[-1] - middle[-1]])


def corners(lat: np.ndarray, lon: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners of cells with two-dimensional centres: the middle of the four centres around, on the sphere.

    Beyond the first and last rows and columns the centres continue as they came. Longitudes have their jump where the
    grid has its widest gap. Corners without any centre lie at the first corner that has one; their cells are not drawn.
    """
    centres = np.pad(unit_vectors(lat, lon), ((1, 1), (1, 1), (0, 0)))
    for x in (centres, centres.swapaxes(0, 1)):
        x[0], x[-1] = (2 * x[1] - x[2], 2 * x[-2] - x[-3]) if len(x) > 3 else (x[1], x[1])
    around = np.stack([centres[:-1, :-1], centres[:-1, 1:], centres[1:, :-1], centres[1:, 1:]])
    known = np.isfinite(around)
    x, y, z = np.moveaxis(np.where(known, around, 0).sum(0) / np.maximum(known.sum(0), 1), -1, 0)
    seen = known.any((0, 3))
    lat, lon = np.degrees([np.arctan2(z, np.hypot(x, y)), np.arctan2(y, x)])
    lat, lon = (np.where(seen, c, c[seen][0]) for c in (lat, lon))
    turned = np.sort(lon.ravel())
    west = turned[np.diff(turned, prepend=turned[-1] - 360).argmax()]
    lon = west + (lon - west) % 360
    return lat, lon - 360 * np.ceil(((lon.min() + lon.max()) / 2 - 180) / 360)
