"""Members that fit the observations far worse than others do are drawn again (docs/theory.md)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from xsda.diffusion.samplers import NonFiniteSampleError
from xsda.ensemble import Shared
from xsda.guidance import Likelihood

FIRST = 4  # members beside the best of which all are judged
ALIKE = 0.15  # differences of chi-square, as a share of it, that are not held against a member: no prior is so right
# A chi-square, over its mean, that is not held against a member of fields over two axes: no prior of them is so right, and no
# sigma is known so well. Of what is beyond it, and beyond all chance, a warning tells, whatever the prior.
KNOWN, EXCLUDED = 2.0, 1e-6

Draw = Callable[[list[int], int], Tensor]  # which members, which attempt


def draw_again(
    x: Tensor, likelihood: Likelihood, members: Sequence[int], attempts: int, draw: Draw, shared: Shared
) -> str | None:
    """Replace unlikely members of ``x``; of several attempts the nearest to the observations stays.

    Returns what is to be told of those that the observations exclude even so.
    """
    deviance = likelihood.deviance(x)
    limit = _limit(x, likelihood, members, draw, shared) if attempts else np.inf
    for attempt in range(1, attempts + 1):
        rows = (deviance > limit).nonzero().flatten()
        if not len(rows):
            break
        try:
            again = draw([members[i] for i in rows.tolist()], attempt)
        except NonFiniteSampleError:  # no better than what there is
            continue
        new = likelihood.deviance(again)
        better = new < deviance[rows]
        x[rows[better]], deviance[rows[better]] = again[better], new[better]
    chi_square, probability, n = likelihood.misfit(x)
    left = int(((probability < EXCLUDED) & (chi_square > KNOWN * n)).sum())
    if not left:
        return None
    return (
        f"{left} of {len(x)} members (of one batch) do not fit the observations (chi-square beyond its one-in-a-million quantile)"
        f"{f' after {attempts} more attempts' if attempts else ''}. Is sigma smaller than the observations deserve, or are some of them wrong "
        "(likelihood='student_t')? Otherwise the prior may know no such trajectory, or more steps are needed"
    )


def _limit(x: Tensor, likelihood: Likelihood, members: Sequence[int], draw: Draw, shared: Shared) -> float:
    """The deviance that is too far above that of the best of the first members, which are drawn if they are not here.

    It is the chi-square, where errors are Gaussian. Those of right members for the same observations differ with a variance of at
    most twice the larger of the least and the number of values.
    """
    deviance, n = likelihood.deviance(x), likelihood.y.numel()
    known = KNOWN * n if x.ndim == 5 else 0.0
    if bool((deviance <= known).all()):
        return known
    if shared.best is None:
        first = [float(c) for c, m in zip(deviance, members, strict=True) if m < FIRST]
        absent = sorted(set(range(FIRST)) - set(members))
        for i in range(0, len(absent), len(members)):
            first += likelihood.deviance(draw(absent[i : i + len(members)], 0)).tolist()
        shared.best = min(first)
    best = shared.best
    most = max(n, best)
    return max(known, best + max(2 * np.sqrt(2 * most) + 4, ALIKE * most))
