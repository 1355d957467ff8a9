"""Runs a filter or smoother with a forecast model through labelled observations: ``filter``."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from tqdm.auto import tqdm

from xsda.arguments import choose, warn
from xsda.baselines.cycle import Cycle
from xsda.baselines.initial import initial_ensemble
from xsda.baselines.method import STAGES, Method
from xsda.baselines.model import Forecast, as_forecast
from xsda.baselines.network import Network
from xsda.baselines.record import LONG_NAMES, Record
from xsda.labels.axes import find_axes
from xsda.labels.grid import Grid
from xsda.labels.layout import Layout
from xsda.observations.operator import Derived
from xsda.observations.sources import Sources


def filter(
    ds: xr.Dataset,
    obs: Sources,
    system: Any = None,
    *,
    method: Method,
    members: int | None = None,
    sigma: Any = None,
    initial: Any = None,
    keep: str | Sequence[str] | None = None,
    correlation: Mapping[str, Any] | None = None,
    derived: Mapping[str, Derived] | None = None,
    seed: int = 0,
    progress: bool | None = None,
    out: str | Path | None = None,
    every: int = 1000,
    quality: Any = None,
    outside: str = "raise",
    superobs: Any = None,
) -> xr.Dataset:
    """Run a filter, smoother or variational method with a forecast model through the observations.

    Parameters
    ----------
    ds
        The grid: its coordinates define what is estimated, and at which times. Its values are not read.
    obs
        Observations, one Dataset or table or several, at any times within those of ``ds``, or between an earlier
        initial ensemble and ``ds``. The ensemble is forecast to each time. NaN is a missing value.
    system
        One of ``xsda.systems``, a function ``step(ds, start, stop)`` on labelled ensembles, or an
        ``xsda.baselines.Forecast``. Methods without forecasts, such as ``OptimalInterpolation``, need none.
    method
        One of ``xsda.baselines``, such as ``LETKF(localization=4.0, inflation=1.04)``.
    members
        Size of the ensemble. Default: 20, or the size of ``initial``.
    sigma, correlation, derived
        Errors of the observations, and functions for derived variables, as in ``xsda.assimilate``. Errors can be
        correlated within each time only.
    initial
        An ensemble over ``member``, valid at its coordinate ``time`` (default: the first time of ``ds``), or a long
        run over time to draw states from. Default: states from the climate of the system. To continue an earlier run
        exactly, pass ``initial=result.isel(time=-1)`` and later times in ``ds`` and ``obs``.
    keep
        "analysis", "forecast", "smoothed" (for smoothers), "both" (forecast and analysis), or a list of these.
        Several are kept along the dimension ``stage``. Default: the last stage of the method.
    seed
        Seed of all random numbers.
    progress
        Show a progress bar. Default: in a terminal or notebook.
    out
        A folder for the result, so that long runs fit into memory. The result is read lazily from its NetCDF files. An
        interrupted filter continues from the files if it is called again.
    every
        Number of times in each of these files.
    quality, outside, superobs
        Which values are used, and which are averaged, as in ``xsda.assimilate``.

    Returns
    -------
    xarray.Dataset
        The ensemble over (member, time, ...), with the coordinates and attributes of ``ds``.

    Examples
    --------
    >>> method = xsda.baselines.ETKF(inflation=1.02)
    >>> run = xsda.baselines.filter(truth, obs, xsda.systems.Lorenz63(), method=method, members=10, progress=False)
    >>> dict(run.x.sizes)
    {'member': 10, 'time': 16}
    """
    if isinstance(method, type) or not isinstance(method, Method):
        raise _not_a_method(method)
    forecast = as_forecast(_unchanged if system is None else system)
    if system is None:
        if method.forecasts:
            raise TypeError(f"{type(method).__name__} needs a forecast model: filter(obs, system, method=...)")
        initial = method.climatology if initial is None else initial  # type: ignore[attr-defined]
    grid = state_grid(ds, forecast)
    stages = _stages(keep, method)
    x, start, memory = initial_ensemble(initial, members, grid, forecast, seed, method)
    network = Network.of(
        grid, obs, start=start, sigma=sigma, derived=derived, correlation=correlation, quality=quality,
        outside=outside, superobs=superobs,
    )  # fmt: skip
    bound = forecast.bind(grid)
    _check_start(start, bound.text(start), initial, grid, network)
    times = np.union1d(grid.numbers(grid.core_dims[0]), network.numbers)
    cycle = Cycle(grid, bound, network, times, start, seed, memory=memory)
    method.check(cycle)
    kept = ", ".join(stages)
    attrs = {"method": str(method), "system": forecast.name, "members": len(x), "seed": seed, "stages": kept}
    record = Record(cycle, method, stages, attrs, out, every)
    disable = None if progress is None else not progress
    with (
        record.resume(x) as (x, skip),
        tqdm(total=len(times), initial=skip, desc=type(method).__name__, unit="time", disable=disable) as bar,
        torch.no_grad(),
    ):
        try:
            events = method.resume(cycle, x, skip) if skip else method.run(cycle, x)  # type: ignore[attr-defined]
            for stage, k, state in events:
                record.put(stage, k, state)
                if stage == "analysis":
                    bar.update()
        except Exception as error:
            error.partial = record.partial()  # type: ignore[attr-defined]
            raise
    return record.result()


def _unchanged(ds: xr.Dataset, start: Any, stop: Any) -> xr.Dataset:
    """The forecast of methods that need none."""
    return ds


def _check_start(start: float, label: str, initial: Any, grid: Grid, network: Network) -> None:
    """Raise if the initial ensemble is valid too late; warn if it may contain its observations already."""
    if start > grid.numbers(grid.core_dims[0])[0]:
        raise ValueError(
            f"the initial ensemble is valid at {label}, after the first time of the grid; select later times with "
            "ds.sel(time=slice(...)) and obs.sel(time=slice(...))"
        )
    if _is_analysis(initial) and network.numbers[0] <= start:
        warn(
            f"the initial ensemble is an analysis at {label}, and there are observations at that time; if the analysis "
            "already used them, drop them with obs.sel(time=slice(...))"
        )


def _is_analysis(initial: Any) -> bool:
    """Whether an initial ensemble is known to be an analysis: by its stage, or by the provenance of an earlier run."""
    if not isinstance(initial, xr.Dataset):
        return False
    if "stage" in initial.coords:
        return "analysis" in np.atleast_1d(initial.stage)
    return initial.attrs.get("stages") == "analysis"


def state_grid(ds: xr.Dataset, forecast: Forecast) -> Grid:
    """Return the grid with the variables in the order of the model, without the notes of an earlier run."""
    if not isinstance(ds, xr.Dataset):
        raise TypeError(f"the grid must be an xarray.Dataset, got {type(ds).__name__}")
    ds = ds.drop_vars([n for n in ("stage", *LONG_NAMES) if n in ds.coords and n not in ds.dims])
    time, space = find_axes(ds)
    names = list(forecast.variables or [str(v) for v in ds.data_vars if {time, *space} <= set(ds[v].dims)])
    missing = [v for v in names if v not in ds.data_vars]
    if missing:
        raise KeyError(
            f"{forecast.model.title} has the variable {missing[0]!r}, which the grid lacks; "
            f"{choose(missing[0], ds.data_vars)}"
        )
    if not names:
        raise ValueError(
            f"the grid has no variables over {(time, *space)}; expected one for each variable of the state"
        )
    return Grid.match(Layout.of(ds[names], even=False), ds[names])


def _stages(keep: str | Sequence[str] | None, method: Method) -> tuple[str, ...]:
    """Return the stages to keep, in their order."""
    if keep is None:
        return (method.stages[-1],)
    keep = ("forecast", "analysis") if keep == "both" else keep
    named = list(keep) if isinstance(keep, Sequence) and not isinstance(keep, str) else [keep]
    if not named:
        raise ValueError(f"keep names no stage; {choose('', method.stages)}")
    for name in named:
        if name not in method.stages:
            raise ValueError(
                f"keep={name!r}: {type(method).__name__} has the stages {', '.join(method.stages)}; "
                f"{choose(str(name), [*method.stages, 'both'])}"
            )
    return tuple(s for s in STAGES if s in named)


def _not_a_method(method: Any) -> Exception:
    """Describe what came instead of a method."""
    names = sorted(c.__name__ for c in _kinds(Method) if not inspect.isabstract(c) and not c.__name__.startswith("_"))
    if isinstance(method, type) and issubclass(method, Method):
        return TypeError(f"method is the class {method.__name__}; pass an object of it: {method.__name__}(...)")
    if isinstance(method, str):
        same = next((n for n in names if n.lower() == method.lower()), None)
        hint = f"write xsda.baselines.{same}(...)" if same else choose(method, names)
        return ValueError(f"unknown method {method!r}; {hint}")
    return TypeError(f"method must be one of xsda.baselines ({', '.join(names)}), got {type(method).__name__}")


def _kinds(cls: type[Any]) -> set[type[Any]]:
    """All classes of this package that derive from ``cls``."""
    found: set[type[Any]] = set()
    for sub in cls.__subclasses__():
        found |= {sub, *_kinds(sub)}
    return {c for c in found if c.__module__.startswith("xsda.")}
