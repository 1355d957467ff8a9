"""The two Lorenz systems: chaos in three numbers (1963), and chaos on a ring (1996)."""

from __future__ import annotations

import torch
from torch import Tensor

from xsda.systems.chain import DiscreteODE


class Lorenz63(DiscreteODE):
    """Convection in three numbers (Lorenz 1963).

    The defaults are those of the experiment of Rozet & Louppe (arXiv 2306.10574): steps of 0.025, each followed by
    noise of variance 0.025. ``noise=0`` gives the deterministic system.

    Parameters
    ----------
    sigma, rho, beta
        Prandtl number, Rayleigh number and aspect ratio of the equations.
    dt, noise, substeps
        As for ``DiscreteODE``.
    """

    variables = ("x", "y", "z")
    burn_in = 1024

    def __init__(
        self,
        *,
        sigma: float = 10.0,
        rho: float = 28.0,
        beta: float = 8 / 3,
        dt: float = 0.025,
        noise: float = 0.025**0.5,
        substeps: int = 1,
    ):
        super().__init__(dt=dt, noise=noise, substeps=substeps)
        self.sigma, self.rho, self.beta = sigma, rho, beta

    def drift(self, x: Tensor) -> Tensor:
        a, b, c = x.unbind(-1)
        return torch.stack([self.sigma * (b - a), a * (self.rho - c) - b, a * b - self.beta * c], -1)

    def initial(self, members: int, generator: torch.Generator) -> Tensor:
        mean = torch.tensor([0.0, 0.0, 25.0], dtype=torch.float64)
        cov = torch.tensor([[64.0, 50.0, 0.0], [50.0, 81.0, 0.0], [0.0, 0.0, 75.0]], dtype=torch.float64)
        return mean + super().initial(members, generator) @ torch.linalg.cholesky(cov).T


class Lorenz96(DiscreteODE):
    """``n`` sites on a ring, du_i/dt = (u_{i+1} - u_{i-2}) u_{i-1} - u_i + F (Lorenz 1996).

    Parameters
    ----------
    n
        Number of sites.
    forcing
        The constant F.
    dt, noise, substeps
        As for ``DiscreteODE``.
    """

    variables = ("u",)
    burn_in = 512

    def __init__(self, *, n: int = 40, forcing: float = 8.0, dt: float = 0.05, noise: float = 0.0, substeps: int = 1):
        super().__init__(dt=dt, noise=noise, substeps=substeps)
        if n < 4:
            raise ValueError(f"n={n} must be at least 4, because each site interacts with three neighbours")
        self.n, self.forcing = n, forcing

    @property
    def space(self) -> dict[str, int]:
        return {"x": self.n}

    def drift(self, x: Tensor) -> Tensor:
        ring = torch.cat([x[..., -2:], x, x[..., :1]], -1)
        return (ring[..., 3:] - ring[..., :-3]) * ring[..., 1:-2] - x + self.forcing

    def initial(self, members: int, generator: torch.Generator) -> Tensor:
        return self.forcing + super().initial(members, generator)
