"""Large grids tile by tile give what they give at once."""

import pytest
import torch

from xsda.nn import MarkovNet, SpaceTimeUNet, TemporalNet, WindowUNet
from xsda.nn.segments import activation_bytes
from xsda.nn.tiles import Cut, Tiles, tile_by_tile

LEVEL = torch.tensor([0.3, -1.0]).double()


def made(kind, boundaries):
    options = {"boundaries": boundaries, "features": 8, "context": 1, "signs": (1, -1)}
    if kind == "spacetime":
        network = SpaceTimeUNet(2, hidden=(4, 6, 8), blocks=(1, 2, 1), **options)
    elif kind == "temporal":
        network = TemporalNet(2, width=6, dilations=(1, 2), kernel=3, **options)
    else:
        network = MarkovNet(WindowUNet(2, 3, hidden=(4, 6, 8), blocks=(1, 2, 1), **options), 1)
    generator = torch.Generator().manual_seed(0)
    for p in network.parameters():
        p.data = 0.4 * torch.randn(p.shape, generator=generator)
    return network.double().requires_grad_(False)


def fields(*shape, seed=1):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", ["spacetime", "temporal", "markov"])
@pytest.mark.parametrize(
    ("boundaries", "size", "tile"),
    [
        (("periodic", "zeros"), (27, 30), (16, 17)),  # no stride divides the ring
        (("zeros", "reflect"), (26, 24), (None, 16)),
        (("on_poles", "periodic"), (19, 32), (16, 16)),
    ],
)
def test_tiles_and_their_gradient_are_exact(kind, boundaries, size, tile, monkeypatch):
    monkeypatch.setattr("xsda.nn.tiles.WHOLE", 1)
    network, results = made(kind, boundaries), []
    x, weight = fields(2, 6, 2, *size).requires_grad_(), fields(2, 6, 2, *size, seed=2)
    context = fields(1, 1, 1, *size, seed=3)
    for one in (network, network.tiled(Tiles(tile, 6))):
        y = one(x, LEVEL, context)
        results.append((y.detach(), *torch.autograd.grad(y, x, weight)))
    torch.testing.assert_close(results[1], results[0])
    with torch.no_grad():
        torch.testing.assert_close(one(x, LEVEL, context), results[0][0])


def test_a_row_of_points_is_cut_as_well():
    network = made("spacetime", ("periodic",))
    x, context = fields(1, 4, 2, 45), fields(1, 4, 1, 45, seed=2)
    torch.testing.assert_close(network.tiled(Tiles((16,), 100))(x, LEVEL[:1], context), network(x, LEVEL[:1], context))


@pytest.mark.parametrize("kind", ["spacetime", "temporal", "markov"])
def test_parts_reach_as_far_as_they_say(kind, monkeypatch):
    """Around a tile a part reads just enough: a change one point further changes nothing, the last point does."""
    import xsda.nn.spacetime
    import xsda.nn.temporal
    import xsda.nn.unet

    seen = []

    def watch(function, cuts, *fields):
        *others, x = fields
        for cut in cuts:
            if cut.axis >= 2 and cut.size is not None:
                leaf = torch.randn_like(x).requires_grad_()
                middle = x.shape[cut.axis] // 2
                value = function(*others, leaf).narrow(cut.axis, middle, 1)
                slope = torch.autograd.grad(value.square().sum(), leaf)[0]
                felt = slope.abs().movedim(cut.axis, 0).flatten(1).sum(1).nonzero() - middle
                seen.append((int(felt.abs().max()), cut.reach, x.shape[cut.axis] > 2 * cut.reach + 1))
        return function(*fields)

    monkeypatch.setattr("xsda.nn.tiles.WHOLE", 1)
    for module in (xsda.nn.spacetime, xsda.nn.temporal, xsda.nn.unet):
        monkeypatch.setattr(module, "tile_by_tile", watch)
    network = made(kind, ("periodic", "zeros")).tiled(Tiles((32, 32), 1))
    network(fields(1, 9, 2, 40, 48), LEVEL[:1], fields(1, 1, 1, 40, 48))
    assert len(seen) >= 3
    assert all(felt == reach and wide for felt, reach, wide in seen)


def test_the_reach_must_not_be_smaller():
    kernel = fields(1, 1, 5)
    x = fields(2, 1, 20)

    def smooth(x):
        return torch.nn.functional.conv1d(x, kernel, padding=2)

    torch.testing.assert_close(tile_by_tile(smooth, [Cut(2, 6, 2)], x), smooth(x))
    assert not torch.allclose(tile_by_tile(smooth, [Cut(2, 6, 1)], x), smooth(x))


def test_blocks_never_see_more_than_a_tile_and_its_surroundings():
    network, seen = made("spacetime", ("periodic", "zeros")), []
    for level in (*network.encode, *network.decode):
        level[0].register_forward_pre_hook(lambda _, inputs: seen.extend(h.shape for h in inputs[0]))
    with torch.no_grad():
        network.tiled(Tiles((16, 16), 4))(fields(1, 12, 2, 64, 64), LEVEL[:1], fields(1, 1, 1, 64, 64))
    assert max(states for states, *_ in seen) <= 4 + 2 * 2
    assert max(max(shape[2:]) for shape in seen) <= 16 // 2 + 2 * 3


def test_a_gradient_keeps_the_inputs_of_the_parts_alone(monkeypatch):
    monkeypatch.setattr("xsda.nn.tiles.WHOLE", 1)
    x, context = fields(1, 4, 2, 64, 64), fields(1, 1, 1, 64, 64)
    network = made("spacetime", ("periodic", "zeros"))
    whole = activation_bytes(network, x, LEVEL[:1], context)
    assert activation_bytes(network.tiled(Tiles((16, 16), 100)), x, LEVEL[:1], context) < whole / 2
    assert activation_bytes(network.requires_grad_(True), x, LEVEL[:1], context) > 1.5 * whole  # weights keep more


def test_half_precision_is_the_same_in_the_backward_pass():
    network = made("spacetime", ("periodic", "zeros")).float()
    x, context = fields(1, 4, 2, 32, 32).float().requires_grad_(), fields(1, 1, 1, 32, 32).float()
    slopes = []
    for one in (network, network.tiled(Tiles((16, 16), 100))):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = one(x, LEVEL[:1].float(), context)
        slopes.append(torch.autograd.grad(y.float().square().sum(), x)[0])
    assert (slopes[1] - slopes[0]).norm() < 0.02 * slopes[0].norm()
