"""What a network convolutional in time must respect."""

import pytest
import torch

from xsda.nn import TemporalNet, build_network, network_config

LEVEL = torch.tensor(-0.4)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def network(channels=2, seed=0, **options):
    options = {"width": 8, "features": 8, "dilations": (1, 2, 4), "kernel": 3} | options
    made = TemporalNet(channels, **options)
    generator = torch.Generator().manual_seed(seed)
    for p in made.parameters():
        p.data = 0.4 * torch.randn(p.shape, generator=generator)
    return made.double()


@pytest.mark.parametrize(
    ("options", "reach"),
    [
        ({}, 7),
        ({"kernel": 5, "dilations": (1, 3)}, 8),
        ({"kernel": 1}, 0),
        ({"dilations": (0, 2, 0)}, 2),
        ({"boundaries": ("periodic",)}, 7),
        ({"recompute": True}, 7),
    ],
    ids=str,
)
def test_the_reach_in_time_is_exact(options, reach):
    made = network(**options)
    assert made.reach == reach
    space = (4,) * len(options.get("boundaries", ()))
    x = torch.randn(1, 41, 2, *space, dtype=torch.float64, requires_grad=True)
    gradient = torch.autograd.grad(made(x, LEVEL.double())[:, 20].square().sum(), x)[0]
    seen = gradient.flatten(2).abs().amax(-1)[0]
    assert (seen[20 - reach : 20 + reach + 1 : max(reach, 1)] > 1e-12).all()  # both ends and the middle are felt
    assert (seen[: 20 - reach] == 0).all()
    assert (seen[20 + reach + 1 :] == 0).all()


@pytest.mark.parametrize("options", [{}, {"boundaries": ("periodic", "reflect")}], ids=["no space", "fields"])
def test_the_interior_does_not_know_the_length(options):
    made = network(**options)
    space = (4, 3) if options else ()
    x = torch.randn(2, 40, 2, *space, dtype=torch.float64)
    whole, piece = made(x, LEVEL.double()), made(x[:, 5:30], LEVEL.double())
    inner = slice(made.reach, 25 - made.reach)
    torch.testing.assert_close(piece[:, inner], whole[:, 5:30][:, inner])
    assert (piece[:, 0] - whole[:, 5]).abs().max() > 1e-6  # the ends do
    assert made(x[:, :1], LEVEL.double()).shape == (2, 1, 2, *space)  # even a single state will do


@pytest.mark.parametrize("shift", [1, 3])
def test_shifts_pass_through_periodic_axes(shift):
    made = network(boundaries=("periodic", "zeros"))
    x = torch.randn(1, 9, 2, 5, 6, dtype=torch.float64)
    out = made(x, LEVEL.double())
    torch.testing.assert_close(made(x.roll(shift, 3), LEVEL.double()), out.roll(shift, 3))
    assert (made(x.roll(shift, 4), LEVEL.double()) - out.roll(shift, 4)).abs().max() > 1e-6


def test_shifts_in_time_pass_through_the_interior():
    made = network()
    x = torch.randn(1, 40, 2, dtype=torch.float64)
    a, b = made(x, LEVEL.double()), made(x.roll(4, 1), LEVEL.double())
    torch.testing.assert_close(b[:, 12:30], a[:, 8:26])


@pytest.mark.parametrize("shape", [(1, 1), (1, 12), (3, 12)])
def test_context_is_one_more_channel(shape):
    made = network(channels=2, context=1)
    plain = network(channels=3)
    for name, value in made.state_dict().items():
        if not name.startswith("out."):
            plain.state_dict()[name].copy_(value)
    x = torch.randn(3, 12, 2, dtype=torch.float64)
    context = torch.randn(*shape, 1, dtype=torch.float64)
    joined = torch.cat([x, context.expand(3, 12, 1)], 2)
    plain.out.weight.data[:2], plain.out.bias.data[:2] = made.out.weight.data, made.out.bias.data
    torch.testing.assert_close(made(x, LEVEL.double(), context), plain(joined, LEVEL.double())[:, :, :2])


def test_noise_levels_belong_to_batch_items():
    made = network(boundaries=("zeros",))
    x, levels = torch.randn(3, 10, 2, 4, dtype=torch.float64), torch.tensor([-2.0, 0.1, 3.0], dtype=torch.float64)
    each = torch.cat([made(x[i : i + 1], levels[i]) for i in range(3)])
    torch.testing.assert_close(made(x, levels), each)
    assert (made(x, levels[0]) - made(x, levels[2])).abs().max() > 1e-3


def test_recomputing_activations_changes_nothing():
    x, results = torch.randn(2, 12, 2, dtype=torch.float64), []
    for recompute in (False, True):
        made, leaf = network(recompute=recompute), x.clone().requires_grad_()
        out = made(leaf, LEVEL.double())
        results.append((out, *torch.autograd.grad(out.square().mean(), [leaf, *made.parameters()])))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


def test_half_precision_stays_close():
    made, x = network(boundaries=("periodic",)).float(), torch.randn(2, 16, 2, 8)
    with torch.no_grad():
        full = made(x, LEVEL)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = made(x, LEVEL).float()
    assert (half - full).norm() < 0.03 * full.norm()


def test_a_new_network_returns_zero_and_is_rebuilt_from_its_description():
    made = TemporalNet(2, boundaries=("reflect",), width=8, kernel=3, dilations=(1, 2), features=8, context=2)
    x, context = torch.randn(1, 6, 2, 5), torch.randn(1, 1, 2, 5)
    assert (made(x, LEVEL, context) == 0).all()
    awake = network(boundaries=("reflect",), dilations=(1, 2), context=2).float()
    again = build_network(network_config(awake))
    again.load_state_dict(awake.state_dict())
    assert torch.equal(again(x, LEVEL, context), awake(x, LEVEL, context))


def test_more_than_two_space_axes_are_refused():
    with pytest.raises(ValueError, match="at most two space axes"):
        TemporalNet(1, boundaries=("zeros",) * 3)
