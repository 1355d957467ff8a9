"""A likelihood by reference: blocks of a lazy ensemble carry its description, its large arrays lie once in the cache.

The description travels in the dask graph, as any function does. The arrays are written as safetensors, under the hash of
their contents, to a folder that all workers see; each process reads them once. Small likelihoods need no file.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import threading
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xsda.files import cached

SMALL = 2**12  # bytes of an array that travels with the description
PLAIN = ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool")
_LOCK = threading.Lock()


@dataclass(frozen=True, eq=False)
class Shipment:
    """Any object, whole (``content``), or packed: its description, and where its arrays lie."""

    content: Any = None
    description: bytes = b""
    path: str = ""
    hash: str = ""

    def load(self) -> Any:
        """The object; unpacked once per process."""
        if not self.description:
            return self.content
        with _LOCK:
            return _unpack(self.hash, self.description, self.path)


def pack(content: Any) -> Shipment:
    """A shipment that is small enough to be part of every block."""
    import cloudpickle

    arrays: dict[str, Tensor] = {}
    names: dict[int, str] = {}
    kept: list[Any] = []  # so that no id is used twice

    class Pickler(cloudpickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            if not (_is_plain(value) and value.nbytes >= SMALL):
                return None
            if id(value) not in names:
                array = value.detach().cpu().numpy() if isinstance(value, Tensor) else value
                digest = hashlib.sha256(f"{array.dtype} {array.shape}".encode())
                digest.update(array.tobytes())
                names[id(value)] = digest.hexdigest()[:32]
                arrays[names[id(value)]] = torch.from_numpy(np.array(array, order="C"))  # of storage of its own
                kept.append(value)
            return isinstance(value, Tensor), names[id(value)]

        def reducer_override(self, value: Any) -> Any:
            if type(value) is Tensor and _is_plain(
                value
            ):  # torch writes addresses into what it pickles, so that no two hashes agree
                return torch.as_tensor, (value.detach().cpu().numpy(),)
            return super().reducer_override(value)

    file = io.BytesIO()
    Pickler(file, protocol=pickle.HIGHEST_PROTOCOL).dump(content)
    description = file.getvalue()
    fingerprint = hashlib.sha256(description).hexdigest()[:32]
    path = ""
    if arrays:
        from safetensors.torch import save_file

        name = hashlib.sha256(" ".join(sorted(arrays)).encode()).hexdigest()[:32]
        path = str(cached("likelihoods", f"{name}.safetensors", lambda temporary: save_file(arrays, temporary)))
    return Shipment(description=description, path=path, hash=fingerprint)


def _is_plain(value: Any) -> bool:
    """Whether an array holds numbers that a file of tensors can hold; others (dates, text, foreign bytes) are pickled."""
    if isinstance(value, Tensor):
        return value.layout == torch.strided and str(value.dtype).removeprefix("torch.") in PLAIN
    return isinstance(value, np.ndarray) and value.dtype.isnative and value.dtype.name in PLAIN


@lru_cache(maxsize=4)
def _unpack(fingerprint: str, description: bytes, path: str) -> Any:
    arrays: dict[str, Tensor] = {}
    if path:
        from safetensors.torch import load_file

        if not Path(path).is_file():
            raise FileNotFoundError(
                f"the observations in {path} are not visible from this worker; set XSDA_CACHE to a folder that all workers "
                "share before calling assimilate"
            )
        arrays = load_file(path)

    class Unpickler(pickle.Unpickler):
        def persistent_load(self, pid: Any) -> Any:
            as_tensor, name = pid
            return arrays[name] if as_tensor else arrays[name].numpy()

    return Unpickler(io.BytesIO(description)).load()
