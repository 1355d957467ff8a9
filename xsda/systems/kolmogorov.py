r"""Kolmogorov flow: two-dimensional turbulence driven by a standing wave of force.

.. math:: \partial_t u = -(u \cdot \nabla) u - \nabla p + \tfrac{1}{Re} \nabla^2 u
          - \mathit{drag}\; u + \mathit{scale}\, \sin(k y)\, e_x, \qquad \nabla \cdot u = 0

on a square with periodic sides. jax-cfd (Kochkov et al. 2021, finite volumes on a staggered grid) makes the steps; the
defaults are those of the experiment of Rozet & Louppe (arXiv 2306.10574). JAX is only imported when a flow is stepped.

The staggering is jax-cfd's: ``u`` lies on the right face of its cell and ``v`` on the upper one, half a (fine) cell from
the labelled centre.
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

COURANT = 0.5  # how much of a cell the fastest flow may cross in a step


class KolmogorovFlow(MarkovChain):
    """Turbulence of (``u``, ``v``) over (``y``, ``x``), in the units of the model.

    Parameters
    ----------
    resolution
        Cells along each side.
    dt
        Time between two states.
    domain
        Length of a side.
    reynolds
        Reynolds number; the viscosity is its inverse.
    drag
        Linear friction, per unit of time.
    wavenumber, scale
        Of the force: ``scale * sin(wavenumber * y)``, with as many waves over the domain as ``wavenumber`` says.
    substeps
        Inner steps from a state to the next; by default as many as keep the flow stable up to the speed ``fastest``: 5 with
        the default force, and growing with the root of a stronger one.
    device
        "cpu", or "gpu" where JAX has one.
    """

    variables = ("u", "v")
    remedy = "use more substeps: this flow is faster than they were made for"
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
                f"resolution={resolution!r} must be an integer of at least 8: it is the cells along a side"
            )
        if not reynolds > 0:
            raise ValueError(f"reynolds={reynolds} must be positive: the viscosity is its inverse")
        if not domain > 0:
            raise ValueError(f"domain={domain} must be positive: it is the length of a side")
        if not drag >= 0:
            raise ValueError(f"drag={drag} must not be negative: it would drive the flow instead of slowing it")
        if int(wavenumber) != wavenumber or not 1 <= wavenumber <= resolution // 2:
            raise ValueError(
                f"wavenumber={wavenumber!r} must be an integer from 1 to {resolution // 2} (two cells a wave)"
            )
        self.resolution, self.domain, self.reynolds = int(resolution), domain, reynolds
        self.drag, self.wavenumber, self.scale, self.device = drag, int(wavenumber), scale, device
        least = math.ceil(dt / self.stable_dt(COURANT) - 1e-9)
        if substeps is not None:
            check_finite(substeps=substeps)
        if substeps is not None and (int(substeps) != substeps or substeps < 1):
            raise ValueError(
                f"substeps={substeps!r} must be an integer of at least 1; for these parameters better {least}"
            )
        if substeps is not None and dt / substeps > 2 * self.stable_dt(COURANT):
            fast = dt / substeps * self.fastest > domain / resolution
            why = (
                f"speeds up to {self.fastest:.3g} would cross more than a cell"
                if fast
                else "viscosity would even out more than a cell"
            )
            raise ValueError(
                f"substeps={substeps} makes inner steps of {dt / substeps:.3g}, which are unstable on {resolution} cells "
                f"({why}); use at least {math.ceil(least / 2)}, better {least}"
            )
        self.substeps = least if substeps is None else substeps

    @property
    def fastest(self) -> float:
        """The speed that a step is made for: 5, or ten times that which the force gives over a wave.

        Jets that are not yet turbulent were seen a third faster; ``COURANT`` leaves room for twice the speed.
        """
        return max(5.0, 10 * math.sqrt(abs(self.scale) * self.domain / (2 * math.pi * self.wavenumber)))

    def stable_dt(self, courant: float) -> float:
        """The longest inner step in which the fastest flow crosses ``courant`` cells and diffusion is stable."""
        cell = self.domain / self.resolution
        return min(courant * cell / self.fastest, self.reynolds * cell**2 / 4)

    @property
    def space(self) -> dict[str, int]:
        return {"y": self.resolution, "x": self.resolution}

    def step(self, x: Tensor) -> Tensor:
        """The state ``dt`` later; ``x``: ``(..., channel, y, x)``. Computed in single precision."""
        if x.shape[-3:] != self.state_shape:
            raise ValueError(
                f"states of the shape {tuple(x.shape)} came, expected (..., channel, y, x) = (..., "
                f"{', '.join(map(str, self.state_shape))})"
            )
        states = x.detach().reshape(-1, *self.state_shape).float().cpu().numpy()
        after = np.asarray(self._solver.advance(states))
        return torch.from_numpy(after.copy()).to(x).reshape(x.shape)

    def initial(self, members: int, generator: torch.Generator) -> Tensor:
        """Random smooth fields without divergence: largest speed 3, energy peaking at wavenumber 4."""
        keys = torch.randint(2**31, (members,), generator=generator).tolist()
        return torch.from_numpy(np.stack([np.array(self._solver.initial(k)) for k in keys]))

    def initial_of(self, number: int, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        torch.randint(2**31, (number,), generator=generator)  # the keys of those before
        return self.initial(1, generator)[0]

    def label(self, values: np.ndarray, *, every: int = 1) -> xr.Dataset:
        """Name the axes of ``(member, time, channel, y, x)`` values, and add the force as the field ``forcing``."""
        ds = super().label(values, every=every)
        for name, axis in (("u", "x"), ("v", "y")):
            ds[name].attrs |= {"long_name": f"velocity along {axis}"}
        force = self.scale * np.sin(self.wavenumber * 2 * math.pi / self.domain * ds["y"].values)
        field = np.repeat(force[:, None], ds.sizes["x"], 1).astype(np.float32)
        return ds.assign(forcing=(("y", "x"), field, {"long_name": "force along x", "units": "1"}))

    def coordinate(self, name: str, size: int) -> tuple[np.ndarray, dict[str, Any]]:
        """The centres of the cells."""
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
    """jax-cfd's functions for one set of parameters, compiled once."""
    jax, cfd = _jax_cfd()
    with _naming_jax(jax):
        try:
            where = jax.devices(device)[0]
        except RuntimeError as error:
            raise ValueError(f"device={device!r} is not there for JAX ({error}); use device='cpu'") from error
        return _assembled(jax, cfd, where, resolution, dt, domain, reynolds, drag, wavenumber, scale, substeps)


def _assembled(
    jax: Any, cfd: Any, where: Any, resolution: int, dt: float, domain: float, reynolds: float, drag: float, wavenumber: int,
    scale: float, substeps: int,
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
        """(channel, y, x) -> the same, ``dt`` later; jax-cfd has the axes (x, y)."""
        fields = (
            cfd.grids.GridVariable(cfd.grids.GridArray(state[i].T, offset, grid), boundary)
            for i, offset in enumerate(grid.cell_faces)
        )
        return jax.numpy.stack([field.data.T for field in many(tuple(fields))])

    together = jax.jit(jax.vmap(advance))

    def ensemble(states: Any) -> Any:
        """On a processor one after another: the fields of one are in its cache."""
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
    """JAX and jax-cfd's rooms, or an error that says what is missing or what broke."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # leave memory of a GPU to torch
    try:
        import jax
    except ImportError as error:
        raise ImportError("KolmogorovFlow needs JAX and jax-cfd; pip install 'xsda[sim]'") from error
    try:
        if not hasattr(jax, "tree_map"):
            jax.tree_map = jax.tree_util.tree_map  # type: ignore[attr-defined]  # jax-cfd 0.2.1 calls it by the name it had until 2024
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
    """Say which JAX it was, where something is no longer there in it, or called otherwise."""
    try:
        yield
    except (AttributeError, TypeError, ImportError, NotImplementedError) as error:
        raise _too_new(jax, error) from error


def _too_new(jax: Any, error: Exception) -> ImportError:
    return ImportError(
        f"jax-cfd does not run with JAX {jax.__version__}: {type(error).__name__}: {error}. It is no longer maintained; "
        "an older JAX will do: pip install 'jax==0.10.2' 'jaxlib==0.10.2'"
    )
