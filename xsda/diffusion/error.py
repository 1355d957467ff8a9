r"""How wrong a denoiser is: r(s)^2 = E|x_0 - E[x_0 | x_t]|^2 per channel, tabulated over noise levels s.

The curve is the denoiser's own error on validation data. It is what the likelihood needs to know about the denoised
state: at noise level s it stands for the unknown truth with a variance of r(s)^2. How far an error reaches is told by the
correlation between neighbours along each axis.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from xsda.diffusion.denoisers import Denoiser


@dataclass(frozen=True)
class ErrorCurve:
    """Root mean square error ``rms`` (level, channel) at ascending noise ``levels`` (level,).

    ``lag`` (level, axis), if known: the correlation of errors one step apart along time and each space axis.
    """

    levels: Tensor
    rms: Tensor
    lag: Tensor | None = None

    def __call__(self, noise_level: Tensor) -> Tensor:
        """The error of each channel, (*noise_level, channel); log-log interpolation, constant beyond the ends."""
        return torch.exp(self._between(self.rms.double().log(), noise_level))

    def correlation(self, noise_level: Tensor) -> Tensor:
        """The correlation of neighbours along time and each space axis, (*noise_level, axis), between 0 and 1."""
        if self.lag is None:
            raise ValueError("this error curve does not hold the correlation of errors; measure it with measure_error")
        return self._between(self.lag.double(), noise_level).clamp(0, 0.9999)

    def _between(self, values: Tensor, noise_level: Tensor) -> Tensor:
        return interpolate(noise_level.detach().double().cpu().log(), self.levels.double().log(), values)


def interpolate(x: Tensor, knots: Tensor, values: Tensor) -> Tensor:
    """``values`` (knot, ...), given at ascending knots, at x: linear between them, constant beyond the ends."""
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
    """Tabulate the error on ``batches`` of (denoiser, states), the states being (batch, time, channel, *space).

    At ``levels`` (ascending), or at ``count`` of them over the range of the schedule.
    """
    if levels is None:
        ends = denoiser.schedule.noise_level(torch.tensor([0.0, 1.0], dtype=torch.float64)).log()
        levels = torch.linspace(float(ends[0]), float(ends[1]), count, dtype=torch.float64).exp()
    times = denoiser.schedule.time(levels)
    generator = torch.Generator().manual_seed(seed)
    total, products, number = torch.zeros(()), torch.zeros(()), 0
    for seen, x0 in batches:
        rows, lags = [], []
        for t in times:
            noise = torch.randn(x0.shape, generator=generator, dtype=x0.dtype).to(x0.device)
            error = seen(denoiser.schedule.add_noise(x0, t.to(x0.device), noise), t.to(x0.device)) - x0
            rows.append(error.double().square().transpose(1, 2).transpose(0, 1).flatten(1).mean(1).cpu())
            lags.append(torch.stack([_neighbours(error, axis) for axis in (1, *range(3, x0.ndim))]).cpu())
        total, number = total + torch.stack(rows) * len(x0), number + len(x0)
        products = products + torch.stack(lags) * len(x0)
    rms = (total / number).sqrt().clamp(min=1e-12)
    return ErrorCurve(levels.float(), rms.float(), (products / number).float())


def _neighbours(error: Tensor, axis: int) -> Tensor:
    """Correlation of an error with its neighbour's along an axis, channels weighing alike."""
    if error.shape[axis] < 2:
        return torch.zeros((), dtype=torch.float64)
    error = error.double().transpose(0, 2)  # channels first, to be taken one by one
    pairs = error.narrow(axis, 1, error.shape[axis] - 1) * error.narrow(axis, 0, error.shape[axis] - 1)
    return (pairs.flatten(1).mean(1) / error.square().flatten(1).mean(1).clamp(min=1e-30)).mean()
