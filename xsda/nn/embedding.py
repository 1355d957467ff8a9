"""Embedding of the noise level: sines and cosines of log(sigma / alpha), followed by a small network."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn


class NoiseEmbedding(nn.Module):
    """Map log noise levels of any shape to vectors (..., features).

    Parameters
    ----------
    features
        Size of the vectors.
    waves
        Number of frequencies of the sines and cosines.
    """

    frequencies: Tensor

    def __init__(self, features: int, waves: int = 16):
        super().__init__()
        frequencies = np.pi * np.logspace(-1.5, 0.5, waves)  # torch.logspace is slow on the device "meta"
        self.register_buffer("frequencies", torch.tensor(frequencies.tolist()), persistent=False)
        self.project = nn.Sequential(
            nn.Linear(2 * waves, features), nn.SiLU(), nn.Linear(features, features), nn.SiLU()
        )

    def forward(self, log_noise: Tensor) -> Tensor:
        angle = log_noise[..., None] * self.frequencies.to(log_noise) / 4
        return self.project(torch.cat([angle.sin(), angle.cos()], dim=-1))
