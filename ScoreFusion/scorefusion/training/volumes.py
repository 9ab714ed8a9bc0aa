"""The scans of a recipe, read once, brought to one form and kept in memory.

Reading, cropping and caching are MONAI's (`CacheDataset`); a volume is read by the same `read_volume` that inference
uses, so that training and use see the same axes and intensities.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import CacheDataset, set_track_meta
from monai.transforms import Compose, CropForegroundd, MapTransform

from scorefusion.datasets.datalist import PROJECT, PROJECT_ALL, Case, Datalist, find_datalist
from scorefusion.datasets.spectrum import read_axes
from scorefusion.errors import RequestError, ScoreFusionError, VolumeError
from scorefusion.imaging.files import read_volume
from scorefusion.imaging.foreground import foreground_mask
from scorefusion.imaging.intensity import fit_intensity_scale
from scorefusion.imaging.intensity_map import clear_background
from scorefusion.training.recipe import Recipe

logger = logging.getLogger(__name__)
MARGIN = 4  # voxels kept around the foreground
LIMITS = (-1.5, 3.0)  # normalised intensities beyond these are hot voxels, and half precision is kept


@dataclass(frozen=True)
class TrainingVolume:
    """What a block is cut from.

    Attributes:
        name: subject and contrast, for messages and weights.
        subject: the person.
        contrasts: of the channels: conditions in the recipe's order (the coarse one is made later and has none), then
            the target. None where an optional condition is missing.
        data: `(C, I, J, K)` float16, near RAS+, normalised to about [-1, 1]; a missing channel is all -1.
        sharp_axes: axes along which the target has real detail.
        weight: how often it is drawn, relative to the others.
    """

    name: str
    subject: str
    contrasts: tuple[str | None, ...]
    data: np.ndarray
    sharp_axes: tuple[int, ...] = (0, 1, 2)
    weight: float = 1.0


@dataclass(frozen=True)
class Item:
    """Files of one `TrainingVolume`, before they are read."""

    name: str
    subject: str
    contrasts: tuple[str | None, ...]
    files: tuple[Path | None, ...]
    sharp_axes: str | None
    weight: float
    frame: int | None = None


def open_datalist(recipe: Recipe, folder: Path | None = None, strict: bool = True) -> Datalist | None:
    """The recipe's training and validation cases; None for synthetic heads only.

    Args:
        recipe: names the datalist.
        folder: what its relative path counts from.
        strict: refuse missing files; False leaves them to `datasets.inspect`.
    """
    if recipe.data.datalist == "none":
        return None
    splits = tuple({"val": None, **dict.fromkeys(recipe.data.train_on)})
    path = Path(recipe.data.datalist)
    if folder is not None and str(path) not in (PROJECT, PROJECT_ALL):
        path = folder / path  # an absolute one stays
    return find_datalist(path, splits, strict=strict)


def list_items(recipe: Recipe, cases: Sequence[Case]) -> list[Item]:
    """What of these cases the recipe can use: a target, and every condition that is not optional.

    Super-resolution takes each contrast of a person as a volume of its own; a condition that is not the target's own
    coarse scan must be there, too.
    """
    items = []
    for case in cases:
        if case.subject in recipe.data.leave_out:
            continue
        beside = [condition for condition in recipe.conditions if not condition.coarse]
        apart = case.aligned is False
        if apart and not all(condition.optional for condition in beside):  # else each contrast by itself
            logger.warning(
                "%s is left out: its contrasts do not lie on each other (scorefusion data register)", case.subject
            )
            continue
        for target in (key for key in case.contrasts if key in (*recipe.target.contrasts, "image")):
            channels: list[str | None] = []
            for condition in recipe.conditions:
                if condition.coarse:
                    continue
                others = () if apart else condition.contrasts
                found = next((key for key in others if key in case.contrasts and key != target), None)
                if found is None and not condition.optional:
                    break
                channels.append(found)
            else:
                contrasts = (*channels, target)
                files = tuple(None if key is None else case.contrasts[key] for key in contrasts)
                name = f"{case.subject}/{target}"
                weight = case.weight * find_weight(recipe.data.weights, name)
                if weight > 0:
                    sharp = case.sharp_axes_of(target)
                    items.append(Item(name, case.subject, contrasts, files, sharp, weight, case.frame))
    return items


def find_weight(weights: Mapping[str, float], name: str) -> float:
    """The weight of `subject/contrast`: the longest key that it begins with; 1 if there is none."""
    keys = [key for key in weights if name.startswith(key)]
    return weights[max(keys, key=len)] if keys else 1.0


def load_volumes(recipe: Recipe, cases: Sequence[Case]) -> list[TrainingVolume]:
    """Read all that the recipe can use of these cases.

    Raises:
        RequestError: nothing fits the recipe.
        VolumeError: a file is corrupt and `data.corrupt` is "stop".
    """
    items = list_items(recipe, cases)
    if not items:
        wanted = ", ".join("/".join(c.contrasts) for c in recipe.conditions if not c.coarse) or "no other contrast"
        msg = (
            f"recipe {recipe.name}: none of the {len(cases)} cases has {'/'.join(recipe.target.contrasts)} as target "
            f"with {wanted} beside it; check the contrasts' names in the datalist"
        )
        raise RequestError(msg)
    set_track_meta(False)  # our geometry is the Volume's; MONAI's tensors carry none here
    skip = recipe.data.corrupt == "skip"
    transform = Compose(
        [
            ReadChannels(["item"], skip=skip),
            CropForegroundd(["image"], "image", select_fn=_foreground, margin=MARGIN, allow_smaller=True),
            Normalise(["image"], recipe.medians, recipe.maps_conditions),
        ]
    )
    cached = _read_all(items, transform, recipe.data.cache_workers)
    volumes = []
    for index, item in enumerate(items):
        record = cached[index]
        if record["corrupt"]:
            continue
        data = np.asarray(record["image"])
        volumes.append(
            TrainingVolume(item.name, item.subject, item.contrasts, data, _sharp_axes(recipe, item, data), item.weight)
        )
    if not volumes:
        msg = f"recipe {recipe.name}: none of the {len(items)} volumes could be read"
        raise VolumeError(msg)
    if len(volumes) < len(items):
        logger.warning("%d of %d volumes were skipped: they cannot be read", len(items) - len(volumes), len(items))
    return volumes


def _read_all(items: Sequence[Item], transform: Compose, workers: int) -> CacheDataset:
    try:
        return CacheDataset(
            [{"item": item} for item in items],
            transform,
            cache_rate=1.0,
            num_workers=workers or None,
            progress=False,
            copy_cache=False,
        )
    except RuntimeError as error:
        # MONAI hides what a transform said behind "applying transform ...": give the user the sentence itself.
        if isinstance(error.__cause__, ScoreFusionError):
            raise error.__cause__ from None
        raise


class ReadChannels(MapTransform):
    """Files of an `Item` to `(C, I, J, K)` float32 in canonical axes, all on one grid."""

    def __init__(self, keys: Sequence[str], skip: bool) -> None:
        super().__init__(keys)
        self.skip = skip

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item: Item = data["item"]
        try:
            return {"image": _read_channels(item), "corrupt": False}
        except ScoreFusionError as error:
            if not self.skip:
                raise
            logger.warning("%s is skipped: %s", item.name, error)
            stand_in = np.arange(512, dtype=np.float32).reshape(1, 8, 8, 8)  # any image that the next transforms take
            return {"image": stand_in, "corrupt": True}


def _read_channels(item: Item) -> np.ndarray:
    volumes = [None if file is None else read_volume(file, frame=item.frame).canonical()[0] for file in item.files]
    target = volumes[-1]
    assert target is not None
    channels = []
    for file, volume in zip(item.files, volumes, strict=True):
        if volume is None:
            channels.append(np.full(target.spatial_shape, np.nan, np.float32))
            continue
        if not volume.grid.is_close(target.grid, tolerance_mm=0.1):
            msg = (
                f"{file} is not on the grid of {item.files[-1]} ({volume.spatial_shape} against "
                f"{target.spatial_shape} voxels, or another place); align them first: scorefusion data register"
            )
            raise VolumeError(msg)
        channels.append(volume.data[0])
    return np.stack(channels)


def _foreground(image: Any) -> np.ndarray:
    """`(1, I, J, K)` bool for MONAI's cropping."""
    data = np.asarray(image, dtype=np.float32)
    return foreground_mask(data[~np.isnan(data).any(axis=(1, 2, 3))])[None]


class Normalise(MapTransform):
    """Each channel by its own robust range or median to about [-1, 1], in half precision; a missing one (NaN) becomes
    -1. `clear`: tell the conditions' background from dark tissue, as a mapped base needs it."""

    def __init__(self, keys: Sequence[str], medians: Sequence[float | None], clear: bool = False) -> None:
        super().__init__(keys)
        self.medians, self.clear = medians, clear

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            channels = np.asarray(result[key], dtype=np.float32)
            normalised = np.full(channels.shape, -1.0, np.float16)
            # A file that is skipped has stood in with one channel, whatever the recipe has.
            for number, (channel, median) in enumerate(zip(channels, self.medians, strict=False)):
                if not np.isnan(channel).any() and channel.min() < channel.max():
                    scaled = fit_intensity_scale(channel[None], median=median).normalise(channel)
                    if self.clear and number < len(channels) - 1:
                        scaled = clear_background(torch.from_numpy(scaled)).numpy()
                    normalised[number] = np.clip(scaled, *LIMITS).astype(np.float16)
            result[key] = normalised
        return result


def _sharp_axes(recipe: Recipe, item: Item, data: np.ndarray) -> tuple[int, ...]:
    """Axes that may be coarsened: the datalist's word, or the spectral test's."""
    if item.sharp_axes is not None:
        return tuple("RAS".index(letter) for letter in item.sharp_axes)
    thin = tuple(axis for axis in range(3) if data.shape[1 + axis] < 8)
    if recipe.data.sharp_axes == "all" or recipe.task != "super_resolution" or thin:
        return tuple(axis for axis in range(3) if axis not in thin)
    flags = read_axes(data[-1].astype(np.float32)).interpolated
    sharp = tuple(axis for axis in range(3) if not flags[axis])
    if len(sharp) < 3:
        lost = ", ".join("RAS"[axis] for axis in range(3) if flags[axis])
        logger.info("%s has no real detail along %s: never coarsened there", item.name, lost)
    return sharp or (0, 1, 2)
