r"""3D-Var and 4D-Var.

The covariance of the background is a share of the climate's, :math:`B = s\,C = L' L`. L holds the anomalies of the
climatology, divided by :math:`\sqrt{n - 1}`, where there are fewer of them than numbers in a state, and a matrix square
root otherwise. With states x = background + w L and the scaled observations g(w) that they predict, the minimum of

.. math:: J(w) = |w|^2 + |R^{-1/2} y - g(w)|^2

is found by Gauss-Newton (Courtier et al. 1994). In the weak-constraint form (Tremolet 2006) w also holds the model
errors of the window.

Each member is a minimisation of its own, with its own background and perturbed observations (and model errors): an
ensemble of data assimilations. Its members differ from each other as the analysis differs from the truth, whatever B is
(Zagar et al. 2005), if the initial ensemble, R and the model error are right.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
import xarray as xr
from torch import Tensor

from xsda.arguments import choose
from xsda.baselines.cycle import Cycle
from xsda.baselines.ienks import SlidingWindow, Window, carried, check_count, check_tolerance
from xsda.baselines.method import Event, Filter, split
from xsda.baselines.minimise import minimise, solve
from xsda.baselines.network import Batch
from xsda.baselines.simple import centred, climate
from xsda.labels.grid import Grid


@dataclass(frozen=True, kw_only=True, eq=False)
class ThreeDVar(Filter):
    """3D-Var: each analysis combines the forecast with the observations of its time, by the errors of a climatology.

    A single member is run without noise and perturbations.

    Parameters
    ----------
    climatology
        A long run: states over time, and over "member" or "trajectory" if there are several. Chance correlations of a
        short one are not tapered.
    scale
        The background's error covariance in units of the climate's.
    iterations, tolerance
        For observations of derived quantities: Gauss-Newton stops after this many iterations, or when the analysis
        moves by less than ``tolerance`` standard deviations of the background (root mean square).
    """

    climatology: xr.Dataset = field(repr=False)
    scale: float = 0.1
    iterations: int = 10
    tolerance: float = 1e-2

    least = 1

    def __post_init__(self) -> None:
        _check_options(self.scale, self.iterations, self.tolerance)

    def resume(self, cycle: Cycle, x: Tensor, first: int) -> Iterator[Event]:
        root = square_root(self.climatology, cycle.grid, self.scale)
        for k in range(first, len(cycle)):
            x = cycle.advance(x, k) if len(x) > 1 else carried(cycle, x, k)
            cycle.check_finite(x, k, "forecast")
            yield "forecast", k, x
            batch = cycle.batch(k)
            if batch is not None:
                x = self._analysis(cycle, k, x, batch, root)
                cycle.check_finite(x, k, "analysis")
            yield "analysis", k, x

    def update(self, cycle: Cycle, k: int, x: Tensor, batch: Batch) -> Tensor:
        return self._analysis(cycle, k, x, batch, square_root(self.climatology, cycle.grid, self.scale))

    def _analysis(self, cycle: Cycle, k: int, x: Tensor, batch: Batch, root: Tensor) -> Tensor:
        target = _target(cycle, k, len(x), batch)
        if batch.geometry.linear:
            s = batch.scaled(batch.geometry.observe(root.reshape(-1, *x.shape[1:])))
            w = solve(s.T, target - batch.scaled(batch.geometry.observe(x)))
            return x + (w @ root).reshape(x.shape)

        def states(w: Tensor) -> Tensor:
            return _repeated(x, w) + (w @ root).reshape(-1, *x.shape[1:])

        def predicted(w: Tensor) -> Tensor:
            return batch.scaled(batch.geometry.observe(states(w)))

        w = x.new_zeros(len(x), len(root))
        w, number = minimise(predicted, w, target, self.iterations, self.tolerance, x[0].numel())
        cycle.note(k, "iterations", number)
        return states(w)


@dataclass(frozen=True, kw_only=True, eq=False)
class FourDVar(SlidingWindow):
    """4D-Var: the run of the model that fits best, in a window that slides along (Courtier et al. 1994).

    Each observation is assimilated once, and the first ``lag`` of them together. At the start of a window the
    background is the analysis of the window before; its covariance, and that of the model errors, stay the same. The
    stage "smoothed" is the estimate of a time when it leaves the window. The noise of the system is left out. The
    forecast must be differentiable.

    Parameters
    ----------
    climatology
        A long run: states over time, and over "member" or "trajectory" if there are several. Chance correlations of a
        short one are not tapered.
    scale
        The background's error covariance in units of the climate's. Use less for longer windows.
    lag
        Length of the window, in observation times.
    iterations, tolerance
        Gauss-Newton stops after this many iterations, or when the controls move by less than ``tolerance`` (root mean
        square). Controls are the states at the start, in standard deviations of the background, and the model errors in
        theirs.
    model_error
        Standard deviation of the model error between two observation times: a number, or a mapping by variable. This is
        the weak-constraint form. Default: the model has no error.
    """

    climatology: xr.Dataset = field(repr=False)
    scale: float = 0.1
    iterations: int = 10
    tolerance: float = 1e-2
    model_error: float | Mapping[str, float] | None = None

    least = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_options(self.scale, self.iterations, self.tolerance)
        if self.model_error is not None and self.lag == 0:
            raise ValueError("model_error needs a window: with lag=0 no forecast is in it; use lag=1 or more")

    def check(self, cycle: Cycle) -> None:
        if self.lag and not cycle.forecast.differentiable:
            raise TypeError(
                "4D-Var differentiates the forecast, and a step on Datasets cannot be; pass one of xsda.systems, or a "
                "function of torch tensors: xsda.baselines.Forecast(step, tensors=True)"
            )
        self._model_error(cycle.grid)

    def extend(self, cycle: Cycle, window: Window, k: int) -> None:
        kept = window.kept
        if "root" not in kept:
            kept["root"] = square_root(self.climatology, cycle.grid, self.scale)
        if self.model_error is None or (k == 0 and float(cycle.times[0]) == cycle.start):
            return
        kept.setdefault("std", self._model_error(cycle.grid))
        noise = centred(cycle, k, "model error", len(window.x), len(kept["std"])) * kept["std"]
        window.errors[k] = window.background[1][k] = noise.reshape(window.x.shape)

    def assimilate(self, cycle: Cycle, window: Window, k: int, ahead: Tensor) -> Tensor:
        target = torch.cat([_target(cycle, i, len(ahead), b) for i, b in window.fresh.items()], 1)
        count = ahead[0].numel()
        control = ahead.new_zeros(len(ahead), len(window.kept["root"]) + len(window.errors) * count)
        if window.control is not None:
            control[:, : window.control.shape[1]] = window.control
        predicted = partial(self._predicted, cycle, window, k)
        window.control, number = minimise(predicted, control, target, self.iterations, self.tolerance, count)
        cycle.note(k, "iterations", number)
        window.x, window.errors = self._states(window, window.control)
        return window.last(cycle, k)

    def _states(self, window: Window, w: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        """States at the start and model errors of controls (member, control)."""
        x, errors = window.background
        root, count = window.kept["root"], x[0].numel()
        first, *rest = w.split([len(root), *[count] * len(errors)], 1)
        add = {k: (v * window.kept["std"]).reshape(-1, *x.shape[1:]) for k, v in zip(errors, rest, strict=True)}
        start = _repeated(x, w) + (first @ root).reshape(-1, *x.shape[1:])
        return start, {k: _repeated(errors[k], w) + v for k, v in add.items()}

    def _predicted(self, cycle: Cycle, window: Window, k: int, w: Tensor) -> Tensor:
        """What controls predict of the observations of the window, scaled, (member, M)."""
        trial, fresh = Window(window.start, *self._states(window, w)), window.fresh
        states = trial.states(cycle, k, checked=False)
        return torch.cat([fresh[i].scaled(fresh[i].geometry.observe(x)) for i, x in states if i in fresh], 1)

    def _model_error(self, grid: Grid) -> Tensor:
        """Its standard deviation of every number of a state."""
        shape = (grid.layout.channels, *grid.shape[2:])
        std, given = torch.ones(shape, dtype=torch.float64), self.model_error
        for name, channels in grid.layout.slices().items():
            if isinstance(given, Mapping) and grid.names[name] not in given:
                raise KeyError(f"model_error lacks the variable {grid.names[name]!r}; it has {list(given)}")
            value = given[grid.names[name]] if isinstance(given, Mapping) else 1.0 if given is None else given
            if not 0 < value < math.inf:
                raise ValueError(f"model_error={value!r} must be positive: it is a standard deviation")
            std[channels] = value
        if isinstance(given, Mapping) and (unknown := [v for v in given if v not in grid.names.values()]):
            raise KeyError(f"model_error names {unknown[0]!r}; {choose(unknown[0], grid.names.values())}")
        return std.flatten()


def square_root(climatology: xr.Dataset, grid: Grid, scale: float) -> Tensor:
    """L (control, numbers of a state), so that L' L is ``scale`` times the covariance of a climatology."""
    anomalies = split(climate(climatology, grid))[1]
    anomalies *= (scale / (len(anomalies) - 1)) ** 0.5
    if len(anomalies) <= anomalies.shape[1]:
        return anomalies
    values, vectors = torch.linalg.eigh(anomalies.T @ anomalies)
    found = values > 1e-12 * values[-1]
    return torch.sqrt(values[found])[:, None] * vectors[:, found].T


def _target(cycle: Cycle, k: int, members: int, batch: Batch) -> Tensor:
    """The scaled observations of a time, perturbed for each member, (member, M)."""
    return batch.scaled(batch.y) + centred(cycle, k, "perturbations", members, len(batch.y))


def _repeated(x: Tensor, w: Tensor) -> Tensor:
    """``x`` (member, ...) as often as ``w`` (copies * member, control) holds it."""
    return x.repeat(len(w) // len(x), *[1] * (x.dim() - 1))


def _check_options(scale: float, iterations: int, tolerance: float) -> None:
    if not 0 < scale < math.inf:
        raise ValueError(f"scale={scale!r} must be positive: the background's covariance in units of the climate's")
    check_count("iterations", iterations, 1)
    check_tolerance(tolerance)
