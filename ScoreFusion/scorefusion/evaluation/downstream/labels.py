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

TISSUES = ("CSF", "GM", "WM")  # names of labels 1, 2, 3 in the tissue maps of the project's data
_SYNONYMS = {
    "CSF": ("csf", "cerebrospinalfluid", "fluid"),
    "GM": ("gm", "greymatter", "graymatter", "grey", "gray"),
    "WM": ("wm", "whitematter", "white"),
}
TOLERANCE_MM = 0.01  # how far a voxel of a map may be from its twin in the volume: headers are rounded to float32


def standard_name(name: str) -> str:
    """`"Grey matter"` and `"GM"` are one class; a name that is no tissue stays as it is."""
    plain = "".join(letter for letter in name.casefold() if letter.isalnum())
    return next((tissue for tissue, words in _SYNONYMS.items() if plain in words), name)


def read_labels(path: Path, grid: Grid, num_classes: int) -> Tensor:
    """Read a label map (whole numbers up to `num_classes`, 0 = background) on a grid with axes in RAS+ order, which may
    be a crop of the map's: uint8 `(I, J, K)`.

    Raises:
        GeometryError: the map lies elsewhere, or has other voxels.
        VolumeError: its values are no labels.
    """
    labels, _ = read_volume(path).canonical()
    if labels.data.shape[0] != 1:
        msg = f"{labels.name} has {labels.data.shape[0]} channels; a label map has one, with whole numbers"
        raise VolumeError(msg)
    a, b, c = (int(n) for n in np.rint(labels.grid.world_to_index(grid.origin)))
    i, j, k = grid.spatial_shape
    try:
        box = Box((a, b, c), (a + i, b + j, c + k))
        found = labels.grid.crop(box).is_close(grid, TOLERANCE_MM)
    except GeometryError:
        found = False
    if not found:
        msg = (
            f"the label map {labels.name} ({labels.grid!r}) is not on the grid of its volume ({grid!r}); "
            "resample it onto that grid with nearest-neighbour interpolation"
        )
        raise GeometryError(msg)
    values = labels.crop(box).data[0]
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
