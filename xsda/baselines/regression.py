r"""Ridge regression of an earlier ensemble on a later one, for the smoother of a local filter.

A is the forecast ensemble and B the analysis ensemble that it started from, both as anomalies (member, numbers). The
smoother needs the matrix G of the regression :math:`B \approx A G`. With about as many members N as numbers in a state,
the smallest singular values of A are chance, and the inverse of A multiplies whatever lies along them. The increments
of a local analysis do lie along them, because they are not combinations of the members. A ridge damps these directions:

.. math:: G = A' (A A' + \lambda)^{-1} B, \qquad \lambda = c\, s^2 / N,

where s is the largest singular value of A. The error of a covariance that is estimated from N members falls as 1 / N,
relative to its largest eigenvalue, and so does the ridge: with many members the regression is exact. Numbers are
counted in units of their own spread, so that the result does not depend on units.
"""

from __future__ import annotations

import torch
from torch import Tensor

STRENGTH = 0.1  # c: anything from 0.03 to 0.3 does about as well on Lorenz-96


def ridge_share(increment: Tensor, after: Tensor) -> Tensor:
    """The combinations of members (member, member) that stand for an increment.

    ``increment`` (member, numbers) is what changed the ensemble with the anomalies ``after`` (member, numbers).
    """
    spread = after.square().mean(0).sqrt()
    scale = torch.where(spread > 0, spread, 1)
    left, values, right = torch.linalg.svd(after / scale, full_matrices=False)
    ridge = STRENGTH * values[0].square() / len(after)
    damped = values / (values.square() + ridge).clamp(min=torch.finfo(after.dtype).tiny)
    return (increment / scale) @ (right.mT * damped) @ left.mT
