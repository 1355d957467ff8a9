r"""Kolmogorov flow: two-dimensional turbulence driven by a force that is a standing wave.

.. math:: \partial_t u = -(u \cdot \nabla) u - \nabla p + \tfrac{1}{Re} \nabla^2 u
          - \mathit{drag}\; u + \mathit{scale}\, \sin(k y)\, e_x, \qquad \nabla \cdot u = 0

on a square with periodic sides. The steps are made by jax-cfd (Kochkov et al. 2021), with finite volumes on a staggered
grid. The defaults are those of the experiment of Rozet & Louppe (arXiv 2306.10574). JAX is imported only when a flow is
stepped.

On the staggered grid of jax-cfd, ``u`` lies on the right face of its cell and ``v`` on the upper face, half a (fine)
cell from the labelled centre.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from xsda.systems.chain import MarkovChain, check_finite

COURANT = 0.5  # fraction of a cell that the fastest flow may cross in one inner step


class KolmogorovFlow(MarkovChain):
    """Turbulence of (``u``, ``v``) over (``y``, ``x``), in the units of the model.

    Parameters
    ----------
    resolution
        Number of cells along each side.
    dt
        Time between two states.
    domain
        Length of a side.
    reynolds
        Reynolds number, the inverse of the viscosity.
    drag
        Linear friction, per unit of time.
    wavenumber, scale
        The force is ``scale * sin(wavenumber * y)``, with ``wavenumber`` waves over the domain.
    substeps
        Number of inner steps between two states. The default keeps the flow stable up to the speed ``fastest``, which
        is 5 for the default force and grows with the square root of a stronger one.
    device
        "cpu", or "gpu" if JAX has one.
    """

    variables = ("u", "v")
    remedy = "use more substeps, because the flow is faster than they allow"
    burn_in = 64

    def __init__(
        self,
        *,
        resolution: int = 256,
        dt: float = 0.2,
        domain: float = 2 * math.pi,
        reynolds: float = 1e3,
        drag: float = 0.1,
        wavenumber: int = 4,
        scale: float = 1.0,
        substeps: int | None = None,
        device: str = "cpu",
    ):
        super().__init__(dt=dt)
        check_finite(domain=domain, reynolds=reynolds, drag=drag, scale=scale)
        check_finite(resolution=resolution, wavenumber=wavenumber)
        if int(resolution) != resolution or resolution < 8:
            raise ValueError(
                f"resolution={resolution!r} must be an integer of at least 8: it is the number of cells along a side"
            )
        if not reynolds > 0:
            raise ValueError(f"reynolds={reynolds} must be positive: the viscosity is its inverse")
        if not domain > 0:
            raise ValueError(f"domain={domain} must be positive: it is the length of a side")
        if not drag >= 0:
            raise ValueError(f"drag={drag} must not be negative: it would accelerate the flow")
        if int(wavenumber) != wavenumber or not 1 <= wavenumber <= resolution // 2:
            raise ValueError(
                f"wavenumber={wavenumber!r} must be an integer from 1 to {resolution // 2} (two cells per wave)"
            )
        self.resolution, self.domain, self.reynolds = int(resolution), domain, reynolds
        self.drag, self.wavenumber, self.scale, self.device = drag, int(wavenumber), scale, device
        least = math.ceil(dt / self.stable_dt(COURANT) - 1e-9)
        if substeps is not None:
            check_finite(substeps=substeps)
        if substeps is not None and (int(substeps) != substeps or substeps < 1):
            raise ValueError(
                f"substeps={substeps!r} must be an integer of at least 1; {least} is recommended for these parameters"
            )
        if substeps is not None and dt / substeps > 2 * self.stable_dt(COURANT):
            fast = dt / substeps * self.fastest > domain / resolution
            why = (
                f"speeds up to {self.fastest:.3g} would cross more than one cell"
                if fast
                else "viscosity would act over more than one cell"
            )
            raise ValueError(
                f"substeps={substeps} makes inner steps of {dt / substeps:.3g}, which are unstable on {resolution} "
                f"cells ({why}); use at least {math.ceil(least / 2)}, or {least} to be safe"
            )
        self.substeps = least if substeps is None else substeps

    @property
    def fastest(self) -> float:
        """The speed for which the inner step is chosen: 5, or ten times the speed that the force gives over one wave.

        Jets before the onset of turbulence were up to a third faster. ``COURANT`` allows for twice the speed.
        """
        return max(5.0, 10 * math.sqrt(abs(self.scale) * self.domain / (2 * math.pi * self.wavenumber)))

    def stable_dt(self, courant: float) -> float:
        """Return the longest inner step with stable diffusion in which the fastest flow crosses ``courant`` cells."""
        cell = self.domain / self.resolution
        return min(courant * cell / self.fastest, self.reynolds * cell**2 / 4)

    @property
    def space(self) -> dict[str, int]:
        return {"y": self.resolution, "x": self.resolution}

    def step(self, x: Tensor) -> Tensor:
        """Return the state ``dt`` later, computed in single precision.

        Parameters
        ----------
        x
            States (..., channel, y, x).

        Returns
        -------
        Tensor
            The next states.
        """
        if x.shape[-3:] != self.state_shape:
            raise ValueError(
                f"the states have the shape {tuple(x.shape)}, expected (..., channel, y, x) = (..., "
                f"{', '.join(map(str, self.state_shape))})"
            )
        states = x.detach().reshape(-1, *self.state_shape).float().cpu().numpy()
        after = np.asarray(self._solver.advance(states))
        return torch.from_numpy(after.copy()).to(x).reshape(x.shape)

    def initial(self, members: int, generator: torch.Generator) -> Tensor:
        """Draw random smooth fields without divergence: maximum speed 3, energy peaking at wavenumber 4.

        Parameters
        ----------
        members
            Number of fields.
        generator
            Source of the random numbers.

        Returns
        -------
        Tensor
            States (members, channel, y, x).
        """
        keys = torch.randint(2**31, (members,), generator=generator).tolist()
        return torch.from_numpy(np.stack([np.array(self._solver.initial(k)) for k in keys]))

    def initial_of(self, number: int, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        torch.randint(2**31, (number,), generator=generator)  # skip the keys of the earlier states
        return self.initial(1, generator)[0]

    def label(self, values: np.ndarray, *, every: int = 1) -> xr.Dataset:
        """Label values (member, time, channel, y, x), and add the force as the field ``forcing``.

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
        for name, axis in (("u", "x"), ("v", "y")):
            ds[name].attrs |= {"long_name": f"velocity along {axis}"}
        force = self.scale * np.sin(self.wavenumber * 2 * math.pi / self.domain * ds["y"].values)
        field = np.repeat(force[:, None], ds.sizes["x"], 1).astype(np.float32)
        return ds.assign(forcing=(("y", "x"), field, {"long_name": "force along x", "units": "1"}))

    def coordinate(self, name: str, size: int) -> tuple[np.ndarray, dict[str, Any]]:
        """Return the centres of the cells and their attributes."""
        attrs = {"axis": name.upper(), "units": "1", "period": self.domain}
        return (np.arange(size) + 0.5) * (self.domain / size), attrs

    @property
    def _solver(self) -> SimpleNamespace:
        return _solver(
            self.resolution, self.dt, self.domain, self.reynolds, self.drag, self.wavenumber, self.scale, self.substeps,
            self.device,
        )  # fmt: skip


@lru_cache(maxsize=4)
def _solver(
    resolution: int, dt: float, domain: float, reynolds: float, drag: float, wavenumber: int, scale: float,
    substeps: int, device: str,
) -> SimpleNamespace:  # fmt: skip
    """The functions of jax-cfd for one set of parameters, compiled once."""
    jax, cfd = _jax_cfd()
    with _naming_jax(jax):
        try:
            where = jax.devices(device)[0]
        except RuntimeError as error:
            raise ValueError(f"device={device!r} is not available in JAX ({error}); use device='cpu'") from error
        return _assembled(jax, cfd, where, resolution, dt, domain, reynolds, drag, wavenumber, scale, substeps)


def _assembled(
    jax: Any, cfd: Any, where: Any, resolution: int, dt: float, domain: float, reynolds: float, drag: float,
    wavenumber: int, scale: float, substeps: int,
) -> SimpleNamespace:  # fmt: skip
    grid = cfd.grids.Grid((resolution, resolution), domain=((0, domain), (0, domain)))
    force = cfd.forcings.simple_turbulence_forcing(
        grid, constant_magnitude=scale, constant_wavenumber=wavenumber * 2 * math.pi / domain, linear_coefficient=-drag,
        forcing_type="kolmogorov",
    )  # fmt: skip
    step = cfd.equations.semi_implicit_navier_stokes(
        grid=grid, forcing=force, dt=dt / substeps, density=1.0, viscosity=1 / reynolds
    )
    many = cfd.funcutils.repeated(step, substeps)
    boundary = cfd.boundaries.periodic_boundary_conditions(2)

    def advance(state: Any) -> Any:
        """Return the state (channel, y, x) ``dt`` later; jax-cfd has the axes (x, y)."""
        fields = (
            cfd.grids.GridVariable(cfd.grids.GridArray(state[i].T, offset, grid), boundary)
            for i, offset in enumerate(grid.cell_faces)
        )
        return jax.numpy.stack([field.data.T for field in many(tuple(fields))])

    together = jax.jit(jax.vmap(advance))

    def ensemble(states: Any) -> Any:
        """Step all members; on a CPU one after another, because the fields of one fit into its cache."""
        if where.platform != "cpu":
            return together(states)
        return np.concatenate([together(states[i : i + 1]) for i in range(len(states))])

    def initial(key: int) -> Any:
        field = cfd.initial_conditions.filtered_velocity_field(
            jax.random.PRNGKey(key), grid, maximum_velocity=3.0, peak_wavenumber=4
        )
        return jax.numpy.stack([component.data.T for component in field])

    def on_device(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def call(argument: Any) -> Any:
            with _naming_jax(jax), jax.default_device(where):
                return function(argument)

        return call

    return SimpleNamespace(advance=on_device(ensemble), initial=on_device(initial))


def _jax_cfd() -> tuple[Any, Any]:
    """Import JAX and jax-cfd, or raise an error that says what is missing or incompatible."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # leave the memory of a GPU to torch
    try:
        import jax
    except ImportError as error:
        raise ImportError("KolmogorovFlow needs JAX and jax-cfd; pip install 'xsda[sim]'") from error
    try:
        if not hasattr(jax, "tree_map"):
            # jax-cfd 0.2.1 uses the name that this function had until 2024
            jax.tree_map = jax.tree_util.tree_map  # type: ignore[attr-defined]
        from jax_cfd.base import boundaries, equations, forcings, funcutils, grids, initial_conditions
    except ModuleNotFoundError as error:
        raise ImportError(f"KolmogorovFlow needs jax-cfd ({error}); pip install 'xsda[sim]'") from error
    except Exception as error:
        raise _too_new(jax, error) from error
    return jax, SimpleNamespace(
        boundaries=boundaries, equations=equations, forcings=forcings, funcutils=funcutils, grids=grids,
        initial_conditions=initial_conditions,
    )  # fmt: skip


@contextmanager
def _naming_jax(jax: Any) -> Iterator[None]:
    """Name the JAX version if something in it is missing or has another name."""
    try:
        yield
    except (AttributeError, TypeError, ImportError, NotImplementedError) as error:
        raise _too_new(jax, error) from error


def _too_new(jax: Any, error: Exception) -> ImportError:
    return ImportError(
        f"jax-cfd does not run with JAX {jax.__version__}: {type(error).__name__}: {error}. It is no longer "
        "maintained; use an older JAX: pip install 'jax==0.10.2' 'jaxlib==0.10.2'"
    )
