"""What a network must respect in which every state passes once and neighbours in time speak to each other."""

import pytest
import torch

from xsda.nn import SpaceTimeUNet, build_network, network_config, spacetime
from xsda.nn.spacetime import _fold, _unfold

LEVEL = torch.tensor(-0.4, dtype=torch.float64)


def network(channels=2, seed=0, **options):
    options = {"boundaries": ("periodic", "periodic"), "hidden": (6, 8), "blocks": (1, 2), "features": 8} | options
    made = SpaceTimeUNet(channels, **options)
    generator = torch.Generator().manual_seed(seed)
    for p in made.parameters():
        p.data = 0.4 * torch.randn(p.shape, generator=generator)
    return made.double()


def field(*shape, seed=1):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("options", "reach"), [({}, 4), ({"blocks": (2, 1)}, 5), ({"hidden": (6,), "blocks": (3,)}, 3)], ids=str
)
@pytest.mark.parametrize("recompute", [False, True])
def test_the_reach_in_time_is_exact(options, reach, recompute):
    made = network(**options, recompute=recompute)
    assert made.reach == reach
    x = field(1, 15, 2, 8, 8).requires_grad_()
    gradient = torch.autograd.grad(made(x, LEVEL)[:, 7].square().sum(), x)[0]
    seen = gradient.flatten(2).abs().amax(-1)[0]
    assert (seen[7 - reach : 7 + reach + 1] > 1e-12).all()
    assert (seen[: 7 - reach] == 0).all()
    assert (seen[7 + reach + 1 :] == 0).all()


def test_the_interior_does_not_know_the_length():
    made = network()
    x = field(2, 16, 2, 8, 8)
    whole, piece = made(x, LEVEL), made(x[:, 2:14], LEVEL)
    torch.testing.assert_close(piece[:, 4:-4], whole[:, 6:10])
    assert (piece[:, 0] - whole[:, 2]).abs().max() > 1e-6
    assert made(x[:, :1], LEVEL).shape == (2, 1, 2, 8, 8)


@pytest.mark.parametrize("patch", [1, 2])
def test_a_turn_of_a_ring_by_whole_coarse_cells_turns_the_result(patch):
    made, x = network(patch=patch), field(1, 3, 2, 16, 8)
    step = 2 * patch
    for axis in (-2, -1):
        torch.testing.assert_close(made(x.roll(step, axis), LEVEL), made(x, LEVEL).roll(step, axis))
    zeros = network(patch=patch, boundaries=("zeros", "periodic"))
    torch.testing.assert_close(zeros(x.roll(step, -1), LEVEL), zeros(x, LEVEL).roll(step, -1))
    assert (zeros(x.roll(step, -2), LEVEL) - zeros(x, LEVEL).roll(step, -2)).abs().max() > 1e-6


def test_batch_items_are_strangers_and_keep_their_own_noise_level():
    made, x, levels = network(), field(3, 5, 2, 8, 8), torch.tensor([-2.0, 0.1, 1.5], dtype=torch.float64)
    together = made(x, levels)
    for i in range(3):
        torch.testing.assert_close(made(x[i : i + 1], levels[i]), together[i : i + 1])
    torch.testing.assert_close(made(x, levels[:1]), torch.cat([made(x[i : i + 1], levels[0]) for i in range(3)]))


def test_time_runs_both_ways():
    """Past and future are read by weights of their own: turning time around is not turning the result around."""
    made, x = network(), field(1, 6, 2, 8, 8)
    assert (made(x.flip(1), LEVEL).flip(1) - made(x, LEVEL)).abs().max() > 1e-3


def test_patches_are_folded_and_unfolded():
    for x in (field(2, 3, 8), field(2, 3, 8, 4)):
        assert _fold(x, 2).shape[1] == 3 * 2 ** (x.ndim - 2)
        torch.testing.assert_close(_unfold(_fold(x, 2), 2), x, rtol=0, atol=0)
    ring = network(boundaries=("periodic",))
    x = field(1, 3, 2, 16)
    torch.testing.assert_close(ring(x.roll(4, -1), LEVEL), ring(x, LEVEL).roll(4, -1))


def test_context_is_read():
    made, x, context = network(context=1), field(1, 3, 2, 8, 8), field(1, 1, 1, 8, 8, seed=2)
    assert (made(x, LEVEL, context) - made(x, LEVEL, 2 * context)).abs().max() > 1e-6
    torch.testing.assert_close(made(x, LEVEL, context), made(x, LEVEL, context.expand(1, 3, 1, 8, 8)))


def test_it_starts_as_the_best_linear_denoiser_and_is_built_again_from_its_description():
    torch.manual_seed(0)
    fresh = SpaceTimeUNet(2, boundaries=("periodic", "zeros"), hidden=(4, 6), blocks=(1, 1), patch=1, context=2)
    assert not fresh(torch.randn(1, 3, 2, 6, 6), LEVEL.float(), torch.randn(1, 1, 2, 6, 6)).any()
    again = build_network(network_config(fresh))
    assert again.config == fresh.config
    again.load_state_dict(fresh.state_dict())


@pytest.mark.parametrize("at_once", [1, 5, 6])
def test_the_states_of_one_tensor_change_nothing(monkeypatch, at_once):
    made, x, levels = network(), field(2, 9, 2, 8, 8).requires_grad_(), torch.tensor([0.3, -1.0]).double()
    results = []
    for number in (10**6, at_once):
        monkeypatch.setattr(spacetime, "AT_ONCE", number)
        y = made(x, levels)
        results.append((y.detach(), torch.autograd.grad(y.square().sum(), x)[0]))
    torch.testing.assert_close(results[1], results[0])


def test_channels_last_or_not_is_all_the_same():
    """The fused normalisation, taken for channels that lie side by side, agrees with the written-out one."""
    made, x = network(), field(2, 4, 2, 8, 8)
    expected = made(x, LEVEL)
    norm = type(made.norm)()
    h = field(3, 6, 4, 4) * 5
    torch.testing.assert_close(norm(h.contiguous(memory_format=torch.channels_last)), norm(h))
    torch.testing.assert_close(made.to(memory_format=torch.channels_last)(x, LEVEL), expected)
