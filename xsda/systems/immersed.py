r"""Flow past a cylinder on nested grids, by an immersed-boundary projection method.

Vorticity and stream function lie on the nodes of a grid. Forces at points on the body make the velocity vanish there
(Taira & Colonius 2007). They are found with a small matrix, which is inverted once (Colonius & Taira 2008). Convection
is stepped by Adams-Bashforth and diffusion by Crank-Nicolson. Sine transforms solve for the stream function and for
diffusion.

The far field is reached by nested grids: each has as many points as the one inside it, and twice its size. A finer grid
gives the coarser one its vorticity where they overlap, and takes the values on its edge from it.
"""

from __future__ import annotations

import numpy as np
from scipy import fft, sparse


class ImmersedFlow:
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

    def velocity_field(self, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The velocity (..., y, x) at the nodes of the finest level, with the free stream."""
        self.nest(w)
        psi = self.stream(w)[0] / (2 * self.cell)
        return 1 + psi[..., 2:, 1:-1] - psi[..., :-2, 1:-1], psi[..., 1:-1, :-2] - psi[..., 1:-1, 2:]

    def forced(self, force: np.ndarray) -> np.ndarray:
        """The vorticity that forces at the points on the body make, after half a substep of diffusion."""
        return self.diffused(_apply(self.probe.T, force).reshape(*force.shape[:-1], *self.shape[1:]), 0)

    def response(self, forces: np.ndarray) -> np.ndarray:
        """The velocity on the body that forces on it make."""
        w = np.zeros((len(forces), *self.shape))
        w[:, 0] = self.forced(forces)
        self.nest(w)
        return self.velocity(self.stream(w))


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
