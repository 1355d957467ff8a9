"""Computes members at once on several devices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

import numpy as np
import torch
from tqdm.auto import tqdm

from xsda.sampling.blocks import Block, Task, block, member_bar


def on_devices(
    devices: Sequence[torch.device], task: Task, parts: Sequence[Sequence[int]], *, batch: int, bar: tqdm
) -> Iterator[Block]:
    """Compute the parts of an ensemble and give each when it is finished; a free device takes the next."""
    with ThreadPoolExecutor(len(devices)) as pool:
        waiting = {pool.submit(block, task, batch, part): part for part in parts}
        try:
            for future in as_completed(list(waiting)):
                part, values = waiting.pop(future), future.result()
                bar.update(len(part))
                yield part, values
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


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
    with member_bar(len(members), label=label, progress=progress) as bar:
        found = {part[0]: values for part, values in on_devices(devices, task, parts, batch=size, bar=bar)}
    return [np.concatenate(values) for values in zip(*(found[part[0]] for part in parts), strict=True)]
