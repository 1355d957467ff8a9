"""Linear and affine functions are recognised with their offset; curvature and thresholds of any size are not missed."""

import math

import pytest
import torch

from xsda.likelihood.linearity import linear_offset

SHAPE = (4, 2, 6, 5)


def mixing():
    return torch.randn(7, math.prod(SHAPE), generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def spectral_slope(x):
    k = 1j * torch.arange(x.shape[-1] // 2 + 1, dtype=x.dtype)
    return torch.fft.irfft(k * torch.fft.rfft(x), x.shape[-1])


LINEAR = {
    "nothing": lambda x: x,
    "zero": lambda x: 0 * x,
    "sum of variables": lambda x: x[:, :, 0] + x[:, :, 1],
    "a rotated wind": lambda x: math.cos(0.3) * x[:, :, 0] + math.sin(0.3) * x[:, :, 1],
    "mean": lambda x: x.mean((1, 3, 4)),
    "difference": lambda x: (x.roll(1, -1) - x.roll(-1, -1)) / 1e-3,
    "spectral derivative": spectral_slope,
    "running sum": lambda x: x.cumsum(1),
    "interpolation": lambda x: torch.nn.functional.interpolate(x.flatten(1, 2), scale_factor=2, mode="bilinear"),
    "a full matrix": lambda x: x.flatten(1) @ mixing().T,
    "very small values": lambda x: 1e-12 * x,
    "very different sizes": lambda x: torch.cat([1e9 * x[:, :, 0], 1e-9 * x[:, :, 1]], -1),
    "where on a fixed mask": lambda x: torch.where(torch.arange(5) > 2, x, 0),
}
AFFINE = {
    "kelvin to celsius": (lambda x: (281.3 + 9 * x) - 273.15, 281.3 - 273.15),
    "celsius to fahrenheit": (lambda x: 1.8 * x + 32, 32),
    "pressure of small variance": (lambda x: 101325 + 50 * x.mean((3, 4)), 101325),
    "difference of large means": (lambda x: (1e5 + 10 * x[:, :, 0]) - (9e4 + 3 * x[:, :, 1]), 1e4),
    "constant": (lambda x: 0 * x - 7, -7),
}
NONLINEAR = {
    "square": lambda x: x**2,
    "weak curvature": lambda x: x + 1e-3 * x**2,
    "weaker curvature": lambda x: x + 1e-9 * x**2,
    "weak cubic": lambda x: x + 1e-9 * x**3,
    "curvature at one point": lambda x: x + 1e-3 * x**2 * (torch.arange(5) == 2) * (torch.arange(6) == 1)[:, None],
    "product of variables": lambda x: x[:, :, 0] * x[:, :, 1],
    "product of neighbours": lambda x: x[..., 1:] * x[..., :-1],
    "wind speed": lambda x: x.square().sum(2).sqrt(),
    "wind direction": lambda x: torch.atan2(x[:, :, 0], x[:, :, 1]),
    "norm of all": lambda x: x.flatten(1).norm(dim=1, keepdim=True),
    "odd power": lambda x: x.sign() * x.abs() ** 1.0001,
    "exponential": lambda x: torch.exp(1e-4 * x),
    "sine": lambda x: torch.sin(1e-3 * x),
    "saturation": lambda x: x / (1 + 1e-3 * x.abs()),
    "absolute value": lambda x: x.abs(),
    "a little of the absolute value": lambda x: x + 1e-6 * x.abs(),
    "relu": torch.relu,
    "leaky relu": lambda x: torch.nn.functional.leaky_relu(x, 0.999),
    "softplus": lambda x: torch.nn.functional.softplus(50 * x) / 50,
    "clamp nearby": lambda x: x.clamp(min=-0.1),
    "clamp far away below": lambda x: x.clamp(min=-400),
    "clamp far away above": lambda x: x.clamp(max=400),
    "clamp of a mean": lambda x: x.mean((3, 4)).clamp(min=-20),
    "where": lambda x: torch.where(x > 25, 2 * x, x),
    "where all are positive": lambda x: torch.where((x > 0).all(), 2 * x, x),
    "where all are negative": lambda x: torch.where((x < 0).all(), 2 * x, x),
    "where the mean is large": lambda x: torch.where(x.mean() > 100, x + 1, x),
    "rounding": torch.round,
    "fine rounding": lambda x: (x * 1e5).round() / 1e5,
    "single precision": lambda x: x.float().double(),
    "sign": torch.sign,
    "step": lambda x: x + 1e-4 * (x > 0),
    "maximum": lambda x: x.amax((3, 4)),
    "median": lambda x: x.flatten(1).median(1, keepdim=True).values,
    "sorted": lambda x: x.sort(-1).values,
    "argmax": lambda x: x.flatten(1).argmax(1, keepdim=True),
    "softmax": lambda x: x.softmax(-1),
    "variance": lambda x: x.var((3, 4)),
    "logarithm": lambda x: torch.log(x),
    "division": lambda x: 1 / x,
    "random": lambda x: x + torch.randn_like(x),
    "nan": lambda x: x * float("nan"),
}


def flat(function):
    return lambda x: function(x).flatten(1)


@pytest.mark.parametrize("name", LINEAR)
def test_linear(name):
    offset = linear_offset(flat(LINEAR[name]), SHAPE)
    assert offset is not None
    assert offset.dtype == torch.float64
    assert offset.shape == flat(LINEAR[name])(torch.zeros(1, *SHAPE, dtype=torch.float64))[0].shape
    assert (offset == 0).all()


@pytest.mark.parametrize("name", AFFINE)
def test_affine(name):
    function, expected = AFFINE[name]
    offset = linear_offset(flat(function), SHAPE)
    assert offset is not None
    torch.testing.assert_close(offset, torch.full_like(offset, expected), rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", NONLINEAR)
def test_nonlinear(name):
    assert linear_offset(flat(NONLINEAR[name]), SHAPE) is None


@pytest.mark.parametrize("shape", [(1, 1), (2, 1, 1), (3, 2, 40, 30)])
def test_states_of_one_number_and_of_many(shape):
    assert linear_offset(lambda x: 3 * x.flatten(1), shape) is not None
    assert linear_offset(lambda x: x.flatten(1).mean(1, keepdim=True), shape) is not None
    assert linear_offset(lambda x: (x + 1e-3 * x**2).flatten(1), shape) is None
    assert linear_offset(lambda x: x.flatten(1).abs(), shape) is None


@pytest.mark.parametrize("threshold", [0.01, 0.3, 2.0, 9.0, 60.0, 500.0])
@pytest.mark.parametrize("sign", [-1, 1])
def test_a_threshold_at_any_height_is_found_from_a_single_number(threshold, sign):
    assert linear_offset(lambda x: (sign * x).clamp(max=threshold).flatten(1), (1, 1)) is None
    assert linear_offset(lambda x: torch.where(sign * x > threshold, x, 1.5 * x).flatten(1), (1, 1)) is None


def test_a_function_that_fails_or_needs_single_precision_is_not_linear():
    network = torch.nn.Linear(5, 3)
    assert linear_offset(lambda x: network(x).flatten(1), SHAPE) is None
    assert linear_offset(lambda x: network.double()(x).flatten(1), SHAPE) is not None


def test_it_asks_for_single_states_and_leaves_the_random_numbers_alone():
    seen = []

    def function(x):
        seen.append((tuple(x.shape), x.dtype, x.requires_grad))
        return x.flatten(1)

    before = torch.get_rng_state()
    linear_offset(function, SHAPE)
    assert set(seen) == {((1, *SHAPE), torch.float64, False)}
    assert len(seen) == 25
    assert (torch.get_rng_state() == before).all()
