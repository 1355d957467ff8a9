r"""Interpolates on grids with two-dimensional latitudes and longitudes.

The grid points are nodes, and four neighbours make a cell, whose edges are great circles. A cell is projected from the
centre of the Earth to the plane that touches the sphere at the centre of the cell. Great circles are straight lines
there, so neighbouring cells leave no gap and do not overlap. With the corners a, b, c, d around the cell, a place p
inside it has the coordinates (u, v) of

.. math:: p = (1-u)(1-v)\,a + u(1-v)\,b + uv\,c + (1-u)v\,d,

found in closed form. These are the weights of the corners. They reproduce fields that are linear in the plane, and the
corners themselves to rounding. They depend on distances only: rotating grid and places together changes nothing.

Places are looked for in blocks of cells, each inside a circle, then in the cells of these blocks. The search is
complete, also where cells are long and oblique.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from xsda.labels.cf import cell_method, in_units, is_latitude, is_longitude
from xsda.labels.curvilinear import LATITUDES, LONGITUDES, curvilinear
from xsda.labels.grid import Grid
from xsda.observations.stencils import SNAP, Stencil

NAMES = (LATITUDES, LONGITUDES)
BLOCK = 16  # cells along each side of a block
PAIRS = 2**20  # places and cells that are compared at a time
WIDEST = np.radians(60.0)  # cells that reach farther from their centre are not used
JOINED = 0.8  # share of an edge of the grid that must continue at another edge


@dataclass(frozen=True, eq=False)
class Mesh:
    """A grid on the sphere.

    Parameters
    ----------
    names
        Names of latitude and longitude.
    shape
        Shape of the grid.
    nodes
        Unit vectors of the ravelled grid points, (node, 3); NaN where the grid has no coordinates.
    cells
        Numbers of the corners around each cell, (rows, columns, 4).
    index
        The latitudes and longitudes of the grid with the user's ``NDPointIndex``; None without one.

    Examples
    --------
    >>> from xsda.labels import Grid, Layout
    >>> from xsda.observations.mesh import Mesh
    >>> y, x = np.mgrid[50:60:3j, 0:20:4j]
    >>> zeros = {"t": (("time", "y", "x"), np.zeros((1, 3, 4)))}
    >>> ds = xr.Dataset(zeros, {"time": [0.0], "lat": (("y", "x"), y), "lon": (("y", "x"), x)})
    >>> mesh = Mesh.of(Grid.match(Layout.of(ds), ds))
    >>> mesh.outside(np.array([51.0, 10.0]), np.array([365.0, 5.0]))
    array([False,  True])
    """

    names: tuple[str, str]
    shape: tuple[int, int]
    nodes: np.ndarray
    cells: np.ndarray
    index: xr.Dataset | None = None

    @classmethod
    def of(cls, grid: Grid) -> Mesh | None:
        """Return the mesh of a grid; None if it has no two-dimensional coordinates."""
        space = grid.core_dims[1:]
        pair = curvilinear(grid.template, space) if len(space) == 2 else None
        if pair is None:
            return None
        lat, lon = (_in_degrees(grid.orient(c)).transpose(*space) for c in pair)
        nodes = unit_vectors(lat.values, lon.values)
        if not np.isfinite(nodes).any():
            raise ValueError(f"the coordinates {lat.name!r} and {lon.name!r} of the grid hold NaN only")
        names = str(lat.name), str(lon.name)
        return cls(names, (lat.shape[0], lat.shape[1]), nodes.reshape(-1, 3), _cells(nodes), _with_index(grid, *pair))

    def locate(self, lat: np.ndarray, lon: np.ndarray) -> Stencil:
        """Interpolate between the corners of the cells that hold these places; raise outside the grid."""
        missing = np.isnan(lat) | np.isnan(lon)
        if missing.any():
            names = " or ".join(map(repr, self.names))
            raise ValueError(f"{int(missing.sum())} observations have NaN as {names}; drop them")
        cell, uv = self._search(lat, lon)
        if (cell < 0).any():
            raise ValueError(self._outside_text(lat[cell < 0], lon[cell < 0]))
        uv = np.where(uv < SNAP, 0, np.where(uv > 1 - SNAP, 1, uv))
        u, v = uv.T
        weight = np.stack([(1 - u) * (1 - v), u * (1 - v), u * v, (1 - u) * v], 1)
        return Stencil.compact(self.cells.reshape(-1, 4)[cell], weight, len(self.nodes))

    def outside(self, lat: np.ndarray, lon: np.ndarray) -> np.ndarray:
        """Whether places lie in no cell. A place that is NaN is not outside."""
        known = np.isfinite(lat) & np.isfinite(lon)
        out = np.zeros(lat.shape, bool)
        out[known] = self._search(lat[known], lon[known])[0] < 0
        return out

    def centre(self, index: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Return latitude and longitude of the centre of nodes (place, point) with weights, (place, 2)."""
        middle = np.einsum("mp,mpi->mi", np.abs(weight), np.nan_to_num(self.nodes[index]))
        return np.degrees(
            [np.arctan2(middle[:, 2], np.hypot(middle[:, 0], middle[:, 1])), np.arctan2(middle[:, 1], middle[:, 0])]
        ).T

    def areas(self) -> np.ndarray:
        """Return the area of each node: the mean of the cells around it, 0 without coordinates."""
        corners = self.nodes[self.cells.reshape(-1, 4)]
        area = np.nan_to_num(sum(_triangle(*np.moveaxis(corners[:, three], 1, 0)) for three in ([0, 1, 2], [0, 2, 3])))
        known, node = np.flatnonzero(area > 1e-9 * area.max()), self.cells.reshape(-1, 4)
        count = np.bincount(node[known].ravel(), minlength=len(self.nodes))
        total = np.bincount(node[known].ravel(), np.repeat(area[known], 4), len(self.nodes))
        return total / np.maximum(count, 1)

    def _outside_text(self, lat: np.ndarray, lon: np.ndarray) -> str:
        places = np.unique(np.stack([lat, lon], 1), axis=0)
        shown = ", ".join(f"({a:g}, {b:g})" for a, b in places[:5]) + (" ..." if len(places) > 5 else "")
        ranges = np.degrees(np.arcsin(self.nodes[:, 2].clip(-1, 1)))
        south, north = np.nanmin(ranges), np.nanmax(ranges)
        swapped = not self.outside(lon, lat).any()
        hint = (
            "They are inside if latitude and longitude are swapped"
            if swapped
            else "Use outside='drop', or extend the grid"
        )
        return (
            f"observations lie outside the grid, at ({', '.join(self.names)}) = {shown}; the latitudes of the grid are "
            f"{south:g} to {north:g}. {hint}"
        )

    def _search(self, lat: np.ndarray, lon: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the cell of each place (-1: none) and the coordinates (u, v) within it."""
        places = unit_vectors(lat, lon)
        cell, uv = np.full(len(places), -1), np.zeros((len(places), 2))
        todo = np.flatnonzero(np.abs(lat) <= 90)
        if self.index is not None:
            near = self._around(lat[todo], lon[todo])
            self._choose(places, np.repeat(todo, near.shape[1]), near.ravel(), cell, uv)
            todo = todo[cell[todo] < 0]
        for place, near in self._candidates(places, todo):
            self._choose(places, place, near, cell, uv)
        return cell, uv

    def _around(self, lat: np.ndarray, lon: np.ndarray) -> np.ndarray:
        """The cells around the node that the user's index finds nearest, (place, 4)."""
        assert self.index is not None
        first = float(self.index[self.names[1]].min())
        turned = first + np.mod(lon - first, 360)
        labels = dict(zip(self.names, (xr.Variable("place", p) for p in (lat, turned)), strict=True))
        row, column = np.divmod(self.index.sel(labels, method="nearest")["number"].values, self.shape[1])
        rows, columns = self.cells.shape[:2]
        above = np.clip(row[:, None] - [1, 1, 0, 0], 0, rows - 1)
        return above * columns + np.clip(column[:, None] - [1, 0, 1, 0], 0, columns - 1)

    def _candidates(self, places: np.ndarray, todo: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield pairs of places and cells: all cells within whose circle a place lies."""
        centre, radius = self._circles()
        number = np.arange(centre[..., 0].size).reshape(centre.shape[:2])
        member = _blocks(number)
        wide = np.where(np.isnan(radius.ravel()[member]), -1, np.nan_to_num(radius.ravel()[member]))
        inner = np.nan_to_num(centre.reshape(-1, 3))[member]
        middle = _normalised((inner * (wide >= 0)[..., None]).sum(1))
        around = np.where(wide < 0, -1, wide + _angle(inner, middle[:, None])).max(1)
        step = max(1, PAIRS // len(member))
        for start in range(0, len(todo), step):
            some = todo[start : start + step]
            which, block = np.nonzero(_within(places[some], middle, around))
            for first in range(0, len(which), PAIRS // member.shape[1]):
                span = slice(first, first + PAIRS // member.shape[1])
                place, cells = some[which[span]], member[block[span]]
                dot = np.einsum("pci,pi->pc", inner[block[span]], places[place])
                hit = np.nonzero(dot >= _cos(wide[block[span]]))
                yield place[hit[0]], cells[hit]

    def _circles(self) -> tuple[np.ndarray, np.ndarray]:
        """Centre (rows, columns, 3) and angular radius of each cell; NaN for cells that cannot be used."""
        corners = self.nodes[self.cells]
        centre = _normalised(corners.sum(2))
        radius = _angle(corners, centre[:, :, None]).max(2)
        return centre, np.where(radius > WIDEST, np.nan, radius)

    def _choose(
        self, places: np.ndarray, place: np.ndarray, near: np.ndarray, cell: np.ndarray, uv: np.ndarray
    ) -> None:
        """Write into ``cell`` and ``uv`` the candidate that holds each place, the one farthest inside first."""
        if not len(place):
            return
        corners = self.nodes[self.cells.reshape(-1, 4)[near]]
        found = bilinear(corners, places[place])
        beyond = np.nan_to_num(np.maximum(-found, found - 1).max(1), nan=np.inf)
        order = np.lexsort((near, beyond.clip(0), place))
        first = order[np.unique(place[order], return_index=True)[1]]
        first = first[beyond[first] <= SNAP]
        cell[place[first]], uv[place[first]] = near[first], found[first].clip(0, 1)


def sphere_positions(mesh: Mesh, grid: Grid, da: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray] | None:
    """Find latitude and longitude of the observations, with the same dimensions.

    None if positions are to be found along each dimension of the grid: if the observations have none of them, have the
    coordinates of the grid's dimensions as well, are averages, or are all grid points.
    """
    space = grid.core_dims[1:]
    given = [_position(da, *rule) for rule in zip(mesh.names, (is_latitude, is_longitude), NAMES, strict=True)]
    lat, lon = given
    if (lat is None and lon is None) or all(d in da.coords and d in grid.template.coords for d in space):
        return None
    names = {*space, *(str(c.name) for c in given if c is not None)}
    template = grid.template.get(da.name)
    if cell_method(da, names) not in (None, "point", None if template is None else cell_method(template, names)):
        return None
    if lat is None or lon is None:
        have, lack = mesh.names if lon is None else mesh.names[::-1]
        raise ValueError(f"observed variable {da.name!r} has {have!r} but no {lack!r}; add it as a coordinate")
    lat, lon = (_in_degrees(c) for c in xr.broadcast(lat, lon))
    lat, lon = (c.transpose(*(d for d in da.dims if d in c.dims)) for c in (lat, lon))
    if set(lat.dims) == set(space) and not any(d in grid.template.coords for d in space):
        own = mesh.nodes.reshape(*mesh.shape, 3)
        places = unit_vectors(lat.transpose(*space).values, lon.transpose(*space).values)
        if places.shape == own.shape and np.allclose(places, own, rtol=0, atol=1e-7, equal_nan=True):
            return None
    return _filled(lat, lon, da)


def outside_cells(grid: Grid, da: xr.DataArray) -> xr.DataArray | None:
    """Return which positions of an observed variable lie outside all cells, over the dimensions of the positions.

    None if positions are to be found along each dimension of the grid.
    """
    mesh = Mesh.of(grid)
    places = None if mesh is None else sphere_positions(mesh, grid, da)
    if mesh is None or places is None:
        return None
    lat, lon = places
    return xr.DataArray(mesh.outside(lat.values, lon.values), dims=lat.dims)


def _position(da: xr.DataArray, name: str, test: Callable[[xr.DataArray], bool], names: Sequence[str]) -> Any:
    """The coordinate with the name that the grid uses, or else one that is a latitude (longitude); None without one."""
    if name in da.coords:
        return da[name]
    return next((c for c in da.coords.values() if test(c) or str(c.name).lower() in names), None)


def _in_degrees(coord: xr.DataArray) -> xr.DataArray:
    return in_units(coord.astype(float), "degrees" if coord.attrs.get("units") else None, "xsda")


def _filled(lat: xr.DataArray, lon: xr.DataArray, da: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray]:
    """Give positions that are NaN, and whose values are all missing, another position: they are never read."""
    known = lat.notnull() & lon.notnull()
    if bool(known.all()) or not bool(known.any()):
        return lat, lon
    missing = da.isnull().all([d for d in da.dims if d not in lat.dims]).transpose(*lat.dims)
    keep = known | ~missing
    return tuple(c.where(keep, c.values[known.values][0]) for c in (lat, lon))  # type: ignore[return-value]


def unit_vectors(lat: np.ndarray, lon: np.ndarray) -> np.ndarray:
    """Unit vectors (..., 3) of latitudes and longitudes in degrees."""
    lat, lon = np.radians(lat), np.radians(lon)
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], -1)


def bilinear(corners: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Coordinates (u, v) of places (n, 3) in cells with the corners (n, 4, 3); NaN where there are none.

    Cells without area, such as those beside the poles of a fold, have none.

    The cross product of p - a - v (d - a) and the edge at v is a quadratic polynomial in v, which has one root with the
    orientation of the cell.
    """
    plane = _plane(_normalised(corners.sum(1)))
    a, b, c, d = np.moveaxis(_projected(corners, *plane), 1, 0)
    h = _projected(places[:, None], *plane)[:, 0] - a
    e, f, g = b - a, d - a, a - b + c - d
    square, slope, constant = _cross(f, g), _cross(g, h) - _cross(e, f), _cross(e, h)
    area = _cross(c - a, d - b)
    flat = np.abs(area) < 1e-9 * (((c - a) ** 2).sum(1) + ((d - b) ** 2).sum(1))
    with np.errstate(all="ignore"):
        root = np.sqrt(slope**2 - 4 * square * constant) * np.where(flat, np.nan, np.sign(area))
        v = np.where(slope * root <= 0, 2 * constant / (root - slope), -(slope + root) / (2 * square))
        edge, rest = e + g * v[:, None], h - f * v[:, None]
        length = (edge**2).sum(1)
        u = np.where(length > 0, (edge * rest).sum(1) / length, 0)
    return np.stack([u, v], 1)


def _cells(nodes: np.ndarray) -> np.ndarray:
    """Corners of the cells of a grid (y, x, 3), (rows, columns, 4), also across its seam and its fold.

    At a seam the last column (or row) continues with the first. At the fold of a tripolar grid the last (or first) row
    continues with itself, backwards. Both are found from the positions.
    """
    number = np.arange(nodes[..., 0].size).reshape(nodes.shape[:2])
    down, across = (len(n) > 2 and _continues(n[-2], n[-1], n[0]) for n in (nodes, nodes.swapaxes(0, 1)))
    first, last = (len(n) > 2 and _continues(n[-2], n[-1], n[-1, ::-1]) for n in (nodes[::-1], nodes))
    before, after = number[:1, ::-1], number[-1:, ::-1]
    number = np.concatenate([*([before] if first else []), number, *([after] if last else [])])
    if down:
        number = np.concatenate([number, number[:1]])
    if across:
        number = np.concatenate([number, number[:, :1]], 1)
    return np.stack([number[:-1, :-1], number[:-1, 1:], number[1:, 1:], number[1:, :-1]], -1)


def _triangle(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Areas of triangles on the sphere (van Oosterom & Strackee 1983, 10.1109/TBME.1983.325207)."""
    volume = np.abs(np.einsum("ni,ni->n", a, np.cross(b, c)))
    return 2 * np.arctan2(volume, 1 + (a * b).sum(1) + (b * c).sum(1) + (c * a).sum(1))


def _continues(before: np.ndarray, last: np.ndarray, following: np.ndarray) -> bool:
    """Whether a row of points (n, 3) goes on from the two rows before it, beside the last and about as far away."""
    step, gap = last - before, following - last
    with np.errstate(all="ignore"):
        ratio = np.linalg.norm(gap, axis=1) / np.linalg.norm(step, axis=1)
    onwards = (ratio > 0.5) & (ratio < 2) & (_cosine(step, gap) > 0.4)
    beside = _cosine(np.diff(last, axis=0), np.diff(following, axis=0)) > 0.4
    known = np.isfinite(step + gap).all(1)
    return all(k.any() and c[k].mean() >= JOINED for c, k in ((onwards, known), (beside, known[1:] & known[:-1])))


def _cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine of the angle between vectors; 0 for vectors of length zero."""
    return (_normalised(a) * _normalised(b)).sum(-1)


def _blocks(number: np.ndarray) -> np.ndarray:
    """Sort cells (rows, columns) into blocks (block, cell); at the ends cells are repeated."""
    rows, columns = number.shape
    number = np.pad(number, ((0, -rows % BLOCK), (0, -columns % BLOCK)), mode="edge")
    split = number.reshape(len(number) // BLOCK, BLOCK, -1, BLOCK)
    return split.swapaxes(1, 2).reshape(-1, BLOCK**2)


def _with_index(grid: Grid, lat: xr.DataArray, lon: xr.DataArray) -> xr.Dataset | None:
    """The numbers of the nodes with the user's NDPointIndex of both coordinates (in degrees); None if there is none."""
    index = grid.template.xindexes.get(lat.name)
    if not isinstance(index, xr.indexes.NDPointIndex) or index is not grid.template.xindexes.get(lon.name):
        return None
    if not np.array_equal(_in_degrees(lat), lat):
        return None
    space = grid.core_dims[1:]
    shape = tuple(grid.template.sizes[d] for d in space)
    number = grid.orient(xr.DataArray(np.arange(lat.size).reshape(shape), dims=space))
    return grid.template.drop_vars(list(grid.template.data_vars)).assign(number=number)


def _plane(centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centres (n, 3) and two orthonormal vectors (n, 2, 3) of the planes that touch the sphere there."""
    axis = np.eye(3)[np.abs(centre).argmin(-1)]
    first = _normalised(np.cross(axis, centre))
    return centre, np.stack([first, np.cross(centre, first)], 1)


def _projected(x: np.ndarray, centre: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Project vectors (n, k, 3) from the centre of the Earth to planes, (n, k, 2); NaN on the far side."""
    height = np.einsum("nki,ni->nk", x, centre)
    return np.einsum("nki,nbi->nkb", x, basis) / np.where(height > 0, height, np.nan)[..., None]


def _normalised(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-300)


def _angle(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Angles between unit vectors."""
    return 2 * np.arcsin((np.linalg.norm(a - b, axis=-1) / 2).clip(0, 1))


def _cos(radius: np.ndarray) -> np.ndarray:
    """Cosine of radii with a margin for rounding and places on the edge; 2, out of reach, for negative ones."""
    return np.where(radius < 0, 2, np.cos(np.minimum(1.01 * radius + 1e-7, np.pi)) - 1e-15)


def _within(places: np.ndarray, middle: np.ndarray, radius: np.ndarray) -> np.ndarray:
    return places @ middle.T >= _cos(radius)


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
