"""What each stage minimises: the error of the clean residual, noise or v, relative to what there is to find.

A share of the noise levels is at pure noise: there one evaluation is the posterior mean, which the `fast` preset uses.
The rest is uniform over the schedule, for sampling in several steps. Every random number comes from the generator that
is passed in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from scorefusion.diffusion.schedule import NoiseSchedule
from scorefusion.fusion.base import own_base_shift
from scorefusion.fusion.ensemble import PlaneEnsemble
from scorefusion.fusion.features import FeatureRecorder
from scorefusion.fusion.inputs import ModelInputs
from scorefusion.fusion.members import Member
from scorefusion.fusion.rules import FusionRule, ScoreFusion, VolumeOnly
from scorefusion.fusion.tiling import at
from scorefusion.networks.unet import UNet
from scorefusion.training.blocks import Block
from scorefusion.training.recipe import Stage
from scorefusion.transfer import to_device


def draw_timesteps(count: int, schedule: NoiseSchedule, pure_noise_share: float, generator: torch.Generator) -> Tensor:
    """`(count,)` int64: a share at the noisiest level, the rest uniform."""
    last = schedule.num_train_timesteps - 1
    t = torch.randint(0, last + 1, (count,), generator=generator)
    return torch.where(torch.rand(count, generator=generator) < pure_noise_share, torch.full_like(t, last), t)


@dataclass(frozen=True, eq=False)
class NoisySample:
    """A residual with noise, `(B, 1, ...)`, what is to be predicted from it, and its level `(B,)`."""

    x_t: Tensor
    wanted: Tensor
    alpha_bar: Tensor


def add_noise(
    residual: Tensor, schedule: NoiseSchedule, pure_noise_share: float, generator: torch.Generator
) -> NoisySample:
    """Noise `residual` `(B, 1, ...)` at random levels, drawn on the CPU whatever the device."""
    t = draw_timesteps(residual.shape[0], schedule, pure_noise_share, generator)
    noise = to_device(torch.randn(residual.shape, generator=generator), residual.device, residual.dtype)
    alpha_bar = to_device(torch.from_numpy(schedule.alpha_bar[t.numpy()]), residual.device, torch.float32)
    return NoisySample(schedule.add_noise(residual, noise, t), schedule.from_x0_noise(residual, noise, t), alpha_bar)


class PlaneLoss(nn.Module):
    """Slices in all planes through the plane networks.

    Args:
        ensemble: its networks are trained.
        schedule: of the noise.
        stage: batch and noise levels.
    """

    def __init__(self, ensemble: PlaneEnsemble, schedule: NoiseSchedule, stage: Stage) -> None:
        super().__init__()
        self.ensemble, self.schedule, self.stage = ensemble, schedule, stage

    def forward(self, batch: Sequence[Block], generator: torch.Generator) -> Tensor:
        """Mean weighted squared error of `slices` slices a block and member."""
        patches: dict[tuple[int, tuple[int, ...]], list[_Patch]] = {}
        for block in batch:
            available = set(block.inputs.available)
            enough = any if self.ensemble.layout.presence_context else all
            for member in self.ensemble.members:
                if member.plane in block.planes and enough(index in available for index in member.conditions):
                    for patch in self._patches(block, member, generator):
                        key = (member.network, tuple(patch.slab.shape[1:]))
                        patches.setdefault(key, []).append(patch)
        total = sum(len(group) for group in patches.values())
        errors = [self._errors(self.ensemble.plane_networks[n], group) for (n, _), group in patches.items()]
        return torch.cat(errors).sum() / total

    def _patches(self, block: Block, member: Member, generator: torch.Generator) -> list[_Patch]:
        axis = 1 + member.plane.axis
        shift = own_base_shift(block.inputs, member, self.ensemble.layout.residual_gain)
        found = []
        for index in torch.randint(0, block.residual.shape[axis], (self.stage.slices,), generator=generator).tolist():
            residual = block.residual.narrow(axis, index, 1)
            if shift is not None:
                residual = residual + shift[0].narrow(axis, index, 1)
            noisy = add_noise(residual[None], self.schedule, self.stage.pure_noise_share, generator)
            found.append(
                _Patch(
                    _slab(self.ensemble, noisy.x_t, block, member, index),
                    noisy.wanted.squeeze(1 + axis),
                    noisy.alpha_bar,
                    self.ensemble.layout.plane_vector(block.inputs, member.plane, 1),
                    block.weight,
                )
            )
        return found

    def _errors(self, network: UNet, patches: Sequence[_Patch]) -> Tensor:
        """`(patches,)` weighted mean squared errors."""
        slabs = torch.cat([patch.slab for patch in patches]).contiguous(memory_format=torch.channels_last)
        contexts = [patch.context for patch in patches if patch.context is not None]
        levels = torch.cat([patch.alpha_bar for patch in patches])
        with self.ensemble.precision(slabs):
            prediction, _ = network(slabs, levels, torch.cat(contexts) if contexts else None)
        difference = prediction.float() - torch.cat([patch.wanted for patch in patches])
        errors = torch.stack([_error(patch, self.stage.l1) for patch in difference])
        return errors * torch.stack([patch.weight for patch in patches])


@dataclass(frozen=True, eq=False)
class _Patch:
    slab: Tensor  # (1, channels, H, W)
    wanted: Tensor  # (1, 1, H, W)
    alpha_bar: Tensor  # (1,)
    context: Tensor | None  # (1, plane_context_size)
    weight: Tensor  # ()


def _slab(ensemble: PlaneEnsemble, x_t: Tensor, block: Block, member: Member, index: int) -> Tensor:
    """The input of one patch, through the very function that inference uses, on the few slices that it needs."""
    radius, axis = ensemble.layout.slab_radius, 1 + member.plane.axis
    size = block.residual.shape[axis]
    wanted = torch.arange(index - radius, index + radius + 1, device=block.conditions.device).clamp(0, size - 1)
    position = None if block.position is None else block.position.index_select(axis, wanted)[None]
    inputs = ModelInputs(block.conditions.index_select(axis, wanted)[None], None, block.present, position)
    noisy = x_t.expand(*(2 * radius + 1 if a == axis + 1 else -1 for a in range(5)))
    return ensemble.layout.slab(noisy, inputs, member.conditions, member.plane, radius, radius + 1)


@dataclass(frozen=True, eq=False)
class Crop:
    """A block as the fusion network learns from it: the frozen plane networks have spoken already.

    Attributes:
        block: conditions and truth.
        noisy: `(1, 1, I, J, K)`.
        predictions: `(1, active, I, J, K)` of the active members.
        features: what the members' decoders said, before alignment.
    """

    block: Block
    noisy: NoisySample
    predictions: Tensor
    features: FeatureRecorder | None


class FusionLoss(nn.Module):
    """Crops through a fusion rule whose plane networks are frozen.

    The outer `margin` voxels do not count: there the plane networks lack surroundings that they have in a whole volume.
    """

    def __init__(self, rule: ScoreFusion, schedule: NoiseSchedule, stage: Stage) -> None:
        super().__init__()
        self.rule, self.schedule, self.stage = rule, schedule, stage

    @torch.no_grad()
    def prepare(self, block: Block, generator: torch.Generator) -> Crop:
        """Ask the plane networks, once for all the times that the crop is used."""
        noisy = add_noise(block.residual[None], self.schedule, self.stage.pure_noise_share, generator)
        recorder = None if self.rule.alignment is None else FeatureRecorder(self.rule.alignment)
        predictions = self.rule.ensemble.predict(noisy.x_t, block.inputs, noisy.alpha_bar, gathered=recorder)
        return Crop(block, noisy, predictions, recorder)

    def train(self, mode: bool = True) -> FusionLoss:
        """The plane networks are frozen: no dropout in them."""
        super().train(mode)
        self.rule.ensemble.eval()
        return self

    def forward(self, crops: Sequence[Crop], generator: torch.Generator | None = None) -> Tensor:
        """Mean weighted error of the fused prediction inside the margin; the noise was drawn with the crop."""
        losses = [self._loss(crop) for crop in crops]
        return torch.stack(losses).mean()

    def _loss(self, crop: Crop) -> Tensor:
        features = None if crop.features is None else crop.features.align()
        fused = self.rule.combine(crop.noisy.x_t, crop.block.inputs, crop.noisy.alpha_bar, crop.predictions, features)
        inner = inside(fused, self.stage.margin)
        return _error((fused - crop.noisy.wanted)[inner], self.stage.l1) * crop.block.weight


class JointLoss(nn.Module):
    """Crops through a whole fusion rule, plane networks and fusion network learning together.

    Ours, beyond the paper, which keeps the plane networks frozen: here each plane learns what its prediction is worth
    in the fused answer, where alone it learns to be right alone.
    """

    def __init__(self, rule: ScoreFusion, schedule: NoiseSchedule, stage: Stage) -> None:
        super().__init__()
        self.rule, self.schedule, self.stage = rule, schedule, stage

    def forward(self, batch: Sequence[Block], generator: torch.Generator) -> Tensor:
        """Mean weighted error of the fused prediction inside the margin."""
        return _volume_loss(self.rule, batch, self.schedule, self.stage, generator)


class VolumeLoss(nn.Module):
    """Crops through a 3D network alone: 3D diffusion, or regression where the rule shows no noise."""

    def __init__(self, rule: VolumeOnly, schedule: NoiseSchedule, stage: Stage) -> None:
        super().__init__()
        self.rule, self.schedule, self.stage = rule, schedule, stage

    def forward(self, batch: Sequence[Block], generator: torch.Generator) -> Tensor:
        """Mean weighted error inside the margin."""
        return _volume_loss(self.rule, batch, self.schedule, self.stage, generator)


def _volume_loss(
    rule: FusionRule, batch: Sequence[Block], schedule: NoiseSchedule, stage: Stage, generator: torch.Generator
) -> Tensor:
    losses = []
    for block in batch:
        noisy = add_noise(block.residual[None], schedule, stage.pure_noise_share, generator)
        prediction = rule(noisy.x_t, block.inputs, noisy.alpha_bar)
        inner = inside(prediction, stage.margin)
        losses.append(_error((prediction - noisy.wanted)[inner], stage.l1) * block.weight)
    return torch.stack(losses).mean()


def _error(difference: Tensor, l1: float) -> Tensor:
    squared = difference.square().mean()
    return squared + l1 * difference.abs().mean() if l1 else squared


def inside(volume: Tensor, margin: int) -> Any:
    """The voxels at least `margin` from a border; thin axes are kept whole."""
    spatial = [slice(margin, size - margin) if size > 2 * margin else slice(None) for size in volume.shape[2:]]
    return at(spatial)
