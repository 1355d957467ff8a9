"""References to priors: workers receive the name of a file and a fingerprint, and read the file once."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import lru_cache

from xsda.files import SharedFile, cached
from xsda.priors.prior import Prior, read_prior

_LOCK = threading.Lock()


@dataclass(frozen=True)
class PriorReference:
    """The file of a prior and the fingerprint that the prior must have."""

    file: SharedFile
    hash: str

    def load(self) -> Prior:
        """Return the prior; it is read once per process."""
        with _LOCK:
            return _read(self.file, self.hash)


@lru_cache(maxsize=4)
def _read(file: SharedFile, fingerprint: str) -> Prior:
    path = file.find()
    if path is None:
        raise FileNotFoundError(
            f"the prior {file.path} is not visible from this worker; create the dask Client before the call, which "
            "then sends the prior to the workers, or save it on a file system that all workers share"
        )
    prior = read_prior(path)
    if prior.hash != fingerprint:
        raise ValueError(f"the prior {path} has changed (fingerprint {prior.hash}, expected {fingerprint})")
    return prior


def refer(prior: Prior) -> PriorReference:
    """Return a reference to a prior; a prior that is only in memory is saved in the cache first."""
    fingerprint, folder = prior.hash, "priors"
    name = f"{fingerprint}.safetensors"
    path = prior.path
    if path is None or prior.path_hash != fingerprint or not path.is_file():
        path = cached(folder, name, lambda temporary: prior.write(temporary))
    return PriorReference(SharedFile(str(path), folder, name), fingerprint)
