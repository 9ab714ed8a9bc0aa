"""What we read from an input before a run: its grid, its thick axis, its contrast, and what speaks against it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ScoreFusionLib.i18n import tr as _
from ScoreFusionLib.logic.dicom import SLICE_AXIS, Series, read_series

_BELIEVED = (0.1, 3.0)  # slice thickness of a header, as a share of the distance between the slices
COARSE_RATIO = 1.25  # an axis is worth refining if its spacing is this much above the target's
CONTRASTS = ("t1", "t1ce", "t2", "flair", "pd")
_CONTRAST_WORDS = (
    ("flair", r"flair|dark.?fluid"),
    ("t1ce", r"(t1|mprage).*\b(ce|gd|km|post|contrast)\b|\bt1 ?-?ce?\b|\bgad"),
    ("pd", r"\bpd\b|pdw|proton"),
    ("t2", r"t2"),
    ("t1", r"t1|mprage|mp2rage|spgr|bravo|mrhead|fspgr|tfe"),
)
_AXIS_NAMES = ("left-right", "back-front", "bottom-top")


@dataclass(frozen=True)
class Understanding:
    """What was understood of one input.

    Attributes:
        spatial_shape: (I, J, K).
        spacing: mm along i, j, k.
        axis_names: For each voxel axis the body axis closest to it, e.g. `bottom-top`.
        thick_axis: Voxel axis with the coarsest sampling, None if no axis is coarse.
        factor: Along the thick axis, input spacing by target spacing; 1.0 without one.
        contrast: `t1`, `t2`, ... or None if neither name nor header tells.
        series: What DICOM says.
    """

    spatial_shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    axis_names: tuple[str, str, str]
    thick_axis: int | None
    factor: float
    contrast: str | None
    series: Series = field(default_factory=Series)

    @property
    def header_thickness(self) -> float | None:
        """Slice thickness in mm along the thick axis as DICOM tells it; None if it does not, or beyond belief."""
        thickness = self.series.thickness
        if thickness is None or self.thick_axis != SLICE_AXIS:
            return None
        low, high = (share * self.spacing[SLICE_AXIS] for share in _BELIEVED)
        return thickness if low <= thickness <= high else None

    def describe_series(self) -> str:
        """Return e.g. `slices 3 mm thick, 4 mm apart; 1.5 T`; empty if DICOM tells nothing of these."""
        parts = []
        if self.header_thickness is not None:
            parts.append(
                _("slices {thickness:g} mm thick, {distance:.3g} mm apart").format(
                    thickness=self.header_thickness, distance=self.spacing[SLICE_AXIS]
                )
            )
        if self.series.field is not None:
            parts.append(_("{field:g} T").format(field=self.series.field))
        return "; ".join(parts)

    def describe_grid(self) -> str:
        """Return e.g. `256 x 256 x 30 voxels of 1.00 x 1.00 x 5.00 mm`."""
        return _("{shape} voxels of {spacing} mm").format(
            shape=" x ".join(map(str, self.spatial_shape)),
            spacing=" x ".join(f"{value:.2f}" for value in self.spacing),
        )

    def describe_thick_axis(self) -> str:
        """Return e.g. `bottom-top, 5.0 times coarser`, or that there is none."""
        if self.thick_axis is None:
            return _("none: already as fine as the model's result")
        return _("{axis}, {factor:.1f} times coarser").format(axis=self.axis_names[self.thick_axis], factor=self.factor)


def understand(
    affine: NDArray[np.float64],
    spatial_shape: tuple[int, int, int],
    *,
    target_spacing: tuple[float, float, float] | None = None,
    description: str = "",
) -> Understanding:
    """Read an input.

    Args:
        affine: float64 (4, 4), voxel index to RAS mm.
        spatial_shape: (I, J, K).
        target_spacing: Voxel size of the model's result in mm; None takes the input's own finest.
        description: Any text that may tell the contrast: node name, series description.
    """
    axes = affine[:3, :3]
    spacing = np.linalg.norm(axes, axis=0)
    target = np.array(target_spacing if target_spacing is not None else [spacing.min()] * 3)
    ratio = spacing / target
    thick = int(np.argmax(ratio))
    is_coarse = ratio[thick] > COARSE_RATIO
    return Understanding(
        spatial_shape=spatial_shape,
        spacing=(float(spacing[0]), float(spacing[1]), float(spacing[2])),
        axis_names=_body_axes(axes / spacing),
        thick_axis=thick if is_coarse else None,
        factor=float(ratio[thick]) if is_coarse else 1.0,
        contrast=guess_contrast(description),
    )


def guess_contrast(description: str) -> str | None:
    """Return the contrast that a text names, None if it names none.

    >>> guess_contrast("s03_T2_FLAIR_sag"), guess_contrast("MPRAGE post"), guess_contrast("Volume")
    ('flair', 't1ce', None)
    """
    text = re.sub(r"[_.]", " ", description.lower())
    return next((contrast for contrast, words in _CONTRAST_WORDS if re.search(words, text)), None)


def understand_node(node: Any, affine: NDArray[np.float64], target_spacing: tuple[float, ...] | None) -> Understanding:
    """Read a volume node that holds voxels; `affine` is that of the run's frame."""
    size = node.GetImageData().GetDimensions()
    target = None if target_spacing is None else (target_spacing[0], target_spacing[1], target_spacing[2])
    found = understand(affine, tuple(size), target_spacing=target, description=describing_text(node))
    return replace(found, series=read_series(node))


def describing_text(node: Any) -> str:
    """Return all words that may tell the contrast: the volume's name and, from DICOM, series, protocol, modality."""
    series = read_series(node)
    return " ".join([node.GetName() or "", series.description, series.protocol, series.modality])


def _body_axes(directions: NDArray[np.float64]) -> tuple[str, str, str]:
    """Name each voxel axis after the body axis closest to it, each used once, the clearest first."""
    closeness = np.abs(directions).copy()
    names = ["", "", ""]
    for _step in range(3):
        world, voxel = np.unravel_index(np.argmax(closeness), closeness.shape)
        names[int(voxel)] = _AXIS_NAMES[int(world)]
        closeness[world, :] = -1.0
        closeness[:, voxel] = -1.0
    return names[0], names[1], names[2]
