"""Several priors, trained independently, whose ensembles are pooled: what one training happened to learn counts less.

Member i comes from prior i modulo their number, and is the member i that this prior draws alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import xarray as xr

from xsda.ensemble import member_numbers
from xsda.priors.prior import Prior

JOINED = ("prior", "prior_hash", "history")


class Pool:
    """Priors of the same variables and time step; made by ``xsda.load_model([...])``."""

    def __init__(self, priors: Sequence[Prior]):
        if not priors:
            raise ValueError("a pool needs at least one prior")
        first = priors[0].layout
        for p in priors[1:]:
            for what in ("names", "dt", "dates"):
                ours, theirs = getattr(first, what), getattr(p.layout, what)
                if theirs != ours and not (
                    what == "dt" and ours and theirs and math.isclose(ours, theirs, rel_tol=1e-3)
                ):
                    raise ValueError(
                        f"priors of one pool must describe the same world: {what} is {ours} in {priors[0].name!r} and "
                        f"{theirs} in {p.name!r}"
                    )
        self.priors = tuple(priors)

    @property
    def name(self) -> str:
        return ", ".join(p.name for p in self.priors)

    @property
    def hash(self) -> str:
        return ", ".join(p.hash for p in self.priors)

    def __repr__(self) -> str:
        return "\n".join(["<xsda.Pool>", *(f"  {line}" for p in self.priors for line in repr(p).splitlines())])

    def sample(self, like: xr.Dataset, *, members: int | Sequence[int] = 16, **options: Any) -> xr.Dataset:
        """Unconditional trajectories; see ``Prior.sample``."""
        return self.share(members, lambda prior, numbers: prior.sample(like, members=numbers, **options))

    def share(self, members: int | Sequence[int], draw: Callable[[Prior, Sequence[int]], xr.Dataset]) -> xr.Dataset:
        """The ensemble of which each prior draws its members."""
        numbers, count, parts = member_numbers(members), len(self.priors), []
        for k, prior in enumerate(self.priors):
            own = [m for m in numbers if m % count == k]
            if own:
                parts.append(draw(prior, own).assign_coords(prior=("member", [prior.name] * len(own))))
        pooled = xr.concat(parts, "member", data_vars="minimal", coords="minimal", compat="override", join="exact",
                           combine_attrs="override")  # fmt: skip
        place = {m: i for i, m in enumerate(pooled.member.values.tolist())}
        pooled = pooled.isel(member=np.array([place[m] for m in numbers]))
        for key in JOINED:
            pooled.attrs[key] = (
                "\n".join(p.attrs[key] for p in parts) if key == "history" else ", ".join(p.attrs[key] for p in parts)
            )
        return pooled
