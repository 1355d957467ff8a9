r"""How wrong a denoiser is: r(s)^2 = E|x_0 - E[x_0 | x_t]|^2 per channel, tabulated over noise levels s.

The curve is the denoiser's own error on validation data. It is what the likelihood needs to know about the denoised
state: at noise level s it stands for the unknown truth with a variance of r(s)^2.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from xsda.diffusion.denoisers import Denoiser


@dataclass(frozen=True)
class ErrorCurve:
    """Root mean square error ``rms`` (level, channel) at ascending noise ``levels`` (level,)."""

    levels: Tensor
    rms: Tensor

    def __call__(self, noise_level: Tensor) -> Tensor:
        """The error of each channel, (*noise_level, channel); log-log interpolation, constant beyond the ends."""
        x, grid = noise_level.detach().double().cpu().log(), self.levels.double().log()
        index = torch.searchsorted(grid, x).clamp(1, len(grid) - 1)
        weight = ((x - grid[index - 1]) / (grid[index] - grid[index - 1])).clamp(0, 1)[..., None]
        values = self.rms.double().log()
        return torch.exp(values[index - 1] + weight * (values[index] - values[index - 1]))


@torch.no_grad()
def measure_error(
    denoiser: Denoiser, batches: Iterable[tuple[Denoiser, Tensor]], *, count: int = 48, seed: int = 0
) -> ErrorCurve:
    """Tabulate the error on ``batches`` of (denoiser, states), the states being (batch, time, channel, *space)."""
    ends = denoiser.schedule.noise_level(torch.tensor([0.0, 1.0], dtype=torch.float64)).log()
    levels = torch.linspace(float(ends[0]), float(ends[1]), count, dtype=torch.float64).exp()
    times = denoiser.schedule.time(levels)
    generator = torch.Generator().manual_seed(seed)
    total, number = torch.zeros(()), 0
    for seen, x0 in batches:
        rows = []
        for t in times:
            noise = torch.randn(x0.shape, generator=generator, dtype=x0.dtype).to(x0.device)
            error = seen(denoiser.schedule.add_noise(x0, t.to(x0.device), noise), t.to(x0.device)) - x0
            rows.append(error.double().square().transpose(1, 2).transpose(0, 1).flatten(1).mean(1).cpu())
        total, number = total + torch.stack(rows) * len(x0), number + len(x0)
    return ErrorCurve(levels.float(), (total / number).sqrt().clamp(min=1e-12).float())
