"""Reads labelled observations and builds the observation operator H from their coordinates.

``read`` collects values, errors and laws. ``compile_variable`` builds H for one variable. ``compile_observations``
puts all variables together into one likelihood. ``observe`` applies H to a Dataset.
"""

from xsda.observations.compile import compile_variable
from xsda.observations.joint import compile_observations, join
from xsda.observations.observe import observe
from xsda.observations.observed import Observed
from xsda.observations.operator import ObservationOperator, VariableOperator
from xsda.observations.outside import outside
from xsda.observations.read import read, units_of
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
    "outside",
    "read",
    "units_of",
]
