"""The times, from much noise to little, at which a sampler evaluates the denoiser."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from xsda.diffusion.schedules import Schedule

GRIDS = ("log_snr", "centered", "linear", "karras")


def time_grid(
    schedule: Schedule,
    steps: int,
    grid: str = "log_snr",
    *,
    high: float | None = None,
    low: float | None = None,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Make a decreasing grid of times, by default from 1 to 0.

    Parameters
    ----------
    schedule
        The diffusion process.
    steps
        Number of times.
    grid
        "log_snr": uniform in log(sigma / alpha). "centered": the same, but up to four times denser where the noise is
        as large as the (standardised) data; there the observations decide between different futures. "linear": uniform
        in t. "karras": uniform in (sigma / alpha)^(1/7).
    high, low
        Noise levels, sigma / alpha, of the first and the last time. Default, and limits: those of the schedule.
    dtype
        Precision of the times.

    Returns
    -------
    Tensor
        Times, (steps,).

    Examples
    --------
    >>> from xsda.diffusion.samplers import time_grid
    >>> time_grid(xsda.diffusion.VE(), 3, "linear")
    tensor([1.0000, 0.5000, 0.0000], dtype=torch.float64)
    """
    if steps < 2:
        raise ValueError(f"steps={steps} must be at least 2")
    top, bottom = (float(schedule.noise_level(torch.tensor(e, dtype=torch.float64))) for e in (1.0, 0.0))
    high, low = min(high or top, top), max(low or bottom, bottom)
    if high <= low:
        raise ValueError(f"high={high:g} must be above low={low:g}: sampling goes from much noise to little")
    first, last = schedule.time(torch.tensor([high, low], dtype=torch.float64)).tolist()
    first, last = 1.0 if high == top else first, 0.0 if low == bottom else last
    if grid == "linear":
        return torch.linspace(first, last, steps, dtype=dtype)
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    if grid == "log_snr":
        levels = torch.exp(math.log(high) + ramp * (math.log(low) - math.log(high)))
    elif grid == "centered":
        fine = torch.linspace(math.log(high), math.log(low), 4097, dtype=torch.float64)
        density = 1 + 3 * torch.exp(-((fine / 1.5) ** 2) / 2)
        share = torch.cumulative_trapezoid(density) / torch.trapezoid(density)
        levels = torch.from_numpy(np.exp(np.interp(ramp, [0, *share], fine)))
    elif grid == "karras":
        levels = (high ** (1 / 7) + ramp * (low ** (1 / 7) - high ** (1 / 7))) ** 7
    else:
        raise ValueError(f"grid={grid!r} is unknown; choose one of {GRIDS}")
    times = schedule.time(levels)
    times[0], times[-1] = first, last
    return times.to(dtype)
