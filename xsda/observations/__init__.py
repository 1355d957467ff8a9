"""Observations: labelled Datasets whose coordinates are the observation operator."""

from xsda.observations.compile import as_sources, compile_variable
from xsda.observations.observe import observe
from xsda.observations.operator import ObservationOperator, VariableOperator
from xsda.observations.read import compile_observations

__all__ = [
    "ObservationOperator",
    "VariableOperator",
    "as_sources",
    "compile_observations",
    "compile_variable",
    "observe",
]
