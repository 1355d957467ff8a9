r"""Energy correction: adds back the variance that free samples lose at each wavenumber.

Noised data have the spectrum alpha^2 S_k + sigma^2. A network that explains too little of a scale removes too much of it
at every step. Its samples then drift away from its training data, and the loss grows from step to step, although the
network has no such bias on data. The correction adds

.. math:: \hat x_0 \leftarrow \hat x_0 + \kappa_k(\sigma / \alpha)\, x_t / \alpha

in each Fourier mode. The small rate kappa is the one that keeps the spectrum of samples equal to that of noised data. It is
measured once: free samples are drawn while their spectrum is held at the right value at every step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from xsda.diffusion.denoisers import Denoiser, Preconditioned
from xsda.diffusion.error import interpolate
from xsda.diffusion.samplers.dpm import multistep
from xsda.diffusion.samplers.sampler import time_grid
from xsda.diffusion.schedules import expand

FAINT = 0.01  # below this share of signal in a mode, samples are dominated by chance
SMOOTH = 1.5  # width of the average over noise levels, in steps


@dataclass(frozen=True)
class Balance:
    """``rate`` (level, channel, wavenumber) at ascending noise ``levels`` and ``wavenumbers`` in cycles a point."""

    levels: Tensor
    wavenumbers: Tensor
    rate: Tensor

    def times(self, factor: float) -> Balance:
        """Return the correction multiplied by ``factor``."""
        return replace(self, rate=factor * self.rate)

    def __call__(self, noise_level: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The rates of fields of this shape, (*noise_level, channel, *modes of rfftn)."""
        level = noise_level.detach().double().cpu()
        rate = interpolate(level.log(), self.levels.double().log(), self.rate.double())
        rate = interpolate(wavenumber(shape).double(), self.wavenumbers.double(), rate.movedim(-1, 0))
        return rate.movedim(tuple(range(len(shape))), tuple(range(-len(shape), 0)))

    def correction(self, x: Tensor, noise_level: Tensor) -> Tensor:
        """kappa x, for x (batch, time, channel, *space) at one noise level, or at one for each of the batch."""
        space = tuple(range(3, x.ndim))
        rate = self(noise_level, tuple(x.shape[3:])).to(x)
        if noise_level.ndim:
            rate = rate[:, None]
        return torch.fft.irfftn(rate * torch.fft.rfftn(x, dim=space), s=x.shape[3:], dim=space)


class Balanced(Denoiser):
    """A network denoiser with its energy correction; the weights are shared with ``plain``."""

    def __init__(self, plain: Preconditioned, balance: Balance):
        super().__init__()
        self.plain, self.balance, self.schedule = plain, balance, plain.schedule

    @property
    def network(self) -> nn.Module:
        """The network of the plain denoiser."""
        return self.plain.network

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        clean = x_t / expand(self.schedule.alpha(t), x_t)
        return self.plain(x_t, t) + self.balance.correction(clean, self.schedule.noise_level(t))

    def conditioned(self, context: Tensor | None) -> Balanced:
        return Balanced(self.plain.conditioned(context), self.balance)

    def with_network(self, network: nn.Module) -> Balanced:
        """The same denoiser, its network replaced by another form of it."""
        return Balanced(self.plain.with_network(network), self.balance)

    def times(self, factor: float) -> Balanced:
        """The same denoiser with its correction multiplied by ``factor``."""
        return Balanced(self.plain, self.balance.times(factor))


def wavenumber(shape: tuple[int, ...]) -> Tensor:
    """Cycles a point of each mode of ``rfftn``."""
    parts = [torch.fft.fftfreq(n) for n in shape[:-1]] + [torch.fft.rfftfreq(shape[-1])]
    return torch.stack([k.square() for k in torch.meshgrid(*parts, indexing="ij")]).sum(0).sqrt()


def power(x: Tensor, y: Tensor | None = None) -> Tensor:
    """Mean of |x|^2 (or of Re x y*) over the modes nearest to each whole wavenumber, (channel, wavenumber).

    Whole are the cycles over the shortest side; the corners beyond its last count with that. White noise of variance one has
    one everywhere.
    """
    size = tuple(x.shape[3:])
    space = tuple(range(3, x.ndim))
    a = torch.fft.rfftn(x, dim=space, norm="ortho")
    b = a if y is None else torch.fft.rfftn(y, dim=space, norm="ortho")
    product = (a * b.conj()).real.double().mean((0, 1)).flatten(1).cpu()
    last = torch.arange(size[-1] // 2 + 1)
    twice = torch.where((last == 0) | (2 * last == size[-1]), 1.0, 2.0).double()  # modes that rfftn leaves out
    twice = twice.expand(*size[:-1], -1).flatten()
    count = min(size) // 2 + 1
    shell = (wavenumber(size) * min(size)).round().long().clamp(max=count - 1).flatten()
    total = torch.zeros(len(product), count, dtype=torch.float64).index_add_(1, shell, twice * product)
    return total / torch.zeros(count, dtype=torch.float64).index_add_(0, shell, twice)


@torch.no_grad()
def measure_balance(
    denoiser: Denoiser,
    spectrum: Tensor,
    shape: tuple[int, ...],
    draw: Callable[[], Tensor],
    *,
    steps: int = 64,
    callback: Callable[[int], None] | None = None,
) -> Balance:
    """Draw free samples (members, *shape) with the spectrum held at that of noised data; ``spectrum`` = power(data).

    The rates are what that takes.
    """
    schedule, times = denoiser.schedule, time_grid(denoiser.schedule, steps)
    numbers = torch.arange(spectrum.shape[1]) / min(shape[2:])
    z = draw()
    x = z * torch.sqrt(schedule.alpha(times[0]) ** 2 + schedule.sigma(times[0]) ** 2).to(z)
    memory: dict[str, Any] = {}
    rates = []
    for i, (t, s) in enumerate(pairwise(times)):
        x0, level, clean = denoiser(x, t.to(x.device)), schedule.noise_level(t), x / schedule.alpha(t).to(x)
        mean, spread, _ = multistep(schedule, x, x0, t, s, dict(memory), stochastic=True)
        pushed, _, _ = multistep(schedule, x, x0 + clean, t, s, dict(memory), stochastic=True)
        wanted = schedule.alpha(s) ** 2 * spectrum + schedule.sigma(s) ** 2 - spread.cpu().double() ** 2
        rate = (wanted - power(mean)) / (2 * power(mean, pushed - mean))
        signal = spectrum / level**2
        rate = torch.where(numbers > 0, rate * signal / (signal + FAINT), 0)
        x0 = x0 + Balance(torch.stack([level, 2 * level]), numbers, rate.expand(2, -1, -1)).correction(clean, level)
        mean, spread, _ = multistep(schedule, x, x0, t, s, memory, stochastic=True)
        x = mean + spread * draw()
        rates.append(rate)
        if callback is not None:
            callback(i)
    levels = schedule.noise_level(times[:-1]).flip(0)
    return Balance(levels.float(), numbers.float(), _smooth(torch.stack(rates).flip(0)).float())


def _smooth(rate: Tensor) -> Tensor:
    """Averages over neighbouring noise levels, and over neighbouring wavenumbers where these have many modes."""
    steps = torch.arange(len(rate), dtype=rate.dtype)
    kernel = torch.exp(-(((steps[:, None] - steps) / SMOOTH) ** 2) / 2)
    rate = torch.einsum("ij,jck->ick", kernel / kernel.sum(1, keepdim=True), rate)
    out = rate.clone()
    out[..., 3:-1] = rate[..., 2:-2] / 4 + rate[..., 3:-1] / 2 + rate[..., 4:] / 4
    return out
