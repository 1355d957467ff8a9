"""What a UNet must respect: shifts, sizes, boundaries, memory and precision."""

import pytest
import torch

from xsda.nn import UNet, WindowUNet, build_network, network_config
from xsda.nn.boundary import BoundaryConv

LEVEL = torch.tensor(0.3)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def awake(network, seed=0):
    """Networks start at zero; give all weights some size."""
    generator = torch.Generator().manual_seed(seed)
    for p in network.parameters():
        p.data = 0.2 * torch.randn(p.shape, generator=generator)
    return network


def unet(boundaries, **options):
    return awake(UNet(2, 3, boundaries=boundaries, hidden=(4, 6, 8), blocks=(1, 1, 1), features=8, **options))


PERIODIC = [("periodic",) * n for n in (1, 2, 3)]


@pytest.mark.parametrize("boundaries", PERIODIC, ids=len)
def test_shifts_by_the_total_stride_pass_through_periodic_axes(boundaries):
    network = unet(boundaries).double()
    rank = len(boundaries)
    x = torch.randn(1, 2, *(16, 8, 12)[:rank], dtype=torch.float64)
    out = network(x, LEVEL.double())
    for axis in range(2, 2 + rank):
        torch.testing.assert_close(network(x.roll(4, axis), LEVEL.double()), out.roll(4, axis))
        assert (network(x.roll(1, axis), LEVEL.double()) - out.roll(1, axis)).abs().max() > 1e-3


def test_only_the_periodic_axis_is_equivariant():
    network = unet(("periodic", "zeros")).double()
    x = torch.randn(1, 2, 8, 8, dtype=torch.float64)
    out = network(x, LEVEL.double())
    torch.testing.assert_close(network(x.roll(4, 2), LEVEL.double()), out.roll(4, 2))
    assert (network(x.roll(4, 3), LEVEL.double()) - out.roll(4, 3)).abs().max() > 1e-3


@pytest.mark.parametrize("boundary", ["reflect", "zeros", "periodic"])
def test_both_ends_of_an_axis_are_treated_alike(boundary):
    """With symmetric kernels a mirrored field gives the mirrored result."""
    network = awake(UNet(2, 3, boundaries=(boundary,), hidden=(4,), blocks=(2,), features=8)).double()
    for layer in network.modules():
        if isinstance(layer, BoundaryConv):
            layer.conv.weight.data += layer.conv.weight.data.flip(-1)
    x = torch.randn(1, 2, 9, dtype=torch.float64)
    torch.testing.assert_close(network(x.flip(-1), LEVEL.double()), network(x, LEVEL.double()).flip(-1))


@pytest.mark.parametrize(
    "boundaries", [("reflect",), ("periodic", "zeros"), ("zeros", "periodic", "reflect")], ids=" ".join
)
def test_a_field_of_any_size_reaches_every_output(boundaries):
    rank = len(boundaries)
    for sizes in ((7, 5, 6), (5, 1, 3), (2, 9, 1)):
        x = torch.randn(2, 2, *sizes[:rank], requires_grad=True)
        out = unet(boundaries)(x, LEVEL)
        assert out.shape == (2, 3, *sizes[:rank])
        assert (torch.autograd.grad(out[0].square().sum(), x)[0].abs().sum((0, 1)) > 0).all()
        assert (torch.autograd.grad(unet(boundaries)(x, LEVEL)[0].sum(), x)[0][1] == 0).all()  # batch items are apart


def test_noise_levels_belong_to_batch_items():
    network, x = unet(("periodic", "zeros")), torch.randn(3, 2, 6, 5)
    levels = torch.tensor([-2.0, 0.1, 3.0])
    each = torch.cat([network(x[i : i + 1], levels[i]) for i in range(3)])
    torch.testing.assert_close(network(x, levels), each, rtol=1e-4, atol=1e-5)
    assert (network(x, levels[0]) - network(x, levels[2])).abs().max() > 1e-3


@pytest.mark.parametrize("boundaries", PERIODIC[:2], ids=len)
def test_recomputing_activations_changes_nothing(boundaries):
    plain, saving = unet(boundaries), unet(boundaries, recompute=True)
    x = torch.randn(2, 2, *(9, 8)[: len(boundaries)])
    results = []
    for network in (plain, saving):
        leaf = x.clone().requires_grad_()
        out = network(leaf, LEVEL)
        gradients = torch.autograd.grad(out.square().mean(), [leaf, *network.parameters()])
        results.append((out, *gradients))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


def test_half_precision_stays_close():
    network, x = unet(("periodic", "periodic")), torch.randn(4, 2, 16, 16)
    with torch.no_grad():
        full = network(x, LEVEL)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = network(x, LEVEL).float()
    assert (half - full).norm() < 0.03 * full.norm()


def test_a_window_is_a_stack_of_channels():
    network = awake(WindowUNet(2, 3, boundaries=("zeros",), hidden=(4, 6), blocks=(1, 1), features=8, context=1))
    x, context = torch.randn(2, 3, 2, 8), torch.randn(1, 1, 1, 8)
    stacked = torch.cat([x.flatten(1, 2), context.expand(2, 3, 1, 8).flatten(1, 2)], 1)
    torch.testing.assert_close(network(x, LEVEL, context), network.unet(stacked, LEVEL).unflatten(1, (3, 2)))
    assert (network(x, LEVEL, context) - network(x, LEVEL, 0 * context)).abs().max() > 1e-4


def test_a_new_network_returns_zero_and_is_rebuilt_from_its_description():
    network = WindowUNet(2, 3, boundaries=("periodic",), hidden=(4, 6), blocks=(1, 2), kernel=5, features=8, context=1)
    x, context = torch.randn(1, 3, 2, 8), torch.randn(1, 3, 1, 8)
    assert (network(x, LEVEL, context) == 0).all()
    again = build_network(network_config(awake(network)))
    again.load_state_dict(network.state_dict())
    assert torch.equal(again(x, LEVEL, context), network(x, LEVEL, context))


def test_levels_must_agree():
    with pytest.raises(ValueError, match="same length"):
        UNet(1, 1, boundaries=("zeros",), hidden=(4, 8), blocks=(1,))
