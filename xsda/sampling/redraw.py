"""Draws members again that fit the observations far worse than others (docs/theory.md)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from xsda.diffusion import Denoiser
from xsda.diffusion.samplers import NonFiniteSampleError
from xsda.likelihood import Likelihood
from xsda.sampling.blocks import Shared

# Members are compared with the second best of the first eight. The best may lie in a mode that is hardly ever reached.
FIRST, BEST = 8, 2
PRICE = 3  # of a draw of the careful sampler, in draws of the quick one
# A mode whose chi-square exceeds that of another by SELDOM is a hundred times less likely. ROUNDS guided denoisings at
# the noise level LEVEL (in standard deviations of the data) move a member to its mode.
SELDOM, ROUNDS, LEVEL = 2 * np.log(100), 4, 0.3
# Relative differences of chi-square that are tolerated, for members and for their modes: no prior is more accurate.
ALIKE, ALIKE_MODE = 0.15, 0.05
# For fields over two axes, members with a chi-square below KNOWN times its mean are accepted: priors and sigma are not
# known better. If chi-square is larger and its probability is below EXCLUDED, there is a warning, for every prior.
KNOWN, EXCLUDED = 2.0, 1e-6

Draw = Callable[[list[int], int], Tensor]  # which members, which attempt
Settle = Callable[[Tensor], Tensor]  # members to their modes


def modes(x: Tensor, guided: Denoiser) -> Tensor:
    """Move each member to the mode of the posterior nearest to it.

    A guided denoising at the noise level s returns about argmin |x' - x|^2 / s^2 - 2 log p(x' | y). Repeated, this is
    the proximal point method, which ends in a mode.
    """
    t = guided.schedule.time(torch.tensor(LEVEL, dtype=torch.float64))
    for _ in range(ROUNDS):
        x = guided(guided.schedule.alpha(t).to(x) * x, t)
    return x


def draw_again(
    x: Tensor,
    likelihood: Likelihood,
    members: Sequence[int],
    attempts: int,
    draw: Draw,
    settle: Settle,
    shared: Shared,
    careful: int = 0,
) -> str | None:
    """Draw unlikely members of ``x`` again, in place; keep the attempt that fits the observations best.

    Attempts before ``careful`` are those of a quicker sampler. The careful one takes over if it gives more members that
    the observations do not exclude for its price.

    Returns a warning if the observations still exclude some members, otherwise None.
    """
    if attempts:
        excess, judge = judged(x, likelihood, members, draw, settle, shared, careful)
    for attempt in range(1, attempts + 1):
        rows = (excess > 0).nonzero().flatten()
        if not len(rows):
            break
        try:
            again = draw([members[i] for i in rows.tolist()], attempt + (careful if shared.careful else 0))
        except NonFiniteSampleError:  # this attempt is no better
            continue
        new = judge(again)
        better = new < excess[rows]
        x[rows[better]], excess[rows[better]] = again[better], new[better]
    chi_square, probability, n = likelihood.misfit(x)
    bad = (probability < EXCLUDED) & (chi_square > KNOWN * n)
    if not bool(bad.any()):
        return None
    worst = likelihood.worst(x[bad])
    return (
        f"{int(bad.sum())} of {len(x)} members (of one batch) do not fit the observations (chi-square beyond its "
        f"one-in-a-million quantile){f' after {attempts} more attempts' if attempts else ''}."
        f"{f' The worst fit is to {worst}.' if worst else ''} Usual causes: a wrong observation (a unit, a place, a "
        "gross error: likelihood='student_t'), a sigma without the error of representation, a trajectory that the "
        "prior does not know, or too few steps"
    )


def judged(
    x: Tensor,
    likelihood: Likelihood,
    members: Sequence[int],
    draw: Draw,
    settle: Settle,
    shared: Shared,
    careful: int = 0,
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Return by how much members and their modes exceed the tolerated deviance, and a function that computes it.

    The reference is the second best of the first members, which are drawn if they are not among ``members``. If the
    errors of observations exclude it, and it comes from a quicker sampler, the attempt ``careful`` of the same members
    is considered too, if that fits better. The deviance is the chi-square if errors are Gaussian. Deviances of correct
    members for the same observations differ with a variance of at most twice the larger of the best deviance and the
    number of values.
    """
    n = likelihood.y.numel()
    known = KNOWN * n if x.ndim == 5 else 0.0

    def measured(x: Tensor) -> Tensor:
        """Return the deviances of members and of their modes, (2, batch)."""
        own = likelihood.deviance(x)
        if known:
            return torch.stack([own, torch.zeros_like(own)])
        return torch.stack([own, torch.fmin(own, likelihood.deviance(settle(x)))])

    def drawn(wanted: list[int], attempt: int) -> list[Tensor]:
        size = len(members) if known else FIRST  # many fields may not fit into memory at once
        return [measured(draw(wanted[i : i + size], attempt)) for i in range(0, len(wanted), size)]

    def credible(values: Tensor) -> int:
        """Return how many of the members the errors of observations do not exclude."""
        return int((values[0] <= n + 3 * np.sqrt(2 * n)).sum())

    def tolerated(best: float) -> float:
        """Return by how much the deviance of a right member may exceed the best."""
        most = max(n, best)
        return float(max(3 * np.sqrt(2 * most) + 4, ALIKE * most))

    values = measured(x)
    if bool((values[0] <= known).all()):
        return torch.zeros_like(values[0]), lambda x: torch.zeros(len(x))
    if shared.best is None:
        here = [i for i, m in enumerate(members) if m < FIRST]
        found = [values[:, here], *drawn(sorted(set(range(FIRST)) - set(members)), 0)]
        first = torch.cat(found, 1)
        if careful and not known and credible(first) < BEST:
            others = torch.cat(drawn(list(range(FIRST)), careful), 1)
            shared.careful = credible(others) >= max(BEST, PRICE * credible(first))
            if shared.careful:
                first = torch.cat([first, others], 1)
        best, second = (first.kthvalue(k, dim=1).values.tolist() for k in (1, BEST))
        # if the errors of observations exclude the second best, but not the best, which is much better, the best counts
        alone = credible(first) == 1 and second[0] > best[0] + tolerated(best[0])
        shared.best = tuple(best if alone else second)
    own, mode = shared.best
    limit = max(known, own + tolerated(own))
    limit_of_mode = mode + max(SELDOM * max(1.0, mode / n), ALIKE_MODE * mode)

    def excess(values: Tensor) -> Tensor:
        return (values - values.new_tensor([[limit], [limit_of_mode]])).clamp(min=0).sum(0)

    return excess(values), lambda x: excess(measured(x))
