"""Trains regional fields from few data: a network that corrects a Gaussian, judged on parts of the record left out.

The Gaussian (``GaussianPrior.fit``) and the network learn from four fifths of the record. The rest, in blocks that are
spread over it, so that they hold different weather, decides when the training stops, how much the network may change,
and by how much all variances grow until the spread of ensembles matches their error. At the end the Gaussian is fitted
again to the whole record.
"""

from __future__ import annotations

import warnings
from itertools import pairwise

import numpy as np
import xarray as xr
from torch import nn
from tqdm.auto import tqdm

from xsda.assimilation import assimilate
from xsda.diffusion.anchored import Anchored, measure_gate
from xsda.diffusion.error import ErrorCurve
from xsda.labels.layout import SAMPLE_DIMS, Layout
from xsda.priors.eof import EofDenoiser
from xsda.priors.eof_fit import fit_eof
from xsda.priors.gaussian import error_curve
from xsda.priors.prior import Prior
from xsda.training.windows import Folds, Windows

PARTS = 4  # of the data for training; a Gaussian is fitted without each
BLOCKS, SHARE = 4, 5  # one state in SHARE is left out, in BLOCKS blocks
WINDOWS = 16  # of the data left out, from which the gate is measured
MOST = 2.0  # factor of all variances
SEEN, NOISE, MEMBERS = 0.02, 0.2, 8  # of a rehearsal: share of points that are observed, their error, members


def leave_blocks(ds: xr.Dataset, layout: Layout, window: int) -> tuple[xr.Dataset, xr.Dataset]:
    """Divide a record into a part for training and blocks that are left out.

    Parameters
    ----------
    ds
        The record.
    layout
        Variables and axes.
    window
        Number of states of a training sample.

    Returns
    -------
    training, left_out : Dataset
        By trajectory if there are ten or more, otherwise in time.
    """
    rows = next((d for d in SAMPLE_DIMS if ds.sizes.get(d, 0) >= 10), None)
    dim, least = (layout.time, window) if rows is None else (rows, 1)
    n = ds.sizes[dim]
    size = max(least, n // (SHARE * BLOCKS))
    if n < 2 * BLOCKS * size:
        raise ValueError(
            f"{n} states along {dim!r} are too few to leave out {BLOCKS} blocks of {size} for window={window}; use a "
            f"record of at least {2 * BLOCKS * size} states, a smaller window, or pass validation=..."
        )
    out = np.zeros(n, bool)
    for k in range(BLOCKS):
        first = (2 * k + 1) * n // (2 * BLOCKS) - size // 2
        out[first : first + size] = True
    if dim not in ds.coords:  # numbers, which show where blocks are left out
        ds = ds.assign_coords({dim: np.arange(n)})
    return ds.isel({dim: np.flatnonzero(~out)}), ds.isel({dim: np.flatnonzero(out)})


def anchored(
    network: nn.Module, ds: xr.Dataset, layout: Layout, window: int, masked: bool
) -> tuple[Anchored, Windows | Folds]:
    """Return the network on a Gaussian that is fitted to these data, and the windows of its training.

    A Gaussian describes the states that it was fitted to better than new ones. So the network corrects, in each part of
    the data, a Gaussian that was fitted to the others.
    """
    base, _ = fit_eof(ds, layout, window)
    denoiser = Anchored(network, base, error_curve(base), masked=masked)
    dim = next((d for d in SAMPLE_DIMS if ds.sizes.get(d, 0) >= 10), layout.time)
    edges = np.linspace(0, ds.sizes[dim], PARTS + 1).astype(int)
    parts, others = [], []
    for a, b in pairwise(edges.tolist()):
        inside = np.isin(np.arange(ds.sizes[dim]), np.arange(a, b))
        try:
            parts.append(Windows(ds.isel({dim: inside}), layout, window))
        except ValueError:  # too short for a window
            return denoiser, Windows(ds, layout, window)
        other, _ = fit_eof(ds.isel({dim: ~inside}), layout, window)
        other.schedule = base.schedule
        others.append(other)
    denoiser.others = others
    return denoiser, Folds(parts)


def opened(denoiser: Anchored, left_out: Windows) -> float:
    """Set the gate of the denoiser; return the largest share of the squared error of its base that it removes."""
    size = min(4, len(left_out))
    source = left_out.batches(size, seed=3)
    pairs = []
    for _ in range(max(1, WINDOWS // size)):
        x0, context = next(source)
        device = denoiser.gate.device
        pairs.append((denoiser.conditioned(None if context is None else context.to(device)), x0.to(device)))
    gate, share = measure_gate(denoiser, pairs)
    denoiser.gate.copy_(gate)
    return share


def rehearse(prior: Prior, ds: xr.Dataset, count: int, *, device: str = "auto", progress: bool) -> float:
    """Return the spread over the error of ensembles of data left out, from values at a few of their points.

    Parameters
    ----------
    prior
        A prior that did not see these data.
    ds
        The data left out.
    count
        Number of windows.
    device
        "auto", "cpu" or "cuda".
    progress
        Show a progress bar.

    Returns
    -------
    float
        Spread over error, at all points that have values; 1 if they match.
    """
    windows = Windows(ds, prior.layout, prior.length or prior.window)
    states = windows.window
    starts = [(p.rows.start, s) for p in windows.pieces for s in range(p.start, p.stop - states + 1)]
    chosen = [starts[i] for i in np.linspace(0, len(starts) - 1, min(count, len(starts))).astype(int)]
    spread, error = [], []
    for number, (row, start) in enumerate(tqdm(chosen, desc="rehearsing", unit="window", disable=not progress)):
        truth = ds.isel({windows.grid.core_dims[0]: slice(start, start + states)})
        if windows.sample_dim:
            truth = truth.isel({windows.sample_dim: row}, drop=True)
        truth = truth[list(prior.layout.names)].load()
        if not any(truth[name].notnull().any() for name in truth):
            continue
        rng = np.random.default_rng(number)
        sigma = {v.name: NOISE * float(np.mean(v.std)) for v in prior.layout.variables}
        obs = truth.copy()
        for name, size in sigma.items():
            order = np.where(truth[name].notnull(), rng.random(truth[name].shape), np.inf)
            seen = order <= max(SEEN, order.min())  # at least one
            obs[name] = (truth[name] + size * rng.standard_normal(truth[name].shape)).where(
                xr.DataArray(seen, dims=truth[name].dims)
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = assimilate(
                truth, obs, prior, sigma=sigma, members=MEMBERS, seed=number, device=device, progress=False
            )
        for name, size in sigma.items():
            variance = found[name].var("member", ddof=1).where(truth[name].notnull())
            spread.append(float(variance.mean()) * (1 + 1 / MEMBERS) / size**2)
            error.append(float(((found[name].mean("member") - truth[name]) ** 2).mean()) / size**2)
    return float(np.sqrt(np.nanmean(spread) / np.nanmean(error)))


def widened(prior: Prior, ds: xr.Dataset, count: int, *, device: str = "auto", progress: bool) -> None:
    """Widen the prior so that the spread of ensembles matches their error on data left out.

    Its variances are multiplied by a factor from 1 to MOST. The spread over error that is then measured on the same
    data is noted in ``info``.
    """
    denoiser = prior.denoiser
    assert isinstance(denoiser, Anchored)
    ratio = rehearse(prior, ds, count, device=device, progress=progress)
    factor = min(max(ratio**-2, 1.0), MOST)
    if factor > 1:
        prior.denoiser = denoiser.times(factor)
        prior.error = _error(prior.denoiser)
        ratio = rehearse(prior, ds, count, device=device, progress=progress)
    prior.info |= {"inflation": round(factor, 2), "spread over error": round(ratio, 2)}


def refitted(denoiser: Anchored, ds: xr.Dataset, layout: Layout, window: int) -> tuple[Anchored, ErrorCurve]:
    """Return the denoiser with its Gaussian fitted to the whole record, and the error of that Gaussian."""
    base, _ = fit_eof(ds, layout, window)
    base.schedule = denoiser.schedule
    other = denoiser.with_base(base)
    return other, _error(other)


def _error(denoiser: Anchored) -> ErrorCurve:
    """Return the error of the Gaussian, widened as the denoiser is."""
    assert isinstance(denoiser.base, EofDenoiser)
    return error_curve(denoiser.base.times(float(denoiser.root) ** 2))
