"""Several priors that were trained independently, whose ensembles are pooled to average out the errors of training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from xsda.labels.cf import check_units
from xsda.labels.layout import Layout
from xsda.priors.prior import Prior


class Pool:
    """Priors of the same variables and time step; ``xsda.load_model([...])`` makes a pool.

    Parameters
    ----------
    priors
        The priors.
    """

    def __init__(self, priors: Sequence[Prior]):
        if not priors:
            raise ValueError("a pool needs at least one prior")
        first = _world(priors[0].layout)
        for p in priors[1:]:
            for what, theirs in _world(p.layout).items():
                ours = first[what]
                numbers = isinstance(ours, float) and isinstance(theirs, float)
                if not (math.isclose(ours, theirs, rel_tol=1e-3) if numbers else theirs == ours):
                    raise ValueError(
                        f"the priors of a pool must agree, but {what} is {ours} in {priors[0].name!r} and "
                        f"{theirs} in {p.name!r}; use priors of the same variables, grid and time step"
                    )
            for v, same in zip(p.layout.variables, priors[0].layout.variables, strict=True):
                units = v.attrs.get("units"), same.attrs.get("units")
                check_units(v.name, *units, f"the prior {priors[0].name!r} of the same pool")
        self.priors = tuple(priors)

    @property
    def name(self) -> str:
        """Names of the priors."""
        return ", ".join(p.name for p in self.priors)

    @property
    def hash(self) -> str:
        """Hashes of the priors."""
        return ", ".join(p.hash for p in self.priors)

    def unbalanced(self) -> Pool:
        """Return a pool of the priors without their energy correction; see ``Prior.unbalanced``."""
        return Pool([p.unbalanced() for p in self.priors])

    def __repr__(self) -> str:
        return "\n".join(["<xsda.Pool>", *(f"  {line}" for p in self.priors for line in repr(p).splitlines())])


def _world(layout: Layout) -> dict[str, Any]:
    """The properties that priors must share to be members of one ensemble."""
    return {
        "names": layout.names,
        "the channels of each": {v.name: (v.channels, v.labels) for v in layout.variables},
        "dt": layout.dt,
        "dates": layout.dates,
        "the space": tuple((a.name, a.period and float(f"{a.period:.4g}")) for a in layout.space),
    }
