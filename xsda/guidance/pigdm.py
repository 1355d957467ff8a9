r"""Pseudo-inverse guidance, PiGDM (Song et al. 2023, openreview 9_gsMA8MRKQ), and projections without a backward pass.

.. math:: p(y | x_t) \approx N(y;\, H \hat x_0,\, R + r^2 H H'), \qquad r^2 = s^2 / (1 + s^2)

at noise level s. The error of the denoised state is taken as white noise with the variance that standard normal data
would have. Solving (R + r^2 H H') u = y - H x0hat takes applications of H only, not of the network.

``PiGDM`` multiplies u by the Jacobian of the denoiser. ``Projection`` and ``Proximal`` change the denoised state
directly, which costs no backward pass through the network:

- ``Projection`` moves x0hat to its best estimate given y (as in DDRM, Kawar et al. 2022, arXiv 2201.11793, and DDNM,
  Wang et al. 2023, arXiv 2212.00490). If single points are observed, it replaces them; with the option ``resampling``
  of a sampler this is RePaint (Lugmayr et al. 2022, arXiv 2201.09865).
- ``Proximal`` alternates denoising with the data fit min |y - H x|^2 / std^2 + strength / s^2 |x - x0hat|^2 (DiffPIR,
  Zhu et al. 2023, arXiv 2305.08995), by Gauss-Newton steps if H is nonlinear.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from xsda.arguments import real_number, whole_number
from xsda.diffusion.denoisers import Denoiser
from xsda.diffusion.error import ErrorCurve
from xsda.guidance.guided import Guidance, GuidedDenoiser, check_prediction
from xsda.guidance.solvers import conjugate_gradients
from xsda.likelihood.likelihood import Likelihood

TOLERANCE, ITERATIONS = 1e-3, 50  # of the solves
ALLOWED = 0.02  # residuals below this make no visible difference


@dataclass(frozen=True, kw_only=True)
class PiGDM(Guidance):
    """Pseudo-inverse guidance: treat the error of the denoised state as white noise."""

    def guide(self, denoiser: Denoiser, likelihood: Likelihood, error: ErrorCurve | None) -> GuidedDenoiser:
        return _PiGDM(denoiser, likelihood, error)


@dataclass(frozen=True, kw_only=True)
class Projection(Guidance):
    """Project the denoised state onto the observations, without a backward pass."""

    def guide(self, denoiser: Denoiser, likelihood: Likelihood, error: ErrorCurve | None) -> GuidedDenoiser:
        return _Projection(denoiser, likelihood, error)


@dataclass(frozen=True, kw_only=True)
class Proximal(Guidance):
    """Alternate denoising and a fit to the observations, without a backward pass.

    Parameters
    ----------
    strength
        Weight of the denoised state relative to the observations.
    iterations
        Gauss-Newton steps of the data fit if H is nonlinear.
    """

    strength: float = 1.0
    iterations: int = 3

    def __post_init__(self) -> None:
        real_number("strength", self.strength, "be positive", above=0)
        whole_number("iterations", self.iterations, least=1)

    def guide(self, denoiser: Denoiser, likelihood: Likelihood, error: ErrorCurve | None) -> GuidedDenoiser:
        return _Proximal(denoiser, likelihood, error, self)


class _White(GuidedDenoiser):
    """Shared: the update of a state whose error is white noise of variance ``white``."""

    def complaint(self) -> str | None:
        if self.residual <= ALLOWED:
            return None
        return (
            f"the solves of {type(self).__name__[1:]} stopped at a relative residual of up to {self.residual:.2g}, "
            f"above {ALLOWED:g}, after {ITERATIONS} iterations, because errors are very small or very different. Check "
            "that sigma is not too small for the observations, or use guidance='auto'"
        )

    def white(self, t: Tensor) -> Tensor:
        level = self.schedule.noise_level(t)
        return level**2 / (1 + level**2)

    def solve(self, state: Tensor, white: Tensor, predicted: Tensor) -> tuple[Tensor, Tensor]:
        """Solve (R + white H H') u = y - predicted; return u and white H' u."""
        white = white.to(state)
        own = self.likelihood.spread(state, white.sqrt().expand(state.shape[2])) ** 2
        innovation, variance = self.likelihood.sites(predicted, own)
        scale = (variance + own).sqrt()  # expected size of each innovation

        def product(u: Tensor) -> tuple[Tensor, Tensor]:
            back = white * self.likelihood.adjoint(state, u / scale)
            return back, (variance / scale * u + self.likelihood.tangent(state, back)) / scale

        solution = conjugate_gradients(product, innovation / scale, None, tolerance=TOLERANCE, iterations=ITERATIONS)
        self.note(solution)
        return solution.u / scale, solution.image


class _PiGDM(_White):
    def correction(self, x_t: Tensor, t: Tensor, x0: Tensor, predicted: Tensor) -> Tensor:
        weight, _ = self.solve(x0.detach(), self.white(t), predicted.detach())
        return self.pull(weight, x_t, t, predicted)


class _Projection(_White):
    def evaluate(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x0 = self.denoiser(x_t, t).detach()
        predicted = self.likelihood.predict(x0).detach()
        check_prediction(self.likelihood, x0, predicted)
        return x0, self.correction(x_t, t, x0, predicted), predicted

    def correction(self, x_t: Tensor, t: Tensor, x0: Tensor, predicted: Tensor) -> Tensor:
        return self.solve(x0, self.white(t), predicted)[1]


class _Proximal(_Projection):
    def __init__(self, denoiser: Denoiser, likelihood: Likelihood, error: ErrorCurve | None, options: Proximal):
        super().__init__(denoiser, likelihood, error)
        self.options = options

    def correction(self, x_t: Tensor, t: Tensor, x0: Tensor, predicted: Tensor) -> Tensor:
        white = self.schedule.noise_level(t) ** 2 / self.options.strength
        state, change = x0, torch.zeros_like(x0)
        for _ in range(1 if self.likelihood.linear else self.options.iterations):
            # H is linearised around ``state``, while the distance is measured from x0
            predicted = self.likelihood.predict(state) - self.likelihood.tangent(state, change)
            change = self.solve(state, white, predicted)[1]
            state = x0 + change
        return change
