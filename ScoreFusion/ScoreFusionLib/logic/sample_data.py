"""The volumes that travel with the extension, for Slicer's module Sample Data; what they are: Resources/SampleData."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ScoreFusionLib.logic.engine import MODULE_FOLDER


@dataclass(frozen=True)
class Sample:
    """One entry of the module Sample Data.

    Attributes:
        name: Of the entry and of its thumbnail.
        files: File name to SHA-256.
        nodes: Names of the volume nodes, which tell the contrasts.
    """

    name: str
    files: dict[str, str]
    nodes: tuple[str, ...]


SAMPLES = (
    Sample(
        "ThickSliceHead",
        {"ColinHead_T1_4mm.nii.gz": "09e49f9053b6bcab5d565e5898ab11de4fd995c00747503ef1bbdeef37bde6f8"},
        ("ThickSliceHead T1",),
    ),
    Sample(
        "SkullStrippedPair",
        {
            "MNI152_brain_T1_1.5mm.nii.gz": "2eafe84168be52d07b49a078e3a0cdd3accd2ff9ae954765043e91fad85eb135",
            "MNI152_brain_T2_1.5mm.nii.gz": "ea3c8515b3f7f6d6a79166c348a4ef882a8467d009ad94659274603873d3e30c",
        },
        ("SkullStripped T1", "SkullStripped T2"),
    ),
)


def sample_path(file_name: str) -> Path | None:
    """Return a file: beside the module in Slicer, or in the checkout above it; None if it is not there."""
    folders = (MODULE_FOLDER, MODULE_FOLDER.parent)
    return next((p for folder in folders if (p := folder / "Resources" / "SampleData" / file_name).is_file()), None)


def register() -> None:
    """Offer the samples. They are copied to Slicer's cache like a download, but need no network."""
    import SampleData

    for sample in SAMPLES:
        paths = [path for name in sample.files if (path := sample_path(name)) is not None]
        if len(paths) < len(sample.files):
            continue
        SampleData.SampleDataLogic.registerCustomSampleDataSource(
            category="ScoreFusion",
            sampleName=sample.name,
            thumbnailFileName=str(MODULE_FOLDER / "Resources" / "Icons" / f"{sample.name}.png"),
            uris=[path.as_uri() for path in paths],
            fileNames=list(sample.files),
            checksums=[f"SHA256:{checksum}" for checksum in sample.files.values()],
            nodeNames=list(sample.nodes),
        )
