"""One stage of training: a loop over steps that can be stopped anywhere and goes on to the bit.

Everything random follows from (seed, step, stream), so a checkpoint needs the weights, the optimiser, the averaged
weights and the step. A *stream* is one of the sequences of samples that a step averages over: `accumulate` of them in
each process. Two processes with one stream each and one process with two do the same sums.
"""

from __future__ import annotations

import contextlib
import csv
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from scorefusion.errors import Cancelled, RequestError, ScoreFusionError
from scorefusion.progress import Reporter
from scorefusion.training.recipe import Stage

#: A sample of a step: `feed(step, stream)`; a loss takes it with a generator of its own.
Feed = Callable[[int, int], Any]
LOG_EVERY = 50
CLOCK_EVERY = 10  # steps between two looks at the common clock, where there are several processes
FLOOR = 0.02  # of the peak learning rate, at the end
SMOOTHING = 0.02  # of the running loss


class TrainingError(ScoreFusionError):
    """Training cannot go on."""


def generator_for(seed: int, *numbers: int) -> torch.Generator:
    """A generator that belongs to these numbers."""
    state = np.random.SeedSequence([seed, *numbers]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


class Trainer:
    """Trains one module.

    Args:
        fabric: devices, processes.
        loss: module whose forward `(sample, generator)` gives the loss; what it trains has `requires_grad`.
        stage: how long, how fast.
        folder: for `state.ckpt` (resume), `average.safetensors` (use), `log.csv` and TensorBoard's files.
        seed: of the recipe.
        name: of the stage, for events.
        reporter: progress and cancellation.
        examine: called with the averaged weights in place every `picture_minutes`, and at the end; returns figures for
            the log.
    """

    def __init__(
        self,
        fabric: Fabric,
        loss: nn.Module,
        stage: Stage,
        folder: Path,
        *,
        seed: int,
        name: str,
        reporter: Reporter,
        examine: Callable[[int], dict[str, float]] | None = None,
    ) -> None:
        self.fabric, self.stage, self.folder, self.seed = fabric, stage, folder, seed
        self.name, self.reporter, self.examine = name, reporter, examine
        self.names, self.parameters = _trainable(loss)
        optimizer = torch.optim.AdamW(
            self.parameters, lr=stage.learning_rate, betas=(0.9, 0.99), weight_decay=stage.weight_decay
        )
        self.loss, self.optimizer = fabric.setup(loss, optimizer)
        self.average = [parameter.detach().clone() for parameter in self.parameters]
        self.step, self.seconds = 0, 0.0
        self.running: Tensor | None = None  # mean loss of late, where it was computed: to read it is to wait for it
        self.updating = False  # weights, average and step count do not belong together
        self.writer: Any = None

    def run(self, feed: Feed) -> None:
        """Train until the time or the steps are used up; goes on from the folder's checkpoint if there is one.

        Raises:
            Cancelled: after a checkpoint was written; where a signal came in the middle of an update, the last one
                counts.
            TrainingError: the loss is no number any more.
        """
        fresh = not self.resume()
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.fabric.is_global_zero:
            self.writer = _summary_writer(self.folder)
        if fresh:
            self.look()  # where it starts from
        saved = examined = last = time.monotonic()
        try:
            while not self.finished:
                self.take_step(feed)
                if self.fabric.world_size == 1 or self.step % CLOCK_EVERY == 0:
                    now = time.monotonic()
                    save_due = now - saved > 60 * self.stage.checkpoint_minutes
                    look_due = now - examined > 60 * self.stage.picture_minutes
                    said = self.fabric.broadcast((self.seconds + now - last, save_due, look_due))
                    self.seconds, save, look = said  # one clock for all processes
                    if self.step % LOG_EVERY == 0:
                        self.log({"loss": self.mean_loss(), "learning_rate": self.learning_rate()})
                    if save:
                        self.save()
                        saved = now
                    if look:
                        self.look()
                        examined = time.monotonic()
                    last = time.monotonic()
                self.reporter.progress(self.name, *self.progress())
        except Cancelled as stopped:
            if not self.updating:
                self.save()
            msg = (
                f"Stopped in stage {self.name} at step {self.step}. What was learned is kept in {self.folder}; the "
                "same command goes on from there."
            )
            raise Cancelled(msg) from stopped
        finally:
            if self.writer is not None:
                self.writer.close()
                self.writer = None
        self.save()
        self.look()

    @property
    def finished(self) -> bool:
        """Whether the time or the steps are used up."""
        done, total = self.progress()
        return done >= total

    def progress(self) -> tuple[float, float]:
        """Done and in all: steps, or seconds."""
        if self.stage.steps is not None:
            return self.step, self.stage.steps
        assert self.stage.minutes is not None
        return min(self.seconds, 60.0 * self.stage.minutes), 60.0 * self.stage.minutes

    def learning_rate(self) -> float:
        """Warm-up, then half a cosine."""
        done, total = self.progress()
        warm = min(1.0, (self.step + 1) / max(1, self.stage.warmup_steps))
        fall = FLOOR + (1.0 - FLOOR) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done / total)))
        return self.stage.learning_rate * warm * fall

    def take_step(self, feed: Feed) -> None:
        """One optimiser step over all streams."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        accumulate = self.stage.accumulate
        total: Tensor | None = None
        for part in range(accumulate):
            stream = self.fabric.global_rank * accumulate + part
            generator = generator_for(self.seed, self.step, stream, 2)
            sample = feed(self.step, stream)
            # Dropout draws from the global generator.
            with _seeded(generator), self.fabric.no_backward_sync(self.loss, enabled=part + 1 < accumulate):
                loss = self.loss(sample, generator)
                self.fabric.backward(loss / accumulate)
            part_loss = loss.detach() / accumulate
            total = part_loss if total is None else total + part_loss
        assert total is not None
        self.fabric.clip_gradients(self.loss, self.optimizer, max_norm=self.stage.clip, error_if_nonfinite=False)
        self.updating = True
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        decay = min(self.stage.ema_decay, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1.0 - decay)
        self.step += 1
        self.updating = False
        self.running = total if self.running is None else self.running + SMOOTHING * (total - self.running)

    def mean_loss(self) -> float:
        """The running mean over all processes, which must all ask; waits for the device.

        Raises:
            TrainingError: a loss since the last look was no number (the mean then never is one again).
        """
        value = math.nan
        if self.running is not None:
            mean = self.fabric.all_reduce(self.running.clone())
            assert isinstance(mean, Tensor)
            value = float(mean)
        if not math.isfinite(value):
            msg = (
                f"stage {self.name}: the loss was no number in one of the last steps before step {self.step}. The "
                f"last checkpoint is kept in {self.folder}; lower stages.{self.name}.learning_rate and start the same "
                "command again"
            )
            raise TrainingError(msg)
        return value

    # -- what is written

    def log(self, figures: dict[str, float]) -> None:
        """A line of `log.csv`, and TensorBoard."""
        if not self.fabric.is_global_zero:
            return
        path = self.folder / "log.csv"
        new = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            if new:
                writer.writerow(["step", "seconds", "name", "value"])
            for name, value in figures.items():
                writer.writerow([self.step, f"{self.seconds:.0f}", name, f"{value:.6g}"])
        if self.writer is not None:
            for name, value in figures.items():
                self.writer.add_scalar(f"{self.name}/{name}", value, self.step)
            self.writer.flush()

    def look(self) -> None:
        """Let `examine` see the averaged weights, in process 0; the others wait."""
        if self.examine is not None and self.fabric.is_global_zero:
            with self.averaged():
                self.log(self.examine(self.step))
        self.fabric.barrier()

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """The averaged weights in place of the trained ones."""
        kept = [parameter.detach().clone() for parameter in self.parameters]
        _copy(self.average, self.parameters)
        training = self.loss.training
        self.loss.eval()
        try:
            yield
        finally:
            _copy(kept, self.parameters)
            self.loss.train(training)

    def save(self) -> None:
        """`state.ckpt` and `average.safetensors`, each in one move.

        Raises:
            TrainingError: there is nothing worth keeping, see `mean_loss`.
        """
        state = {
            "weights": self.parameters,
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "running": math.nan if self.running is None else self.mean_loss(),
        }
        if self.fabric.is_global_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
            partial = self.folder / "state.partial"
            torch.save(state, partial)
            partial.replace(self.folder / "state.ckpt")
            named = {n: a.detach().cpu().contiguous() for n, a in zip(self.names, self.average, strict=True)}
            partial = self.folder / "average.partial"
            save_file(named, partial)
            partial.replace(self.folder / "average.safetensors")
        self.fabric.barrier()

    def resume(self) -> bool:
        """Take up the folder's checkpoint; False if there is none."""
        path = self.folder / "state.ckpt"
        if not path.exists():
            return False
        state = torch.load(path, map_location="cpu", weights_only=True)  # each part goes to the device of its like
        shapes = [tuple(value.shape) for value in state["weights"]]
        if shapes != [tuple(parameter.shape) for parameter in self.parameters]:
            msg = (
                f"{path} belongs to networks of other sizes than the recipe's; choose another folder for --out, "
                "or take its weights over with --warm-start"
            )
            raise RequestError(msg)
        _copy(state["weights"], self.parameters)
        _copy(state["average"], self.average)
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]
        running = state["running"]
        self.running = None if math.isnan(running) else torch.tensor(running, device=self.fabric.device)
        if self.fabric.is_global_zero:
            _forget_after(self.folder / "log.csv", self.step)
        self.reporter.log(f"{self.name}: resumed at step {self.step}, {self.seconds:.0f} s of training")
        return True


def load_average(module: nn.Module, folder: Path) -> bool:
    """Put a stage's averaged weights into the module that it trained; False if the stage has none."""
    path = folder / "average.safetensors"
    if not path.exists():
        return False
    own = dict(module.named_parameters())
    for name, value in load_file(path).items():
        own[name].data.copy_(value)
    return True


def _trainable(module: nn.Module) -> tuple[list[str], list[nn.Parameter]]:
    named = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    return [name for name, _ in named], [parameter for _, parameter in named]


@torch.no_grad()
def _copy(source: list[Tensor], target: list[Any]) -> None:
    for value, place in zip(source, target, strict=True):
        place.copy_(value)


@contextlib.contextmanager
def _seeded(generator: torch.Generator) -> Iterator[None]:
    """The global generators follow `generator`, and are put back."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(generator.initial_seed())
        yield


def _forget_after(path: Path, step: int) -> None:
    """Take lines out of a log that were written after the checkpoint: they will be written again."""
    if path.exists():
        with path.open(newline="", encoding="utf-8") as stream:
            head, *rows = list(csv.reader(stream))
        with path.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([head, *(row for row in rows if int(row[0]) <= step)])


def _summary_writer(folder: Path) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder / "tensorboard"))
