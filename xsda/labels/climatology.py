r"""Mean, standard deviation and mask of each grid point: what a prior takes off before it models anomalies.

A state in units of its channel (mean 0 and standard deviation 1 over the whole field) is

.. math:: x(t, p) = \sum_i w_i(t)\, m_i(p) + s(p)\, z(t, p),

with the waves w of the daily and yearly cycles (w_0 = 1). The prior describes z. Points of the mask have no values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from xsda.labels.axes import time_feature_waves

HARMONICS = 2  # waves of each cycle: the whole period and half of it


@dataclass(frozen=True, eq=False)
class Normals:
    """Climatological normals of each grid point, in standard deviations of the channel.

    Parameters
    ----------
    mean
        Coefficients of the waves, (wave, channel, *space). The first is the mean.
    std
        Standard deviation around this mean, (channel, *space).
    valid
        Which points have values, (channel, *space). The others are masked (land, outside a basin).
    cycles
        Any of "hour_of_day" and "day_of_year".
    position
        Latitude and longitude of each point, (2, *space), on grids with two-dimensional coordinates.

    Examples
    --------
    >>> from xsda.labels.climatology import Normals
    >>> flat = Normals(np.zeros((1, 1, 3)), np.ones((1, 3)), np.array([[True, True, False]]))
    >>> flat.masked
    True
    """

    mean: np.ndarray
    std: np.ndarray
    valid: np.ndarray
    cycles: tuple[str, ...] = ()
    position: np.ndarray | None = None

    @property
    def masked(self) -> bool:
        """Whether some points have no values."""
        return not bool(self.valid.all())

    def center(self, time: xr.DataArray | None) -> np.ndarray:
        """Return the mean at these times, (time, channel, *space); without cycles at any time, (1, channel, *space)."""
        return np.tensordot(waves(time, self.cycles), self.mean.astype(np.float64), 1)

    def part(self, places: Sequence[np.ndarray]) -> Normals:
        """Return the normals at these points along each space axis."""
        mean, std, valid = self.mean, self.std, self.valid
        for axis, index in enumerate(places):
            mean = np.take(mean, index, axis + 2)
            std, valid = (np.take(a, index, axis + 1) for a in (std, valid))
        return replace(self, mean=mean, std=std, valid=valid)

    def tensors(self) -> dict[str, Tensor]:
        """Return the arrays for a file."""
        own = {} if self.position is None else {"position": torch.tensor(self.position, dtype=torch.float64)}
        return own | {
            "mean": torch.as_tensor(self.mean, dtype=torch.float32),
            "std": torch.as_tensor(self.std, dtype=torch.float32),
            "valid": torch.tensor(self.valid),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], cycles: Sequence[str]) -> Normals:
        """Read what ``tensors`` returned."""
        mean, std, valid = (tensors[k].numpy() for k in ("mean", "std", "valid"))
        if mean.shape != (1 + 2 * HARMONICS * len(cycles), *std.shape) or valid.shape != std.shape:
            raise ValueError(f"its normals have the shapes {mean.shape}, {std.shape} and {valid.shape}")
        position = tensors.get("position")
        return cls(mean, std, valid, tuple(cycles), None if position is None else position.numpy())


def waves(time: xr.DataArray | None, cycles: Sequence[str]) -> np.ndarray:
    """Return the waves of the cycles, (time, 1 + 2 * HARMONICS * cycles); the first is one. Without cycles, (1, 1)."""
    if not cycles or time is None:
        return np.ones((1, 1))
    each = [time_feature_waves(time, cycles, harmonic) for harmonic in range(1, HARMONICS + 1)]
    return np.concatenate([np.ones((time.size, 1)), *each], axis=1)


@dataclass(frozen=True, eq=False)
class StateScaling:
    """Converts states (..., time, channel, *space) between units and anomalies in standard deviations.

    Parameters
    ----------
    center
        What is subtracted, in units; it broadcasts to a state.
    scale
        Standard deviation of each channel, in units, (channel, 1, ...).
    relative
        Standard deviation of each point over that of its channel, (channel, *space); None if they are all one.
    valid
        Which points have values, (channel, *space); None if all have.
    """

    center: np.ndarray
    scale: np.ndarray
    relative: np.ndarray | None = None
    valid: np.ndarray | None = None

    @property
    def std(self) -> np.ndarray:
        """Standard deviations in units, which broadcast to (channel, *space)."""
        return self.scale if self.relative is None else self.scale * self.relative

    def to_units(self, values: Any) -> Any:
        """Convert anomalies (numpy or dask) to units; points of the mask become NaN."""
        out = values * self.std + self.center
        return out if self.valid is None else np.where(self.valid, out, np.nan)

    def standardise(self, values: np.ndarray) -> np.ndarray:
        """Convert units to anomalies. What is NaN stays NaN, and so do points of the mask."""
        out = (values - self.center) / self.std
        return out if self.valid is None else np.where(self.valid, out, np.nan)

    def state(self, x: Tensor) -> Tensor:
        """Convert anomalies (batch, time, channel, *space) to units; points of the mask get some finite value."""
        return x * torch.as_tensor(self.std).to(x) + torch.as_tensor(self.center).to(x)
