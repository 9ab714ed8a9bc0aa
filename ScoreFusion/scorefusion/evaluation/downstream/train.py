"""Train the tissue segmenter: MONAI's 3D U-Net on random windows of scans with their tissue maps, for a time.

Augmentation: flips left to right, monotonous changes of the intensity curve, small changes of scale and offset, weak
noise. None of it changes the resolution: no blur, no zoom, no rotation, no interpolation of any kind. A segmenter that
has learnt to see through blur would hide what blur does to a segmentation.

The time counts over interrupted runs; a run that goes on finds its weights, its optimiser and its next windows as it
left them.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from scorefusion.datasets.case import Case
from scorefusion.datasets.datalist import Datalist
from scorefusion.errors import BundleError, Cancelled, RequestError
from scorefusion.evaluation.downstream.labels import TISSUES, masks_of, read_labels
from scorefusion.evaluation.downstream.score import dice
from scorefusion.evaluation.downstream.segmenter import OVERLAP, Segmenter, build_network, load_segmenter, robust_range
from scorefusion.evaluation.meter import code_version, describe_machine
from scorefusion.evaluation.rows import mean
from scorefusion.imaging.files import read_volume
from scorefusion.imaging.foreground import foreground_box, foreground_mask
from scorefusion.progress import Reporter, jsonable
from scorefusion.run.devices import pick_device, pick_precision

#: Cases of the project's data that are left out: eve's map came from another program than all others.
OTHER_VOCABULARY = ("eve",)
AUGMENTATION = "left-right flips, intensity curve, scale and offset, weak noise; no blur, no zoom, no rotation"
WINDOW_MULTIPLE = 16  # the network halves a window four times


@dataclass(frozen=True)
class TrainingOptions:
    """How the segmenter is trained; what `fixed` names must stay when a run is resumed."""

    minutes: float = 6.0  # of training, over all runs together
    steps: int | None = None  # of the optimiser, over all runs together; None = by time alone
    classes: tuple[str, ...] = TISSUES  # names of labels 1, 2, ... in the tissue maps
    contrast: str = "t1"  # of the volumes
    window: int = 64  # voxels a side; a multiple of 16
    batch: int = 2  # windows a step
    features: tuple[int, ...] = (16, 16, 32, 64, 64, 16)  # channels of the U-Net's five levels, and of its last layer
    learning_rate: float = 3e-3  # of AdamW at its peak; falls to zero along a cosine over the steps, or over the time
    seed: int = 0  # of weights, windows and augmentation
    device: str = "auto"
    precision: str = "auto"
    checkpoint_seconds: float = 60.0

    def __post_init__(self) -> None:
        if self.window % WINDOW_MULTIPLE or self.window <= 0:
            msg = f"the window is {self.window} voxels; give a multiple of {WINDOW_MULTIPLE}, such as 64"
            raise RequestError(msg)
        if self.minutes <= 0 or not self.classes:
            msg = f"{self.minutes:g} minutes for {len(self.classes)} classes; give more than none of both"
            raise RequestError(msg)

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
        inferer = {"_target_": "SlidingWindowInferer", "roi_size": [self.window] * 3, "overlap": OVERLAP}
        return {"network_def": network, "inferer": inferer}


@dataclass(frozen=True)
class Trained:
    """What came out: the bundle's folder, steps and seconds over all runs, Dice by validation subject and class."""

    folder: Path
    steps: int
    seconds: float
    validation: dict[str, dict[str, float]]


def train_segmenter(
    datalist: Datalist, folder: Path, options: TrainingOptions | None = None, reporter: Reporter | None = None
) -> Trained:
    """Train on the training cases that have a tissue map, score the validation cases, write the bundle.

    Args:
        datalist: cases with a volume of the contrast and a tissue map on its grid (`masks: {"tissue": ...}`).
        folder: the new bundle; a second call with more minutes goes on.

    Raises:
        RequestError: no case has a tissue map, or the folder holds another training.
    """
    options, reporter = options or TrainingOptions(), reporter or Reporter()
    cases = usable_cases(datalist.training, options.contrast)
    if not cases:
        msg = (
            f"datalist {datalist.name}: no training case has both a {options.contrast} volume and a tissue map; "
            'give maps in the datalist: "masks": {"tissue": "S01_tissue.nii.gz"}'
        )
        raise RequestError(msg)
    examples = []
    for number, case in enumerate(cases):
        reporter.progress("reading", number, len(cases))
        examples.append(read_example(case, options))
    folder.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(examples, folder, options, [case.subject for case in cases])
    trainer.resume()
    trainer.run(reporter)
    _write_bundle(trainer, {})
    segmenter = load_segmenter(folder, device=options.device, precision=options.precision)
    validation: dict[str, dict[str, float]] = {}
    for case in usable_cases(datalist.validation, options.contrast):
        reporter.progress("validation", len(validation), len(datalist.validation))
        validation[case.case_id] = _validate(segmenter, case, options)
    _write_bundle(trainer, validation)
    return Trained(folder, trainer.step, trainer.seconds, validation)


# -- what it learns from -----------------------------------------------------------------------------------------------


def usable_cases(cases: Sequence[Case], contrast: str) -> list[Case]:
    """Those with a volume of this contrast and a tissue map."""
    return [case for case in cases if contrast in case.contrasts and "tissue" in case.masks]


def read_example(case: Case, options: TrainingOptions) -> dict[str, Tensor]:
    """A scan `(1, I, J, K)` float32, about [-1, 1], and its tissue map, uint8: axes in RAS+ order, cropped to the
    foreground, at least a window large."""
    volume, _ = read_volume(case.contrasts[options.contrast], frame=case.frame).canonical()
    if volume.data.shape[0] != 1:
        msg = f"{volume.name} has {volume.data.shape[0]} channels; a case has one volume for each contrast"
        raise RequestError(msg)
    volume.check_voxels()
    labels = read_labels(case.masks["tissue"], volume.grid, len(options.classes))
    i, j, k = foreground_box(foreground_mask(volume.data), margin=2).slices
    image = robust_range(torch.from_numpy(volume.data))[:, i, j, k]
    # Padding in (k, j, i) order, with what lies around a head: nothing.
    extra = [pad for size in reversed(image.shape[1:]) for pad in (0, max(0, options.window - size))]
    image = nn.functional.pad(image, extra, value=float(image.min()))
    labels = nn.functional.pad(labels[None, i, j, k], extra)
    return {"image": image.contiguous(), "labels": labels.contiguous()}


class PatchSource:
    """Window number n of a seed is always the same one: training resumes as if it had not stopped."""

    def __init__(self, examples: Sequence[dict[str, Tensor]], window: int, seed: int) -> None:
        import monai.transforms as mt

        self.examples, self.seed = examples, seed
        both = ("image", "labels")
        self._augment = mt.Compose(
            [
                mt.RandSpatialCropd(both, (window, window, window), random_size=False),
                mt.RandFlipd(both, prob=0.5, spatial_axis=0),
                mt.RandHistogramShiftd("image", num_control_points=(5, 9), prob=0.5),
                mt.RandScaleIntensityd("image", factors=0.1, prob=0.5),
                mt.RandShiftIntensityd("image", offsets=0.1, prob=0.5),
                mt.RandGaussianNoised("image", prob=0.3, std=0.03),
                mt.EnsureTyped("image", dtype=torch.float32, track_meta=False),
                mt.EnsureTyped("labels", dtype=torch.uint8, track_meta=False),
            ]
        )

    def draw(self, number: int) -> tuple[Tensor, Tensor]:
        """Window `number`: image `(1, W, W, W)` float32 and labels `(1, W, W, W)` uint8; all examples equally often."""
        rng = np.random.default_rng([self.seed, number])
        example = self.examples[int(rng.integers(len(self.examples)))]
        self._augment.set_random_state(seed=int(rng.integers(2**31)))
        window: Any = self._augment(dict(example))
        return window["image"], window["labels"]

    def batch(self, first: int, size: int) -> tuple[Tensor, Tensor]:
        """Windows `first` to `first + size`, stacked: `(B, 1, W, W, W)` each."""
        images, labels = zip(*(self.draw(first + number) for number in range(size)), strict=True)
        return torch.stack(images), torch.stack(labels)


# -- the loop ----------------------------------------------------------------------------------------------------------


class Trainer:
    """The loop: network, optimiser, and the state in `folder` that resumes them."""

    def __init__(
        self,
        examples: Sequence[dict[str, Tensor]],
        folder: Path,
        options: TrainingOptions,
        subjects: Sequence[str] = (),
    ) -> None:
        from monai.losses import DiceCELoss

        self.options, self.folder = options, folder
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
        self.identity = {**options.fixed, "subjects": list(subjects)}
        self.step, self.seconds = 0, 0.0

    @property
    def done(self) -> float:
        """Share of the training that is behind, 0 to 1."""
        by_time = self.seconds / (60.0 * self.options.minutes)
        return min(1.0, by_time if self.options.steps is None else self.step / self.options.steps)

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
        rate = self.options.learning_rate * min(1.0, (self.step + 1) / 20) * 0.5 * (1.0 + math.cos(math.pi * self.done))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
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

    def save(self) -> None:
        """Write the state in one move."""
        own = {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}
        facts = {"step": self.step, "seconds": self.seconds, "identity": json.dumps(self.identity)}
        _save_tensors({**own, **facts}, self.folder / "state.pt")

    def resume(self) -> None:
        """Continue from the folder's state, if there is one; refuses that of another training."""
        path = self.folder / "state.pt"
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


def _save_tensors(content: dict[str, Any], path: Path) -> None:
    """Write a PyTorch file in one move."""
    partial = path.with_name(f".{path.name}.partial")
    torch.save(content, partial)
    partial.replace(path)


# -- the bundle --------------------------------------------------------------------------------------------------------


def _validate(segmenter: Segmenter, case: Case, options: TrainingOptions) -> dict[str, float]:
    """Dice by class, and their mean, on a whole volume."""
    volume, _ = read_volume(case.contrasts[options.contrast], frame=case.frame).canonical()
    truth = masks_of(read_labels(case.masks["tissue"], volume.grid, len(options.classes)), options.classes)
    masks = segmenter.segment(torch.from_numpy(volume.data[0]))
    scores = {name: dice(masks[name], truth[name]) for name in options.classes}
    return {**scores, "mean": mean(scores.values())}


def _write_bundle(trainer: Trainer, validation: Mapping[str, Mapping[str, float]]) -> None:
    """`configs/inference.json`, `configs/metadata.json` and `models/model.pt`."""
    import monai

    options, folder = trainer.options, trainer.folder
    channel_names = {"0": "background", **{str(n): name for n, name in enumerate(options.classes, start=1)}}
    image = {
        "type": "image", "format": "magnitude", "modality": "MR", "num_channels": 1,
        "spatial_shape": [options.window] * 3, "dtype": "float32", "value_range": [-1, 1], "is_patch_data": True,
    }  # fmt: skip
    metadata = {
        "name": f"tissue segmenter ({options.contrast.upper()})",
        "version": "0.1.0",
        "description": "Measures what a restoration does to a segmentation; no tool for anything else.",
        "monai_version": monai.__version__,
        "pytorch_version": torch.__version__,
        "network_data_format": {
            "inputs": {"image": {**image, "channel_def": {"0": options.contrast}}},
            "outputs": {"pred": {**image, "type": "probabilities", "format": "segmentation",
                                 "num_channels": len(channel_names), "channel_def": channel_names}},
        },
        "training": {
            "code": f"scorefusion {code_version()}",
            "machine": describe_machine(trainer.device),
            "precision": str(trainer.precision).removeprefix("torch."),
            **trainer.identity,
            "augmentation": AUGMENTATION,
            "steps": trainer.step,
            "seconds": round(trainer.seconds, 1),
            "validation_dice": validation,
        },
    }  # fmt: skip
    for name in ("configs", "models"):
        (folder / name).mkdir(exist_ok=True)
    for name, content in (("inference", options.inference_config), ("metadata", metadata)):
        text = json.dumps(jsonable(content), indent=2, allow_nan=False) + "\n"
        (folder / "configs" / f"{name}.json").write_text(text, encoding="utf-8")
    _save_tensors(trainer.network.state_dict(), folder / "models" / "model.pt")
