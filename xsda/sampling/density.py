"""How probable labelled trajectories are under a prior: in closed form, along the probability-flow ODE, or bounded below."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from xsda.diffusion.denoisers import Denoiser
from xsda.diffusion.log_prob import elbo as elbo_of
from xsda.diffusion.log_prob import log_prob as log_prob_of
from xsda.priors.exact import ExactDenoiser
from xsda.priors.prior import Prior
from xsda.priors.registry import Model, load_model
from xsda.sampling.pieces import place


def log_prob(
    ds: xr.Dataset, model: Model, *, steps: int = 128, exact: bool | None = None, seed: int = 0
) -> xr.DataArray:
    """Log density of labelled trajectories under a prior, in the variables' own units.

    A prior in closed form gives the exact value. A network gives it through the probability-flow ODE.

    Parameters
    ----------
    ds
        Trajectories on the grid of the prior; dimensions such as ``member`` stay.
    model
        A prior, the path of one, or a name.
    steps
        Steps of the ODE. More are more accurate.
    exact
        Compute the divergence exactly (the default for states of up to 1,024 numbers), or estimate it with one random vector.
    seed
        Of that vector.

    Returns
    -------
    xarray.DataArray
        One number for each trajectory.

    Examples
    --------
    >>> truth = xsda.systems.Lorenz63().simulate(length=24, seed=0)
    >>> bool(xsda.log_prob(truth, "lorenz63", steps=16, exact=False) > xsda.log_prob(truth + 30, "lorenz63", steps=16, exact=False))
    True
    """
    generator = torch.Generator().manual_seed(seed)

    def density(denoiser: Denoiser, x: Tensor) -> Tensor:
        if isinstance(denoiser, ExactDenoiser):
            return denoiser.log_prob(x)
        return log_prob_of(denoiser, x, steps=steps, exact=exact, generator=generator)

    return _density(load_model(model), ds, density, "log_prob")


def elbo(ds: xr.Dataset, model: Model, *, samples: int = 64, seed: int = 0) -> xr.DataArray:
    """A lower bound of the log density, by Monte Carlo over noise levels; much cheaper than ``log_prob``.

    Parameters
    ----------
    ds, model
        As for ``log_prob``.
    samples
        Noise levels drawn for each trajectory.
    seed
        Of the noise.

    Returns
    -------
    xarray.DataArray
        One number for each trajectory.
    """
    generator, prior = torch.Generator().manual_seed(seed), load_model(model)
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
