"""How probable labelled trajectories are under a prior: in closed form, along the probability-flow ODE, or bounded below."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from xsda.diffusion.denoisers import Denoiser
from xsda.diffusion.likelihood import elbo as elbo_of
from xsda.diffusion.likelihood import log_prob as log_prob_of
from xsda.priors.exact import ExactDenoiser
from xsda.priors.prior import Prior
from xsda.priors.sampling import place


def log_prob(prior: Prior, ds: xr.Dataset, *, steps: int, exact: bool | None, seed: int) -> xr.DataArray:
    """log p of labelled trajectories: in closed form where there is one, otherwise by the probability-flow ODE."""
    generator = torch.Generator().manual_seed(seed)

    def density(denoiser: Denoiser, x: Tensor) -> Tensor:
        if isinstance(denoiser, ExactDenoiser):
            return denoiser.log_prob(x)
        return log_prob_of(denoiser, x, steps=steps, exact=exact, generator=generator)

    return _density(prior, ds, density, "log_prob")


def elbo(prior: Prior, ds: xr.Dataset, *, samples: int, seed: int) -> xr.DataArray:
    """The variational bound of log p of labelled trajectories."""
    generator = torch.Generator().manual_seed(seed)
    return _density(
        prior, ds, lambda d, x: elbo_of(d, x, samples=samples, curve=prior.error, generator=generator), "elbo"
    )


def _density(prior: Prior, ds: xr.Dataset, function: Callable[[Denoiser, Tensor], Tensor], name: str) -> xr.DataArray:
    grid = prior.bind(ds)
    x = grid.to_tensor(ds)
    outer = [d for d in ds[grid.names[prior.layout.names[0]]].dims if d not in grid.core_dims]
    outer = [d for d in outer if d not in {v.channel_dim for v in prior.layout.variables}]
    flat = x.reshape(-1, *grid.shape)
    denoiser = place(prior.denoiser, grid.context(), torch.device("cpu"), torch.float32)
    scale = float(np.log(prior.layout.std).sum()) * flat[0].numel() / prior.layout.channels
    values = (function(denoiser, flat) - scale).numpy().reshape(x.shape[: len(outer)])
    coords = {d: ds[d] for d in outer if d in ds.coords}
    return xr.DataArray(values, coords, outer, name=name, attrs={"units": "1", "long_name": "log density"})
