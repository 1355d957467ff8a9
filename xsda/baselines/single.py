"""Analyses a labelled ensemble at one time, for users with a cycle of their own; lazily if the ensemble is lazy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dask
import numpy as np
import torch
import xarray as xr

from xsda.baselines.cycle import stream
from xsda.baselines.distance import Metric
from xsda.baselines.inflation import as_inflation
from xsda.baselines.initial import check_size
from xsda.baselines.local import LETKF, blocks_of, check_independent, localized
from xsda.baselines.method import Filter, rotated
from xsda.baselines.model import Forecast
from xsda.baselines.network import Network
from xsda.baselines.run import filter, state_grid
from xsda.labels.axes import find_axes
from xsda.labels.grid import Grid
from xsda.labels.provenance import describe
from xsda.observations import observe
from xsda.observations.operator import Derived
from xsda.observations.read import dims_of, units_of
from xsda.observations.select import select
from xsda.observations.sources import Sources, as_sources


def analyse(
    forecast: xr.Dataset,
    obs: Sources,
    *,
    method: Filter,
    sigma: Any = None,
    correlation: Mapping[str, Any] | None = None,
    derived: Mapping[str, Derived] | None = None,
    seed: int = 0,
    quality: Any = None,
    outside: str = "raise",
    superobs: Any = None,
) -> xr.Dataset:
    """Compute the analysis ensemble of one time.

    With dask-backed variables and ``LETKF`` the result is lazy: each chunk of grid points is analysed on its own, and
    only the observed ensemble is computed at once.

    Parameters
    ----------
    forecast
        Ensemble over ``member`` and space. Its time is a scalar coordinate, or a dimension of size 1.
    obs
        Observations of that time.
    method
        A filter, such as ``xsda.baselines.LETKF(localization=4.0)``.
    sigma, correlation, derived
        Errors of the observations, and functions for derived variables, as in ``xsda.assimilate``.
    seed
        Seed of the random numbers of the method.
    quality, outside, superobs
        Which values are used, and which are averaged, as in ``xsda.assimilate``.

    Returns
    -------
    xarray.Dataset
        The analysis, with the dimensions and labels of ``forecast``.

    Examples
    --------
    >>> forecast = post.isel(time=4)
    >>> analysis = xsda.baselines.analyse(forecast, obs.isel(time=1), method=xsda.baselines.ETKF())
    >>> bool(analysis.x.std() < forecast.x.std())
    True
    """
    if "member" not in forecast.dims:
        raise ValueError(f"the forecast has no dimension 'member'; it has {tuple(forecast.sizes)}")
    forecast = forecast[[v for v in forecast.data_vars if "member" in forecast[v].dims]]  # no static fields
    times = [c for c in forecast.coords if c == "time" or forecast[c].attrs.get("axis") == "T"] or ["time"]
    time = find_axes(forecast)[0] if any(t in forecast.dims for t in times) else str(times[0])
    scalar = time not in forecast.dims
    if scalar and time not in forecast.coords:
        raise ValueError(
            f"the forecast has no {time!r}; use .assign_coords({time}=...) with the time of the observations"
        )
    ds = forecast.expand_dims(time) if scalar else forecast
    if ds.sizes[time] != 1:
        raise ValueError(f"the forecast has {ds.sizes[time]} times, expected one; use ds.sda.filter for several")
    grid = state_grid(ds, Forecast(as_it_is))
    obs, sigma = select(
        as_sources(obs, [*units_of(grid), *(derived or {})], dims_of(grid)), grid, sigma, derived=derived,
        quality=quality, outside=outside, superobs=superobs,
    )  # fmt: skip
    if isinstance(method, LETKF) and any(v.chunks is not None for v in ds.data_vars.values()):
        network = Network.of(grid, obs, sigma=sigma, derived=derived, correlation=correlation)
        out = _lazily(ds, network, obs, method, derived, seed)
    else:
        out = filter(
            ds.isel(member=0, drop=True), obs, Forecast(as_it_is), method=method, sigma=sigma,
            initial=ds.isel({time: 0}), correlation=correlation, derived=derived, seed=seed, progress=False,
        )  # fmt: skip
    return out.isel({time: 0}) if scalar else out


def as_it_is(ds: xr.Dataset, start: Any, stop: Any) -> xr.Dataset:
    """The forecast of no time step: the ensemble itself."""
    return ds


def _lazily(ds: xr.Dataset, network: Network, obs: Sources, method: LETKF, derived: Any, seed: int) -> xr.Dataset:
    """Compute the observed ensemble now, and the local analyses chunk by chunk when the result is computed."""
    inflation, members = as_inflation(method.inflation), ds.sizes["member"]
    if inflation.remembers:
        raise ValueError(
            f"{type(inflation).__name__} depends on earlier times; use it in ds.sda.filter, or use a factor, RTPS or "
            "RTPP here"
        )
    check_size(members, None, method.least)
    grid, batch = network.grid, network(0)
    assert batch is not None
    check_independent(batch)
    seen = network.ordered(0, _observed(ds[list(grid.names.values())], obs, derived))
    if not bool(torch.isfinite(seen).all()):
        raise ValueError(
            "the forecast holds NaN or infinite values where it is observed; fill them, or drop the members"
        )
    mean = seen.mean(0, keepdim=True)
    s, d = batch.scaled(seen - mean), batch.scaled(batch.y - mean)
    label = Forecast(as_it_is).bind(grid).label(float(network.numbers[0]))
    metric, position = Metric(grid, method.localization), batch.geometry.position

    def analysis(x: np.ndarray, block_info: Any = None) -> np.ndarray:
        spans = [slice(*place) for place in block_info[0]["array-location"][2:]]
        prior = torch.as_tensor(np.ascontiguousarray(x, dtype=np.float64))  # torch does not support reversed axes
        centre = prior.mean(0, keepdim=True)
        blocks = blocks_of(metric.part(spans), position, members)
        posterior = inflation.after(prior, centre + localized(prior - centre, s, d, blocks))
        if method.rotate:
            posterior = rotated(posterior, stream(seed, "rotation", label))
        return posterior.numpy()

    x = _array(ds, grid)
    out = x.map_blocks(analysis, dtype=float, meta=np.empty((0,) * x.ndim))
    labels = xr.DataArray(np.arange(members), dims="member", attrs={"standard_name": "realization", "units": "1"})
    attrs = {"method": str(method), "system": as_it_is.__name__, "members": members, "seed": seed, "stages": "analysis"}
    return describe(grid.to_dataset(out[:, None], {"member": labels}), grid, attrs)


def _observed(ds: xr.Dataset, obs: Sources, derived: Any) -> dict[str, xr.Dataset]:
    """Compute H of the ensemble for all sources together."""
    sources = as_sources(obs, [*map(str, ds.data_vars), *(derived or {})])
    lazy = {k: observe(ds.astype(float), source, derived=derived) for k, source in sources.items()}
    return dask.compute(lazy)[0]


def _array(ds: xr.Dataset, grid: Grid) -> Any:
    """Stack the states to (member, channel, *space), chunked along space only."""
    import dask.array  # which loads scipy

    time, *space = grid.core_dims
    parts = []
    for v in grid.layout.variables:
        da = grid.orient(ds[grid.names[v.name]].isel({time: 0}))
        da = da.expand_dims("_channel") if v.channel_dim is None else da.rename({v.channel_dim: "_channel"})
        parts.append(dask.array.asarray(da.transpose("member", "_channel", *space).data).astype(float))
    return dask.array.concatenate(parts, axis=1).rechunk({0: -1, 1: -1})
