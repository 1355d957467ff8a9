"""Outlines of land: Natural Earth as cartopy has it on disk, or a simplified copy that comes with xsda.

Nothing is downloaded unless a scale is named. ``docs/figures/coastlines.py`` made the copy from Natural Earth data,
which are in the public domain.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

STEP = 0.006  # degrees, the unit of the copy
SCALES = ("10m", "50m", "110m")
Extent = tuple[float, float, float, float]  # west, east, south, north


@lru_cache(maxsize=1)
def bundled() -> tuple[np.ndarray, ...]:
    """Lines of longitudes and latitudes in degrees, (point, 2) each."""
    with np.load(Path(__file__).with_name("coastlines.npz")) as file:
        steps = np.stack([file["lon"], file["lat"]], axis=1)
        points = np.cumsum(steps, axis=0, dtype=np.int16) * STEP  # the sum wraps around as that of the differences did
        return tuple(np.split(points, np.cumsum(file["lengths"], dtype=np.int64)[:-1]))


def lines_within(extent: Extent) -> list[np.ndarray]:
    """Lines of the copy that touch a region, moved by whole circles to its longitudes, in the detail it can show."""
    west, east, south, north = extent
    smallest = max(east - west, north - south) / 1500
    found = []
    for line in bundled():
        (x0, y0), (x1, y1) = line.min(axis=0), line.max(axis=0)
        if y1 < south or y0 > north or max(x1 - x0, y1 - y0) < smallest:
            continue
        first, last = np.ceil((west - x1) / 360), np.floor((east - x0) / 360)
        found += [line + np.array([360.0 * turn, 0.0]) for turn in np.arange(first, last + 1)]
    return found


def natural_earth(scale: str, *, download: bool = False) -> Path | None:
    """Path of Natural Earth's coastline if cartopy has it on disk; None otherwise, unless it may be downloaded."""
    from cartopy import config
    from cartopy.io import Downloader, shapereader  # noqa: F401  (shapereader registers Natural Earth)

    names = {"resolution": scale, "category": "physical", "name": "coastline"}
    loader = Downloader.from_config(("shapefiles", "natural_earth", *names.values()))
    wanted = {**names, "config": config}
    here = [path for path in (loader.pre_downloaded_path(wanted), loader.target_path(wanted)) if path is not None]
    found = next((Path(path) for path in here if Path(path).exists()), None)
    return Path(loader.path(wanted)) if found is None and download else found


def coast_geometries(extent: Extent, scale: str | None = None) -> list[Any]:
    """Shapely lines between -180 and 180 degrees that lie in a region, in the detail that its picture can show.

    Parameters
    ----------
    extent
        West, east, south and north in degrees; longitudes in any convention.
    scale
        Scale of Natural Earth, "10m", "50m" or "110m", which cartopy downloads if it is not on disk. Default: what is
        on disk in sufficient detail, otherwise the copy.
    """
    import shapely
    from cartopy.io.shapereader import Reader

    west, east, south, north = extent
    span = max(east - west, north - south)
    preferred = ("10m", "50m") if span < 15 else ("50m", "10m")
    path = natural_earth(scale, download=True) if scale else next(filter(None, map(natural_earth, preferred)), None)
    lines = list(Reader(path).geometries()) if path else [shapely.LineString(line) for line in bundled()]
    turns = np.arange(np.floor((west + 180) / 360), np.floor((east + 180) / 360) + 1) * 360
    simple = shapely.simplify(lines, span / 3000)
    found = np.concatenate([shapely.clip_by_rect(simple, west - t, south, east - t, north) for t in turns])
    x0, y0, x1, y1 = shapely.bounds(found).T
    return list(found[np.fmax(x1 - x0, y1 - y0) > span / 1500])  # empty ones have NaN bounds
