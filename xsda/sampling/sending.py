"""Sends files of this computer to the workers of a cluster that cannot see them.

A file is sent once: the scheduler keeps it, and each worker, also one that joins later, writes it to its own cache. The
graph holds only its name. The scheduler forgets the oldest files when they take more than ``KEPT_BYTES``; a worker that
joins after that no longer receives them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from weakref import WeakKeyDictionary

from distributed import Client, Worker, WorkerPlugin

from xsda.files import SharedFile, cached

KEPT_BYTES = 2**30
_SENT: WeakKeyDictionary[Client, dict[SharedFile, int]] = WeakKeyDictionary()  # sizes, the oldest first


class SentFile(WorkerPlugin):
    """Writes a file to the cache of each worker."""

    def __init__(self, file: SharedFile):
        self.file, self.name = file, _name(file)
        self.content = Path(file.path).read_bytes()

    def setup(self, worker: Worker) -> None:
        """Write the file, unless the cache has it."""
        try:
            cached(self.file.folder, self.file.name, lambda temporary: temporary.write_bytes(self.content))
        except OSError as error:
            raise OSError(f"{error}, on the worker {worker.address}") from error
        self.content = b""  # the scheduler has it for workers that join later


def send(client: Client, files: Sequence[SharedFile]) -> None:
    """Send the files that some worker of a client's cluster cannot see; all of them if there are no workers yet."""
    seen, sent = list(client.run(_visible, files, on_error="ignore").values()), _SENT.setdefault(client, {})
    for k, file in enumerate(files):
        if not seen or not all(found[k] for found in seen):
            client.register_plugin(SentFile(file))
            sent[file] = Path(file.path).stat().st_size
    for file in [f for f in sent if f not in files]:
        if sum(sent.values()) > KEPT_BYTES:
            del sent[file]
            client.unregister_worker_plugin(_name(file))


def _name(file: SharedFile) -> str:
    return f"xsda/{file.folder}/{file.name}"


def _visible(files: Sequence[SharedFile]) -> list[bool]:
    return [file.find() is not None for file in files]
