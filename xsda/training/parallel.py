"""Several processes, one training: torch's own DistributedDataParallel, started by torchrun.

Each process takes its rows of a batch that is the same for all, with times and noises drawn for all of it: n processes
with batches of m windows do what one does with batches of n m.
"""

from __future__ import annotations

import atexit
import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from xsda.sampling.devices import pick_device

Rows = TypeVar("Rows", Tensor, np.ndarray)


def leads() -> bool:
    """Whether this process is the one that writes the files."""
    return int(os.environ.get("RANK", "0")) == 0


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
            atexit.register(distributed.destroy_process_group)
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

    def agree(self, step: int, setup: Mapping[str, Any], checkpoint: Path | None) -> None:
        """Wait for the others, and raise unless all stand at the same step of the same training."""
        if self.size == 1:
            return
        mine = torch.tensor([step, zlib.crc32(json.dumps(setup, sort_keys=True).encode())], device=self.device)
        all_of = [torch.zeros_like(mine) for _ in range(self.size)]
        distributed.all_gather(all_of, mine)
        steps, setups = torch.stack(all_of).T.tolist()
        if len(set(setups)) > 1:
            raise ValueError(
                "the processes were given different data, networks or options: give all of them the same file and recipe"
            )
        if len(set(steps)) > 1:
            raise ValueError(
                f"the processes found different checkpoints at {checkpoint} (steps {steps}); put it on a file system that all "
                "of them share"
            )
