"""One observed variable of one source, as ``read`` returns it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from xsda.arguments import warn
from xsda.labels.grid import Grid
from xsda.likelihood.laws import ErrorLaw
from xsda.observations.compile import compile_variable
from xsda.observations.operator import Derived, VariableOperator

MANY = 2**24  # with more stencil points than this, duplicates are not searched for


class NothingObserved(ValueError):
    """No value is left that can be assimilated."""


@dataclass(frozen=True, eq=False)
class Observed:
    """One observed variable of one source, as ``read`` returns it.

    Parameters
    ----------
    source, name
        Names of the source and of the variable.
    ds
        The source, with this variable in the units of the grid.
    std
        Standard deviations of the errors in these units, of the shape of the variable; None if they were not read.
    law
        The law of the errors.
    correlation
        The description of correlated errors; None if they are independent.
    derived
        Functions for derived variables.
    pick
        Ravelled positions of the values that are not missing.

    Examples
    --------
    >>> (x,) = xsda.observations.read(obs, {"x": None})
    >>> x.source, x.name, x.values.shape, x.errors[0]
    ('obs', 'x', (4,), np.float64(0.5))
    """

    source: str
    name: str
    ds: xr.Dataset
    std: np.ndarray | None
    law: ErrorLaw
    correlation: Any
    derived: Mapping[str, Derived] | None
    pick: np.ndarray

    @property
    def da(self) -> xr.DataArray:
        """The observed variable."""
        return self.ds[self.name]

    @property
    def values(self) -> np.ndarray:
        """Values that are not missing, (M,), in double precision."""
        return np.asarray(self.da.values, dtype=np.float64).ravel()[self.pick]

    @property
    def errors(self) -> np.ndarray:
        """Standard deviations of the errors of ``values``, (M,)."""
        assert self.std is not None
        return self.std.ravel()[self.pick]

    def compile(self, grid: Grid, *, quietly: bool = False) -> VariableOperator:
        """Build H for this variable; warn of duplicates unless ``quietly``."""
        op = compile_variable(grid, self.ds, self.name, self.derived)
        if not quietly:
            self._warn_of_duplicates(op, grid)
        return op

    def _warn_of_duplicates(self, op: VariableOperator, grid: Grid) -> None:
        """Warn of values at the same place and time as another value of this source."""
        points = int(np.prod([*op.shape, *(g.stencil.weight.shape[1] for g in op.gathers)]))
        if points > MANY or all(g.sizes and g.stencil.contiguous for g in op.gathers):
            return
        sizes = {d: grid.template.sizes[d] for d in grid.core_dims}
        if op.channel_dim is not None and op.channels is not None:
            sizes[op.channel_dim] = op.channels.stop - op.channels.start
        index, weight = op.stencil(sizes)
        rows = np.concatenate([*(i[self.pick] for i in index.values()), weight[self.pick].round(6)], axis=1)
        twice = len(rows) - len(np.unique(rows, axis=0))
        if twice:
            warn(
                f"{twice} of {len(rows)} values of {self.name!r} in {self.source} lie at the place and time of "
                "another value. Each counts as an independent observation; if they are not, average them "
                "(superobs=...), or drop the duplicates"
            )
