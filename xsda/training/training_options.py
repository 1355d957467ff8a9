"""Options of the training, which are checked when they are set."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from xsda.diffusion.loss import WEIGHTINGS
from xsda.training.muon import Muon

KINDS = {"int": numbers.Integral, "float": numbers.Real, "str": str, "bool": bool}
WORDS = {"int": "an integer", "float": "a number", "str": "a name", "bool": "true or false"}
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": partial(torch.optim.AdamW, fused=True),
    "muon": Muon,
}
PRECISIONS = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Options of the training.

    Parameters
    ----------
    steps
        Number of optimiser steps.
    batch_size
        Number of windows in a batch.
    accumulate
        Number of batches whose gradients are added up for one step.
    optimizer
        "muon" (orthogonal steps for the weights of convolutions, which learn faster) or "adamw".
    learning_rate, decay, warmup, weight_decay
        Options of the optimiser. The learning rate rises over ``warmup`` steps, and then falls along "cosine" or
        "linear", or stays "constant".
    clip
        Largest norm of the gradient.
    ema
        Decay of the running average of the weights. The prior uses the average.
    weighting, noise_center, noise_width
        Weights of the loss, and distribution of the noise levels (see ``xsda.diffusion.loss``).
    shortest
        Shortest segment shown to a network that takes any length (default: always the full window). The windows of a
        batch are cut into 1, 2, ... segments each, so that hardly any state is unused.
    precision
        "float32", "bf16" or "fp16" (GPU only).
    compile
        Let ``torch.compile`` fuse the small operations of the network. This takes a minute or more at first and makes
        steps faster. It needs a C++ compiler on CPUs.
    validate_every, validation_batches, patience
        Steps between validations, and their size. Training stops after ``patience`` validations without improvement (0:
        never).
    checkpoint_every
        Steps between checkpoints.
    seed
        The same seed, data and machine give the same weights.

    Examples
    --------
    >>> xsda.training.TrainingOptions(steps=100, warmup=0, decay="linear").rate(50)
    0.0025
    """

    steps: int = 10_000
    batch_size: int = 64
    accumulate: int = 1
    optimizer: str = "muon"
    learning_rate: float = 5e-3
    decay: str = "cosine"
    warmup: int = 200
    weight_decay: float = 1e-3
    clip: float = 1.0
    ema: float = 0.999
    weighting: str = "edm"
    noise_center: float | None = None
    noise_width: float = 1.5
    shortest: int | None = None
    precision: str = "float32"
    compile: bool = False
    validate_every: int = 500
    validation_batches: int = 8
    patience: int = 0
    checkpoint_every: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        for name, entry in self.__dataclass_fields__.items():
            value, kind = getattr(self, name), str(entry.type).removesuffix(" | None")
            if value is None and kind != entry.type:
                continue
            if isinstance(value, bool) != (kind == "bool") or not isinstance(value, KINDS[kind]):
                raise ValueError(f"{name}={value!r} must be {WORDS[kind]}")
            if kind == "float" and not math.isfinite(value):  # type: ignore[arg-type]
                raise ValueError(f"{name}={value!r} must be a finite number")
        for name in ("steps", "batch_size", "accumulate", "validate_every", "validation_batches", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.decay not in ("cosine", "linear", "constant"):
            raise ValueError(f"decay={self.decay!r} is unknown; choose 'cosine', 'linear' or 'constant'")
        for name, known in (("precision", PRECISIONS), ("optimizer", OPTIMIZERS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r} is unknown; choose one of {tuple(known)}")
        if self.weighting not in WEIGHTINGS:
            raise ValueError(f"weighting={self.weighting!r} is unknown; choose one of {WEIGHTINGS}")
        if self.noise_center is not None and not self.noise_center > 0:
            raise ValueError(
                f"noise_center={self.noise_center} must be positive: it is a noise level itself, not its logarithm "
                "(EDM's P_mean = -1.2 is noise_center=0.3)"
            )
        for name in ("patience", "warmup", "weight_decay", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must not be negative")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema={self.ema} must lie between 0 and 1 (1 excluded): it is a decay")
        if not (self.clip > 0 and self.noise_width > 0):
            raise ValueError(f"clip={self.clip} and noise_width={self.noise_width} must be positive")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate={self.learning_rate} must be positive")

    def rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        ramp = min(1.0, (step + 1) / max(self.warmup, 1))
        done = step / self.steps
        fall = {"cosine": (1 + math.cos(math.pi * done)) / 2, "linear": 1 - done, "constant": 1.0}[self.decay]
        return self.learning_rate * ramp * fall
