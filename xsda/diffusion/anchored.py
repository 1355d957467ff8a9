r"""A network that corrects a denoiser in closed form, by as much as it proved right on data that it did not see.

A network that was trained on few data overfits: its samples agree with each other more than with new data. So it starts
from a denoiser b in closed form, the base (a Gaussian whose spread was checked on data left out). The network F adds

.. math:: E[x_0 | x_t] = b(x_t) + g(s)\, r(s)\, F(x_t, b(x_t), s) ,

where r(s) is the error of the base at the noise level s, and the gate g(s), from 0 to 1, is the regression of the
base's error on the network's correction in data left out. Where the network learned nothing that holds for new data, g
is zero and the samples are those of the base.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from xsda.diffusion.denoisers import Denoiser, Preconditioned
from xsda.diffusion.error import ErrorCurve, interpolate

LEVELS = torch.logspace(-2, 2, 17)  # noise levels at which the gate is measured; it is zero beyond


class Anchored(Preconditioned):
    """A denoiser in closed form with a network that corrects it.

    Guidance uses the covariance of the base, which needs no gradient of the network.

    Parameters
    ----------
    network
        Called as ``network(x, log_noise, context)``. The first channels of the context are the estimate of the base.
    base
        The denoiser in closed form. Its schedule is used.
    error
        The error of the base.
    gate
        g at the noise levels of ``error``, (level,) (default: one everywhere).
    root
        Factor of all states: the denoiser is that of ``root`` times the states that base and network know.
    masked
        As for ``Preconditioned``.
    """

    base: Denoiser
    levels: Tensor
    rms: Tensor
    gate: Tensor
    root: Tensor

    def __init__(
        self, network: nn.Module, base: Denoiser, error: ErrorCurve, gate: Tensor | None = None,
        root: Tensor | None = None, masked: bool = False,
    ):  # fmt: skip
        super().__init__(network, base.schedule, masked=masked)
        self.base = base
        self.others: Sequence[Denoiser] = ()  # bases for the training, each fitted without one part of the data
        self.turned: int | None = None
        for name, value in (
            ("levels", error.levels),
            ("rms", error.rms),
            ("gate", torch.ones(len(error.levels)) if gate is None else gate),
            ("root", torch.ones(()) if root is None else root),
        ):
            self.register_buffer(name, value.float().clone())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Anchored:
        for other in self.others:  # no modules, because they are not stored; they follow to another device
            other._apply(fn, recurse)
        super()._apply(fn, recurse)
        return self

    def turn(self, step: int) -> None:
        """For batch number ``step`` of the training, use the base that was fitted without the data of this batch."""
        self.turned = step % len(self.others) if self.others else None

    def with_base(self, base: Denoiser) -> Anchored:
        """Return the same network on another base with the same schedule and the same error."""
        other = copy.copy(self)
        other._modules = {**self._modules, "base": base}
        return other

    def times(self, factor: float) -> Anchored:
        """Return the denoiser of states whose variances are larger by a factor. It needs alpha = 1, as VE has."""
        other = copy.copy(self)
        other._buffers = {**self._buffers, "root": self.root * factor**0.5}
        return other

    def conditioned(self, context: Tensor | None) -> Anchored:
        other = super().conditioned(context)
        assert isinstance(other, Anchored)
        return other

    def expected(self, t: Tensor) -> Tensor:
        """Return the error of the base, (batch or 1, channel)."""
        return torch.exp(self._at(self.rms.log(), t))

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        x_t, t = self._inner(x_t, t)
        base = self.based(x_t, t)
        return self.root * (base + self.correction(x_t, t, base))

    def linearised(self, x_t: Tensor, t: Tensor) -> Tensor:
        x_t, t = self._inner(x_t, t)
        base = self.based(x_t, t)
        with torch.no_grad():
            correction = self.correction(x_t, t, base)
        return self.root * (base + correction)

    def _inner(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return the state that base and network know, and the time at which it has as much noise."""
        if float(self.root) == 1:
            return x_t, t
        return x_t / self.root, self.schedule.time(self.schedule.noise_level(t) / self.root.to(t.dtype))

    def based(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the estimate of the base."""
        with torch.autocast(x_t.device.type, enabled=False):
            base = self.base if self.turned is None else self.others[self.turned]
            return base(x_t, t)

    def correction(self, x_t: Tensor, t: Tensor, base: Tensor) -> Tensor:
        """Return what the network adds to the estimate of the base."""
        gate = self._at(self.gate, t)
        if not bool((gate > 0).any()):
            return torch.zeros_like(base)
        own = x_t.new_zeros(*x_t.shape[:2], 0, *x_t.shape[3:]) if self.context is None else self.context.to(x_t.dtype)
        own = own.expand(*x_t.shape[:2], *own.shape[2:])
        valid = own[:, :, -x_t.shape[2] :] if self.masked else None
        noise = self.schedule.noise_level(t).reshape(-1, *(1,) * (x_t.ndim - 1)).to(x_t.dtype)
        inputs = x_t * (1 + noise**2).rsqrt()
        inputs = inputs if valid is None else inputs * valid
        log_noise = torch.log(self.schedule.noise_level(t)).to(x_t.dtype)
        size = (gate[..., None] * self.expected(t)).reshape(-1, 1, x_t.shape[2], *(1,) * (x_t.ndim - 3)).to(x_t.dtype)
        found = size * self.network(inputs, log_noise, torch.cat([base.detach(), own], 2)).to(x_t.dtype)
        return found if valid is None else found * valid

    def _at(self, values: Tensor, t: Tensor) -> Tensor:
        """Interpolate in the logarithm of the noise level: (batch or 1, ...)."""
        level = self.schedule.noise_level(t).to(values.dtype).log().reshape(-1)
        return interpolate(level, self.levels.log(), values)


@torch.no_grad()
def measure_gate(
    denoiser: Anchored, batches: Iterable[tuple[Anchored, Tensor]], *, seed: int = 0
) -> tuple[Tensor, float]:
    """Measure the gate on data that neither the base nor the network saw.

    It is one standard error below the regression, so that it stays zero for a network that learned nothing.

    Parameters
    ----------
    denoiser
        The denoiser with the gate one.
    batches
        Pairs of a denoiser (with the context of these states) and states (batch, time, channel, *space).
    seed
        Seed of the noise.

    Returns
    -------
    gate, share
        The gate at the levels of the denoiser, and the largest share of the base's squared error that it removes.
    """
    generator = torch.Generator().manual_seed(seed)
    schedule, parts = denoiser.schedule, []
    times = schedule.time(LEVELS.double()).float()
    for seen, x0 in batches:
        sums = []
        known, filled = torch.isfinite(x0), x0.nan_to_num(nan=0.0)
        for t in times.to(x0.device):
            noise = torch.randn(x0.shape, generator=generator).to(x0.device)
            x_t = schedule.add_noise(filled, t, noise)
            base = seen.based(x_t, t)
            scale = seen.expected(t).reshape(1, 1, -1, *(1,) * (x0.ndim - 3))
            error = torch.where(known, (filled - base) / scale, 0.0).double().flatten(1)
            change = torch.where(known, seen.correction(x_t, t, base) / scale, 0.0).double().flatten(1)
            sums.append(torch.stack([(error * change).sum(1), change.square().sum(1), error.square().sum(1)]))
        parts.append(torch.stack(sums, 1).cpu())  # (3, level, batch)
    both, own, left = torch.cat(parts, 2)
    total = own.sum(1).clamp(min=1e-30)
    slope = both.sum(1) / total
    deviation = (both - slope[:, None] * own).square().sum(1).sqrt() / total
    gate = (slope - deviation).clamp(0, 1)
    removed = (2 * gate * both.sum(1) - gate**2 * own.sum(1)) / left.sum(1)
    gate = torch.cat([gate.new_zeros(1), gate, gate.new_zeros(1)])
    knots = torch.cat([LEVELS[:1] / 2, LEVELS, LEVELS[-1:] * 2]).double().log()
    return interpolate(denoiser.levels.cpu().double().log(), knots, gate).float(), float(removed.max())
