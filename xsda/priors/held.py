r"""Gaussian trajectories whose first states are known: each member of a long record goes on from its own past.

Let d be the deviation of the known first states K from their estimate :math:`E[x_0 | x_t]_K`. Then

.. math:: E[x_0 | x_t, x_K] = E[x_0 | x_t] + V_{\cdot K} V_{KK}^{-1} d, \qquad V = \mathrm{Cov}[x_0 | x_t] .

Whole states are known, so each pattern of the covariance has a system of its own, with as many unknowns as there are
known states.
"""

from __future__ import annotations

from torch import Tensor

from xsda.diffusion.anchored import Anchored
from xsda.diffusion.denoisers import Denoiser
from xsda.priors.eof import EofDenoiser
from xsda.priors.exact import GaussianDenoiser
from xsda.priors.separable import SeparableDenoiser


def base_of(denoiser: Denoiser) -> EofDenoiser | SeparableDenoiser | GaussianDenoiser | None:
    """Return the Gaussian whose covariance a denoiser has; None for other denoisers."""
    own = denoiser.base if isinstance(denoiser, Anchored) else denoiser
    return own if isinstance(own, EofDenoiser | SeparableDenoiser | GaussianDenoiser) else None


class Held(Denoiser):
    """A Gaussian, or a network that corrects one, given the first states of each member.

    Parameters
    ----------
    denoiser
        Denoiser for which ``base_of`` finds a Gaussian.
    past
        The known states of each member, (batch, known, channel, *space).
    """

    def __init__(self, denoiser: Denoiser, past: Tensor):
        super().__init__()
        self.denoiser, self.schedule, self.past = denoiser, denoiser.schedule, past

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        return self._held(self.denoiser(x_t, t), t)

    def linearised(self, x_t: Tensor, t: Tensor) -> Tensor:
        return self._held(self.denoiser.linearised(x_t, t), t)

    def _held(self, x0: Tensor, t: Tensor) -> Tensor:
        base, level = base_of(self.denoiser), self.schedule.noise_level(t).double().max()
        assert base is not None
        if isinstance(self.denoiser, Anchored):
            level = level / self.denoiser.root.double()
        return x0 + base.extended(self.past - x0[:, : self.past.shape[1]], level)
