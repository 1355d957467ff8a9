"""Sends a likelihood to dask workers: its large arrays in a file of the cache, the rest pickled in the graph.

Arrays are written as safetensors under the hash of their contents. Each process reads them once. Small likelihoods need
no file.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import threading
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xsda.files import SharedFile, cached

SMALL = 2**12  # arrays of fewer bytes are pickled with the rest
PLAIN = ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool")
_LOCK = threading.Lock()


@dataclass(frozen=True, eq=False)
class Shipment:
    """An object as it is (``content``), or its pickled ``description`` and the ``file`` of its large arrays."""

    content: Any = None
    description: bytes = b""
    file: SharedFile | None = None
    hash: str = ""

    def load(self) -> Any:
        """Return the object; it is unpacked once per process."""
        if not self.description:
            return self.content
        with _LOCK:
            return _unpack(self.hash, self.description, self.file)


def pack(content: Any) -> Shipment:
    """Pack an object so that it is small enough to be part of every block."""
    description, arrays = _taken_apart(content)
    file = None
    if arrays:
        from safetensors.torch import save_file

        folder, digest = "likelihoods", hashlib.sha256(" ".join(sorted(arrays)).encode()).hexdigest()[:32]
        name = f"{digest}.safetensors"
        file = SharedFile(str(cached(folder, name, lambda temporary: save_file(arrays, temporary))), folder, name)
    return Shipment(description=description, file=file, hash=hashlib.sha256(description).hexdigest()[:32])


def fingerprint(content: Any) -> str:
    """Return a hash of the content of an object, which is the same in every process."""
    return hashlib.sha256(_taken_apart(content)[0]).hexdigest()[:16]


def _taken_apart(content: Any) -> tuple[bytes, dict[str, Tensor]]:
    """Pickle an object without its large arrays; return these by their hashes."""
    import cloudpickle

    arrays: dict[str, Tensor] = {}
    names: dict[int, str] = {}
    kept: list[Any] = []  # keeps arrays alive, so that no id is used twice

    class Pickler(cloudpickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            if not (_is_plain(value) and value.nbytes >= SMALL):
                return None
            if id(value) not in names:
                array = value.detach().cpu().numpy() if isinstance(value, Tensor) else value
                digest = hashlib.sha256(f"{array.dtype} {array.shape}".encode())
                digest.update(array.tobytes())
                names[id(value)] = digest.hexdigest()[:32]
                arrays[names[id(value)]] = torch.from_numpy(np.array(array, order="C"))
                kept.append(value)
            return isinstance(value, Tensor), names[id(value)]

        def reducer_override(self, value: Any) -> Any:
            if type(value) is Tensor and _is_plain(value):  # pickles of torch hold addresses, which change the hash
                return torch.as_tensor, (value.detach().cpu().numpy(),)
            return super().reducer_override(value)

    file = io.BytesIO()
    Pickler(file, protocol=pickle.HIGHEST_PROTOCOL).dump(content)
    return file.getvalue(), arrays


def _is_plain(value: Any) -> bool:
    """Whether safetensors can hold this array; others (dates, text, other byte orders) are pickled."""
    if isinstance(value, Tensor):
        return value.layout == torch.strided and str(value.dtype).removeprefix("torch.") in PLAIN
    return isinstance(value, np.ndarray) and value.dtype.isnative and value.dtype.name in PLAIN


@lru_cache(maxsize=4)
def _unpack(key: str, description: bytes, file: SharedFile | None) -> Any:
    arrays: dict[str, Tensor] = {}
    if file is not None:
        from safetensors.torch import load_file

        path = file.find()
        if path is None:
            raise FileNotFoundError(
                f"this worker cannot see the observations in {file.path}; create the dask Client before the call, "
                "which then sends them to the workers, or set XSDA_CACHE to a folder that all workers share"
            )
        arrays = load_file(path)

    class Unpickler(pickle.Unpickler):
        def persistent_load(self, pid: Any) -> Any:
            as_tensor, name = pid
            return arrays[name] if as_tensor else arrays[name].numpy()

    return Unpickler(io.BytesIO(description)).load()
