"""What the tests of the module in the host share: where things lie, and small volumes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "ScoreFusion" / "ScoreFusion.py"
FAKE_WORKER = Path(__file__).with_name("fake_worker.py")
SCREENSHOTS = ROOT / "Resources" / "Screenshots"


def add_volume(name: str, voxels_kji: np.ndarray, affine: np.ndarray | None = None) -> Any:
    """Add a scalar volume with a display to the scene."""
    import slicer
    import slicer.util

    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    slicer.util.updateVolumeFromArray(node, voxels_kji)
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(np.eye(4) if affine is None else affine))
    node.CreateDefaultDisplayNodes()
    return node


def thick_head(name: str = "MRHead T1", slices: int = 8) -> Any:
    """A small volume of noise with slices four times as thick as wide."""
    rng = np.random.default_rng(0)
    return add_volume(name, rng.integers(0, 900, (slices, 30, 24)).astype(np.int16), np.diag([1.0, 1.0, 4.0, 1.0]))
