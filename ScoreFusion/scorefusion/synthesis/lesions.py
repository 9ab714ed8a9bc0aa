"""Lesions in a map of tissues: scattered plaques in white matter, and masses with oedema round them.

Each lesion is a wobbly ball, computed in its own small box. What is stored is how far a voxel is diseased, so that the
edge of a lesion fades instead of ending at a voxel's face.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from scorefusion.synthesis.labels import Tissue
from scorefusion.synthesis.tissue import NECROSIS, OEDEMA, TUMOUR

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

WHITE = (int(Tissue.WHITE_MATTER), int(Tissue.CEREBELLAR_WHITE), int(Tissue.BRAIN_STEM))


@dataclass(frozen=True, eq=False)
class Lesions:
    """Where tissue is diseased.

    Attributes:
        rows: int32 `(I, J, K)`, rows of a palette: the classes, or a disease in their place.
        share: float32 `(I, J, K)` or None, 0 to 1: how far, in rows that are mixtures.
        classes: uint8 `(I, J, K)`, `Tissue.LESION` where a voxel is more diseased than not.
        parameters: what was drawn, for JSON.
    """

    rows: Tensor
    share: Tensor | None
    classes: Tensor
    parameters: dict[str, Any]


def no_lesions(classes: Tensor) -> Lesions:
    """A healthy head; what the map calls a lesion is white matter again."""
    healed = classes.masked_fill(classes == int(Tissue.LESION), int(Tissue.WHITE_MATTER))
    return Lesions(healed.to(torch.int32), None, healed, {"kind": "none"})


def draw_lesions(classes: Tensor, wobble: Tensor, spacing_mm: float, rng: np.random.Generator) -> Lesions:
    """Plaques (three in four) or a mass, beside the lesions that the map has.

    Args:
        classes: uint8 `(I, J, K)`.
        wobble: float32 `(I, J, K)`, a smooth standard normal field that makes balls irregular.
        spacing_mm: of a voxel.
        rng: where chance comes from.
    """
    if rng.random() < 0.75:
        return _plaques(classes, wobble, spacing_mm, rng)
    return _mass(classes, wobble, spacing_mm, rng)


def _plaques(classes: Tensor, wobble: Tensor, spacing_mm: float, rng: np.random.Generator) -> Lesions:
    rows, seen = classes.to(torch.int32), classes.clone()
    share = (classes == int(Tissue.LESION)).to(wobble.dtype)
    wanted = int(rng.integers(3, 40))
    radii = []
    for centre in _near_ventricles(classes, wanted, rng):
        radius = float(min(1.2 + rng.gamma(1.6, 1.0), 9.0)) / spacing_mm
        stretch = rng.uniform(0.65, 1.5, 3)
        box, distance = _ball(classes.shape, centre, radius, stretch, wobble)
        # 1 inside, 0 outside, over about a voxel and a half.
        diseased = torch.sigmoid((1.0 - distance) * radius / 0.5) * float(rng.uniform(0.55, 1.0))
        white = torch.isin(seen[box], torch.tensor((*WHITE, int(Tissue.LESION)), device=seen.device, dtype=seen.dtype))
        share[box] = torch.maximum(share[box], diseased * white)
        radii.append(radius * spacing_mm)
    touched = share > 0.03
    rows[touched] = int(Tissue.LESION)
    seen[share > 0.4] = int(Tissue.LESION)
    kept = {"kind": "plaques", "count": len(radii), "largest_mm": round(max(radii, default=0.0), 2)}
    return Lesions(rows, share, seen, kept)


def _mass(classes: Tensor, wobble: Tensor, spacing_mm: float, rng: np.random.Generator) -> Lesions:
    rows, seen = classes.to(torch.int32), classes.clone()
    share = (classes == int(Tissue.LESION)).to(wobble.dtype)
    centres = _voxels_of(classes, WHITE[:1], 1, rng)
    if not centres:
        return no_lesions(classes)
    core = float(rng.uniform(6.0, 18.0)) / spacing_mm
    width = float(rng.uniform(1.4, 2.4))
    dead = float(rng.uniform(0.4, 0.8)) if rng.random() < 0.6 else 0.0
    box, distance = _ball(classes.shape, centres[0], core, rng.uniform(0.8, 1.25, 3), wobble, reach=width + 0.8)
    inside = (classes[box] >= 1) & (classes[box] <= int(Tissue.LESION))
    white = torch.isin(classes[box], torch.tensor(WHITE[:1], device=classes.device, dtype=classes.dtype))
    # Oedema creeps along white matter and spares the cortex.
    wet = torch.sigmoid((width - distance) * core / 2.5) * white
    share[box] = torch.maximum(share[box], wet)
    block, names = rows[box], seen[box]
    block[wet > 0.03] = OEDEMA
    tumour = inside & (distance < 1.0)
    block[tumour] = TUMOUR
    block[inside & (distance < dead)] = NECROSIS
    names[(wet > 0.4) | tumour] = int(Tissue.LESION)
    rows[box], seen[box] = block, names
    facts = {"core_mm": core * spacing_mm, "oedema": width, "necrosis": dead}
    return Lesions(rows, share, seen, {"kind": "mass"} | {key: round(value, 2) for key, value in facts.items()})


def _ball(
    shape: torch.Size,
    centre: tuple[int, int, int],
    radius: float,
    stretch: np.ndarray,
    wobble: Tensor,
    reach: float = 1.6,
) -> tuple[tuple[slice, ...], Tensor]:
    """The box round a ball, and in it the distance from the centre in wobbly radii."""
    box, parts = [], []
    for axis in range(3):
        half = int(radius * reach * stretch[axis]) + 2
        start, stop = max(0, centre[axis] - half), min(shape[axis], centre[axis] + half + 1)
        box.append(slice(start, stop))
        along = (torch.arange(start, stop, device=wobble.device) - centre[axis]) / (radius * float(stretch[axis]))
        parts.append(along**2)
    area = tuple(box)
    distance = (parts[0][:, None, None] + parts[1][None, :, None] + parts[2][None, None, :]).sqrt()
    return area, distance * (1.0 + 0.22 * wobble[area]).clamp_min(0.4)


def _voxels_of(
    classes: Tensor, wanted: tuple[int, ...], count: int, rng: np.random.Generator
) -> list[tuple[int, int, int]]:
    """Up to `count` voxels of some classes, by throwing darts: no list of a million voxels is made."""
    shape = classes.shape
    darts = torch.from_numpy(rng.integers(0, shape, (max(256, 40 * count), 3))).to(classes.device)
    hit = torch.isin(
        classes[darts[:, 0], darts[:, 1], darts[:, 2]],
        torch.tensor(wanted, device=classes.device, dtype=classes.dtype),
    )
    return [(int(i), int(j), int(k)) for i, j, k in darts[hit][:count].tolist()]


def _near_ventricles(classes: Tensor, count: int, rng: np.random.Generator) -> list[tuple[int, int, int]]:
    """Voxels of white matter, those near a ventricle more often, as plaques are."""
    white = _voxels_of(classes, WHITE, 4 * count, rng)
    fluid = _voxels_of(classes, (int(Tissue.VENTRICLES),), 64, rng)
    if not fluid or not white:
        return white[:count]
    places = torch.tensor(white, dtype=torch.float32)
    distance = torch.cdist(places, torch.tensor(fluid, dtype=torch.float32)).amin(dim=1)
    # The best of each four or two: near, but not all of them at the wall.
    order = [int(group[distance[group].argmin()]) for group in torch.arange(len(white)).split(int(rng.integers(1, 5)))]
    return [white[index] for index in order[:count]]
