"""What speaks against a run, in sentences. Advice only: the user decides."""

from __future__ import annotations

from typing import Any

import numpy as np

from ScoreFusionLib.i18n import tr as _
from ScoreFusionLib.logic.devices import LOW_MEMORY, Device
from ScoreFusionLib.logic.dicom import SLICE_AXIS
from ScoreFusionLib.logic.models import Condition, ModelInfo
from ScoreFusionLib.logic.node_export import voxels_from_node
from ScoreFusionLib.logic.once import once_per_volume
from ScoreFusionLib.logic.understanding import Understanding, describing_text

_SAMPLES = 20_000  # voxels looked at to tell a CT
_CT_AIR = -300.0  # HU; no MRI goes so far below zero


def advise(
    model: ModelInfo, node: Any, understanding: Understanding, contrast: str | None, device: Device | None
) -> list[tuple[str, str]]:
    """Return the warnings for a run on `node` as (code, text), the most important first.

    Args:
        model: The chosen model.
        node: First input, holding voxels.
        understanding: Of that input.
        contrast: What it shows, as corrected by the user; None = unknown.
        device: Chosen device, None while unknown.
    """
    found = [
        ("modality", _modality(node, model, understanding)),
        ("skull", _skull(node, model)),
        ("contrast", _contrast(model.conditions[0], contrast)),
        ("gain", _gain(model, understanding)),
        ("factor", _factor(model, understanding)),
        ("spacing", _in_plane(model, understanding)),
        ("header", _header(understanding)),
        ("memory", _memory(device)),
    ]
    return [(code, text) for code, text in found if text]


def _modality(node: Any, model: ModelInfo, understanding: Understanding) -> str:
    wanted = str(model.domain.get("modality", "MR"))
    modality = understanding.series.modality
    if modality and wanted == "MR" and modality not in ("MR", "MRI"):
        return _("'{volume}' is of modality {modality}; this model was made for MRI. Do not trust the result.").format(
            volume=node.GetName(), modality=modality
        )
    if not modality and wanted == "MR" and _looks_like_ct(node):
        return _("'{volume}' looks like a CT; this model was made for MRI. Do not trust the result.").format(
            volume=node.GetName()
        )
    return ""


def _skull(node: Any, model: ModelInfo) -> str:
    if not model.domain.get("skull_stripped"):
        return ""
    from scorefusion.run.domain import BRAIN_LITRES

    litres = _litres_of_tissue(node)
    if litres <= BRAIN_LITRES:
        return ""
    return _(
        "'{volume}' is a whole head ({litres:.1f} litres); this model was made for brains without skull. Strip the "
        "skull first, for example with the extension HDBrainExtraction."
    ).format(volume=node.GetName(), litres=litres)


def _contrast(condition: Condition, contrast: str | None) -> str:
    if contrast is None or not condition.contrasts or contrast in condition.contrasts:
        return ""
    return _("The model was trained on {known}; this input seems to be {contrast}.").format(
        known=", ".join(name.upper() for name in condition.contrasts), contrast=contrast.upper()
    )


def _gain(model: ModelInfo, understanding: Understanding) -> str:
    if model.task != "super_resolution" or understanding.thick_axis is not None:
        return ""
    return _("The input is already as fine as the model's result: there is nothing to gain.")


def _factor(model: ModelInfo, understanding: Understanding) -> str:
    limits = _range(model.domain.get("factor"))
    if limits is None or understanding.thick_axis is None or understanding.factor <= limits[1] * 1.01:
        return ""
    return _("The slices are {factor:.1f} times too thick; the model was trained up to {limit:g} times.").format(
        factor=understanding.factor, limit=limits[1]
    )


def _in_plane(model: ModelInfo, understanding: Understanding) -> str:
    limits = _range(model.domain.get("spacing_mm"))
    if limits is None:
        return ""
    fine = min(understanding.spacing)
    if limits[0] * 0.95 <= fine <= limits[1] * 1.05:
        return ""
    return _("The finest voxel side is {fine:.2f} mm; the model was trained on {low:g} to {high:g} mm.").format(
        fine=fine, low=limits[0], high=limits[1]
    )


def _header(understanding: Understanding) -> str:
    series, spacing = understanding.series, understanding.spacing[SLICE_AXIS]
    if series.distance is not None and abs(series.distance - spacing) > 0.02 * spacing:
        return _(
            "The DICOM header says {header:.3g} mm between slices, the volume has {volume:.3g} mm. Check that no slice "
            "is missing."
        ).format(header=series.distance, volume=spacing)
    if series.thickness is not None and understanding.thick_axis == SLICE_AXIS and not understanding.header_thickness:
        return _(
            "The DICOM header says that slices {spacing:.3g} mm apart are {thickness:g} mm thick. That is not used; "
            "give the slice thickness yourself if you know it."
        ).format(spacing=spacing, thickness=series.thickness)
    return ""


def _memory(device: Device | None) -> str:
    if device is None or not device.free or device.free >= LOW_MEMORY:
        return ""
    return _(
        "Only {free:.1f} GB of memory are free: the volume will be processed in tiles, which takes longer."
    ).format(free=device.free / (1 << 30))


def _looks_like_ct(node: Any) -> bool:
    if " ct" in f" {describing_text(node).lower()}":
        return True
    return _darkest(node) < _CT_AIR


# The next two look at all voxels, which takes tenths of a second in a large head.


@once_per_volume
def _litres_of_tissue(node: Any) -> float:
    from scorefusion.run.domain import litres_of_tissue

    return litres_of_tissue(voxels_from_node(node).T, node.GetSpacing())


@once_per_volume
def _darkest(node: Any) -> float:
    """Return the 5th percentile of an even sample of the voxels."""
    voxels = voxels_from_node(node).reshape(-1)
    return float(np.percentile(voxels[:: max(1, voxels.size // _SAMPLES)], 5))


def _range(value: Any) -> tuple[float, float] | None:
    if isinstance(value, (list, tuple)) and len(value) == 2:
        return float(value[0]), float(value[1])
    return None
