"""The record beside each result: model, sources, settings, warnings, all that it takes to make it again."""

from __future__ import annotations

import dataclasses
import hashlib
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scorefusion.bundle.folder import Bundle
from scorefusion.fusion.rules import FusionRule
from scorefusion.imaging.volume import Volume
from scorefusion.progress import Reporter
from scorefusion.run.pieces import pieces_of
from scorefusion.run.prepare import Prepared
from scorefusion.run.request import SamplingPlan
from scorefusion.version import __version__


def provenance_of(
    bundle: Bundle,
    volumes: dict[str, Volume],
    request: Prepared,
    plan: SamplingPlan,
    rule: FusionRule,
    seed: int,
    device: torch.device,
    dtype: torch.dtype,
    report: Reporter,
    started: float,
    preset: str,
) -> dict[str, Any]:
    """What was done, JSON-ready, in the manner of BIDS `GeneratedBy`; `started` is of `time.monotonic`."""
    target = request.section["target"]["name"]
    understanding = request.understanding
    record: dict[str, Any] = {
        "Description": f"synthetic {target}, made by ScoreFusion; research use only, not for diagnosis",
        "GeneratedBy": [{"Name": "ScoreFusion", "Version": __version__}],
        "Synthetic": True,
        "Model": {
            "Id": bundle.id,
            "Version": bundle.version,
            "Sha256": bundle.hash,
            "Licence": request.section["licence"],
        },
        "Sources": {name: source_of(volume) for name, volume in volumes.items()},
        "Preset": preset,
        "Sampling": dataclasses.asdict(plan),
        "Rule": type(rule).__name__,
        "Pieces": pieces_of(rule),
        "Seed": seed,
        "Device": str(device),
        "Precision": str(dtype).removeprefix("torch."),
        "Torch": torch.__version__,
        "Platform": platform.platform(),
        "IntensityScale": request.scale.to_dict(),
        "Units": request.section["target"]["units"],
        "Warnings": report.warnings,
        "Seconds": round(time.monotonic() - started, 2),
    }
    if understanding is not None:
        record["Acquisition"] = {
            "Factors": list(understanding.factors),
            "ThickAxis": understanding.thick_axis,
            "SliceThickness": understanding.thickness,
            "Profile": request.section.get("slice_profile", "box"),
        }
        gains = request.slice_gains
        record["SlicesEvened"] = gains is not None and gains.found
        if gains is not None and gains.found:
            in_order = gains.gains[::-1] if request.reorientation.flipped[gains.axis] else gains.gains
            record["SliceGains"] = [round(float(gain), 5) for gain in in_order]
    return record


def source_of(volume: Volume) -> dict[str, Any]:
    """Name, hash and grid of an input."""
    path = Path(volume.source) if volume.source else None
    if volume.digests:  # of what was read; the file may be another by now
        digest, what = volume.digests[0][1], "file"
    else:
        digest, what = hashlib.sha256(np.ascontiguousarray(volume.data).tobytes()).hexdigest(), "voxels"
    return {
        "Name": path.name if path else None,
        "Sha256": digest,
        "Of": what,
        **({"Files": dict(volume.digests)} if len(volume.digests) > 1 else {}),
        "Shape": list(volume.spatial_shape),
        "Spacing": [round(float(s), 6) for s in volume.spacing],
        "Orientation": volume.orientation,
    }
