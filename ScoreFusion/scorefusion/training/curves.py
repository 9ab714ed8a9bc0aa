"""Curves of a mapped condition, fitted once in a run: the base that its networks start from."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from scorefusion.errors import RequestError
from scorefusion.intensity_curve import BACKGROUND, IntensityCurve
from scorefusion.training.volumes import TrainingVolume

SYNTHETIC = 24  # heads to fit to, where there is no scan


def find_curves(
    path: Path, volumes: Sequence[TrainingVolume], names: Sequence[str], draw: Callable[[int], Tensor]
) -> tuple[IntensityCurve, ...]:
    """Those that this run began with, else fitted to the training volumes and kept.

    Args:
        path: JSON file of the run.
        volumes: every one counts the same; without any, synthetic heads are taken.
        names: of the conditions.
        draw: a synthetic head by its number: conditions and target, `(C, I, J, K)`.
    """
    if path.is_file():
        return tuple(IntensityCurve(tuple(values)) for values in json.loads(path.read_text(encoding="utf-8")))
    curves = tuple(_fit(index, volumes, draw, name) for index, name in enumerate(names))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps([curve.values for curve in curves]), encoding="utf-8")
    partial.replace(path)  # another process of this run sees all of it or nothing
    return curves


def _fit(index: int, volumes: Sequence[TrainingVolume], draw: Callable[[int], Tensor], name: str) -> IntensityCurve:
    source = _scans(volumes) if volumes else _heads(draw)
    pairs = [pair for pair in (_voxels(images, index) for images in source) if pair[0].numel()]
    if not pairs:
        msg = f"networks.base: no training scan has the condition {name!r}, so there is nothing to map; add some"
        raise RequestError(msg)
    return IntensityCurve.fit(pairs)


def _scans(volumes: Sequence[TrainingVolume]) -> Iterator[Tensor]:
    for volume in volumes:
        yield torch.from_numpy(volume.data).float()


def _heads(draw: Callable[[int], Tensor]) -> Iterator[Tensor]:
    for number in range(SYNTHETIC):
        yield draw(number).cpu()


def _voxels(images: Tensor, index: int) -> tuple[Tensor, Tensor]:
    """Of `(C, I, J, K)` conditions and target: the voxels of one condition and of the target; none if it is missing."""
    seen = images[index] > BACKGROUND
    return images[index][seen], images[-1][seen]
