"""Computes members at once on several devices."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from tqdm.auto import tqdm

from xsda.sampling.blocks import Task, compute
from xsda.sampling.devices import take


def compute_on(
    devices: Sequence[torch.device],
    task: Task,
    members: Sequence[int],
    *,
    batch: int,
    progress: bool | None,
    label: str,
) -> list[np.ndarray]:
    """Compute all members now. Each device takes the next ``batch`` of them, or fewer, when it has finished one."""
    size = min(batch, -(-len(members) // len(devices)))
    size = -(-size // task.group) * task.group
    parts = [members[start : start + size] for start in range(0, len(members), size)]
    disable = None if progress is None else not progress
    with (
        tqdm(total=len(members), desc=label, unit="member", disable=disable) as bar,
        ThreadPoolExecutor(len(devices)) as pool,
    ):

        def one(part: Sequence[int]) -> list[np.ndarray]:
            with take(devices):
                found = compute(task, part, batch=size, progress=False, label="")
            bar.update(len(part))
            return found

        found = list(pool.map(one, parts))
    return [np.concatenate(values) for values in zip(*found, strict=True)]
