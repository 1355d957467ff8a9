"""Simulators: tensors inside, labelled trajectories outside."""

from xsda.systems.base import DiscreteODE, MarkovChain
from xsda.systems.classic import DampedSpring, LotkaVolterra
from xsda.systems.lorenz import Lorenz63, Lorenz96

__all__ = ["DampedSpring", "DiscreteODE", "Lorenz63", "Lorenz96", "LotkaVolterra", "MarkovChain"]
