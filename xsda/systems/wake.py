r"""The wake of a cylinder: two-dimensional flow past a circular body, by an immersed-boundary projection method.

.. math:: \partial_t \omega = -\nabla \cdot (u \omega) + \tfrac{1}{Re} \nabla^2 \omega + \nabla \times f, \qquad
          u = e_x + (\partial_y \psi, -\partial_x \psi), \qquad -\nabla^2 \psi = \omega, \qquad
          u = 0 \text{ on the body}

Lengths are in diameters, speeds in units of the free stream. The force ``f`` on the body makes the velocity vanish
there. The method is in ``xsda.systems.immersed``.
"""

from __future__ import annotations

import math
import warnings
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from xsda.systems.chain import MarkovChain, as_count, check_finite

if TYPE_CHECKING:
    from xsda.systems.immersed import ImmersedFlow

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

    def velocity(self, ds: xr.Dataset) -> xr.Dataset:
        """Compute the velocity of labelled states. Vorticity outside the grid is taken to be zero.

        Parameters
        ----------
        ds
            States with ``vorticity`` on the grid of this system, with any further dimensions.

        Returns
        -------
        Dataset
            ``u`` and ``v`` at the same points.

        Examples
        --------
        >>> wake = xsda.systems.CylinderWake(reynolds=100, resolution=10)
        >>> flow = wake.velocity(wake.simulate(length=1, burn_in=10).isel(time=0))
        >>> float(flow.u.sel(x=0, y=1)) > 1  # faster beside the body
        True
        """
        field, x = _states(ds)
        u, v = self._flow.velocity_field(self._nested(x))
        return xr.Dataset(
            {
                name: (field.dims, values, {"units": "1", "long_name": f"velocity along {axis}"})
                for name, values, axis in (("u", u, "x"), ("v", v, "y"))
            },
            field.coords,
        )

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
        >>> float(wake.forces(wake.simulate(length=1, burn_in=10).isel(time=0)).drag) > 1
        True
        """
        field, x = _states(ds)
        values = self._advance(x, max(self.substeps // 2, 2))[1]
        return xr.Dataset(
            {
                name: (field.dims[:-2], values[..., i], {"units": "1", "long_name": f"{name} coefficient"})
                for i, name in enumerate(("drag", "lift"))
            },
            field.isel(y=0, x=0, drop=True).coords,
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
        """The states after some substeps, and the drag and lift during the last one."""
        w, force = self._flow.advance(self._nested(x), substeps)
        return torch.from_numpy(w[..., : x.shape[-3], :, :].copy()).to(x), force

    def _nested(self, x: Tensor) -> np.ndarray:
        """The vorticity (..., level, y, x) of all levels."""
        levels, space = x.shape[-3], tuple(self.space.values())
        if x.shape[-2:] != space or levels not in (1, self.levels):
            raise ValueError(
                f"the states have the shape {tuple(x.shape)}, expected (..., level, y, x) with y, x = {space} and "
                f"{self.levels} levels, or the finest alone"
            )
        states = x.detach().cpu().numpy()
        w = np.zeros((*x.shape[:-3], self.levels, *space), states.dtype)
        w[..., :levels, :, :] = states
        return w

    @property
    def _flow(self) -> ImmersedFlow:
        shape = (self.levels, *self.space.values())
        return _flow(self.reynolds, self.dt / self.substeps, self.resolution, shape, self.upstream * self.resolution)


@lru_cache(maxsize=4)
def _flow(reynolds: float, dt: float, resolution: int, shape: tuple[int, int, int], upstream: float) -> ImmersedFlow:
    """The solver of one wake. It needs SciPy, which takes a while to load, and the matrix of the body."""
    from xsda.systems.immersed import ImmersedFlow

    return ImmersedFlow(reynolds, dt, resolution, shape, upstream)


def _states(ds: xr.Dataset) -> tuple[xr.DataArray, Tensor]:
    """The labelled vorticity (..., y, x), and the same as states with one level."""
    if "vorticity" not in ds:
        raise KeyError(f"the Dataset has {[str(v) for v in ds.data_vars]}, but no variable 'vorticity'")
    field = ds["vorticity"].transpose(..., "y", "x")
    return field, torch.as_tensor(field.values)[..., None, :, :]
