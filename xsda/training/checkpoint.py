"""Checkpoints: one safetensors file each, written whole or not at all, with a checksum of all that it holds."""

from __future__ import annotations

import hashlib
import json
import os
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from xsda.files import replacing


def save_checkpoint(path: Path, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
    """Write tensors and metadata; an error leaves the previous checkpoint as it was."""
    tensors = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    text = json.dumps(meta)
    with replacing(path) as temporary:
        save_file(tensors, temporary, {"xsda": text, "checksum": _checksum(tensors, text)})


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the metadata of a checkpoint; raise if it is damaged."""
    try:
        with safe_open(os.fspath(path), "pt") as file:
            stored = file.metadata() or {}
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
        if stored["checksum"] != _checksum(tensors, stored["xsda"]):
            raise ValueError("its checksum is wrong")
        return tensors, json.loads(stored["xsda"])
    except (SafetensorError, KeyError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is not a checkpoint of this xsda, or is damaged ({error}); remove it to start anew"
        ) from error


def _checksum(tensors: dict[str, Tensor], meta: str) -> str:
    """SHA-256 of the metadata and of the name, type, shape and bytes of each tensor."""
    digest = hashlib.sha256(meta.encode())
    for key, value in sorted(tensors.items()):
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


NOTHING = object()


def differences(then: Any, now: Any, name: str = "") -> list[str]:
    """Name each entry that differs between two nested settings, with both values."""
    if type(then) is type(now) and isinstance(now, dict):
        pairs = [(f"{name}.{k}".lstrip("."), then.get(k, NOTHING), now.get(k, NOTHING)) for k in {**then, **now}]
    elif type(then) is type(now) and isinstance(now, list):
        pairs = [(f"{name}[{i}]", *pair) for i, pair in enumerate(zip_longest(then, now, fillvalue=NOTHING))]
    else:
        was, came = ("nothing" if v is NOTHING else f"{v!r:.60}" for v in (then, now))
        return [] if then == now else [f"{name}: {was} then, {came} now"]
    return [text for key, a, b in pairs for text in differences(a, b, key)]


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the state of an optimiser as tensors by name."""
    state = optimizer.state_dict()["state"]
    return {f"optimizer.{i}.{k}": torch.as_tensor(v) for i, entry in state.items() for k, v in entry.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Give an optimiser the state that ``optimizer_tensors`` returned."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
