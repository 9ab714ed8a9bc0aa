"""What training does to guides, so that a model neither needs nor copies them: they are left out, misplaced by what
registration leaves, given under another name, and show lesions of their own or lack the target's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from scorefusion.training.recipe import Guides

RADIUS = (2.0, 9.0)  # voxels
STRENGTH = (0.2, 0.9)  # of the intensity range
FOREGROUND = -0.9  # normalised intensity above which a voxel belongs to the head


def keep_some(
    there: Sequence[bool], optional: Sequence[bool], guides: Guides, rng: np.random.Generator
) -> tuple[bool, ...]:
    """Which conditions a sample is given, of those that are there; what is not optional stays."""
    kept = list(there)
    mine = [index for index, may_lack in enumerate(optional) if may_lack and there[index]]
    draw = rng.random()
    if draw < guides.alone_share:
        chosen: set[int] = set()
    elif mine and draw < guides.alone_share + guides.single_share:
        chosen = {int(rng.choice(mine))}
    else:
        chosen = {index for index in mine if rng.random() >= guides.dropped}
    for index in mine:
        kept[index] = index in chosen
    return tuple(kept)


def mislabel(there: Sequence[bool], rng: np.random.Generator) -> list[int]:
    """An order of the guides' places in which one that is there has changed places with any other."""
    order = list(range(len(there)))
    present = [index for index, here in enumerate(there) if here]
    if len(order) < 2 or not present:
        return order
    first = int(rng.choice(present))
    second = int(rng.choice([index for index in order if index != first]))
    order[first], order[second] = order[second], order[first]
    return order


def displace(image: Tensor, shift: np.ndarray) -> Tensor:
    """`(I, J, K)` moved by `shift` voxels along its axes; edges are repeated."""
    for axis, amount in enumerate(shift.tolist()):
        whole = int(np.floor(amount))
        part, count = amount - whole, image.shape[axis]
        index = torch.arange(count, device=image.device)
        before = image.index_select(axis, (index - whole).clamp(0, count - 1))
        after = image.index_select(axis, (index - whole - 1).clamp(0, count - 1))
        image = torch.lerp(before, after, part)
    return image


def paint_lesions(image: Tensor, there: Sequence[bool], share: float, rng: np.random.Generator) -> Tensor:
    """With chance `share` each: a lesion in the target alone, and one in a guide alone.

    Args:
        image: `(guides + 1, I, J, K)` in about [-1, 1], the target last.
        there: which guides are.
        share: chance.
        rng: where chance comes from.
    """
    channels = list(image)
    present = [index for index, here in enumerate(there) if here]
    if rng.random() < share:
        channels[-1] = _with_lesion(channels[-1], rng)
    if present and rng.random() < share:
        index = int(rng.choice(present))
        channels[index] = _with_lesion(channels[index], rng)
    return torch.stack(channels)


def _with_lesion(image: Tensor, rng: np.random.Generator) -> Tensor:
    """A spot with an uneven border, brighter or darker than what was there."""
    coarse = image[::4, ::4, ::4] > FOREGROUND
    places = coarse.nonzero()
    if not len(places):
        return image
    centre = 4 * places[int(rng.integers(len(places)))] + 1
    radii = rng.uniform(*RADIUS) * rng.uniform(0.6, 1.6, 3)
    axes = [(torch.arange(n, device=image.device) - middle) / float(radius)
            for n, middle, radius in zip(image.shape, centre, radii, strict=True)]  # fmt: skip
    distance = axes[0][:, None, None] ** 2 + axes[1][None, :, None] ** 2 + axes[2][None, None, :] ** 2
    source = torch.Generator(image.device).manual_seed(int(rng.integers(2**31)))
    rough = torch.randn([max(2, n // 5) for n in image.shape], generator=source, device=image.device)
    rough = F.interpolate(rough[None, None], size=image.shape, mode="trilinear", align_corners=False)[0, 0]
    edge = float(rng.uniform(2.0, 8.0))
    inside = torch.sigmoid(edge * (1.0 - distance.sqrt() + 0.25 * rough)) * (image > FOREGROUND)
    strength = float(rng.uniform(*STRENGTH) * rng.choice([-1.0, 1.0, 1.0]))
    level = (image + 2.0 * strength).clamp(-0.95, 1.15)
    return torch.lerp(image, level, inside)
