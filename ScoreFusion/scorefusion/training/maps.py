"""Maps of a mapped condition, fitted once in a run: the base that its networks start from."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from scorefusion.documents import read_json
from scorefusion.errors import RequestError
from scorefusion.imaging.intensity_map import BACKGROUND, KNOTS, IntensityMap, IntensityMaps, read_maps
from scorefusion.training.volumes import TrainingVolume

SYNTHETIC = 24  # heads to fit to, where there is no scan


def find_maps(
    path: Path, volumes: Sequence[TrainingVolume], names: Sequence[str], draw: Callable[[int], Tensor]
) -> IntensityMaps:
    """Those that this run began with, else fitted to the training volumes and kept.

    Args:
        path: JSON file of the run.
        volumes: every one counts the same; without any, synthetic heads are taken.
        names: of the conditions.
        draw: a synthetic head by its number: conditions and target, `(C, I, J, K)`.

    Raises:
        RequestError: no training scan has one of the conditions.
    """
    if path.is_file():
        kept = read_maps(read_json(path))
        assert kept is not None
        return kept

    people = [torch.from_numpy(volume.data) for volume in volumes] or [draw(n).cpu() for n in range(SYNTHETIC)]
    single = []
    for index, name in enumerate(names):
        found = _fit(people, (index,))
        if found is None:
            msg = f"networks.base: no training scan has the condition {name!r}, so there is nothing to map; add some"
            raise RequestError(msg)
        single.append(found)
    several = len(names) > 1 and len(names) in KNOTS
    maps = IntensityMaps(tuple(single), _fit(people, range(len(names))) if several else None)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(maps.section), encoding="utf-8")
    partial.replace(path)  # another process of this run sees all of it or nothing
    return maps


def _fit(people: Sequence[Tensor], indices: Sequence[int]) -> IntensityMap | None:
    """To those who have all of these conditions; None: nobody has."""
    whole = (each.float() for each in people)  # one at a time: scans are kept in half precision
    persons = [_voxels(each, indices) for each in whole if _has(each, indices)]
    return IntensityMap.fit(persons) if persons else None


def _has(images: Tensor, indices: Sequence[int]) -> bool:
    return all(bool((images[index] > BACKGROUND).any()) for index in indices)


def _voxels(images: Tensor, indices: Sequence[int]) -> tuple[list[Tensor], Tensor]:
    """Of `(C, I, J, K)` conditions and target: the voxels of some conditions and of the target, where the first of
    them is not background."""
    seen = images[indices[0]] > BACKGROUND
    return [images[index][seen] for index in indices], images[-1][seen]
