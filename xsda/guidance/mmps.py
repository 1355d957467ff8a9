r"""Moment matching posterior sampling (Rozet et al. 2024, arXiv 2405.13712).

.. math:: p(y | x_t) \approx N(y;\, H \hat x_0,\, R + H V_t H'), \qquad
   V_t = \mathrm{Cov}[x_0 | x_t] = \frac{\sigma^2}{\alpha} \frac{\partial \hat x_0}{\partial x_t},

exact for a Gaussian prior and linear H. The system (R + H V H') u = y - H x0hat is solved by conjugate gradients, one
product with V (a backward pass of the denoiser) an iteration. It starts from the last step's solution, which leaves
little to do, and each member stops at its own convergence, at a direction of non-positive curvature (a network's
Jacobian is not quite symmetric), or at the first non-finite number.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from xsda.diffusion.denoisers import Denoiser
from xsda.diffusion.error import ErrorCurve
from xsda.guidance.base import Guidance, GuidedDenoiser
from xsda.guidance.likelihood import GaussianLikelihood


@dataclass(frozen=True, kw_only=True)
class MMPS(Guidance):
    """Moment matching with a warm-started, tolerance-controlled solve.

    Parameters
    ----------
    tolerance
        Relative residual at which the solve stops.
    iterations
        Most products with V_t in one solve.
    """

    tolerance: float = 0.03
    iterations: int = 20

    def __post_init__(self) -> None:
        if not self.tolerance > 0:
            raise ValueError(f"tolerance={self.tolerance} must be positive")
        if self.iterations < 1:
            raise ValueError(f"iterations={self.iterations} must be at least 1")

    def guide(self, denoiser: Denoiser, likelihood: GaussianLikelihood, error: ErrorCurve | None) -> Denoiser:
        return MomentMatching(denoiser, likelihood, self.tolerance, self.iterations)


class MomentMatching(GuidedDenoiser):
    """The denoiser of ``MMPS``; remembers the last solution, and counts its products."""

    def __init__(self, denoiser: Denoiser, likelihood: GaussianLikelihood, tolerance: float, iterations: int):
        super().__init__(denoiser, likelihood)
        self.tolerance, self.iterations = tolerance, iterations
        self.solution: Tensor | None = None
        self.products = 0

    def correction(self, x_t: Tensor, t: Tensor, x0: Tensor, predicted: Tensor) -> Tensor:
        gain, state = self.gain(t, x0), x0.detach()
        scale = self.likelihood.std  # unknowns in units of the errors: the noise part of the matrix is the identity

        def covariance(u: Tensor) -> tuple[Tensor, Tensor]:
            """(V H' u, R^-1/2 (R + H V H') R^-1/2 u)."""
            self.products += 1
            back = gain * torch.autograd.grad(predicted, x_t, u / scale, retain_graph=True)[0]
            return back, u + self.likelihood.tangent(state, back) / scale

        innovation = (self.likelihood.y - predicted.detach()) / scale
        self.solution, update = conjugate_gradients(
            covariance, innovation, self.solution, tolerance=self.tolerance, iterations=self.iterations
        )
        return update


def conjugate_gradients(
    product: object, target: Tensor, start: Tensor | None, *, tolerance: float, iterations: int
) -> tuple[Tensor, Tensor]:
    """Solve A u = target for each member; ``product(u)`` returns (B u, A u). Returns (u, B u).

    Members that have converged, or met a direction in which A is not positive, stop where they are.
    """
    assert callable(product)

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum(-1, keepdim=True)

    goal = tolerance**2 * dot(target, target)
    u = torch.zeros_like(target) if start is None else start
    image, applied = product(u)
    residual = target - applied
    better = dot(residual, residual) <= dot(target, target)  # otherwise the start is worse than none, or not finite
    u = torch.where(better, u, 0)
    residual = torch.where(better, residual, target)
    image = torch.where(_shape(better, image), image, 0)
    direction, size = residual, dot(residual, residual)
    for _ in range(iterations):
        active = size > goal
        if not bool(active.any()):
            break
        back, applied = product(direction)
        curvature = dot(direction, applied)
        active = active & (curvature > 0) & torch.isfinite(curvature)
        step = torch.where(active, size / torch.where(active, curvature, 1), 0)
        u = u + step * direction
        image = image + _shape(step, image) * torch.where(_shape(active, back), back, 0)
        residual = residual - step * torch.where(active, applied, 0)
        new = dot(residual, residual)
        direction = torch.where(active, residual + new / size.clamp(min=1e-30) * direction, direction)
        size = torch.where(active, new, 0)
    return u, image


def _shape(column: Tensor, like: Tensor) -> Tensor:
    return column.reshape(-1, *(1,) * (like.ndim - 1)).to(like.dtype if column.dtype != torch.bool else torch.bool)
