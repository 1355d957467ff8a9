"""Trajectories in pieces give what they give at once."""

import pytest
import torch

from xsda.nn import SpaceTimeUNet, TemporalNet
from xsda.nn.segments import Segments


@pytest.fixture(params=["spacetime", "temporal"])
def network(request):
    boundaries = ("periodic", "zeros")
    if request.param == "spacetime":
        made = SpaceTimeUNet(2, boundaries=boundaries, hidden=(4, 6), blocks=(1, 1), features=8, context=1)
    else:
        made = TemporalNet(2, boundaries=boundaries, width=6, dilations=(1, 2), kernel=3, features=8, context=1)
    generator = torch.Generator().manual_seed(0)
    for p in made.parameters():
        p.data = 0.4 * torch.randn(p.shape, generator=generator)
    return made.double()


@pytest.mark.parametrize("frames", [1, 8, 14, 80])
@pytest.mark.parametrize("times", [1, 23])
def test_pieces_and_their_gradient_are_exact(network, frames, times):
    generator = torch.Generator().manual_seed(1)
    x, weight = (torch.randn(2, 23, 2, 4, 4, dtype=torch.float64, generator=generator) for _ in range(2))
    context = torch.randn(1, times, 1, 4, 4, dtype=torch.float64, generator=generator)
    level = torch.tensor([0.3, -1.0], dtype=torch.float64)
    results = []
    for made in (network, Segments(network, frames)):
        x.grad = None
        y = made(x.requires_grad_(), level, context)
        y.backward(weight)
        results.append((y.detach(), x.grad))
    torch.testing.assert_close(results[1], results[0])
    with torch.no_grad():
        torch.testing.assert_close(Segments(network, frames)(x, level, context), results[0][0])


def test_the_network_never_sees_more_than_a_piece_and_its_surroundings(network):
    seen = []
    network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1]))
    with torch.no_grad():
        Segments(network, 5)(
            torch.zeros(1, 40, 2, 4, 4, dtype=torch.float64),
            torch.zeros(1).double(),
            torch.zeros(1, 1, 1, 4, 4).double(),
        )
    piece = max(5, 2 * network.reach)
    assert max(seen) <= piece + 2 * network.reach
    assert len(seen) == -(-40 // piece)
