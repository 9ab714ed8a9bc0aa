"""Tissue maps: read beside the volume they belong to, as one mask a class, and compared by Dice."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scorefusion.errors import GeometryError, VolumeError
from scorefusion.imaging.files import read_volume
from scorefusion.imaging.grid import Box, Grid

TISSUES = ("CSF", "GM", "WM")  # names of labels 1, 2, 3 in the tissue maps of the project's data
_SYNONYMS = {"CSF": "csf|(cerebrospinal)?fluid", "GM": "gm|gr[ae]y(matter)?", "WM": "wm|white(matter)?"}
TOLERANCE_MM = 0.01  # how far a voxel of a map may be from its twin in the volume: headers are rounded to float32


def standard_name(name: str) -> str:
    """`"Grey matter"` and `"GM"` are one class; a name that is no tissue stays as it is."""
    plain = re.sub(r"[\W_]", "", name.casefold())
    return next((tissue for tissue, words in _SYNONYMS.items() if re.fullmatch(words, plain)), name)


def read_labels(path: Path, grid: Grid, num_classes: int) -> Tensor:
    """Read a label map (whole numbers up to `num_classes`, 0 = background) on a grid with axes in RAS+ order, which may
    be a crop of the map's: uint8 `(I, J, K)`.

    Raises:
        GeometryError: the map lies elsewhere, or has other voxels.
        VolumeError: its values are no labels.
    """
    whole, _ = read_volume(path).canonical()
    (a, b, c), (i, j, k) = np.rint(whole.grid.world_to_index(grid.origin)).astype(int).tolist(), grid.spatial_shape
    try:
        labels = whole.crop(Box((a, b, c), (a + i, b + j, c + k)))
        found = labels.grid.is_close(grid, TOLERANCE_MM)
    except GeometryError:  # it does not reach that far
        found = False
    if not found:
        msg = f"the label map {whole.name} ({whole.grid!r}) is not on the grid of its volume ({grid!r}); resample it "
        msg += "onto that grid with nearest-neighbour interpolation"
        raise GeometryError(msg)
    data, lowest, highest = labels.data, labels.data.min(), labels.data.max()
    if data.shape[0] != 1 or lowest < 0 or highest > num_classes or not np.array_equal(data, np.rint(data)):
        msg = f"{whole.name} holds values from {lowest:g} to {highest:g} in {data.shape[0]} channels; expected whole "
        msg += f"numbers from 0 (background) to {num_classes} in one. Is it an image, or a map of other labels?"
        raise VolumeError(msg)
    return torch.from_numpy(data[0].astype(np.uint8))


def masks_of(labels: Tensor, classes: Sequence[str]) -> dict[str, Tensor]:
    """Label n is the n-th class: `(I, J, K)` whole numbers to bool `(I, J, K)` by name."""
    return {name: labels == number for number, name in enumerate(classes, start=1)}


def dice(found: Tensor, reference: Tensor) -> float:
    """Twice the overlap of two bool masks over the sum of their sizes, 0 to 1; nan where both are empty."""
    sizes = int(found.sum()) + int(reference.sum())
    return 2.0 * int((found & reference).sum()) / sizes if sizes else math.nan
