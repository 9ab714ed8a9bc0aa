"""From a finished training run to the `brain-sr` bundle: networks, schedule, presets, domain and card in one folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scorefusion.bundle import Bundle, write_bundle
from scorefusion.fusion import ScoreFusion
from scorefusion.model import fusion_state
from scorefusion.planes import Plane
from scorefusion.schedule import NoiseSchedule

PRESETS = {
    "fast": {
        "steps": 1,
        "solver": "ddim",
        "samples": 1,
        "note": "One evaluation: each voxel's expected value (posterior mean). Highest PSNR, smoothest texture.",
    },
    "balanced": {
        "steps": 4,
        "solver": "ddim",
        "samples": 1,
        "note": "Four evaluations: crisper texture, drawn from what the model believes; PSNR a little below fast.",
    },
    "best": {
        "steps": 4,
        "solver": "ddim",
        "eta": 1.0,
        "samples": 8,
        "note": "Mean of eight samples of four evaluations, with their spread as uncertainty. Slow; PSNR near fast.",
    },
}
UNCERTAINTY = {"steps": 4, "samples": 4, "solver": "ddim", "eta": 1.0}

DOMAIN = {
    "modality": "MR",
    "anatomy": "human brain, with or without skull",
    "spacing_mm": [0.85, 1.3],
    "factor": [1.25, 8.0],
    "extent_mm": [90.0, 300.0],
    "not_for": "children under 3 years, other body parts, CT; diagnosis",
}
REFERENCE = "Zhu et al., Score-Fusion, ICML 2025, arXiv 2501.07430"


def export_bundle(
    rule: ScoreFusion,
    schedule: NoiseSchedule,
    base_rounds: int,
    folder: Path,
    *,
    version: str,
    training: dict[str, Any],
    quality: dict[str, Any],
    card: str,
    licence_text: str,
) -> Bundle:
    """Write the bundle of a shared-plane super-resolution model with one condition.

    Args:
        rule: trained fusion over one plane network that serves all planes.
        schedule, base_rounds: as in training.
        training: what it was trained on, for the metadata.
        quality: measured figures with the command that prints them.
    """
    inputs = rule.rule
    network = rule.ensemble.plane_networks[0]
    planes = [plane.value for plane in Plane]
    section: dict[str, Any] = {
        "task": "super_resolution",
        "conditions": [
            {
                "name": "image",
                "contrasts": ["t1", "t1ce", "t2", "flair", "pd"],
                "optional": False,
                "description": "The scan to sharpen: isotropic and coarse, or with thick slices.",
            }
        ],
        "target": {"name": "image", "same_contrast_as": "image", "units": "input units", "range": None},
        "spacing_mm": [1.0, 1.0, 1.0],
        "base": "back_projection",
        "base_rounds": base_rounds,
        "slice_profile": "box",
        "residual_gain": inputs.residual_gain,
        "planes": planes,
        "slab_radius": inputs.slab_radius,
        "inputs": {
            "position": inputs.position,
            "foreground": inputs.foreground,
            "plane_context": inputs.plane_context,
            "acquisition_context": inputs.acquisition_context,
            "presence_context": inputs.presence_context,
        },
        "networks": {
            "planes": [
                {
                    "file": "models/plane.safetensors",
                    "planes": planes,
                    "conditions": ["image"],
                    "config": network.config.to_dict(),
                }
            ],
            "fusion": {"file": "models/fusion.safetensors", "config": rule.network.config.to_dict()},
        },
        "schedule": schedule.to_config(),
        "presets": PRESETS,
        "uncertainty": UNCERTAINTY,
        "domain": DOMAIN,
        "training": training,
        "quality": quality,
        "licence": "Apache-2.0",
        "citation": REFERENCE,
    }
    metadata = {
        "name": "brain-sr",
        "version": version,
        "description": "Sharpens brain MRI (T1w, T2w, FLAIR): isotropic factors 2-4 and thick slices 2-8 mm to 1 mm.",
        "authors": "The ScoreFusion contributors",
        "copyright": "Copyright (c) the ScoreFusion contributors",
        "references": [REFERENCE],
        "intended_use": "Research only. The result is synthetic and not for diagnosis.",
        "scorefusion": section,
    }
    states = {"models/plane.safetensors": network.state_dict(), "models/fusion.safetensors": fusion_state(rule)}
    return write_bundle(folder, metadata, states, card, licence_text, overwrite=True)
