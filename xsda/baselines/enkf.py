r"""Ensemble Kalman filters that see the whole state at once.

With anomalies A (member, numbers), those of the scaled observations :math:`S = R^{-1/2} H(A)`, the scaled innovation of
the mean d and n = members - 1, every filter moves the mean by :math:`d\,S' (S S' + n)^{-1} A`. The filters differ in
how they update the anomalies.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from xsda.baselines.cycle import Cycle
from xsda.baselines.method import EnsembleFilter, split
from xsda.baselines.network import Batch


@dataclass(frozen=True, kw_only=True)
class EnKF(EnsembleFilter):
    """Stochastic ensemble Kalman filter: each member has its own perturbed observations (Burgers et al. 1998).

    The perturbations add up to zero over the N members, and each has the variance R. Their sample variance is therefore
    R N / (N - 1), which acts as a little inflation in small ensembles.

    Parameters
    ----------
    inflation
        Factor on the anomalies of the analysis, or an object such as ``RTPS(0.9)``, ``RTPP(0.5)`` or
        ``AdaptiveInflation()``.
    rotate
        Whether the anomalies are rotated at random after each analysis. Mean and covariance stay the same.
    """

    def analyse(self, x: Tensor, batch: Batch, cycle: Cycle, k: int) -> Tensor:
        _, anomalies = split(x.flatten(1))
        s, d = observed(x, batch)
        noise = torch.randn(s.shape, dtype=s.dtype, generator=cycle.generator(k, "perturbations"))
        noise = (noise - noise.mean(0)) * (len(x) / (len(x) - 1)) ** 0.5  # so that each has the variance R
        return x + (weights(s, d - s + noise) @ anomalies).reshape(x.shape)


@dataclass(frozen=True, kw_only=True)
class DEnKF(EnsembleFilter):
    """Deterministic ensemble Kalman filter: anomalies take half the gain of the mean (Sakov & Oke 2008).

    It needs no random numbers. Its spread is a little too large where observations are accurate.

    Parameters
    ----------
    inflation
        Factor on the anomalies of the analysis, or an object such as ``RTPS(0.9)``, ``RTPP(0.5)`` or
        ``AdaptiveInflation()``.
    rotate
        Whether the anomalies are rotated at random after each analysis. Mean and covariance stay the same.
    """

    def analyse(self, x: Tensor, batch: Batch, cycle: Cycle, k: int) -> Tensor:
        _, anomalies = split(x.flatten(1))
        s, d = observed(x, batch)
        return x + (weights(s, d - s / 2) @ anomalies).reshape(x.shape)


@dataclass(frozen=True, kw_only=True)
class ETKF(EnsembleFilter):
    """Ensemble transform Kalman filter, with the symmetric square root (Bishop et al. 2001; Hunt et al. 2007).

    Use it where the ensemble is large for the number of unstable directions, and ``LETKF`` where it is not.

    Parameters
    ----------
    inflation
        Factor on the anomalies of the analysis, or an object such as ``RTPS(0.9)``, ``RTPP(0.5)`` or
        ``AdaptiveInflation()``.
    rotate
        Whether the anomalies are rotated at random after each analysis. Mean and covariance stay the same.

    Examples
    --------
    >>> method = xsda.baselines.ETKF(inflation=1.02)
    >>> run = truth.sda.filter(obs, xsda.systems.Lorenz63(), method=method, members=10, sigma=0.5, progress=False)
    >>> dict(run.sizes)
    {'member': 10, 'time': 16}
    """

    def analyse(self, x: Tensor, batch: Batch, cycle: Cycle, k: int) -> Tensor:
        mean, anomalies = split(x.flatten(1))
        s, d = observed(x, batch)
        return (mean + transform(s, d, len(x) - 1.0) @ anomalies).reshape(x.shape)


@dataclass(frozen=True, kw_only=True)
class EAKF(EnsembleFilter):
    """Ensemble adjustment Kalman filter: one observation after another (Anderson 2001; Whitaker & Hamill 2002).

    Observations with correlated errors are made independent first. The result is that of the other square-root filters,
    and the time grows with the number of observations.

    Parameters
    ----------
    inflation
        Factor on the anomalies of the analysis, or an object such as ``RTPS(0.9)``, ``RTPP(0.5)`` or
        ``AdaptiveInflation()``.
    rotate
        Whether the anomalies are rotated at random after each analysis. Mean and covariance stay the same.
    """

    def analyse(self, x: Tensor, batch: Batch, cycle: Cycle, k: int) -> Tensor:
        mean, anomalies = split(x.flatten(1))
        s, d = observed(x, batch)
        n, m = len(x) - 1.0, s.shape[1]
        both, centre = torch.cat([anomalies, s], 1), torch.cat([mean[0], -d[0]])
        for j in range(m):
            own, at = both[:, j - m].clone(), both.shape[1] - m + j
            total = own @ own + n
            slope = own @ both / total
            centre = centre - centre[at] * slope
            both = both - torch.outer(own, slope / (1 + torch.sqrt(n / total)))
        size = anomalies.shape[1]
        return (centre[:size] + both[:, :size]).reshape(x.shape)


@dataclass(frozen=True, kw_only=True)
class EnKFN(EnsembleFilter):
    r"""Finite-size ensemble Kalman filter: it finds the inflation that a small ensemble needs (Bocquet et al. 2015).

    Instead of n = members - 1 the transform uses :math:`\zeta`, the minimum over :math:`l = \sqrt{n / \zeta}` of
    :math:`\sum_i u_i^2 / (n + l^2 s_i^2) + c\,(e / l^2 + g \log l^2)`
    with the innovation u along the singular vectors of S.

    Parameters
    ----------
    certainty
        The factor c. A larger value trusts the spread of the ensemble more and inflates less. Use 1 for strongly
        nonlinear forecasts, 2 for weakly nonlinear ones.
    inflation
        Factor on the anomalies of the analysis, or an object such as ``RTPS(0.9)``, ``RTPP(0.5)`` or
        ``AdaptiveInflation()``.
    rotate
        Whether the anomalies are rotated at random after each analysis. Mean and covariance stay the same.
    """

    certainty: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.certainty > 0:
            raise ValueError(f"certainty={self.certainty} must be positive")

    def analyse(self, x: Tensor, batch: Batch, cycle: Cycle, k: int) -> Tensor:
        mean, anomalies = split(x.flatten(1))
        s, d = observed(x, batch)
        values, vectors = torch.linalg.eigh(s @ s.T)
        values = values.clamp(min=0)
        zeta = finite_size(values, (d @ s.T @ vectors)[0], len(x), self.certainty)
        cycle.note(k, "inflation", ((len(x) - 1) / zeta) ** 0.5)
        return (mean + _transform(values, vectors, d @ s.T, zeta, len(x) - 1.0) @ anomalies).reshape(x.shape)


def observed(x: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Scaled anomalies of the observed ensemble S (member, M), and the scaled innovation of its mean (1, M)."""
    seen = batch.geometry.observe(x)
    mean = seen.mean(0, keepdim=True)
    return batch.scaled(seen - mean), batch.scaled(batch.y - mean)


def weights(s: Tensor, innovations: Tensor) -> Tensor:
    """Weights of the anomalies (., member) for scaled innovations (., M); the smaller of two systems is solved."""
    members, m = s.shape
    n = members - 1.0
    if m <= members:
        gram = s.T @ s + n * torch.eye(m, dtype=s.dtype)
        return torch.cholesky_solve(innovations.T, torch.linalg.cholesky(gram)).T @ s.T
    gram = s @ s.T + n * torch.eye(members, dtype=s.dtype)
    return torch.cholesky_solve(s @ innovations.T, torch.linalg.cholesky(gram)).T


def transform(s: Tensor, d: Tensor, n: float) -> Tensor:
    """The matrix (..., member, member) that makes analysis members, less the mean, of anomalies; batched.

    ``s``: (..., member, M); ``d``: (..., 1, M).
    """
    values, vectors = torch.linalg.eigh(s @ s.mT)
    return _transform(values.clamp(min=0), vectors, d @ s.mT, n, n)


def _transform(values: Tensor, vectors: Tensor, projected: Tensor, zeta: float, n: float) -> Tensor:
    """Mean weights plus symmetric square root, given S S' = V diag(values) V' and d S'."""
    root = torch.rsqrt(values + zeta)
    half = vectors * root.unsqueeze(-2)
    return (projected @ half) @ half.mT + (half * n**0.5) @ vectors.mT


def finite_size(values: Tensor, projected: Tensor, members: int, certainty: float) -> float:
    r"""The effective number of degrees of freedom :math:`\zeta` of the EnKF-N.

    ``values``: eigenvalues of S S'; ``projected``: d S' along its eigenvectors. The coefficients e and g move the
    minimum towards no inflation where the observations have little effect.
    """
    n = members - 1.0
    floor = 1e-12 * float(values.max().clamp(min=1))
    u2 = torch.where(values > floor, projected.square() / values.clamp(min=floor), 0)  # squared innovation by direction
    e, g = (members + 1) / members, members / n
    prior_weight = float((n / (values + n)).mean())
    correction = (e / g) ** (prior_weight / 2)
    e, g = certainty * e / correction, certainty * g * correction

    l2 = torch.logspace(-2, 4, 241, dtype=values.dtype)  # the global minimum first, then refined

    def cost(l2: Tensor) -> Tensor:
        return (u2 / (n + l2[:, None] * values)).sum(1) + e / l2 + g * torch.log(l2)

    for _ in range(3):
        best = int(cost(l2).argmin())
        low, high = l2[max(best - 1, 0)], l2[min(best + 1, len(l2) - 1)]
        l2 = torch.linspace(float(low), float(high), 41, dtype=values.dtype)
    return n / float(l2[int(cost(l2).argmin())])
