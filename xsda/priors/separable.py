r"""The Gaussian whose covariance is a product over the axes: optimal interpolation with millions of numbers.

For x_0 ~ N(m, C) with C = C_time (x) C_channel (x) C_y (x) C_x, and the eigenvectors and eigenvalues of each factor,
C_i = U_i diag(l_i) U_i',

.. math:: E[x_0 | x_t] = m + U \,\mathrm{diag}\!\left(\frac{\alpha l}{\alpha^2 l + \sigma^2}\right) U' (x_t - \alpha m),
   \qquad U = \bigotimes_i U_i, \quad l = \bigotimes_i l_i .

U is applied to one axis after the other. This takes N (n_1 + n_2 + ...) operations, where the full matrix would take
N^2, and only the memory of the state. Kronecker methods for Gaussian processes use the same factors (Saatci 2011).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from xsda.diffusion.schedules import VE, Schedule, expand
from xsda.priors.exact import EXACT_SCHEDULE, ExactDenoiser, extended_in_time

NEGLIGIBLE = 1e-12  # eigenvalues below this fraction of the largest are rounding errors
REACH = 30.0  # final noise, relative to the largest mean or standard deviation of any pattern


class SeparableDenoiser(ExactDenoiser):
    """Exact denoiser of a Gaussian with one covariance factor per axis.

    Parameters
    ----------
    mean
        Mean, which broadcasts to a state (time, channel, *space).
    factors
        For each of these axes, the eigenvalues (rank,) and eigenvectors (size, rank) of its covariance. Directions
        without variance may be omitted.
    schedule
        The diffusion process.
    """

    mean: Tensor

    def __init__(self, mean: Tensor, factors: Sequence[tuple[Tensor, Tensor]], schedule: Schedule):
        super().__init__()
        self.schedule = schedule
        self.register_buffer("mean", mean)
        for axis, (values, vectors) in enumerate(factors):
            self.register_buffer(f"values_{axis}", values)
            self.register_buffer(f"vectors_{axis}", vectors)
        self.axes = len(factors)

    @classmethod
    def of(cls, mean: Tensor, covs: Sequence[Tensor], schedule: Schedule = EXACT_SCHEDULE) -> SeparableDenoiser:
        """Build the denoiser from the mean and the covariance of each axis.

        Parameters
        ----------
        mean
            Mean, which broadcasts to a state.
        covs
            One covariance matrix for each axis.
        schedule
            The diffusion process.

        Returns
        -------
        SeparableDenoiser
            The denoiser.
        """
        factors = []
        for cov in covs:
            values, vectors = torch.linalg.eigh(cov.double())
            kept = values > NEGLIGIBLE * values[-1]
            factors.append((values[kept].float(), vectors[:, kept].float().contiguous()))
        return cls(mean.float().contiguous(), factors, schedule)

    @classmethod
    def from_state(cls, state: dict[str, Tensor], schedule: Schedule) -> SeparableDenoiser:
        axes = range(state["mean"].ndim)
        return cls(state["mean"], [(state[f"values_{a}"], state[f"vectors_{a}"]) for a in axes], schedule)

    @property
    def factors(self) -> list[tuple[Tensor, Tensor]]:
        """Eigenvalues and eigenvectors of each axis."""
        return [(self.get_buffer(f"values_{a}"), self.get_buffer(f"vectors_{a}")) for a in range(self.axes)]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one state, (time, channel, *space)."""
        return tuple(len(vectors) for _, vectors in self.factors)

    @property
    def spectrum(self) -> Tensor:
        """All eigenvalues, with one axis per factor."""
        product = torch.ones((), dtype=self.mean.dtype, device=self.mean.device)
        for values, _ in self.factors:
            product = product[..., None] * values
        return product

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = expand(self.schedule.alpha(t), x_t), expand(self.schedule.sigma(t), x_t)
        values = self.spectrum
        gain = alpha * values / (alpha**2 * values + sigma**2)
        return self.mean + self.synthesise(gain * self.analyse(x_t - alpha * self.mean))

    def analyse(self, x: Tensor) -> Tensor:
        """Return U' x, the coordinates along the eigenvectors."""
        for axis, vectors in self._turns():
            x = _along(x, vectors.mT, axis + 1)
        return x

    def synthesise(self, along: Tensor) -> Tensor:
        """Return U applied to coordinates along the eigenvectors."""
        for axis, vectors in reversed(self._turns()):
            along = _along(along, vectors, axis + 1)
        return along

    def _turns(self) -> list[tuple[int, Tensor]]:
        """Axes and eigenvectors. Those with the smallest rank come first, so that fewer numbers remain."""
        vectors = [v for _, v in self.factors]
        return sorted(enumerate(vectors), key=lambda turn: turn[1].shape[1] / turn[1].shape[0])

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        values = self.spectrum
        z = torch.randn(count, *values.shape, generator=generator)
        return self.mean + self.synthesise(z * values.sqrt())

    def log_prob(self, x0: Tensor) -> Tensor:
        values = torch.ones((), dtype=torch.float64)
        along = x0.double() - self.mean.double()
        for axis, (own, vectors) in enumerate(self.factors):
            if len(own) < len(vectors):
                raise ValueError(
                    f"the covariance along axis {axis} of (time, channel, *space) has rank {len(own)} of "
                    f"{len(vectors)}, so there is no density; add a small number to the diagonal of that factor"
                )
            values = values[..., None] * own.double()
            along = _along(along, vectors.double().mT, axis + 1)
        return -(along**2 / values + values.log() + math.log(2 * math.pi)).flatten(1).sum(1) / 2

    def extended(self, first: Tensor, noise_level: Tensor) -> Tensor:
        for axis, vectors in self._turns():
            if axis:
                first = _along(first, vectors.mT, axis + 1)
        values, noise = self.spectrum.double(), noise_level.double() ** 2
        left = (values * noise / (values + noise)).flatten(1)
        along = extended_in_time(first.flatten(2), left, self.factors[0][1]).unflatten(2, first.shape[2:])
        for axis, vectors in reversed(self._turns()):
            if axis:
                along = _along(along, vectors, axis + 1)
        return along

    def mean_square(self, noise_level: Tensor) -> Tensor:
        values = self.spectrum
        noise = noise_level.to(values) ** 2
        left = (values * noise).div_(values + noise).sum([a for a in range(self.axes) if a != 1]).double()
        places = math.prod(self.shape) / self.shape[1]
        # eigenvectors have length one, so only the sum over the averaged axes matters
        return self.factors[1][1].double() ** 2 @ left / places

    def neighbours(self, noise_level: Tensor) -> Tensor:
        """Return the correlation of neighbouring errors along time and each space axis, (axis,), at one noise level."""
        values = self.spectrum
        noise = noise_level.to(values) ** 2
        left = (values * noise).div_(values + noise)
        found = []
        for axis in (0, *range(2, self.axes)):
            vectors = self.factors[axis][1].double()
            weight = left.sum([a for a in range(self.axes) if a != axis], dtype=torch.float64)
            pairs = (vectors[1:] * vectors[:-1]).mean(0) @ weight if len(vectors) > 1 else weight.sum() * 0
            found.append(pairs / (weight.sum() / len(vectors)))
        return torch.stack(found)


def reaching(denoiser: SeparableDenoiser) -> Schedule:
    """Choose a schedule whose final state is pure noise for the mean and covariance of this denoiser.

    Samplers start from noise of mean zero. The pattern of one eigenvector can vary up to sqrt(N) times as much as a
    single number. If sigma ended at 100, such a pattern would come out with a wrong mean and too little variance.

    Parameters
    ----------
    denoiser
        The denoiser.

    Returns
    -------
    Schedule
        A VE schedule with a sufficiently large final noise.

    Examples
    --------
    >>> from xsda.priors.separable import SeparableDenoiser, reaching
    >>> reaching(SeparableDenoiser.of(torch.zeros(1, 1), [torch.tensor([[400.0]]), torch.eye(1)])).sigma_max
    600.0
    """
    largest = math.sqrt(float(denoiser.spectrum.max()))
    offset = float(denoiser.analyse(denoiser.mean.expand(denoiser.shape)[None]).abs().max())
    return VE(EXACT_SCHEDULE.sigma_min, max(EXACT_SCHEDULE.sigma_max, REACH * max(largest, offset)))


def _along(x: Tensor, matrix: Tensor, axis: int) -> Tensor:
    """Apply a matrix along one axis of a tensor."""
    if matrix.shape == (1, 1):
        return x * matrix[0, 0]
    if axis == x.ndim - 1:
        return x @ matrix.mT
    shape = x.shape
    out = matrix @ x.reshape(math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :]))
    return out.reshape(*shape[:axis], len(matrix), *shape[axis + 1 :])
