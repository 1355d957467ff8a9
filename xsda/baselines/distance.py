r"""Distances from observations to grid points, and the weight that observations have there.

Distances are in the units of the coordinates, around the ring on periodic axes; on (latitude, longitude) they are great
circles in kilometres, also where these are two-dimensional. The taper of Gaspari & Cohn (1999, eq. 4.10) stands for a
Gaussian of standard deviation ``length``: its half-support is :math:`c = \sqrt{10/3}` lengths, and it is zero beyond
2 c.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from xsda.arguments import choose
from xsda.labels.cf import is_latitude, is_longitude
from xsda.labels.grid import Grid
from xsda.observations.compile import grid_axis
from xsda.observations.mesh import Mesh, unit_vectors

EARTH = 6371.0  # km
LEAST = 1e-3  # smaller weights are dropped
HALF = (10 / 3) ** 0.5


def gaspari_cohn(distance: np.ndarray) -> np.ndarray:
    """The taper at distances in units of the length."""
    z = np.minimum(np.abs(distance) / HALF, 2.0)
    near = 1 - 5 / 3 * z**2 + 5 / 8 * z**3 + z**4 / 2 - z**5 / 4
    outer = np.maximum(z, 1.0)
    far = 4 - 5 * outer + 5 / 3 * outer**2 + 5 / 8 * outer**3 - outer**4 / 2 + outer**5 / 12 - 2 / (3 * outer)
    return np.where(z <= 1, near, np.where(z < 2, np.maximum(far, 0), 0))


class Metric:
    """Distances on a grid in units of the localization length.

    ``localization``: one length, or one per dimension of the grid, in its units (dimensions that it does not name have
    no localization).
    """

    def __init__(self, grid: Grid, localization: float | Mapping[str, float]):
        space = grid.core_dims[1:]
        if not space:
            raise ValueError("the state has no space dimensions, so there is nothing to localize; use ETKF")
        if isinstance(localization, Mapping):
            for name in localization:
                if name not in space:
                    raise ValueError(
                        f"localization names {name!r}, the grid has {', '.join(space)}; {choose(name, space)}"
                    )
            lengths = [float(localization.get(d, np.inf)) for d in space]
        else:
            lengths = [float(localization)] * len(space)
        self.axes = [grid_axis(grid, d) for d in space]
        mesh = Mesh.of(grid)
        if mesh is not None and isinstance(localization, Mapping):
            raise ValueError(
                f"the grid has the two-dimensional coordinates {' and '.join(mesh.names)}, so localization must be one "
                f"length in kilometres, got {dict(localization)}"
            )
        self.nodes = None if mesh is None else mesh.nodes.reshape(*mesh.shape, 3)
        self.sphere = len(space) == 2 and _on_sphere(grid) and not isinstance(localization, Mapping)
        self.lengths = lengths
        if not self.sphere and mesh is None:
            self._check_degrees(grid, space)

    def _check_degrees(self, grid: Grid, space: Sequence[str]) -> None:
        """Raise where kilometres must have been meant."""
        for d, length in zip(space, self.lengths, strict=True):
            degrees = d in grid.template.coords and (is_latitude(grid.template[d]) or is_longitude(grid.template[d]))
            if degrees and 180 < length < np.inf:
                raise ValueError(
                    f"localization={length:g} along {d!r} is in degrees here, more than there are; kilometres are for "
                    "one length on latitude and longitude together, and 111 of them are a degree of latitude"
                )

    def part(self, spans: Sequence[slice]) -> Metric:
        """The same on a part of the grid, a span of each dimension; rings stay as long as they are."""
        other = copy.copy(self)
        other.axes = [replace(a, points=a.points[s]) for a, s in zip(self.axes, spans, strict=True)]
        if self.nodes is not None:
            other.nodes = self.nodes[tuple(spans)]
        return other

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(len(a.points) for a in self.axes)

    def rows(self) -> int:
        """How many grid points there are for each along the first dimension."""
        return int(np.prod(self.sizes[1:]))

    def near(self, position: np.ndarray, first: int, last: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What counts at these rows of the first dimension, for observations at ``position`` (M, space).

        Pairs as three arrays: grid points (of these rows, ravelled, ascending), observations, and what they count
        there.
        """
        mine = self.axes[0].points[first:last]
        if self.nodes is not None:
            mine = self.nodes[first:last]
            along = self._along_meridians(mine, position[:, 0])
        elif self.sphere:
            along = np.radians(np.nan_to_num(mine[:, None] - position[:, 0])) * EARTH / self.lengths[0]
        else:
            along = self._along(0, mine, position[:, 0])
        chosen = np.flatnonzero(np.abs(along).min(0) < 2 * HALF)  # no distance is shorter than along one axis
        distance = self._distance(mine, position[chosen])
        point, place = np.nonzero(distance < 2 * HALF)
        weight = gaspari_cohn(distance[point, place])
        heavy = weight > LEAST
        return point[heavy], chosen[place[heavy]], weight[heavy]

    def _along_meridians(self, nodes: np.ndarray, lat: np.ndarray) -> np.ndarray:
        """Scaled distances to the range of latitudes of these grid points, (1, M)."""
        height = nodes[..., 2][np.isfinite(nodes[..., 2])].clip(-1, 1)
        south, north = (np.degrees(np.arcsin(end)) for end in (height.min(initial=1), height.max(initial=-1)))
        return np.radians(np.nan_to_num(lat - lat.clip(south, north)))[None] * EARTH / self.lengths[0]

    def _along(self, number: int, points: np.ndarray, position: np.ndarray) -> np.ndarray:
        """Scaled distances along one axis, (points, M)."""
        offset = points[:, None] - position
        period = self.axes[number].period
        if period is not None:
            offset = offset - period * np.round(offset / period)
        return np.nan_to_num(offset) / self.lengths[number]  # averages over the dimension are nowhere in particular

    def _distance(self, mine: np.ndarray, position: np.ndarray) -> np.ndarray:
        """(points of these rows, M)."""
        if self.nodes is not None:
            cosine = mine.reshape(-1, 3) @ unit_vectors(*position.T).T
            far = 2 * EARTH * np.arcsin(np.sqrt(((1 - cosine) / 2).clip(0, 1))) / self.lengths[0]
            return np.where(np.isnan(position).any(1), 0, np.nan_to_num(far, nan=np.inf))
        points = [mine, *(a.points for a in self.axes[1:])]
        if self.sphere:
            lat, lat0 = np.radians(points[0])[:, None], np.radians(position[:, 0])
            lat0 = np.where(np.isnan(lat0), lat, lat0)
            turn = np.radians(np.nan_to_num(points[1][:, None] - position[:, 1]))
            half = np.sin((lat - lat0) / 2)[:, None] ** 2
            half = half + (np.cos(lat) * np.cos(lat0))[:, None] * np.sin(turn / 2) ** 2
            far = 2 * EARTH * np.arcsin(np.sqrt(half.clip(0, 1))) / self.lengths[0]
            return far.reshape(far.shape[0] * far.shape[1], len(position))
        square = np.zeros((1, len(position)))
        for number, p in enumerate(points):
            along = self._along(number, p, position[:, number]) ** 2
            square = (square[:, None] + along).reshape(len(square) * len(p), len(position))
        return np.sqrt(square)


def _on_sphere(grid: Grid) -> bool:
    y, x = grid.core_dims[1:]
    coords = grid.template.coords
    if y not in coords or x not in coords:
        return False
    return is_latitude(coords[y]) and is_longitude(coords[x])
