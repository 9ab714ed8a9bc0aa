"""The voxels that each shipped model makes of a small head, as they were stored: a change that is meant to change
nothing changes none of them.

    python Testing/engine/test_same_voxels.py    # stores them anew, after a change that is meant to change them
"""

from __future__ import annotations

import hashlib
import json
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from scorefusion.imaging.volume import Volume

STORED = Path(__file__).parent / "stored" / "voxels.json"
RUNS: dict[str, dict[str, Any]] = {
    "brain-sr fast": {"inputs": "t1", "thickness": 4.0, "spacing": 1.0},
    "brain-sr balanced": {"inputs": "t1", "thickness": 4.0, "spacing": 1.0, "preset": "balanced", "samples": 1},
    "brain-sr average": {"inputs": "t1", "thickness": 4.0, "spacing": 1.0, "rule": "average"},
    "brain-t1-to-t2 fast": {"inputs": {"t1": "t1"}},
    "brain-t2-to-t1 fast": {"inputs": {"t2": "t2"}},
    "brain-t1-to-flair fast": {"inputs": {"t1": "t1"}},
    "brain-t1-t2-to-flair fast": {"inputs": {"t1": "t1", "t2": "t2"}},
    "brain-t1-t2-to-flair without t2": {"inputs": {"t1": "t1"}},
}
BLOCK = 8
"""Voxels a side of the blocks whose means are stored beside the hash, for machines that round in another way."""


def head(contrast: str) -> Volume:
    """A small skull-stripped head of smooth tissue with some texture, oblique and lopsided."""
    from scorefusion.imaging.volume import Volume

    shape = (40, 48, 12) if contrast == "thick" else (40, 48, 44)
    i, j, k = np.meshgrid(*(np.linspace(-1, 1, size) for size in shape), indexing="ij")
    radius = np.sqrt(i**2 + (0.9 * j) ** 2 + (1.05 * k) ** 2)
    folds = np.sin(9 * i + 2 * np.cos(5 * j)) * np.sin(8 * j - 3 * k) * np.cos(7 * k + i)
    grey, white = 0.55 + 0.1 * folds, 0.85 + 0.05 * folds
    tissue = np.where(radius + 0.12 * folds < 0.55, white, grey)
    tissue = np.where(radius < 0.18, 0.2, tissue)
    if contrast == "t2":
        tissue = 1.05 - tissue
    data = np.where(radius < 0.88, 900 * tissue + 12 * np.random.default_rng(3).standard_normal(shape), 0.0)
    turn = np.deg2rad(8)
    affine = np.eye(4)
    affine[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    affine[:3, :3] *= (1.0, 1.0, 4.0 if contrast == "thick" else 1.0)
    affine[:3, 3] = (-20.0, 14.0, -9.0)
    return Volume(np.maximum(data, 0).astype(np.float32)[None], affine)


def voxels_of(run: str) -> np.ndarray:
    """`(I, J, K)` what the model makes of the head, on one thread, in float32."""
    from scorefusion.pipeline import translate

    options = dict(RUNS[run])
    inputs = options.pop("inputs")
    if isinstance(inputs, str):
        inputs = head("thick")
    else:
        inputs = {name: head(contrast) for name, contrast in inputs.items()}
    model = run.partition(" ")[0]
    result = translate(inputs, model, device="cpu", precision="float32", seed=7, **options)
    return result.volume.data[0]


def described(voxels: np.ndarray) -> dict[str, Any]:
    """Hash and block means of a volume."""
    sizes = [size // BLOCK * BLOCK for size in voxels.shape]
    cut = voxels[tuple(slice(0, size) for size in sizes)].astype(np.float64)
    i, j, k = (size // BLOCK for size in sizes)
    means = cut.reshape(i, BLOCK, j, BLOCK, k, BLOCK).mean(axis=(1, 3, 5))
    return {
        "shape": list(voxels.shape),
        "sha256": hashlib.sha256(np.ascontiguousarray(voxels).tobytes()).hexdigest(),
        "block_means": [round(float(value), 3) for value in means.ravel()],
    }


def machine() -> dict[str, str]:
    """What the last bits of a convolution depend on."""
    import torch

    return {
        "torch": torch.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "processor": platform.machine(),
        "numpy": np.__version__,
    }


def store() -> None:
    """Write what the present code makes."""
    kept = {"machine": machine(), "runs": {run: described(voxels_of(run)) for run in RUNS}}
    STORED.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


@pytest.mark.parametrize("run", RUNS)
def test_a_model_makes_the_voxels_that_it_always_made(run: str) -> None:
    pytest.importorskip("torch")
    stored = json.loads(STORED.read_text(encoding="utf-8"))
    expected, got = stored["runs"][run], described(voxels_of(run))
    assert got["shape"] == expected["shape"]
    span = max(expected["block_means"]) - min(expected["block_means"])
    np.testing.assert_allclose(got["block_means"], expected["block_means"], atol=1e-4 * span + 1e-3)
    if machine() == stored["machine"]:
        assert got["sha256"] == expected["sha256"]


if __name__ == "__main__":
    store()
