"""Linear systems A u = target, member by member, A = 1 + B known by its products only.

``product(u)`` returns (image, A u), both for the batch of all members; the image of the solution (the update of the
state) is put together from those of the directions. Both solvers stop each member at its own convergence, and leave a
member alone once a product of it is not finite.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Product = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Solution:
    """The solution ``u`` (batch, M), its ``image`` (batch, ...), and the relative ``residual`` (batch,)."""

    u: Tensor
    image: Tensor
    residual: Tensor


def conjugate_gradients(
    product: Product, target: Tensor, start: Tensor | None, *, tolerance: float, iterations: int
) -> Solution:
    """For symmetric positive A; a member stops at a direction of non-positive curvature.

    The iterate of the least residual counts: where A is not quite symmetric, the later ones may be far worse than none.
    """
    goal = tolerance**2 * _dot(target, target)
    u, residual = torch.zeros_like(target), target
    image: Tensor | None = None
    if start is not None:
        back, applied = product(start)
        first = target - applied
        better = _dot(first, first) <= _dot(target, target)  # otherwise the start is worse than none, or not finite
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
    """For any A: the least residual in the Krylov space; keeps one image per iteration."""
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
        for _ in range(2):  # twice is enough to be orthogonal in single precision
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
    """Coefficients that bring the columns nearest to the target, member by member, and the distance left."""
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
