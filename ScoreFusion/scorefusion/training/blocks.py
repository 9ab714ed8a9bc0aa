"""Training samples for super-resolution: blocks cut from real volumes, each measured by a scanner drawn at random.

A block is a sub-volume with its measurement's base image (iterative back-projection) and residual. Making one costs a
few matrix
products; a pool of blocks is kept and one is renewed a step, so that most of the processor's time goes to the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from scorefusion.acquisition import Acquisition, AxisSampling
from scorefusion.fusion import acquisition_vector


@dataclass(frozen=True)
class TrainingVolume:
    """A volume ready for training.

    Attributes:
        case_id: person and contrast, for messages.
        data: `(I, J, K)` float16, canonical axes, normalised to about [-1, 1].
        weight: how often it is drawn, relative to the others.
    """

    case_id: str
    data: np.ndarray
    weight: float = 1.0


@dataclass(frozen=True)
class AcquisitionRanges:
    """What scanners may be drawn, in voxels of the target grid.

    Attributes:
        isotropic_share: share of isotropic measurements; the rest are thick slices along a random axis.
        isotropic_factors: each drawn with equal chance.
        slice_factors: distance between slices, uniform over a mixture of ranges (each drawn with equal chance).
        width_ratio: slice thickness over slice distance; below 1 is a gap.
        gapless_share: share of acquisitions with thickness = distance.
        gaussian_share: share of Gaussian slice profiles.
    """

    isotropic_share: float = 0.45
    isotropic_factors: tuple[float, ...] = (4.0, 4.0, 4.0, 3.0, 2.0)
    slice_factors: tuple[tuple[float, float], ...] = ((4.0, 6.0), (4.0, 6.0), (2.0, 8.0))
    width_ratio: tuple[float, float] = (0.7, 1.3)
    gapless_share: float = 0.7
    gaussian_share: float = 0.25

    def draw(self, shape: Sequence[int], rng: np.random.Generator) -> Acquisition:
        """An acquisition of a block of this shape."""
        gaussian = "gaussian" if rng.random() < self.gaussian_share else "box"
        ratio = 1.0 if rng.random() < self.gapless_share else rng.uniform(*self.width_ratio)
        if rng.random() < self.isotropic_share:
            factor = float(rng.choice(self.isotropic_factors))
            return Acquisition(shape, [_sampling(size, factor, factor * ratio, gaussian, rng) for size in shape])
        factor = float(rng.uniform(*self.slice_factors[rng.integers(len(self.slice_factors))]))
        axes: list[AxisSampling | None] = [None, None, None]
        axis = int(rng.integers(3))
        axes[axis] = _sampling(shape[axis], factor, factor * ratio, gaussian, rng)
        return Acquisition(shape, axes)


def _sampling(size: int, factor: float, width: float, profile: str, rng: np.random.Generator) -> AxisSampling:
    """Slices at a random phase; they cover the block, the outer ones may reach beyond it."""
    offset = -float(rng.uniform(0.0, 0.5 * factor))
    count = int(np.floor((size - offset) / factor + 0.5))
    return AxisSampling(size, count, factor, max(1.0, width), profile, offset)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Block:
    """One training block: `base` and `residual` `(1, I, J, K)`, `acquisition` `(6,)`, `weight` for its loss."""

    base: Tensor
    residual: Tensor
    acquisition: Tensor
    weight: float
    operator: Acquisition


@dataclass
class BlockSource:
    """Draws blocks without end.

    Args:
        volumes: what to cut from.
        shape: size of a block; smaller where a volume is.
        residual_gain: of the networks to be trained.
        base_rounds: rounds of back-projection of the base image.
        seed: of this source's own generator.
        ranges: scanners to draw.
        augment: flips, contrast and inversion at random.
    """

    volumes: Sequence[TrainingVolume]
    shape: tuple[int, int, int]
    residual_gain: float
    base_rounds: int
    seed: int = 0
    ranges: AcquisitionRanges = field(default_factory=AcquisitionRanges)
    augment: bool = True

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        weights = np.array([volume.weight for volume in self.volumes])
        self.chances = weights / weights.sum()

    def draw(self) -> Block:
        """A fresh block."""
        for _ in range(20):
            target = self._cut(self.volumes[self.rng.choice(len(self.volumes), p=self.chances)].data)
            if (target > -0.9).mean() > 0.15:
                break
        if self.augment:
            target = self._augment(target)
        truth = torch.from_numpy(np.ascontiguousarray(target))[None, None]
        operator = self.ranges.draw(target.shape, self.rng)
        measured = operator.forward(truth)
        base = operator.back_project(measured, self.base_rounds)
        residual = 0.5 * self.residual_gain * (truth - base)
        power = float(residual.square().mean())
        # Error relative to what there is to find, so that mild and strong acquisitions count alike, as they do in
        # decibels.
        return Block(base[0], residual[0], acquisition_vector(operator)[0], 1.0 / (power + 0.02), operator)

    def _cut(self, data: np.ndarray) -> np.ndarray:
        size = [min(want, have) for want, have in zip(self.shape, data.shape, strict=True)]
        start = [int(self.rng.integers(have - want + 1)) for want, have in zip(size, data.shape, strict=True)]
        block = data[tuple(slice(s, s + n) for s, n in zip(start, size, strict=True))].astype(np.float32)
        missing = [(0, want - have) for want, have in zip(self.shape, size, strict=True)]
        return np.pad(block, missing, mode="edge") if any(after for _, after in missing) else block

    def _augment(self, x: np.ndarray) -> np.ndarray:
        for axis in range(3):
            if self.rng.random() < (0.5 if axis == 0 else 0.25):
                x = np.flip(x, axis)
        unit = 0.5 * (x + 1.0)
        if self.rng.random() < 0.5:
            gamma = float(np.exp(self.rng.uniform(-0.35, 0.35)))
            unit = np.sign(unit) * np.abs(unit) ** gamma
        if self.rng.random() < 0.1:
            # Inverted tissue on a dark background: contrasts that the training set lacks.
            inside = unit > 0.05
            unit = np.where(inside, 1.05 - np.minimum(unit, 1.05), unit)
        scale = float(self.rng.uniform(0.8, 1.15))
        return (2.0 * scale * unit - 1.0).astype(np.float32)


class BlockPool:
    """A stock of blocks; the oldest is renewed at each call of `refresh`."""

    def __init__(self, source: BlockSource, size: int) -> None:
        self.source = source
        self.blocks = [source.draw() for _ in range(size)]
        self.oldest = 0

    def refresh(self) -> None:
        """Replace the oldest block."""
        self.blocks[self.oldest] = self.source.draw()
        self.oldest = (self.oldest + 1) % len(self.blocks)

    def pick(self, count: int) -> list[Block]:
        """`count` different blocks."""
        chosen = self.source.rng.choice(len(self.blocks), size=count, replace=False)
        return [self.blocks[index] for index in chosen]
