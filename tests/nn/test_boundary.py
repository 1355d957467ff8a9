"""Padding and convolutions against numpy."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from xsda.nn.boundary import BOUNDARIES, CONVOLUTIONS, BoundaryConv, pad

MODES = {"periodic": "wrap", "reflect": "reflect", "zeros": "constant"}
CASES = [("periodic",), ("reflect", "periodic"), ("zeros", "periodic", "reflect"), ("reflect", "zeros")]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def padded(x, amounts, boundaries):
    """The same with numpy, one axis after the other."""
    x = x.numpy()
    for axis, (amount, boundary) in enumerate(zip(amounts, boundaries, strict=True)):
        widths = [(0, 0)] * x.ndim
        widths[axis + 2] = (amount, amount)
        x = np.pad(x, widths, mode=MODES[boundary])
    return torch.from_numpy(x)


@pytest.mark.parametrize("boundaries", CASES, ids=" ".join)
@pytest.mark.parametrize("amounts", [(1, 2, 0), (4, 0, 3), (9, 8, 7)])
def test_padding_is_that_of_numpy(boundaries, amounts):
    x = torch.randn(2, 3, *(4, 5, 3)[: len(boundaries)])  # the last amounts are larger than the axes
    amounts = amounts[: len(boundaries)]
    assert torch.equal(pad(x, amounts, boundaries), padded(x, amounts, boundaries))


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_an_axis_of_one_point_can_be_padded(boundary):
    x = torch.randn(1, 1, 1)
    assert torch.equal(pad(x, [2], [boundary]), padded(x, [2], [boundary]))


@pytest.mark.parametrize("boundaries", CASES, ids=" ".join)
@pytest.mark.parametrize(("kernel", "dilation", "stride"), [(3, 1, 1), (5, 1, 2), (3, 3, 1)])
def test_a_convolution_sees_the_padded_field(boundaries, kernel, dilation, stride):
    rank = len(boundaries)
    layer = BoundaryConv(2, 4, (kernel,) * rank, boundaries, stride=stride, dilation=(dilation,) * rank).double()
    x = torch.randn(2, 2, *(6, 5, 7)[:rank], dtype=torch.float64)
    convolve = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}[rank]
    outside = padded(x, (dilation * (kernel - 1) // 2,) * rank, boundaries)
    expected = convolve(outside, layer.conv.weight, layer.conv.bias, stride=stride, dilation=dilation)
    torch.testing.assert_close(layer(x), expected)
    assert expected.shape[2:] == tuple(-(-n // stride) for n in x.shape[2:])  # every stride rounds up


def test_the_gradient_passes_through_the_boundary():
    for boundaries in CASES:
        x = torch.randn(1, 1, *(4, 3, 4)[: len(boundaries)], dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda x, b=boundaries: pad(x, (5, 2, 1)[: len(b)], b), x)


def test_errors_name_the_boundary_and_the_kernel():
    assert set(CONVOLUTIONS) == {1, 2, 3}
    with pytest.raises(ValueError, match="'circular'"):
        BoundaryConv(1, 1, (3,), ("circular",))
    with pytest.raises(ValueError, match="2 axes need 2 boundaries"):
        BoundaryConv(1, 1, (3, 3), ("zeros",))
    with pytest.raises(ValueError, match=r"kernel=\(4,\)"):
        BoundaryConv(1, 1, (4,), ("zeros",))
