"""Bundles with metadata that the engine accepts and weights that nobody reads. Shared with the tests inside Slicer."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


def write_model(folder: Path, section: dict[str, Any]) -> Path:
    """Write a bundle with metadata that the engine accepts and weights that nobody reads."""
    weights = b"not weights"
    (folder / "models").mkdir(parents=True)
    (folder / "configs").mkdir()
    (folder / "docs").mkdir()
    (folder / "models" / "plane.safetensors").write_bytes(weights)
    files = {"models/plane.safetensors": {"sha256": hashlib.sha256(weights).hexdigest(), "bytes": len(weights)}}
    metadata = {
        "version": "1.0.0",
        "name": section["title"],
        "description": section["about"],
        "scorefusion": {**COMMON, **section, "id": folder.name, "files": files},
    }
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    (folder / "docs" / "README.md").write_text(f"# {section['title']}\n\nA model card.\n")
    return folder


# Nobody builds it; the metadata is checked all the same.
NETWORK = {"spatial_dims": 2, "in_channels": 16, "out_channels": 1, "channels": [8, 8]}
COMMON = {
    "format_version": 1,
    "base": "linear",
    "planes": ["sagittal", "coronal", "axial"],
    "slab_radius": 2,
    "residual_gain": 1.0,
    "inputs": {},
    "spacing_mm": [1.0, 1.0, 1.0],
    "networks": {
        "planes": [
            {
                "file": "models/plane.safetensors",
                "planes": ["sagittal", "coronal", "axial"],
                "conditions": ["image"],
                "config": NETWORK,
            }
        ],
        "fusion": None,
    },
    "schedule": {"kind": "cosine", "num_train_timesteps": 1000, "prediction": "clean"},
    "presets": {
        "fast": {"steps": 1, "solver": "ddim", "start": 999, "samples": 1, "note": "One step: seconds on a GPU."},
        "balanced": {"steps": 4, "solver": "ddim", "start": 999, "samples": 2, "note": "Four steps."},
    },
    "licence": "Apache-2.0",
    "citation": "Zhu et al., ICML 2025",
}
SHARPENING = {
    "title": "Brain MRI super-resolution",
    "about": "Makes 1 mm volumes from thick slices.",
    "task": "super_resolution",
    "conditions": [{"name": "image", "contrasts": ["t1", "t2", "flair"], "optional": False}],
    "target": {"name": "image", "same_contrast_as": "image", "units": "input units"},
    "domain": {"anatomy": "human brain", "modality": "MR", "spacing_mm": [0.7, 1.3], "factor": [1.25, 8]},
}
EXAM = {
    **SHARPENING,
    "title": "Brain exam",
    "about": "Makes 1 mm volumes from thick slices, guided by other scans.",
    "conditions": [
        {"name": "image", "contrasts": ["t1", "t1ce", "t2", "flair", "pd"], "optional": False},
        *({"name": name, "contrasts": [name], "optional": True} for name in ("t1", "t1ce", "t2", "flair", "pd")),
    ],
    "inputs": {"presence_context": 6},
    "networks": {
        "planes": [
            {
                "file": "models/plane.safetensors",
                "planes": ["sagittal", "coronal", "axial"],
                "conditions": ["image", "t1", "t1ce", "t2", "flair", "pd"],
                "config": NETWORK,
            }
        ],
        "fusion": None,
    },
}
TRANSLATION = {
    "title": "T1 and T2 to FLAIR",
    "about": "Makes a FLAIR from a T1 and, if there is one, a T2.",
    "task": "translation",
    "conditions": [
        {"name": "t1", "contrasts": ["t1"], "optional": False},
        {"name": "t2", "contrasts": ["t2"], "optional": True},
    ],
    "target": {"name": "flair", "same_contrast_as": None, "units": "arbitrary", "range": [0, 1000]},
    "inputs": {"presence_context": 2},  # one network that is told which of the two is there
    "networks": {
        "planes": [
            {
                "file": "models/plane.safetensors",
                "planes": ["sagittal", "coronal", "axial"],
                "conditions": ["t1", "t2"],
                "config": NETWORK,
            }
        ],
        "fusion": None,
    },
    "domain": {"anatomy": "human brain", "modality": "MR", "skull_stripped": True},
}
