"""Members that fit the observations far worse than others do are drawn again (docs/theory.md)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from xsda.diffusion import Denoiser
from xsda.diffusion.samplers import NonFiniteSampleError
from xsda.likelihood import Likelihood
from xsda.sampling.blocks import Shared

# All are judged beside the second best of the first eight members: the best may be alone, and hardly met again.
FIRST, BEST = 8, 2
# A mode is seldom met, a hundred times less likely than another, whose chi-square is so far above. Each member is led to its
# mode by so many guided denoisings at this noise level, over the standard deviation of the data.
SELDOM, ROUNDS, LEVEL = 2 * np.log(100), 4, 0.3
# Differences of chi-square, as a share of it, that are not held against a member, and against its mode: no prior is so right.
ALIKE, ALIKE_MODE = 0.15, 0.05
# A chi-square, over its mean, that is not held against a member of fields over two axes: no prior of them is so right, and no
# sigma is known so well. Of what is beyond it, and beyond all chance, a warning tells, whatever the prior.
KNOWN, EXCLUDED = 2.0, 1e-6

Draw = Callable[[list[int], int], Tensor]  # which members, which attempt
Settle = Callable[[Tensor], Tensor]  # members to their modes


def modes(x: Tensor, guided: Denoiser) -> Tensor:
    """The modes of the posterior in whose reach these members are.

    With a noise of standard deviation s, a guided denoising finds the most likely state of those that could have become x, about
    argmin |x' - x|^2 / s^2 - 2 log p(x' | y); repeated, it is the proximal point method, and ends in a mode.
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
) -> str | None:
    """Replace unlikely members of ``x``; of several attempts the nearest to the observations stays.

    Returns what is to be told of those that the observations exclude even so.
    """
    if attempts:
        excess, judge = judged(x, likelihood, members, draw, settle, shared)
    for attempt in range(1, attempts + 1):
        rows = (excess > 0).nonzero().flatten()
        if not len(rows):
            break
        try:
            again = draw([members[i] for i in rows.tolist()], attempt)
        except NonFiniteSampleError:  # no better than what there is
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
        f"{int(bad.sum())} of {len(x)} members (of one batch) do not fit the observations (chi-square beyond its one-in-a-million "
        f"quantile){f' after {attempts} more attempts' if attempts else ''}.{f' They fit worst {worst}.' if worst else ''} Usual causes: a wrong "
        "observation (a unit, a place, a gross error: likelihood='student_t'), a sigma that leaves out the error of representation, "
        "a prior that knows no such trajectory, or too few steps"
    )


def judged(
    x: Tensor, likelihood: Likelihood, members: Sequence[int], draw: Draw, settle: Settle, shared: Shared
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """By how much the deviance of members, and that of their modes, is too far above the second best of the first members; and the judge.

    The first members are drawn if they are not here. The deviance is the chi-square, where errors are Gaussian. Those of right
    members for the same observations differ with a variance of at most twice the larger of the best and the number of values.
    """
    n = likelihood.y.numel()
    known = KNOWN * n if x.ndim == 5 else 0.0

    def measured(x: Tensor) -> Tensor:
        """The deviance of the members and of their modes, (2, batch)."""
        own = likelihood.deviance(x)
        if known:
            return torch.stack([own, torch.zeros_like(own)])
        return torch.stack([own, torch.fmin(own, likelihood.deviance(settle(x)))])

    values = measured(x)
    if bool((values[0] <= known).all()):
        return torch.zeros_like(values[0]), lambda x: torch.zeros(len(x))
    if shared.best is None:
        absent = sorted(set(range(FIRST)) - set(members))
        here = [i for i, m in enumerate(members) if m < FIRST]
        first = [values[:, here]]
        for i in range(0, len(absent), len(members)):
            first.append(measured(draw(absent[i : i + len(members)], 0)))
        own, mode = torch.cat(first, 1).kthvalue(BEST, dim=1).values.tolist()
        shared.best = own, mode
    own, mode = shared.best
    most = max(n, own)
    limit = max(known, own + max(3 * np.sqrt(2 * most) + 4, ALIKE * most))
    limit_of_mode = mode + max(SELDOM * max(1.0, mode / n), ALIKE_MODE * mode)

    def excess(values: Tensor) -> Tensor:
        return (values - values.new_tensor([[limit], [limit_of_mode]])).clamp(min=0).sum(0)

    return excess(values), lambda x: excess(measured(x))
