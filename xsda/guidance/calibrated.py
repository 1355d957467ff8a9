r"""Guidance with the measured error of the denoiser: the default for trained priors.

.. math:: p(y | x_t) \approx N(y;\, H(\hat x_0),\, R + H C H'), \qquad C_{ij} = r_i r_j\, \rho^{|i - j|}

Here r(s)^2 is the mean squared error of the denoiser at noise level s, and rho is the correlation of neighbouring
errors along time and space. Both are measured on validation data and stored with the prior.

The system with R + H C H' is not solved, because the solution would depend on details that rho^|i - j| does not
describe. Each observation is weighted by its own variance (the diagonal). All weights are then multiplied by the
factor, at most one, that solves the system best in this direction. A thousand observations of the same error therefore
do not pull a thousand times as hard. The known state before a window of a long record has a factor of its own, so that
it does not weaken the observations. If the observation errors are correlated, R is used in full, and the contribution
of the prior is replaced by its diagonal D: (R + D) u = y - H x0hat is solved by conjugate gradients, without the
network.

The measured errors are averages. Where a trajectory is about to branch, errors are far larger, and innovations of many
standard deviations occur. Innovations are therefore limited to ``limit`` standard deviations, which prevents overshoot.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from xsda.arguments import real_number
from xsda.diffusion.denoisers import Denoiser
from xsda.diffusion.error import ErrorCurve
from xsda.guidance.guided import Guidance, GuidedDenoiser
from xsda.guidance.solvers import conjugate_gradients
from xsda.likelihood.likelihood import Likelihood

TOLERANCE, ITERATIONS = 1e-3, 300  # of the solves with correlated errors
SMALL = 0.15  # below this ratio of D to the variance of the observations, the whitened system needs fewer iterations
SAME = 1e-6  # relative; blocks that observe the same numbers share the pull equally
FIELD_NUMBERS = 2**20  # numbers of these fields that are in memory at once
PATTERNS = 16  # random fields that estimate the diagonal of H C H' if the footprints of H are unknown


@dataclass(frozen=True, kw_only=True)
class Calibrated(Guidance):
    """Use the variance of the observations plus the measured error variance of the denoiser.

    It costs one backward pass through the network per step. The prior must store its error curve, which ``xsda.train``
    measures.

    Parameters
    ----------
    limit
        Largest innovation, in standard deviations; larger ones are reduced to it.

    Examples
    --------
    >>> print(xsda.guidance.Calibrated(limit=3.0))
    Calibrated(limit=3.0)
    """

    limit: float = 5.0

    def __post_init__(self) -> None:
        real_number("limit", self.limit, "be positive: it is a number of standard deviations", above=0)

    def guide(self, denoiser: Denoiser, likelihood: Likelihood, error: ErrorCurve | None) -> GuidedDenoiser:
        if error is None:
            raise ValueError(
                "guidance='calibrated' needs the error curve of the prior, which this prior does not store; use "
                "guidance='mmps' or 'sda', or make the prior with xsda.train"
            )
        return _Calibrated(denoiser, likelihood, error, self.limit)


class _Calibrated(GuidedDenoiser):
    def __init__(self, denoiser: Denoiser, likelihood: Likelihood, error: ErrorCurve, limit: float):
        super().__init__(denoiser, likelihood, error)
        self.curve: ErrorCurve = error
        self.limit = limit
        self._plain = likelihood.unwhitened()
        self._known: dict[tuple[float, bool], Tensor] = {}
        self._signs = torch.empty(0, dtype=torch.int8)

    def correction(self, x_t: Tensor, t: Tensor, x0: Tensor, predicted: Tensor) -> Tensor:
        own = self.own_variance(x0, t)
        innovation, variance = self.likelihood.sites(predicted.detach(), own, self.limit)
        weight = innovation / (variance + own)
        if self.likelihood.whitening is not None:
            weight = self._solved(innovation, variance, own, self._variance(self._plain, x0, t))
        if self.curve.lag is not None:
            weight = self._rescaled(weight, innovation, variance, x0, t)
        return self.pull(weight, x_t, t, predicted)

    def own_variance(self, x0: Tensor, t: Tensor) -> Tensor:
        """The diagonal of H C H', (batch, M)."""
        return self._variance(self.likelihood, x0, t)

    def complaint(self) -> str | None:
        if self.residual <= 1.01 * TOLERANCE:  # rounded
            return None
        return (
            "the solves with correlated errors of observations stopped at a relative residual of up to "
            f"{self.residual:.2g} after {ITERATIONS} iterations, where {TOLERANCE:g} was wanted, so that the "
            "observations have too little weight. Thin or average them, give shorter correlation lengths or a matrix "
            "instead of an object with whiten(), or use guidance='mmps' if the prior is exact"
        )

    def _rescaled(self, weight: Tensor, innovation: Tensor, variance: Tensor, x0: Tensor, t: Tensor) -> Tensor:
        """Multiply the weights w_k of each block of observations by a factor f_k in [0, 1].

        The factors solve G f = b with G_kl = w_k' (R + H C H') w_l and b_k = w_k' innovation (Galerkin's method).
        """
        counts = torch.tensor(self.likelihood.blocks or [weight.shape[1]], device=weight.device)
        blocks = torch.arange(len(counts), device=weight.device)
        weights = torch.where(blocks.repeat_interleave(counts) == blocks[:, None], weight[:, None], 0)
        errors = []
        for w in weights.unbind(1):
            error = self._error(x0, t) * self.likelihood.adjoint(x0.detach(), w)
            for axis, root in self._roots(x0, t):
                error = _along(error, root.T, axis)
            errors.append(error.flatten(1))
        field = torch.stack(errors, 1)
        gram = (field @ field.mT + (weights * variance[:, None]) @ weights.mT).double()
        size = gram.diagonal(dim1=1, dim2=2).clamp(min=1e-30).sqrt()
        gram = gram / (size[:, :, None] * size[:, None]) + SAME * torch.eye(len(counts)).to(gram)
        target = (weights * innovation[:, None]).sum(2) / size
        factor = (torch.linalg.solve(gram, target[:, :, None])[:, :, 0] / size).clamp(0, 1)
        return (factor.to(weight)[:, :, None] * weights).sum(1)

    def _solved(self, innovation: Tensor, variance: Tensor, own: Tensor, plain: Tensor) -> Tensor:
        """W'^-1 (R + D)^-1 W^-1 applied to the whitened innovation, where W R W' = diag(variance) and D = diag(plain).

        There are two equivalent systems. For whitened observations, (variance + W D W') u = innovation converges fast
        if D is small. If D is large, as it is at the start of sampling, (R + D) w = W^-1 innovation with u = W'^-1 w
        converges faster. The choice is made for each member alone, so that results do not depend on the batch. Both
        systems are scaled by about the root of their diagonal; ``own`` is the diagonal of W D W'.
        """
        white = self.likelihood.whitening
        assert white is not None
        errors = white.deviations(innovation) ** 2 * variance
        large = (plain / errors).mean(1) > (SMALL if white.invertible else torch.inf)
        weight = torch.empty_like(innovation)
        for some, scale in ((large, errors + plain), (~large, variance + own)):
            if bool(some.any()):
                rows = (v.expand_as(innovation)[some] for v in (innovation, variance, plain, scale.sqrt()))
                weight[some] = self._solve(*rows, coloured=some is large)
        return weight

    def _solve(self, innovation: Tensor, variance: Tensor, plain: Tensor, scale: Tensor, *, coloured: bool) -> Tensor:
        white = self.likelihood.whitening
        assert white is not None

        def product(u: Tensor) -> tuple[Tensor, Tensor]:
            u = u / scale
            if coloured:
                return u, (white.colour(variance * white.colour_back(u)) + plain * u) / scale
            return u, (variance * u + white.whiten(plain * white.spread_back(u))) / scale

        target = (white.colour(innovation) if coloured else innovation) / scale
        found = conjugate_gradients(product, target, None, tolerance=TOLERANCE, iterations=ITERATIONS)
        self.note(found)
        return white.colour_back(found.image) if coloured else found.image

    def _variance(self, likelihood: Likelihood, x0: Tensor, t: Tensor) -> Tensor:
        """The diagonal of H C H', (batch, M). For linear H it is computed once for each noise level."""
        if self.curve.lag is None:
            return likelihood.spread(x0.detach(), self.own_error(x0, t)) ** 2
        if not likelihood.linear:
            fields, state = self._fields(x0, t, PATTERNS // 2), x0.detach()
            seen = [likelihood.tangent(state, f.expand_as(x0)).square() for part in fields for f in part]
            return torch.stack(seen).mean(0)
        key = float(self.schedule.noise_level(t)), (likelihood.whitening is not None)
        if key not in self._known:
            if (likelihood.whitening is not None) or (footprints := likelihood.footprints) is None:
                fields = self._fields(x0, t, PATTERNS)
                known = torch.cat([likelihood.predict(f).square() for f in fields]).mean(0)
            else:
                rho, error = self.curve.correlation(self.schedule.noise_level(t)).tolist(), self.own_error(x0, t)
                known = torch.cat([f.variance(error, rho) for f in footprints]).to(x0)
            self._known[key] = known
        return self._known[key].expand(len(x0), -1)

    def _fields(self, x0: Tensor, t: Tensor, count: int) -> Iterator[Tensor]:
        """Yield random errors of the denoiser, (some, time, channel, *space), scaled to the exact size at each point.

        There are few at a time in memory, because a grid may be large.
        """
        if not len(self._signs):  # use the same signs at all noise levels
            shape, generator = (count, *x0.shape[1:]), torch.Generator().manual_seed(0)
            self._signs = (
                torch.randint(0, 2, shape, generator=generator, dtype=torch.int8).to(x0.device).mul_(2).sub_(1)
            )
        roots = self._roots(x0, t)

        def field(signs: Tensor) -> Tensor:
            x = signs.to(x0)
            for axis, root in roots:
                x = _along(x, root, axis)
            return x

        parts = self._signs.split(max(1, FIELD_NUMBERS // x0[0].numel()))
        square = torch.zeros_like(x0[:1])
        for signs in parts:
            square += field(signs).square().sum(0)
        scale = self._error(x0, t) / (square / count).sqrt()
        for signs in parts:
            yield field(signs) * scale

    def _error(self, x0: Tensor, t: Tensor) -> Tensor:
        return self.own_error(x0, t).reshape(1, 1, -1, *(1,) * (x0.ndim - 3))

    def _roots(self, x0: Tensor, t: Tensor) -> list[tuple[int, Tensor]]:
        """The time and space axes, each with a lower triangular matrix L such that (L L')_ij = rho^|i - j|."""
        axes = (1, *range(3, x0.ndim))
        rho = self.curve.correlation(self.schedule.noise_level(t)).tolist()
        return [(axis, _root(x0.shape[axis], r).to(x0)) for axis, r in zip(axes, rho, strict=True)]


def _root(n: int, rho: float) -> Tensor:
    steps = torch.arange(n)
    first = torch.where(steps == 0, 1.0, (1 - rho**2) ** 0.5)
    return torch.tensor(rho).pow((steps[:, None] - steps).clamp(min=0)).tril() * first


def _along(x: Tensor, matrix: Tensor, axis: int) -> Tensor:
    """Apply a square matrix along an axis."""
    return x @ matrix.T if axis == x.ndim - 1 else (matrix @ x.flatten(axis + 1)).reshape(x.shape)
