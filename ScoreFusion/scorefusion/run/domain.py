"""What a model was made for, and what is understood of an input: plain numbers, no torch, so that a panel can ask
too."""

from __future__ import annotations

from typing import Any

import numpy as np

from scorefusion.imaging.foreground import foreground_mask
from scorefusion.imaging.volume import Volume
from scorefusion.run.request import SAME, Understanding, axis_names
from scorefusion.wording import mm

BRAIN_LITRES = 2.5  # of tissue; the largest of 46 stripped brains here has 2.2, the smallest of 5 whole heads 2.9


def check_domain(
    section: dict[str, Any],
    volume: Volume,
    condition: dict[str, Any],
    understanding: Understanding | None = None,
) -> list[tuple[str, str]]:
    """Reasons to trust the result less, as (code, message): the input lies outside what the model was trained and
    tested on.

    Args:
        section: of the bundle's metadata.
        volume: one input, in scanner units.
        condition: the entry of `section["conditions"]` that it is for.
        understanding: of the request, for super-resolution.
    """
    domain = section.get("domain", {})
    found: list[tuple[str, str]] = []
    if volume.contrast is not None and condition["contrasts"] and volume.contrast not in condition["contrasts"]:
        known = ", ".join(condition["contrasts"])
        found.append(
            ("contrast", f"{volume.name} is {volume.contrast}; condition '{condition['name']}' was trained on {known}.")
        )
    if domain.get("modality", "MR") == "MR" and _looks_like_ct(volume.data):
        message = f"{volume.name} looks like CT (Hounsfield units); this model was trained on MRI only."
        found.append(("modality", message))
    low, high = domain.get("extent_mm", (90.0, 350.0))
    extent = volume.grid.extent_mm
    if min(extent) < low or max(extent) > high:
        found.append(
            (
                "extent",
                f"{volume.name} covers {mm(extent)} mm; the model expects {domain.get('anatomy', 'a head')} "
                f"and volumes of {low:g} to {high:g} mm.",
            )  # fmt: skip
        )
    if domain.get("skull_stripped"):
        litres = litres_of_tissue(volume.data[0], volume.spacing)
        if litres > BRAIN_LITRES:
            found.append(
                (
                    "skull",
                    f"{volume.name} holds {litres:.1f} litres of tissue: a whole head. This model was trained on "
                    "brains without skull. Strip the skull first (in Slicer: the extensions HDBrainExtraction or "
                    "SwissSkullStripper), or do not believe the result.",
                )  # fmt: skip
            )
    if understanding is not None:
        found.extend(_check_request(domain, volume, understanding))
    return found


def litres_of_tissue(data: np.ndarray, spacing: tuple[float, float, float]) -> float:
    """Litres that lie above the background of a volume, by every second voxel along each axis: enough to tell a head
    from a brain.

    Args:
        data: `(I, J, K)`, any intensities.
        spacing: mm along i, j, k.
    """
    some = np.ascontiguousarray(data[::2, ::2, ::2], dtype=np.float32)
    return float(foreground_mask(some).mean() * data.size * np.prod(spacing) / 1e6)


def _check_request(domain: dict[str, Any], volume: Volume, understanding: Understanding) -> list[tuple[str, str]]:
    found = []
    low, high = domain.get("spacing_mm", (0.0, np.inf))
    target = understanding.target
    outside = [
        name
        for name, size in zip(axis_names(target), target.spacing, strict=True)
        if not low * (1 - SAME) <= size <= high * (1 + SAME)
    ]
    if outside:
        found.append(
            (
                "spacing",
                f"the result of {volume.name} has voxels of {mm(target.spacing)} mm; the model was trained on "
                f"{low:g} to {high:g} mm along each axis, and {' and '.join(outside)} is outside.",
            )  # fmt: skip
        )
    low, high = domain.get("factor", (1.0, np.inf))
    largest = max(understanding.factors)
    if largest > high * (1 + SAME):
        found.append(
            (
                "factor",
                f"{volume.name} needs a factor of {largest:.3g}; the model was trained up to {high:g}. "
                "Fine detail will be guessed.",
            )  # fmt: skip
        )
    return found


def _looks_like_ct(data: np.ndarray) -> bool:
    """Air near -1000 fills much of a CT; MRI magnitudes are not negative."""
    return bool(data.min() < -500 and (data < -300).mean() > 0.05)
