"""Make the outline of land that maps draw where cartopy has no Natural Earth files: xsda/plot/coastlines.npz.

Natural Earth (naturalearthdata.com) is in the public domain. This script reads its land polygons at 1:10 million as
TopoJSON, drops the seams at 180 degrees and at the South Pole and islands of less than 3 km, and removes points that
change a line by less than .015 degrees. The file holds the differences between neighbouring points, in units of .006
degrees. Sums of 16-bit integers wrap around, so the large steps between lines are exact as well.

python docs/figures/coastlines.py land-10m.json
"""

import json
import sys
from pathlib import Path

import numpy as np
import shapely

STEP, TOLERANCE, SMALLEST = 0.006, 0.015, 0.03  # degrees
OUT = Path(__file__).parents[2] / "xsda" / "plot" / "coastlines.npz"


def read_lines(path: str) -> list[np.ndarray]:
    """Lines of longitudes and latitudes, (point, 2), cut where a polygon follows a seam of the map."""
    topology = json.loads(Path(path).read_text())
    scale, origin = (np.array(topology["transform"][key]) for key in ("scale", "translate"))
    lines = []
    for arc in topology["arcs"]:
        points = np.cumsum(np.array(arc, float), axis=0) * scale + origin
        seam, pole = np.abs(points[:, 0]) > 179.995, points[:, 1] < -89.9
        cut = (np.abs(np.diff(points[:, 0])) > 180) | (seam[1:] & seam[:-1]) | pole[1:] | pole[:-1]
        lines += [part for part in np.split(points, np.flatnonzero(cut) + 1) if len(part) > 1]
    return lines


def simplify(lines: list[np.ndarray]) -> list[np.ndarray]:
    """Without islets, pieces of the seam and superfluous points."""
    islet = [
        (np.allclose(line[0], line[-1]) and np.ptp(line, axis=0).max() < SMALLEST) or np.abs(line[:, 0]).min() > 179.97
        for line in lines
    ]
    kept = [shapely.LineString(line) for line, small in zip(lines, islet, strict=True) if not small]
    return [np.array(line.coords) for line in shapely.simplify(kept, TOLERANCE)]


if __name__ == "__main__":
    lines = simplify(read_lines(sys.argv[1]))
    points = np.round(np.concatenate(lines) / STEP).astype(np.int16)
    steps = np.diff(points, axis=0, prepend=np.zeros((1, 2), np.int16))
    np.savez_compressed(
        OUT, lengths=np.array([len(line) for line in lines], np.uint16), lon=steps[:, 0], lat=steps[:, 1]
    )
    print(f"{len(lines)} lines, {len(points)} points, {OUT.stat().st_size / 1000:.0f} kB")
