"""Laws of errors against numerical integration: what an uncertain prediction makes of them."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from xsda.likelihood import Censored, Huber, Normal, StudentT

STD = 0.7
INNOVATIONS = STD * np.array([-30, -11, -5, -1.345, -0.5, -0.01, 0, 0.2, 1, 3, 7, 20, 30])
VARIANCES = [0.0, 0.01, 1.0, 1e4]
LAWS = {
    "normal": Normal(),
    "student 2": StudentT(df=2),
    "student 4": StudentT(),
    "student 30": StudentT(df=30),
    "huber": Huber(),
    "huber 3": Huber(threshold=3),
}


def log_density(law, error):
    """log p of an error, written down once more."""
    z = error / STD
    if isinstance(law, Normal):
        return stats.norm.logpdf(z) - math.log(STD)
    if isinstance(law, StudentT):
        return stats.t.logpdf(z, law.df) - math.log(STD)
    k = law.threshold
    loss = np.where(np.abs(z) < k, z**2 / 2, k * np.abs(z) - k**2 / 2)
    area = integrate.quad(lambda z: np.exp(-(z**2) / 2 if abs(z) < k else k**2 / 2 - k * abs(z)), -k, k)[0]
    return -loss - math.log(STD * (area + 2 * math.exp(-(k**2) / 2) / k))


def log_integral(log_p, innovation, variance):
    """log of the integral of p(error) N(innovation - error; 0, variance) over the error."""
    s = math.sqrt(variance)
    wide = max(12 * s + abs(innovation), 60 * STD)
    ends = [(-60 * STD, 60 * STD), (innovation - 12 * s, innovation + 12 * s), (-wide, wide)]
    e = np.unique(np.concatenate([np.linspace(*end, 50_001) for end in ends]))
    f = log_p(e) + stats.norm.logpdf(innovation - e, scale=s)
    return f.max() + math.log(integrate.trapezoid(np.exp(f - f.max()), e))


def arguments(innovation, variance, std=STD, dtype=torch.float64):
    d = torch.as_tensor(innovation, dtype=dtype).reshape(-1)
    return d, torch.full_like(d, std), torch.full_like(d, variance)


@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("name", LAWS)
def test_the_evidence_is_the_integral_over_the_prediction(name, variance):
    law = LAWS[name]
    if variance == 0:
        expected = log_density(law, INNOVATIONS)
    else:
        expected = [log_integral(lambda e: log_density(law, e), d, variance) for d in INNOVATIONS]
    np.testing.assert_allclose(law.log_evidence(*arguments(INNOVATIONS, variance)), expected, rtol=0, atol=5e-6)


LIMITS = {"lower": Censored(lower=0.3), "upper": Censored(upper=1.2), "both": Censored(lower=0.3, upper=1.2)}


@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("name", LIMITS)
def test_the_evidence_of_a_limit_is_the_probability_of_what_lies_beyond(name, variance):
    law, y = LIMITS[name], np.array([0.3, 0.9, 1.2, -5.0, 7.0])
    h = 0.6
    bound, read = law.bind(y), law.limited(y)
    total = math.sqrt(STD**2 + variance)
    low = -np.inf if law.lower is None else law.lower
    high = np.inf if law.upper is None else law.upper
    expected = np.where(
        y <= low,
        stats.norm.logcdf((low - h) / total),
        np.where(y >= high, stats.norm.logsf((high - h) / total), stats.norm.logpdf(y, h, total)),
    )
    np.testing.assert_allclose(bound.log_evidence(*arguments(read - h, variance)), expected, rtol=1e-6)


@pytest.mark.parametrize("name", LAWS)
def test_densities_integrate_to_one(name):
    e = np.sinh(np.linspace(-16, 16, 40_001))
    p = LAWS[name].log_evidence(*arguments(e, 0.0)).exp().numpy()
    assert integrate.trapezoid(p, e) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", LIMITS)
def test_what_is_censored_and_what_is_not_sum_to_one(name):
    law, h = LIMITS[name], 0.6
    low, high = law.lower or -20, law.upper or 20
    y = np.linspace(low, high, 20_001)[1:-1]
    inside = law.bind(y).log_evidence(*arguments(y - h, 0.5)).exp().numpy()
    ends = law.bind(np.array([low, high])).log_evidence(*arguments(np.array([low, high]) - h, 0.5)).exp()
    mass = integrate.trapezoid(inside, y)
    mass += sum(float(p) for p, limit in zip(ends, (law.lower, law.upper), strict=True) if limit is not None)
    assert mass == pytest.approx(1, abs=1e-3)


def every_law():
    """All laws for the innovations, the censored ones bound on either side."""
    sides = {"at the lower limit": Censored(lower=0.0), "at the upper limit": Censored(upper=0.0)}
    values = np.zeros(len(INNOVATIONS))
    return {**LAWS, **{n: law.bind(values) for n, law in sides.items()}}


@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("name", every_law())
def test_the_score_is_the_slope_of_the_evidence(name, variance):
    law, h = every_law()[name], 1e-4
    if variance == 0 and isinstance(law, Huber):
        h = 1e-5  # its kink is smoothed over 1e-4 standard deviations
    up, down = (law.log_evidence(*arguments(INNOVATIONS + e, variance)) for e in (h, -h))
    # the innovation is y - prediction: the slope in the prediction has the other sign
    torch.testing.assert_close(
        law.score(*arguments(INNOVATIONS, variance)), -(up - down) / (2 * h), rtol=2e-4, atol=1e-6
    )


@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("name", every_law())
def test_the_gaussian_site_has_the_same_score(name, variance):
    law, (d, std, v) = every_law()[name], arguments(INNOVATIONS, variance)
    innovation, own = law.site(d, std, v)
    assert bool((own > 0).all())
    torch.testing.assert_close(innovation / (own + v), law.score(d, std, v), rtol=1e-6, atol=1e-9)


def test_the_site_of_a_limit_has_the_same_curvature():
    law, h = Censored(lower=0.0).bind(np.zeros(len(INNOVATIONS))), 1e-4
    d, std, v = arguments(INNOVATIONS, 0.3)
    slope = (law.score(d + h, std, v) - law.score(d - h, std, v)) / (2 * h)
    torch.testing.assert_close(1 / (law.site(d, std, v)[1] + v), slope, rtol=1e-3, atol=1e-9)


def test_many_degrees_of_freedom_are_normal():
    at = arguments(STD * np.linspace(-4, 4, 9), 0.5)
    distance = [(StudentT(df=df).log_evidence(*at) - Normal().log_evidence(*at)).abs().max() for df in (100, 1000)]
    assert distance[1] < 1e-2
    assert float(distance[0] / distance[1]) == pytest.approx(10, rel=0.15)  # first order in 1 / df


def test_gross_errors_are_forgotten_by_student_and_bounded_by_huber():
    d, std, v = arguments(STD * np.geomspace(10, 5e3, 12), 0.0)
    forgotten = StudentT().score(d, std, v)
    assert bool((forgotten.diff() < 0).all())
    torch.testing.assert_close(
        forgotten, 5 * d / (4 * std**2 + d**2), rtol=1e-4, atol=0
    )  # (df + 1) d / (df std^2 + d^2)
    torch.testing.assert_close(Huber(threshold=2).score(d, std, v), torch.full_like(d, 2 / STD))
    torch.testing.assert_close(Huber(threshold=2).score(-d, std, v), torch.full_like(d, -2 / STD))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("std", [1e-3, 1.0])
def test_extremes_stay_finite(std, dtype):
    d = np.array([s * a for a in (0, 1e-3, 1, 30, 1e3, 1e6) for s in (-1, 1)])
    laws = [*LAWS.values(), *(c.bind(np.zeros(len(d))) for c in (Censored(lower=0.0), Censored(upper=0.0)))]
    for law in laws:
        for variance in (0.0, 1e-2, 1.0, 1e2, 1e6):
            at = arguments(d, variance, std, dtype)
            score, (innovation, own) = law.score(*at), law.site(*at)
            for value in (law.log_evidence(*at), score, innovation, own):
                assert bool(torch.isfinite(value).all()), (law, variance)
            assert bool((own > 0).all()), (law, variance)  # the solves divide by it
            torch.testing.assert_close(innovation / (own + at[2]), score, rtol=1e-3, atol=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StudentT(df=0), "df=0"),
        (lambda: StudentT(df=-1), "df=-1"),
        (lambda: StudentT(df=math.nan), "df=nan"),
        (lambda: Huber(threshold=0), "threshold=0"),
        (lambda: Huber(threshold=-2), "threshold=-2"),
        (Censored, r"lower=\.\.\. or upper="),
        (lambda: Censored(lower=1.0, upper=1.0), "lower=1.0 must be less than upper=1.0"),
        (lambda: Censored(lower=2.0, upper=1.0), "lower=2.0"),
        (lambda: Censored(lower=0.0).score(*arguments([0.0], 0.0)), r"law\.bind"),
    ],
)
def test_impossible_laws_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_limits_in_single_precision_are_limits():
    """A file holds 0.2 as 0.200000003."""
    values = np.array([0.2, 0.3, 0.7], np.float32).astype(float)
    assert Censored(lower=0.2, upper=0.7).bind(values).side.tolist() == [-1, 0, 1]
    with pytest.raises(ValueError, match="lower=nan must be a finite number"):
        Censored(lower=float("nan"))


@pytest.mark.parametrize("name", LAWS)
def test_deviance_is_what_the_density_lacks(name):
    """-2 log p above its least; the chi-square of Gaussian errors."""
    d, std = torch.tensor(INNOVATIONS), torch.tensor(STD, dtype=torch.float64)
    expected = 2 * (log_density(LAWS[name], 0.0) - log_density(LAWS[name], INNOVATIONS))
    np.testing.assert_allclose(LAWS[name].deviance(d, std).numpy(), expected, rtol=1e-5, atol=1e-6)


def test_deviance_of_a_value_at_its_limit():
    """Nothing, if the prediction is far beyond; -2 log of the probability to be there."""
    law = Censored(lower=0.0, upper=5.0).bind(np.array([0.0, 5.0, 2.0]))
    predicted = torch.tensor([[-9.0, 9.0, 2.0], [1.0, 4.5, 3.0]], dtype=torch.float64)
    y, std = torch.tensor([0.0, 5.0, 2.0], dtype=torch.float64), torch.tensor(STD, dtype=torch.float64)
    expected = [[0, 0, 0], [-2 * stats.norm.logcdf(-1 / STD), -2 * stats.norm.logcdf(-0.5 / STD), 1 / STD**2]]
    np.testing.assert_allclose(law.deviance(y - predicted, std).numpy(), expected, atol=1e-6)
