r"""The likelihood of observations y = H(x) + error, as tensors.

``operator`` maps standardised trajectories (batch, time, channel, *space) to (batch, M), differentiably. Errors are
independent, of scale ``std``; correlated ones are made so by whitening operator and observations alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from xsda.likelihood.laws import ErrorLaw, Normal
from xsda.likelihood.whitening import Whitening

CARE = "take care with log, sqrt and division: s.clamp(min=1e-6).sqrt() has a derivative everywhere, s.clamp(min=0).sqrt() has none at 0"


class Operator(Protocol):
    """H: standardised trajectories (batch, time, channel, *space) to observed values (batch, M), differentiably."""

    def __call__(self, x: Tensor, /) -> Tensor: ...


class Places(Protocol):
    """What each observed value is, in the user's terms (``xsda.observations.joint``)."""

    def describe(self, index: int, predicted: float) -> str: ...


class Footprint(Protocol):
    """Of which grid points the values of one variable are made (``xsda.observations.footprints``)."""

    def variance(self, std: Tensor, rho: Sequence[float]) -> Tensor: ...


@dataclass(frozen=True)
class Group:
    """The next ``count`` observations: the variable they are of, and the law of their errors."""

    count: int
    name: str = ""
    law: ErrorLaw = field(default_factory=Normal)


@dataclass(frozen=True, eq=False)
class Likelihood:
    """M observed values.

    Parameters
    ----------
    operator
        H; without an offset where ``linear``.
    y, std
        Values and scales of their errors, (M,).
    linear
        Whether H is linear.
    groups
        Which observations are of which variable, with which law of errors, in their order. Default: one Gaussian group.
    whitening
        What makes correlated errors independent; ``y`` and ``std`` are those of whitened values. It takes differences, so that
        an error that all values share may cancel.
    footprints
        Of which points the values (before they are whitened) are made, part by part, where that is known
        (``xsda.observations.footprints``).
    places
        What each value is in the user's terms, for messages.
    """

    operator: Operator
    y: Tensor
    std: Tensor
    linear: bool = True
    groups: tuple[Group, ...] = ()
    whitening: Whitening | None = None
    footprints: tuple[Footprint, ...] | None = None
    places: Places | None = None
    _amplification: dict[tuple[int, ...], Tensor] = field(default_factory=dict, repr=False)

    @property
    def gaussian(self) -> bool:
        return all(isinstance(g.law, Normal) for g in self.groups)

    def predict(self, x0: Tensor) -> Tensor:
        """H(x_0), whitened where errors are correlated, (batch, M)."""
        values = self.operator(x0)
        return values if self.whitening is None else self.whitening.whiten(values)

    def unwhitened(self) -> Likelihood:
        """With H before it is whitened, to see what an error of the state does to it; not for its values."""
        return self if self.whitening is None else replace(self, whitening=None, _amplification={})

    def log_evidence(self, predicted: Tensor, variance: Tensor) -> Tensor:
        """log p(y) of each member, where H(x_0) ~ N(predicted, diag(variance)); (batch,)."""
        parts = self._parts(predicted, variance)
        return torch.cat([law.log_evidence(d, std, v) for law, d, std, v in parts], -1).sum(-1)

    def log_prob(self, x0: Tensor) -> Tensor:
        """log p(y | x_0) of each member, (batch,)."""
        predicted = self.predict(x0)
        return self.log_evidence(predicted, torch.zeros_like(predicted))

    def misfit(self, x0: Tensor) -> tuple[Tensor, Tensor, int]:
        """Chi-square of each member, the probability that a right member exceeds it, and of how many values it is.

        A member of the right posterior has errors y - H(x_0) with the law of the observation errors. Gaussian errors only.
        """
        gaussian = torch.cat(
            [torch.full((g.count,), isinstance(g.law, Normal)) for g in self.groups or (Group(self.y.numel()),)]
        ).to(self.y.device)
        z = torch.where(gaussian, (self.y - self.predict(x0)) / self.std, 0)
        chi_square, n = z.double().square().sum(1), int(gaussian.sum())
        return chi_square, torch.special.gammaincc(torch.full_like(chi_square, max(n, 1) / 2), chi_square / 2), n

    def worst(self, x0: Tensor) -> str:
        """The value that these members fit worst on average, in the user's terms; empty where that is not known."""
        if self.places is None or self.whitening is not None:
            return ""
        predicted = self.predict(x0)
        index = int(((self.y - predicted) / self.std).square().mean(0).argmax())
        return self.places.describe(index, float(predicted[:, index].mean()))

    def deviance(self, x0: Tensor) -> Tensor:
        """-2 log p(y | x_0) of each member above its least, (batch,): the chi-square, where errors are Gaussian."""
        predicted = self.predict(x0).double()
        parts = self._parts(predicted, torch.zeros_like(predicted))
        return torch.cat([law.deviance(d, std.double()) for law, d, std, _ in parts], -1).sum(-1)

    def score(self, predicted: Tensor, variance: Tensor, limit: float | None = None) -> Tensor:
        """The gradient of ``log_evidence`` in the prediction, (batch, M).

        With ``limit`` it is at most that of a Gaussian innovation of so many standard deviations.
        """
        score = torch.cat([law.score(d, s, v) for law, d, s, v in self._parts(predicted, variance)], -1)
        if limit is None:
            return score
        reach = limit / torch.sqrt(self.std**2 + variance)
        return score.clamp(-reach, reach)

    def sites(self, predicted: Tensor, variance: Tensor, limit: float | None = None) -> tuple[Tensor, Tensor]:
        """Innovations and error variances of the Gaussian observations that stand for these, both (batch, M)."""
        pairs = [law.site(d, s, v) for law, d, s, v in self._parts(predicted, variance)]
        innovation, error = torch.cat([d for d, _ in pairs], -1), torch.cat([v for _, v in pairs], -1)
        if limit is None:
            return innovation, error
        reach = limit * (error + variance) / torch.sqrt(self.std**2 + variance)
        return innovation.clamp(-reach, reach), error

    def _parts(self, predicted: Tensor, variance: Tensor) -> list[tuple[ErrorLaw, Tensor, Tensor, Tensor]]:
        d = self.y - predicted
        if self.gaussian:
            return [(Normal(), d, self.std, variance)]
        counts = [g.count for g in self.groups]
        pieces = zip(d.split(counts, -1), self.std.split(counts, -1), variance.split(counts, -1), strict=True)
        return [(g.law, *piece) for g, piece in zip(self.groups, pieces, strict=True)]

    def tangent(self, x0: Tensor, direction: Tensor) -> Tensor:
        """The derivative of H at ``x0`` applied to ``direction``, (batch, M)."""
        if self.linear:
            return self.predict(direction)
        return torch.func.jvp(self.predict, (x0,), (direction,))[1]

    def adjoint(self, x0: Tensor, u: Tensor) -> Tensor:
        """The transpose of the derivative of H at ``x0`` applied to ``u`` (batch, M); of the shape of ``x0``."""
        with torch.enable_grad():
            x = x0.detach().requires_grad_()
            return torch.autograd.grad(self.predict(x), x, u)[0]

    def spread(self, x0: Tensor, error: Tensor) -> Tensor:
        """Standard deviation of H(x_0) when x_0 has errors ``error`` that are the same across what H averages.

        ``error``: (channel,), one standard deviation per channel. Fully correlated errors are the safe assumption: an
        average over a block does not make a shared error smaller. Where H takes differences, the shared error
        cancels, and independent errors, estimated with a few random sign patterns, are the safe side.
        """
        if self.linear:
            return torch.sqrt((self._per_channel(x0) ** 2) @ (error.to(x0) ** 2)).expand(len(x0), -1)
        field = error.to(x0).reshape(1, 1, -1, *(1,) * (x0.ndim - 3)).expand_as(x0)
        shared = self.tangent(x0, field)
        independent = torch.stack([self.tangent(x0, field * s).square() for s in _signs(x0)]).mean(0)
        return torch.maximum(shared.square(), independent).sqrt()

    def _per_channel(self, x0: Tensor) -> Tensor:
        """How much an error of one in each channel is in each observation, (M, channel); for linear H, once."""
        key = tuple(x0.shape[1:])
        if key not in self._amplification:
            columns = []
            for c in range(x0.shape[2]):
                unit = torch.zeros_like(x0[:1])
                unit[:, :, c] = 1
                columns.append(self.predict(unit)[0].abs())
                if self.whitening is not None:
                    independent = torch.stack([self.predict(unit * s)[0].square() for s in _signs(x0)]).mean(0)
                    columns[-1] = torch.maximum(columns[-1], independent.sqrt())
            self._amplification[key] = torch.stack(columns, -1)
        return self._amplification[key]

    def to(self, device: torch.device, dtype: torch.dtype) -> Likelihood:
        """The same likelihood on another device."""
        return replace(
            self,
            whitening=None if self.whitening is None else self.whitening.to(device, dtype),
            y=self.y.to(device, dtype),
            std=self.std.to(device, dtype),
            groups=tuple(replace(g, law=g.law.to(device, dtype)) for g in self.groups),
            _amplification={},
        )


def _signs(x0: Tensor) -> list[Tensor]:
    """A few random sign patterns of the shape of one state, always the same."""
    return [_pattern(k, tuple(x0.shape[1:]), x0.device, x0.dtype) for k in range(4)]


@lru_cache(maxsize=8)
def _pattern(number: int, shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(number)
    return torch.randint(0, 2, (1, *shape), generator=generator, dtype=torch.int8).to(device, dtype) * 2 - 1
