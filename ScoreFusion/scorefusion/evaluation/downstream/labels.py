"""Label maps: read beside the volume they belong to, as one mask a class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scorefusion.errors import GeometryError, VolumeError
from scorefusion.imaging.files import read_volume
from scorefusion.imaging.grid import Box, Grid
from scorefusion.imaging.volume import Volume

#: Names of labels 1, 2, 3 in the tissue maps of the project's data.
TISSUES = ("CSF", "GM", "WM")

_SYNONYMS = {
    "CSF": ("csf", "cerebrospinalfluid", "fluid"),
    "GM": ("gm", "greymatter", "graymatter", "grey", "gray"),
    "WM": ("wm", "whitematter", "white"),
}

#: How far a voxel of a map may be from its twin in the volume, mm. Headers are rounded to float32.
TOLERANCE_MM = 0.01


def standard_name(name: str) -> str:
    """`"Grey matter"` and `"GM"` are one class; a name that is no tissue stays as it is."""
    plain = "".join(letter for letter in name.casefold() if letter.isalnum())
    return next((tissue for tissue, words in _SYNONYMS.items() if plain in words), name)


def read_labels(path: Path, grid: Grid, num_classes: int) -> Tensor:
    """Read a label map on the grid of a volume, or on a crop of it.

    Args:
        path: whole numbers, 0 = background.
        grid: of the volume, axes in RAS+ order.
        num_classes: the largest label allowed.

    Returns:
        uint8 `(I, J, K)`.

    Raises:
        GeometryError: the map lies elsewhere, or has other voxels.
        VolumeError: its values are no labels.
    """
    labels, _ = read_volume(path).canonical()
    if labels.data.shape[0] != 1:
        msg = f"{labels.name} has {labels.data.shape[0]} channels; a label map has one, with whole numbers"
        raise VolumeError(msg)
    values = labels.crop(_place(labels, grid)).data[0]
    rounded = np.rint(values)
    if not np.array_equal(values, rounded) or values.min() < 0 or values.max() > num_classes:
        msg = (
            f"{labels.name} holds values from {values.min():g} to {values.max():g}; expected whole numbers from 0 "
            f"(background) to {num_classes}. Is it an image, a probability map, or of another vocabulary?"
        )
        raise VolumeError(msg)
    return torch.from_numpy(rounded.astype(np.uint8))


def masks_of(labels: Tensor, classes: Sequence[str]) -> dict[str, Tensor]:
    """Label n is the n-th class: `(I, J, K)` whole numbers to bool `(I, J, K)` by name."""
    return {name: labels == number for number, name in enumerate(classes, start=1)}


def _place(labels: Volume, grid: Grid) -> Box:
    """Where `grid` lies in the map; refuses unless all of it does, voxel on voxel."""
    first = np.rint(labels.grid.world_to_index(grid.origin)).astype(int)
    start = (int(first[0]), int(first[1]), int(first[2]))
    i, j, k = (begin + size for begin, size in zip(start, grid.spatial_shape, strict=True))
    try:
        box = Box(start, (i, j, k))
        found = labels.grid.crop(box).is_close(grid, TOLERANCE_MM)
    except GeometryError:
        found = False
    if not found:
        msg = (
            f"the label map {labels.name} ({labels.grid!r}) is not on the grid of its volume ({grid!r}); "
            "resample it onto that grid with nearest-neighbour interpolation"
        )
        raise GeometryError(msg)
    return box
