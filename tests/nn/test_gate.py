"""Gates and convolutions with fixed weights have the gradients that torch computes with all activations."""

import pytest
import torch
from torch.nn import functional

from xsda.nn.boundary import CONVOLVE, convolve
from xsda.nn.gate import gated


def test_the_gradient_of_the_gate():
    x = torch.randn(2, 6, 5, dtype=torch.float64).requires_grad_()
    a, b = x.chunk(2, dim=1)
    torch.testing.assert_close(gated(x), functional.silu(a) * b)
    assert torch.autograd.gradcheck(gated, (x,))


@pytest.mark.parametrize(
    ("rank", "size", "stride", "padding", "dilation"),
    [(1, 9, 1, 1, 2), (2, 8, 2, 0, 1), (2, 9, 2, 1, 1), (3, 5, 1, 1, 1)],
)
def test_the_gradient_of_a_convolution_with_fixed_weights(rank, size, stride, padding, dilation):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, *(size,) * rank, dtype=torch.float64, generator=generator).requires_grad_()
    weight, bias = torch.randn(4, 3, *(3,) * rank, generator=generator).double(), torch.randn(4).double()
    how = [(n,) * rank for n in (stride, padding, dilation)]
    plain = CONVOLVE[rank](x, weight, bias, *how)
    fixed = convolve(x, weight, bias, *how)
    out = torch.randn(plain.shape, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(fixed, plain)
    torch.testing.assert_close(torch.autograd.grad(fixed, x, out), torch.autograd.grad(plain, x, out))
