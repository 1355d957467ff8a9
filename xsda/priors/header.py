"""Checks of the description in a prior's file, and of the shapes of its tensors.

They run before a tensor is read or a network is built. A damaged or forged file therefore cannot make xsda allocate
much more memory than the size of the file.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from xsda.nn import build_network
from xsda.nn.extension import POLES
from xsda.version import __version__

FORMAT = 1
MOST_POINTS = 10**9  # of a grid over space
NUMBER, NONE = (int, float), type(None)
VARIABLE = {"name": str, "mean": [NUMBER], "std": [NUMBER], "channel_dim": (str, NONE), "labels": list, "attrs": dict}
AXIS = {"name": str, "size": int, "spacing": NUMBER, "period": (*NUMBER, NONE)}
HEADER = {
    "format": int,
    "name": str,
    "hash": str,
    "window": int,
    "length": (int, NONE),
    "info": dict,
    "denoiser": {"kind": str, "schedule": {"name": str}},
    "layout": {
        "variables": [VARIABLE],
        "context": [VARIABLE],
        "space": [AXIS],
        "time": str,
        "dt": (*NUMBER, NONE),
        "dates": bool,
        "time_features": [str],
    },
}
NETWORKED = ("Preconditioned", "Anchored")  # denoisers with a network
NETWORK = {"network": {"name": str}, "parameterization": str, "data_std": NUMBER}
WORDS = {
    str: "text", int: "an integer", float: "a number", bool: "true or false", dict: "a table", list: "a list",
    NONE: "null",
}  # fmt: skip


def read_header(path: Path, text: str | None) -> dict[str, Any]:
    """Return the description in the header of a file; raise if there is none or if its format is too new."""
    if text is None:
        raise ValueError(f"{path} is a safetensors file but not a prior of xsda; make one with Prior.save")
    try:
        meta = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the description in {path} is damaged ({error}); get the file again") from error
    version = meta.get("format") if isinstance(meta, dict) else None
    if isinstance(version, int) and version > FORMAT:
        raise ValueError(f"{path} has format {version}, this xsda {__version__} reads up to {FORMAT}; upgrade xsda")
    return meta


def check_header(meta: Any) -> None:
    """Raise if a field of the description is missing or has the wrong type."""
    _check(meta, HEADER, "the description")
    if meta["denoiser"]["kind"] in NETWORKED:
        _check(meta["denoiser"], NETWORK, "denoiser")
    if meta["denoiser"]["kind"] == "Anchored":
        _check(meta["denoiser"], {"base": str}, "denoiser")
    _check(meta["layout"].get("position", []), [VARIABLE], "layout.position")
    for name in ("window", "length"):
        if meta[name] is not None and meta[name] < 1:
            raise ValueError(f"{name} is {meta[name]}, expected at least 1")
    for axis in meta["layout"]["space"]:
        if axis.get("poles") not in (None, *POLES):
            raise ValueError(f"poles is {axis['poles']!r:.60}, expected one of {POLES}")
    points = math.prod(axis["size"] for axis in meta["layout"]["space"])
    if not 0 < points <= MOST_POINTS:
        raise ValueError(f"its grid has {points:g} points, expected 1 to {MOST_POINTS:g}")


def _check(value: Any, expected: Any, where: str) -> None:
    """Raise if ``value`` is not as ``expected``.

    A type, several types, a list with one of these, or a table of these.
    """
    kind = type(expected) if isinstance(expected, dict | list) else expected
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        words = " or ".join(WORDS[k] for k in kinds if k is not int or float not in kinds)
        raise TypeError(f"{where} is {value!r:.60}, expected {words}")
    if isinstance(expected, list):
        for i, entry in enumerate(value):
            _check(entry, expected[0], f"{where}[{i}]")
    if isinstance(expected, dict):
        for name, inner in expected.items():
            if name not in value:
                raise ValueError(f"{where} lacks {name!r}")
            _check(value[name], inner, name if where == "the description" else f"{where}.{name}")


def check_network(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise if the network of this description needs tensors of other shapes than these; allocate nothing."""
    with torch.device("meta"), _at_most(len(shapes)):
        needed = {k: tuple(v.shape) for k, v in build_network(config).state_dict().items()}
    for name in sorted({*needed, *shapes}):
        if needed.get(name) != shapes.get(name):
            there, wanted = (str(s.get(name, "nothing")) for s in (shapes, needed))
            raise ValueError(f"its network has {wanted} as {name!r}, the file holds {there}")


@contextmanager
def _at_most(count: int) -> Iterator[None]:
    """Raise when this thread creates modules with more than ``count`` parameters in total."""
    thread, made = threading.get_ident(), 0

    def register(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal made
        if threading.get_ident() == thread and parameter is not None:
            made += 1
            if made > count:
                raise ValueError(f"its network has more tensors than the {count} that the file holds")

    handle = register_module_parameter_registration_hook(register)
    try:
        yield
    finally:
        handle.remove()
