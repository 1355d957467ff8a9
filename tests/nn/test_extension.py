"""Fields beyond the poles against fields known everywhere on the sphere; sizes that patches do not divide."""

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xsda.nn import MarkovNet, SpaceTimeUNet, TemporalNet, WindowUNet, build_network, network_config
from xsda.nn.extension import POLES, Extension, over_poles

LEVEL = torch.tensor(0.3, dtype=torch.float64)
MODES = {"periodic": "wrap", "reflect": "reflect", "zeros": "constant"}
SCALARS = st.integers(0, 2**31)


def rows(count, boundary, beyond=0):
    """Latitudes in radians, with ``beyond`` more at both ends, which pass the poles."""
    step = 180 / (count - 1 if boundary == "on_poles" else count)
    first = -90 if boundary == "on_poles" else -90 + step / 2
    return np.deg2rad(first + step * np.arange(-beyond, count + beyond))[:, None]


def columns(count):
    return 2 * np.pi / count * np.arange(count)[None]


def axes(lat, lon):
    """Unit vectors upwards, east and north. They turn smoothly along a meridian that passes a pole."""
    zero = 0 * lat * lon
    up = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat) + zero])
    east = np.stack([-np.sin(lon) + zero, np.cos(lon) + zero, zero])
    north = np.stack([-np.sin(lat) * np.cos(lon), -np.sin(lat) * np.sin(lon), np.cos(lat) + zero])
    return up, east, north


def flow(lat, lon, seed, kind):
    """A scalar, and the components of a vector field, smooth on the sphere: (3, lat, lon)."""
    rng = np.random.default_rng(seed)
    a, b, c = rng.standard_normal((3, 3))
    up, east, north = axes(lat, lon)
    scalar = np.tensordot(a, up, 1) ** 3 + np.tensordot(b, up, 1) * np.tensordot(c, up, 1)
    vector = {
        "rotation": np.cross(a, up, axisb=0).transpose(2, 0, 1),
        "constant": np.broadcast_to(b[:, None, None], up.shape),
        "waves": np.cross(a, up, axisb=0).transpose(2, 0, 1) * np.sin(3 * scalar),
    }[kind]
    return torch.from_numpy(np.stack([scalar, (vector * east).sum(0), (vector * north).sum(0)]))


@pytest.mark.parametrize("kind", ["rotation", "constant", "waves"])
@pytest.mark.parametrize("boundary", POLES)
@pytest.mark.parametrize("beyond", [1, 4, 30])  # 30 rows pass both poles, more than once
def test_smooth_fields_continue_over_the_poles(boundary, kind, beyond):
    """Solid rotations about any axis, constant flow across the poles and waves have the right values beyond them."""
    for count, seed in ((9, 0), (12, 1)):
        lon, signs = columns(16), torch.tensor([1.0, -1, -1]).reshape(3, 1, 1)
        x = flow(rows(count, boundary), lon, seed, kind)
        exact = flow(rows(count, boundary, beyond), lon, seed, kind)
        on = boundary == "on_poles"
        torch.testing.assert_close(over_poles(x, -2, beyond, beyond, on_poles=on, signs=signs), exact)
        across = over_poles(x.transpose(-1, -2), -1, beyond, beyond, on_poles=on, signs=signs)
        torch.testing.assert_close(across.transpose(-1, -2), exact)
        down = over_poles(x.flip(-2), -2, beyond, beyond, on_poles=on, signs=signs)
        torch.testing.assert_close(down.flip(-2), exact)
        without = over_poles(x, -2, beyond, beyond, on_poles=on)
        assert (without[1:] - exact[1:]).abs().max() > 0.1  # the signs matter


@pytest.mark.parametrize("boundary", POLES)
def test_rotations_of_the_grid_commute_with_the_extension(boundary):
    """Turns about the polar axis, and half a turn about an axis in the plane of the equator."""
    extension = Extension((boundary, "periodic"), halo=4, signs=(1, -1)).double()
    x = torch.randn(3, 2, 9, 16, dtype=torch.float64)
    for turn in (1, 5, 8):
        assert torch.equal(extension(x.roll(turn, -1)), extension(x).roll(turn, -1))

    def overturn(f):  # lat -> -lat and lon -> -lon; east and north change their sign
        return f.flip(-2, -1).roll(1, -1) * torch.tensor([1.0, -1]).reshape(2, 1, 1)

    assert torch.equal(extension(overturn(x)), overturn(extension(x)))


def circle(x, boundary, amount, signs):
    """The same with numpy: walk along whole great circles and cut a piece out of them."""
    x = x.numpy()
    far = np.roll(x, x.shape[-1] // 2, -1)[..., ::-1, :] * np.reshape(signs, (-1, 1, 1))
    far = far[..., 1:-1, :] if boundary == "on_poles" else far
    widths = [(0, 0)] * (x.ndim - 2) + [(amount, amount), (0, 0)]
    ring = np.pad(np.concatenate([x, far], -2), widths, mode="wrap")
    return torch.from_numpy(ring[..., : x.shape[-2] + 2 * amount, :].copy())


@given(
    count=st.integers(2, 12),
    half=st.integers(1, 5),
    halo=st.integers(0, 9),
    boundary=st.sampled_from(POLES),
    seed=SCALARS,
)
def test_rows_beyond_a_pole_follow_a_great_circle(count, half, halo, boundary, seed):
    x = torch.randn(2, 3, count, 2 * half, generator=torch.Generator().manual_seed(seed))
    signs = (1, -1, -1)
    extended = Extension((boundary, "periodic"), halo=halo, signs=signs)(x)
    assert torch.equal(extended, circle(x, boundary, halo, signs).to(x.dtype))


def test_every_size_becomes_a_multiple_and_is_cut_again():
    for boundaries in product(MODES, repeat=2):
        for sizes in product(range(5, 41, 3), range(6, 41, 5)):
            x = torch.randn(1, *sizes)
            for multiple in (1, 2, 4):
                extension = Extension(boundaries, halo=0, multiple=multiple, signs=(1,))
                extended = extension(x)
                widths = [(0, 0), *((0, -n % multiple) for n in sizes)]
                expected = x.numpy()
                for axis, boundary in enumerate(boundaries, 1):
                    own = [w if i == axis else (0, 0) for i, w in enumerate(widths)]
                    expected = np.pad(expected, own, mode=MODES[boundary])
                assert torch.equal(extended, torch.from_numpy(expected))
                assert torch.equal(extension.cut(extended, sizes), x)
                if not any(n % multiple for n in sizes):
                    assert extended is x  # where sizes divide, nothing changes at all


def awake(network, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for p in network.parameters():
        p.data = 0.3 * torch.randn(p.shape, generator=generator)
    return network.double()


SMALL = {"hidden": (4, 6, 8), "blocks": (1, 1, 1), "features": 8}


def networks(boundaries, signs=(), patch=2):
    """One of each kind, on two channels and one context channel, with the rows that each adds beyond a pole."""
    given = {"boundaries": boundaries, "signs": signs, "context": 1}
    temporal = TemporalNet(2, width=6, kernel=3, dilations=(1, 2, 0), features=8, **given)
    return {
        "spacetime": (SpaceTimeUNet(2, patch=patch, **SMALL, **given), 4 * patch),
        "temporal": (temporal, 3),
        "markov": (MarkovNet(WindowUNet(2, 3, **SMALL, **given), 1), 4),
    }


@pytest.mark.parametrize("name", ["spacetime", "temporal", "markov"])
@pytest.mark.parametrize("boundary", POLES)
def test_a_network_reads_the_field_beyond_the_poles(name, boundary):
    signs = (1, -1)
    network, halo = networks((boundary, "periodic"), signs)[name]
    plain, _ = networks(("reflect", "periodic"))[name]
    awake(network)
    awake(plain)
    x, context = torch.randn(2, 4, 2, 12, 16, dtype=torch.float64), torch.randn(1, 1, 1, 12, 16, dtype=torch.float64)
    large = plain(circle(x, boundary, halo, signs), LEVEL, circle(context, boundary, halo, (1,)))
    out = network(x, LEVEL, context)
    torch.testing.assert_close(out, large[..., halo:-halo, :])
    torch.testing.assert_close(network(x.roll(8, -1), LEVEL, context.roll(8, -1)), out.roll(8, -1))
    assert (network(x, LEVEL, context) - plain(x, LEVEL, context))[..., 0, :].abs().max() > 1e-4


def test_rows_added_beyond_a_pole_are_as_many_as_the_reach_of_convolutions():
    """More rows change nothing, so for this network the sphere has no edge at all."""
    network, halo = networks(("between_poles", "periodic"), (1, -1))["temporal"]
    x, context = torch.randn(1, 3, 2, 10, 8, dtype=torch.float64), torch.randn(1, 1, 1, 10, 8, dtype=torch.float64)
    out = awake(network)(x, LEVEL, context)
    for more, same in ((halo + 5, True), (halo - 1, False)):
        network.extension.halo = more
        assert torch.allclose(network(x, LEVEL, context), out, rtol=1e-9, atol=1e-9) is same


@settings(max_examples=60, deadline=None)
@given(st.integers(5, 40), st.integers(5, 40), st.tuples(*[st.sampled_from(sorted(MODES))] * 2), SCALARS)
def test_a_network_with_patches_reads_any_size(ny, nx, boundaries, seed):
    """It is the network on the field that numpy pads to even sizes; even sizes are read as they are."""
    network = awake(networks(boundaries)["spacetime"][0])
    x = torch.randn(1, 2, 3, ny, nx, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    padded = x.numpy()
    for axis, boundary in zip((-2, -1), boundaries, strict=True):
        widths = [(0, 0)] * 5
        widths[axis] = (0, x.shape[axis] % 2)
        padded = np.pad(padded, widths, mode=MODES[boundary])
    padded = torch.from_numpy(padded)
    large = network(padded[:, :, :2], LEVEL, padded[:, :1, 2:])
    out = network(x[:, :, :2], LEVEL, x[:, :1, 2:])
    assert torch.equal(out, large[..., :ny, :nx])


@pytest.mark.parametrize("name", ["temporal", "markov"])
@settings(max_examples=25, deadline=None)
@given(st.integers(5, 40), st.integers(5, 40), st.tuples(*[st.sampled_from(sorted(MODES))] * 2))
def test_every_point_of_any_size_is_read(name, ny, nx, boundaries):
    network = awake(networks(boundaries)[name][0])
    x, context = torch.randn(1, 3, 2, ny, nx, dtype=torch.float64), torch.randn(1, 1, 1, ny, nx, dtype=torch.float64)
    x.requires_grad_()
    out = network(x, LEVEL, context)
    assert out.shape == x.shape
    assert (torch.autograd.grad(out.square().sum(), x)[0].abs().amax((0, 1, 2)) > 0).all()


@pytest.mark.parametrize("name", ["spacetime", "temporal", "markov"])
def test_signs_are_described_only_where_there_are_any(name):
    boundaries = ("on_poles", "periodic")
    network, _ = networks(boundaries, (1, -1))[name]
    again = build_network(network_config(awake(network)))
    again.load_state_dict(network.state_dict())
    x, context = torch.randn(1, 3, 2, 9, 8), torch.randn(1, 1, 1, 9, 8)
    assert torch.equal(again.float()(x, LEVEL.float(), context), network.float()(x, LEVEL.float(), context))
    assert "signs" not in str(network_config(networks(boundaries, (1, 1))[name][0]))


def test_the_gradient_passes_over_the_poles():
    x = torch.randn(1, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    extension = Extension(("on_poles", "periodic"), halo=3, multiple=4, signs=(1, -1)).double()
    assert torch.autograd.gradcheck(extension, x)


def test_errors():
    with pytest.raises(ValueError, match="9 longitudes, expected an even number"):
        over_poles(torch.zeros(5, 9), -2, 1, 1, on_poles=True)
    for boundaries in (("on_poles", "zeros"), ("on_poles",), ("between_poles", "periodic", "zeros"), ("on_poles",) * 2):
        with pytest.raises(ValueError, match="needs two axes, the other one periodic"):
            Extension(boundaries, halo=1)
    with pytest.raises(ValueError, match=r"signs=\(1,\) must be 1 or -1 for each of the 2 channels"):
        TemporalNet(2, boundaries=("on_poles", "periodic"), signs=[1])
    with pytest.raises(ValueError, match=r"signs=\(0, 2\)"):
        TemporalNet(2, signs=[0, 2])
