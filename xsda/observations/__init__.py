"""Reads labelled observations and builds the observation operator H from their coordinates.

``read`` collects values, errors and laws. ``compile_variable`` builds H for one variable. ``compile_observations``
puts all variables together into one likelihood. ``observe`` applies H to a Dataset. ``explain`` tells what happens to
each value, and ``check`` flags values that are probably wrong.
"""

from xsda.observations.check import Flags, check
from xsda.observations.compile import compile_variable
from xsda.observations.explain import Explanation, explain
from xsda.observations.joint import compile_observations, join
from xsda.observations.observe import observe
from xsda.observations.observed import Observed
from xsda.observations.operator import ObservationOperator, VariableOperator
from xsda.observations.outside import outside
from xsda.observations.read import read, units_of
from xsda.observations.sources import as_sources

__all__ = [
    "Explanation",
    "Flags",
    "ObservationOperator",
    "Observed",
    "VariableOperator",
    "as_sources",
    "check",
    "compile_observations",
    "compile_variable",
    "explain",
    "join",
    "observe",
    "outside",
    "read",
    "units_of",
]
