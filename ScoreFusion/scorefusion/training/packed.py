"""Training data in one file: the scans as `load_volumes` makes them, and the tissue maps of the generator.

For a machine that has a GPU for half an hour but neither the scans nor the packages that read them: it needs numpy and
safetensors only. Intensities are kept in 8 bits, off by at most 0.3 % of the range; volumes may be cut to what fits.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from scorefusion.documents import parse_json
from scorefusion.errors import RequestError
from scorefusion.synthesis.labels import LabelMap
from scorefusion.training.recipe import Recipe
from scorefusion.training.volumes import TrainingVolume

SUFFIX = ".safetensors"
LOWEST, HIGHEST = -1.1, 1.6  # normalised intensities that 8 bits are spread over; what lies beyond is clipped
LEVELS = 255
VERSION = "1"


@dataclass(frozen=True, eq=False)
class PackedData:
    """What a training run reads: volumes of the two splits, tissue maps; and how the volumes are normalised
    (`Recipe.medians`)."""

    train: tuple[TrainingVolume, ...]
    val: tuple[TrainingVolume, ...] = ()
    labels: tuple[LabelMap, ...] = ()
    medians: tuple[float | None, ...] | None = None


def pack(data: PackedData, path: Path, edge: int | None = None) -> int:
    """Write one file and return its size in bytes.

    Args:
        data: what to write.
        path: ending in `SUFFIX`.
        edge: at most so many voxels along each axis are kept, around the middle of the foreground; None = all.
    """
    if path.suffix != SUFFIX:
        msg = f"packed data must be called something{SUFFIX}, got {path.name}"
        raise RequestError(msg)
    tensors: dict[str, np.ndarray] = {}
    facts: list[dict[str, Any]] = []
    for split, volumes in (("train", data.train), ("val", data.val)):
        for volume in volumes:
            key = f"volume{len(tensors)}"
            window = _middle(volume.data[-1] > -0.9, edge)
            tensors[key] = _to_bytes(volume.data[slice(None), window[0], window[1], window[2]])
            facts.append(
                {
                    "key": key,
                    "split": split,
                    "name": volume.name,
                    "subject": volume.subject,
                    "contrasts": volume.contrasts,
                    "sharp_axes": volume.sharp_axes,
                    "weight": volume.weight,
                }
            )
    for number, label_map in enumerate(data.labels):
        key = f"labels{number}"
        window = _middle(label_map.classes > 0, edge)
        tensors[key] = np.ascontiguousarray(label_map.classes[window[0], window[1], window[2]])
        affine = label_map.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ [part.start for part in window]
        facts.append({"key": key, "affine": affine.tolist(), "names": label_map.names, "source": label_map.source})
    partial = path.with_name(path.name + ".partial")
    metadata = {"scorefusion_packed": VERSION, "facts": json.dumps(facts), "medians": json.dumps(data.medians)}
    save_file(tensors, partial, metadata=metadata)
    partial.replace(path)
    return path.stat().st_size


def unpack(path: Path) -> PackedData:
    """Read what `pack` wrote.

    Raises:
        RequestError: it is no such file.
    """
    splits: dict[str, list[TrainingVolume]] = {"train": [], "val": []}
    labels = []
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("scorefusion_packed") != VERSION:
                msg = f"{path} holds no packed data of this version; make it anew: scorefusion train RECIPE --pack"
                raise RequestError(msg)
            medians = parse_json(metadata.get("medians", "null").encode())
            for fact in parse_json(metadata["facts"].encode()):
                tensor = file.get_tensor(fact["key"])
                if "split" in fact:
                    splits[fact["split"]].append(
                        TrainingVolume(
                            fact["name"],
                            fact["subject"],
                            tuple(fact["contrasts"]),
                            _from_bytes(tensor),
                            tuple(fact["sharp_axes"]),
                            fact["weight"],
                        )
                    )
                else:
                    labels.append(LabelMap(tensor, np.array(fact["affine"]), tuple(fact["names"]), fact["source"]))
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        msg = f"{path} cannot be read as packed training data ({error}); make it anew: scorefusion train RECIPE --pack"
        raise RequestError(msg) from error
    levels = None if medians is None else tuple(medians)
    return PackedData(tuple(splits["train"]), tuple(splits["val"]), tuple(labels), levels)


def open_packed(recipe: Recipe, folder: Path | None = None) -> PackedData | None:
    """The recipe's data where one file holds it all, else None; `folder` is what its relative path counts from.

    Raises:
        RequestError: it is no such file, or was packed for other conditions.
    """
    if not recipe.data.datalist.endswith(SUFFIX):
        return None
    packed = unpack((folder or Path()) / recipe.data.datalist)
    channels = 1 + sum(not condition.coarse for condition in recipe.conditions)
    unfit = [volume.name for volume in packed.train if len(volume.contrasts) != channels]
    if unfit:
        msg = f"{recipe.data.datalist} was packed for other conditions than the recipe's ({unfit[0]})"
        raise RequestError(msg)
    if packed.medians not in (None, recipe.medians):
        msg = (
            f"{recipe.data.datalist} was packed with medians at {packed.medians}, the recipe has them at "
            f"{recipe.medians}; make it anew: scorefusion train RECIPE --pack"
        )
        raise RequestError(msg)
    return packed


def without(volumes: Iterable[TrainingVolume], persons: Sequence[str]) -> list[TrainingVolume]:
    """The volumes of everybody else."""
    return [volume for volume in volumes if volume.subject not in persons]


def _to_bytes(data: np.ndarray) -> np.ndarray:
    unit = (data.astype(np.float32) - LOWEST) / (HIGHEST - LOWEST)
    return np.round(unit.clip(0.0, 1.0) * LEVELS).astype(np.uint8)


def _from_bytes(data: np.ndarray) -> np.ndarray:
    values = data.astype(np.float32) * ((HIGHEST - LOWEST) / LEVELS) + LOWEST
    return values.astype(np.float16)


def _middle(foreground: np.ndarray, edge: int | None) -> list[slice]:
    """A window of at most `edge` voxels an axis about the centre of mass."""
    window = []
    for axis, size in enumerate(foreground.shape):
        keep = size if edge is None else min(edge, size)
        others = tuple(a for a in range(foreground.ndim) if a != axis)
        mass = foreground.sum(axis=others).astype(np.float64)
        centre = float((mass * np.arange(size)).sum() / mass.sum()) if mass.sum() else (size - 1) / 2
        first = int(np.clip(round(centre - keep / 2), 0, size - keep))
        window.append(slice(first, first + keep))
    return window
