r"""Energy correction: adds back the variance that free samples lose at each wavenumber.

Noised data have the spectrum alpha^2 S_k + sigma^2. A network that explains too little of a scale removes too much of
it at every step. Its samples then drift away from its training data, and the loss grows from step to step, although
the network has no such bias on data. The correction adds

.. math:: \hat x_0 \leftarrow \hat x_0 + \kappa_k(\sigma / \alpha)\, x_t / \alpha

in each Fourier mode. The small rate kappa is the one that keeps the spectrum of samples equal to that of noised data.
It is measured once: free samples are drawn while their spectrum is held at the right value at every step.
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
from xsda.diffusion.samplers.grids import time_grid
from xsda.diffusion.schedules import expand

FAINT = 0.01  # below this ratio of signal to noise in a mode, the estimate of the rate is too noisy
SMOOTH = 1.5  # width of the average over noise levels, in steps


@dataclass(frozen=True)
class Balance:
    """Correction rates for each noise level, channel and wavenumber.

    Parameters
    ----------
    levels
        Ascending noise levels, (level,).
    wavenumbers
        Ascending wavenumbers in cycles per point, (wavenumber,).
    rate
        Rates kappa, (level, channel, wavenumber).
    """

    levels: Tensor
    wavenumbers: Tensor
    rate: Tensor

    def times(self, factor: float) -> Balance:
        """Return the correction multiplied by ``factor``."""
        return replace(self, rate=factor * self.rate)

    def __call__(self, noise_level: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return the rates for fields of this shape, (*noise_level, channel, *modes of rfftn)."""
        level = noise_level.detach().double().cpu()
        rate = interpolate(level.log(), self.levels.double().log(), self.rate.double())
        rate = interpolate(wavenumber(shape).double(), self.wavenumbers.double(), rate.movedim(-1, 0))
        return rate.movedim(tuple(range(len(shape))), tuple(range(-len(shape), 0)))

    def correction(self, x: Tensor, noise_level: Tensor) -> Tensor:
        """Return kappa x.

        Parameters
        ----------
        x
            Fields (batch, time, channel, *space).
        noise_level
            One noise level, or one for each item of the batch.

        Returns
        -------
        Tensor
            The correction, in the shape of ``x``.
        """
        space = tuple(range(3, x.ndim))
        rate = self(noise_level, tuple(x.shape[3:])).to(x)
        if noise_level.ndim:
            rate = rate[:, None]
        return torch.fft.irfftn(rate * torch.fft.rfftn(x, dim=space), s=x.shape[3:], dim=space)


class Balanced(Denoiser):
    """A network denoiser with its energy correction. It shares its weights with ``plain``.

    Parameters
    ----------
    plain
        The denoiser without correction.
    balance
        The correction.
    """

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
        """Return the same denoiser with the context fields ``context``."""
        return Balanced(self.plain.conditioned(context), self.balance)

    def with_network(self, network: nn.Module) -> Balanced:
        """Return the same denoiser with another form of its network."""
        return Balanced(self.plain.with_network(network), self.balance)

    def times(self, factor: float) -> Balanced:
        """Return the same denoiser with its correction multiplied by ``factor``."""
        return Balanced(self.plain, self.balance.times(factor))


def wavenumber(shape: tuple[int, ...]) -> Tensor:
    """Return the wavenumber of each mode of ``rfftn``.

    Parameters
    ----------
    shape
        Sizes of the space axes.

    Returns
    -------
    Tensor
        Cycles per point, in the shape of the modes.

    Examples
    --------
    >>> from xsda.diffusion.balance import wavenumber
    >>> wavenumber((4,))
    tensor([0.0000, 0.2500, 0.5000])
    """
    parts = [torch.fft.fftfreq(n) for n in shape[:-1]] + [torch.fft.rfftfreq(shape[-1])]
    return torch.stack([k.square() for k in torch.meshgrid(*parts, indexing="ij")]).sum(0).sqrt()


def power(x: Tensor, y: Tensor | None = None) -> Tensor:
    """Return the mean of |x|^2 (or of Re x y*) over the modes nearest to each whole wavenumber.

    Whole wavenumbers are cycles over the shortest side. The corners beyond the last one count as part of it. White
    noise of variance one has the power one everywhere.

    Parameters
    ----------
    x, y
        Fields (batch, time, channel, *space).

    Returns
    -------
    Tensor
        Power, (channel, wavenumber).

    Examples
    --------
    >>> from xsda.diffusion.balance import power
    >>> wave = torch.cos(2 * torch.pi * torch.arange(4) / 4)
    >>> power(wave.reshape(1, 1, 1, 4)).round(decimals=3)
    tensor([[0., 1., 0.]], dtype=torch.float64)
    """
    size = tuple(x.shape[3:])
    space = tuple(range(3, x.ndim))
    a = torch.fft.rfftn(x, dim=space, norm="ortho")
    b = a if y is None else torch.fft.rfftn(y, dim=space, norm="ortho")
    product = (a * b.conj()).real.double().mean((0, 1)).flatten(1).cpu()
    last = torch.arange(size[-1] // 2 + 1)
    twice = torch.where((last == 0) | (2 * last == size[-1]), 1.0, 2.0).double()  # modes that rfftn omits
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
    """Measure the correction rates on free samples.

    Free samples are drawn while their spectrum is held at that of noised data at every step. The rates are the
    corrections that this takes. It costs one evaluation of the network per step and sample.

    Parameters
    ----------
    denoiser
        Denoiser without correction.
    spectrum
        ``power`` of the training data, (channel, wavenumber).
    shape
        Shape of one sample, (time, channel, *space).
    draw
        Function that returns standard normal numbers (members, *shape).
    steps
        Number of noise levels.
    callback
        Called with the number of each step.

    Returns
    -------
    Balance
        The correction.

    Examples
    --------

    >>> from xsda.diffusion.balance import measure_balance
    >>> from xsda.priors.exact import GaussianDenoiser
    >>> white = GaussianDenoiser.of(torch.zeros(1, 8), torch.eye(8)[None], torch.ones(1), (1, 1, 8))
    >>> noise = xsda.diffusion.MemberNoise(0, range(64), (1, 1, 8))
    >>> found = measure_balance(white, torch.ones(1, 5), (1, 1, 8), noise, steps=16)
    >>> bool(found.rate.abs().max() < 0.1)
    True
    """
    schedule, times = denoiser.schedule, time_grid(denoiser.schedule, steps)
    numbers = torch.arange(spectrum.shape[1]) / min(shape[2:])
    z = draw()
    x = z * torch.sqrt(schedule.alpha(times[0]) ** 2 + schedule.sigma(times[0]) ** 2).to(z)
    memory: dict[str, Any] = {}
    rates = []
    for i, (t, s) in enumerate(pairwise(times)):
        x0, level, clean = denoiser(x, t.to(x.device)), schedule.noise_level(t), x / schedule.alpha(t).to(x)
        mean, spread, _ = multistep(schedule, x, x0, t, s, dict(memory), eta=1.0)
        pushed, _, _ = multistep(schedule, x, x0 + clean, t, s, dict(memory), eta=1.0)
        wanted = schedule.alpha(s) ** 2 * spectrum + schedule.sigma(s) ** 2 - spread.cpu().double() ** 2
        rate = (wanted - power(mean)) / (2 * power(mean, pushed - mean))
        signal = spectrum / level**2
        rate = torch.where(numbers > 0, rate * signal / (signal + FAINT), 0)
        x0 = x0 + Balance(torch.stack([level, 2 * level]), numbers, rate.expand(2, -1, -1)).correction(clean, level)
        mean, spread, _ = multistep(schedule, x, x0, t, s, memory, eta=1.0)
        x = mean + spread * draw()
        rates.append(rate)
        if callback is not None:
            callback(i)
    levels = schedule.noise_level(times[:-1]).flip(0)
    return Balance(levels.float(), numbers.float(), _smooth(torch.stack(rates).flip(0)).float())


def _smooth(rate: Tensor) -> Tensor:
    """Average over neighbouring noise levels, and over neighbouring wavenumbers if they have many modes."""
    steps = torch.arange(len(rate), dtype=rate.dtype)
    kernel = torch.exp(-(((steps[:, None] - steps) / SMOOTH) ** 2) / 2)
    rate = torch.einsum("ij,jck->ick", kernel / kernel.sum(1, keepdim=True), rate)
    out = rate.clone()
    out[..., 3:-1] = rate[..., 2:-2] / 4 + rate[..., 3:-1] / 2 + rate[..., 4:] / 4
    return out
