"""Puts a denoiser on its device, and lets its network process long trajectories in pieces.

With pieces the memory for activations does not grow with the length of the trajectory.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from xsda.diffusion.anchored import Anchored
from xsda.diffusion.balance import Balanced
from xsda.diffusion.denoisers import Denoiser, Preconditioned
from xsda.nn import MarkovNet
from xsda.nn.segments import Segments, activation_bytes

MEMORY = 6 * 2**30  # bytes of activations kept for a gradient; halved if the device has too little memory


def place(denoiser: Denoiser, context: Tensor | None, device: torch.device, dtype: torch.dtype) -> Denoiser:
    """Return a copy of the denoiser on a device, in a precision and with its context; the prior's own is unchanged."""
    if device.type != "cpu" or dtype != torch.float32:
        denoiser = copy.deepcopy(denoiser).to(device, dtype)
    return denoiser if context is None else denoiser.conditioned(context.to(device, dtype))


def in_pieces(denoiser: Denoiser, shape: tuple[int, ...], context: Tensor | None, memory: int) -> Denoiser:
    """Return the denoiser with a network that processes long trajectories of this shape in pieces; weights are shared.

    ``memory`` is the number of bytes of activations that are kept for a gradient.
    """
    if not isinstance(denoiser, Preconditioned | Balanced) or isinstance(denoiser, Anchored):
        return denoiser  # without a network, or with one that needs no gradient
    network = denoiser.network
    if isinstance(network, MarkovNet):
        window = 2 * network.order + 1
        room = _room(network, min(shape[0], window), 1, shape, context, memory)
        return denoiser.with_network(MarkovNet(network.local, network.order, windows=room))
    if hasattr(network, "reach"):
        states = min(shape[0], 2)
        return denoiser.with_network(Segments(network, _room(network, states, states, shape, context, memory)))
    return denoiser


def _room(
    network: nn.Module, states: int, units: int, shape: tuple[int, ...], context: Tensor | None, memory: int
) -> int:
    """Return how many units of work (states or windows) fit into memory; ``states`` states make ``units`` of them."""
    like = next(network.parameters(), torch.zeros(()))
    inputs = [like.new_zeros(1, states, *shape[1:]), like.new_zeros(1)]
    if context is not None:
        inputs.append(context[:1, :states].to(like))
    return max(1, memory * units // max(activation_bytes(network, *inputs), 1))
