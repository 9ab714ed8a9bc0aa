"""Train the tissue segmenter on the maps of a datalist, and write it as a MONAI bundle."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from scorefusion.datasets.case import Case
from scorefusion.datasets.datalist import Datalist
from scorefusion.errors import RequestError
from scorefusion.evaluation.downstream.dice import dice, mean
from scorefusion.evaluation.downstream.labels import masks_of, read_labels
from scorefusion.evaluation.downstream.monai_bundle import load_segmenter
from scorefusion.evaluation.downstream.patches import AUGMENTATION, read_example, usable_cases
from scorefusion.evaluation.downstream.segmenter import Segmenter
from scorefusion.evaluation.downstream.trainer import WINDOW_MULTIPLE, Trainer, TrainingOptions, save_tensors
from scorefusion.evaluation.meter import code_version, describe_machine
from scorefusion.imaging.files import read_volume
from scorefusion.progress import Reporter, jsonable

#: Cases of the project's data that are left out: eve's map came from another program than all others.
OTHER_VOCABULARY = ("eve",)


@dataclass(frozen=True)
class Trained:
    """What came out of a training.

    Attributes:
        folder: the bundle.
        steps: of the optimiser, over all runs.
        seconds: of training, over all runs.
        validation: Dice by subject and class, on whole volumes.
    """

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
        options: see `TrainingOptions`.
        reporter: progress and cancellation.

    Raises:
        RequestError: no case has a tissue map, or the folder holds another training.
    """
    options, reporter = options or TrainingOptions(), reporter or Reporter()
    _check(options)
    cases = usable_cases(datalist.training, options.contrast)
    if not cases:
        msg = (
            f"datalist {datalist.name}: no training case has both a {options.contrast} volume and a tissue map; "
            'give maps in the datalist: "masks": {"tissue": "S01_tissue.nii.gz"}'
        )
        raise RequestError(msg)
    count = len(options.classes)
    examples = []
    for number, case in enumerate(cases):
        reporter.progress("reading", number, len(cases))
        examples.append(read_example(case, options.contrast, count, options.window))
    folder.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(examples, folder, options)
    trainer.resume()
    trainer.run(reporter)
    _write_bundle(trainer, {})
    segmenter = load_segmenter(folder, device=options.device, precision=options.precision)
    validation = _validate(segmenter, usable_cases(datalist.validation, options.contrast), options, reporter)
    _write_bundle(trainer, validation)
    return Trained(folder, trainer.step, trainer.seconds, validation)


def _check(options: TrainingOptions) -> None:
    if options.window % WINDOW_MULTIPLE or options.window <= 0:
        msg = f"the window is {options.window} voxels; give a multiple of {WINDOW_MULTIPLE}, such as 64"
        raise RequestError(msg)
    if options.minutes <= 0 or not options.classes:
        msg = f"{options.minutes:g} minutes for {len(options.classes)} classes; give more than none of both"
        raise RequestError(msg)


def _validate(
    segmenter: Segmenter, cases: Sequence[Case], options: TrainingOptions, reporter: Reporter
) -> dict[str, dict[str, float]]:
    found = {}
    for number, case in enumerate(cases):
        reporter.progress("validation", number, len(cases))
        volume, _ = read_volume(case.contrasts[options.contrast], frame=case.frame).canonical()
        truth = masks_of(read_labels(case.masks["tissue"], volume.grid, len(options.classes)), options.classes)
        masks = segmenter.segment(torch.from_numpy(volume.data[0]))
        scores = {name: dice(masks[name], truth[name]) for name in options.classes}
        found[case.case_id] = {**scores, "mean": mean(scores.values())}
    return found


def _write_bundle(trainer: Trainer, validation: dict[str, dict[str, float]]) -> None:
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
    (folder / "configs").mkdir(exist_ok=True)
    (folder / "models").mkdir(exist_ok=True)
    _write_json(options.inference_config, folder / "configs" / "inference.json")
    _write_json(metadata, folder / "configs" / "metadata.json")
    save_tensors(trainer.network.state_dict(), folder / "models" / "model.pt")


def _write_json(content: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(jsonable(content), indent=2, allow_nan=False) + "\n", encoding="utf-8")
