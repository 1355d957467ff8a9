"""Random numbers that belong to a member and not to a batch.

Each member has its own counter-based stream (Philox), keyed by (seed, member). Member 7 of seed 0 gets the same numbers
for any chunks, scheduler and device. The CPU draws them for every device. A GPU does not wait: ``ahead`` draws the next
numbers in a thread while the device computes, and copies them from pinned memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor


class MemberNoise:
    """Standard normal numbers for a batch of members.

    Parameters
    ----------
    seed
        Seed of the whole ensemble.
    members
        Numbers of the members in this batch.
    shape
        Shape of the state of one member.
    attempt
        Number of the attempt. Each attempt to draw a member again uses another stream.
    device, dtype
        Device and precision of the numbers.
    ahead
        Draw the next numbers in a thread, for a device that computes without the CPU. The numbers are the same, but
        there are no uniform ones. The thread ends with this object.

    Examples
    --------
    >>> whole, part = (xsda.diffusion.MemberNoise(0, m, (3,))() for m in ([0, 1, 2], [2]))
    >>> bool((whole[2] == part[0]).all())
    True
    """

    def __init__(
        self,
        seed: int,
        members: Sequence[int],
        shape: Sequence[int],
        *,
        attempt: int = 0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        ahead: bool = False,
    ):
        self.members = [int(m) for m in members]
        self.shape = tuple(shape)
        self.device, self.dtype = torch.device(device), dtype
        keys = [(m,) if attempt == 0 else (m, attempt) for m in self.members]
        self._streams = [
            np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=key))) for key in keys
        ]
        self._thread = ThreadPoolExecutor(1) if ahead else None
        self._next: Future[Tensor] | None = None

    def __call__(self) -> Tensor:
        """Draw the next numbers, (members, *shape). They are drawn in single precision for any ``dtype``."""
        drawn = self._draw() if self._next is None else self._next.result()
        if self._thread is not None:
            self._next = self._thread.submit(self._draw)
        return drawn.to(self.device, non_blocking=self._thread is not None).to(self.dtype)

    def uniform(self) -> Tensor:
        """Draw one uniform number per member, (members,), in double precision."""
        if self._thread is not None:
            raise ValueError("normal numbers are drawn ahead of the uniform ones; use ahead=False")
        return torch.tensor([s.random() for s in self._streams], dtype=torch.float64, device=self.device)

    def _draw(self) -> Tensor:
        pin = self._thread is not None and self.device.type == "cuda"
        out = torch.empty(len(self.members), *self.shape, dtype=torch.float32, device="cpu", pin_memory=pin)
        for row, stream in zip(out.numpy(), self._streams, strict=True):  # numpy lets other threads run
            stream.standard_normal(out=row, dtype=np.float32)
        return out
