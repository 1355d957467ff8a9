"""Iterative solvers for linear systems A u = target, where A is known only by its products with vectors.

``product(u)`` returns (image, A u) for all members of the batch. The image of the solution, which is the update of the
state, is the same combination of the images of the search directions. Both solvers stop each member when it has
converged, and ignore a member whose product is not finite.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Product = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Solution:
    """Solution of a linear system, member by member.

    Parameters
    ----------
    u
        The solution, (batch, M).
    image
        Its image, the update of the state, (batch, ...).
    residual
        Relative residual, (batch,).
    """

    u: Tensor
    image: Tensor
    residual: Tensor


def conjugate_gradients(
    product: Product, target: Tensor, start: Tensor | None, *, tolerance: float, iterations: int
) -> Solution:
    """Solve a system with a symmetric positive definite A; a member stops at a direction of non-positive curvature.

    The iterate with the smallest residual is returned, because later ones can be far worse if A is not quite symmetric.

    Parameters
    ----------
    product
        Returns (image, A u) for u (batch, M).
    target
        Right-hand side, (batch, M).
    start
        First guess, (batch, M), or None for zero. It costs one product, and is ignored if zero is better.
    tolerance
        Relative residual at which a member stops.
    iterations
        Maximum number of products, beside that of the first guess.

    Returns
    -------
    Solution
        The solution, its image and the relative residual of each member.

    Examples
    --------
    >>> from xsda.guidance.solvers import conjugate_gradients
    >>> a = torch.tensor([[2.0, 1.0], [1.0, 3.0]])
    >>> y = torch.tensor([[3.0, 4.0]])
    >>> conjugate_gradients(lambda u: (u, u @ a), y, None, tolerance=1e-6, iterations=9).u.round(decimals=4)
    tensor([[1., 1.]])
    """
    goal = tolerance**2 * _dot(target, target)
    u, residual = torch.zeros_like(target), target
    image: Tensor | None = None
    if start is not None:
        back, applied = product(start)
        first = target - applied
        better = _dot(first, first) <= _dot(target, target)  # otherwise zero is better, or the start is not finite
        u, residual = torch.where(better, start, 0), torch.where(better, first, target)
        image = torch.where(_shape(better, back), back, 0)
    direction, size = residual, _dot(residual, residual)
    best_u, best_image, least = u, image, size
    moving = torch.ones_like(size, dtype=torch.bool)
    for _ in range(iterations):
        active = moving & (size > goal)
        if not bool(active.any()):
            break
        back, applied = product(direction)
        if image is None or best_image is None:
            image = best_image = torch.zeros_like(back)
        curvature = _dot(direction, applied)
        moving = moving & (curvature > 0) & torch.isfinite(curvature)
        active = active & moving
        step = torch.where(active, size / torch.where(active, curvature, 1), 0)
        u = u + step * direction
        image = image + _shape(step, image) * torch.where(_shape(active, back), back, 0)
        residual = residual - step * torch.where(active, applied, 0)
        new = _dot(residual, residual)
        direction = torch.where(active, residual + new / size.clamp(min=1e-30) * direction, direction)
        size = torch.where(active, new, size)
        better = size < least
        best_u, least = torch.where(better, u, best_u), torch.where(better, size, least)
        best_image = torch.where(_shape(better, image), image, best_image)
    if best_image is None:
        best_image = torch.zeros_like(product(target)[0])
    return Solution(best_u, best_image, _relative(least, target))


def gmres(product: Product, target: Tensor, start: Tensor | None, *, tolerance: float, iterations: int) -> Solution:
    """Solve a system with any A: minimise the residual in the Krylov space. It keeps one image per iteration.

    Parameters
    ----------
    product, target, start, tolerance, iterations
        As for ``conjugate_gradients``.

    Returns
    -------
    Solution
        The solution, its image and the relative residual of each member.

    Examples
    --------
    >>> from xsda.guidance.solvers import gmres
    >>> a = torch.tensor([[2.0, 1.0], [-1.0, 3.0]])
    >>> gmres(lambda u: (u, u @ a), torch.tensor([[1.0, 4.0]]), None, tolerance=1e-6, iterations=9).u.round(decimals=4)
    tensor([[1., 1.]])
    """
    u, residual = torch.zeros_like(target), target
    image: Tensor | None = None
    if start is not None:
        back, applied = product(start)
        first = target - applied
        better = _dot(first, first) <= _dot(target, target)
        u, residual = torch.where(better, start, 0), torch.where(better, first, target)
        image = torch.where(_shape(better, back), back, 0)
    left = norm = _dot(residual, residual).sqrt()
    goal = tolerance * _dot(target, target).sqrt()
    v = residual / norm.clamp(min=1e-30)
    basis: list[Tensor] = []
    columns: list[Tensor] = []
    images: list[Tensor] = []
    y: list[Tensor] = []
    for _ in range(iterations):
        active = left > goal
        if not bool(active.any()):
            break
        back, applied = product(v)
        good = active & torch.isfinite(applied).all(-1, keepdim=True)
        basis.append(v)
        columns.append(torch.where(good, applied, 0))
        images.append(torch.where(_shape(good, back), back, 0))
        y, left = _least_squares(columns, residual)
        v, size = columns[-1], _dot(columns[-1], columns[-1]).sqrt()
        for _ in range(2):  # two passes give orthogonality in single precision
            for b in basis:
                v = v - _dot(v, b) * b
        length = _dot(v, v).sqrt()
        v = torch.where(length > 1e-6 * size, v / length.clamp(min=1e-30), 0)
    if image is None:
        image = torch.zeros_like(images[0] if images else product(target)[0])
    for c, b, i in zip(y, basis, images, strict=True):
        u, image = u + c * b, image + _shape(c, i) * i
    return Solution(u, image, _relative(left**2, target))


def _least_squares(columns: list[Tensor], target: Tensor) -> tuple[list[Tensor], Tensor]:
    """Coefficients that minimise the distance of the columns to the target, and that distance, member by member."""
    a = torch.stack(columns, -1).double()
    y = torch.linalg.pinv(a, rtol=1e-6) @ target.double()[..., None]
    left = (target.double()[..., None] - a @ y).norm(dim=1)
    return [c.to(target) for c in y[..., 0].split(1, -1)], left.to(target)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-1, keepdim=True)


def _relative(size: Tensor, target: Tensor) -> Tensor:
    return (size / _dot(target, target).clamp(min=1e-30)).sqrt()[:, 0]


def _shape(column: Tensor, like: Tensor) -> Tensor:
    return column.reshape(-1, *(1,) * (like.ndim - 1)).to(like.dtype if column.dtype != torch.bool else torch.bool)
