"""Simulators of dynamical systems: tensors inside, labelled trajectories outside."""

from xsda.systems.chain import DiscreteODE, MarkovChain
from xsda.systems.classic import DampedSpring, LotkaVolterra
from xsda.systems.kolmogorov import KolmogorovFlow
from xsda.systems.lorenz import Lorenz63, Lorenz96
from xsda.systems.wake import CylinderWake

__all__ = [
    "CylinderWake", "DampedSpring", "DiscreteODE", "KolmogorovFlow", "Lorenz63", "Lorenz96", "LotkaVolterra",
    "MarkovChain",
]  # fmt: skip
