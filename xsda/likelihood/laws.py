r"""Probability laws of the observation error, and their use with an uncertain prediction.

During sampling the observed quantity h is not known exactly. It is estimated as h ~ N(h_hat, v). A law therefore
returns the *evidence*

.. math:: Z(d, v) = \int p(y | h)\, N(h; \hat h, v)\, dh, \qquad d = y - \hat h,

in closed form (Gaussian, Huber, censored) or by quadrature (Student-t). With v = 0 it is the likelihood itself. Methods
that solve a linear system replace the law by the Gaussian observation that has the same score at this point, the *site*
of expectation propagation. All functions work element by element; ``std`` is the scale of the error.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from xsda.arguments import real_number

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


@dataclass(frozen=True, kw_only=True)
class ErrorLaw(ABC):
    """Base class of the laws of an observation error of scale ``std``; a law of your own defines ``log_evidence``."""

    @abstractmethod
    def log_evidence(self, innovation: Tensor, std: Tensor, variance: Tensor) -> Tensor:
        """Return log Z(d, v).

        Parameters
        ----------
        innovation
            Observed minus predicted value, d.
        std
            Scale of the observation error.
        variance
            Variance of the prediction, v.

        Returns
        -------
        Tensor
            One value for each observation.
        """

    def score(self, innovation: Tensor, std: Tensor, variance: Tensor) -> Tensor:
        """Return the derivative of log Z with respect to the prediction."""
        with torch.enable_grad():
            d = innovation.detach().double().requires_grad_()
            total = self.log_evidence(d, std.double(), variance.double()).sum()
            return -torch.autograd.grad(total, d)[0].to(innovation.dtype)

    def site(self, innovation: Tensor, std: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Return the innovation and error variance of the Gaussian observation with the same score."""
        d, std, variance = innovation.double(), std.double(), variance.double()
        least = 1e-4 * torch.sqrt(std**2 + variance)
        d = torch.where(d.abs() < least, least, d)
        precision = (self.score(d, std, variance) / d).clamp(min=1e-12)
        # rounding could leave zero where the variance of the prediction dominates
        return innovation, torch.maximum(1 / precision - variance, 1e-3 * std**2).to(innovation)

    def deviance(self, innovation: Tensor, std: Tensor) -> Tensor:
        """Return -2 log p(y | h) minus its minimum.

        For Gaussian errors this is the squared innovation in standard deviations.
        """
        nothing = torch.zeros_like(innovation)
        return 2 * (self.log_evidence(nothing, std, nothing) - self.log_evidence(innovation, std, nothing))

    def bind(self, values: np.ndarray) -> ErrorLaw:
        """Return the law for these observed values, in the units of the user."""
        return self

    def limited(self, values: np.ndarray) -> np.ndarray:
        """Return the observed values as the law uses them."""
        return values

    def to(self, device: torch.device, dtype: torch.dtype) -> ErrorLaw:
        """Return the same law on another device."""
        return self

    def __str__(self) -> str:
        return repr(self)


@dataclass(frozen=True, kw_only=True)
class Normal(ErrorLaw):
    """Gaussian errors.

    Examples
    --------
    >>> law = xsda.likelihood.Normal()
    >>> law.score(torch.tensor(2.0), torch.tensor(1.0), torch.tensor(3.0))
    tensor(0.5000)
    """

    def log_evidence(self, innovation: Tensor, std: Tensor, variance: Tensor) -> Tensor:
        total = std**2 + variance
        return -(innovation**2 / total + total.log()) / 2 - HALF_LOG_2PI

    def score(self, innovation: Tensor, std: Tensor, variance: Tensor) -> Tensor:
        return innovation / (std**2 + variance)

    def site(self, innovation: Tensor, std: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        return innovation, std**2 + torch.zeros_like(innovation)


@dataclass(frozen=True, kw_only=True)
class StudentT(ErrorLaw):
    """Errors with heavy tails: the larger a gross error, the smaller its weight.

    Use it if some observations may be plainly wrong. A Student-t error is a Gaussian error of variance std^2 / lambda
    with a Gamma-distributed lambda. The evidence is a sum over log(lambda) by the trapezoidal rule.

    Parameters
    ----------
    df
        Degrees of freedom. Small values give heavy tails, 30 is nearly Gaussian. ``std`` is the scale; the standard
        deviation is sqrt(df / (df - 2)) times larger.

    Examples
    --------
    >>> law = xsda.likelihood.StudentT(df=4)
    >>> law.score(torch.tensor([1.0, 10.0]), torch.tensor(1.0), torch.tensor(0.0)).round(decimals=2)
    tensor([1.0000, 0.4800])
    """

    df: float = 4.0

    def __post_init__(self) -> None:
        real_number(
            "df",
            self.df,
            "lie between 1 and 1000: it is a number of degrees of freedom (3 to 7 are usual; above a hundred use the "
            "Gaussian law)",
            least=1,
            most=1000,
        )

    def _sums(self, innovation: Tensor, std: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """log Z, and the mean of the inverse total variance. Nodes are summed one by one to save memory."""
        step = min(0.5, 1.5 / math.sqrt(self.df))
        half = self.df / 2
        constant = half * math.log(half) - math.lgamma(half) + math.log(step) - HALF_LOG_2PI
        top = torch.full_like(innovation + variance, -math.inf)  # largest logarithm so far; sums are relative to it
        sums, inverse = torch.zeros_like(top), torch.zeros_like(top)
        for k in range(math.ceil(24 / step)):
            u = -20 + k * step
            total = std**2 / math.exp(u) + variance
            log_weight = half * (u - math.exp(u)) + constant - (innovation**2 / total + total.log()) / 2
            new = torch.maximum(top, log_weight)
            shrink, own = torch.exp(top - new), torch.exp(log_weight - new)
            sums, inverse, top = sums * shrink + own, inverse * shrink + own / total, new
        return top + sums.log(), inverse / sums

    def log_evidence(self, innovation: Tensor, std: Tensor, variance: Tensor) -> Tensor:
        return self._sums(innovation, std, variance)[0]

    def score(self, innovation: Tensor, std: Tensor, variance: Tensor) -> Tensor:
        return innovation * self._sums(innovation, std, variance)[1]


@dataclass(frozen=True, kw_only=True)
class Huber(ErrorLaw):
    """Gaussian errors with exponential tails: gross errors have a bounded weight.

    Parameters
    ----------
    threshold
        Size, in standard deviations, at which the tails begin.

    Examples
    --------
    >>> law = xsda.likelihood.Huber(threshold=1.5)
    >>> law.score(torch.tensor([1.0, 10.0]), torch.tensor(1.0), torch.tensor(0.0)).round(decimals=2)
    tensor([1.0000, 1.5000])
    """

    threshold: float = 1.345

    def __post_init__(self) -> None:
        real_number("threshold", self.threshold, "be positive: it is a number of standard deviations", above=0)

    def _pieces(self, innovation: Tensor, std: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Logarithms of the three parts of Z (errors inside, above, below), and the mean of the errors inside."""
        k = self.threshold
        a, v = innovation / std, (variance / std**2).clamp(min=1e-8)  # in units of std
        s, q = v.sqrt(), torch.sqrt(v / (1 + v))
        m = a / (1 + v)
        low, high = (-k - m) / q, (k - m) / q
        inside = _log_interval(low, high)
        middle = -(a**2) / (2 * (1 + v)) - torch.log1p(v) / 2 + inside
        slope = torch.exp(-(low**2) / 2 - HALF_LOG_2PI - inside) - torch.exp(-(high**2) / 2 - HALF_LOG_2PI - inside)
        mean = torch.nan_to_num(m + q * slope).clamp(-k, k)
        return torch.stack([middle, _log_tail(a, s, k), _log_tail(-a, s, k)]), mean

    def log_evidence(self, innovation: Tensor, std: Tensor, variance: Tensor) -> Tensor:
        k = self.threshold
        area = math.sqrt(2 * math.pi) * math.erf(k / math.sqrt(2)) + 2 * math.exp(-(k**2) / 2) / k
        return self._pieces(innovation, std, variance)[0].logsumexp(0) - std.log() - math.log(area)

    def score(self, innovation: Tensor, std: Tensor, variance: Tensor) -> Tensor:
        """Return the mean of the errors, each limited to the threshold."""
        pieces, mean = self._pieces(innovation.double(), std.double(), variance.double())
        within, above, below = pieces.softmax(0)
        return ((within * mean + self.threshold * (above - below)) / std).to(innovation)


def _log_interval(low: Tensor, high: Tensor) -> Tensor:
    """log(Phi(high) - Phi(low))."""
    flip = low > 0
    low, high = torch.where(flip, -high, low), torch.where(flip, -low, high)
    top, bottom = torch.special.log_ndtr(high), torch.special.log_ndtr(low)
    return top + torch.log1p(-torch.exp((bottom - top).clamp(max=-1e-12)))


def _log_tail(a: Tensor, s: Tensor, k: float) -> Tensor:
    """log of the integral of exp(k^2 / 2 - k z) N(z; a, s^2) over z > k."""
    w = k * s + (k - a) / s
    above = k**2 / 2 - k * a + k**2 * s**2 / 2 + torch.special.log_ndtr(-w.clamp(max=0))
    scaled = torch.special.erfcx(w.clamp(min=0) / math.sqrt(2))
    below = -(k**2) / 2 - (k - a) ** 2 / (2 * s**2) + torch.log(scaled / 2)
    return torch.where(w > 0, below, above)


@dataclass(frozen=True, kw_only=True)
class Censored(ErrorLaw):
    """Errors of a sensor with a detection limit or saturation: a value at a limit only bounds the truth.

    Parameters
    ----------
    lower, upper
        Limits in the units of the observations. An observation of ``lower`` or less means "at most ``lower``", one of
        ``upper`` or more means "at least ``upper``". Between the limits errors are Gaussian.

    Examples
    --------
    >>> law = xsda.likelihood.Censored(lower=0.2).bind(np.array([0.2, 1.0]))
    >>> law.score(torch.zeros(2), torch.ones(2), torch.zeros(2)).round(decimals=2)
    tensor([-0.8000, 0.0000])
    """

    lower: float | None = None
    upper: float | None = None
    # -1 at the lower limit, +1 at the upper limit, else 0
    side: Tensor | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.lower is None and self.upper is None:
            raise ValueError("a censored law needs lower=... or upper=... (a limit in the units of the variable)")
        for name in ("lower", "upper"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, real_number(name, value, "be in the units of the variable"))
        if self.lower is not None and self.upper is not None and not self.lower < self.upper:
            raise ValueError(f"lower={self.lower} must be less than upper={self.upper}")

    def bind(self, values: np.ndarray) -> ErrorLaw:
        # files store single precision: 0.2 becomes 0.200000003
        low = values <= (-math.inf if self.lower is None else self.lower + 1e-6 * abs(self.lower))
        high = values >= (math.inf if self.upper is None else self.upper - 1e-6 * abs(self.upper))
        return replace(self, side=torch.as_tensor(high.astype(np.float32) - low.astype(np.float32)))

    def limited(self, values: np.ndarray) -> np.ndarray:
        return np.clip(values, self.lower, self.upper)

    def to(self, device: torch.device, dtype: torch.dtype) -> ErrorLaw:
        return replace(self, side=None if self.side is None else self.side.to(device, dtype))

    def _beyond(self, innovation: Tensor, std: Tensor, variance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.side is None:
            raise ValueError("a censored law needs its observations first; call law.bind(values)")
        deviation = torch.sqrt(std**2 + variance)
        side = self.side.to(innovation)
        return side, -side * innovation / deviation, deviation

    def deviance(self, innovation: Tensor, std: Tensor) -> Tensor:
        side, z, _ = self._beyond(innovation, std, torch.zeros_like(innovation))
        return torch.where(side == 0, (innovation / std) ** 2, -2 * torch.special.log_ndtr(z))

    def log_evidence(self, innovation: Tensor, std: Tensor, variance: Tensor) -> Tensor:
        side, z, _ = self._beyond(innovation, std, variance)
        return torch.where(side == 0, Normal().log_evidence(innovation, std, variance), torch.special.log_ndtr(z))

    def score(self, innovation: Tensor, std: Tensor, variance: Tensor) -> Tensor:
        side, z, deviation = self._beyond(innovation, std, variance)
        return torch.where(side == 0, innovation / deviation**2, side * _hazard(z) / deviation)

    def site(self, innovation: Tensor, std: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Use the second derivative, because the law is log-concave."""
        side, z, deviation = self._beyond(innovation.double(), std.double(), variance.double())
        hazard = _hazard(z)
        # factor of the precision of the prediction; one far beyond the limit, where rounding errors dominate
        share = torch.where(z < -1e4, 1, hazard * (z + hazard)).clamp(1e-12, 1)
        beyond = (std**2 + variance * (1 - share)) / share
        return (
            torch.where(side == 0, innovation, (side * hazard * deviation / share).to(innovation)),
            torch.where(side == 0, std**2 + torch.zeros_like(innovation), beyond.to(innovation)),
        )


def _hazard(z: Tensor) -> Tensor:
    """phi(z) / Phi(z)."""
    return math.sqrt(2 / math.pi) / torch.special.erfcx(-z / math.sqrt(2))


LAWS: dict[str, type[ErrorLaw]] = {"gaussian": Normal, "student_t": StudentT, "huber": Huber}
