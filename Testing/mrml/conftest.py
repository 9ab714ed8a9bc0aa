"""A real MRML scene, without an application: the slicer-core wheel."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_process_worker import FAKE_WORKER, replace_worker

pytest.importorskip("slicer", reason="slicer-core is not installed: pip install slicer-core")

import slicer
import slicer.util

ROOT = Path(__file__).resolve().parents[2]
LAUNCHER = ROOT / "Testing" / "host" / "slicer_host" / "launcher.py"  # what PythonSlicer is: the worker is its child


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run leaves behind is looked for here, not among the files of other programs."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An empty scene with colours and subject hierarchy; also `slicer.mrmlScene`."""
    monkeypatch.delattr(slicer, "app", raising=False)  # a host of another test may have left one
    application = slicer.vtkSlicerApplicationLogic()
    scene = slicer.vtkMRMLScene()
    before = getattr(slicer, "mrmlScene", None)
    slicer.mrmlScene = scene
    application.SetMRMLScene(scene)
    colors = application.GetColorLogic()
    colors.SetMRMLScene(scene)
    colors.AddDefaultColorNodes()
    application.SetHomeDirectory(str(ROOT))
    modules = [slicer.vtkSlicerColorLogic(), slicer.vtkSlicerSequencesLogic()]  # these register their node classes
    for module in modules:
        module.SetMRMLApplicationLogic(application)
        module.SetMRMLScene(scene)
    slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    yield scene
    scene.Clear(True)
    slicer.mrmlScene = before


@pytest.fixture
def add_volume(scene: Any) -> Callable[..., Any]:
    """Add a scalar volume: `add_volume("name", array_kji, affine)`, with a display and a place in the hierarchy."""

    def add(name: str, voxels_kji: np.ndarray, affine: np.ndarray | None = None) -> Any:
        node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
        slicer.util.updateVolumeFromArray(node, voxels_kji)
        node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(np.eye(4) if affine is None else affine))
        node.CreateDefaultDisplayNodes()
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
        hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)
        return node

    return add


@pytest.fixture
def fake_worker(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let jobs start the fake worker, which then behaves as told."""
    from ScoreFusionLib.logic import engine

    def command(arguments: list[str], *, stop_with_slicer: bool = False) -> list[str]:
        tail = ["--stop-on-stdin-close"] if stop_with_slicer else []
        return [sys.executable, str(LAUNCHER), str(FAKE_WORKER), *arguments, *tail]

    monkeypatch.setattr(engine, "engine_command", command)
    environment = engine.worker_environment

    def behave(how: str) -> None:
        monkeypatch.setattr(engine, "worker_environment", lambda: {**environment(), "FAKE_WORKER": how})

    behave("ok")
    return behave


@pytest.fixture
def model() -> Any:
    """A model with one input and a thinner grid than the tests' volumes."""
    from ScoreFusionLib.logic.models import ModelInfo

    return ModelInfo.from_metadata("test-sr", Path("nowhere"), METADATA, is_shipped=False)


METADATA = {
    "name": "Test super-resolution",
    "version": "1.0.0",
    "description": "For tests.",
    "scorefusion": {
        "task": "super_resolution",
        "conditions": [{"name": "image", "contrasts": ["t1"], "optional": False}],
        "target": {"name": "image", "same_contrast_as": "image", "units": "input units"},
        "spacing_mm": [1.0, 1.0, 1.0],
        "presets": {"fast": {"steps": 1}, "balanced": {"steps": 4}},
        "licence": "Apache-2.0",
    },
}


@pytest.fixture
def in_process_worker(monkeypatch: pytest.MonkeyPatch, fake_worker: Any) -> None:
    """Do the workers' arithmetic in this process: the same files, without the second that a start takes."""
    replace_worker(monkeypatch)
