"""The ends of the field of view, where a scan stops in the middle of the head.

A network sees zeros beyond the end, and in training the voxels near a block's end counted less or not at all: the last
ones come out too dark, a rim. So the head goes on beyond the end, mirrored, while the networks look.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from scorefusion.fusion.inputs import ModelInputs
from scorefusion.fusion.planes import position_channels
from scorefusion.networks.shapes import crop_to

BEYOND = 8  # voxels that are mirrored
LEAST = 0.01  # share of an end's voxels that show the head, from which it goes on beyond it

#: Calls the rule: x_t, inputs, level, step.
Evaluate = Callable[[Tensor, ModelInputs, Tensor, int], Tensor]


@dataclass(frozen=True)
class Ends:
    """Voxels to add before and after each axis: `((i0, i1), (j0, j1), (k0, k1))`."""

    added: tuple[tuple[int, int], tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0), (0, 0))

    @classmethod
    def of(cls, region: np.ndarray | None) -> Ends:
        """Where a head, `(I, J, K)` bool, reaches the end of its grid; None = nobody knows, so nothing is added."""
        if region is None:
            return cls()
        added = []
        for axis, size in enumerate(region.shape):
            ends = (np.take(region, 0, axis), np.take(region, size - 1, axis))
            most = min(BEYOND, size - 1)  # mirrored about the last voxel
            added.append(tuple(most if float(end.mean()) >= LEAST else 0 for end in ends))
        return cls((added[0], added[1], added[2]))  # type: ignore[arg-type]

    @property
    def none(self) -> bool:
        """Nothing is added."""
        return not any(any(pair) for pair in self.added)

    def extend(self, inputs: ModelInputs) -> ModelInputs:
        """Conditions and region go on beyond the ends; coordinates stay as at the end."""
        if self.none:
            return inputs
        position = inputs.position
        if position is None:
            position = position_channels(inputs.conditions.shape[2:], device=inputs.conditions.device)
        region = None if inputs.region is None else np.pad(inputs.region, self.added, mode="reflect")
        return replace(
            inputs,
            conditions=self.mirror(inputs.conditions),
            position=F.pad(position, self._flat(), mode="replicate"),
            region=region,
        )

    def mirror(self, volume: Tensor) -> Tensor:
        """`(B, C, I, J, K)` with its ends mirrored."""
        return volume if self.none else F.pad(volume, self._flat(), mode="reflect")

    def around(self, evaluate: Evaluate, inputs: ModelInputs) -> Evaluate:
        """`evaluate` with what lies beyond the ends of `inputs`; takes and gives volumes without it."""
        if self.none:
            return evaluate
        extended = self.extend(inputs)

        def call(x_t: Tensor, _: ModelInputs, alpha_bar: Tensor, step: int) -> Tensor:
            prediction = evaluate(self.mirror(x_t), extended, alpha_bar, step)
            for axis, (before, _after) in enumerate(self.added, start=2):
                prediction = prediction.narrow(axis, before, prediction.shape[axis] - before)
            return crop_to(prediction, x_t.shape[2:])

        return call

    def _flat(self) -> list[int]:
        """As torch wants it: last axis first."""
        return [count for pair in reversed(self.added) for count in pair]
