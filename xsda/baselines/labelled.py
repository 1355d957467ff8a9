"""Tensors to labelled ensembles of one time and back, as fast as xarray allows.

A Dataset is expensive to build and cheap to copy. The first one is built with all its labels; later ones are copies of
it with other values.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from xsda.baselines.bound import ForecastError
from xsda.labels.grid import Grid


class Labeller:
    """Converts ensembles (member, channel, *space) of one grid."""

    def __init__(self, grid: Grid):
        self.grid = grid
        self.time, *self.space = grid.core_dims
        self.channels = list(grid.layout.slices().values())
        self.names = [grid.names[v.name] for v in grid.layout.variables]
        self.dims: list[tuple[str, ...]] = []  # of each variable as tensors have them
        self.turns: list[tuple[slice, ...]] = []  # descending axes the other way round
        for v in grid.layout.variables:
            inner = [v.channel_dim] if v.channel_dim else []
            self.dims.append(("member", *inner, *self.space))
            flips = [slice(None, None, -1) if grid.descends(d) else slice(None) for d in self.space]
            self.turns.append((slice(None), *[slice(None)] * len(inner), *flips))
        self.template: xr.Dataset | None = None

    def dataset(self, x: Tensor, when: Any) -> xr.Dataset:
        """States as a Dataset that is valid at ``when``; its values are the caller's to change."""
        if self.template is None or self.template.sizes["member"] != len(x):
            self.template = self._built(x, when)
        values, numbers = {}, x.detach().cpu().numpy()
        for name, span, dims, turn in zip(self.names, self.channels, self.dims, self.turns, strict=True):
            block = numbers[:, span] if len(dims) > 1 + len(self.space) else numbers[:, span.start]
            order = [dims.index(str(d)) for d in self.template.variables[name].dims]
            values[name] = block[turn].transpose(order).copy()
        ds = self.template.copy(data=values)
        ds.variables[self.time].data = np.asarray(when)  # of the copy alone
        return ds

    def tensor(self, ds: xr.Dataset) -> Tensor:
        """The inverse, for dimensions in any order and values of any kind."""
        parts = []
        for name, dims, turn in zip(self.names, self.dims, self.turns, strict=True):
            variable = ds.variables[name]
            order = [variable.dims.index(d) for d in dims]
            values = np.asarray(variable.values, dtype=np.float64).transpose(order)[turn]
            parts.append(values if len(dims) > 1 + len(self.space) else values[:, None])
        return torch.as_tensor(np.concatenate(parts, 1))

    def check(self, new: Any) -> None:
        """Raise unless ``new`` has the variables, sizes and labels of the last Dataset that was made."""
        given = self.template
        assert given is not None
        if not isinstance(new, xr.Dataset):
            raise ForecastError(
                f"the forecast step must return an xarray.Dataset such as the one it got, not {type(new).__name__}; "
                "for functions of tensors use Forecast(step, tensors=True)"
            )
        for name in self.names:
            if name not in new.variables:
                raise ForecastError(
                    f"the forecast step lost the variable {name!r}; it returned {list(new.data_vars)}, {self.names} "
                    "were expected"
                )
            old, now = given.variables[name], new.variables[name]
            if (now.dims, now.shape) != (old.dims, old.shape) and dict(now.sizes) != dict(old.sizes):
                raise ForecastError(
                    f"the forecast step turned {name!r} of the sizes {dict(old.sizes)} into {dict(now.sizes)}; return "
                    "all members, at the new time only, on the same grid"
                )
            for d in old.dims:
                if d in given.xindexes and d in new.variables and not _same(given, new, d):
                    raise ForecastError(
                        f"the forecast step changed the labels along {d!r}; return the grid that came in, in its order"
                    )

    def _built(self, x: Tensor, when: Any) -> xr.Dataset:
        """A Dataset with all labels."""
        member = xr.DataArray(np.arange(len(x)), dims="member", attrs={"standard_name": "realization", "units": "1"})
        at = Grid(self.grid.layout, self.grid.template.isel({self.time: [0]}), self.grid.dims, self.grid.names)
        ds = at.to_dataset(x.detach().cpu().numpy()[:, None], {"member": member}).isel({self.time: 0}, drop=True)
        return ds.assign_coords({self.time: when})


def _same(given: xr.Dataset, new: xr.Dataset, dim: Hashable) -> bool:
    """Whether the labels along a dimension are the same; at almost no cost if nobody touched them."""
    index = new.xindexes.get(dim)
    if index is not None and index.equals(given.xindexes[dim]):
        return True
    return np.array_equal(given.variables[dim].values, new.variables[dim].values)
