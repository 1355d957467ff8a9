r"""The Gaussian score of SDA (Rozet & Louppe 2023, arXiv 2306.10574).

.. math:: p(y | x_t) \approx N(y;\, H(\hat x_0),\, \mathrm{diag}(\mathrm{std}^2 + \gamma\,\sigma^2/\alpha^2))

It needs no error curve, but ``gamma`` has to be tuned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from xsda.arguments import real_number
from xsda.diffusion.denoisers import Denoiser, noise_estimate
from xsda.diffusion.error import ErrorCurve
from xsda.guidance.guided import Guidance, GuidedDenoiser, check_prediction
from xsda.guidance.scaling import Scaling
from xsda.likelihood.likelihood import Likelihood


@dataclass(frozen=True, kw_only=True)
class GaussianScore(Guidance):
    """The method of the SDA paper.

    Parameters
    ----------
    gamma
        Variance added to that of the observations, in units of the noise level squared (scaled variables). One number,
        or a mapping from observed variable to number.
    detach
        Replace the Jacobian of the denoiser by the identity over alpha, which avoids the backward pass through the
        network.
    scaling
        How the gradient depends on the number of observations; see ``Scaling``.
    """

    gamma: float | Mapping[str, float] = 1e-2
    detach: bool = False
    scaling: Scaling = field(default_factory=Scaling)

    def __post_init__(self) -> None:
        for value in self.gamma.values() if isinstance(self.gamma, Mapping) else (self.gamma,):
            real_number(
                "gamma", value, "not be negative: it is a variance (one number, or a mapping by variable)", least=0
            )
        if not isinstance(self.scaling, Scaling):
            raise TypeError(f"scaling must be a Scaling, got {self.scaling!r}; for example Scaling(rule='dual')")

    def guide(self, denoiser: Denoiser, likelihood: Likelihood, error: ErrorCurve | None) -> GuidedDenoiser:
        return _GaussianScore(denoiser, likelihood, error, self)


class _GaussianScore(GuidedDenoiser):
    def __init__(self, denoiser: Denoiser, likelihood: Likelihood, error: ErrorCurve | None, options: GaussianScore):
        super().__init__(denoiser, likelihood, error)
        self.options = options
        self.gamma = _per_observation(options.gamma, likelihood)

    def evaluate(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if not self.options.detach:
            return super().evaluate(x_t, t)
        x0 = self.denoiser(x_t, t).detach()  # no graph of the network
        with torch.enable_grad():
            leaf = x0.requires_grad_()
            predicted = self.likelihood.predict(leaf)
        check_prediction(self.likelihood, leaf, predicted)
        change = self.correction(x_t, t, leaf, predicted)
        return leaf.detach(), change.detach(), predicted.detach()

    def correction(self, x_t: Tensor, t: Tensor, x0: Tensor, predicted: Tensor) -> Tensor:
        options, level = self.options, self.schedule.noise_level(t)
        size = level.to(x0)
        if self.likelihood.whitening is not None:  # whitened values are in units of the errors
            size = self.likelihood.spread(x0.detach(), size.expand(x0.shape[2]))
        own = (self.gamma * size**2).expand_as(predicted)
        observed, own = options.scaling.variances(self.likelihood.std**2, own)
        scaled = replace(self.likelihood, std=observed.sqrt())
        weight = scaled.score(predicted.detach(), own)
        if options.detach:
            change = (level**2).to(x0) * torch.autograd.grad(predicted, x0, weight)[0]
        else:
            change = self.pull(weight, x_t, t, predicted)
        # change / level^2 is to the likelihood gradient what -sigma eps / level^2 is to the prior's score
        prior = self.schedule.noise_level(t).to(x0) * noise_estimate(self.schedule, x_t, x0, t).detach()
        return options.scaling.rescale(change, prior)


def _per_observation(gamma: float | Mapping[str, float], likelihood: Likelihood) -> Tensor:
    """The value of gamma for each observation, (M,)."""
    if not isinstance(gamma, Mapping):
        return torch.full_like(likelihood.y, gamma)
    names = {g.name for g in likelihood.groups}
    if not names <= set(gamma):  # others may be missing (NaN) here
        raise ValueError(
            f"gamma names {sorted(gamma)}, the observed variables (also of a background) are {sorted(names)}; give one "
            "value for each"
        )
    return torch.cat([likelihood.y.new_full((g.count,), gamma[g.name]) for g in likelihood.groups])
