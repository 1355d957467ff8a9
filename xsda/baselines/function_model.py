"""Any function as a forecast model: on labelled ensembles, or on tensors."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from xsda.baselines.bound import BoundForecast, ForecastError, whole_steps
from xsda.baselines.labelled import Labeller
from xsda.labels.grid import Grid


class FunctionModel:
    """Adapter of a function ``step(state, start, stop)``, or ``step(state)`` of a fixed length.

    ``tensors``: whether it takes tensors rather than Datasets; ``fixed``: whether its length is given.
    """

    variables: tuple[str, ...] | None = None  # those of the grid

    def __init__(self, step: Callable[..., Any], *, tensors: bool, fixed: bool):
        if isinstance(step, torch.nn.Module) and not tensors:
            raise TypeError(
                f"{type(step).__name__} is a network and takes tensors; use xsda.baselines.Forecast(network, dt='6h', "
                "tensors=True), dt being the length of its step"
            )
        _check_call(step, fixed)
        self.step, self.tensors = step, tensors
        self.name = self.title = getattr(step, "__name__", type(step).__name__)

    def climate(self, members: int, seed: int) -> Tensor:
        """A function has no climate."""
        raise ValueError(
            "initial=... is needed: an ensemble over 'member', or a long run over time to draw states from"
        )

    def bind(self, grid: Grid, dt: float | None) -> BoundForecast:
        """The forecast on a grid; ``dt``: the length of a step on its time axis, if that is fixed."""
        kind = BoundTensorFunction if self.tensors else BoundLabelledFunction
        return kind(self.step, self.name, grid, dt)


class BoundFunction(BoundForecast):
    """A user's function on a grid; what comes back is checked."""

    def __init__(self, step: Callable[..., Any], name: str, grid: Grid, dt: float | None):
        super().__init__(grid)
        self.step, self.name, self.dt = step, name, dt

    def __call__(self, x: Tensor, start: float, stop: float, generator: torch.Generator | None = None) -> Tensor:
        if self.dt is None:
            return self._called(x, start, (self.label(start), self.label(stop)))
        whole, rest = whole_steps(stop - start, self.dt)
        if rest:
            unit = "" if self.origin is None else " s"
            raise ValueError(
                f"the forecast from {self.text(start)} to {self.text(stop)} is not a whole number of steps of "
                f"{self.dt:g}{unit}; put grid and observations on the steps, use a shorter dt, or a function step(ds, "
                "start, stop) without dt"
            )
        for _ in range(whole):
            x = self._called(x, start, ())
            start += self.dt
        return x

    def _called(self, x: Tensor, start: float, times: tuple[Any, ...]) -> Tensor:
        """One call; its errors say when it was."""
        try:
            return self._stepped(x, start, times)
        except ForecastError as error:
            error.time = self.label(start)
            raise
        except Exception as error:
            error.add_note(f"This happened in the forecast step from {self.text(start)}.")
            raise

    @abstractmethod
    def _stepped(self, x: Tensor, start: float, times: tuple[Any, ...]) -> Tensor:
        """One call of the function, in its terms."""


class BoundTensorFunction(BoundFunction):
    """A function of tensors (member, channel, *space)."""

    def _stepped(self, x: Tensor, start: float, times: tuple[Any, ...]) -> Tensor:
        new = self.step(_for_module(x, self.step), *times)
        if not isinstance(new, Tensor) or new.shape != x.shape:
            came = tuple(new.shape) if isinstance(new, Tensor) else type(new).__name__
            raise ForecastError(
                f"the forecast step must return a tensor of the shape {tuple(x.shape)} it got, not {came}"
            )
        if x.requires_grad and torch.is_grad_enabled() and not new.requires_grad:
            raise ForecastError(
                "4D-Var differentiates the forecast step, and PyTorch finds no gradient in the tensor that it "
                "returned; leave out .detach(), .numpy() and torch.no_grad"
            )
        return new.to(x)


class BoundLabelledFunction(BoundFunction):
    """A function of labelled ensembles."""

    differentiable = False

    def __init__(self, step: Callable[..., Any], name: str, grid: Grid, dt: float | None):
        super().__init__(step, name, grid, dt)
        self.labeller = Labeller(grid)

    def _stepped(self, x: Tensor, start: float, times: tuple[Any, ...]) -> Tensor:
        new = self.step(self.labeller.dataset(x, self.label(start)), *times)
        self.labeller.check(new)
        return self.labeller.tensor(new)


def _check_call(step: Any, fixed: bool) -> None:
    """Raise if a function cannot be called as it will be, or is a network whose answers change from call to call."""
    if isinstance(step, torch.nn.Module):
        moody = (torch.nn.modules.dropout._DropoutNd, torch.nn.modules.batchnorm._BatchNorm)
        found = next((m for m in step.modules() if m.training and isinstance(m, moody)), None)
        if found is not None:
            raise ValueError(
                f"the network is in training mode and has {type(found).__name__}, so that its forecasts depend on "
                "chance or on the other members; call .eval() first"
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
            "with dt=... it is called so"
            if fixed
            else "a function of the state alone needs its length: Forecast(step, dt='6h')"
        )
        raise TypeError(f"the system cannot be called as step({', '.join(expected)}): {error}; {way}") from error


def _for_module(x: Tensor, step: Any) -> Tensor:
    """States in the precision, and on the device, of a module's weights."""
    weight = next(step.parameters(), None) if isinstance(step, torch.nn.Module) else None
    return x if weight is None else x.to(weight)
