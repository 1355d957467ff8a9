"""Where to compute."""

from __future__ import annotations

import os

import torch

# Activations of long trajectories are gigabytes that are made anew at each evaluation: in pages of 2 MiB instead of 4 KiB (where
# Linux lets programs ask for them) that takes up to a fifth less time. Torch reads this when it first needs so much.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def pick_device(device: str) -> torch.device:
    """ "auto" takes a GPU if there is one."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device={device!r} is unknown; use 'auto', 'cpu' or 'cuda'") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("device='cuda' was asked for but torch sees no GPU; use device='auto' or 'cpu'")
    return chosen


def out_of_memory(error: Exception) -> bool:
    """Whether a device had too little memory; only CUDA's allocator has a class of its own for it."""
    said = str(error).lower()
    words = ("out of memory", "allocate memory", "alloc_failed")
    return isinstance(error, torch.OutOfMemoryError) or any(w in said for w in words)
