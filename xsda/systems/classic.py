"""Two small systems with known behaviour: predators and prey, and a damped spring."""

from __future__ import annotations

import torch
from torch import Tensor

from xsda.systems.chain import DiscreteODE, MarkovChain


class LotkaVolterra(DiscreteODE):
    """Prey and predators, in the logarithms of the populations so that they stay positive.

    d(log prey)/dt = growth - predation * predators, d(log predators)/dt = conversion * prey - death. Without noise,
    ``conversion * prey - death * log(prey) + predation * predators - growth * log(predators)`` is conserved.

    Parameters
    ----------
    growth, predation, conversion, death
        Rates of the equations above.
    dt, noise, substeps
        As for ``DiscreteODE``.
    """

    variables = ("log_prey", "log_predators")

    def __init__(
        self,
        *,
        growth: float = 1.0,
        predation: float = 1.0,
        conversion: float = 1.0,
        death: float = 1.0,
        dt: float = 0.05,
        noise: float = 0.0,
        substeps: int = 1,
    ):
        super().__init__(dt=dt, noise=noise, substeps=substeps)
        self.growth, self.predation, self.conversion, self.death = growth, predation, conversion, death

    def drift(self, x: Tensor) -> Tensor:
        prey, predators = x.exp().unbind(-1)
        return torch.stack([self.growth - self.predation * predators, self.conversion * prey - self.death], -1)

    def initial(self, members: int, generator: torch.Generator) -> Tensor:
        return 0.5 * super().initial(members, generator)


class DampedSpring(MarkovChain):
    """A spring with friction and random forcing at every step, x'' = -stiffness x - damping x'.

    It is linear and Gaussian, so everything about it is known exactly. Steps use the exact matrix exponential.

    Parameters
    ----------
    stiffness, damping
        Coefficients of the equation above.
    dt, noise
        As for ``MarkovChain``.
    """

    variables = ("position", "velocity")
    burn_in = 512

    def __init__(self, *, stiffness: float = 1.0, damping: float = 0.2, dt: float = 0.25, noise: float = 0.1):
        super().__init__(dt=dt, noise=noise)
        if not damping > 0:
            raise ValueError(f"damping={damping} must be positive, because an undamped spring never settles")
        self.stiffness, self.damping = stiffness, damping

    @property
    def matrix(self) -> Tensor:
        """The transition matrix, (2, 2)."""
        rates = torch.tensor([[0.0, 1.0], [-self.stiffness, -self.damping]], dtype=torch.float64)
        return torch.linalg.matrix_exp(rates * self.dt)

    def step(self, x: Tensor) -> Tensor:
        return x @ self.matrix.to(x).T
