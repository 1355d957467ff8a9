r"""Exact denoisers of a Gaussian and of a mixture of Gaussians.

For x_0 ~ N(m, C) with C = U diag(l) U',

.. math:: E[x_0 | x_t] = m + U \,\mathrm{diag}\!\left(\frac{\alpha l}{\alpha^2 l + \sigma^2}\right) U' (x_t - \alpha m).

For a mixture it is the average of this over the components, with their probabilities given x_t. The posterior of a
Gaussian prior under linear observations is also known, so it serves to test every guidance method. Here covariances are
full matrices; ``xsda.priors.separable`` has the Gaussian whose covariance is a product over the axes.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from xsda.diffusion.denoisers import Denoiser
from xsda.diffusion.schedules import VE, Schedule

EXACT_SCHEDULE = VE(sigma_min=1e-4, sigma_max=100.0)
PIECE = 4096  # patterns whose covariances in time are held at once
FLOOR = 1e-12  # added to the diagonal of covariances of known states, relative to its mean


class ExactDenoiser(Denoiser, ABC):
    """Base class of denoisers in closed form, which can also draw states and compute their log-probability."""

    @classmethod
    @abstractmethod
    def from_state(cls, state: dict[str, Tensor], schedule: Schedule) -> ExactDenoiser:
        """Build the denoiser from the tensors of ``state_dict()``, as a file stores them.

        Parameters
        ----------
        state
            Names and tensors.
        schedule
            The diffusion process.

        Returns
        -------
        ExactDenoiser
            The denoiser.
        """

    @abstractmethod
    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw exact samples of x_0.

        Parameters
        ----------
        count
            Number of samples.
        generator
            Source of the random numbers.

        Returns
        -------
        Tensor
            Samples (count, time, channel, *space).
        """

    @abstractmethod
    def log_prob(self, x0: Tensor) -> Tensor:
        """Compute log p of states in closed form.

        Parameters
        ----------
        x0
            States (batch, time, channel, *space).

        Returns
        -------
        Tensor
            log p of each state, (batch,).
        """

    def extended(self, first: Tensor, noise_level: Tensor) -> Tensor:
        """Return by how much E[x_0 | x_t] changes if the first states deviate from it, if that has a closed form.

        Parameters
        ----------
        first
            Deviations of the first states, (batch, known, channel, *space).
        noise_level
            One noise level.

        Returns
        -------
        Tensor
            Change of all states, (batch, time, channel, *space). That of the first states is ``first`` itself.
        """
        raise TypeError(f"{type(self).__name__} has no closed form for given first states")

    def mean_square(self, noise_level: Tensor) -> Tensor:
        """Return E|x_0 - E[x_0 | x_t]|^2 of each channel, if it has a closed form.

        Parameters
        ----------
        noise_level
            One noise level.

        Returns
        -------
        Tensor
            Mean squared error, (channel,).
        """
        raise TypeError(f"the mean squared error of {type(self).__name__} has no closed form")


class MixtureDenoiser(ExactDenoiser):
    """Exact denoiser of a mixture of Gaussians over flattened states of N numbers.

    Parameters
    ----------
    means
        (component, N).
    values, vectors
        Eigenvalues (component, N) and eigenvectors (component, N, N) of the covariances.
    weights
        Probability of each component, (component,).
    shape
        Shape of one state, as a tensor.
    schedule
        The diffusion process.
    """

    means: Tensor
    values: Tensor
    vectors: Tensor
    weights: Tensor
    shape: Tensor

    def __init__(
        self, means: Tensor, values: Tensor, vectors: Tensor, weights: Tensor, shape: Tensor, schedule: Schedule
    ):
        super().__init__()
        self.schedule = schedule
        for name, value in (("means", means), ("values", values), ("vectors", vectors), ("weights", weights)):
            self.register_buffer(name, value)
        self.register_buffer("shape", shape)

    @classmethod
    def of(
        cls, means: Tensor, covs: Tensor, weights: Tensor, shape: tuple[int, ...], schedule: Schedule = EXACT_SCHEDULE
    ) -> MixtureDenoiser:
        """Build the denoiser from means and covariances.

        Parameters
        ----------
        means
            (component, N).
        covs
            (component, N, N).
        weights
            Probability of each component, (component,).
        shape
            Shape of one state.
        schedule
            The diffusion process.

        Returns
        -------
        MixtureDenoiser
            The denoiser.
        """
        values, vectors = torch.linalg.eigh(covs.double())
        parts = (means, values.clamp(min=0), vectors, weights)
        m, v, u, w = (p.float().contiguous() for p in parts)
        return cls(m, v, u, w, torch.tensor(shape, dtype=torch.int64), schedule)

    @classmethod
    def from_state(cls, state: dict[str, Tensor], schedule: Schedule) -> MixtureDenoiser:
        return cls(**{k: state[k] for k in ("means", "values", "vectors", "weights", "shape")}, schedule=schedule)

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        alpha = self.schedule.alpha(t).to(x_t).reshape(-1, 1, 1)
        sigma = self.schedule.sigma(t).to(x_t).reshape(-1, 1, 1)
        flat = x_t.flatten(1)
        # coordinates along the eigenvectors of each component, (batch, component, N)
        along = torch.einsum("kij,bki->bkj", self.vectors, flat[:, None] - alpha * self.means)
        total = alpha**2 * self.values + sigma**2
        x0 = self.means + torch.einsum("kij,bkj->bki", self.vectors, alpha * self.values / total * along)
        if len(self.weights) == 1:
            return x0[:, 0].reshape(x_t.shape)
        log_p = -(along**2 / total + total.log()).sum(-1) / 2 + self.weights.log()
        return torch.einsum("bk,bki->bi", log_p.softmax(1), x0).reshape(x_t.shape)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        which = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        z = torch.randn(count, self.means.shape[1], generator=generator) * self.values[which].sqrt()
        x = (
            self.means[which] + torch.einsum("bij,bj->bi", self.vectors[which], z)
            if len(self.weights) > 1
            else (self.means[0] + z @ self.vectors[0].T)
        )
        return x.reshape(count, *self.shape.tolist())

    def log_prob(self, x0: Tensor) -> Tensor:
        along = torch.einsum(
            "kij,bki->bkj", self.vectors.double(), x0.double().flatten(1)[:, None] - self.means.double()
        )
        values = self.values.double()
        each = -(along**2 / values + values.log() + math.log(2 * math.pi)).sum(-1) / 2 + self.weights.double().log()
        return each.logsumexp(1)


class GaussianDenoiser(MixtureDenoiser):
    """Exact denoiser of a single Gaussian. The parameters are those of ``MixtureDenoiser`` with one component."""

    def mean_square(self, noise_level: Tensor) -> Tensor:
        values, vectors, noise = self.values[0].double(), self.vectors[0].double(), noise_level.double() ** 2
        left = vectors**2 @ (values * noise / (values + noise))
        return left.reshape(self.shape.tolist()).transpose(0, 1).flatten(1).mean(1)

    def extended(self, first: Tensor, noise_level: Tensor) -> Tensor:
        values, vectors, noise = self.values[0].double(), self.vectors[0].double(), noise_level.double() ** 2
        known = first[0].numel()  # numbers, which come first in a flattened state
        across = (vectors * (values * noise / (values + noise))) @ vectors[:known].T
        weight = solved(across[:known], first.flatten(1).double().T)
        return (across @ weight).T.to(first).reshape(len(first), *self.shape.tolist())


def extended_in_time(first: Tensor, left: Tensor, vectors: Tensor) -> Tensor:
    """Extend the first values of independent patterns to all times.

    Parameters
    ----------
    first
        (batch, known, pattern).
    left
        Variances of each pattern along the eigenvectors in time, (rank, pattern).
    vectors
        These eigenvectors, (time, rank).

    Returns
    -------
    Tensor
        (batch, time, pattern).
    """
    known, parts = first.shape[1], []
    for own, some in zip(left.split(PIECE, 1), first.double().split(PIECE, 2), strict=True):
        across = torch.einsum("tr,rp,kr->ptk", vectors.double(), own.double(), vectors[:known].double())
        weight = solved(across[:, :known], some.permute(2, 1, 0))
        parts.append((across @ weight).permute(2, 1, 0))
    return torch.cat(parts, 2).to(first)


def solved(cov: Tensor, values: Tensor) -> Tensor:
    """Return cov^-1 values, where directions without variance count nothing."""
    size = cov.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    eye = torch.eye(cov.shape[-1], dtype=cov.dtype, device=cov.device)
    scaled = cov / size.clamp(min=1e-300) + FLOOR * eye
    return torch.linalg.solve(scaled, values) / size.clamp(min=1e-300) * (size > 0)
