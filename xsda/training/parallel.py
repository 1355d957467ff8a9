"""Several processes, one training: torch's own DistributedDataParallel, started by torchrun.

Each process takes its rows of a batch that is the same for all, with times and noises drawn for all of it: n processes
with batches of m windows do what one does with batches of n m.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from xsda.devices import pick_device

Rows = TypeVar("Rows", Tensor, np.ndarray)


@dataclass(frozen=True)
class Team:
    """The processes of a training, and which of them this one is."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @classmethod
    def join(cls, device: str) -> Team:
        """As torchrun has set it up; alone without it."""
        chosen = pick_device(device)
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls(device=chosen)
        if chosen.type == "cuda":
            chosen = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(chosen)
        if not distributed.is_initialized():
            distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
        return cls(distributed.get_rank(), size, chosen)

    @property
    def leads(self) -> bool:
        """Whether this process writes the files and shows the progress."""
        return self.rank == 0

    def rows(self, x: Rows) -> Rows:
        """This process's rows of what is drawn for all."""
        return x[self.rank :: self.size]

    def mean(self, value: Tensor) -> Tensor:
        """Over the processes."""
        if self.size > 1:
            value = value.clone()
            distributed.all_reduce(value)
            value /= self.size
        return value

    def join_gradients(self, module: nn.Module) -> nn.Module:
        """The module, its gradients averaged over the processes as they are computed."""
        if self.size == 1:
            return module
        return DistributedDataParallel(module, device_ids=[self.device] if self.device.type == "cuda" else None)

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            distributed.barrier()
