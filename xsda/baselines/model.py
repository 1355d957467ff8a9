"""What carries states from one time to another: one of our systems, or any function.

Inside the baselines a state ensemble is a tensor (member, channel, *space) in double precision and physical units.
"""

from __future__ import annotations

import copy
import datetime
import inspect
import math
import numbers
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor

from xsda.labels.axes import axis_text
from xsda.labels.grid import Grid
from xsda.systems import DiscreteODE, MarkovChain


class ForecastError(RuntimeError):
    """A forecast that cannot be used; ``partial`` holds what was computed before, labelled, if there was anything."""

    partial: xr.Dataset | None = None


class Forecast:
    """A forecast model.

    Parameters
    ----------
    step
        One of ``xsda.systems``; or a function ``step(ds, start, stop)`` that takes a Dataset with the
        dimensions ``(member, *space)`` valid at ``start`` to ``stop`` (both as on the time axis of the grid), and returns the
        same at that time.
    dt
        Length of one step on the time axis, a number or such as "6h"; then ``step(ds)`` is called as often as it takes. A
        system's own ``dt`` is the default; pass it if the time axis holds dates.
    tensors
        Whether ``step`` takes tensors ``(member, channel, *space)`` in physical units, ascending axes, channels in the order of
        the variables: a PyTorch emulator, or anything that 4D-Var is to differentiate.
    """

    def __init__(self, step: MarkovChain | Callable[..., Any], *, dt: Any = None, tensors: bool = False):
        if isinstance(step, type):
            raise TypeError(f"system is the class {step.__name__}; pass an object of it: {step.__name__}()")
        if not callable(step) and not isinstance(step, MarkovChain):
            raise TypeError(
                f"a system must be one of xsda.systems or a function step(ds, start, stop), got {type(step).__name__}"
            )
        if isinstance(step, torch.nn.Module) and not tensors:
            raise TypeError(
                f"{type(step).__name__} is a network and takes tensors; use xsda.baselines.Forecast(network, dt='6h', tensors=True), "
                "dt being the length of its step"
            )
        _check_call(step, dt is not None)
        self.step: Any = step
        self.tensors = tensors or isinstance(step, MarkovChain)
        self.dt = None if dt is None else _length(dt)
        self.dates = dt is not None and not _is_number(dt)

    @property
    def variables(self) -> tuple[str, ...] | None:
        """The variables of the state, in their order, where the model says so."""
        return self.step.variables if isinstance(self.step, MarkovChain) else None

    def bind(self, grid: Grid) -> BoundForecast:
        """The forecast on the axes of a grid."""
        dates = grid.origin is not None
        dt = self.dt
        if isinstance(self.step, MarkovChain):
            _check_state(self.step, grid)
            if dt is None and dates:
                raise ValueError(
                    f"the time axis holds dates, and {type(self.step).__name__} counts time in its own unit; say how long "
                    "one of its steps lasts: xsda.baselines.Forecast(system, dt='6h')"
                )
            dt = self.step.dt if dt is None else dt
        if dt is not None and self.dt is not None and self.dates != dates:
            kinds = ("plain numbers", "dates")
            raise ValueError(f"dt is {'a duration' if self.dates else 'a number'}, the time axis holds {kinds[dates]}")
        return BoundForecast(self, grid, dt)


class BoundForecast:
    """A forecast model on a grid; checks what comes back."""

    def __init__(self, forecast: Forecast, grid: Grid, dt: float | None):
        self.forecast, self.grid, self.dt = forecast, grid, dt
        self.time, self.origin = grid.core_dims[0], grid.origin
        self.template = grid.template.isel({self.time: 0}, drop=True)

    @property
    def differentiable(self) -> bool:
        return self.forecast.tensors

    def __call__(self, x: Tensor, start: float, stop: float, generator: torch.Generator | None = None) -> Tensor:
        """States ``x`` (member, channel, *space) carried from ``start`` to ``stop``, both in the numbers of the grid.

        Without a ``generator`` the system's transition noise is left out.
        """
        step = self.forecast.step
        if isinstance(step, MarkovChain):
            assert self.dt is not None
            whole, rest = _steps(stop - start, self.dt)
            systems = [step] * whole + ([_part(step, rest / self.dt)] if rest else [])
            for system in systems:
                x = system.step(x) if generator is None else system.transition(x, generator)
            return x
        if self.dt is not None:
            whole, rest = _steps(stop - start, self.dt)
            if rest:
                raise self._off_step(start, stop)
            for _ in range(whole):
                x = self._called(x, start, start + self.dt, ())
                start += self.dt
            return x
        return self._called(x, start, stop, (self.label(start), self.label(stop)))

    def _called(self, x: Tensor, start: float, stop: float, times: tuple[Any, ...]) -> Tensor:
        """One call of the user's function, in its terms."""
        try:
            return self._stepped(x, start, times)
        except Exception as error:
            if not isinstance(error, ForecastError):
                error.add_note(f"This happened in the forecast step from {self.text(start)}.")
            raise

    def _stepped(self, x: Tensor, start: float, times: tuple[Any, ...]) -> Tensor:
        if self.forecast.tensors:
            new = self.forecast.step(_for_module(x, self.forecast.step), *times)
            if not isinstance(new, Tensor) or new.shape != x.shape:
                came = tuple(new.shape) if isinstance(new, Tensor) else type(new).__name__
                raise ForecastError(
                    f"the forecast step must return a tensor of the shape {tuple(x.shape)} it got, not {came}"
                )
            if x.requires_grad and torch.is_grad_enabled() and not new.requires_grad:
                raise ForecastError(
                    "the forecast step returned a tensor that does not depend on the one it got, as far as PyTorch can tell, and "
                    "4D-Var differentiates it; leave out .detach(), .numpy() and torch.no_grad"
                )
            return new.to(x)
        ds = self.labelled(x).assign_coords({self.time: self.label(start)})
        new = self.forecast.step(ds, *times)
        self._check(new, ds)
        return self.tensor(new.transpose("member", ...))

    def labelled(self, x: Tensor) -> xr.Dataset:
        """States (member, channel, *space) as a Dataset without time."""
        member = xr.DataArray(np.arange(len(x)), dims="member", attrs={"standard_name": "realization", "units": "1"})
        at = Grid(self.grid.layout, self.grid.template.isel({self.time: [0]}), self.grid.dims, self.grid.names)
        return at.to_dataset(x.detach().cpu().numpy()[:, None], {"member": member}).isel({self.time: 0}, drop=True)

    def tensor(self, ds: xr.Dataset) -> Tensor:
        """The inverse of ``labelled``."""
        return torch.as_tensor(self.grid.stack(ds.expand_dims(self.time))).movedim(-2 - len(self.grid.layout.space), 0)[
            0
        ]

    def label(self, number: float) -> Any:
        """A time as the user writes it."""
        if self.origin is None:
            return number
        if isinstance(self.origin, np.datetime64):
            return self.origin + np.timedelta64(round(number * 1e9), "ns")
        return self.origin + datetime.timedelta(seconds=number)

    def text(self, number: float) -> str:
        return axis_text(number, self.origin)

    def _off_step(self, start: float, stop: float) -> ValueError:
        unit = "" if self.origin is None else " s"
        return ValueError(
            f"the forecast from {self.text(start)} to {self.text(stop)} is not a whole number of steps of {self.dt:g}{unit}; put "
            "grid and observations on the steps, use a shorter dt, or a function step(ds, start, stop) without dt"
        )

    def _check(self, new: Any, given: xr.Dataset) -> None:
        """Raise unless a labelled forecast has the variables, sizes and labels of what went in."""
        if not isinstance(new, xr.Dataset):
            raise ForecastError(
                f"the forecast step must return an xarray.Dataset such as the one it got, not {type(new).__name__}; for functions "
                "of tensors use Forecast(step, tensors=True)"
            )
        for name, da in given.data_vars.items():
            if name not in new:
                raise ForecastError(
                    f"the forecast step lost the variable {name!r}; it returned {list(new.data_vars)}, {list(given.data_vars)} were "
                    "expected"
                )
            if dict(new[name].sizes) != dict(da.sizes):
                raise ForecastError(
                    f"the forecast step turned {name!r} of the sizes {dict(da.sizes)} into {dict(new[name].sizes)}; return all "
                    "members, at the new time only, on the same grid"
                )
            for d in da.dims:
                if d in da.coords and d in new[name].coords and not np.array_equal(da[d].values, new[name][d].values):
                    raise ForecastError(
                        f"the forecast step changed the labels along {d!r}; return the grid that came in, in its order"
                    )


def as_forecast(system: Any) -> Forecast:
    return system if isinstance(system, Forecast) else Forecast(system)


def _is_number(dt: Any) -> bool:
    return isinstance(dt, numbers.Real) and not isinstance(dt, np.timedelta64)  # which numpy takes for an integer


def _length(dt: Any) -> float:
    """A duration as a number; in seconds if it says its unit."""
    try:
        value = float(dt) if _is_number(dt) else pd.Timedelta(dt).total_seconds()
    except (TypeError, ValueError) as error:
        raise ValueError(f"dt={dt!r} is neither a number nor a duration such as '6h'") from error
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"dt={dt!r} must be positive: it is the length of one step")
    return value


def _steps(span: float, dt: float) -> tuple[int, float]:
    """Whole steps, and what is left of the span after them."""
    whole = math.floor(span / dt + 1e-4)
    rest = span - whole * dt
    return whole, rest if rest > 1e-4 * dt else 0.0


def _part(system: MarkovChain, share: float) -> MarkovChain:
    """The same system with a step shorter by the factor ``share``."""
    if not isinstance(system, DiscreteODE):
        raise ValueError(
            f"{type(system).__name__} makes whole steps, and {share:.3g} of one is left until the next time; put grid and "
            "observations on its steps"
        )
    part = copy.copy(system)
    part.dt, part.noise = share * system.dt, system.noise * math.sqrt(share)
    return part


def _check_call(step: Any, fixed: bool) -> None:
    """Raise if a function cannot be called as it will be, or is a network whose answers change from call to call."""
    if isinstance(step, MarkovChain):
        return
    if isinstance(step, torch.nn.Module):
        moody = (torch.nn.modules.dropout._DropoutNd, torch.nn.modules.batchnorm._BatchNorm)
        found = next((m for m in step.modules() if m.training and isinstance(m, moody)), None)
        if found is not None:
            raise ValueError(
                f"the network is in training mode and has {type(found).__name__}, so that its forecasts depend on chance or on the "
                "other members; call .eval() first"
            )
        step = step.forward
    try:
        signature = inspect.signature(step)
    except (TypeError, ValueError):  # some built-in functions have none
        return
    expected = ("state",) if fixed else ("state", "start", "stop")
    try:
        signature.bind(*expected)
    except TypeError as error:
        way = (
            "a function of the state alone needs its length: Forecast(step, dt='6h')"
            if not fixed
            else "with dt=... it is called so"
        )
        raise TypeError(f"the system cannot be called as step({', '.join(expected)}): {error}; {way}") from error


def _for_module(x: Tensor, step: Any) -> Tensor:
    """States in the precision, and on the device, of a module's weights."""
    weight = next(step.parameters(), None) if isinstance(step, torch.nn.Module) else None
    return x if weight is None else x.to(weight)


def _check_state(system: MarkovChain, grid: Grid) -> None:
    if system.state_shape != grid.shape[1:]:
        raise ValueError(
            f"{type(system).__name__} has states of the shape (variable, *space) = {system.state_shape}, the grid has "
            f"{grid.shape[1:]}"
        )
    domain = getattr(system, "domain", None)  # of systems to which lengths matter
    if domain is None:
        return
    for dim in grid.core_dims[1:]:
        if dim not in grid.template.coords:
            continue
        length = float(np.median(np.diff(grid.numbers(dim)))) * grid.template.sizes[dim]
        if not math.isclose(length, domain, rel_tol=1e-3):
            raise ValueError(
                f"the grid is {length:.5g} long along {dim!r}, the domain of {type(system).__name__} {domain:.5g}; use "
                f"{type(system).__name__}(domain={length:.5g}), or the system's own coordinates"
            )
