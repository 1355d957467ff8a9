"""Keeps the first states of each member at values that are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from xsda.diffusion.denoisers import Denoiser
from xsda.likelihood import Group, Likelihood
from xsda.priors.held import Held, base_of

HELD_ERROR = 0.001  # of the last known state as an observation, in standard deviations of the prior


def hold(denoiser: Denoiser, likelihood: Likelihood | None, past: Tensor) -> tuple[Denoiser, Likelihood | None]:
    """Return denoiser and likelihood of trajectories that begin with known states.

    A Gaussian, or a network that corrects one, takes them exactly. With another network ``Pinned`` keeps them, so that
    the denoiser sees them with less and less noise. The last of them is also observed, with a small error. If all were
    observed, their joint factor in ``Calibrated`` would be small, and the next state would follow the last one less.

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
    last = past[:, -1].flatten(1)
    known = Likelihood(
        _State(past.shape[1] - 1), last, torch.full_like(last[0], HELD_ERROR),
        groups=(Group(last.shape[1], "known state"),), footprints=(_Numbers(tuple(past.shape[2:])),),
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
class _State:
    """The operator that observes all numbers of one state."""

    index: int

    def __call__(self, x: Tensor) -> Tensor:
        return x[:, self.index].flatten(1)


@dataclass(frozen=True)
class _Numbers:
    """The footprint of each number of a state of this shape: itself."""

    shape: tuple[int, ...]

    def variance(self, std: Tensor, rho: Sequence[float]) -> Tensor:
        column = std.double().cpu().reshape(-1, *(1,) * (len(self.shape) - 1))
        return (column**2).expand(self.shape).flatten()
