"""The training loop: denoising score matching on streamed windows, resumable to the bit."""

from __future__ import annotations

import copy
import csv
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from xsda.diffusion.denoisers import Preconditioned
from xsda.diffusion.loss import WEIGHTINGS, denoising_loss, training_times
from xsda.training.checkpoint import load_checkpoint, optimizer_tensors, restore_optimizer, save_checkpoint
from xsda.training.windows import Windows

Callback = Callable[[int, dict[str, float]], None]
PRECISIONS = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class TrainingError(RuntimeError):
    """Training could not go on."""


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """How to train.

    Parameters
    ----------
    steps
        Optimiser steps.
    batch_size
        Windows per step (per accumulation).
    accumulate
        Batches whose gradients are added up before a step.
    learning_rate, decay, warmup, weight_decay
        AdamW; the rate rises over ``warmup`` steps and falls along "cosine" or "linear", or stays "constant".
    clip
        Largest gradient norm.
    ema
        Decay of the running average of the weights, which is what is kept.
    weighting, noise_center, noise_width
        Loss weights, and the law of the noise levels (see ``xsda.diffusion.loss``).
    shortest
        Shortest segment shown to a network that takes any length (default: always the full window).
    precision
        "float32", "bf16" or "fp16" (GPU only).
    validate_every, validation_batches, patience
        Validation; training stops after ``patience`` validations without improvement (0: never).
    checkpoint_every
        Steps between checkpoints.
    seed
        Same seed, same data, same machine: same weights.
    """

    steps: int = 10_000
    batch_size: int = 64
    accumulate: int = 1
    learning_rate: float = 1e-3
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
    validate_every: int = 500
    validation_batches: int = 8
    patience: int = 0
    checkpoint_every: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate", "validate_every", "validation_batches", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.decay not in ("cosine", "linear", "constant"):
            raise ValueError(f"decay={self.decay!r} is unknown; choose 'cosine', 'linear' or 'constant'")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision={self.precision!r} is unknown; choose one of {tuple(PRECISIONS)}")
        if self.weighting not in WEIGHTINGS:
            raise ValueError(f"weighting={self.weighting!r} is unknown; choose one of {WEIGHTINGS}")
        for name in ("patience", "warmup", "weight_decay"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must not be negative")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema={self.ema} must lie between 0 and 1 (1 excluded): it is a decay")
        if not (self.clip > 0 and self.noise_width > 0):
            raise ValueError(f"clip={self.clip} and noise_width={self.noise_width} must be positive")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate={self.learning_rate} must be positive")

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        ramp = min(1.0, (step + 1) / max(self.warmup, 1))
        done = step / self.steps
        fall = {"cosine": (1 + math.cos(math.pi * done)) / 2, "linear": 1 - done, "constant": 1.0}[self.decay]
        return self.learning_rate * ramp * fall


class Trainer:
    """One training run: network, average, optimiser, and where it stands."""

    def __init__(
        self,
        denoiser: Preconditioned,
        options: TrainingOptions,
        device: torch.device,
        setup: dict[str, Any] | None = None,
    ):
        self.options, self.device = options, device
        self.setup = json.loads(json.dumps(setup or {}, default=str))  # what else a checkpoint must agree with
        self.running = math.nan
        self.denoiser = denoiser.to(device)
        self.average = copy.deepcopy(self.denoiser).requires_grad_(False).eval()
        self.best = {k: v.clone() for k, v in self.average.state_dict().items()}
        self.optimizer = torch.optim.AdamW(
            self.denoiser.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay, betas=(0.9, 0.99)
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=options.precision == "fp16")
        self.step, self.best_loss, self.stale = 0, math.inf, 0

    def save(self, path: Path) -> None:
        tensors = {f"network.{k}": v for k, v in self.denoiser.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        tensors |= {f"best.{k}": v for k, v in self.best.items()}
        meta = {
            "step": self.step, "best_loss": self.best_loss, "stale": self.stale, "options": asdict(self.options),
            "scaler": self.scaler.state_dict(), "running": self.running, "setup": self.setup,
        }  # fmt: skip
        save_checkpoint(path, tensors | optimizer_tensors(self.optimizer), meta)

    def load(self, path: Path) -> None:
        tensors, meta = load_checkpoint(path)
        if "options" not in meta:
            raise ValueError(f"{path} is not a checkpoint of a training; name another file")
        then, now = {**meta["options"], **meta["setup"]}, {**asdict(self.options), **self.setup}
        changed = sorted(
            k
            for k in now
            if k not in ("steps", "validate_every", "checkpoint_every", "patience") and now[k] != then.get(k)
        )
        if changed:
            differences = ", ".join(f"{k}: {then.get(k)!r} then, {now[k]!r} now" for k in changed)
            raise ValueError(
                f"the checkpoint {path} belongs to a training with other options ({differences}); remove it to start anew"
            )

        def part(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

        try:
            self.denoiser.load_state_dict(part("network."))
            self.average.load_state_dict(part("average."))
        except RuntimeError as error:
            raise ValueError(f"the checkpoint {path} belongs to another network; remove it to start anew") from error
        self.best = {k: v.to(self.device) for k, v in part("best.").items()}
        restore_optimizer(self.optimizer, tensors)
        if meta["scaler"]:
            self.scaler.load_state_dict(meta["scaler"])
        self.step, self.best_loss, self.stale = meta["step"], meta["best_loss"], meta["stale"]
        self.running = meta["running"]

    def update(self, batches: Iterator[tuple[Tensor, Tensor | None]]) -> float:
        """One optimiser step; returns the loss."""
        o = self.options
        generator = torch.Generator().manual_seed(o.seed * 1_000_003 + self.step)
        rate = o.rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for _ in range(o.accumulate):
            x0, context = next(batches)
            if o.shortest is not None:
                length = int(torch.randint(o.shortest, x0.shape[1] + 1, (), generator=generator))
                x0 = x0[:, :length]
                context = context if context is None or context.shape[1] == 1 else context[:, :length]
            loss = self._loss(self.denoiser, x0, context, generator) / o.accumulate
            self.scaler.scale(loss).backward()
            total += float(loss.detach())
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.denoiser.parameters(), o.clip)
        if not math.isfinite(total) or (not self.scaler.is_enabled() and not bool(torch.isfinite(norm))):
            raise TrainingError(
                f"the loss became non-finite at step {self.step} (loss {total}, gradient norm {float(norm)}); "
                "try a smaller learning_rate, a smaller clip or precision='float32'"
            )
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step += 1
        decay = min(o.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for mean, now in zip(self.average.parameters(), self.denoiser.parameters(), strict=True):
                mean.lerp_(now, 1 - decay)
            for kept, new in zip(self.average.buffers(), self.denoiser.buffers(), strict=True):
                kept.copy_(new)
        return total

    def _loss(self, denoiser: Preconditioned, x0: Tensor, context: Tensor | None, generator: torch.Generator) -> Tensor:
        o = self.options
        t = training_times(denoiser.schedule, len(x0), generator, center=o.noise_center, width=o.noise_width)
        noise = torch.randn(x0.shape, generator=generator)
        x0, t, noise = x0.to(self.device), t.to(self.device), noise.to(self.device)
        seen = denoiser if context is None else denoiser.conditioned(context.to(self.device))
        kind = PRECISIONS[o.precision]
        with torch.autocast(self.device.type, dtype=kind, enabled=kind is not None):
            return denoising_loss(seen, x0, t, noise, weighting=o.weighting)

    @torch.no_grad()
    def validate(self, windows: Windows) -> float:
        """Loss of the averaged network on fixed windows, times and noises; keeps the best."""
        batches = windows.batches(self.options.batch_size, seed=1)
        generator = torch.Generator().manual_seed(20_000_003)
        losses = [
            float(self._loss(self.average, *next(batches), generator)) for _ in range(self.options.validation_batches)
        ]
        loss = sum(losses) / len(losses)
        if not math.isfinite(loss):
            raise TrainingError(f"the validation loss became non-finite at step {self.step}; check the validation data")
        if loss < self.best_loss:
            self.best_loss, self.stale = loss, 0
            self.best = {k: v.clone() for k, v in self.average.state_dict().items()}
        else:
            self.stale += 1
        return loss


def run(
    trainer: Trainer,
    training: Windows,
    validation: Windows,
    *,
    checkpoint: Path | None,
    log: Path | None,
    progress: bool,
    callback: Callback | None,
) -> dict[str, Any]:
    """Train to the end; returns a summary. The trainer then holds the best averaged weights."""
    options = trainer.options
    if checkpoint is not None and checkpoint.exists():
        trainer.load(checkpoint)
    if log is not None:
        _truncate(log, trainer.step)
    batches = training.batches(options.batch_size, options.seed, skip=trainer.step * options.accumulate)
    started = time.perf_counter()
    bar = tqdm(total=options.steps, initial=trainer.step, desc="training", unit="step", disable=not progress)
    with bar:
        while trainer.step < options.steps and not (options.patience and trainer.stale >= options.patience):
            try:
                loss = trainer.update(batches)
            except TrainingError as error:
                kept = f"; the last good checkpoint is {checkpoint}" if checkpoint and checkpoint.exists() else ""
                raise TrainingError(f"{error}{kept}") from None
            trainer.running = loss if math.isnan(trainer.running) else 0.98 * trainer.running + 0.02 * loss
            bar.update()
            if trainer.step % options.validate_every == 0 or trainer.step == options.steps:
                row = {
                    "loss": trainer.running,
                    "validation_loss": trainer.validate(validation),
                    "learning_rate": options.rate(trainer.step - 1),
                    "seconds": time.perf_counter() - started,
                }
                bar.set_postfix(loss=f"{trainer.running:.4g}", validation=f"{row['validation_loss']:.4g}")
                if log is not None:
                    _append(log, trainer.step, row)
                if callback is not None:
                    callback(trainer.step, row)
            if checkpoint is not None and (
                trainer.step % options.checkpoint_every == 0 or trainer.step == options.steps
            ):
                trainer.save(checkpoint)
    trainer.average.load_state_dict(trainer.best)
    return {"steps": trainer.step, "validation_loss": trainer.best_loss, "seconds": time.perf_counter() - started}


def _truncate(log: Path, step: int) -> None:
    """Drop the rows after ``step``, which a resumed run writes again."""
    if log.exists():
        head, *rows = log.read_text().splitlines()
        log.write_text("\n".join([head, *(row for row in rows if int(row.split(",")[0]) <= step)]) + "\n")


def _append(log: Path, step: int, row: dict[str, float]) -> None:
    new = not log.exists()
    with log.open("a", newline="") as file:
        writer = csv.DictWriter(file, ["step", *row])
        if new:
            writer.writeheader()
        writer.writerow({"step": step, **row})
