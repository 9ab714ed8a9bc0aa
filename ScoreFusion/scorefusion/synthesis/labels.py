"""Label maps of several schools, brought to one small set of tissues.

Known schemes:

* "freesurfer": aseg and aparc+aseg numbers (cortical parcels 1000-2999 are cortex), and the extra-cerebral 5xx that
  SynthSeg's training maps add. What 5xx means was read off the maps themselves: 506 are two balls at the front (eyes),
  511 the outer shell (skin), 515 a closed shell round the brain (cortical bone) with 516 inside it (marrow), 512 a rod
  below the brain stem (spinal cord), 502 and 509 the airways and what lines them, 507 all that is left (muscle, fat).
* "three": 1 CSF, 2 grey matter, 3 white matter, as FSL FAST and the MASS atlases have it.
* "tissue": the numbers of `Tissue` themselves, as `scorefusion synthesise` writes them.

Maps that know no fluid outside the ventricles get some in the sulci, where a scan has it, too.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Literal

import numpy as np

from scorefusion.errors import RequestError, VolumeError
from scorefusion.imaging.foreground import foreground_box
from scorefusion.imaging.grid import Grid

if TYPE_CHECKING:
    from numpy.typing import NDArray

Scheme = Literal["auto", "freesurfer", "three", "tissue"]

FOLDS = ((4.0, 0.33), (9.0, 0.55))
"""Background lies in a fold of the brain where the brain, blurred by so many mm, is above this share."""

SKIN_MM = 2.0
"""What the maps call skin is the whole scalp; below this depth it is fat."""


class Tissue(IntEnum):
    """What a voxel can be. The brain comes first: `1 .. LESION`."""

    BACKGROUND = 0
    WHITE_MATTER = 1
    CORTEX = 2
    CAUDATE = 3
    PUTAMEN = 4
    PALLIDUM = 5
    THALAMUS = 6
    HIPPOCAMPUS = 7  # and amygdala
    VENTRICLES = 8
    CSF = 9  # outside the ventricles
    CHOROID_PLEXUS = 10
    BRAIN_STEM = 11
    CEREBELLAR_WHITE = 12
    CEREBELLAR_CORTEX = 13
    LESION = 14
    VESSEL = 15
    NERVE = 16  # spinal cord, optic nerve
    BONE = 17
    MARROW = 18
    SKIN = 19
    FAT = 20
    SOFT_TISSUE = 21  # muscle and fat, mixed at random
    MUSCLE = 22
    EYE = 23
    MUCOSA = 24


TISSUE_NAMES = tuple(tissue.name.lower() for tissue in Tissue)
LAST_OF_BRAIN = int(Tissue.LESION)
FLUIDS = (int(Tissue.VENTRICLES), int(Tissue.CSF))

T = Tissue
FREESURFER: dict[int, Tissue] = {
    **dict.fromkeys((2, 41, 77, 78, 79, 85, 251, 252, 253, 254, 255, 5001, 5002), T.WHITE_MATTER),
    **dict.fromkeys((3, 42, 19, 20, 55, 56, 80, 81, 82), T.CORTEX),
    **dict.fromkeys((4, 5, 14, 15, 43, 44, 72, 213, 221), T.VENTRICLES),
    **dict.fromkeys((24, 122), T.CSF),
    **dict.fromkeys((7, 46), T.CEREBELLAR_WHITE),
    **dict.fromkeys((8, 47, 172), T.CEREBELLAR_CORTEX),
    **dict.fromkeys((9, 10, 48, 49), T.THALAMUS),
    **dict.fromkeys((11, 26, 50, 58), T.CAUDATE),
    **dict.fromkeys((12, 51, 138, 139), T.PUTAMEN),
    **dict.fromkeys((13, 52), T.PALLIDUM),
    **dict.fromkeys((16, 28, 60, 170, 173, 174, 175), T.BRAIN_STEM),
    **dict.fromkeys((17, 18, 53, 54), T.HIPPOCAMPUS),
    # 136, 137, 163, 164 lie inside the lateral ventricles and their lower horns.
    **dict.fromkeys((31, 63, 136, 137, 163, 164), T.CHOROID_PLEXUS),
    **dict.fromkeys((25, 57, 99), T.LESION),
    **dict.fromkeys((29, 30, 61, 62, 514), T.VESSEL),
    **dict.fromkeys((512, 530), T.NERVE),
    **dict.fromkeys((165, 515), T.BONE),
    **dict.fromkeys((502, 0), T.BACKGROUND),
    85: T.NERVE,
    258: T.SOFT_TISSUE,
    506: T.EYE,
    507: T.SOFT_TISSUE,
    508: T.MUSCLE,
    509: T.MUCOSA,
    511: T.SKIN,
    516: T.MARROW,
}
THREE: dict[int, Tissue] = {0: T.BACKGROUND, 1: T.CSF, 2: T.CORTEX, 3: T.WHITE_MATTER}


@dataclass(frozen=True, eq=False)
class LabelMap:
    """Tissues of one head in RAS+ axes, cropped to what is not background.

    Attributes:
        classes: uint8 `(I, J, K)`, values of `Tissue`.
        affine: float64 `(4, 4)`, voxel index to RAS millimetres.
        names: name of each value, `names[classes[i, j, k]]`.
        source: file it came from, for messages and records.
    """

    classes: NDArray[np.uint8]
    affine: NDArray[np.float64]
    names: tuple[str, ...] = TISSUE_NAMES
    source: str = ""

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance between voxel centres along each axis, mm."""
        return Grid((1, 1, 1), self.affine).spacing

    @property
    def has_head(self) -> bool:
        """Whether there is skin and bone around the brain."""
        return bool((self.classes == Tissue.SKIN).any() or (self.classes == Tissue.BONE).any())

    def counts(self) -> NDArray[np.int64]:
        """Voxels of each tissue, `(len(Tissue),)`."""
        return np.bincount(self.classes.ravel(), minlength=len(Tissue))


def load_label_map(path: str | os.PathLike[str], scheme: Scheme = "auto") -> LabelMap:
    """Read a label map and translate it to tissues.

    Args:
        path: NIfTI, NRRD or MetaImage file of whole numbers.
        scheme: vocabulary of its numbers; "auto" takes "three" if there is nothing above 3, else "freesurfer".

    Raises:
        VolumeError: the file holds no label map, or numbers that the scheme does not know.
    """
    from scorefusion.imaging.files import read_volume

    volume = read_volume(path).canonical()[0]
    values = volume.data[0]
    codes = values.astype(np.int32)
    if not np.array_equal(codes, values) or codes.min() < 0:
        msg = (
            f"'{path}' holds fractions or negative numbers, but a label map has whole numbers from 0. Give the map "
            "that a segmentation tool wrote, not the scan."
        )
        raise VolumeError(msg)
    box = foreground_box(codes > 0, margin=2)
    i, j, k = box.slices
    grid = volume.grid.crop(box)
    classes = translate_codes(codes[i, j, k], scheme, str(path))
    if not np.isin(classes, FLUIDS[1]).sum() > 0.02 * (classes > 0).sum():
        classes = add_sulcal_fluid(classes, grid.spacing)
    if (classes == T.SKIN).any():
        classes = split_scalp(classes, grid.spacing)
    return LabelMap(np.ascontiguousarray(classes), grid.affine, source=str(path))


def translate_codes(codes: NDArray[np.int32], scheme: Scheme = "auto", name: str = "the map") -> NDArray[np.uint8]:
    """Numbers of a scheme to `Tissue`, any shape.

    Raises:
        RequestError: no such scheme.
        VolumeError: numbers that the scheme does not know; the message names them.
    """
    vocabularies = {"freesurfer": FREESURFER, "three": THREE, "tissue": {int(tissue): tissue for tissue in T}}
    if scheme != "auto" and scheme not in vocabularies:
        msg = f"The label scheme is {scheme!r}; choose 'auto', {', '.join(map(repr, vocabularies))}."
        raise RequestError(msg)
    if scheme == "auto":
        scheme = "three" if codes.max() <= 3 else "freesurfer"
    table = np.full(max(int(codes.max()), 3000) + 1, 255, dtype=np.uint8)
    for code, tissue in vocabularies[scheme].items():
        if code < len(table):
            table[code] = tissue
    if scheme == "freesurfer":
        table[1000:3000] = np.where(table[1000:3000] == 255, T.CORTEX, table[1000:3000])
    classes = table[codes]
    if (classes == 255).any():
        strangers = np.unique(codes[classes == 255])
        few = ", ".join(str(code) for code in strangers[:8])
        msg = (
            f"'{name}' has labels that the scheme '{scheme}' does not know: {few}"
            f"{' and more' if len(strangers) > 8 else ''}. Known are FreeSurfer's numbers, or 1 CSF, 2 grey, 3 white."
        )
        raise VolumeError(msg)
    return classes


def add_sulcal_fluid(classes: NDArray[np.uint8], spacing: tuple[float, float, float]) -> NDArray[np.uint8]:
    """Fluid where the background is folded into the brain or lies close upon it."""
    near = np.zeros(classes.shape, dtype=bool)
    for radius, share in FOLDS:
        near |= _blurred(classes > 0, radius, spacing) > share
    return np.where((classes == T.BACKGROUND) & near, np.uint8(T.CSF), classes)


def split_scalp(classes: NDArray[np.uint8], spacing: tuple[float, float, float]) -> NDArray[np.uint8]:
    """The scalp's outermost millimetres stay skin, the rest becomes fat."""
    # Behind a flat wall, a Gaussian as wide as the depth has fallen to 16 %.
    deep = _blurred(classes != T.BACKGROUND, SKIN_MM, spacing) > 1.0 - 0.16
    return np.where((classes == T.SKIN) & deep, np.uint8(T.FAT), classes)


def _blurred(mask: NDArray[np.bool_], radius_mm: float, spacing: tuple[float, float, float]) -> NDArray[np.float32]:
    """A mask blurred by a Gaussian; nothing lies beyond the map."""
    import torch

    from scorefusion.synthesis.fields import apply_along, gaussian_blur_matrix

    sizes = zip(mask.shape, spacing, strict=True)
    matrices = [gaussian_blur_matrix(size, radius_mm / step, zero_outside=True) for size, step in sizes]
    return apply_along(matrices, torch.from_numpy(mask.astype(np.float32))).numpy()
