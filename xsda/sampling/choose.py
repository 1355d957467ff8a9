"""Chooses the guidance and the sampler: by name, as configured by the user, or by the prior."""

from __future__ import annotations

import math

import numpy as np
import torch

from xsda.arguments import choose, what
from xsda.diffusion.anchored import Anchored
from xsda.diffusion.samplers import SAMPLERS, DPMpp2M, DPMpp2MSDE, Sampler
from xsda.guidance import GUIDANCE, MMPS, Calibrated, Guidance
from xsda.likelihood import Likelihood
from xsda.priors.prior import Prior

# Fields over two axes are first drawn with a quick sampler if there are observations for more than the share FEW of all
# numbers, whose squared anomalies are on average below PRECISE times the variance of their errors. Above MANY, fewer
# steps suffice.
FEW, MANY, PRECISE = 1 / 70, 1 / 20, 1000.0


def pick_sampler(sampler: str | Sampler, steps: int | None, default: Sampler) -> Sampler:
    """Return a sampler by name, the user's own, or the default; ``steps`` overrides its number of steps."""
    if isinstance(sampler, str):
        if sampler.lower() != "auto" and sampler.lower() not in SAMPLERS:
            raise ValueError(f"unknown sampler {sampler!r}; {choose(sampler.lower(), SAMPLERS)}")
        sampler = default if sampler.lower() == "auto" else SAMPLERS[sampler.lower()]()
    if not isinstance(sampler, Sampler):
        raise TypeError(f"sampler must be a name or an xsda Sampler, got {what(sampler)}")
    if steps is None:
        return sampler
    return type(sampler)(**{**vars(sampler), "steps": steps})


def pick_guidance(guidance: str | Guidance, prior: Prior) -> Guidance:
    """Return a guidance by name, the user's own, or the one that suits the prior."""
    if isinstance(guidance, Guidance):
        return guidance
    if not isinstance(guidance, str):
        raise TypeError(f"guidance must be a name or an xsda Guidance, got {what(guidance)}")
    name = guidance.lower()
    if name == "auto":
        moments = prior.exact or prior.error is None or isinstance(prior.denoiser, Anchored)
        return MMPS() if moments else Calibrated()
    if name not in GUIDANCE:
        raise ValueError(f"unknown guidance {guidance!r}; {choose(name, GUIDANCE)}")
    return GUIDANCE[name]()


def default_sampler(prior: Prior, guided: bool) -> Sampler:
    """Return the cheapest sampler that passes the benchmarks.

    For a prior in closed form, with or without a network that corrects it, it takes 32 evaluations per six decades of
    noise, and at least 32. For another network it takes one correction per step, so that members can leave trajectories
    that the observations exclude. With two space axes it takes 24 steps; 48 steps reduce the CRPS by a tenth with
    nonlinear or very precise observations. ``quick_sampler`` is tried before.
    """
    if prior.exact or isinstance(prior.denoiser, Anchored):
        low, high = (float(prior.schedule.noise_level(torch.tensor(t, dtype=torch.float64))) for t in (0.0, 1.0))
        return DPMpp2M(steps=max(32, round(32 * np.log10(high / low) / 6)))
    if not guided:
        return DPMpp2MSDE(steps=64)
    steps = 24 if len(prior.layout.space) == 2 else 48
    return DPMpp2MSDE(steps=steps, grid="centered", corrections=1, tau=0.5)


def quick_sampler(prior: Prior, guidance: Guidance, likelihood: Likelihood, shape: tuple[int, ...]) -> Sampler | None:
    """Return a sampler for first draws at a third of the cost of the default one, or None.

    Langevin noise within its steps takes the place of corrections. With one space axis members are as good, but more of
    them are in wrong trajectories and are drawn again. Members of fields over two axes are as good if many linear
    observations determine them; with few, nonlinear or very precise ones they are worse. Without space they are
    slightly worse, and draws cost little anyway.
    """
    axes = len(prior.layout.space)
    if not axes or not isinstance(guidance, Calibrated) or prior.exact or isinstance(prior.denoiser, Anchored):
        return None
    if axes == 1:
        return DPMpp2MSDE(steps=40, grid="centered", eta=4.0, high=10.0)
    share = likelihood.y.numel() / math.prod(shape)
    if share < FEW or not (likelihood.linear and likelihood.gaussian):
        return None
    nothing = torch.zeros(1, *shape, dtype=likelihood.y.dtype, device=likelihood.y.device)
    if float(likelihood.deviance(nothing)) > PRECISE * likelihood.y.numel():
        return None
    return DPMpp2MSDE(steps=16 if share > MANY else 20, grid="centered", eta=4.0, high=10.0, low=0.01)
