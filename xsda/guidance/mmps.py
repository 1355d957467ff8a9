r"""Moment matching posterior sampling (Rozet et al. 2024, arXiv 2405.13712).

.. math:: p(y | x_t) \approx N(y;\, H \hat x_0,\, R + H V_t H'), \qquad
   V_t = \mathrm{Cov}[x_0 | x_t] = \frac{\sigma^2}{\alpha} \frac{\partial \hat x_0}{\partial x_t},

exact for a Gaussian prior and linear H. The system (R + H V H') u = y - H x0hat is solved iteratively, one product with V
(a backward pass of the denoiser) an iteration, starting from the last step's solution, which leaves little to do.

A network's Jacobian is not quite the covariance it stands for, and where the future branches the linear update
reaches too far. Guards may be set, which pull the method towards ``Calibrated`` (r^2 is the denoiser's measured mean
squared error): ``mix`` replaces a part of H V H' by diag(r^2), ``limit`` bounds single innovations, ``trust`` the chi-square
of all, and ``reach`` what the observations may add to each number of the state.
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

SOLVERS = {"cg": conjugate_gradients, "gmres": gmres}


@dataclass(frozen=True, kw_only=True)
class MMPS(Guidance):
    """Moment matching with a warm-started, tolerance-controlled solve.

    Parameters
    ----------
    tolerance
        Relative residual at which the solve stops.
    iterations
        Most products with V_t in one solve, beside the one that the warm start costs.
    solver
        "cg" (conjugate gradients), or "gmres", which bears an asymmetric Jacobian and keeps one state per iteration.
    mix
        Share, from 0 to 1, of the covariance that is taken from the prior's error curve instead of the Jacobian.
    limit
        Innovations count at most this many standard deviations (None: no limit).
    trust
        The chi-square of the innovations counts at most ``trust**2`` times their number (None: no limit).
    reach
        The observations move each number at most so many times the denoiser's error (None: no limit).
    """

    tolerance: float = 0.03
    iterations: int = 50
    solver: str = "cg"
    mix: float = 0.0
    limit: float | None = None
    trust: float | None = None
    reach: float | None = None

    def __post_init__(self) -> None:
        real_number("tolerance", self.tolerance, "lie between 0 and 1: it is what a solve may leave", above=0, most=1)
        whole_number("iterations", self.iterations, least=1)
        if self.solver not in SOLVERS:
            raise ValueError(f"solver={self.solver!r} is unknown; choose one of {tuple(SOLVERS)}")
        real_number(
            "mix", self.mix, "lie between 0 (the Jacobian alone) and 1 (the error curve alone)", least=0, most=1
        )
        for name in ("limit", "trust", "reach"):
            if (value := getattr(self, name)) is not None:
                real_number(name, value, "be positive: it is a number of standard deviations (None: no limit)", above=0)

    def guide(self, denoiser: Denoiser, likelihood: Likelihood, error: ErrorCurve | None) -> MomentMatching:
        return MomentMatching(denoiser, likelihood, error, self)


class MomentMatching(GuidedDenoiser):
    """The denoiser of ``MMPS``; remembers the last solution, counts its products and the residuals they left."""

    def __init__(self, denoiser: Denoiser, likelihood: Likelihood, error: ErrorCurve | None, options: MMPS):
        super().__init__(denoiser, likelihood, error)
        self.options = options
        self.solution: Tensor | None = None
        self.products = 0

    def complaint(self) -> str | None:
        if self.residual <= self.options.tolerance:
            return None
        return (
            f"the solves of MMPS stopped at a relative residual of up to {self.residual:.2g}, above tolerance="
            f"{self.options.tolerance:g}, after at most iterations={self.options.iterations} products: allow more. If the prior "
            "is a network, its Jacobian may not be a covariance: guidance='calibrated' does not rely on it"
        )

    def correction(self, x_t: Tensor, t: Tensor, x0: Tensor, predicted: Tensor) -> Tensor:
        options, state = self.options, x0.detach()
        own = self.own_variance(x0, t)
        innovation, variance = self.likelihood.sites(predicted.detach(), own, options.limit)
        # Unknowns in units of what each innovation may be expected to be: no variable hides another, whatever their units.
        scale = (variance + own).sqrt()

        def covariance(u: Tensor) -> tuple[Tensor, Tensor]:
            """(V H' S^-1 u, S^-1 (R + H V H') S^-1 u), S = diag(scale)."""
            self.products += 1
            weight = u / scale
            back = self.pull(weight, x_t, t, predicted, again=True)
            spread = self.likelihood.tangent(state, back)
            if options.mix:
                spread = (1 - options.mix) * spread + options.mix * own * weight
            return back, (variance * weight + spread) / scale

        start = None if self.solution is None else self.solution * scale
        solve, target = SOLVERS[options.solver], innovation / scale
        found = solve(covariance, target, start, tolerance=options.tolerance, iterations=options.iterations)
        self.solution = found.u / scale
        self.note(found)
        update = found.image
        if options.trust is not None:
            chi_square = (target * found.u).sum(1).clamp(min=1e-30) / target.shape[1]
            factor = (options.trust / chi_square.sqrt()).clamp(max=1)
            update = update * factor.reshape(-1, *(1,) * (x0.ndim - 1))
        if options.reach is not None:
            bound = options.reach * self.own_error(x0, t).reshape(1, 1, -1, *(1,) * (x0.ndim - 3))
            update = update.clamp(-bound, bound)
        return update
