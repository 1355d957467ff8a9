"""Neural networks for denoising, and how to rebuild one from the description stored in a file."""

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
    """Describe a network, so that ``build_network`` can make it again.

    Parameters
    ----------
    network
        One of the networks of this package.

    Returns
    -------
    dict
        Name and options, without weights. It can be written as JSON.

    Examples
    --------
    >>> xsda.nn.network_config(xsda.nn.WindowMLP(3, 5, width=64))["width"]
    64
    """
    if isinstance(network, MarkovNet):
        return {"name": "MarkovNet", "order": network.order, "local": network_config(network.local)}
    name = type(network).__name__
    if name not in NETWORKS:
        raise ValueError(f"a network of type {name} cannot be stored in a file; use one of {sorted(NETWORKS)}")
    return {"name": name, **network.config}  # type: ignore[dict-item]


def network_identity(network: nn.Module) -> dict[str, Any]:
    """Describe a network of any type.

    Parameters
    ----------
    network
        A network of this package or of your own.

    Returns
    -------
    dict
        The description of ``network_config``. For a network of your own it is only the name: you can use such a
        network, but not store it in a file.

    Examples
    --------
    >>> xsda.nn.network_identity(torch.nn.Linear(2, 2))
    {'name': 'Linear', 'storable': False}
    """
    try:
        return network_config(network)
    except ValueError:
        return {"name": type(network).__name__, "storable": False}


def build_network(config: Mapping[str, Any]) -> nn.Module:
    """Build a network with fresh weights from its description.

    Parameters
    ----------
    config
        What ``network_config`` returned.

    Returns
    -------
    Module
        The network.

    Examples
    --------
    >>> config = xsda.nn.network_config(xsda.nn.TemporalNet(2, width=8))
    >>> xsda.nn.build_network(config).reach
    60
    """
    options = dict(config)
    name = options.pop("name")
    if name == "MarkovNet":
        return MarkovNet(build_network(options["local"]), options["order"])
    if name not in NETWORKS:
        raise ValueError(
            f"the network {name!r} is unknown; this version of xsda has {sorted([*NETWORKS, 'MarkovNet'])}"
        )
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
