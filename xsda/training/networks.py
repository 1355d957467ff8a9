"""Build the network of a training, with the sizes that the data require."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

from torch import nn

from xsda.arguments import choose
from xsda.labels.layout import Layout
from xsda.nn import NETWORKS, MarkovNet, SpaceTimeUNet, TemporalNet, WindowMLP, WindowUNet

NAMES = ("auto", "temporal", "spacetime", "markov")
MEASURED = ("channels", "window", "boundaries", "context", "signs", "size")  # set by the data


def make_network(
    network: str | Mapping[str, Any] | nn.Module, layout: Layout, window: int, width: int | None, extra: int = 0
) -> nn.Module:
    """Build a network from its name, or from its class and parameters. A module is returned unchanged.

    Parameters
    ----------
    network
        "temporal", "spacetime" or "markov"; a mapping with the class ``name`` and its parameters; or a module.
    layout
        Variables and axes of the data.
    window
        Number of states of a training sample.
    width
        Features of a network chosen by name.
    extra
        Number of context channels beside those of the layout.

    Returns
    -------
    Module
        The network.

    Examples
    --------
    >>> from xsda.training.networks import make_network
    >>> type(make_network("markov", xsda.load_model("lorenz63").layout, 5, 16)).__name__
    'MarkovNet'
    """
    if isinstance(network, nn.Module):
        return network
    boundaries = tuple(a.poles or ("periodic" if a.period else "zeros") for a in layout.space)
    given: dict[str, Any] = {
        "channels": layout.channels, "context": layout.context_channels + extra, "signs": layout.signs,
    }  # fmt: skip
    if isinstance(network, Mapping):
        if width is not None:
            raise ValueError(
                f"width={width} is for a network given by name; put the width into the mapping {dict(network)} instead"
            )
        return _by_class(network, layout, window, given | {"boundaries": boundaries})
    if network == "temporal":
        dilations = reach_dilations((window - 1) // 2)
        space_kernel = 5 if len(boundaries) == 1 else 3
        return TemporalNet(
            boundaries=boundaries, width=width or (32 if boundaries else 64), kernel=3, dilations=dilations,
            space_kernel=space_kernel, **given,
        )  # fmt: skip
    base = width or (32 if network == "spacetime" else 64)
    hidden = (base, 2 * base, 4 * base)
    if network == "spacetime":
        if not boundaries:
            raise ValueError("network='spacetime' is for fields, but these data have no space; use network='temporal'")
        patch = 1 if any(a.period and a.size % 2 for a in layout.space) else 2  # an odd ring would get a seam
        return SpaceTimeUNet(boundaries=boundaries, hidden=hidden, patch=patch, **given)
    if network != "markov":
        raise ValueError(f"network={network!r} is unknown; {choose(network, NAMES)}")
    _check_odd(window)
    if not boundaries:
        given.pop("signs")  # without space there are no poles
        return MarkovNet(WindowMLP(window=window, width=width or 128, **given), window // 2)
    return MarkovNet(WindowUNet(window=window, boundaries=boundaries, hidden=hidden, **given), window // 2)


def check_network(network: Mapping[str, Any]) -> tuple[type[nn.Module], dict[str, Any]]:
    """Check the class and the parameters that a mapping names.

    Parameters
    ----------
    network
        Class ``name`` and its parameters.

    Returns
    -------
    class, options
        The class of the network, and its parameters without the name.

    Examples
    --------
    >>> from xsda.training.networks import check_network
    >>> check_network({"name": "TemporalNet", "width": 8})[1]
    {'width': 8}
    """
    options = dict(network)
    name = options.pop("name", None)
    if not isinstance(name, str) or name not in NETWORKS:
        raise ValueError(f"the network {name!r} is unknown; {choose(name, NETWORKS)}")
    known = [k for k in inspect.signature(NETWORKS[name]).parameters if k not in MEASURED]
    for key in options:
        if key not in known:
            raise ValueError(f"{name} has no parameter {key!r}; {choose(key, known)}")
    return NETWORKS[name], options


def _by_class(network: Mapping[str, Any], layout: Layout, window: int, given: Mapping[str, Any]) -> nn.Module:
    kind, options = check_network(network)
    known = inspect.signature(kind).parameters
    if "window" in known:
        _check_odd(window)
    given = {**given, "window": window, "size": math.prod(a.size for a in layout.space)}
    try:
        made = kind(**{k: v for k, v in given.items() if k in known}, **options)
    except TypeError as error:
        raise ValueError(f"the network {dict(network)} cannot be made: {error}") from error
    return MarkovNet(made, window // 2) if "window" in known else made


def _check_odd(window: int) -> None:
    if window % 2 == 0 or window < 3:
        raise ValueError(
            f"window={window} must be odd and at least 3 for a network on windows, which have a centre and neighbours"
        )


def reach_dilations(reach: int, *, least: int = 6, most: int = 12) -> tuple[int, ...]:
    """Choose dilations 1, 2, 4, ..., 1, 2, 4, ... that add up to at most ``reach``.

    Parameters
    ----------
    reach
        Number of neighbours on each side.
    least, most
        Smallest and largest number of blocks. Blocks without reach (dilation 0) fill up to ``least``.

    Returns
    -------
    tuple of int
        One dilation per block.

    Examples
    --------
    >>> from xsda.training.networks import reach_dilations
    >>> reach_dilations(10)
    (1, 2, 4, 1, 2, 0)
    """
    chosen: list[int] = []
    dilation = 1
    while sum(chosen) < reach and len(chosen) < most:
        left = reach - sum(chosen)
        dilation = 1 if dilation > min(left, 16) else dilation
        chosen.append(dilation)
        dilation *= 2
    return (*chosen, *(0,) * (least - len(chosen)))
