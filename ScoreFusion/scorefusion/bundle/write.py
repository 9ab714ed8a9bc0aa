"""Write a bundle: half-precision safetensors, hashes and the keys that MONAI's tools expect. Needs torch."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scorefusion.bundle.folder import CARD_PATH, LICENCE_PATH, METADATA_PATH, Bundle
from scorefusion.bundle.metadata import FORMAT_VERSION, validate_metadata
from scorefusion.bundle.staging import move_into_place, staged_folder
from scorefusion.errors import BundleError

if TYPE_CHECKING:
    from torch import Tensor

MONAI_SCHEMA = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
)


def write_bundle(
    folder: str | Path,
    metadata: Mapping[str, Any],
    state_dicts: Mapping[str, Mapping[str, Tensor]],
    card: str,
    licence_text: str,
    *,
    overwrite: bool = False,
) -> Bundle:
    """Write a complete bundle, or nothing.

    Args:
        folder: the new bundle; its name becomes the model's id unless the metadata has one.
        metadata: ``name``, ``version``, ``description``, ``authors`` and the ``scorefusion`` section. Hashes, sizes,
            library versions and MONAI's other keys are filled in where they are missing.
        state_dicts: for each weight file (``models/plane.safetensors``) its tensors. Stored as float16.
        card: the model card, Markdown.
        licence_text: full text.
        overwrite: replace a bundle that is already there.

    Returns:
        The bundle as it now stands on disk.
    """
    folder = Path(folder)
    if folder.exists() and not overwrite:
        msg = f"{str(folder)!r} already exists. Choose another folder, or overwrite it (overwrite=True)."
        raise BundleError(msg)
    contents = {path: _to_bytes(path, tensors) for path, tensors in state_dicts.items()}
    complete = _complete(metadata, contents, default_id=folder.name)
    validate_metadata(complete, folder.name)
    with staged_folder(folder.parent) as staged:
        for path, content in contents.items():
            _write(staged / path, content)
        text = json.dumps(complete, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        _write(staged / METADATA_PATH, text.encode())
        _write(staged / CARD_PATH, card.encode())
        _write(staged / LICENCE_PATH, licence_text.encode())
        move_into_place(staged, folder)
    return Bundle(folder)


def _complete(metadata: Mapping[str, Any], contents: Mapping[str, bytes], default_id: str) -> dict[str, Any]:
    """The metadata with everything that follows from the files and the libraries."""
    import numpy
    import torch

    complete: dict[str, Any] = copy.deepcopy(dict(metadata))
    section = complete.setdefault("scorefusion", {})
    section.setdefault("format_version", FORMAT_VERSION)
    section.setdefault("id", default_id)
    section["files"] = {
        path: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        for path, content in contents.items()
    }
    defaults = {
        "schema": MONAI_SCHEMA,
        "name": section["id"],
        "version": "0.1.0",
        "monai_version": "1.4.0",
        "pytorch_version": torch.__version__.partition("+")[0],
        "numpy_version": numpy.__version__,
        "required_packages_version": {"safetensors": "0.4.0"},
        "task": str(section.get("task", "")).replace("_", " "),
        "authors": "The ScoreFusion contributors",
        "copyright": "Copyright (c) the ScoreFusion contributors",
        "network_data_format": _data_format(section),
    }
    for key, value in defaults.items():
        complete.setdefault(key, value)
    complete.setdefault("changelog", {complete["version"]: "first version"})
    return complete


def _data_format(section: Mapping[str, Any]) -> dict[str, Any]:
    """MONAI's description of what goes in and what comes out."""

    def image(name: str) -> dict[str, Any]:
        return {
            "type": "image",
            "format": "magnitude",
            "modality": "MR",
            "num_channels": 1,
            "spatial_shape": ["*", "*", "*"],
            "dtype": "float32",
            "value_range": [],
            "is_patch_data": False,
            "channel_def": {"0": name},
        }

    names = [str(condition.get("name")) for condition in section.get("conditions", []) if isinstance(condition, dict)]
    target = section.get("target")
    return {
        "inputs": {name: image(name) for name in names},
        "outputs": {"pred": image(str(target.get("name") if isinstance(target, dict) else "image"))},
    }


def _to_bytes(path: str, tensors: Mapping[str, Tensor]) -> bytes:
    import safetensors.torch
    import torch

    stored = {}
    for name, tensor in tensors.items():
        half = tensor.detach().cpu()
        if half.is_floating_point():
            half = half.to(torch.float16)
            if not bool(torch.isfinite(half).all()):
                msg = f"{path}: tensor {name!r} has values beyond half precision. The training went wrong there."
                raise BundleError(msg)
        stored[name] = half.contiguous().clone()  # safetensors refuses shared memory
    return safetensors.torch.save(stored)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
