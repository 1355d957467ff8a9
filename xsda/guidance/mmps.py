r"""Moment matching posterior sampling (Rozet et al. 2024, arXiv 2405.13712).

.. math:: p(y | x_t) \approx N(y;\, H \hat x_0,\, R + H V_t H'), \qquad
   V_t = \mathrm{Cov}[x_0 | x_t] = \frac{\sigma^2}{\alpha} \frac{\partial \hat x_0}{\partial x_t}

This is exact for a Gaussian prior and linear H. The system (R + H V H') u = y - H x0hat is solved iteratively. Each
iteration takes one product with V, which is a backward pass through the denoiser. Each solve starts from the solution
of the previous step, so that few iterations are needed. The first solve starts from zero, and accurate observations at
many points take hundreds of iterations: at the largest noise V is the covariance of the prior, and the variances of its
patterns differ most. If the first solve stops early, the following ones do not converge either.

The Jacobian of a network is only an approximation to the covariance, and it need not be symmetric. Where a solve does
not converge, the iterate with the smallest residual is used.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from xsda.arguments import real_number, whole_number
from xsda.diffusion.denoisers import Denoiser
from xsda.diffusion.error import ErrorCurve
from xsda.guidance.guided import Guidance, GuidedDenoiser
from xsda.guidance.solvers import conjugate_gradients, gmres
from xsda.likelihood.likelihood import Likelihood

FIRST, LATER = 1000, 100  # products in the first solve, which starts from zero, and in later ones
SOLVERS = {"cg": conjugate_gradients, "gmres": gmres}


@dataclass(frozen=True, kw_only=True)
class MMPS(Guidance):
    """Moment matching: exact for Gaussian priors, two to three times the cost of ``Calibrated`` for networks.

    Parameters
    ----------
    tolerance
        Relative residual at which a solve stops.
    iterations
        Maximum number of products with V_t in one solve. The warm start costs one more. Default: 100, and 1000 in the
        first solve by conjugate gradients.
    solver
        "cg" (conjugate gradients) or "gmres". GMRES also solves systems with an asymmetric Jacobian, and it keeps one
        state per iteration in memory.

    Examples
    --------
    >>> print(xsda.guidance.MMPS(tolerance=0.01))
    MMPS(tolerance=0.01, iterations=None, solver='cg')
    """

    tolerance: float = 0.03
    iterations: int | None = None
    solver: str = "cg"

    def __post_init__(self) -> None:
        real_number("tolerance", self.tolerance, "lie between 0 and 1: it is a relative residual", above=0, most=1)
        if self.iterations is not None:
            whole_number("iterations", self.iterations, least=1)
        if self.solver not in SOLVERS:
            raise ValueError(f"solver={self.solver!r} is unknown; choose one of {tuple(SOLVERS)}")

    def guide(self, denoiser: Denoiser, likelihood: Likelihood, error: ErrorCurve | None) -> MomentMatching:
        return MomentMatching(denoiser, likelihood, error, self)


class MomentMatching(GuidedDenoiser):
    """The guided denoiser of ``MMPS``.

    It keeps the last solution as the next starting point, and counts the products with V_t.

    Parameters
    ----------
    denoiser
        Denoiser of the prior.
    likelihood
        Operator, observed values and law of their errors.
    error
        Measured error of the denoiser, if the prior stores it.
    options
        Options of the solves.
    """

    def __init__(self, denoiser: Denoiser, likelihood: Likelihood, error: ErrorCurve | None, options: MMPS):
        super().__init__(denoiser, likelihood, error)
        self.options = options
        self.solution: Tensor | None = None
        self.products = 0
        self.limit = 0  # of the solves that stopped early

    def complaint(self) -> str | None:
        if self.residual <= self.options.tolerance:
            return None
        return (
            f"the solves of MMPS stopped at a relative residual of up to {self.residual:.2g}, above tolerance="
            f"{self.options.tolerance:g}, after at most iterations={self.limit} products; use more. If "
            "the prior is a network, its Jacobian may not be a covariance: guidance='calibrated' does not rely on it"
        )

    def correction(self, x_t: Tensor, t: Tensor, x0: Tensor, predicted: Tensor) -> Tensor:
        options, state = self.options, x0.detach()
        own = self.own_variance(x0, t)
        innovation, variance = self.likelihood.sites(predicted.detach(), own)
        # In units of the expected size of each innovation, so that the residual does not depend on physical units.
        scale = (variance + own).sqrt()

        def covariance(u: Tensor) -> tuple[Tensor, Tensor]:
            """(V H' S^-1 u, S^-1 (R + H V H') S^-1 u), S = diag(scale)."""
            self.products += 1
            weight = u / scale
            back = self.pull(weight, x_t, t, predicted, again=True)
            return back, (variance * weight + self.likelihood.tangent(state, back)) / scale

        start = None if self.solution is None else self.solution * scale
        solve, target = SOLVERS[options.solver], innovation / scale
        limit = options.iterations or (FIRST if start is None and options.solver == "cg" else LATER)
        found = solve(covariance, target, start, tolerance=options.tolerance, iterations=limit)
        if float(found.residual.max()) > options.tolerance:
            self.limit = max(self.limit, limit)
        self.solution = found.u / scale
        self.note(found)
        return found.image
