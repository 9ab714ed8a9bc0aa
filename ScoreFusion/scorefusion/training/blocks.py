"""Training samples: blocks cut from scans or drawn from the generator, with what is given and what is sought.

Block number n of a stream is always the same, whatever was drawn before: its random numbers come from
(seed, stream, n). So a resumed run sees what the unbroken one would have seen, and two processes with two streams see
what one process with both sees.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from monai.transforms import RandomizableTransform, SpatialPad
from torch import Tensor

from scorefusion.fusion.inputs import ModelInputs, acquisition_vector
from scorefusion.fusion.planes import Plane, position_channels
from scorefusion.imaging.acquisition import Acquisition, AxisSampling, Profile
from scorefusion.imaging.intensity_map import BACKGROUND, DARKEST, IntensityMaps, clear_background
from scorefusion.synthesis import artefacts
from scorefusion.training.guides import FOREGROUND, displace, keep_some, mislabel, paint_lesions
from scorefusion.training.recipe import Augmentation, Recipe, Scanners
from scorefusion.training.volumes import TrainingVolume
from scorefusion.transfer import to_device

if TYPE_CHECKING:
    from scorefusion.synthesis.generator import ContrastGenerator

ENOUGH_FOREGROUND = 0.15  # share of a block
TRIES = 20
WHOLE = 16  # sizes of whole volumes are cut to its multiples, which all networks take without padding
SHADE_REACH = (30.0, 90.0)  # voxels over which shading changes
Kind = TypeVar("Kind")


@dataclass(frozen=True, eq=False)
class Block:
    """One training sample.

    Attributes:
        conditions: `(C, I, J, K)` float32 in about [-1, 1]; the first one is the base.
        residual: `(1, I, J, K)` what is sought: gain * (target - base) / 2.
        weight: `()` of its loss. Error counts relative to what there is to find, as it does in decibels, so that mild
            and strong acquisitions count alike.
        acquisition: `(6,)` as `fusion.acquisition_vector`; None in translation.
        operator: the scanner drawn; None in translation.
        present: which conditions are there; None = all.
        planes: planes that can be cut (a single slice has one).
        position: `(3, I, J, K)` coordinates in the whole head, where the networks are shown them.
        maps: where the base is a mapped condition.
    """

    conditions: Tensor
    residual: Tensor
    weight: Tensor
    acquisition: Tensor | None = None
    operator: Acquisition | None = None
    present: tuple[bool, ...] | None = None
    planes: tuple[Plane, ...] = tuple(Plane)
    position: Tensor | None = None
    maps: IntensityMaps | None = None

    @property
    def base(self) -> Tensor:
        """`(1, I, J, K)`."""
        return self.inputs.base[0]

    @cached_property
    def inputs(self) -> ModelInputs:
        """As the networks take it, a batch of one."""
        known = None if self.acquisition is None else self.acquisition[None]
        position = None if self.position is None else self.position[None]
        return ModelInputs(self.conditions[None], known, self.present, position, self.maps)


class BlockSource:
    """Makes blocks by number.

    Args:
        recipe: task, conditions, scanners, augmentation.
        volumes: what to cut from; may be empty if there is a generator.
        shape: voxels of a block; None = as much of a whole volume as `WHOLE` divides.
        generator: of synthetic heads, drawn with chance `recipe.data.synthetic.share`.
        augment: False for validation.
        device: where blocks are made and stay.
        maps: where the recipe's base is a mapped condition.
    """

    def __init__(
        self,
        recipe: Recipe,
        volumes: Sequence[TrainingVolume],
        shape: tuple[int, int, int] | None,
        generator: ContrastGenerator | None = None,
        augment: bool = True,
        device: torch.device | str = "cpu",
        maps: IntensityMaps | None = None,
    ) -> None:
        self.recipe, self.volumes, self.generator = recipe, volumes, generator
        self.maps = maps
        self.device = torch.device(device)
        self.augment = augment
        weights = np.array([volume.weight for volume in volumes])
        self.chances = weights / weights.sum() if len(volumes) else weights
        synthetic = recipe.data.synthetic
        self.synthetic_share = 0.0 if generator is None or synthetic is None else synthetic.share
        if not volumes:
            self.synthetic_share = 1.0
        self.change = RandScanner(recipe.data.augmentation)
        self.shape = shape

    def draw(self, number: int, stream: int = 0) -> Block:
        """Block `number` of a stream."""
        rng = np.random.default_rng([self.recipe.seed, stream, number])
        cut = self._synthetic(rng) if rng.random() < self.synthetic_share else self._cut(rng)
        if self.augment:
            cut = spoil_guides(cut, self.recipe, rng)
        image = cut.image
        if self.augment:
            # A sharper image of the same contrast may change its intensities at will; another contrast's may not.
            changed = image if self.recipe.task == "super_resolution" else image[:-1]
            changed = self._augment(changed, rng)
            image = changed if self.recipe.task == "super_resolution" else torch.cat([changed, image[-1:]])
            image = displace_guides(image, self.recipe, rng)
        return self._measure(replace(cut, image=image), rng)

    def _cut(self, rng: np.random.Generator) -> _Cut:
        volume = self.volumes[rng.choice(len(self.volumes), p=self.chances)]
        whole = volume.data.shape[1:]
        shape = self.shape or [max(1, have // WHOLE * WHOLE) for have in whole]
        sharp, zoom = volume.sharp_axes, [1.0, 1.0, 1.0]
        clinical = self.recipe.data.augmentation
        if self.augment and clinical.clinical_share and rng.random() < clinical.clinical_share:
            across = int(rng.choice(sharp))
            finer = float(rng.uniform(*clinical.finer))
            sharp, zoom = (across,), [1.0 if axis == across else finer for axis in range(3)]
        size = [min(math.ceil(want / by), have) for want, by, have in zip(shape, zoom, whole, strict=True)]
        for _ in range(TRIES):
            start = [int(rng.integers(have - want + 1)) for want, have in zip(size, whole, strict=True)]
            window = tuple(slice(first, first + count) for first, count in zip(start, size, strict=True))
            block = volume.data[slice(None), window[0], window[1], window[2]]
            if (block[-1] > FOREGROUND).mean() > ENOUGH_FOREGROUND:
                break
        image = to_device(torch.from_numpy(block.astype(np.float32)), self.device)
        if max(zoom) > 1.0:
            size = [min(int(want), round(have * by)) for want, by, have in zip(shape, zoom, size, strict=True)]
            image = F.interpolate(image[None], size=size, mode="trilinear", align_corners=False)[0]
            whole = _triple([round(have * by) for have, by in zip(whole, zoom, strict=True)])
            start = [round(first * by) for first, by in zip(start, zoom, strict=True)]
        for axis, chance in enumerate(self.recipe.data.augmentation.flip if self.augment else ()):
            if rng.random() < chance:
                image = image.flip(1 + axis)
                start[axis] = whole[axis] - size[axis] - start[axis]
        # A volume smaller than the block is continued by its edge; a single slice stays one.
        full = [want if have > 1 else 1 for want, have in zip(shape, whole, strict=True)]
        if full != size:
            image = SpatialPad(full, method="end", mode="replicate")(image)
        lacking = tuple(not bool((channel > BACKGROUND).any()) for channel in block[:-1])
        return _Cut(torch.as_tensor(image).contiguous(), sharp, tuple(start), whole, lacking)

    def synthetic_head(self, number: int) -> Tensor:
        """Conditions and target of a head from the generator alone, `(C, I, J, K)` in about [-1, 1]."""
        return self._synthetic(np.random.default_rng([self.recipe.seed, number])).image

    def _synthetic(self, rng: np.random.Generator) -> _Cut:
        assert self.generator is not None
        images = self.generator.draw(int(rng.integers(2**31))).images
        if self.recipe.task == "super_resolution":  # any contrast; what lies beside it is another scan of this head
            names = [name for name in self.recipe.synthetic_targets if name in images]
            target = names[rng.integers(len(names))]
        else:
            target = next(key for key in self.recipe.target.contrasts if key in images)
        given = [condition for condition in self.recipe.conditions if not condition.coarse]
        # None: the head has this condition in no other contrast than the target's, and the target is not given away.
        seen = [next((key for key in c.contrasts if key in images and key != target), None) for c in given]
        lacking = tuple(key is None for key in seen)
        blank = torch.full_like(images[target], -1.0)
        channels = zip((*seen, target), self.recipe.medians, strict=True)
        chosen = [blank if key is None else at_median(images[key], median) for key, median in channels]
        if self.recipe.maps_conditions:
            chosen[:-1] = [clear_background(channel) for channel in chosen[:-1]]
        image = torch.stack(chosen)
        return _Cut(image, (0, 1, 2), (0, 0, 0), tuple(image.shape[1:]), lacking)

    def _augment(self, image: Tensor, rng: np.random.Generator) -> Tensor:
        channels = []
        for channel, median in zip(image, self.recipe.medians[: len(image)], strict=True):
            self.change.set_random_state(int(rng.integers(2**31)))
            changed = self.change(channel, pivot=1.0 if median is None else 0.5 * (median + 1.0))
            if self.recipe.maps_conditions:  # background is told apart before a scan is mapped
                changed = torch.where(channel > BACKGROUND, changed.clamp(min=DARKEST), -1.0)
            channels.append(changed)
        return torch.stack(channels)

    def _measure(self, cut: _Cut, rng: np.random.Generator) -> Block:
        conditions, target = cut.image[:-1], cut.image[-1:]
        gain = self.recipe.networks.residual_gain
        operator = None
        if self.recipe.task == "super_resolution":
            operator = draw_acquisition(self.recipe.data.acquisition, _triple(target.shape[1:]), rng, cut.sharp_axes)
            conditions = torch.cat([self._base(operator, target, rng), conditions])
        present = self._presence(cut, rng)
        base = ModelInputs(conditions[None], present=present, maps=self.maps).base[0]
        residual = 0.5 * gain * (target - base)
        weight = torch.ones((), device=residual.device)
        if self.recipe.networks.prediction == "clean":  # noise and v have the same power in every block
            weight = 1.0 / (residual.square().mean() + 0.02)
        planes = tuple(p for p in self.recipe.planes if min(target.shape[1 + a] for a in p.in_plane_axes) > 1)
        position = cut.position() if self.recipe.networks.position else None
        known = None if operator is None else to_device(acquisition_vector(operator)[0], self.device)
        return Block(conditions, residual, weight, known, operator, present, planes, position, self.maps)

    def _base(self, operator: Acquisition, target: Tensor, rng: np.random.Generator) -> Tensor:
        measured, base = operator.forward(target[None]), self.recipe.networks.base
        if self.augment:
            measured = uneven_slices(measured, operator, self.recipe.data.acquisition, rng)
        if base == "back_projection":
            return operator.back_project(measured, self.recipe.networks.base_rounds)[0]
        assert base != "condition"  # the recipe sees to it
        assert base != "mapped_condition"
        return operator.upsample(measured, base)[0]

    def _presence(self, cut: _Cut, rng: np.random.Generator) -> tuple[bool, ...] | None:
        """Optional conditions are left out at random, and where the person's scan lacks them."""
        optional = [condition.optional for condition in self.recipe.conditions]
        if not any(optional):
            return None
        coarse = (False,) * sum(condition.coarse for condition in self.recipe.conditions)
        lacking = (*coarse, *cut.lacking) if cut.lacking else (False,) * len(optional)
        there = [not (may_lack and lacks) for may_lack, lacks in zip(optional, lacking, strict=True)]
        return keep_some(there, optional, self.recipe.data.guides, rng)


@dataclass(frozen=True, eq=False)
class _Cut:
    """A piece of a head and where it was: `image` `(C, I, J, K)`, first voxel, voxels of the whole, and which of the
    conditions in `image` show nothing (empty: all show something)."""

    image: Tensor
    sharp_axes: tuple[int, ...]
    start: tuple[int, ...]
    whole: tuple[int, ...]
    lacking: tuple[bool, ...] = ()

    def position(self) -> Tensor:
        """`(3, I, J, K)` coordinates in the whole, in [-1, 1]; beyond its edge they stay."""
        channels = position_channels(self.whole, device=self.image.device)[0]
        for axis, (start, size) in enumerate(zip(self.start, self.image.shape[1:], strict=True)):
            wanted = torch.arange(start, start + size, device=channels.device).clamp(max=self.whole[axis] - 1)
            channels = channels.index_select(1 + axis, wanted)
        return channels


def spoil_guides(cut: _Cut, recipe: Recipe, rng: np.random.Generator) -> _Cut:
    """Guides under the wrong name, and lesions that one scan alone shows; nothing is drawn that the recipe lacks."""
    guides = recipe.data.guides
    if recipe.task != "super_resolution" or len(cut.image) < 2:
        return cut
    there = [not lacks for lacks in (cut.lacking or (False,) * (len(cut.image) - 1))]
    if guides.mislabelled_share and rng.random() < guides.mislabelled_share:
        order = mislabel(there, rng)
        image = torch.cat([cut.image[:-1][order], cut.image[-1:]])
        there = [there[place] for place in order]
        cut = replace(cut, image=image, lacking=tuple(not here for here in there))
    if guides.lesion_share:
        cut = replace(cut, image=paint_lesions(cut.image, there, guides.lesion_share, rng))
    return cut


def displace_guides(image: Tensor, recipe: Recipe, rng: np.random.Generator) -> Tensor:
    """Each optional condition a little off, as registration leaves it."""
    shift = recipe.data.guides.shift
    if recipe.task != "super_resolution" or not shift:
        return image
    # Mostly well registered, now and then badly: from a guide that is always off by a voxel no detail can be learned.
    most = shift * rng.random() ** 2
    return torch.stack([*(displace(guide, rng.uniform(-most, most, 3)) for guide in image[:-1]), image[-1]])


def at_median(image: Tensor, median: float | None) -> Tensor:
    """An image in [-1, 1] with the median of what is above background at a level; None: as it is."""
    seen = image[image > BACKGROUND]
    if median is None or not seen.numel():
        return image
    return (image + 1.0) * ((median + 1.0) / (float(seen.median()) + 1.0)) - 1.0


def _triple(shape: Sequence[int]) -> tuple[int, int, int]:
    i, j, k = shape
    return i, j, k


class RandScanner(RandomizableTransform):
    """As another scanner would have it: contrast (gamma, tissue inverted on a dark background, scale), coarse slices,
    shading, noise. `(I, J, K)` in about [-1, 1].

    Of a few people a network learns to know the scanner by its noise and its slices, and with it the contrast that goes
    with it; with these changes it cannot, and has to say what holds for all. MONAI's own gamma stretches a block to its
    minimum and maximum, which would tell the network what lies outside of it; this one leaves -1 (background) where it
    is.
    """

    def __init__(self, options: Augmentation) -> None:
        super().__init__(prob=1.0)
        self.options = options

    def __call__(self, data: Tensor, randomize: bool = True, pivot: float = 1.0) -> Tensor:
        """Bend, scale and scan `data`; the brightness `pivot` (of [0, 1]) is not bent."""
        o, unit = self.options, 0.5 * (data + 1.0)
        gamma, invert, scale = self.R.random(), self.R.random(), self.R.uniform(*o.scale)
        if gamma < o.gamma_share:
            exponent = float(np.exp(self.R.uniform(-o.gamma, o.gamma)))
            unit = pivot * unit.sign() * (unit / pivot).abs() ** exponent
        if invert < o.invert_share:
            unit = torch.where(unit > 0.05, 1.05 - unit.clamp(max=1.05), unit)
        return 2.0 * float(scale) * self._scan(unit) - 1.0

    def _scan(self, unit: Tensor) -> Tensor:
        """What is switched on of slices, shading and noise; nothing is drawn for what is not."""
        o, background = self.options, unit < 0.02
        if o.coarse_share and self.R.random() < o.coarse_share:
            rng = np.random.default_rng(self.R.randint(2**31))
            operator, _ = artefacts.draw_acquisition(unit.shape, rng)
            unit = operator.upsample(operator.forward(unit[None, None]), "cubic")[0, 0]
        if not (o.shade or o.noise):
            return unit
        fields = torch.Generator(unit.device).manual_seed(int(self.R.randint(2**31)))
        strength, reach, sigma = self.R.uniform(0, o.shade), self.R.uniform(*SHADE_REACH), self.R.uniform(0, o.noise)
        scanned = artefacts.add_noise(artefacts.shade(unit.clone(), strength, reach, fields), sigma, fields)
        return torch.where(background, unit, scanned)


def draw_acquisition(
    scanners: Scanners,
    shape: tuple[int, int, int],
    rng: np.random.Generator,
    sharp: Sequence[int] = (0, 1, 2),
) -> Acquisition:
    """A scanner for a block of this shape, coarse only along `sharp` axes."""
    profile: Profile = "gaussian" if rng.random() < scanners.gaussian_share else "box"
    ratio = 1.0 if rng.random() < scanners.gapless_share else rng.uniform(*scanners.width_ratio)
    axes: list[AxisSampling | None] = [None, None, None]
    if rng.random() < scanners.isotropic_share:
        factor = float(rng.choice(scanners.isotropic_factors))
        coarse: Sequence[int] = sharp
    else:
        factor = float(rng.uniform(*scanners.slice_factors[rng.integers(len(scanners.slice_factors))]))
        coarse = [int(rng.choice(sharp))]
    for axis in coarse:
        axes[axis] = _sampling(shape[axis], factor, factor * ratio, profile, rng)
    return Acquisition(shape, axes)


def uneven_slices(measured: Tensor, operator: Acquisition, scanners: Scanners, rng: np.random.Generator) -> Tensor:
    """Thick slices `(B, C, i, j, k)` in about [-1, 1] that differ in gain and noise, with chance `uneven_share`."""
    thick = [axis for axis, sampling in enumerate(operator.axes) if sampling is not None]
    if not scanners.uneven_share or len(thick) != 1 or rng.random() >= scanners.uneven_share:
        return measured
    shape = [1] * measured.dim()
    count = shape[2 + thick[0]] = measured.shape[2 + thick[0]]
    gain = np.exp(rng.normal(0.0, rng.uniform(0.0, scanners.slice_gain), count))
    noise = np.abs(rng.normal(0.0, rng.uniform(0.0, scanners.slice_noise), count))
    gains, noises = (to_device(torch.from_numpy(each.astype(np.float32)).reshape(shape), measured.device)
                     for each in (gain, noise))  # fmt: skip
    source = torch.Generator(measured.device).manual_seed(int(rng.integers(2**31)))
    grain = torch.randn(measured.shape, generator=source, device=measured.device)
    return (measured + 1.0) * gains - 1.0 + 2.0 * noises * grain * (measured > BACKGROUND)


def _sampling(size: int, factor: float, width: float, profile: Profile, rng: np.random.Generator) -> AxisSampling:
    """Slices at a random phase; they cover the block, the outer ones may reach beyond it."""
    offset = -float(rng.uniform(0.0, 0.5 * factor))
    count = int(np.floor((size - offset) / factor + 0.5))
    return AxisSampling(size, count, factor, max(1.0, width), profile, offset)


class Pool(Generic[Kind]):
    """A stock of samples that is renewed little by little, since making one costs more than using it once.

    At step n the stock is numbers `n * renew` to `n * renew + size - 1`, and the batch is drawn from it by
    (seed, stream, n): both follow from n alone.

    Args:
        make: sample by number; called for each number once, in order.
        size: samples in stock.
        renew: how many are replaced at each step.
        seed, stream: of the choice.
    """

    def __init__(self, make: Callable[[int], Kind], size: int, renew: int, seed: int, stream: int) -> None:
        self.make, self.size, self.renew = make, size, renew
        self.seed, self.stream = seed, stream
        self.stock: dict[int, Kind] = {}

    def pick(self, step: int, count: int) -> list[Kind]:
        """`count` different samples for step `step` (all of the stock, where it has fewer)."""
        first = step * self.renew
        self.stock = {number: kept for number, kept in self.stock.items() if number >= first}
        for number in range(first, first + self.size):
            if number not in self.stock:
                self.stock[number] = self.make(number)
        rng = np.random.default_rng([self.seed, self.stream, step, 1])
        chosen = rng.choice(self.size, size=min(count, self.size), replace=False)
        return [self.stock[first + int(index)] for index in chosen]
