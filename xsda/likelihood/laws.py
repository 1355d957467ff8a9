r"""Laws of the observation error, and what an uncertain prediction makes of them.

While sampling, the observed quantity is not known, only estimated: h ~ N(h_hat, v). A law therefore answers with the
*evidence*

.. math:: Z(d, v) = \int p(y | h)\, N(h; \hat h, v)\, dh, \qquad d = y - \hat h,

in closed form (Gaussian, Huber, censored) or by quadrature (Student-t); v = 0 gives the likelihood itself. Methods that
solve a linear system use the Gaussian observation that has the same score there: the *site* of expectation propagation.
All functions work element by element; ``std`` is the error's scale.
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
    """The law of an observation error of scale ``std``."""

    @abstractmethod
    def log_evidence(self, innovation: Tensor, std: Tensor, variance: Tensor) -> Tensor:
        """log Z(d, v)."""

    def score(self, innovation: Tensor, std: Tensor, variance: Tensor) -> Tensor:
        """The derivative of log Z with respect to the prediction."""
        with torch.enable_grad():
            d = innovation.detach().double().requires_grad_()
            total = self.log_evidence(d, std.double(), variance.double()).sum()
            return -torch.autograd.grad(total, d)[0].to(innovation.dtype)

    def site(self, innovation: Tensor, std: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Innovation and error variance of the Gaussian observation with the same score; by reweighting."""
        d, std, variance = innovation.double(), std.double(), variance.double()
        least = 1e-4 * torch.sqrt(std**2 + variance)
        d = torch.where(d.abs() < least, least, d)
        precision = (self.score(d, std, variance) / d).clamp(min=1e-12)
        # never zero: that is what is left by rounding where the variance is all that counts
        return innovation, torch.maximum(1 / precision - variance, 1e-3 * std**2).to(innovation)

    def deviance(self, innovation: Tensor, std: Tensor) -> Tensor:
        """-2 log p(y | h) above its least: the squared innovation in standard deviations, where errors are Gaussian."""
        nothing = torch.zeros_like(innovation)
        return 2 * (self.log_evidence(nothing, std, nothing) - self.log_evidence(innovation, std, nothing))

    def bind(self, values: np.ndarray) -> ErrorLaw:
        """The law of these observed values, in the units of the user."""
        return self

    def limited(self, values: np.ndarray) -> np.ndarray:
        """The observed values as the law reads them."""
        return values

    def to(self, device: torch.device, dtype: torch.dtype) -> ErrorLaw:
        """The same law on another device."""
        return self

    def __str__(self) -> str:
        return repr(self)


@dataclass(frozen=True, kw_only=True)
class Normal(ErrorLaw):
    """Gaussian errors."""

    def log_evidence(self, innovation: Tensor, std: Tensor, variance: Tensor) -> Tensor:
        total = std**2 + variance
        return -(innovation**2 / total + total.log()) / 2 - HALF_LOG_2PI

    def score(self, innovation: Tensor, std: Tensor, variance: Tensor) -> Tensor:
        return innovation / (std**2 + variance)

    def site(self, innovation: Tensor, std: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        return innovation, std**2 + torch.zeros_like(innovation)


@dataclass(frozen=True, kw_only=True)
class StudentT(ErrorLaw):
    """Errors with heavy tails: a gross error counts less the grosser it is.

    A Student-t error is a Gaussian one of variance std^2 / lambda with a Gamma-distributed lambda; the evidence sums
    over lambda by the trapezoidal rule in its logarithm.

    Parameters
    ----------
    df
        Degrees of freedom; small is heavy-tailed, 30 is nearly Gaussian. ``std`` is the scale, not the standard
        deviation, which is sqrt(df / (df - 2)) times larger.
    """

    df: float = 4.0

    def __post_init__(self) -> None:
        real_number(
            "df", self.df, "lie between 1 and 1000: it is a number of degrees of freedom (3 to 7 are usual; beyond a hundred take "
            "the Gaussian law)", least=1, most=1000,
        )  # fmt: skip

    def _sums(self, innovation: Tensor, std: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """log Z, and the mean of one over the total variance; one node after the other, to save memory."""
        step = min(0.5, 1.5 / math.sqrt(self.df))
        half = self.df / 2
        constant = half * math.log(half) - math.lgamma(half) + math.log(step) - HALF_LOG_2PI
        top = torch.full_like(innovation + variance, -math.inf)  # the largest logarithm so far; sums are relative to it
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
    """Gaussian errors with exponential tails beyond ``threshold`` standard deviations."""

    threshold: float = 1.345

    def __post_init__(self) -> None:
        real_number("threshold", self.threshold, "be positive: it is a number of standard deviations", above=0)

    def _pieces(self, innovation: Tensor, std: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Logarithms of what errors within the threshold, above and below it have in Z; mean of those within."""
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
        """The mean of the errors, each counted up to the threshold."""
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
    """A detection limit or a saturated instrument: values at a limit only say that the truth (plus error) is beyond.

    Parameters
    ----------
    lower, upper
        Limits in the units of the variable: an observation of ``lower`` or less, or of ``upper`` or more, is read as
        "at most" or "at least" the limit. Between them errors are Gaussian.
    """

    lower: float | None = None
    upper: float | None = None
    side: Tensor | None = field(
        default=None, repr=False, compare=False
    )  # -1 at the lower limit, +1 at the upper, else 0

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
        # files hold single precision: 0.2 is written as 0.200000003
        low = values <= (-math.inf if self.lower is None else self.lower + 1e-6 * abs(self.lower))
        high = values >= (math.inf if self.upper is None else self.upper - 1e-6 * abs(self.upper))
        return replace(self, side=torch.as_tensor(high.astype(np.float32) - low.astype(np.float32)))

    def limited(self, values: np.ndarray) -> np.ndarray:
        return np.clip(values, self.lower, self.upper)

    def to(self, device: torch.device, dtype: torch.dtype) -> ErrorLaw:
        return replace(self, side=None if self.side is None else self.side.to(device, dtype))

    def _beyond(self, innovation: Tensor, std: Tensor, variance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.side is None:
            raise ValueError("a censored law must be bound to its observations first: law.bind(values)")
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
        """By the second derivative: the law is log-concave."""
        side, z, deviation = self._beyond(innovation.double(), std.double(), variance.double())
        hazard = _hazard(z)
        # what the prediction's precision is multiplied by; one far beyond the limit, where the difference is all rounding
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
