"""Shares the members of an ensemble out among several priors.

Member i comes from the prior number i modulo the number of priors, exactly as that prior would draw it alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import xarray as xr

from xsda.priors.pool import Pool
from xsda.priors.prior import Prior
from xsda.sampling.options import member_numbers

JOINED = ("prior", "prior_hash", "history")


def share(
    pool: Pool, ds: xr.Dataset, members: int | Sequence[int], draw: Callable[[Prior, Sequence[int]], xr.Dataset]
) -> xr.Dataset:
    """Draw each prior's members on the grid ``ds``, and join them in the order asked for."""
    numbers, count, parts = member_numbers(members), len(pool.priors), []
    for prior in pool.priors:  # so that errors come before the first of them samples
        prior.bind(ds)
    for k, prior in enumerate(pool.priors):
        own = [m for m in numbers if m % count == k]
        if own:
            parts.append(draw(prior, own).assign_coords(prior=("member", [prior.name] * len(own))))
    pooled = xr.concat(
        parts,
        "member",
        data_vars="minimal",
        coords="minimal",
        compat="override",
        join="exact",
        combine_attrs="override",
    )
    place = {m: i for i, m in enumerate(pooled.member.values.tolist())}
    pooled = pooled.isel(member=np.array([place[m] for m in numbers]))
    for key in JOINED:
        pooled.attrs[key] = ("\n" if key == "history" else ", ").join(p.attrs[key] for p in parts)
    return pooled
