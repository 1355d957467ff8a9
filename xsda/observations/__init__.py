"""Observations: labelled Datasets whose coordinates are the observation operator."""

from xsda.observations.compile import compile_variable
from xsda.observations.joint import compile_observations, join
from xsda.observations.observe import observe
from xsda.observations.operator import ObservationOperator, VariableOperator
from xsda.observations.read import Observed, read, units_of
from xsda.observations.sources import as_sources

__all__ = [
    "ObservationOperator",
    "Observed",
    "VariableOperator",
    "as_sources",
    "compile_observations",
    "compile_variable",
    "join",
    "observe",
    "read",
    "units_of",
]
