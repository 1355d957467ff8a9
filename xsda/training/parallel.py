"""Training with several processes: torch's DistributedDataParallel, started by torchrun.

Each process takes its own rows of a batch that is common to all; times and noises are drawn for the whole batch. The
result is that n processes with batches of m windows do the same as one process with batches of n m windows.
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
    """Say whether this process writes the files.

    Returns
    -------
    bool
        True for the first process, and without torchrun.

    Examples
    --------
    >>> from xsda.training.parallel import leads
    >>> leads()
    True
    """
    return int(os.environ.get("RANK", "0")) == 0


@dataclass(frozen=True)
class Team:
    """The processes of a training.

    Parameters
    ----------
    rank
        Number of this process.
    size
        Number of processes.
    device
        Device of this process.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @classmethod
    def join(cls, device: str) -> Team:
        """Join the processes that torchrun has started; without torchrun there is only this one."""
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
        """Return the rows of this process."""
        return x[self.rank :: self.size]

    def mean(self, value: Tensor) -> Tensor:
        """Average over the processes."""
        if self.size > 1:
            value = value.clone()
            distributed.all_reduce(value)
            value /= self.size
        return value

    def join_gradients(self, module: nn.Module) -> nn.Module:
        """Return the module with gradients that are averaged over the processes as they are computed."""
        if self.size == 1:
            return module
        return DistributedDataParallel(module, device_ids=[self.device] if self.device.type == "cuda" else None)

    def agree(self, step: int, setup: Mapping[str, Any], checkpoint: Path | None) -> None:
        """Wait for the other processes, and raise unless all are at the same step of the same training."""
        if self.size == 1:
            return
        mine = torch.tensor([step, zlib.crc32(json.dumps(setup, sort_keys=True).encode())], device=self.device)
        all_of = [torch.zeros_like(mine) for _ in range(self.size)]
        distributed.all_gather(all_of, mine)
        steps, setups = torch.stack(all_of).T.tolist()
        if len(set(setups)) > 1:
            raise ValueError(
                "the processes have different data, networks or options; give all of them the same file and recipe"
            )
        if len(set(steps)) > 1:
            raise ValueError(
                f"the processes found different checkpoints at {checkpoint} (steps {steps}); put it on a file system "
                "that they all share"
            )
