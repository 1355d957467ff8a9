r"""Denoisers: estimates of E[x_0 | x_t], for networks of any parameterisation.

A network may be trained to predict the noise (``eps``), the clean state (``x0``), the velocity
``v = (alpha eps - sigma x0) / sqrt(alpha^2 + sigma^2)`` (Salimans & Ho 2022, arXiv 2202.00512), or the residual of the
best linear denoiser (``edm``, Karras et al. 2022, arXiv 2206.00364). Each is converted to the posterior mean
E[x_0 | x_t]. Noise and score follow from it:

.. math:: \hat\varepsilon = (x_t - \alpha \hat x_0)/\sigma, \qquad \nabla \log p(x_t) = -\hat\varepsilon / \sigma .
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from xsda.diffusion.schedules import Schedule, expand

PARAMETERIZATIONS = ("edm", "v", "x0", "eps")


class Denoiser(nn.Module):
    """Base class of all denoisers, which map a noisy state and a time to E[x_0 | x_t].

    Subclasses set ``schedule`` and define ``forward(x_t, t)``. ``x_t`` has the shape (batch, ...); ``t`` is a 0-d
    tensor, or holds one time per batch item.
    """

    schedule: Schedule

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return E[x_0 | x_t], in the shape of ``x_t``."""
        raise TypeError(f"{type(self).__name__} must define forward(x_t, t)")

    def linearised(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return E[x_0 | x_t] with the derivative that guidance takes for the covariance of x_0."""
        return self(x_t, t)

    def eps(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return E[eps | x_t]."""
        return noise_estimate(self.schedule, x_t, self(x_t, t), t)

    def score(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the gradient of log p(x_t)."""
        return -self.eps(x_t, t) / expand(self.schedule.sigma(t), x_t)

    def conditioned(self, context: Tensor | None) -> Denoiser:
        """Return the same denoiser with ``context`` (batch or 1, time or 1, channel, *space), if it uses any."""
        return self


def noise_estimate(schedule: Schedule, x_t: Tensor, x0: Tensor, t: Tensor) -> Tensor:
    """Compute E[eps | x_t] from E[x_0 | x_t].

    Parameters
    ----------
    schedule
        The diffusion process.
    x_t, x0
        Noisy state and its denoised estimate.
    t
        Time.

    Returns
    -------
    Tensor
        Estimate of the noise.

    Examples
    --------
    >>> from xsda.diffusion.denoisers import noise_estimate
    >>> schedule, t = xsda.diffusion.VE(), torch.tensor(0.5)
    >>> x_t = schedule.add_noise(torch.ones(1, 1), t, torch.full((1, 1), 2.0))
    >>> noise_estimate(schedule, x_t, torch.ones(1, 1), t).round(decimals=3)
    tensor([[2.]])
    """
    return (x_t - expand(schedule.alpha(t), x_t) * x0) / expand(schedule.sigma(t), x_t)


class Preconditioned(Denoiser):
    """A denoiser made of a network and a noise schedule.

    Parameters
    ----------
    network
        Called as ``network(inputs, log_noise)``. The inputs have the shape of x_t, and ``log(sigma / alpha)`` is a 0-d
        tensor or has one value per batch item.
    schedule
        The diffusion process.
    parameterization
        Prediction of the network: "edm", "v", "x0" or "eps". The first two stay bounded at every noise level.
    data_std
        Standard deviation of the (scaled) data, for "edm".
    masked
        Whether the last channels of the context, one for each channel of the state, say where the state has values (1)
        and where it has none (0). There the network reads zero and the denoised state is zero.
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule,
        parameterization: str = "edm",
        data_std: float = 1.0,
        masked: bool = False,
    ):
        super().__init__()
        if parameterization not in PARAMETERIZATIONS:
            raise ValueError(f"parameterization={parameterization!r} is unknown; choose one of {PARAMETERIZATIONS}")
        self.network = network
        self.schedule = schedule
        self.parameterization = parameterization
        self.data_std = data_std
        self.masked = masked
        self.context: Tensor | None = None

    def conditioned(self, context: Tensor | None) -> Preconditioned:
        """Return the same denoiser with ``context`` (batch or 1, time or 1, channel, *space) and shared weights."""
        other = copy.copy(self)
        other.context = context
        return other

    def with_network(self, network: nn.Module) -> Preconditioned:
        """Return the same denoiser with another form of its network."""
        other = Preconditioned(network, self.schedule, self.parameterization, self.data_std, self.masked)
        return other.conditioned(self.context)

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return (skip, out, in) such that E[x_0 | x_t] = skip x_t + out network(in x_t)."""
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        one = torch.ones_like(alpha)
        if self.parameterization == "edm":
            total = alpha**2 * self.data_std**2 + sigma**2
            return alpha * self.data_std**2 / total, sigma * self.data_std / total.sqrt(), total.rsqrt()
        if self.parameterization == "v":
            total = alpha**2 + sigma**2
            return alpha / total, -sigma * total.rsqrt(), total.rsqrt()
        if self.parameterization == "x0":
            return torch.zeros_like(alpha), one, (alpha**2 + sigma**2).rsqrt()
        return 1 / alpha, -sigma / alpha, (alpha**2 + sigma**2).rsqrt()

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        valid = None
        if self.masked and self.context is not None:
            valid = self.context[:, :, -x_t.shape[2] :].to(x_t.dtype)
            x_t = x_t * valid
        skip, out, scale = (expand(c, x_t) for c in self.coefficients(t))
        log_noise = torch.log(self.schedule.noise_level(t)).to(x_t.dtype)
        inputs = (scale * x_t, log_noise) if self.context is None else (scale * x_t, log_noise, self.context)
        x0 = skip * x_t + out * self.network(*inputs).to(x_t.dtype)
        return x0 if valid is None else x0 * valid
