"""One analysis of a labelled ensemble, for those who cycle themselves; lazily where the ensemble is lazy."""

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
) -> xr.Dataset:
    """The analysis ensemble of one time.

    ``forecast``: an ensemble over ``member`` and space, with its time as a scalar coordinate or a dimension of one. The
    observations are of that time. With dask-backed variables and ``LETKF`` the result is lazy, and chunks of grid
    points are analysed each by itself: only the observed ensemble is computed at once.
    """
    if "member" not in forecast.dims:
        raise ValueError(f"the forecast has no dimension 'member'; it has {tuple(forecast.sizes)}")
    forecast = forecast[[v for v in forecast.data_vars if "member" in forecast[v].dims]]  # no static fields
    times = [c for c in forecast.coords if c == "time" or forecast[c].attrs.get("axis") == "T"] or ["time"]
    time = find_axes(forecast)[0] if any(t in forecast.dims for t in times) else str(times[0])
    scalar = time not in forecast.dims
    if scalar and time not in forecast.coords:
        raise ValueError(
            f"the forecast does not say its {time!r}; use .assign_coords({time}=...), the time of the observations"
        )
    ds = forecast.expand_dims(time) if scalar else forecast
    if ds.sizes[time] != 1:
        raise ValueError(
            f"the forecast has {ds.sizes[time]} times, expected one; use ds.sda.filter to go through several"
        )
    if isinstance(method, LETKF) and any(v.chunks is not None for v in ds.data_vars.values()):
        out = _lazily(
            ds,
            Network.of(state_grid(ds, Forecast(as_it_is)), obs, sigma=sigma, derived=derived, correlation=correlation),
            obs,
            method,
            derived,
            seed,
        )
    else:
        out = filter(
            ds.isel(member=0, drop=True), obs, Forecast(as_it_is), method=method, sigma=sigma,
            initial=ds.isel({time: 0}),
            correlation=correlation, derived=derived, seed=seed, progress=False,
        )  # fmt: skip
    return out.isel({time: 0}) if scalar else out


def as_it_is(ds: xr.Dataset, start: Any, stop: Any) -> xr.Dataset:
    """No forecast."""
    return ds


def _lazily(ds: xr.Dataset, network: Network, obs: Sources, method: LETKF, derived: Any, seed: int) -> xr.Dataset:
    inflation, members = as_inflation(method.inflation), ds.sizes["member"]
    if inflation.remembers:
        raise ValueError(
            f"{type(inflation).__name__} remembers earlier times; use it in ds.sda.filter, or a factor, RTPS or RTPP "
            "here"
        )
    check_size(members, None, method.least)
    grid, batch = network.grid, network(0)
    assert batch is not None
    check_independent(batch)
    seen = network.ordered(0, _observed(ds[list(grid.names.values())], obs, derived))
    if not bool(torch.isfinite(seen).all()):
        raise ValueError("the forecast holds NaN or infinite values where it is observed")
    mean = seen.mean(0, keepdim=True)
    s, d = batch.scaled(seen - mean), batch.scaled(batch.y - mean)
    label = Forecast(as_it_is).bind(grid).label(float(network.numbers[0]))
    metric, position = Metric(grid, method.localization), batch.geometry.position

    def analysis(x: np.ndarray, block_info: Any = None) -> np.ndarray:
        spans = [slice(*place) for place in block_info[0]["array-location"][2:]]
        prior = torch.as_tensor(np.ascontiguousarray(x, dtype=np.float64))  # torch takes no reversed axes
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
    """H of the ensemble, by source; computed together."""
    lazy = {k: observe(ds.astype(float), source, derived=derived) for k, source in as_sources(obs).items()}
    return dask.compute(lazy)[0]


def _array(ds: xr.Dataset, grid: Grid) -> Any:
    """The states (member, channel, *space), in chunks along space alone."""
    import dask.array  # which loads scipy

    time, *space = grid.core_dims
    parts = []
    for v in grid.layout.variables:
        da = grid.orient(ds[grid.names[v.name]].isel({time: 0}))
        da = da.expand_dims("_channel") if v.channel_dim is None else da.rename({v.channel_dim: "_channel"})
        parts.append(dask.array.asarray(da.transpose("member", "_channel", *space).data).astype(float))
    return dask.array.concatenate(parts, axis=1).rechunk({0: -1, 1: -1})
