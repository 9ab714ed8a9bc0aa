"""What the tissue segmenter learns from: random windows of scans with their tissue maps.

Augmentation: flips left to right, monotonous changes of the intensity curve, small changes of scale and offset, weak
noise. None of it changes the resolution: no blur, no zoom, no rotation, no interpolation of any kind. A segmenter that
has learnt to see through blur would hide what blur does to a segmentation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scorefusion.datasets.case import Case
from scorefusion.errors import RequestError
from scorefusion.evaluation.downstream.labels import read_labels
from scorefusion.evaluation.downstream.segmenter import robust_range
from scorefusion.imaging.files import read_volume
from scorefusion.imaging.foreground import foreground_box, foreground_mask

AUGMENTATION = "left-right flips, intensity curve, scale and offset, weak noise; no blur, no zoom, no rotation"


@dataclass(frozen=True, eq=False)
class Example:
    """A scan with its tissue map, axes in RAS+ order, cropped to its foreground and at least a window large."""

    subject: str
    image: Tensor  # (1, I, J, K) float32, about [-1, 1]
    labels: Tensor  # (1, I, J, K) uint8


def usable_cases(cases: Sequence[Case], contrast: str) -> list[Case]:
    """Those with a volume of this contrast and a tissue map."""
    return [case for case in cases if contrast in case.contrasts and "tissue" in case.masks]


def read_example(case: Case, contrast: str, num_classes: int, window: int) -> Example:
    """Read and normalise a scan and its tissue map."""
    volume, _ = read_volume(case.contrasts[contrast], frame=case.frame).canonical()
    if volume.data.shape[0] != 1:
        msg = f"{volume.name} has {volume.data.shape[0]} channels; a case has one volume for each contrast"
        raise RequestError(msg)
    volume.check_voxels()
    labels = read_labels(case.masks["tissue"], volume.grid, num_classes)
    i, j, k = foreground_box(foreground_mask(volume.data), margin=2).slices
    image = robust_range(torch.from_numpy(volume.data))[:, i, j, k]
    cropped = labels[None, i, j, k]
    # Padding in (k, j, i) order, with what lies around a head: nothing.
    extra = [pad for size in reversed(image.shape[1:]) for pad in (0, max(0, window - size))]
    image = torch.nn.functional.pad(image, extra, value=float(image.min()))
    return Example(case.subject, image.contiguous(), torch.nn.functional.pad(cropped, extra).contiguous())


class PatchSource:
    """Window number n of a seed is always the same one: training resumes as if it had not stopped.

    Args:
        examples: at least one; all are drawn equally often.
        window: voxels a side.
        seed: of subject, place and augmentation.
    """

    def __init__(self, examples: Sequence[Example], window: int, seed: int) -> None:
        from monai.transforms import (
            Compose,
            RandFlipd,
            RandGaussianNoised,
            RandHistogramShiftd,
            RandScaleIntensityd,
            RandShiftIntensityd,
            RandSpatialCropd,
        )

        self.examples = examples
        self.seed = seed
        both = ("image", "labels")
        self._augment = Compose(
            [
                RandSpatialCropd(both, (window, window, window), random_size=False),
                RandFlipd(both, prob=0.5, spatial_axis=0),
                RandHistogramShiftd("image", num_control_points=(5, 9), prob=0.5),
                RandScaleIntensityd("image", factors=0.1, prob=0.5),
                RandShiftIntensityd("image", offsets=0.1, prob=0.5),
                RandGaussianNoised("image", prob=0.3, std=0.03),
            ]
        )

    def draw(self, number: int) -> tuple[Tensor, Tensor]:
        """Window `number`: image `(1, W, W, W)` float32 and labels `(1, W, W, W)` uint8."""
        from monai.utils import convert_to_tensor

        rng = np.random.default_rng([self.seed, number])
        example = self.examples[int(rng.integers(len(self.examples)))]
        self._augment.set_random_state(seed=int(rng.integers(2**31)))
        window = self._augment({"image": example.image, "labels": example.labels})
        return (
            convert_to_tensor(window["image"], dtype=torch.float32, track_meta=False),
            convert_to_tensor(window["labels"], dtype=torch.uint8, track_meta=False),
        )

    def batch(self, first: int, size: int) -> tuple[Tensor, Tensor]:
        """Windows `first` to `first + size`, stacked: `(B, 1, W, W, W)` each."""
        images, labels = zip(*(self.draw(first + number) for number in range(size)), strict=True)
        return torch.stack(images), torch.stack(labels)
