r"""Gauss-Newton for the minimum of :math:`|w|^2 + |y - g(w)|^2`, for each member.

Each step solves :math:`(1 + G' G)\,\delta w = G'(y - g) - w`: with the tangent-linear G as a matrix, or by conjugate
gradients, which need only products with it and its adjoint. A step that would raise the cost is halved.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

DENSE = 2**16  # a matrix is made if one copy of the states for each observation holds at most so many numbers
INNER = 1e-3  # relative residual at which conjugate gradients stop: the next step sees what is left
Linear = Callable[[Tensor], Tensor]
Predicted = Callable[[Tensor], Tensor]  # controls (member, control) -> scaled observations (member, M)


def minimise(
    predicted: Predicted, w: Tensor, target: Tensor, iterations: int, tolerance: float, numbers: int
) -> tuple[Tensor, int]:
    """The minimum of each member, and the number of iterations.

    ``w``: where to start, (member, control); ``target``: (member, M); ``numbers``: of a state. They stop when w moves
    by less than ``tolerance`` (root mean square).
    """

    def evaluate(w: Tensor) -> tuple[Tensor, Tensor]:
        misfit = target - predicted(w)
        return misfit, w.square().sum(1, keepdim=True) + misfit.square().sum(1, keepdim=True)

    misfit, cost = evaluate(w)
    find = dense_step if target.numel() * numbers <= DENSE else gradient_step
    for number in range(1, iterations + 1):  # noqa: B007
        step = find(predicted, w, misfit)
        for _ in range(10):
            new_misfit, new_cost = evaluate(w + step)
            worse = ~(new_cost <= cost * (1 + 1e-10))  # also if it is not a number
            if not bool(worse.any()):
                break
            step = torch.where(worse, step / 2, step)
        step, misfit, cost = (
            torch.where(worse, a, b) for a, b in ((0 * w, step), (misfit, new_misfit), (cost, new_cost))
        )
        w = w + step
        if float(step.square().mean(1).max()) < tolerance**2:
            break
    return w, number


def dense_step(predicted: Predicted, w: Tensor, misfit: Tensor) -> Tensor:
    """A Gauss-Newton step; all rows of the tangent-linear come from one forecast of as many copies."""
    members, m = misfit.shape
    with torch.enable_grad():
        copies = w.repeat(m, 1).requires_grad_()
        rows = torch.eye(m, dtype=w.dtype).repeat_interleave(members, 0)
        (g,) = torch.autograd.grad(predicted(copies), copies, rows)
    g = g.unflatten(0, (m, members)).transpose(0, 1)
    return solve(g, misfit.unsqueeze(1) + w.unsqueeze(1) @ g.mT).squeeze(1) - w


def gradient_step(predicted: Predicted, w: Tensor, misfit: Tensor) -> Tensor:
    """A Gauss-Newton step by conjugate gradients, each member's on its own."""
    adjoint, tangent = products(predicted, w)
    step, residual = torch.zeros_like(w), adjoint(misfit) - w
    search, old = residual, residual.square().sum(1, keepdim=True)
    limit = INNER**2 * old
    for _ in range(w.shape[1]):
        if bool((old <= limit).all()):
            break
        product = search + adjoint(tangent(search))
        length = torch.where(old > limit, old / (search * product).sum(1, keepdim=True), 0)
        step, residual = step + length * search, residual - length * product
        new = residual.square().sum(1, keepdim=True)
        search, old = residual + torch.where(old > limit, new / old, 0) * search, new
    return step


def products(predicted: Predicted, w: Tensor) -> tuple[Linear, Linear]:
    """Products with the adjoint and the tangent-linear at ``w``, from one forecast.

    The adjoint is linear in what it is applied to, so that its own adjoint is the tangent-linear: reverse mode twice,
    which is much faster here than forward mode.
    """
    with torch.enable_grad():
        point = w.detach().clone().requires_grad_()
        value = predicted(point)
        weights = torch.zeros_like(value, requires_grad=True)
        (pulled,) = torch.autograd.grad(value, point, weights, create_graph=True)
    return (
        lambda v: torch.autograd.grad(value, point, v, retain_graph=True)[0],
        lambda v: torch.autograd.grad(pulled, weights, v, retain_graph=True)[0],
    )


def solve(g: Tensor, d: Tensor) -> Tensor:
    """d G (1 + G' G)^-1 of G (..., M, control) and d (..., rows, M), solved where it is smaller."""
    m, size = g.shape[-2:]
    one = torch.eye(min(m, size), dtype=g.dtype)
    if m <= size:
        return torch.cholesky_solve(d.mT, torch.linalg.cholesky(g @ g.mT + one)).mT @ g
    return torch.cholesky_solve((d @ g).mT, torch.linalg.cholesky(g.mT @ g + one)).mT
