"""Fixtures that several suites share. They read as nouns; each test file keeps its own helpers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from scorefusion.bundle.folder import Bundle
    from scorefusion.fusion.rules import FusionRule
    from scorefusion.imaging.volume import Volume

# Test volumes are tiny: a second thread only waits, on a busy machine for minutes. torch reads this when imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

REPOSITORY = Path(__file__).resolve().parents[1]

try:
    from hypothesis import settings

    settings.register_profile("scorefusion", deadline=None, max_examples=30, derandomize=bool(os.environ.get("CI")))
    settings.load_profile("scorefusion")
except ImportError:  # a run without the test extras, such as in Slicer's own Python
    pass


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Real volumes, which are never part of the repository. Tests that need them are skipped where they are absent."""
    folder = Path(os.environ.get("SCOREFUSION_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "manifest.json").is_file():
        pytest.skip(f"real volumes not found in {folder}; set SCOREFUSION_TEST_DATA")
    return folder


@pytest.fixture
def make_volume() -> Callable[..., Volume]:
    """Builds a lopsided volume: three different sizes and spacings, an oblique affine, no symmetry to hide behind."""

    def build(
        shape: tuple[int, int, int] = (12, 16, 20),
        spacing: tuple[float, float, float] = (1.0, 1.1, 2.5),
        seed: int = 0,
        **facts: Any,
    ) -> Volume:
        from scorefusion.imaging.volume import Volume

        rng = np.random.default_rng(seed)
        i, j, k = np.meshgrid(*(np.linspace(-1, 1, size) for size in shape), indexing="ij")
        ball = np.exp(-3 * ((i - 0.1) ** 2 + (j + 0.2) ** 2 + k**2))
        data = (400 * ball + 5 * rng.standard_normal(shape)).astype(np.float32)[None]
        a, b = np.deg2rad(12), np.deg2rad(-7)
        turn_k = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
        turn_i = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
        affine = np.eye(4)
        affine[:3, :3] = turn_k @ turn_i @ np.diag(spacing)
        affine[:3, 3] = (-31.0, 12.5, 7.25)
        return Volume(data, affine, **facts)

    return build


@pytest.fixture
def models_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home for imported models; the user's own is never touched."""
    home = tmp_path / "scorefusion-home"
    monkeypatch.setenv("SCOREFUSION_HOME", str(home))
    return home


@pytest.fixture
def bundle_metadata() -> dict[str, Any]:
    """Complete metadata of a tiny model that runs, apart from what `write_bundle` fills in."""
    return _tiny_restorer()[1]


@pytest.fixture
def tiny_bundle(tmp_path: Path) -> Bundle:
    """A bundle on disk, outside the model folders: right in form, random in content."""
    pytest.importorskip("torch")
    from tiny_models import tiny_states

    from scorefusion.bundle.write import write_bundle

    rule, metadata = _tiny_restorer()
    card = "# Tiny model\n\nFor tests.\n"
    return write_bundle(tmp_path / "made" / "tiny-sr", metadata, tiny_states(rule), card, "Apache-2.0\n")


def _tiny_restorer() -> tuple[FusionRule, dict[str, Any]]:
    """One plane network for three planes and a fusion network; few levels, so that tests can name one beyond them."""
    from tiny_models import PRESETS, tiny_ensemble, tiny_fusion, tiny_metadata

    from scorefusion.fusion.inputs import InputLayout

    inputs = InputLayout(slab_radius=1, plane_context=True, residual_gain=8.0, prediction="clean")
    rule = tiny_fusion(tiny_ensemble(inputs, std=0.08), std=0.08)
    presets = {
        "fast": {**PRESETS["fast"], "start": 99, "samples": 1},
        "balanced": {"steps": 4, "solver": "ddim", "start": 99, "samples": 1, "note": "four steps"},
    }
    schedule = {"kind": "cosine", "num_train_timesteps": 100, "prediction": "clean"}
    domain = {"anatomy": "human brain", "modality": "MR", "spacing_mm": [0.7, 1.3], "factor": [1.25, 8]}
    return rule, tiny_metadata(rule, base="cubic", schedule=schedule, presets=presets, domain=domain)
