"""The error of a denoiser, r(s)^2 = E|x_0 - E[x_0 | x_t]|^2 per channel, as a function of the noise level s.

It is measured on validation data and stored with the prior. Guidance needs it: at noise level s the denoised state
estimates the unknown truth with the variance r(s)^2. The correlation between neighbours along each axis describes how
far errors extend in space and time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from xsda.diffusion.denoisers import Denoiser


@dataclass(frozen=True)
class ErrorCurve:
    """Error of a denoiser at a set of noise levels.

    Parameters
    ----------
    levels
        Ascending noise levels, (level,).
    rms
        Root mean square error, (level, channel).
    lag
        Correlation of errors one step apart along time and each space axis, (level, axis), if known.

    Examples
    --------
    >>> curve = xsda.diffusion.ErrorCurve(torch.tensor([0.1, 1.0]), torch.tensor([[0.1], [0.7]]))
    >>> curve(torch.tensor(10.0)).round(decimals=3)
    tensor([0.7000], dtype=torch.float64)
    """

    levels: Tensor
    rms: Tensor
    lag: Tensor | None = None

    def __call__(self, noise_level: Tensor) -> Tensor:
        """Return the error of each channel, (*noise_level, channel), by log-log interpolation."""
        return torch.exp(self._between(self.rms.double().log(), noise_level))

    def correlation(self, noise_level: Tensor) -> Tensor:
        """Return the correlation of neighbours along time and each space axis, (*noise_level, axis), from 0 to 1."""
        if self.lag is None:
            raise ValueError("this error curve has no correlation of errors; measure it with measure_error")
        return self._between(self.lag.double(), noise_level).clamp(0, 0.9999)

    def _between(self, values: Tensor, noise_level: Tensor) -> Tensor:
        return interpolate(noise_level.detach().double().cpu().log(), self.levels.double().log(), values)


def interpolate(x: Tensor, knots: Tensor, values: Tensor) -> Tensor:
    """Interpolate linearly between knots; constant beyond the ends.

    Parameters
    ----------
    x
        Where to interpolate.
    knots
        Ascending positions, (knot,).
    values
        Values at the knots, (knot, ...).

    Returns
    -------
    Tensor
        Values at ``x``, (*x, ...).

    Examples
    --------
    >>> from xsda.diffusion.error import interpolate
    >>> interpolate(torch.tensor([0.5, 3.0]), torch.tensor([0.0, 1.0]), torch.tensor([2.0, 4.0]))
    tensor([3., 4.])
    """
    index = torch.searchsorted(knots, x).clamp(1, len(knots) - 1)
    weight = ((x - knots[index - 1]) / (knots[index] - knots[index - 1])).clamp(0, 1)
    weight = weight.reshape(*weight.shape, *(1,) * (values.ndim - 1))
    return values[index - 1] + weight * (values[index] - values[index - 1])


@torch.no_grad()
def measure_error(
    denoiser: Denoiser,
    batches: Iterable[tuple[Denoiser, Tensor]],
    *,
    levels: Tensor | None = None,
    count: int = 48,
    seed: int = 0,
) -> ErrorCurve:
    """Measure the error of a denoiser on validation data.

    Parameters
    ----------
    denoiser
        The denoiser whose schedule sets the noise levels.
    batches
        Pairs of a denoiser (with the context of these states) and states (batch, time, channel, *space).
    levels
        Ascending noise levels (default: ``count`` levels over the range of the schedule).
    count
        Number of noise levels.
    seed
        Seed of the noise.

    Returns
    -------
    ErrorCurve
        Root mean square error and correlation of neighbours.

    Examples
    --------

    >>> denoiser = xsda.load_model("lorenz63").denoiser
    >>> states = torch.randn(4, 16, 3, generator=torch.Generator().manual_seed(0))
    >>> curve = xsda.diffusion.measure_error(denoiser, [(denoiser, states)], count=3)
    >>> curve.rms.shape
    torch.Size([3, 3])
    """
    if levels is None:
        ends = denoiser.schedule.noise_level(torch.tensor([0.0, 1.0], dtype=torch.float64)).log()
        levels = torch.linspace(float(ends[0]), float(ends[1]), count, dtype=torch.float64).exp()
    times = denoiser.schedule.time(levels)
    generator = torch.Generator().manual_seed(seed)
    total, products, number = torch.zeros(()), torch.zeros(()), 0
    for seen, x0 in batches:
        rows, lags, filled = [], [], x0.nan_to_num(nan=0.0)
        for t in times:
            noise = torch.randn(x0.shape, generator=generator, dtype=x0.dtype).to(x0.device)
            error = seen(denoiser.schedule.add_noise(filled, t.to(x0.device), noise), t.to(x0.device)) - x0
            rows.append(error.double().square().transpose(1, 2).transpose(0, 1).flatten(1).nanmean(1).cpu())
            lags.append(torch.stack([_neighbours(error, axis) for axis in (1, *range(3, x0.ndim))]).cpu())
        total, number = total + torch.stack(rows) * len(x0), number + len(x0)
        products = products + torch.stack(lags) * len(x0)
    rms = (total / number).sqrt().clamp(min=1e-12)
    return ErrorCurve(levels.float(), rms.float(), (products / number).float())


def _neighbours(error: Tensor, axis: int) -> Tensor:
    """Correlation of errors with those of their neighbours along an axis, with equal weight for each channel."""
    if error.shape[axis] < 2:
        return torch.zeros((), dtype=torch.float64)
    error = error.double().transpose(0, 2)  # channels first, to be taken one by one
    pairs = error.narrow(axis, 1, error.shape[axis] - 1) * error.narrow(axis, 0, error.shape[axis] - 1)
    return (pairs.flatten(1).nanmean(1) / error.square().flatten(1).nanmean(1).clamp(min=1e-30)).nanmean()
