"""Chooses the device, and recognises errors for lack of memory."""

from __future__ import annotations

import os

import torch

# Each evaluation of a long trajectory allocates gigabytes of activations. Pages of 2 MiB instead of 4 KiB save up to a
# fifth of the time on Linux. Torch reads this variable at its first large allocation.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def pick_device(device: str) -> torch.device:
    """Return a device by name; "auto" is a GPU if there is one."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device={device!r} is unknown; use 'auto', 'cpu' or 'cuda'") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("device='cuda' was given, but torch finds no GPU; use device='auto' or 'cpu'")
    return chosen


def out_of_memory(error: Exception) -> bool:
    """Whether an error is a lack of memory; only CUDA raises an error class of its own for it."""
    said = str(error).lower()
    words = ("out of memory", "allocate memory", "alloc_failed")
    return isinstance(error, torch.OutOfMemoryError) or any(w in said for w in words)
