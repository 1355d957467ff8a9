"""The Gaussian of a prior, fitted to its free trajectories. It shows what a network knows beyond a Gaussian."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from xsda.labels.axes import axis_numbers, find_axes
from xsda.priors.eof import EofDenoiser
from xsda.priors.exact import GaussianDenoiser
from xsda.priors.gaussian import GaussianPrior
from xsda.priors.prior import Prior
from xsda.priors.separable import SeparableDenoiser
from xsda.sampling.draw import sample

FITTED = 32  # trajectories twice as long as the grid; or twice as many


def gaussian_of(ds: xr.Dataset, prior: Prior, **drawing: Any) -> Prior:
    """Fit a Gaussian to free trajectories of a prior.

    Parameters
    ----------
    ds
        The grid.
    prior
        The prior.
    **drawing
        Options of ``xsda.sample``, but not ``members``.

    Returns
    -------
    Prior
        The prior itself if it is Gaussian. On a grid without space, with months as steps, or for a prior of one length,
        a separable covariance. Otherwise a covariance of patterns.
    """
    if isinstance(prior.denoiser, GaussianDenoiser | SeparableDenoiser | EofDenoiser):
        return prior
    time, space = find_axes(ds)
    twice = _twice_as_long(ds, time) if space and prior.length is None else None
    if twice is None:
        return _separable(sample(ds, prior, **{**drawing, "members": 2 * FITTED}))
    free = sample(twice, prior, **{**drawing, "members": FITTED})
    return GaussianPrior.fit(free, length=ds.sizes[time], name="gaussian")


def _twice_as_long(ds: xr.Dataset, time: str) -> xr.Dataset | None:
    """The grid with as many times again after its last; None if its times are not even."""
    own = ds[time]
    steps = np.diff(axis_numbers(own))
    if time not in ds.indexes or not len(steps) or np.ptp(steps) > 1e-6 * abs(steps[0]):
        return None
    later = own.values + (own.values[-1] - own.values[0]) + (own.values[1] - own.values[0])
    longer = ds.reindex({time: np.concatenate([own.values, later])})
    return longer.assign_coords({time: longer[time].assign_attrs(own.attrs)})


def _separable(ensemble: xr.Dataset) -> Prior:
    """The Gaussian with the mean of an ensemble, and a separable covariance made of those along each dimension."""
    dims = [str(d) for d in next(iter(ensemble.data_vars.values())).dims if d != "member"]
    for d in dims:
        ensemble = ensemble.sortby(d) if d in ensemble.indexes else ensemble
    mean = ensemble.mean("member", keep_attrs=True)
    anomalies = ensemble - mean
    z = np.stack([(anomalies[v] / anomalies[v].std()).transpose("member", *dims).values for v in anomalies], 1)
    std = np.array([float(anomalies[v].std()) for v in anomalies])

    def along(axis: int) -> np.ndarray:
        flat = np.moveaxis(z, axis, 0).reshape(z.shape[axis], -1).astype(float)
        return flat @ flat.T / flat.shape[1]

    space = [along(3 + i) for i in range(len(dims) - 1)]
    return GaussianPrior.separable(mean, along(2), *space, channel_cov=along(1) * np.outer(std, std))
