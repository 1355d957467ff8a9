"""The residual perceptron on windows."""

import pytest
import torch
from torch.nn import functional

from xsda.nn import MarkovNet, ResMLP, WindowMLP, build_network, network_config
from xsda.nn.embedding import NoiseEmbedding


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_res_mlp_is_the_composition_of_its_layers():
    net = ResMLP(3, 2, width=5, depth=2).double()
    x = torch.randn(4, 3, dtype=torch.float64)
    h = x @ net.first.weight.T + net.first.bias
    for norm, a, _, b in net.layers:
        z = (h - h.mean(1, keepdim=True)) / torch.sqrt(h.var(1, unbiased=False, keepdim=True) + norm.eps)
        z = z * norm.weight + norm.bias
        z = functional.silu(z @ a.weight.T + a.bias)
        h = h + z @ b.weight.T + b.bias
    torch.testing.assert_close(net(x), h @ net.last.weight.T + net.last.bias)


@pytest.mark.parametrize("space", [(), (4,), (2, 2)])
def test_a_window_is_one_long_vector_with_its_context_and_noise(space):
    size = 4 if space else 1
    net = WindowMLP(2, 3, size=size, width=8, depth=1, features=6, context=1)
    x, levels = torch.randn(5, 3, 2, *space), torch.randn(5)
    context = torch.randn(1, 1, 1, *space)
    flat = torch.cat([x.flatten(1), net.embed(levels), context.expand(5, 3, 1, *space).flatten(1)], 1)
    torch.testing.assert_close(net(x, levels, context), net.mlp(flat).reshape(x.shape))
    each = torch.cat([net(x[i : i + 1], levels[i], context) for i in range(5)])
    torch.testing.assert_close(net(x, levels, context), each)


def test_noise_levels_keep_apart_over_the_whole_range():
    """The waves resolve a change of a tenth in log noise, and do not repeat between e^-10 and e^10."""
    embed = NoiseEmbedding(4)
    levels = torch.linspace(-10, 10, 201)
    angle = levels[:, None] * embed.frequencies / 4
    code = torch.cat([angle.sin(), angle.cos()], 1)
    distance = torch.cdist(code, code) + 10 * torch.eye(201)
    assert distance.min() > 0.1
    assert embed(levels).shape == (201, 4)


def test_networks_are_rebuilt_from_their_description():
    net = MarkovNet(WindowMLP(2, 5, width=8, depth=1, features=6, context=1), 2, windows=3)
    again = build_network(network_config(net))
    again.load_state_dict(net.state_dict())
    x, level, context = torch.randn(2, 9, 2), torch.tensor(0.2), torch.randn(1, 1, 1)
    torch.testing.assert_close(again(x, level, context), net(x, level, context))
    with pytest.raises(ValueError, match="type Linear cannot be stored"):
        network_config(torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match="the network 'Transformer' is unknown"):
        build_network({"name": "Transformer"})
