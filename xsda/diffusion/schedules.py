r"""Noise schedules, which set how fast a trajectory turns into noise.

A diffusion process turns a clean state :math:`x_0` into

.. math:: x_t = \alpha(t)\, x_0 + \sigma(t)\, \varepsilon, \qquad \varepsilon \sim N(0, I), \; t \in [0, 1].

The rest of the package uses the pair (alpha, sigma) and the noise level ``s = sigma / alpha``, which is the standard
deviation of the noise in units of the data.

References: Song et al. 2021 (arXiv 2011.13456) for VP, sub-VP and VE; Ho et al. 2020 (arXiv 2006.11239) for the
discrete beta schedule; Rozet & Louppe 2023 (arXiv 2306.10574) for the cosine decay with an offset eta.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass

import torch
from torch import Tensor


class Schedule(ABC):
    """Base class: alpha(t) and sigma(t) on t in [0, 1], with sigma / alpha increasing in t."""

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Return the amplitude of the signal at time ``t``."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Return the amplitude of the noise at time ``t``."""

    def noise_level(self, t: Tensor) -> Tensor:
        """Return ``sigma / alpha``, the noise in units of the data."""
        return self.sigma(t) / self.alpha(t)

    def log_snr(self, t: Tensor) -> Tensor:
        """Return ``log(alpha / sigma)``, half the log signal-to-noise ratio, which decreases in ``t``."""
        return torch.log(self.alpha(t) / self.sigma(t))

    def time(self, noise_level: Tensor) -> Tensor:
        """Return the time at which the noise level is ``noise_level``, clipped to [0, 1]. It is found by bisection."""
        target = noise_level.double()
        low, high = torch.zeros_like(target), torch.ones_like(target)
        for _ in range(60):
            middle = (low + high) / 2
            above = self.noise_level(middle) > target
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        return ((low + high) / 2).to(noise_level.dtype)

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return the time derivatives of alpha and sigma at ``t``."""
        one = torch.ones_like(t)
        return torch.func.jvp(self.alpha, (t,), (one,))[1], torch.func.jvp(self.sigma, (t,), (one,))[1]

    def add_noise(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Compute x_t from a clean state and standard normal noise.

        Parameters
        ----------
        x0
            Clean states, (batch, ...).
        t
            A scalar, or one time per batch item.
        noise
            Standard normal numbers, in the shape of ``x0``.

        Returns
        -------
        Tensor
            x_t.
        """
        return expand(self.alpha(t), x0) * x0 + expand(self.sigma(t), x0) * noise

    def config(self) -> dict[str, object]:
        """Return name and parameters, which suffice to rebuild the schedule from a file."""
        return {"name": type(self).__name__, **asdict(self)}  # type: ignore[call-overload]


def expand(value: Tensor, like: Tensor) -> Tensor:
    """Add trailing axes to a scalar or a value per item, so that it broadcasts against ``like``.

    Parameters
    ----------
    value
        A scalar, or one value per batch item.
    like
        Tensor (batch, ...).

    Returns
    -------
    Tensor
        The value with the number of axes and the precision of ``like``.

    Examples
    --------
    >>> from xsda.diffusion.schedules import expand
    >>> expand(torch.tensor([1.0, 2.0]), torch.zeros(2, 5, 3)).shape
    torch.Size([2, 1, 1])
    """
    return value.to(like.dtype).reshape(value.shape + (1,) * (like.ndim - value.ndim)) if value.ndim else value.to(like)


@dataclass(frozen=True)
class _Decay(Schedule):
    """Shared by VP and its relatives: alpha falls from 1 to ``eta`` along a named curve."""

    decay: str = "cosine"
    eta: float = 1e-3

    def __post_init__(self) -> None:
        if self.decay not in ("linear", "cosine", "exponential"):
            raise ValueError(f"decay={self.decay!r} is unknown; choose 'linear', 'cosine' or 'exponential'")
        if not 0 < self.eta < 1:
            raise ValueError(f"eta={self.eta} must lie between 0 and 1: it is the amplitude of the signal at t = 1")

    def alpha(self, t: Tensor) -> Tensor:
        if self.decay == "linear":
            return 1 - (1 - self.eta) * t
        if self.decay == "cosine":
            return torch.cos(math.acos(math.sqrt(self.eta)) * t) ** 2
        return torch.exp(math.log(self.eta) * t**2)

    def lost(self, t: Tensor) -> Tensor:
        """Return ``1 - alpha`` without cancellation, which would spoil a small sigma in single precision."""
        if self.decay == "linear":
            return (1 - self.eta) * t
        if self.decay == "cosine":
            return torch.sin(math.acos(math.sqrt(self.eta)) * t) ** 2
        return -torch.expm1(math.log(self.eta) * t**2)


class VP(_Decay):
    """Variance preserving: sigma^2 = 1 - alpha^2 + eta^2.

    Parameters
    ----------
    decay
        Curve of alpha: "linear", "cosine" or "exponential".
    eta
        Amplitude of the signal at t = 1.

    Examples
    --------
    >>> xsda.diffusion.VP().noise_level(torch.tensor(0.0))
    tensor(0.0010)
    """

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sqrt(self.lost(t) * (1 + self.alpha(t)) + self.eta**2)


class SubVP(_Decay):
    """Sub-variance preserving: sigma = 1 - alpha^2 + eta.

    Parameters
    ----------
    decay, eta
        As for ``VP``.
    """

    def sigma(self, t: Tensor) -> Tensor:
        return self.lost(t) * (1 + self.alpha(t)) + self.eta


class SubSubVP(_Decay):
    """Sub-sub-variance preserving: sigma = 1 - alpha + eta.

    Parameters
    ----------
    decay, eta
        As for ``VP``.
    """

    def sigma(self, t: Tensor) -> Tensor:
        return self.lost(t) + self.eta


@dataclass(frozen=True)
class VE(Schedule):
    """Variance exploding: alpha = 1, and sigma grows geometrically.

    Parameters
    ----------
    sigma_min, sigma_max
        Noise at t = 0 and at t = 1.
    """

    sigma_min: float = 1e-3
    sigma_max: float = 80.0

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max:
            raise ValueError(f"need 0 < sigma_min < sigma_max, got {self.sigma_min} and {self.sigma_max}")

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_min * torch.exp(math.log(self.sigma_max / self.sigma_min) * t)


@dataclass(frozen=True)
class LinearBeta(Schedule):
    """The discrete schedule of DDPM with linearly rising betas, made continuous.

    Times 0 and 1 are the first and the last discrete step. Between steps log(alpha^2) is interpolated linearly.

    Parameters
    ----------
    beta_min, beta_max
        First and last beta.
    steps
        Number of discrete steps.
    """

    beta_min: float = 1e-4
    beta_max: float = 2e-2
    steps: int = 1000

    def __post_init__(self) -> None:
        if not (0 < self.beta_min <= self.beta_max < 1 and 2 <= self.steps <= 10**6):
            raise ValueError(f"need 0 < beta_min <= beta_max < 1 and 2 <= steps <= 1e6, got {self.config()}")

    def _log_alpha_squared(self, t: Tensor) -> Tensor:
        betas = torch.linspace(self.beta_min, self.beta_max, self.steps, dtype=torch.float64, device=t.device)
        table = torch.log1p(-betas).cumsum(0)
        position = t.double().clamp(0, 1) * (self.steps - 1)
        index = position.detach().floor().long().clamp(max=self.steps - 2)
        return table[index] + (position - index) * (table[index + 1] - table[index])

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(self._log_alpha_squared(t) / 2).to(t.dtype)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sqrt(-torch.expm1(self._log_alpha_squared(t))).to(t.dtype)


SCHEDULES: dict[str, type[Schedule]] = {c.__name__: c for c in (VP, SubVP, SubSubVP, VE, LinearBeta)}
