"""From labelled observations of all instruments, and a background, to one likelihood."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr

from xsda.arguments import choose, what
from xsda.labels.grid import Grid
from xsda.likelihood.laws import LAWS, Censored, ErrorLaw, Normal
from xsda.likelihood.likelihood import Group, Likelihood
from xsda.likelihood.whitening import Whitener, Whitening
from xsda.observations.compile import Sources, as_sources, compile_variable, observed_variables
from xsda.observations.correlation import whitener
from xsda.observations.errors import check_positive, error_std
from xsda.observations.footprints import Footprints
from xsda.observations.operator import Derived, ObservationOperator, VariableOperator, check_differentiable


def compile_observations(
    grid: Grid,
    obs: Sources,
    sigma: Any = None,
    derived: Mapping[str, Derived] | None = None,
    *,
    likelihood: Any = None,
    correlation: Mapping[str, Any] | None = None,
    background: xr.Dataset | None = None,
    background_sigma: Any = None,
) -> Likelihood:
    """The likelihood of one or several observation Datasets, and of a background if there is one."""
    sources = as_sources(obs)
    chosen, correlated = (
        _by_variable(likelihood, sources, "likelihood"),
        _by_variable(correlation, sources, "correlation"),
    )
    parts = []
    for source, ds in sources.items():
        if not observed_variables(ds):
            raise ValueError(f"{source} holds no variables")
        for name in observed_variables(ds):
            std = error_std(ds, name, sigma, source, sources)
            law, own = pick_law(chosen.get((source, name))), correlated.get((source, name))
            parts.append(_observed(grid, ds, name, std, derived, law, own))
    if sum(len(p.y) for p in parts) == 0 and background is None:
        raise ValueError(
            "all observations are missing (NaN); there is nothing to assimilate. For prior samples use model.sample"
        )
    if background is not None:
        parts += _background(grid, background, background_sigma)
    elif background_sigma is not None:
        raise ValueError("background_sigma was given without background=...; pass the Dataset that it is the error of")
    return _join(grid, parts)


@dataclass(frozen=True, eq=False)
class Observed:
    """One observed variable, scaled."""

    operator: VariableOperator
    pick: np.ndarray
    y: np.ndarray
    std: np.ndarray
    law: ErrorLaw
    whitener: Whitener | None


def _observed(
    grid: Grid, ds: xr.Dataset, name: str, std: np.ndarray, derived: Mapping[str, Derived] | None, law: ErrorLaw,
    correlation: Any,
) -> Observed:  # fmt: skip
    op = compile_variable(grid, ds, name, derived)
    if op.derived is not None:
        check_differentiable(op, grid)
    values = np.asarray(ds[name].values, dtype=np.float64).ravel()
    if np.isinf(values).any():
        raise ValueError(f"observed variable {name!r} holds infinite values; mark missing values as NaN")
    pick = np.flatnonzero(~np.isnan(values))
    values, std = values[pick], std.ravel()[pick]
    check_positive(std, name)
    if correlation is not None and not isinstance(law, Normal):
        raise ValueError(f"{name!r} has correlated errors and the law {law}; correlated errors must be Gaussian")
    mean, scale = _scaling(grid, op, ds[name])
    white = None if correlation is None else whitener(ds[name], pick, correlation)
    y = (law.limited(values) - mean[pick]) / scale[pick]
    bound = law.bind(values)
    if isinstance(bound, Censored) and bound.side is not None and len(values) and bool((bound.side != 0).all()):
        warnings.warn(
            f"all {len(values)} values of {name!r} (from {values.min():g} to {values.max():g}) are at or beyond the limits of {law}: is it "
            "in the units of the variable?",
            RuntimeWarning,
            stacklevel=5,
        )
    return Observed(op, pick, y, std / scale[pick], bound, white)


def _background(grid: Grid, background: xr.Dataset, sigma: Any) -> list[Observed]:
    """A background (a forecast, a climatology) as one more source: it observes every number of the grid that it has."""
    if not isinstance(background, xr.Dataset):
        raise TypeError(f"background must be an xarray.Dataset on the grid, got {type(background).__name__}")
    known = list(grid.names.values())
    parts = []
    for name in observed_variables(background):
        if name not in known:
            raise ValueError(
                f"the background's variable {name!r} is not one of the prior's; {choose(name, known)}, or drop it"
            )
        da = background[name]
        constant = {d: grid.template[d] for d in grid.core_dims if d not in da.dims and d not in da.coords}
        ds = background.assign(
            {name: da.expand_dims(constant).assign_attrs(da.attrs)}
        )  # a climatology holds at all times
        try:
            std = error_std(ds, name, sigma, "background", {"background": ds})
            parts.append(_observed(grid, ds, name, std, None, Normal(), None))
        except (ValueError, KeyError) as error:
            text = str(error.args[0])
            for word in ("sigma=", "sigma names", "sigma of"):
                text = text.replace(word, f"background_{word}")
            raise type(error)(f"background: {text}") from error
        if not all(g.stencil.trivial for g in parts[-1].operator.gathers):
            raise ValueError(
                f"the background's {name!r} lies between the points of the grid, or averages them; put it on the grid first: "
                "background.interp_like(grid)"
            )
    if sum(len(p.y) for p in parts) == 0:
        raise ValueError("the background holds no values (all NaN, or no variables)")
    return parts


def _join(grid: Grid, parts: list[Observed]) -> Likelihood:
    """The likelihood of all observed variables together."""
    parts = [p for p in parts if len(p.y)]
    inner = ObservationOperator(grid.layout, grid.names, [p.operator for p in parts], [p.pick for p in parts])
    y, std = (
        torch.as_tensor(np.concatenate(a), dtype=torch.float32) for a in ([p.y for p in parts], [p.std for p in parts])
    )
    ends = np.cumsum([0, *(len(p.y) for p in parts)]).tolist()
    spans = zip(parts, ends[:-1], ends[1:], strict=True)
    blocks = [(a, b, std[a:b].clone(), p.whitener) for p, a, b in spans if p.whitener is not None]
    groups = tuple(Group(len(p.y), p.operator.name, p.law) for p in parts)
    whitening = Whitening(blocks) if blocks else None
    if whitening is not None:
        y = whitening.whiten(y[None])[0]
        for start, stop, _, _ in blocks:
            std[start:stop] = 1
    found = [Footprints.of(p.operator, p.pick, grid.shape) for p in parts]
    footprints = None if None in found else tuple(f for f in found if f is not None)
    return Likelihood(inner, y, std, linear=inner.linear, groups=groups, whitening=whitening, footprints=footprints)


def pick_law(law: Any) -> ErrorLaw:
    """A law of errors by name or configured; None is the Gaussian one."""
    if law is None:
        return Normal()
    if isinstance(law, str):
        if law not in LAWS:
            raise ValueError(
                f"unknown likelihood {law!r}; {choose(law, LAWS)}, or pass an object such as Censored(lower=0.1)"
            )
        return LAWS[law]()
    if not isinstance(law, ErrorLaw):
        raise TypeError(f"a likelihood is a name or an object such as StudentT(df=4), got {what(law)}")
    return law


def _by_variable(given: Any, sources: Mapping[str, xr.Dataset], argument: str) -> dict[tuple[str, str], Any]:
    """What is said of each observed variable of each source: by variable, by source, or (laws) one for all."""
    pairs = [(source, name) for source, ds in sources.items() for name in observed_variables(ds)]
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        if argument != "likelihood":
            raise TypeError(f"{argument} must be a mapping by observed variable, got {type(given).__name__}")
        return dict.fromkeys(pairs, given)
    names = {name for _, name in pairs}
    if set(given) <= set(sources) and not set(given) <= names:
        each = [_by_variable(value, {source: sources[source]}, argument) for source, value in given.items()]
        return {pair: value for found in each for pair, value in found.items()}
    unknown = [k for k in given if k not in names]
    if unknown:
        raise KeyError(f"{argument} names {unknown[0]!r}, which is not observed; {choose(unknown[0], names)}")
    return {(source, name): given[name] for source, name in pairs if name in given}


def _scaling(grid: Grid, op: VariableOperator, da: xr.DataArray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the channel of each observed value: H of a constant is that constant."""
    if op.channels is None:
        return np.zeros(da.size), np.ones(da.size)
    length, _, *sizes = grid.shape
    seen = []
    for constant in (grid.layout.mean[op.channels], grid.layout.std[op.channels]):
        field = torch.as_tensor(constant).reshape(1, 1, -1, *(1,) * len(sizes)).expand(1, length, -1, *sizes)
        seen.append(op.apply(field if op.channel_dim is not None else field[:, :, 0]).reshape(-1).numpy())
    return seen[0], seen[1]
