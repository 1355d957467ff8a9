r"""Shrinks the cycles of points with few values towards the cycle that all points of a variable have in common.

Let :math:`\beta_p` hold the coefficients of the waves at point p. The mean is not shrunk: it is eliminated from the
normal equations, which leaves :math:`A_p \beta_p = b_p`. With the prior :math:`\beta_p \sim N(\mu, \Lambda)`,

.. math:: \mathrm E\,\beta_p = \mu + C_p\, (b_p - A_p \mu) / s_p^2, \qquad
   C_p = (A_p / s_p^2 + \Lambda^{-1})^{-1} .

The points give mu, Lambda and the variances s_p^2 of their residuals by expectation maximisation (empirical Bayes).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

STEPS = 20  # of the maximisation
POINTS = 4000  # that give mu and Lambda, at most


@dataclass(frozen=True)
class Equations:
    """Sums over the states of each point: w w' (point, wave, wave), w x (point, wave), x^2 and 1 (point,); w_0 is 1."""

    ww: np.ndarray
    wx: np.ndarray
    square: np.ndarray
    count: np.ndarray

    def part(self, index: slice | np.ndarray) -> Equations:
        """Return those of some points."""
        return Equations(self.ww[index], self.wx[index], self.square[index], self.count[index])

    def without_mean(self) -> Equations:
        """Eliminate the mean of each point."""
        first = self.ww[:, 1:, 0] / self.count[:, None]
        return Equations(
            self.ww[:, 1:, 1:] - first[..., None] * self.ww[:, :1, 1:], self.wx[:, 1:] - first * self.wx[:, :1],
            self.square - self.wx[:, 0] ** 2 / self.count, self.count - 1,
        )  # fmt: skip


@dataclass(frozen=True)
class Field:
    """Mean and covariance of the coefficients over the points, and the mean variance of the residuals."""

    mean: np.ndarray
    cov: np.ndarray
    residual: float

    def posterior(self, own: Equations, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return mean and covariance of the coefficients, and the expected sum of the squared residuals."""
        scaled = self.cov @ own.ww / variance[:, None, None]
        cov = np.linalg.solve(np.eye(len(self.mean)) + scaled, self.cov)
        beta = self.mean + _times(cov, own.wx - own.ww @ self.mean) / variance[:, None]
        left = own.square + (beta * (_times(own.ww, beta) - 2 * own.wx)).sum(1) + (own.ww * cov).sum((1, 2))
        return beta, cov, left

    def variance(self, left: np.ndarray, count: np.ndarray) -> np.ndarray:
        """Return the variance of each point, which counts the mean one like as many values as there are waves."""
        waves = len(self.mean) + 1
        return (left + waves * self.residual) / (count + waves)


def shrink(every: Equations, few: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the coefficients (point, wave) and the variances of the residuals at the points where ``few`` is True."""
    field = _fit(every.part(slice(None, None, -(-len(every.count) // POINTS))).without_mean())
    some = every.part(few)
    own, variance = some.without_mean(), np.full(few.sum(), field.residual)
    for _ in range(3):
        beta, _, left = field.posterior(own, variance)
        variance = field.variance(left, own.count)
    mean = (some.wx[:, 0] - (some.ww[:, 0, 1:] * beta).sum(1)) / some.count
    return np.column_stack([mean, beta]), variance


def _fit(own: Equations) -> Field:
    """Fit mean and covariance of the coefficients; the first guess is that all points have the same."""
    residual = float(own.square.sum() / own.count.sum()) or 1.0
    mean = np.linalg.lstsq(own.ww.sum(0), own.wx.sum(0), rcond=1e-9)[0]
    field, variance = Field(mean, residual * np.eye(len(mean)), residual), np.full(len(own.count), residual)
    for _ in range(STEPS):
        beta, cov, left = field.posterior(own, variance)
        mean = beta.mean(0)
        field = Field(mean, (beta - mean).T @ (beta - mean) / len(beta) + cov.mean(0), left.sum() / own.count.sum())
        variance = field.variance(left, own.count)
    return field


def _times(matrices: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    return (matrices @ vectors[..., None])[..., 0]
