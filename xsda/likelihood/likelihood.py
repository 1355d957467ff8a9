"""The likelihood of observations y = H(x) + error, as tensors.

``operator`` maps standardised trajectories (batch, time, channel, *space) to values (batch, M) and is differentiable.
Errors are independent, of scale ``std``. Correlated errors become independent by whitening: the same linear map is
applied to the operator and to the observations.
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

CARE = (
    "take care with log, sqrt and division: s.clamp(min=1e-6).sqrt() has a derivative everywhere, "
    "s.clamp(min=0).sqrt() has none at 0"
)


class Operator(Protocol):
    """H: maps standardised trajectories (batch, time, channel, *space) to values (batch, M), differentiably."""

    def __call__(self, x: Tensor, /) -> Tensor: ...


class Places(Protocol):
    """What each observed value is, in the user's terms (``xsda.observations.joint``)."""

    def describe(self, index: int, predicted: float) -> str: ...


class Footprint(Protocol):
    """The grid points that contribute to the values of one variable (``xsda.observations.footprints``)."""

    def variance(self, std: Tensor, rho: Sequence[float]) -> Tensor:
        """Return the variance of each value, given the error of each channel and its correlation along each axis."""


@dataclass(frozen=True)
class Group:
    """The next ``count`` observations.

    Parameters
    ----------
    count
        Number of observations.
    name
        Observed variable.
    law
        Law of their errors.
    """

    count: int
    name: str = ""
    law: ErrorLaw = field(default_factory=Normal)


@dataclass(frozen=True, eq=False)
class Likelihood:
    """The likelihood of M observed values.

    Parameters
    ----------
    operator
        H, without an offset if ``linear``.
    y, std
        Observed values and scales of their errors, (M,). Each member may have values of its own, (batch, M).
    linear
        Whether H is linear.
    groups
        Variable and law of errors of consecutive observations, in their order. Default: one Gaussian group.
    blocks
        Numbers of consecutive observations that ``Calibrated`` weights together. Default: all.
    whitening
        The map that makes correlated errors independent. ``y`` and ``std`` are then those of the whitened values. It
        takes differences, so an error that all values share may cancel.
    footprints
        The grid points that contribute to the values (before whitening), part by part, if known
        (``xsda.observations.footprints``).
    places
        What each value is in the user's terms, for messages.

    Examples
    --------
    >>> first = xsda.likelihood.Likelihood(lambda x: x[:, 0, 0], torch.tensor([1.0]), torch.tensor([0.5]))
    >>> first.deviance(torch.tensor([2.0]).reshape(1, 1, 1, 1)).item()
    4.0
    """

    operator: Operator
    y: Tensor
    std: Tensor
    linear: bool = True
    groups: tuple[Group, ...] = ()
    blocks: tuple[int, ...] = ()
    whitening: Whitening | None = None
    footprints: tuple[Footprint, ...] | None = None
    places: Places | None = None
    _amplification: dict[tuple[int, ...], Tensor] = field(default_factory=dict, repr=False)

    @property
    def gaussian(self) -> bool:
        """Whether all errors are Gaussian."""
        return all(isinstance(g.law, Normal) for g in self.groups)

    def predict(self, x0: Tensor) -> Tensor:
        """Return H(x_0), (batch, M), whitened if errors are correlated."""
        values = self.operator(x0)
        return values if self.whitening is None else self.whitening.whiten(values)

    def unwhitened(self) -> Likelihood:
        """Return the likelihood with H before whitening.

        It shows the effect of an error of the state on the observed values. Do not use its ``y`` and ``std``.
        """
        return self if self.whitening is None else replace(self, whitening=None, _amplification={})

    def joined(self, other: Likelihood) -> Likelihood:
        """Return the likelihood of both sets of observations, which stay blocks of their own.

        The errors of ``other`` must be independent.
        """
        assert other.whitening is None
        first, second = self.operator, other.operator
        counts = tuple(one.blocks or (one.y.shape[-1],) for one in (self, other))
        rows = torch.broadcast_shapes(self.y.shape[:-1], other.y.shape[:-1])
        ys = [values.expand(*rows, -1) for values in (self.y, other.y)]
        prints = None if self.footprints is None or other.footprints is None else (*self.footprints, *other.footprints)
        return replace(
            self, operator=lambda x: torch.cat([first(x), second(x)], 1), y=torch.cat(ys, -1),
            std=torch.cat([self.std, other.std]), linear=self.linear and other.linear,
            groups=(*(self.groups or (Group(self.y.shape[-1]),)), *(other.groups or (Group(other.y.shape[-1]),))),
            blocks=counts[0] + counts[1], footprints=prints, places=None, _amplification={},
        )  # fmt: skip

    def log_evidence(self, predicted: Tensor, variance: Tensor) -> Tensor:
        """Return log p(y) for each member, (batch,), if H(x_0) ~ N(predicted, diag(variance))."""
        parts = self._parts(predicted, variance)
        return torch.cat([law.log_evidence(d, std, v) for law, d, std, v in parts], -1).sum(-1)

    def log_prob(self, x0: Tensor) -> Tensor:
        """Return log p(y | x_0) for each member, (batch,)."""
        predicted = self.predict(x0)
        return self.log_evidence(predicted, torch.zeros_like(predicted))

    def misfit(self, x0: Tensor) -> tuple[Tensor, Tensor, int]:
        """Test whether the members fit the observations with Gaussian errors.

        In a member of the correct posterior the departures y - H(x_0) follow the law of the observation errors.

        Parameters
        ----------
        x0
            Members, (batch, time, channel, *space).

        Returns
        -------
        chi_square, probability : Tensor
            Chi-square of each member, and the probability that a correct member exceeds it, (batch,).
        n : int
            Number of observations with Gaussian errors.
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
        """Return -2 log p(y | x_0) minus its minimum for each member, (batch,).

        For Gaussian errors this is the chi-square.
        """
        predicted = self.predict(x0).double()
        parts = self._parts(predicted, torch.zeros_like(predicted))
        return torch.cat([law.deviance(d, std.double()) for law, d, std, _ in parts], -1).sum(-1)

    def score(self, predicted: Tensor, variance: Tensor) -> Tensor:
        """Return the gradient of ``log_evidence`` with respect to the prediction, (batch, M)."""
        return torch.cat([law.score(d, s, v) for law, d, s, v in self._parts(predicted, variance)], -1)

    def sites(self, predicted: Tensor, variance: Tensor, limit: float | None = None) -> tuple[Tensor, Tensor]:
        """Return the innovations and error variances of the equivalent Gaussian observations, both (batch, M).

        Parameters
        ----------
        predicted, variance
            Prediction of the observations and its variance, (batch, M).
        limit
            Largest innovation, in standard deviations of the innovation (None: no limit).

        Returns
        -------
        innovation, error : Tensor
            Innovations and error variances, (batch, M).
        """
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
        """Return the derivative of H at ``x0``, applied to ``direction``, (batch, M)."""
        if self.linear:
            return self.predict(direction)
        return torch.func.jvp(self.predict, (x0,), (direction,))[1]

    def adjoint(self, x0: Tensor, u: Tensor) -> Tensor:
        """Apply the transpose of the derivative of H at ``x0`` to ``u`` (batch, M); returns the shape of ``x0``."""
        with torch.enable_grad():
            x = x0.detach().requires_grad_()
            return torch.autograd.grad(self.predict(x), x, u)[0]

    def spread(self, x0: Tensor, error: Tensor) -> Tensor:
        """Return the standard deviation of H(x_0) if the errors of x_0 are fully correlated.

        Full correlation is the safe assumption for averages: a shared error does not become smaller in the mean over a
        block. A shared error cancels in differences, for which independent errors are the safe assumption. Their
        effect is estimated with a few random sign patterns, and the larger result counts.

        Parameters
        ----------
        x0
            State at which a nonlinear H is linearised.
        error
            Standard deviation of the error of each channel, (channel,).

        Returns
        -------
        Tensor
            Standard deviations, (batch, M).
        """
        if self.linear:
            return torch.sqrt((self._per_channel(x0) ** 2) @ (error.to(x0) ** 2)).expand(len(x0), -1)
        field = error.to(x0).reshape(1, 1, -1, *(1,) * (x0.ndim - 3)).expand_as(x0)
        shared = self.tangent(x0, field)
        independent = torch.stack([self.tangent(x0, field * s).square() for s in _signs(x0)]).mean(0)
        return torch.maximum(shared.square(), independent).sqrt()

    def _per_channel(self, x0: Tensor) -> Tensor:
        """Effect of a unit error in each channel on each observation, (M, channel), computed once for linear H."""
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
        """Return the same likelihood on another device."""
        return replace(
            self,
            whitening=None if self.whitening is None else self.whitening.to(device, dtype),
            y=self.y.to(device, dtype),
            std=self.std.to(device, dtype),
            groups=tuple(replace(g, law=g.law.to(device, dtype)) for g in self.groups),
            _amplification={},
        )


def _signs(x0: Tensor) -> list[Tensor]:
    """A few random sign patterns in the shape of one state, always the same."""
    return [_pattern(k, tuple(x0.shape[1:]), x0.device, x0.dtype) for k in range(4)]


@lru_cache(maxsize=8)
def _pattern(number: int, shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(number)
    return torch.randint(0, 2, (1, *shape), generator=generator, dtype=torch.int8).to(device, dtype) * 2 - 1
