r"""The wake of a cylinder: two-dimensional flow past a circular body, by an immersed-boundary projection method.

.. math:: \partial_t \omega = -\nabla \cdot (u \omega) + \tfrac{1}{Re} \nabla^2 \omega + \nabla \times f, \qquad
          u = e_x + (\partial_y \psi, -\partial_x \psi), \qquad -\nabla^2 \psi = \omega, \qquad
          u = 0 \text{ on the body}

Lengths are in diameters, speeds in units of the free stream. Vorticity and stream function lie on the nodes of a grid.
The force ``f`` at points on the body makes the velocity vanish there (Taira & Colonius 2007). It is found with a small
matrix, which is inverted once (Colonius & Taira 2008). Convection is stepped by Adams-Bashforth and diffusion by
Crank-Nicolson. Sine transforms solve for ``psi`` and for diffusion.

The far field is reached by nested grids: each has as many points as the one inside it, and twice its size. A finer grid
gives the coarser one its vorticity where they overlap, and takes the values on its edge from it.
"""

from __future__ import annotations

import math
import warnings
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import xarray as xr
from scipy import fft, sparse
from torch import Tensor

from xsda.systems.chain import MarkovChain, as_count, check_finite

TESTED = (40.0, 200.0)  # Reynolds numbers
FASTEST = 2.0  # speed of the flow at the shoulders of the body when it is set in motion
COURANT = 0.6  # cells that the fastest flow may cross in a substep


class CylinderWake(MarkovChain):
    """Vorticity over (``y``, ``x``) behind a cylinder at the origin, in diameters and free-stream speeds.

    Below a Reynolds number of about 47 the wake is steady. Above, vortices leave the body in turn. The flow is computed
    in single precision, or in double precision if ``step`` is given such states.

    Parameters
    ----------
    reynolds
        Reynolds number of the diameter. Tested from 40 to 200.
    dt
        Time between two states. A shedding period is about six units.
    resolution
        Cells across the diameter.
    length, width, upstream
        Length and width of the grid, and the distance from its left edge to the centre of the body.
    levels
        Number of nested grids. The largest is ``2 ** (levels - 1)`` times as long as the labelled one.
    substeps
        Number of inner steps between two states (default: as stability requires).

    Notes
    -----
    A state inside the simulator holds the vorticity of all levels, and the labelled trajectory that of the finest. If a
    labelled state is stepped (as the filters do), the vorticity outside its grid is taken to be zero.

    Examples
    --------
    >>> wake = xsda.systems.CylinderWake(reynolds=100, resolution=10)
    >>> wake.simulate(length=2, burn_in=1).sizes["x"]
    79
    """

    variables = ("vorticity",)
    remedy = "use more substeps"
    burn_in = 400

    def __init__(
        self, *, reynolds: float = 100.0, dt: float = 0.2, resolution: int = 50, length: float = 8.0,
        width: float = 4.0, upstream: float = 1.0, levels: int = 4, substeps: int | None = None,
    ):  # fmt: skip
        super().__init__(dt=dt)
        check_finite(reynolds=reynolds, length=length, width=width, upstream=upstream)
        self.reynolds, self.resolution = reynolds, as_count("resolution", resolution, 8)
        self.length, self.width, self.upstream = length, width, upstream
        self.levels = as_count("levels", levels, 1)
        if not reynolds > 0:
            raise ValueError(f"reynolds={reynolds} must be positive: the viscosity is its inverse")
        if not TESTED[0] <= reynolds <= TESTED[1]:
            warnings.warn(
                f"reynolds={reynolds:g} is outside the range in which CylinderWake was tested, {TESTED[0]:g} to "
                f"{TESTED[1]:g}; the flow of a real wake is three-dimensional above 190", stacklevel=2,
            )  # fmt: skip
        for name, side in (("length", length), ("width", width)):
            cells = side * resolution
            if cells < 8 or abs(cells / 4 - round(cells / 4)) > 1e-6:
                raise ValueError(
                    f"{name}={side} makes {cells:g} cells of 1/{resolution}; their number must be a multiple of 4"
                )
        margin = 0.5 + 3 / resolution
        room = {"upstream": upstream, "length - upstream": length - upstream, "width / 2": width / 2}
        for name, distance in room.items():
            if distance < margin:
                raise ValueError(
                    f"the body is not inside the grid: {name} is {distance:g}, at least {margin:g} is needed (the "
                    "radius of 0.5 and three cells)"
                )
        fewest = math.ceil(dt * FASTEST * resolution / COURANT - 1e-9)
        self.substeps = fewest if substeps is None else as_count("substeps", substeps, 1)
        if self.substeps < fewest / 1.25:
            raise ValueError(
                f"substeps={substeps} makes inner steps of {dt / self.substeps:.3g}, which are unstable on cells of "
                f"1/{resolution}: the flow would cross {dt / self.substeps * FASTEST * resolution:.2g} of them; use "
                f"{fewest}"
            )

    @property
    def space(self) -> dict[str, int]:
        return {"y": round(self.width * self.resolution) - 1, "x": round(self.length * self.resolution) - 1}

    def step(self, x: Tensor) -> Tensor:
        """Return the state ``dt`` later.

        Parameters
        ----------
        x
            Vorticity (..., level, y, x), of all levels or of the finest alone.

        Returns
        -------
        Tensor
            The next states, with as many levels.
        """
        return self._advance(x, self.substeps)[0]

    def forces(self, ds: xr.Dataset) -> xr.Dataset:
        """Compute drag and lift of labelled states, half a step later.

        Vorticity outside the grid is taken to be zero. The flow is given half a step to adapt to that. At Reynolds
        number 100, drag is 0.02 too large and lift is wrong by 0.04.

        Parameters
        ----------
        ds
            States with ``vorticity`` on the grid of this system, with any further dimensions.

        Returns
        -------
        Dataset
            Coefficients ``drag`` and ``lift``.

        Examples
        --------
        >>> wake = xsda.systems.CylinderWake(reynolds=100, resolution=10)
        >>> float(wake.forces(wake.simulate(length=1, burn_in=10)).drag) > 1
        True
        """
        field = ds["vorticity"].transpose(..., "y", "x")
        x = torch.as_tensor(field.values)[..., None, :, :]
        values = self._advance(x, max(self.substeps // 2, 2))[1]
        dims, coords = field.dims[:-2], field.isel(y=0, x=0, drop=True).coords
        return xr.Dataset(
            {
                name: (dims, values[..., i], {"units": "1", "long_name": f"{name} coefficient"})
                for i, name in enumerate(("drag", "lift"))
            },
            coords,
        )

    def initial(self, members: int, generator: torch.Generator) -> Tensor:
        """Draw starts: fluid at rest before the body is moved, with four random vortices behind it.

        Parameters
        ----------
        members
            Number of states.
        generator
            Source of the random numbers.

        Returns
        -------
        Tensor
            States (members, level, y, x).
        """
        draws = torch.rand(members, 4, 3, 1, 1, dtype=torch.float64, generator=generator)
        centre_x, centre_y, strength = 0.8 + 2 * draws[:, :, 0], draws[:, :, 1] - 0.5, 4 * draws[:, :, 2] - 2
        y, x = (torch.from_numpy(self.coordinate(d, n)[0]) for d, n in self.space.items())
        square = (y[:, None] - centre_y) ** 2 + (x - centre_x) ** 2
        states = self.rest(members)
        states[:, 0] = (strength * torch.exp(-square / (2 * 0.3**2))).sum(1)
        return states

    def rest(self, members: int) -> Tensor:
        """Return ``members`` states without vorticity: the body is set in motion at the first step."""
        return torch.zeros(members, self.levels, *self.space.values())

    def coarsened(self, x: Tensor, factor: int) -> Tensor:
        """Keep the finest level, averaged over blocks of ``factor`` points."""
        return super().coarsened(x[..., :1, :, :], factor)

    def label(self, values: np.ndarray, *, every: int = 1) -> xr.Dataset:
        """Label values (member, time, 1, y, x), and add the field ``body``, 1 inside the cylinder.

        Parameters
        ----------
        values
            The numbers.
        every
            Number of steps between two states.

        Returns
        -------
        Dataset
            The same numbers with names and coordinates.
        """
        ds = super().label(values, every=every)
        ds["vorticity"].attrs["long_name"] = "vorticity"
        inside = ((ds["x"] ** 2 + ds["y"] ** 2) <= 0.25).transpose("y", "x").astype(np.int8)
        return ds.assign(body=inside.assign_attrs(long_name="1 inside the cylinder", units="1"))

    def coordinate(self, name: str, size: int) -> tuple[np.ndarray, dict[str, Any]]:
        """Return positions in diameters from the centre of the body, and attributes."""
        nodes = np.arange(1, self.space[name] + 1) / self.resolution
        nodes -= self.upstream if name == "x" else self.width / 2
        values = np.round(nodes, 12).reshape(size, -1).mean(1)
        return values, {"axis": name.upper(), "units": "1", "long_name": f"{name} in diameters"}

    def _advance(self, x: Tensor, substeps: int) -> tuple[Tensor, np.ndarray]:
        """The states after some substeps, and the force on the body during the last one."""
        levels, shape = x.shape[-3], (self.levels, *self.space.values())
        if x.shape[-2:] != shape[1:] or levels not in (1, self.levels):
            raise ValueError(
                f"the states have the shape {tuple(x.shape)}, expected (..., level, y, x) with y, x = {shape[1:]} and "
                f"{self.levels} levels, or the finest alone"
            )
        flow = _flow(self.reynolds, self.dt / self.substeps, self.resolution, shape, self.upstream * self.resolution)
        states = x.detach().cpu().numpy()
        w = np.zeros((*x.shape[:-3], *shape), states.dtype)
        w[..., :levels, :, :] = states
        w, force = flow.advance(w, substeps)
        return torch.from_numpy(w[..., :levels, :, :].copy()).to(x), force


class _Flow:
    """The steps of one wake. Arrays are (..., level, y, x) on inner nodes, or (..., y, x) with a ring around them."""

    def __init__(self, reynolds: float, dt: float, resolution: int, shape: tuple[int, int, int], upstream: float):
        self.shape, (ny, nx) = shape, shape[1:]
        self.cell, self.dt, self.half = 1 / resolution, dt, dt / (2 * reynolds)
        wave_y, wave_x = (2 - 2 * np.cos(np.pi * np.arange(1, n + 1) / (n + 1)) for n in (ny, nx))
        self.laplace = (wave_y[:, None] + wave_x) / self.cell**2  # eigenvalues of minus the Laplacian, finest level
        self.window = tuple(slice((n + 1) // 4, 3 * (n + 1) // 4 + 1) for n in (ny, nx))  # of a finer level, with rings
        self.probe = _probe(resolution, ny, nx, upstream)
        parts = np.array_split(np.eye(self.probe.shape[0]), 16)
        self.inverse = np.linalg.inv(np.concatenate([self.response(part) for part in parts]))

    def advance(self, w: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Make ``count`` substeps, the first without a past. Also return drag and lift during the last one."""
        w = w.copy()
        self.nest(w)
        psi, before = self.stream(w), None
        for _ in range(count):
            w, before = self.predicted(w, psi, before)
            slip = self.velocity(self.stream(w))
            slip[..., : slip.shape[-1] // 2] += 1  # the free stream
            force = slip @ self.inverse.astype(w.dtype)
            w[..., 0, :, :] -= self.forced(force)
            self.nest(w)
            psi = self.stream(w)
        return w, 2 * self.cell**2 / self.dt * force.reshape(*force.shape[:-1], 2, -1).sum(-1)

    def predicted(
        self, w: np.ndarray, psi: list[np.ndarray], before: list[np.ndarray] | None
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """The vorticity after a substep without the body, and the rates of convection of all levels."""
        new, rates = np.empty_like(w), []
        old = coming = None
        for k in reversed(range(self.shape[0])):
            h, inside = self.cell * 2**k, w[..., k, :, :]
            old = self.ringed(inside, old)
            rate = _convection(old, psi[k], h)
            rates.append(rate)
            if before is not None:
                rate = 1.5 * rate - 0.5 * before[k]
            edge = self.edges(self.ringed(np.zeros_like(inside), coming))
            spread = old[..., 2:, 1:-1] + old[..., :-2, 1:-1] + old[..., 1:-1, 2:] + old[..., 1:-1, :-2] - 4 * inside
            new[..., k, :, :] = self.diffused(inside + self.dt * rate + self.half / h**2 * (spread + edge), k)
            coming = self.ringed(new[..., k, :, :], coming)
        self.nest(new)
        return new, rates[::-1]

    def nest(self, w: np.ndarray) -> None:
        """Give each level the vorticity of the finer one where they overlap, averaged so that circulation is kept."""
        rows, columns = (slice(s.start, s.stop - 2) for s in self.window)
        for k in range(1, self.shape[0]):
            fine = w[..., k - 1, :, :]
            thin = fine[..., :-2:2, :] / 4 + fine[..., 1:-1:2, :] / 2 + fine[..., 2::2, :] / 4
            w[..., k, rows, columns] = thin[..., :-2:2] / 4 + thin[..., 1:-1:2] / 2 + thin[..., 2::2] / 4

    def stream(self, w: np.ndarray) -> list[np.ndarray]:
        """The stream function of every level, with its ring, without the free stream."""
        found: list[np.ndarray] = []
        for k in reversed(range(self.shape[0])):
            ring = self.ringed(np.zeros_like(w[..., k, :, :]), found[-1] if found else None)
            right = w[..., k, :, :] + self.edges(ring) / (self.cell * 2**k) ** 2
            ring[..., 1:-1, 1:-1] = _solved(right, self.laplace / 4**k)
            found.append(ring)
        return found[::-1]

    def diffused(self, right: np.ndarray, k: int) -> np.ndarray:
        return _solved(right, 1 + self.half * self.laplace / 4**k)

    def ringed(self, x: np.ndarray, coarser: np.ndarray | None) -> np.ndarray:
        """Add the ring around ``x``: zeros, or the values of the coarser level, which has a ring."""
        out = np.zeros((*x.shape[:-2], x.shape[-2] + 2, x.shape[-1] + 2), x.dtype)
        if coarser is not None:
            window = coarser[..., self.window[0], self.window[1]]
            for side in (0, -1):
                out[..., side, ::2], out[..., ::2, side] = window[..., side, :], window[..., :, side]
                out[..., side, 1::2] = (window[..., side, 1:] + window[..., side, :-1]) / 2
                out[..., 1::2, side] = (window[..., 1:, side] + window[..., :-1, side]) / 2
        out[..., 1:-1, 1:-1] = x
        return out

    def edges(self, ring: np.ndarray) -> np.ndarray:
        """What the values on the ring add to the sum over the four neighbours of each inner node."""
        out = np.zeros_like(ring[..., 1:-1, 1:-1])
        for side in (0, -1):
            out[..., side, :] += ring[..., side, 1:-1]
            out[..., :, side] += ring[..., 1:-1, side]
        return out

    def velocity(self, psi: list[np.ndarray]) -> np.ndarray:
        """The velocity at the points on the body, all u, then all v, without the free stream."""
        inside = psi[0][..., 1:-1, 1:-1]
        return _apply(self.probe, inside.reshape(*inside.shape[:-2], -1))

    def forced(self, force: np.ndarray) -> np.ndarray:
        """The vorticity that forces at the points on the body make, after half a substep of diffusion."""
        return self.diffused(_apply(self.probe.T, force).reshape(*force.shape[:-1], *self.shape[1:]), 0)

    def response(self, forces: np.ndarray) -> np.ndarray:
        """The velocity on the body that forces on it make."""
        w = np.zeros((len(forces), *self.shape))
        w[:, 0] = self.forced(forces)
        self.nest(w)
        return self.velocity(self.stream(w))


_flow = lru_cache(maxsize=4)(_Flow)


def _convection(w: np.ndarray, psi: np.ndarray, h: float) -> np.ndarray:
    """Minus the divergence of the flux of vorticity. Both arguments have rings."""
    along = 1 + (psi[..., 2:, :] - psi[..., :-2, :]) / (2 * h)  # u on nodes
    across = (psi[..., :, :-2] - psi[..., :, 2:]) / (2 * h)  # v on nodes
    a, b = w[..., 1:-1, :], w[..., :, 1:-1]
    flux_x = (along[..., 1:] + along[..., :-1]) * (a[..., 1:] + a[..., :-1])
    flux_y = (across[..., 1:, :] + across[..., :-1, :]) * (b[..., 1:, :] + b[..., :-1, :])
    return -(np.diff(flux_x, axis=-1) + np.diff(flux_y, axis=-2)) / (4 * h)


def _solved(right: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Divide by ``values`` in the space of sine transforms."""
    wave = fft.dstn(right, 1, axes=(-2, -1), norm="ortho") / values.astype(right.dtype)
    return fft.dstn(wave, 1, axes=(-2, -1), norm="ortho", overwrite_x=True)


def _apply(matrix: sparse.csr_array, x: np.ndarray) -> np.ndarray:
    """Apply a sparse matrix to vectors (..., n), in their precision."""
    return (matrix.astype(x.dtype) @ x.reshape(-1, x.shape[-1]).T).T.reshape(*x.shape[:-1], -1)


def _probe(resolution: int, ny: int, nx: int, upstream: float) -> sparse.csr_array:
    """The matrix from the stream function at inner nodes to the velocity at points on the body, all u, then all v.

    The points are a cell apart. Velocities on the faces of cells are averaged with the discrete delta function of Roma,
    Peskin & Berger (1999), which spans three cells.
    """
    count = round(np.pi * resolution)
    angle = 2 * np.pi * np.arange(count) / count
    x = upstream - 1 + resolution / 2 * np.cos(angle)  # in cells, from the first inner node
    y = (ny + 1) / 2 - 1 + resolution / 2 * np.sin(angle)
    entries: list[tuple[np.ndarray, ...]] = []
    for component, (shift_y, shift_x, sign) in enumerate(((0.5, 0.0, 1), (0.0, 0.5, -1))):
        first_y, first_x = np.floor(y - shift_y) - 1, np.floor(x - shift_x) - 1
        for j in range(4):
            for i in range(4):
                row, column = first_y + j, first_x + i
                weight = _delta(row + shift_y - y) * _delta(column + shift_x - x) * resolution * sign
                here = (row * nx + column).astype(int)
                beyond = here + (nx if component == 0 else 1)
                rows = component * count + np.arange(count)
                entries += [(rows, beyond, weight), (rows, here, -weight)]
    rows, columns, values = (np.concatenate(part) for part in zip(*entries, strict=True))
    return sparse.csr_array((values, (rows, columns)), shape=(2 * count, ny * nx))


def _delta(r: np.ndarray) -> np.ndarray:
    r = np.abs(r)
    near = (1 + np.sqrt(np.maximum(1 - 3 * r**2, 0))) / 3
    far = (5 - 3 * r - np.sqrt(np.maximum(1 - 3 * (1 - r) ** 2, 0))) / 6
    return np.where(r <= 0.5, near, np.where(r <= 1.5, far, 0.0))
