"""Maps: the plane of latitudes and longitudes in a projection of cartopy."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.path import Path
from matplotlib.ticker import MaxNLocator

from xsda.arguments import choose
from xsda.labels.cf import is_latitude, is_longitude
from xsda.plot.coastlines import SCALES, Extent, coast_geometries
from xsda.plot.planes import LatLon, Plane
from xsda.plot.style import COAST

NEEDS = "{} needs cartopy; install it with: pip install 'xsda[plot]'"
MOST_CELLS = 720  # along an axis; a projection of more cells than pixels takes long and shows no more


class Map(LatLon):
    """Latitudes and longitudes, along the axes or two-dimensional, in a projection on GeoAxes of cartopy."""

    def __init__(self, coords: Sequence[xr.DataArray], *, projection: Any, coastlines: bool | str):
        super().__init__(coords, coastlines=bool(coastlines))
        self.degrees = projections().PlateCarree()
        self.transform = {"transform": self.degrees}
        self.first = 0 if projection or self.curved else self._begin_at_edge()
        chosen = choose_projection(self.extent, down=self._down() if self.curved else 0.0)
        self.projection = projection or chosen
        self.polar = is_polar(self.extent) and self.projection == chosen
        self.round = self.polar and not self.curved
        self.limits = self._limits()
        self.size = self.y.shape if self.curved else (len(self.y), len(self.x))
        self.blocks = tuple(-(-length // MOST_CELLS) for length in self.size)
        scale = coastlines if isinstance(coastlines, str) else None
        self.lines = coast_geometries(self.extent, scale) if coastlines else []

    @cached_property
    def known(self) -> np.ndarray:
        """Whether each cell has coordinates; cartopy draws those across the edge on both sides."""
        return np.isfinite(self.y + self.x) if self.curved else np.ones((), bool)

    @property
    def options(self) -> dict[str, Any]:
        return {"layout": "compressed", "subplot_kw": {"projection": self.projection}}

    @property
    def shape(self) -> float:
        west, east, south, north = self.limits
        return (north - south) / (east - west)

    def shown(self, values: np.ndarray) -> np.ndarray:
        return block_means(np.roll(super().shown(values), -self.first, axis=1), self.blocks)

    def draw_cells(self, panel: Any, values: np.ndarray, **look: Any) -> Any:
        up, across = (_every(np.arange(n + 1), b) for n, b in zip(self.size, self.blocks, strict=True))
        lat, lon = (c[np.ix_(up, across)] if self.curved else c[i] for c, i in ((self.lat, up), (self.lon, across)))
        return panel.pcolormesh(lon, lat, self.shown(values), rasterized=True, **look, **self.transform)

    def dress(self, panel: Any, *, left: bool, bottom: bool) -> None:
        west, east, south, north = self.limits
        panel.set_xlim(west, east)
        panel.set_ylim(south, north)
        if self.lines:
            panel.add_geometries(
                self.lines, self.degrees, facecolor="none", edgecolor=COAST, linewidth=self.coast_width, zorder=2
            )
        grid = panel.gridlines(
            draw_labels=self._labelled(left, bottom), lw=0.4, color="0.2", alpha=0.3, x_inline=False, y_inline=False,
            xlocs=self._degrees(0), ylocs=self._degrees(2),
        )  # fmt: skip
        grid.rotate_labels = False
        grid.xlabel_style = grid.ylabel_style = {"size": "small", "color": "0.25"}
        if self.round:
            panel.set_boundary(circle(), transform=panel.transAxes)
        panel.spines["geo"].set(lw=0.8, edgecolor="0.3")

    def _down(self) -> float:
        """The longitude that points down on a map of a pole whose columns stand upright."""
        row, count = self.lon[0 if self.lat.mean() > 0 else -1], self.lon.shape[1]
        middle = np.radians(row[[(count - 1) // 2, count // 2]])
        return float(np.degrees(np.angle(np.exp(1j * middle).sum())))

    def _begin_at_edge(self) -> int:
        """Turn a grid around the globe until it begins near 180 degrees; return the first column.

        No cell then lies across the edge of the map, where cartopy takes long to draw. The grid ends a hair inside of
        the edge, whose two sides have the same longitude.
        """
        around = 360 * np.sign(self.lon[-1] - self.lon[0])
        if abs(self.lon[-1] - self.lon[0] - around) > 1e-6:
            return 0
        first = int(np.abs(self.lon[:-1] % 360 - 180).argmin()) if is_global(self.extent) else 0
        turned = np.concatenate([self.lon[first:-1], self.lon[:first] + around, self.lon[first : first + 1] + around])
        self.lon = turned - 360 * np.round(turned.mean() / 360 - 1e-9)
        self.lon[[0, -1]] += np.array([1e-4, -1e-4]) * np.sign(around)
        return first

    def _labelled(self, left: bool, bottom: bool) -> dict[str, str] | bool:
        """Sides with labels; none on a disc and on the globe."""
        sides = {"left": "y"} if left else {}
        if bottom:
            sides["bottom"] = "x"
        return False if self.polar or is_global(self.extent) else sides or False

    def _degrees(self, first: int) -> np.ndarray:
        """Round longitudes or latitudes of the grid lines."""
        if self.polar or is_global(self.extent):
            return np.arange(-180, 181, 60) if first == 0 else np.arange(-90, 91, 30)
        low, high = self.extent[first : first + 2]
        found = np.asarray(MaxNLocator(nbins=5, steps=[1, 2, 3, 5, 6, 10]).tick_values(low, high))
        return found if first else -((180 - found) % 360 - 180)

    def _limits(self) -> Extent:
        """Limits in the coordinates of the projection: the domain, or the whole globe."""
        if is_global(self.extent):
            return (*self.projection.x_limits, *self.projection.y_limits)
        west, east, south, north = self.extent
        lon, lat = np.meshgrid(np.linspace(west, east, 61), np.linspace(south, north, 61))
        if self.curved:
            lon, lat = self.lon, self.lat
        x, y, _ = np.moveaxis(self.projection.transform_points(self.degrees, lon, lat), -1, 0)
        x, y = x[np.isfinite(x)], y[np.isfinite(y)]
        return x.min(), x.max(), y.min(), y.max()


def choose_plane(
    coords: Sequence[xr.DataArray], in_space: bool, ax: Any, projection: Any, coastlines: bool | str
) -> Plane:
    """The plane that fits the coordinates up and across, the caller's Axes and the packages that are installed."""
    if not isinstance(coastlines, bool) and coastlines not in SCALES:
        raise ValueError(f"coastlines={coastlines!r} must be True, False or a scale of Natural Earth among {SCALES}")
    asked = "projection=" if projection is not None else f"coastlines={coastlines!r}"
    if not is_geographic(coords):
        if projection is not None:
            raise ValueError(
                f"projection= needs latitudes and longitudes; these states lie on {[c.name for c in coords]}"
            )
        return Plane(coords, shaped=in_space)
    own = None if ax is None else np.ravel(np.asarray(ax, dtype=object))[0]
    mapped = own is None or hasattr(own, "projection")
    if mapped and has_cartopy():
        return Map(coords, projection=getattr(own, "projection", projection), coastlines=coastlines)
    if projection is not None or isinstance(coastlines, str):
        raise ImportError(NEEDS.format(asked))
    return LatLon(coords, coastlines=coastlines)


def is_geographic(coords: Sequence[xr.DataArray]) -> bool:
    """Whether the coordinates up and across are latitude and longitude."""
    y, x = coords
    return is_latitude(y) and is_longitude(x)


def is_global(extent: Extent) -> bool:
    """Whether the domain goes around the globe and covers most of it."""
    west, east, south, north = extent
    return east - west > 350 and north - south > 120


def is_polar(extent: Extent) -> bool:
    """Whether the domain is a cap around a pole."""
    west, east, south, north = extent
    return (
        east - west > 180 and not is_global(extent) and ((south >= 20 and north > 75) or (north <= -20 and south < -75))
    )


def choose_projection(extent: Extent, *, down: float = 0.0) -> Any:
    """A projection that distorts a domain little.

    Parameters
    ----------
    extent
        West, east, south, north in degrees.
    down
        Longitude that points down (in the south up) on a cap that surrounds a pole.

    Returns
    -------
    cartopy.crs.Projection
        Robinson for the globe. Polar stereographic for a cap around a pole. Stereographic for a region near a pole.
        Mercator for other regions of up to 25 degrees. Lambert's conformal cone for larger ones outside of the tropics.
        Latitude against longitude for all others.
    """
    crs = projections()
    west, east, south, north = extent
    lon, lat = (west + east) / 2, (south + north) / 2
    span = max(east - west, north - south)
    if is_global(extent):
        return crs.Robinson(central_longitude=lon)
    if is_polar(extent):
        around = down if east - west > 350 else lon
        return (crs.NorthPolarStereo if lat > 0 else crs.SouthPolarStereo)(central_longitude=around)
    if span <= 120 and (abs(lat) > 70 or max(abs(south), abs(north)) > 82):
        return crs.Stereographic(central_latitude=lat, central_longitude=lon)
    if span <= 25:
        return crs.Mercator(central_longitude=lon, latitude_true_scale=lat)
    if span <= 120 and min(abs(south), abs(north)) > 5 and abs(lat) > 25:
        sixth = (north - south) / 6
        return crs.LambertConformal(
            lon, lat, standard_parallels=(south + sixth, north - sixth), cutoff=-30 if lat > 0 else 30
        )
    return crs.PlateCarree(central_longitude=lon)


def named_projection(name: str, **parameters: Any) -> Any:
    """Return a projection of cartopy by the name of its class.

    Parameters
    ----------
    name
        Such as ``"Orthographic"``.
    **parameters
        Such as ``central_longitude=-3``.

    Returns
    -------
    cartopy.crs.Projection
        The projection.
    """
    if not has_cartopy():
        raise ImportError(NEEDS.format(f"the projection {name}"))
    crs = projections()
    known = [k for k, v in vars(crs).items() if isinstance(v, type) and issubclass(v, crs.Projection)]
    if name not in known:
        raise ValueError(f"unknown projection {name!r}; {choose(name, known)}")
    try:
        return getattr(crs, name)(**parameters)
    except TypeError as error:
        raise ValueError(f"the projection {name} cannot be made of {parameters}: {error}") from None


def has_cartopy() -> bool:
    """Whether cartopy is installed."""
    return importlib.util.find_spec("cartopy") is not None


def block_means(values: np.ndarray, blocks: Sequence[int]) -> np.ndarray:
    """Means over blocks of cells, without those that are NaN."""
    if max(blocks) == 1:
        return values
    padded = np.pad(values, [(0, -n % b) for n, b in zip(values.shape, blocks, strict=True)], constant_values=np.nan)
    (ny, nx), (by, bx) = padded.shape, blocks
    parts = padded.reshape(ny // by, by, nx // bx, bx)
    known = np.isfinite(parts)
    with np.errstate(invalid="ignore"):
        return np.where(known, parts, 0).sum(axis=(1, 3)) / known.sum(axis=(1, 3))


def _every(edges: np.ndarray, block: int) -> np.ndarray:
    """Edges of the blocks; the last edge stays."""
    return np.append(edges[:-1:block], edges[-1])


def projections() -> Any:
    """The module ``cartopy.crs``.

    The wheels of eccodes and of pyproj each hold a copy of PROJ. Where eccodes came first, as it does when xarray opens
    a file, pyproj would call functions of the other copy and the interpreter would crash at its end. The flag makes
    pyproj prefer its own copy.
    """
    flags = sys.getdlopenflags() if hasattr(os, "RTLD_DEEPBIND") else None
    if flags is not None and "pyproj" not in sys.modules:
        sys.setdlopenflags(flags | os.RTLD_DEEPBIND)
    try:
        return importlib.import_module("cartopy.crs")
    finally:
        if flags is not None:
            sys.setdlopenflags(flags)


def circle() -> Path:
    """A circle that fills the panel."""
    angle = np.linspace(0, 2 * np.pi, 181)
    return Path(0.5 + 0.5 * np.stack([np.sin(angle), np.cos(angle)], axis=1))
