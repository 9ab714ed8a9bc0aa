"""The head of the tutorial, which travels with the extension, in Slicer's module Sample Data."""

from __future__ import annotations

from pathlib import Path

from ScoreFusionLib.logic.engine import MODULE_FOLDER

FILE_NAME = "ColinHead_T1_4mm.nii.gz"
SAMPLE_NAME = "ThickSliceHead"
CHECKSUM = "SHA256:09e49f9053b6bcab5d565e5898ab11de4fd995c00747503ef1bbdeef37bde6f8"


def sample_path() -> Path | None:
    """Return the file: beside the module in Slicer, or in the checkout above it; None if it is not there."""
    folders = (MODULE_FOLDER, MODULE_FOLDER.parent)
    return next((p for folder in folders if (p := folder / "Resources" / "SampleData" / FILE_NAME).is_file()), None)


def register() -> None:
    """Offer the sample. It is copied to Slicer's cache like a download, but needs no network."""
    import SampleData

    path = sample_path()
    if path is None:
        return
    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category="ScoreFusion",
        sampleName=SAMPLE_NAME,
        thumbnailFileName=str(MODULE_FOLDER / "Resources" / "Icons" / "ThickSliceHead.png"),
        uris=path.as_uri(),
        fileNames=FILE_NAME,
        checksums=CHECKSUM,
        nodeNames="ThickSliceHead T1",
    )
