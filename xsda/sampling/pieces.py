"""Puts a denoiser on its device, and lets its network process long trajectories, or large grids, in pieces.

With pieces the memory for activations does not grow with the length of the trajectory. With tiles it does not grow with
the grid.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from xsda.arguments import choose
from xsda.diffusion.anchored import Anchored
from xsda.diffusion.balance import Balanced
from xsda.diffusion.denoisers import Denoiser, Preconditioned
from xsda.nn import MarkovNet
from xsda.nn.segments import Segments, activation_bytes
from xsda.nn.tiles import Tiles
from xsda.priors.prior import Prior

MEMORY = 6 * 2**30  # bytes of activations kept for a gradient; halved if the device has too little memory


def place(denoiser: Denoiser, context: Tensor | None, device: torch.device, dtype: torch.dtype) -> Denoiser:
    """Return a copy of the denoiser on a device, in a precision and with its context; the prior's own is unchanged."""
    if device.type != "cpu" or dtype != torch.float32:
        denoiser = copy.deepcopy(denoiser).to(device, dtype)
    return denoiser if context is None else denoiser.conditioned(context.to(device, dtype))


def in_pieces(
    denoiser: Denoiser,
    shape: tuple[int, ...],
    context: Tensor | None,
    memory: int,
    tiles: tuple[int | None, ...] | None = None,
) -> Denoiser:
    """Return the denoiser with a network that processes trajectories of this shape in pieces; weights are shared.

    ``memory`` is the number of bytes of activations that are kept for a gradient. The pieces are parts of a long
    trajectory, or with ``tiles`` (points along each space axis) tiles of a large grid.
    """
    if not isinstance(denoiser, Preconditioned | Balanced) or isinstance(denoiser, Anchored):
        return denoiser  # without a network, or with one that needs no gradient
    network = denoiser.network
    if tiles is not None:
        # longitudes around a pole must be even
        one = (*shape[:2], *(n if t is None else min(n, t + t % 2) for n, t in zip(shape[2:], tiles, strict=True)))
        states = max(1, _room(network, one, context, memory) // 4)
        return denoiser.with_network(network.tiled(Tiles(tiles, states)))  # type: ignore[operator]
    if isinstance(network, MarkovNet):
        windows = _room(network, shape, context, memory)
        return denoiser.with_network(MarkovNet(network.local, network.order, windows=windows))
    if hasattr(network, "reach"):
        return denoiser.with_network(Segments(network, _room(network, shape, context, memory)))
    return denoiser


def _room(network: nn.Module, shape: tuple[int, ...], context: Tensor | None, memory: int) -> int:
    """Return how many states fit into memory, or how many windows if the network is evaluated on windows."""
    windows = isinstance(network, MarkovNet)
    states = min(shape[0], 2 * network.order + 1 if isinstance(network, MarkovNet) else 2)
    like = next(network.parameters(), torch.zeros(()))
    inputs = [like.new_zeros(1, states, *shape[1:]), like.new_zeros(1)]
    if context is not None:
        part = context[:1, :states].to(like)
        for axis, size in enumerate(shape[2:], 3):
            part = part.narrow(axis, 0, size)
        inputs.append(part)
    return max(1, memory * (1 if windows else states) // max(activation_bytes(network, *inputs), 1))


def tile_sizes(prior: Prior, tiles: Mapping[str, int] | None, space: Sequence[str]) -> tuple[int | None, ...] | None:
    """Return the points of a tile along each of the dimensions ``space``; raise if the prior cannot use such tiles."""
    if tiles is None:
        return None
    for name in tiles:
        if name not in space:
            raise ValueError(f"tiles names {name!r}, which is not a space dimension of the grid; {choose(name, space)}")
    denoiser = prior.denoiser
    network = None if isinstance(denoiser, Anchored) else getattr(denoiser, "network", None)
    if network is None:
        raise ValueError(
            f"tiles={dict(tiles)!r} divides the fields of a network, but the prior {prior.name!r} has a covariance "
            "over the whole grid; omit tiles"
        )
    local = network.local if isinstance(network, MarkovNet) else network
    if not hasattr(local, "tiled"):
        raise ValueError(
            f"tiles={dict(tiles)!r} needs a network whose values depend on nearby points only, but the "
            f"{type(local).__name__} of the prior {prior.name!r} reads all points at once; omit tiles"
        )
    halo = int(local.halo)  # type: ignore[arg-type]
    for name, size in tiles.items():
        if size < halo:
            raise ValueError(
                f"tiles[{name!r}]={size} is smaller than the {halo} points that the network of the prior "
                f"{prior.name!r} reads around a tile; use at least {halo}, and better ten times as many"
            )
    return tuple(tiles.get(d) for d in space)
