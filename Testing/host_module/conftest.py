"""The extension's module in the host: a small Slicer with real widgets and a real scene."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "ScoreFusion" / "ScoreFusion.py"
FAKE_WORKER = Path(__file__).with_name("fake_worker.py")
SCREENSHOTS = ROOT / "Resources" / "Screenshots"
DATA = Path(os.environ.get("SCOREFUSION_TEST_DATA") or ROOT.parent / "shared" / "data")

_MISSING = [name for name in ("slicer", "PySide6") if find_spec(name) is None]
if _MISSING:
    collect_ignore_glob = ["test_*.py"]
else:
    sys.path.insert(0, str(ROOT / "Testing" / "host"))
    from slicer_host import Host


@pytest.fixture
def models_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with two models, so that the tests do not depend on what is shipped."""
    home = tmp_path / "home"
    monkeypatch.setenv("SCOREFUSION_HOME", str(home))
    write_model(home / "models" / "test-sr", SHARPENING)
    write_model(home / "models" / "test-flair", TRANSLATION)
    return home / "models"


@pytest.fixture
def host(models_folder: Path) -> Iterator[Any]:
    """An open host; an exception that only a log would show fails the test."""
    with Host() as opened:
        yield opened
        errors = list(opened.errors)
    assert not errors, f"Exceptions in slots, timers or observers: {errors}"


@pytest.fixture
def fake_worker(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let jobs start the fake worker, which then behaves as told: `fake_worker("crash")`."""
    if str(MODULE.parent) not in sys.path:  # the host takes it away when it unloads the module
        sys.path.insert(0, str(MODULE.parent))
    from ScoreFusionLib.logic import engine

    real = engine.engine_command

    def command(arguments: list[str], *, stop_with_slicer: bool = False) -> list[str]:
        if arguments[0] != "translate":
            return real(arguments, stop_with_slicer=stop_with_slicer)
        tail = ["--stop-on-stdin-close"] if stop_with_slicer else []
        return [sys.executable, str(FAKE_WORKER), *arguments, *tail]

    monkeypatch.setattr(engine, "engine_command", command)

    def behave(how: str) -> None:
        os.environ["FAKE_WORKER"] = how  # handed on below
        monkeypatch.setenv("FAKE_WORKER", how)
        environment = engine.worker_environment
        monkeypatch.setattr(engine, "worker_environment", lambda: {**environment(), "FAKE_WORKER": how})

    behave("ok")
    return behave


@pytest.fixture
def widget(host: Any, fake_worker: Any) -> Any:
    """The module's widget, opened, with the fake worker behind it."""
    return host.open(host.load_module(MODULE))


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
                "config": {},
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
TRANSLATION = {
    "title": "T1 and T2 to FLAIR",
    "about": "Makes a FLAIR from a T1 and, if there is one, a T2.",
    "task": "translation",
    "conditions": [
        {"name": "t1", "contrasts": ["t1"], "optional": False},
        {"name": "t2", "contrasts": ["t2"], "optional": True},
    ],
    "target": {"name": "flair", "same_contrast_as": None, "units": "arbitrary", "range": [0, 1000]},
    "networks": {
        "planes": [
            {
                "file": "models/plane.safetensors",
                "planes": ["sagittal", "coronal", "axial"],
                "conditions": ["t1", "t2"],
                "config": {},
            }
        ],
        "fusion": None,
    },
    "domain": {"anatomy": "human brain", "modality": "MR"},
}
