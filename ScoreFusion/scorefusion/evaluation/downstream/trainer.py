"""The loop that trains the tissue segmenter: MONAI's 3D U-Net, Dice and cross-entropy together, for a time.

The time counts over interrupted runs; a run that goes on finds its weights, its optimiser and its next windows as it
left them.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scorefusion.errors import BundleError, Cancelled, RequestError
from scorefusion.evaluation.downstream.labels import TISSUES
from scorefusion.evaluation.downstream.network_config import build_network
from scorefusion.evaluation.downstream.patches import Example, PatchSource
from scorefusion.progress import Reporter, jsonable
from scorefusion.run.devices import pick_device, pick_precision

#: The network halves a window four times.
WINDOW_MULTIPLE = 16

_STATE = "state.pt"


@dataclass(frozen=True)
class TrainingOptions:
    """How the segmenter is trained; what `fixed` names must stay when a run is resumed.

    Attributes:
        minutes: of training, over all runs together.
        steps: of the optimiser, over all runs together, after which training ends even if there is time; None = by
            time alone.
        classes: names of labels 1, 2, ... in the tissue maps.
        contrast: of the volumes.
        window: voxels a side; a multiple of 16.
        batch: windows a step.
        features: channels of the U-Net's five levels, finest first, and of its last layer.
        learning_rate: of AdamW at its peak; falls to zero along a cosine over the steps, or over the time.
        seed: of weights, windows and augmentation.
        device: see `pick_device`.
        precision: see `pick_precision`.
        checkpoint_seconds: between two checkpoints.
    """

    minutes: float = 6.0
    steps: int | None = None
    classes: tuple[str, ...] = TISSUES
    contrast: str = "t1"
    window: int = 64
    batch: int = 2
    features: tuple[int, int, int, int, int, int] = (16, 16, 32, 64, 64, 16)
    learning_rate: float = 3e-3
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    checkpoint_seconds: float = 60.0

    @property
    def fixed(self) -> dict[str, Any]:
        """What a resumed run must share with the run before."""
        free = ("minutes", "steps", "device", "precision", "checkpoint_seconds")
        values: dict[str, Any] = jsonable({key: value for key, value in asdict(self).items() if key not in free})
        return values

    @property
    def inference_config(self) -> dict[str, Any]:
        """`configs/inference.json` of the bundle."""
        network = {
            "_target_": "monai.networks.nets.BasicUNet",
            "spatial_dims": 3,
            "in_channels": 1,
            "out_channels": len(self.classes) + 1,
            "features": list(self.features),
            # Not MONAI's default, the instance norm: it hides from the network how bright a window is as a whole.
            "norm": "batch",
        }
        inferer = {"_target_": "SlidingWindowInferer", "roi_size": [self.window] * 3, "overlap": 0.25}
        return {"network_def": network, "inferer": inferer}


class Trainer:
    """The loop: network, optimiser, and the state that resumes them.

    Args:
        examples: what is learnt.
        folder: where the state is kept.
        options: see `TrainingOptions`.
    """

    def __init__(self, examples: Sequence[Example], folder: Path, options: TrainingOptions) -> None:
        from monai.losses import DiceCELoss

        self.options = options
        self.folder = folder
        self.device = pick_device(options.device)
        self.precision = pick_precision(options.precision, self.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            self.network = build_network(options.inference_config, folder).to(self.device)
        # On a CPU a third faster than the usual order of the axes.
        self.network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=options.learning_rate, weight_decay=0.01)
        self.loss = DiceCELoss(to_onehot_y=True, softmax=True)
        self.source = PatchSource(examples, options.window, options.seed)
        self.identity = {**options.fixed, "subjects": [example.subject for example in examples]}
        self.step = 0
        self.seconds = 0.0

    @property
    def done(self) -> float:
        """Share of the training that is behind, 0 to 1."""
        if self.options.steps is not None:
            return min(1.0, self.step / self.options.steps)
        return min(1.0, self.seconds / (60.0 * self.options.minutes))

    def run(self, reporter: Reporter) -> None:
        """Train until the steps or the time are used up. A wish to stop is honoured after the state is saved."""
        self.network.train()
        saved = last = time.monotonic()
        running = math.nan
        try:
            while self.done < 1.0 and self.seconds < 60.0 * self.options.minutes:
                reporter.progress("training", self.done, 1.0)
                loss = self._one_step()
                running = loss if math.isnan(running) else running + 0.05 * (loss - running)
                now = time.monotonic()
                self.seconds, last = self.seconds + now - last, now
                if self.step % 100 == 0:
                    reporter.log(f"step {self.step}, {self.seconds:.0f} s: loss {running:.4f}")
                if now - saved > self.options.checkpoint_seconds:
                    self.save()
                    saved = now
        except Cancelled:
            self.save()
            raise
        self.save()

    def _one_step(self) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        images, labels = self.source.batch(self.step * self.options.batch, self.options.batch)
        with torch.autocast(self.device.type, self.precision, enabled=self.precision is not torch.float32):
            logits = self.network(images.to(self.device))
        loss: Tensor = self.loss(logits.float(), labels.to(self.device))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        return float(loss.detach())

    def _learning_rate(self) -> float:
        warm = min(1.0, (self.step + 1) / 20)
        return self.options.learning_rate * warm * 0.5 * (1.0 + math.cos(math.pi * self.done))

    def save(self) -> None:
        """Write the state in one move."""
        state = {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "identity": json.dumps(self.identity),
        }
        save_tensors(state, self.folder / _STATE)

    def resume(self) -> None:
        """Continue from the folder's state, if there is one; refuses that of another training."""
        path = self.folder / _STATE
        if not path.is_file():
            return
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
        except Exception as error:  # torch raises many kinds here
            msg = f"{path} cannot be read; take it away to train from the start"
            raise BundleError(msg) from error
        before = json.loads(state["identity"])
        other = sorted(key for key in {*before, *self.identity} if before.get(key) != self.identity.get(key))
        if other:
            msg = (
                f"{self.folder} holds a training that differs in {', '.join(other)}; give the same options to go on "
                "with it, or choose another folder"
            )
            raise RequestError(msg)
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = int(state["step"]), float(state["seconds"])


def save_tensors(content: dict[str, Any], path: Path) -> None:
    """Write a PyTorch file in one move."""
    partial = path.with_name(f".{path.name}.partial")
    torch.save(content, partial)
    partial.replace(path)
