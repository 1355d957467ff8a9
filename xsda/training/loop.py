"""The training loop: denoising score matching on streamed windows.

A training that is resumed from a checkpoint gives the same weights, to the last bit, as one that was not interrupted.
"""

from __future__ import annotations

import contextlib
import copy
import csv
import itertools
import json
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from xsda.diffusion.anchored import Anchored
from xsda.diffusion.denoisers import Preconditioned
from xsda.diffusion.loss import training_times
from xsda.files import replacing
from xsda.sampling.devices import out_of_memory
from xsda.training.checkpoint import differences, load_checkpoint, optimizer_tensors, restore_optimizer, save_checkpoint
from xsda.training.objective import Objective, Sample
from xsda.training.parallel import Team
from xsda.training.prefetch import Prefetched
from xsda.training.training_options import OPTIMIZERS, TrainingOptions
from xsda.training.windows import Folds, Windows

Callback = Callable[[int, dict[str, float]], None]
COLUMNS = ("loss", "validation_loss", "learning_rate", "seconds", "waiting")  # of the log, after the step
BUDGETED = 0.6  # share of the time in minutes that the steps may take; validations take some of the rest
MOST_NAMED = 6  # settings that an error message names


class TrainingError(RuntimeError):
    """Training cannot continue."""


class Trainer:
    """The state of one training run: network, running average and optimiser.

    Parameters
    ----------
    denoiser
        The denoiser to train.
    options
        The options of the training.
    team
        The processes of the training.
    setup
        Further settings that a checkpoint must agree with.
    area
        Weights of the grid points in the loss, *space; None if they are equal.
    """

    def __init__(
        self,
        denoiser: Preconditioned,
        options: TrainingOptions,
        team: Team,
        setup: dict[str, Any] | None = None,
        area: Tensor | None = None,
    ):
        self.options, self.team = options, team
        self.area = None if area is None else area.to(team.device)
        self.setup = json.loads(json.dumps(setup or {}, default=str))  # a checkpoint must agree with this too
        self.running = math.nan  # the loss, averaged over some fifty steps
        self.parts = 1  # into which a batch is split when memory is short
        self.pending: Tensor | None = None  # loss and gradient norm of the last step, not yet checked
        self.denoiser = denoiser.to(team.device)
        self.objective = team.join_gradients(
            Objective(self.denoiser, options, self.area)
        )  # all processes start from one network
        self.average = copy.deepcopy(self.denoiser).requires_grad_(False).eval()
        if isinstance(self.average, Anchored):
            self.average.others = ()  # for the training only
        if options.compile:  # once for each length of segments
            torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
            self.denoiser.network.compile(dynamic=False)
        self.best = {k: v.clone() for k, v in self.average.state_dict().items()}
        self.optimizer = OPTIMIZERS[options.optimizer](
            self.denoiser.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay, betas=(0.9, 0.99)
        )
        self.scaler = torch.amp.GradScaler(team.device.type, enabled=options.precision == "fp16")
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
        # windows_a_step of the setup says how large a batch is, however many processes share it
        free = ("steps", "validate_every", "checkpoint_every", "patience", "batch_size")
        kept = sorted(k for k in now if k not in free)
        changed = differences({k: then.get(k) for k in kept}, {k: now[k] for k in kept})
        if changed:
            more = f", and {len(changed) - MOST_NAMED} more" if len(changed) > MOST_NAMED else ""
            raise ValueError(
                f"the checkpoint {path} belongs to a training with other options or data "
                f"({', '.join(changed[:MOST_NAMED])}{more}); remove it to start anew"
            )

        def part(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

        try:
            self.denoiser.load_state_dict(part("network."))
            self.average.load_state_dict(part("average."))
        except RuntimeError as error:
            raise ValueError(f"the checkpoint {path} belongs to another network; remove it to start anew") from error
        self.best = {k: v.to(self.team.device) for k, v in part("best.").items()}
        restore_optimizer(self.optimizer, tensors)
        if meta["scaler"]:
            self.scaler.load_state_dict(meta["scaler"])
        self.step, self.best_loss, self.stale = meta["step"], meta["best_loss"], meta["stale"]
        if self.step > self.options.steps:
            raise ValueError(
                f"the checkpoint {path} is at step {self.step}, beyond steps={self.options.steps}; use more steps or "
                "another checkpoint"
            )
        self.running = meta["running"]

    def limit(self, seconds: float, windows: Windows | Folds, checkpoint: str | os.PathLike[str] | None) -> None:
        """Set the number of steps that take about this time, or that an earlier run of the checkpoint set."""
        if self.team.size > 1:
            raise ValueError("minutes is for one process; give steps to several")
        if checkpoint is not None and Path(checkpoint).exists():
            options = load_checkpoint(Path(checkpoint))[1].get("options", {})  # none: ``load`` says what is wrong
            self.options = replace(self.options, steps=options.get("steps", self.options.steps))
            return
        batches, took = self.samples(windows), []
        for _ in range(3):
            batch, began = next(batches), time.perf_counter()
            self._gradients([batch])
            took.append((time.perf_counter() - began) * self.options.accumulate)
        self.optimizer.zero_grad(set_to_none=True)
        steps = int(BUDGETED * seconds / sorted(took)[1])
        if steps < 1:
            raise ValueError("minutes is too short for a single step; use more minutes, or a smaller network")
        self.options = replace(self.options, steps=steps)

    def samples(self, windows: Windows | Folds) -> Iterator[Sample]:
        """Yield the samples of all steps from the current one.

        This process's share of the windows, times and noises.
        """
        o, team = self.options, self.team
        batches = windows.batches(
            o.batch_size * team.size, o.seed, skip=self.step * o.accumulate, rows=team.rows, multiple=team.size
        )
        for step in itertools.count(self.step):
            generator = torch.Generator().manual_seed(o.seed * 1_000_003 + step)
            for _ in range(o.accumulate):
                x0, context = next(batches)
                pieces = 1
                if o.shortest is not None:
                    pieces = int(torch.randint(1, x0.shape[1] // o.shortest + 1, (), generator=generator))
                    x0, context = _cut(x0, pieces), None if context is None else _cut(context, pieces)
                yield self._draw(x0, context, generator, team, pieces)

    def _draw(
        self, x0: Tensor, context: Tensor | None, generator: torch.Generator, team: Team, pieces: int = 1
    ) -> Sample:
        """Draw times and noises for all processes and keep those of this process.

        Each window has ``pieces`` segments.
        """
        o, count = self.options, len(x0) * team.size
        schedule = self.denoiser.schedule
        t = training_times(schedule, count, generator, center=o.noise_center, width=o.noise_width)
        noise = torch.randn(count, *x0.shape[1:], generator=generator)
        t, noise = (team.rows(v.unflatten(0, (-1, pieces))).flatten(0, 1) for v in (t, noise))
        sample = Sample(x0, context, t, noise)
        return sample.each(Tensor.pin_memory) if team.device.type == "cuda" else sample

    def update(self, samples: Iterator[Sample]) -> None:
        """Take one optimiser step."""
        self.settle()
        o = self.options
        rate = o.rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        batches = [next(samples) for _ in range(o.accumulate)]
        while True:
            try:
                total = self._gradients(batches)
                break
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                most = max(len(b.t) for b in batches)
            self._make_room(most)
            self.optimizer.zero_grad(set_to_none=True)
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.denoiser.parameters(), o.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step += 1
        decay = min(o.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.denoiser.parameters()), 1 - decay)
            for kept, new in zip(self.average.buffers(), self.denoiser.buffers(), strict=True):
                kept.copy_(new)
        self.pending = torch.stack([total, norm.detach()])

    def _gradients(self, batches: list[Sample]) -> Tensor:
        """Add up the gradients of all batches; return the loss."""
        total = torch.zeros((), device=self.team.device)
        for k, batch in enumerate(batches):
            last = k == len(batches) - 1 or self.team.size == 1
            if isinstance(self.denoiser, Anchored):
                self.denoiser.turn(self.step * self.options.accumulate + k)
            with contextlib.nullcontext() if last else self.objective.no_sync():  # type: ignore[operator]
                for share, part in batch.parts(self.parts):
                    loss = self.objective(*part.to(self.team.device)) * share / len(batches)
                    self.scaler.scale(loss).backward()
                    total += loss.detach()
        return total

    def _make_room(self, windows: int) -> None:
        """Process half as many windows at once from now on, because the device ran out of memory."""
        if self.team.size > 1 or self.parts >= windows:
            what = f"batches of {windows} (segments of) windows" if self.team.size > 1 else "a single window"
            raise MemoryError(
                f"the device has too little memory to train on {what}; use a smaller batch_size with a larger "
                "accumulate, precision='bf16', recompute in the network, or a shorter window"
            )
        if self.parts == 1:
            warnings.warn(
                "the device ran out of memory; from now on each batch is processed in parts, whose gradients are added "
                "up. A smaller batch_size with a larger accumulate avoids this",
                RuntimeWarning,
                stacklevel=2,
            )
        self.parts *= 2
        torch.cuda.empty_cache()

    def settle(self) -> None:
        """Check the loss of the last step. It is not checked at once, so that a GPU does not wait after each step."""
        if self.pending is None:
            return
        loss, norm = self.team.mean(self.pending).tolist()
        self.pending = None
        if not math.isfinite(loss) or not (self.scaler.is_enabled() or math.isfinite(norm)):
            raise TrainingError(
                f"the loss became non-finite at step {self.step - 1} (loss {loss}, gradient norm {norm}); "
                "try a smaller learning_rate, a smaller clip or precision='float32'"
            )
        self.running = loss if math.isnan(self.running) else 0.98 * self.running + 0.02 * loss

    @torch.no_grad()
    def validate(self, windows: Windows) -> float:
        """Return the loss of the averaged network on fixed windows, times and noises; remember the best weights.

        Each process evaluates its own windows of a batch, as in a step.
        """
        count, team = self.options.validation_batches, self.team
        batches = windows.batches(self.options.batch_size * team.size, seed=1, rows=team.rows, multiple=team.size)
        judge = Objective(self.average, self.options, self.area)
        total = torch.zeros((), device=team.device)
        for k in range(count):
            x0, context = next(batches)
            generator = torch.Generator().manual_seed(20_000_003 + k)
            for share, part in self._draw(x0, context, generator, team).parts(self.parts):
                total += share * judge(*part.to(team.device))
        loss = float(team.mean(total)) / count
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
    training: Windows | Folds,
    validation: Windows,
    *,
    checkpoint: Path | None,
    log: Path | None,
    progress: bool,
    callback: Callback | None,
) -> dict[str, Any]:
    """Train to the end and return a summary. The trainer then holds the best averaged weights."""
    options, team = trainer.options, trainer.team
    if checkpoint is not None and checkpoint.exists():
        trainer.load(checkpoint)
    if log is not None and team.leads:
        _truncate(log, trainer.step, resumable=checkpoint is not None)
    team.agree(trainer.step, trainer.setup, checkpoint)
    started = time.perf_counter()
    shown = progress and team.leads
    bar = tqdm(total=options.steps, initial=trainer.step, desc="training", unit="step", disable=not shown)
    with bar, Prefetched(trainer.samples(training)) as samples:
        while trainer.step < options.steps and not (options.patience and trainer.stale >= options.patience):
            try:
                trainer.update(samples)
                judge = trainer.step % options.validate_every == 0 or trainer.step == options.steps
                keep = trainer.step % options.checkpoint_every == 0 or trainer.step == options.steps
                if judge or keep:
                    trainer.settle()
                loss = trainer.validate(validation) if judge else math.nan
            except TrainingError as error:
                kept = f"; the last good checkpoint is {checkpoint}" if checkpoint and checkpoint.exists() else ""
                raise TrainingError(f"{error}{kept}") from None
            except KeyboardInterrupt:
                if checkpoint is None or not checkpoint.exists():
                    raise
                raise KeyboardInterrupt(f"{checkpoint} is kept; repeat the call to continue from it") from None
            bar.update()
            if judge:
                seconds = time.perf_counter() - started
                numbers = (trainer.running, loss, options.rate(trainer.step - 1), seconds, samples.waited / seconds)
                row = dict(zip(COLUMNS, numbers, strict=True))
                bar.set_postfix(loss=f"{trainer.running:.4g}", validation=f"{loss:.4g}")
                if log is not None and team.leads:
                    _append(log, trainer.step, row)
                if callback is not None and team.leads:
                    callback(trainer.step, row)
            if checkpoint is not None and keep and team.leads:
                trainer.save(checkpoint)
    trainer.average.load_state_dict(trainer.best)
    return {"steps": trainer.step, "validation_loss": trainer.best_loss, "seconds": time.perf_counter() - started}


def _cut(x: Tensor, pieces: int) -> Tensor:
    """Cut (batch, time, ...) into ``pieces`` times as many segments; repeat what has only one time."""
    if x.shape[1] == 1:
        return x.repeat_interleave(pieces, 0)
    length = x.shape[1] // pieces
    return x[:, : length * pieces].unflatten(1, (pieces, length)).flatten(0, 1)


def _truncate(log: Path, step: int, resumable: bool) -> None:
    """Drop an incomplete last row, and the rows after ``step``, which a resumed run writes again."""
    if not log.exists() or not (text := log.read_text()):
        return
    head, *lines = text.split("\n")
    rows = [
        row for row in csv.reader(lines[:-1]) if len(row) == len(COLUMNS) + 1
    ]  # the last piece has no end of a line
    if head != ",".join(("step", *COLUMNS)):
        raise FileExistsError(f"{log} exists and is not the log of a training; take another name")
    if not resumable and rows:
        raise FileExistsError(
            f"{log} holds the log of another training, up to step {rows[-1][0]}; take another name, or remove it"
        )
    with replacing(log) as temporary, temporary.open("w", newline="") as file:
        csv.writer(file).writerows([("step", *COLUMNS), *(row for row in rows if int(row[0]) <= step)])


def _append(log: Path, step: int, row: dict[str, float]) -> None:
    new = not log.exists() or not log.stat().st_size
    with log.open("a", newline="") as file:
        writer = csv.DictWriter(file, ["step", *row])
        if new:
            writer.writeheader()
        writer.writerow({"step": step, **row})
