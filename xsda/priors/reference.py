"""References to priors: workers receive a path and a fingerprint, and read the file once."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from xsda.files import cached
from xsda.priors.prior import Prior, read_prior

_LOCK = threading.Lock()


@dataclass(frozen=True)
class PriorReference:
    """The path of a prior and the fingerprint that it must have."""

    path: str
    hash: str

    def load(self) -> Prior:
        """Return the prior; it is read once per process."""
        with _LOCK:
            return _read(self.path, self.hash)


@lru_cache(maxsize=4)
def _read(path: str, fingerprint: str) -> Prior:
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"the prior {path} is not visible from this worker; save it on a file system that all workers share and "
            "load it from there with xsda.load_model(path), or set XSDA_CACHE to such a place"
        )
    prior = read_prior(path)
    if prior.hash != fingerprint:
        raise ValueError(f"the prior {path} has changed (fingerprint {prior.hash}, expected {fingerprint})")
    return prior


def refer(prior: Prior) -> PriorReference:
    """Return a reference to a prior; a prior that is only in memory is saved in the cache first."""
    fingerprint = prior.hash
    if prior.path is not None and prior.path_hash == fingerprint and prior.path.is_file():
        return PriorReference(str(prior.path), fingerprint)
    path = cached("priors", f"{fingerprint}.safetensors", lambda temporary: prior.write(temporary))
    return PriorReference(str(path), fingerprint)
