"""Random numbers that belong to a member and not to a batch.

Each member has its own counter-based stream (Philox), keyed by (seed, member). Member 7 of seed 0 gets the same numbers
for any chunks, scheduler and device.
"""

from __future__ import annotations

from collections.abc import Sequence

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
    ):
        self.members = [int(m) for m in members]
        self.shape = tuple(shape)
        self.device, self.dtype = torch.device(device), dtype
        keys = [(m,) if attempt == 0 else (m, attempt) for m in self.members]
        self._streams = [
            np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=key))) for key in keys
        ]

    def __call__(self) -> Tensor:
        """Draw the next numbers, (members, *shape). They are drawn in single precision for any ``dtype``."""
        out = np.empty((len(self.members), *self.shape), np.float32)
        for row, stream in zip(out, self._streams, strict=True):
            stream.standard_normal(out=row, dtype=np.float32)
        return torch.from_numpy(out).to(self.device, self.dtype)

    def uniform(self) -> Tensor:
        """Draw one uniform number per member, (members,), in double precision."""
        return torch.tensor([s.random() for s in self._streams], dtype=torch.float64, device=self.device)
