r"""The exact answer for linear systems: Kalman filter and smoother.

With x -> F x + c and noise of covariance Q from one time to the next, and G = R^{-1/2} H, the filter is

.. math:: P_f = F P F' + Q, \qquad K = P_f G' (G P_f G' + 1)^{-1}, \qquad P = (1 - K G) P_f (1 - K G)' + K K'.

The smoother goes back in time with :math:`J = P F' P_f^{-1}`: its mean is :math:`m + J (m^s_+ - m_{f+})`, its
covariance
:math:`P + J (P^s_+ - P_{f+}) J'`, + being the time after (Rauch et al. 1965).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from xsda.baselines.bound import Leg
from xsda.baselines.cycle import Cycle
from xsda.baselines.method import Event, Method, split
from xsda.baselines.simple import centred

DENSE = 4000  # numbers of a state whose covariance is held as a matrix
Normal = tuple[Tensor, Tensor]  # mean (numbers,) and covariance (numbers, numbers)


@dataclass(frozen=True, kw_only=True)
class KalmanFilter(Method):
    """The Kalman filter: exact for linear systems and observations (Kalman 1960).

    It starts from the mean and covariance of the initial ensemble. It finds the matrix of the system by stepping unit
    vectors. A function instead of one of ``xsda.systems`` is assumed to have no noise. The members have exactly the
    mean of each time, and exactly its covariance if there are more members than numbers in a state. All times use the
    same random numbers. Memory and time grow with the square and the cube of the numbers in a state.
    """

    def check(self, cycle: Cycle) -> None:
        size = math.prod(cycle.grid.shape[1:])
        if size > DENSE:
            raise ValueError(
                f"a state has {size} numbers, and {type(self).__name__} holds covariances as matrices, for at most "
                f"{DENSE}; use LETKF"
            )
        if not cycle.forecast.gaussian:
            raise ValueError(
                f"{cycle.forecast.name} has a transition of its own, whose covariance {type(self).__name__} does not "
                "know; use ETKF"
            )

    def run(self, cycle: Cycle, x: Tensor) -> Iterator[Event]:
        z = _standard(cycle, 0, "members", x)
        for k, (_, forecast, analysis) in enumerate(filtered(cycle, x)):
            yield "forecast", k, _members(*forecast, z).reshape(x.shape)
            yield "analysis", k, _members(*analysis, z).reshape(x.shape)


@dataclass(frozen=True, kw_only=True)
class RTSSmoother(KalmanFilter):
    """The Rauch-Tung-Striebel smoother: exact for linear systems and observations (Rauch et al. 1965).

    It uses the observations of all times. The smoothed members are whole trajectories, drawn backwards in time
    (Fruehwirth-Schnatter 1994), and have exact means and covariances as in ``KalmanFilter``. The covariances of all
    times are kept in memory.
    """

    stages = ("forecast", "analysis", "smoothed")

    def run(self, cycle: Cycle, x: Tensor) -> Iterator[Event]:
        z = _standard(cycle, 0, "members", x)
        steps = []
        for k, step in enumerate(filtered(cycle, x)):
            yield "forecast", k, _members(*step[1], z).reshape(x.shape)
            yield "analysis", k, _members(*step[2], z).reshape(x.shape)
            steps.append(step)
        mean, cov = steps[-1][2]
        paths = [_members(mean, cov, z)]
        for k in range(len(steps) - 2, -1, -1):
            (matrix, (mean_f, cov_f), _), (mean_a, cov_a) = steps[k + 1], steps[k][2]
            back = cov_a @ matrix.T @ torch.linalg.pinv(cov_f, hermitian=True, rtol=1e-13)
            mean, cov = mean_a + back @ (mean - mean_f), _even(cov_a + back @ (cov - cov_f) @ back.T)
            z = _standard(cycle, k, "trajectories", x)
            drawn = (paths[-1] - mean_f) @ back.T + _members(mean_a, cov_a - back @ cov_f @ back.T, z)
            paths.append(_matched(drawn, mean, cov))
        for k, path in enumerate(reversed(paths)):
            yield "smoothed", k, path.reshape(x.shape)


def filtered(cycle: Cycle, x: Tensor) -> Iterator[tuple[Tensor, Normal, Normal]]:
    """For each time the matrix that leads there, the forecast and the analysis of the Kalman filter."""
    start, anomalies = split(x.flatten(1))
    mean, cov = start[0], anomalies.T @ anomalies / (len(x) - 1)
    system, shape = LinearSystem(cycle, x), x.shape[1:]
    for k in range(len(cycle)):
        matrix, offset, noise = system(k)
        forecast = mean, cov = matrix @ mean + offset, _even(matrix @ cov @ matrix.T + noise)
        batch = cycle.batch(k)
        if batch is not None:
            observe, cache = batch.geometry.observe, batch.geometry.cache
            if "affine" not in cache:
                cache["affine"] = affine(observe, x, "what is observed")[0]
            g = batch.scaled(cache["affine"].T).T
            factor = torch.linalg.cholesky(_even(g @ cov @ g.T) + torch.eye(len(g), dtype=x.dtype))
            gain = torch.cholesky_solve(g @ cov, factor).T
            mean = mean + gain @ batch.innovations(mean.reshape(1, *shape))[0]
            rest = torch.eye(len(mean), dtype=x.dtype) - gain @ g
            cov = _even(rest @ cov @ rest.T + gain @ gain.T)
        yield matrix, forecast, (mean, cov)


class LinearSystem:
    """The step to the k-th time: its matrix F, offset c and noise covariance Q."""

    def __init__(self, cycle: Cycle, x: Tensor):
        self.cycle, self.x = cycle, x
        self.known: dict[tuple[Leg, ...], tuple[Tensor, Tensor, Tensor]] = {}

    def __call__(self, k: int) -> tuple[Tensor, Tensor, Tensor]:
        forecast, times = self.cycle.forecast, self.cycle.times
        before, stop = self.cycle.start if k == 0 else float(times[k - 1]), float(times[k])
        legs = () if before == stop else tuple(forecast.legs(before, stop))
        if not forecast.autonomous:
            return self._composed(legs)
        if legs not in self.known:
            self.known[legs] = self._composed(legs)
        return self.known[legs]

    def _composed(self, legs: tuple[Leg, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """One leg after another, each followed by its noise."""
        one = torch.eye(self.x[0].numel(), dtype=self.x.dtype)
        matrix, offset, noise = one, 0 * one[0], 0 * one
        each = {p: self._affine(p.start, p.stop) for p in dict.fromkeys(legs)}
        for leg in legs:
            f, c = each[leg]
            matrix, offset = f @ matrix, f @ offset + c
            noise = f @ noise @ f.T + leg.variance * one
        return matrix, offset, noise

    def _affine(self, start: float, stop: float) -> tuple[Tensor, Tensor]:
        return affine(lambda s: self.cycle.forecast(s, start, stop), self.x, "the system")


def affine(function: Callable[[Tensor], Tensor], x: Tensor, what: str) -> tuple[Tensor, Tensor]:
    """Matrix and offset of a function of states, checked on random combinations of ``x`` (member, channel, *space)."""
    size = x[0].numel()
    offset = function(torch.zeros_like(x[:1])).flatten(1)
    matrix = (function(torch.eye(size, dtype=x.dtype).reshape(size, *x.shape[1:])).flatten(1) - offset).T
    mix = torch.randn(8, len(x), dtype=x.dtype, generator=torch.Generator().manual_seed(0))
    probe = torch.tensordot(mix, x, 1)
    expected, came = offset + probe.flatten(1) @ matrix.T, function(probe).flatten(1)
    off = float((came - expected).abs().max() / (came.abs().max() + offset.abs().max()).clamp(min=1e-300))
    if not off < 1e-8:
        raise ValueError(
            f"{what} is not linear in the state (off by {off:.1g} of its size), and a Kalman filter without an "
            "ensemble is for linear systems and observations only; use ETKF or ParticleFilter"
        )
    return matrix, offset[0]


def _standard(cycle: Cycle, k: int, purpose: str, x: Tensor) -> Tensor:
    """Centred normal numbers (member, numbers), with unit covariance if there are enough members."""
    members, size = len(x), x[0].numel()
    z = centred(cycle, k, purpose, members, size)
    return torch.linalg.qr(z)[0] * (members - 1) ** 0.5 if members > size else z


def _members(mean: Tensor, cov: Tensor, z: Tensor) -> Tensor:
    return mean + z @ _root(cov)


def _matched(x: Tensor, mean: Tensor, cov: Tensor) -> Tensor:
    """Members moved as little as possible to a mean, and to a covariance if there are enough of them."""
    anomalies = split(x)[1]
    if len(x) > len(mean):
        values, vectors = torch.linalg.eigh(anomalies.T @ anomalies / (len(x) - 1))
        found = values > 1e-13 * values[-1]
        root, vectors = values[found].sqrt(), vectors[:, found]
        inner = _root(_even(root[:, None] * (vectors.T @ cov @ vectors) * root))
        anomalies = anomalies @ (vectors / root) @ inner @ (vectors / root).T
    return mean + anomalies


def _root(cov: Tensor) -> Tensor:
    """The symmetric square root of a covariance."""
    values, vectors = torch.linalg.eigh(cov)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def _even(cov: Tensor) -> Tensor:
    return (cov + cov.T) / 2
