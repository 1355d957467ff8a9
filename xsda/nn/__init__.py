"""Networks, and how to build one from the description stored in a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from xsda.nn.markov import MarkovNet, compose_windows
from xsda.nn.mlp import ResMLP, WindowMLP
from xsda.nn.spacetime import SpaceTimeUNet
from xsda.nn.temporal import TemporalNet
from xsda.nn.unet import UNet, WindowUNet

NETWORKS: dict[str, type[nn.Module]] = {c.__name__: c for c in (SpaceTimeUNet, TemporalNet, WindowMLP, WindowUNet)}


def network_config(network: nn.Module) -> dict[str, Any]:
    """A description of a network from which ``build_network`` makes it again."""
    if isinstance(network, MarkovNet):
        return {"name": "MarkovNet", "order": network.order, "local": network_config(network.local)}
    name = type(network).__name__
    if name not in NETWORKS:
        raise ValueError(f"a network of type {name} cannot be stored in a file; use one of {sorted(NETWORKS)}")
    return {"name": name, **network.config}  # type: ignore[dict-item]


def network_identity(network: nn.Module) -> dict[str, Any]:
    """The same, or the name alone of a network of the user's own: usable, but not to be written."""
    try:
        return network_config(network)
    except ValueError:
        return {"name": type(network).__name__, "storable": False}


def build_network(config: Mapping[str, Any]) -> nn.Module:
    """The network that ``config`` describes, with fresh weights."""
    options = dict(config)
    name = options.pop("name")
    if name == "MarkovNet":
        return MarkovNet(build_network(options["local"]), options["order"])
    if name not in NETWORKS:
        raise ValueError(f"unknown network {name!r}; this version of xsda knows {sorted([*NETWORKS, 'MarkovNet'])}")
    return NETWORKS[name](**options)


__all__ = [
    "NETWORKS",
    "MarkovNet",
    "ResMLP",
    "SpaceTimeUNet",
    "TemporalNet",
    "UNet",
    "WindowMLP",
    "WindowUNet",
    "build_network",
    "compose_windows",
    "network_config",
    "network_identity",
]
