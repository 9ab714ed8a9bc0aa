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
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from scorefusion.datasets.case import Case
from scorefusion.datasets.datalist import Datalist
from scorefusion.errors import Cancelled, RequestError
from scorefusion.evaluation.downstream.labels import TISSUES, dice, masks_of, read_labels
from scorefusion.evaluation.downstream.segmenter import NETS, OVERLAP, Segmenter, build_network, robust_range
from scorefusion.evaluation.meter import code_version, describe_machine
from scorefusion.evaluation.rows import mean
from scorefusion.imaging.files import read_volume
from scorefusion.imaging.foreground import foreground_box, foreground_mask
from scorefusion.progress import Reporter, jsonable
from scorefusion.run.devices import pick_device, pick_precision

AUGMENTATION = "left-right flips, intensity curve, scale and offset, weak noise; no blur, no zoom, no rotation"
WINDOW_MULTIPLE = 16  # the network halves a window four times
CHECKPOINT_SECONDS = 60.0
FREE = ("minutes", "steps", "device", "precision")  # may differ when a training is resumed


@dataclass(frozen=True)
class TrainingOptions:
    """How the segmenter is trained."""

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

    def __post_init__(self) -> None:
        if self.window % WINDOW_MULTIPLE or self.window <= 0:
            msg = f"the window is {self.window} voxels; give a multiple of {WINDOW_MULTIPLE}, such as 64"
            raise RequestError(msg)
        if self.minutes <= 0 or not self.classes:
            msg = f"{self.minutes:g} minutes for {len(self.classes)} classes; give more than none of both"
            raise RequestError(msg)

    @property
    def inference_config(self) -> dict[str, Any]:
        """`configs/inference.json` of the bundle."""
        # Not MONAI's default, the instance norm: it hides from the network how bright a window is as a whole.
        unet = {"_target_": f"{NETS}.BasicUNet", "spatial_dims": 3, "in_channels": 1, "norm": "batch"}
        network = {**unet, "out_channels": len(self.classes) + 1, "features": list(self.features)}
        inferer = {"_target_": "SlidingWindowInferer", "roi_size": [self.window] * 3, "overlap": OVERLAP}
        return {"network_def": network, "inferer": inferer}


def train_segmenter(
    datalist: Datalist, folder: Path, options: TrainingOptions | None = None, reporter: Reporter | None = None
) -> Training:
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
        msg = f"datalist {datalist.name}: no training case has both a {options.contrast} volume and a tissue map; "
        msg += 'give maps in the datalist: "masks": {"tissue": "S01_tissue.nii.gz"}'
        raise RequestError(msg)
    examples = []
    for number, case in enumerate(cases):
        reporter.progress("reading", number, len(cases))
        examples.append(read_example(case, options))
    training = Training(examples, folder, options, [case.subject for case in cases])
    training.run(reporter)
    classes, window = options.classes, (options.window,) * 3
    segmenter = Segmenter(
        training.network.eval(), classes, window, device=training.device, precision=training.precision
    )
    for case in usable_cases(datalist.validation, options.contrast):
        reporter.progress("validation", len(training.validation), len(datalist.validation))
        image, labels = _read(case, options)
        found, truth = segmenter.segment(image[0]), masks_of(labels, classes)
        scores = {name: dice(found[name], truth[name]) for name in classes}
        training.validation[case.case_id] = {**scores, "mean": mean(scores.values())}
    _write_bundle(training)
    return training


# -- what it learns from -----------------------------------------------------------------------------------------------


def usable_cases(cases: Sequence[Case], contrast: str) -> list[Case]:
    """Those with a volume of this contrast and a tissue map."""
    return [case for case in cases if contrast in case.contrasts and "tissue" in case.masks]


def read_example(case: Case, options: TrainingOptions) -> dict[str, Tensor]:
    """A scan `(1, I, J, K)` float32, about [-1, 1], and its tissue map, uint8: axes in RAS+ order, cropped to the
    foreground, at least a window large."""
    image, labels = _read(case, options)
    i, j, k = foreground_box(foreground_mask(image.numpy()), margin=2).slices
    image = robust_range(image)[:, i, j, k]
    # Padding in (k, j, i) order, with what lies around a head: nothing.
    extra = [pad for size in reversed(image.shape[1:]) for pad in (0, max(0, options.window - size))]
    image = nn.functional.pad(image, extra, value=float(image.min()))
    return {"image": image.contiguous(), "labels": nn.functional.pad(labels[None, i, j, k], extra).contiguous()}


def _read(case: Case, options: TrainingOptions) -> tuple[Tensor, Tensor]:
    """The volume `(1, I, J, K)` in scanner units, and its labels `(I, J, K)`; axes in RAS+ order."""
    volume, _ = read_volume(case.contrasts[options.contrast], frame=case.frame).canonical()
    if volume.data.shape[0] != 1:
        msg = f"{volume.name} has {volume.data.shape[0]} channels; a case has one volume for each contrast"
        raise RequestError(msg)
    volume.check_voxels()
    labels = read_labels(case.masks["tissue"], volume.grid, len(options.classes))
    return torch.from_numpy(volume.data), labels


class Windows:
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
                mt.EnsureTyped(both, dtype=(torch.float32, torch.uint8), track_meta=False),
            ]
        )

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        """Image `(1, W, W, W)` float32 and labels `(1, W, W, W)` uint8; all examples come equally often."""
        rng = np.random.default_rng([self.seed, number])
        example = self.examples[int(rng.integers(len(self.examples)))]
        self._augment.set_random_state(seed=int(rng.integers(2**31)))
        window: Any = self._augment(dict(example))
        return window["image"], window["labels"]


# -- the loop ----------------------------------------------------------------------------------------------------------


class Training:
    """Network, optimiser, and the state in `folder`, from which it goes on if there is one.

    Raises:
        RequestError: the state is that of another training.
    """

    def __init__(
        self, examples: Sequence[dict[str, Tensor]], folder: Path, options: TrainingOptions, subjects: Sequence[str]
    ) -> None:
        from monai.losses import DiceCELoss

        self.options, self.folder, self.device = options, folder, pick_device(options.device)
        self.precision = pick_precision(options.precision, self.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            self.network = build_network(options.inference_config).to(self.device)
        # On a CPU a third faster than the usual order of the axes.
        self.network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=options.learning_rate, weight_decay=0.01)
        self.loss = DiceCELoss(to_onehot_y=True, softmax=True)
        self.windows = Windows(examples, options.window, options.seed)
        fixed = {key: value for key, value in asdict(options).items() if key not in FREE}
        self.identity: dict[str, Any] = jsonable({**fixed, "subjects": subjects})
        self.step, self.seconds = 0, 0.0  # over all runs
        self.validation: dict[str, dict[str, float]] = {}  # Dice by case and class, when it is done
        if (folder / "state.pt").is_file():
            self._resume(torch.load(folder / "state.pt", map_location=self.device, weights_only=True))

    def _resume(self, state: dict[str, Any]) -> None:
        before = json.loads(state["identity"])
        other = sorted(key for key in {*before, *self.identity} if before.get(key) != self.identity.get(key))
        if other:
            msg = f"{self.folder} holds a training that differs in {', '.join(other)}; give the same options to go on "
            msg += "with it, or choose another folder"
            raise RequestError(msg)
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]

    def _save(self) -> None:
        state = {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict(), "step": self.step}
        state |= {"seconds": self.seconds, "identity": json.dumps(self.identity)}
        _save_tensors(state, self.folder / "state.pt")

    @property
    def done(self) -> float:
        """Share of the training that is behind, from 0."""
        steps = self.options.steps
        return self.seconds / (60.0 * self.options.minutes) if steps is None else self.step / steps

    def run(self, reporter: Reporter) -> None:
        """Train until the steps or the time are used up. A wish to stop is honoured after the state is saved."""
        self.network.train()
        saved = last = time.monotonic()
        try:
            while self.done < 1.0 and self.seconds < 60.0 * self.options.minutes:
                reporter.progress("training", self.done, 1.0)
                loss = self._one_step()
                now = time.monotonic()
                self.seconds, last = self.seconds + now - last, now
                if self.step % 100 == 0:
                    reporter.log(f"step {self.step}, {self.seconds:.0f} s: loss {loss:.4f}")
                if now - saved > CHECKPOINT_SECONDS:
                    self._save()
                    saved = now
        except Cancelled:
            self._save()
            raise
        self._save()

    def _one_step(self) -> float:
        rate = self.options.learning_rate * min(1.0, (self.step + 1) / 20) * 0.5 * (1.0 + math.cos(math.pi * self.done))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        first, size = self.step * self.options.batch, self.options.batch
        images, labels = zip(*(self.windows[first + number] for number in range(size)), strict=True)
        with torch.autocast(self.device.type, self.precision, enabled=self.precision is not torch.float32):
            logits = self.network(torch.stack(images).to(self.device))
        loss: Tensor = self.loss(logits.float(), torch.stack(labels).to(self.device))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        return float(loss.detach())


def _save_tensors(content: dict[str, Any], path: Path) -> None:
    """Write a PyTorch file in one move."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    torch.save(content, partial)
    partial.replace(path)


def _write_bundle(training: Training) -> None:
    """`configs/inference.json`, `configs/metadata.json` and `models/model.pt`."""
    options, folder = training.options, training.folder
    names = {str(number): name for number, name in enumerate(("background", *options.classes))}
    image = {"type": "image", "modality": "MR", "dtype": "float32", "spatial_shape": [options.window] * 3}
    scan = {"format": "magnitude", "num_channels": 1, "value_range": [-1, 1], "channel_def": {"0": options.contrast}}
    masks = {"format": "segmentation", "num_channels": len(names), "channel_def": names}
    metadata = {
        "name": f"tissue segmenter ({options.contrast.upper()})",
        "version": "0.1.0",
        "description": "Measures what a restoration does to a segmentation; no tool for anything else.",
        "monai_version": version("monai"),
        "pytorch_version": torch.__version__,
        "network_data_format": {"inputs": {"image": image | scan}, "outputs": {"pred": image | masks}},
        "training": {
            "code": f"scorefusion {code_version()}",
            "machine": describe_machine(training.device),
            "precision": str(training.precision).removeprefix("torch."),
            **training.identity,
            "augmentation": AUGMENTATION,
            "steps": training.step,
            "seconds": round(training.seconds, 1),
            "validation_dice": training.validation,
        },
    }
    _save_tensors(training.network.state_dict(), folder / "models" / "model.pt")
    (folder / "configs").mkdir(exist_ok=True)
    for name, content in (("inference", options.inference_config), ("metadata", metadata)):
        text = json.dumps(jsonable(content), indent=2, allow_nan=False) + "\n"
        (folder / "configs" / f"{name}.json").write_text(text, encoding="utf-8")
