r"""The Gaussian with empirical orthogonal functions: patterns of the data, each with a time covariance of its own.

With orthonormal patterns e_k of variance v_k over the valid points, correlation matrices T in time, and a remainder of
variance r for what the patterns leave out,

.. math:: C = \sum_k v_k\, T_{g(k)} \otimes e_k e_k^\top + r\, T_r \otimes \Bigl(I - \sum_k e_k e_k^\top\Bigr).

Its eigenvectors are the patterns times the eigenvectors of T, and, for the remainder, those of T_r. The denoiser of a
Gaussian is therefore exact at the cost of the projection on the patterns. Neighbouring patterns share one T (a group).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from xsda.diffusion.schedules import VE, Schedule, expand
from xsda.priors.exact import EXACT_SCHEDULE, ExactDenoiser, extended_in_time
from xsda.priors.separable import REACH

NAMES = ("patterns", "variance", "ends", "values", "vectors", "rest", "valid", "shape", "doubt")


class EofDenoiser(ExactDenoiser):
    """Exact denoiser of a Gaussian with patterns.

    Parameters
    ----------
    patterns
        Orthonormal patterns, (pattern, valid point).
    variance
        Variance of each pattern, (pattern,).
    ends
        Where each group of patterns ends, (group,).
    values, vectors
        Eigenvalues (group + 1, time) and eigenvectors (group + 1, time, time) of the correlation in time of each group.
        The last is that of the remainder.
    rest
        Variance of the remainder, a single number.
    valid
        Which numbers of a state (channel, *space), ravelled, have values.
    shape
        Shape of one state, (time, channel, *space).
    doubt
        Standard deviation of the logarithm of a factor of all variances that observations may change; 0 if they are
        known.
    schedule
        The diffusion process (default: one whose final noise exceeds every pattern).
    """

    patterns: Tensor
    variance: Tensor
    ends: Tensor
    values: Tensor
    vectors: Tensor
    rest: Tensor
    valid: Tensor
    shape: Tensor
    doubt: Tensor

    def __init__(
        self,
        patterns: Tensor,
        variance: Tensor,
        ends: Tensor,
        values: Tensor,
        vectors: Tensor,
        rest: Tensor,
        valid: Tensor,
        shape: Tensor,
        doubt: Tensor | None = None,
        schedule: Schedule | None = None,
    ):
        super().__init__()
        given = (
            patterns,
            variance,
            ends,
            values,
            vectors,
            rest,
            valid,
            shape,
            torch.zeros(()) if doubt is None else doubt,
        )
        for name, value in zip(NAMES, given, strict=True):
            exact = name in ("ends", "valid", "shape")
            self.register_buffer(name, value if exact else value.float().contiguous())
        self.spans = list(zip([0, *ends.tolist()[:-1]], ends.tolist(), strict=True))
        self.size = tuple(shape.tolist())
        largest = float((variance.max() if len(variance) else rest) * values.max())
        self.schedule = schedule or VE(
            EXACT_SCHEDULE.sigma_min, max(EXACT_SCHEDULE.sigma_max, REACH * math.sqrt(largest))
        )

    @classmethod
    def from_state(cls, state: dict[str, Tensor], schedule: Schedule) -> EofDenoiser:
        return cls(**{k: state[k] for k in NAMES}, schedule=schedule)

    @property
    def complete(self) -> bool:
        """Whether the patterns span all states, so that there is no remainder."""
        return self.patterns.shape[0] == self.patterns.shape[1]

    def times(self, factor: float) -> EofDenoiser:
        """Return the same denoiser with all variances multiplied by a factor."""
        state = {name: self.get_buffer(name) for name in NAMES}
        state |= {name: factor * state[name] for name in ("variance", "rest")}
        return EofDenoiser(**state, schedule=self.schedule)

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        like = x_t[:, :1, :1].flatten(1)[:, :1, None]  # (batch, 1, 1)
        alpha, sigma = expand(self.schedule.alpha(t), like), expand(self.schedule.sigma(t), like)
        return self._filtered(x_t, lambda values: alpha * values / (alpha**2 * values + sigma**2))

    def covariance(self, x: Tensor) -> Tensor:
        """Multiply states (batch, time, channel, *space) by the covariance."""
        return self._filtered(x, lambda values: values)

    def _filtered(self, x: Tensor, gain: Callable[[Tensor], Tensor]) -> Tensor:
        """Multiply each eigenvector of the covariance by a function of its eigenvalue."""
        along, rest = self._split(self._flat(x))
        out = torch.cat([
            self._in_time(along[..., a:b], g, gain(self.values[g][:, None] * self.variance[a:b]))
            for g, (a, b) in self._groups()
        ], -1) @ self.patterns  # fmt: skip
        if rest is not None:
            other = self._in_time(rest, -1, gain(self.values[-1][:, None] * self.rest))
            out = out + other - (other @ self.patterns.mT) @ self.patterns
        return self._filled(out)

    def extended(self, first: Tensor, noise_level: Tensor) -> Tensor:
        along, rest = self._split(self._flat(first))
        out = torch.cat([
            extended_in_time(along[..., a:b], self._spectrum(g, noise_level)[:, a:b], self.vectors[g])
            for g, (a, b) in self._groups()
        ], -1) @ self.patterns  # fmt: skip
        if rest is not None:
            each = rest.mT.flatten(0, 1)[..., None]  # points share one covariance in time
            other = extended_in_time(each, self._spectrum(-1, noise_level), self.vectors[-1])
            out = out + other[..., 0].unflatten(0, (len(rest), -1)).mT
        return self._filled(out)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        time, points = self.size[0], self.patterns.shape[1]
        parts = []
        for g, (a, b) in self._groups():
            z = torch.randn(count, time, b - a, generator=generator)
            parts.append(self.vectors[g] @ (z * (self.values[g][:, None] * self.variance[a:b]).clamp(min=0).sqrt()))
        out = torch.cat(parts, -1) @ self.patterns
        if not self.complete:
            z = torch.randn(count, time, points, generator=generator)
            z = self.vectors[-1] @ (z * (self.values[-1][:, None] * self.rest).clamp(min=0).sqrt())
            out = out + z - (z @ self.patterns.mT) @ self.patterns
        return self._filled(out)

    def log_prob(self, x0: Tensor) -> Tensor:
        along, rest = self._split(self._flat(x0.double()), torch.float64)
        total = torch.zeros(len(x0), dtype=torch.float64)
        parts = [(along[..., a:b], g, self.variance[a:b].double(), float(b - a)) for g, (a, b) in self._groups()]
        if rest is not None:
            parts.append((rest, -1, self.rest.double(), float(self.patterns.shape[1] - self.patterns.shape[0])))
        for x, g, variance, count in parts:
            values = self.values[g].double()[:, None] * variance
            if not bool((values > 0).all()):
                raise ValueError("some patterns have no variance at some time scale, so there is no density")
            z = self.vectors[g].double().mT @ x
            log_det = values.log().sum() * count / values.shape[1] + len(values) * count * math.log(2 * math.pi)
            total -= ((z**2 / values).flatten(1).sum(1) + log_det) / 2
        return total

    def mean_square(self, noise_level: Tensor) -> Tensor:
        each, rest = self._left(noise_level)
        squares = self.patterns.double() ** 2
        at_points = each @ squares + rest * (1 - squares.sum(0)).clamp(min=0)
        channels = self.valid.reshape(self.size[1], -1)
        state = torch.zeros(channels.shape, dtype=torch.float64).masked_scatter(channels, at_points)
        return state.sum(1) / channels.sum(1)

    def neighbours(self, noise_level: Tensor) -> Tensor:
        """Return the correlation of neighbouring errors along time and each space axis, (axis,), at one noise level."""
        each, rest = self._left(noise_level)
        free = self.patterns.shape[1] - self.patterns.shape[0]
        total = each.sum() + rest * free
        vectors = self.vectors.double()
        lag = (vectors[:, 1:] * vectors[:, :-1]).mean(1) if self.size[0] > 1 else vectors[:, 0] * 0
        in_time = sum((lag[g] * self._spectrum(g, noise_level)[:, a:b].sum(1)).sum() for g, (a, b) in self._groups())
        in_time = in_time + free * (lag[-1] * self._spectrum(-1, noise_level)[:, 0]).sum()
        found = [in_time / total]
        fields = self._fields()
        for axis in range(2, fields.ndim):
            n = fields.shape[axis]
            pairs = (fields.narrow(axis, 1, n - 1) * fields.narrow(axis, 0, n - 1)).flatten(1).sum(1)
            valid = self.valid.reshape(self.size[1:])
            count = (valid.narrow(axis - 1, 1, n - 1) & valid.narrow(axis - 1, 0, n - 1)).sum().clamp(min=1)
            found.append((each @ pairs - rest * pairs.sum()) / count / (total / self.patterns.shape[1]))
        return torch.stack([torch.as_tensor(f, dtype=torch.float64) for f in found])

    def _groups(self) -> Iterator[tuple[int, tuple[int, int]]]:
        return enumerate(self.spans)

    def _flat(self, x: Tensor) -> Tensor:
        """Return the valid numbers of states, (batch, time, point)."""
        return x.flatten(2)[..., self.valid]

    def _filled(self, x: Tensor) -> Tensor:
        """The inverse; masked numbers are zero."""
        if bool(self.valid.all()):
            return x.reshape(len(x), *self.size)
        out = x.new_zeros(*x.shape[:2], len(self.valid))
        out[..., self.valid] = x
        return out.reshape(len(x), *self.size)

    def _split(self, flat: Tensor, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor | None]:
        """Return the coordinates along the patterns, and what they leave out."""
        patterns = self.patterns if dtype is None else self.patterns.to(dtype)
        along = flat @ patterns.mT
        return along, None if self.complete else flat - along @ patterns

    def _in_time(self, x: Tensor, group: int, gain: Tensor) -> Tensor:
        """Multiply by ``gain`` (batch or 1, time, point or 1) along the eigenvectors in time."""
        return self.vectors[group] @ (gain * (self.vectors[group].mT @ x))

    def _spectrum(self, group: int, noise_level: Tensor) -> Tensor:
        """Variance that is left at a noise level, (time, pattern); for the remainder (time, 1)."""
        variance = self.variance if group >= 0 else self.rest.reshape(1)
        values = self.values[group].double()[:, None] * variance.double()
        noise = noise_level.double() ** 2
        return values * noise / (values + noise)

    def _left(self, noise_level: Tensor) -> tuple[Tensor, Tensor]:
        """Mean variance over time that is left of each pattern and of the remainder."""
        each = torch.cat([self._spectrum(g, noise_level)[:, a:b].mean(0) for g, (a, b) in self._groups()])
        return each, self._spectrum(-1, noise_level).mean()

    def _fields(self) -> Tensor:
        """The patterns on the grid, (pattern, channel, *space)."""
        out = torch.zeros(len(self.patterns), len(self.valid), dtype=torch.float64)
        out[:, self.valid] = self.patterns.double()
        return out.reshape(len(out), *self.size[1:])


def time_factors(correlations: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return eigenvalues (group, time) and eigenvectors (group, time, time) of correlations (lag,) of each group."""
    index = torch.arange(len(correlations[0]))
    matrices = torch.stack([c.double()[(index[:, None] - index).abs()] for c in correlations])
    values, vectors = torch.linalg.eigh(matrices)
    return values.clamp(min=0), vectors
