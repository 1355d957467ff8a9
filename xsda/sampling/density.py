"""Computes the log density of labelled trajectories under a prior, or a lower bound of it.

The density is exact for priors in closed form. For networks it comes from the probability-flow ODE.
"""

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
    """Compute the log density of trajectories under a prior, in the units of the variables.

    The value is exact for a prior in closed form. For a network it comes from the probability-flow ODE.

    Parameters
    ----------
    ds
        Trajectories on the grid of the prior. Other dimensions, such as ``member``, are kept.
    model
        A prior, the path of one, or a name.
    steps
        Steps of the ODE. More steps are more accurate.
    exact
        Whether to compute the divergence exactly, or estimate it with one random vector. Default: exact for states of
        up to 1,024 numbers.
    seed
        Seed of the random vector.

    Returns
    -------
    xarray.DataArray
        One number for each trajectory.

    Examples
    --------
    The density of 48 standard normal numbers at their mean is (2 pi)^-24:

    >>> prior = xsda.GaussianPrior(truth, np.eye(48))
    >>> print(f"{float(xsda.log_prob(truth, prior)):.2f}, {-24 * np.log(2 * np.pi):.2f}")
    -44.11, -44.11

    A network gives a higher density to a trajectory of its system than to a shifted one:

    >>> options = {"steps": 4, "exact": False}
    >>> bool(xsda.log_prob(truth, "lorenz63", **options) > xsda.log_prob(truth + 30, "lorenz63", **options))
    True
    """
    generator = torch.Generator().manual_seed(seed)

    def density(denoiser: Denoiser, x: Tensor) -> Tensor:
        if isinstance(denoiser, ExactDenoiser):
            return denoiser.log_prob(x)
        return log_prob_of(denoiser, x, steps=steps, exact=exact, generator=generator)

    return _density(load_model(model), ds, density, "log_prob")


def elbo(ds: xr.Dataset, model: Model, *, samples: int = 64, seed: int = 0) -> xr.DataArray:
    """Estimate a lower bound of the log density by Monte Carlo over noise levels.

    It is much cheaper than ``log_prob``.

    Parameters
    ----------
    ds
        Trajectories, as for ``log_prob``.
    model
        A prior, the path of one, or a name.
    samples
        Number of noise levels for each trajectory.
    seed
        Seed of the noise.

    Returns
    -------
    xarray.DataArray
        One number for each trajectory.

    Examples
    --------
    >>> bool(xsda.elbo(truth, "lorenz63", samples=8) > xsda.elbo(truth + 30, "lorenz63", samples=8))
    True
    """
    generator, prior = torch.Generator().manual_seed(seed), load_model(model)
    return _density(
        prior, ds, lambda d, x: elbo_of(d, x, samples=samples, curve=prior.error, generator=generator), "elbo"
    )


def _density(prior: Prior, ds: xr.Dataset, function: Callable[[Denoiser, Tensor], Tensor], name: str) -> xr.DataArray:
    """Apply a density of standardised states to a Dataset, and convert it to the units of the variables."""
    grid = prior.bind(ds)
    if grid.mask is not None and not prior.exact:
        raise ValueError("the density of a network with a mask is not known; use a prior in closed form")
    x = grid.to_tensor(ds).nan_to_num(nan=0.0)
    outer = [d for d in ds[grid.names[prior.layout.names[0]]].dims if d not in grid.core_dims]
    outer = [d for d in outer if d not in {v.channel_dim for v in prior.layout.variables}]
    flat = x.reshape(-1, *grid.shape)
    denoiser = place(prior.denoiser, grid.context(), torch.device("cpu"), torch.float32)
    std = np.log(np.broadcast_to(grid.scaling.std, grid.shape))
    scale = float(std.sum() if grid.mask is None else std[:, grid.mask].sum())
    values = (function(denoiser, flat) - scale).numpy().reshape(x.shape[: len(outer)])
    coords = {d: ds[d] for d in outer if d in ds.coords}
    return xr.DataArray(values, coords, outer, name=name, attrs={"units": "1", "long_name": "log density"})
