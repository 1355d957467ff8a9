"""Keeps the first states of each member at values that are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from xsda.diffusion.denoisers import Denoiser
from xsda.likelihood import Group, Likelihood
from xsda.priors.held import Held, base_of

HELD_ERROR = 0.001  # standard deviation, in those of the prior, with which known states are observed by a network


def hold(denoiser: Denoiser, likelihood: Likelihood | None, past: Tensor) -> tuple[Denoiser, Likelihood | None]:
    """Return denoiser and likelihood of trajectories that begin with known states.

    A Gaussian, or a network that corrects one, takes them exactly. Another network observes them with a small error, so
    that the other states agree with them, and ``Pinned`` keeps them.

    Parameters
    ----------
    denoiser
        Denoiser of the prior.
    likelihood
        Likelihood of the observations, if there are any.
    past
        The known states of each member, (batch, known, channel, *space).
    """
    if base_of(denoiser) is not None:
        return Held(denoiser, past), likelihood
    known = Likelihood(
        _First(past.shape[1]), past.flatten(1), torch.full_like(past[0].flatten(), HELD_ERROR),
        groups=(Group(past[0].numel(), "known states"),), footprints=(_Numbers(tuple(past.shape[1:])),),
    )  # fmt: skip
    return denoiser, known if likelihood is None else likelihood.joined(known)


class Pinned(Denoiser):
    """A denoiser whose estimate of the first states is what is known, so that samplers keep them exactly.

    Parameters
    ----------
    denoiser
        The guided denoiser.
    past
        The known states of each member, (batch, known, channel, *space).
    """

    def __init__(self, denoiser: Denoiser, past: Tensor):
        super().__init__()
        self.denoiser, self.schedule, self.past = denoiser, denoiser.schedule, past

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        return torch.cat([self.past, self.denoiser(x_t, t)[:, self.past.shape[1] :]], 1)


@dataclass(frozen=True)
class _First:
    """The operator that observes all numbers of the first states."""

    states: int

    def __call__(self, x: Tensor) -> Tensor:
        return x[:, : self.states].flatten(1)


@dataclass(frozen=True)
class _Numbers:
    """The footprint of each number of states of this shape: itself."""

    shape: tuple[int, ...]

    def variance(self, std: Tensor, rho: Sequence[float]) -> Tensor:
        column = std.double().cpu().reshape(-1, *(1,) * (len(self.shape) - 2))
        return (column**2).expand(self.shape).flatten()
