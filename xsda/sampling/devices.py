"""The devices of a process: which there are, which are free, and errors for lack of memory.

Each block of members takes a device that is free and computes on it alone. The values do not depend on the device. The
CPU is one device: a block uses all its cores. The workers of a dask cluster share the GPUs of their host among them.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor

# Each evaluation of a long trajectory allocates gigabytes of activations. Pages of 2 MiB instead of 4 KiB save up to a
# fifth of the time on Linux. Torch reads this variable at its first large allocation.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

Device = str | torch.device

_CHANGED = threading.Condition()  # guards _BUSY, and wakes the threads that wait for a device
_BUSY: set[torch.device] = set()
_OWN = threading.local()  # the device that this thread has taken


def installed() -> tuple[torch.device, ...]:
    """Return all devices that torch can use in this process.

    GPUs come first, those of one kind from the current one on, and the CPU last. Devices without double precision
    (MPS, some XPUs) are left out: noise levels and scores need it.
    """
    found = []
    for kind, gpus in (("cuda", torch.cuda), ("xpu", torch.xpu)):
        if gpus.is_available():
            count, first = gpus.device_count(), gpus.current_device() if gpus.is_initialized() else 0
            found += [torch.device(kind, (first + i) % count) for i in range(count)]
    found = [d for d in found if d.type != "xpu" or torch.xpu.get_device_properties(d).has_fp64]
    return (*found, torch.device("cpu"))


def find_devices(device: Device | Sequence[Device]) -> tuple[torch.device, ...]:
    """Return the devices that a name or a list of names stands for in this process.

    "auto" is all GPUs of one kind, or the CPU if there is none. "cuda" is all CUDA devices, and "cuda:1" is one. In a
    dask worker only its share of them is returned.
    """
    names = [device] if isinstance(device, str | torch.device) else list(device)
    if not names:
        raise ValueError("device=[] names no device; use 'auto', 'cpu' or 'cuda', or a list of devices")
    known = installed()
    return _share(tuple(dict.fromkeys(d for name in names for d in _named(str(name), known))))


def _named(name: str, known: Sequence[torch.device]) -> list[torch.device]:
    if name == "auto":
        return [d for d in known if d.type == known[0].type]
    try:
        wanted = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device={name!r} is unknown; use 'auto', 'cpu' or 'cuda', or one GPU: 'cuda:1'") from error
    found = [d for d in known if d.type == wanted.type and wanted.index in (None, d.index)]
    if not found:
        raise ValueError(
            f"device={name!r} was given, but xsda can use only {', '.join(map(str, known))} here; use one of them or "
            "device='auto'"
        )
    return found


def pick_device(device: Device | Sequence[Device]) -> torch.device:
    """Return the device that this thread has taken, or else the first that a name stands for."""
    return getattr(_OWN, "device", None) or find_devices(device)[0]


@contextlib.contextmanager
def take(device: Device | Sequence[Device]) -> Iterator[torch.device]:
    """Wait until one of these devices is free, and keep it for this thread."""
    wanted = find_devices(device)
    with _CHANGED:
        _CHANGED.wait_for(lambda: not _BUSY.issuperset(wanted))
        chosen = next(d for d in wanted if d not in _BUSY)
        _BUSY.add(chosen)
    _OWN.device = chosen
    try:
        yield chosen
    finally:
        del _OWN.device
        with _CHANGED:
            _BUSY.remove(chosen)
            _CHANGED.notify_all()


def _share(devices: tuple[torch.device, ...]) -> tuple[torch.device, ...]:
    """Return the devices of this dask worker, or all of them outside of a worker.

    With r workers before it of n on the host, a worker takes the devices r, r + n, r + 2 n and so on. If there are more
    workers than devices, several workers use one device.
    """
    distributed = sys.modules.get("distributed.worker")  # not imported: then this is no worker
    if len(devices) == 1 or distributed is None:
        return devices
    try:
        worker = distributed.get_worker()
    except ValueError:
        return devices
    if "dask_cuda" in sys.modules:  # each of its workers sees all devices, its own first
        return devices[:1]
    rank, count = _rank(worker.address)
    return devices[rank % len(devices) :: count]


@lru_cache(maxsize=16)
def _rank(address: str) -> tuple[int, int]:
    """Return how many dask workers come before this one on its host, and how many there are. The order is by name.

    Workers with other resources do not count: they may be without a GPU.
    """
    from distributed import get_worker
    from distributed.utils import sync

    worker = get_worker()
    workers = sync(worker.loop, worker.scheduler.identity)["workers"]
    own = workers[address]
    alike = [w for w in workers.values() if (w["host"], w["resources"]) == (own["host"], own["resources"])]
    names = sorted((str(w["name"]) for w in alike), key=lambda name: (len(name), name))  # worker-2 before worker-10
    return names.index(str(own["name"])), len(names)


def on(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Return the context in which to compute on a device. A CUDA device has one stream for all that xsda computes."""
    return torch.cuda.stream(_stream(device)) if device.type == "cuda" else contextlib.nullcontext()


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


def to_host(*tensors: Tensor) -> list[Tensor]:
    """Copy tensors to the CPU. From CUDA devices they are copied to pinned memory, with one wait for all of them."""
    if not any(t.device.type == "cuda" for t in tensors):
        return [t.cpu() for t in tensors]
    copies = [torch.empty_like(t, device="cpu", pin_memory=True).copy_(t, non_blocking=True) for t in tensors]
    torch.cuda.current_stream(tensors[0].device).synchronize()
    return copies


def out_of_memory(error: Exception) -> bool:
    """Whether an error is a lack of memory; only CUDA raises an error class of its own for it."""
    said = str(error).lower()
    words = ("out of memory", "allocate memory", "alloc_failed")
    return isinstance(error, torch.OutOfMemoryError) or any(w in said for w in words)
