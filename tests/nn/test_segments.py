"""Trajectories in pieces give what they give at once."""

import pytest
import torch

from xsda.nn import SpaceTimeUNet, TemporalNet
from xsda.nn.segments import Segments, activation_bytes


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


@pytest.mark.parametrize("frames", [1, 8, 20, 40, 80])
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


@pytest.mark.parametrize("frames", [1, 20, 36])
def test_the_network_never_sees_more_than_a_piece_and_its_surroundings(network, frames):
    seen = []
    network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1]))
    with torch.no_grad():
        Segments(network, frames)(
            torch.zeros(1, 40, 2, 4, 4, dtype=torch.float64),
            torch.zeros(1).double(),
            torch.zeros(1, 1, 1, 4, 4).double(),
        )
    piece = max(frames // 4, 2 * network.reach)
    assert max(seen) <= piece + 2 * network.reach
    assert len(seen) == -(-40 // piece)


def test_a_gradient_keeps_what_there_is_room_for(network):
    network.reach = 2  # more than these networks have is exact as well
    level, context = torch.zeros(1).double(), torch.zeros(1, 1, 1, 4, 4).double()

    def kept(length, frames):
        x = torch.zeros(1, length, 2, 4, 4, dtype=torch.float64)
        return activation_bytes(Segments(network, frames), x, level, context)

    state = kept(40, 160) / 40
    assert kept(160, 160) == pytest.approx(160 * state, rel=0.05)  # at once
    assert kept(80, 64) < 64 * state  # three pieces of 16; of the others the input
    assert kept(160, 64) - kept(80, 64) < 0.1 * 80 * state


def test_bytes_are_those_of_the_tensors_that_the_product_needs():
    layer = torch.nn.Linear(8, 8).double()
    x = torch.zeros(5, 8, dtype=torch.float64)
    assert activation_bytes(layer, x) == activation_bytes(torch.nn.Sequential(layer, layer), x) - 5 * 8 * 8
    assert activation_bytes(torch.nn.Sequential(torch.nn.Tanh(), torch.nn.Tanh()), x) == 2 * 5 * 8 * 8
