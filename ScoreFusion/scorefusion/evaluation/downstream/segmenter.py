"""A segmentation network ready to use: a volume in, one mask a class out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from scorefusion.evaluation.downstream.labels import masks_of
from scorefusion.imaging.intensity import fit_intensity_scale
from scorefusion.run.devices import inference_settings

#: Neighbouring windows share this part of their width, blended by a Gaussian.
OVERLAP = 0.25


def robust_range(data: Tensor) -> Tensor:
    """Scanner units to [-1, 1] as everywhere in ScoreFusion, by the volume's own robust range. `(1, I, J, K)`."""
    scaled: Tensor = fit_intensity_scale(data.numpy()).normalise(data)
    return scaled


@dataclass(frozen=True, eq=False)
class Segmenter:
    """A network with all that turns a volume into masks.

    Attributes:
        network: `(B, 1, *window)` to logits `(B, C, *window)`, any window of that size.
        classes: names, in the order of the output channels; the background has none.
        exclusive: channel 0 is the background and each voxel belongs to one class; else each channel is a class by
            itself, present where its logit is above 0.
        window: size of the sliding window, voxels.
        prepare: scanner units to the network's input, `(1, I, J, K)` float32.
        contrast: what it was trained on, if known.
        training_subjects: people whose Dice would flatter it.
        notes: for the caption: what it is, and how volumes are prepared for it.
    """

    network: nn.Module
    classes: tuple[str, ...]
    window: tuple[int, int, int]
    exclusive: bool = True
    prepare: Callable[[Tensor], Tensor] = robust_range
    contrast: str | None = None
    training_subjects: tuple[str, ...] = ()
    notes: dict[str, str] = field(default_factory=dict)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: torch.dtype = torch.float32

    def segment(self, data: Tensor) -> dict[str, Tensor]:
        """Segment a volume.

        Args:
            data: `(I, J, K)` float32, scanner units, axes in RAS+ order, finite.

        Returns:
            bool `(I, J, K)` for each class, on the CPU.
        """
        from monai.inferers import sliding_window_inference

        prepared = self.prepare(data[None]).float()
        with inference_settings():
            logits = sliding_window_inference(
                prepared[None].to(self.device),
                self.window,
                1,
                self._predict,
                overlap=OVERLAP,
                mode="gaussian",
                cval=float(prepared.min()),
            )[0].cpu()
        if self.exclusive:
            return masks_of(logits.argmax(dim=0), self.classes)
        return {name: channel > 0 for name, channel in zip(self.classes, logits, strict=True)}

    def _predict(self, windows: Tensor) -> Tensor:
        with torch.autocast(self.device.type, self.precision, enabled=self.precision is not torch.float32):
            logits: Tensor = self.network(windows)
        return logits.float()
