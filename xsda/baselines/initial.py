"""Where an ensemble starts from."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from xsda.baselines.method import Method
from xsda.baselines.model import Forecast
from xsda.labels.axes import axis_numbers, check_calendar
from xsda.labels.cf import check_units
from xsda.labels.grid import Grid
from xsda.labels.layout import SAMPLE_DIMS, sample_dim


def initial_ensemble(
    initial: Any, members: int | None, grid: Grid, forecast: Forecast, seed: int, method: Method
) -> tuple[Tensor, float, dict[str, float]]:
    """The states (member, channel, *space), when they are valid, and the numbers that the method noted with them.

    ``initial``: an ensemble, many states to draw from, or None for the climate of one of our systems.
    """
    time = grid.core_dims[0]
    start, least = float(grid.numbers(time)[0]), method.least
    noted: dict[str, float] = {}
    if initial is None:
        return forecast.climate(_count(members, least), seed), start, noted
    if isinstance(initial, xr.Dataset):
        ds = _single(initial, grid)
        if time in ds.dims:
            ds = _drawn(ds, time, _count(members, least), seed)
        else:
            check_size(ds.sizes["member"], members, least)
            start, noted = _start(ds, grid), _noted(ds, method)
    else:
        raise TypeError(
            f"initial must be a Dataset, got {type(initial).__name__}; to start from a prior, draw an ensemble from "
            f"it: initial=ds.isel({time}=[0]).sda.sample(prior, members=20)"
        )
    ds = ds.drop_vars(time, errors="ignore").expand_dims(time)
    x = torch.as_tensor(grid.stack(ds.transpose("member", time, ...))[:, 0])
    if not bool(torch.isfinite(x).all()):
        raise ValueError("the initial ensemble holds NaN or infinite values")
    return x, start, noted


def _single(initial: xr.Dataset, grid: Grid) -> xr.Dataset:
    """The variables of the grid, over member or time, checked; of a filter's result the analysis."""
    time = grid.core_dims[0]
    if "stage" in initial.dims and "analysis" in initial.get_index("stage"):
        initial = initial.sel(stage="analysis", drop=True)
    if initial.sizes.get(time) == 1 and "member" in initial.dims:
        initial = initial.isel({time: 0})
    missing = [n for n in grid.names.values() if n not in initial]
    if missing:
        raise KeyError(f"the initial ensemble lacks the variable {missing[0]!r}; it has {list(initial.data_vars)}")
    if time not in initial.dims and "member" not in initial.dims:
        raise ValueError(
            f"initial has the dimensions {tuple(initial.dims)}; expected an ensemble over 'member', or states over "
            f"{time!r} to draw it from"
        )
    _check_place(initial, grid)
    return initial


def _start(ds: xr.Dataset, grid: Grid) -> float:
    """When an ensemble is valid, in the numbers of the grid; the first time if it does not say."""
    time = grid.core_dims[0]
    if time not in ds.coords:
        return float(grid.numbers(time)[0])
    check_calendar(ds[time], grid.origin is not None, "the grid's time axis")
    return float(axis_numbers(ds[time].expand_dims("_"), grid.origin)[0])


def _noted(ds: xr.Dataset, method: Method) -> dict[str, float]:
    """What an earlier run of the same kind told of its last time, if it did."""
    found = {name: float(ds[name]) for name in method.remembers if name in ds.coords and ds[name].ndim == 0}
    return found if len(found) == len(method.remembers) and np.isfinite([*found.values()]).all() else {}


def _drawn(ds: xr.Dataset, time: str, members: int, seed: int) -> xr.Dataset:
    """Random states of a long run."""
    sample = sample_dim(ds)
    dims = [time] if sample is None else [sample, time]
    flat = ds.stack(_state=dims)
    count = flat.sizes["_state"]
    if count < members:
        raise ValueError(f"initial holds {count} states, too few to draw {members} members from")
    pick = np.random.default_rng([seed, 1]).choice(count, members, replace=False)
    flat = flat.isel(_state=np.sort(pick)).reset_index("_state", drop=True).drop_vars(dims, errors="ignore")
    return flat.rename(_state="member").transpose("member", ...)


def _check_place(ds: xr.Dataset, grid: Grid) -> None:
    """Raise unless states lie where those of the grid do."""
    time, *space = grid.core_dims
    template, inner = grid.template, [*space, *(v.channel_dim for v in grid.layout.variables if v.channel_dim)]
    for name in grid.names.values():
        strange = [d for d in ds[name].dims if d not in {time, *inner, *SAMPLE_DIMS}]
        if strange:
            raise ValueError(
                f"the initial ensemble has the dimension {strange[0]!r}, which the grid lacks; use "
                f".isel({strange[0]}=...)"
            )
    for name in grid.names.values():
        check_units(name, ds[name].attrs.get("units"), template[name].attrs.get("units"), "the grid")
    for d in inner:
        if d not in ds.dims or ds.sizes[d] != template.sizes[d]:
            raise ValueError(
                f"the initial ensemble has the sizes {dict(ds.sizes)}; along {d!r} the grid has {template.sizes[d]}"
            )
        if d in ds.coords and d in template.coords and not _same(ds[d].values, template[d].values):
            raise ValueError(
                f"the initial ensemble lies on other coordinates along {d!r} than the grid; use .interp first"
            )


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    if a.dtype.kind in "iuf" and b.dtype.kind in "iuf":
        return bool(np.allclose(a, b))
    return bool(np.array_equal(a, b))


def check_size(own: int, members: int | None, least: int) -> None:
    if members is not None and members != own:
        raise ValueError(f"members={members}, but the initial ensemble has {own}; leave members out")
    if own < least:
        raise ValueError(f"the initial ensemble has {own} members; the method takes at least {least}")


def _count(members: int | None, least: int) -> int:
    members = 20 if members is None else members
    if isinstance(members, bool) or not isinstance(members, int | np.integer) or members < least:
        raise ValueError(f"members={members!r} must be an integer of at least {least}")
    return int(members)
