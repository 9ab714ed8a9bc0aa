"""What the networks are shown, the same in training and in use: conditions, position, foreground, and how the scan was
made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from scorefusion.diffusion.schedule import Prediction
from scorefusion.fusion.planes import Plane, position_channels, slabs_along
from scorefusion.imaging.acquisition import Acquisition
from scorefusion.imaging.intensity_map import BACKGROUND, IntensityMaps
from scorefusion.networks.shapes import pad_to_multiple
from scorefusion.transfer import to_device

ACQUISITION_SIZE = 6  # log2 of the sampling factor along i, j, k, then log2 of the slice width


def acquisition_vector(acquisition: Acquisition) -> Tensor:
    """`(1, 6)` what the networks are told of a measurement; slices thinner than a voxel count as one voxel."""
    values = [*acquisition.factors, *acquisition.widths]
    return torch.log2(torch.tensor(values, dtype=torch.float32).clamp(min=1.0))[None]


@dataclass(frozen=True)
class ModelInputs:
    """What is known about the target, on its grid.

    Attributes:
        conditions: `(B, C, I, J, K)` in about [-1, 1]; a missing condition's channel is not read.
        acquisition: `(B, 6)` log2 of factor and width along i, j, k; None = measured as it is.
        present: which conditions are there; None = all.
        position: `(B or 1, 3, I, J, K)` coordinates in [-1, 1]; None = of this volume. Given when this is a crop.
        maps: where the base is a mapped condition; None = the base is the condition itself.
        region: `(I, J, K)` bool, where there is something to restore; None = everywhere. On the CPU, since it decides
            what a device is given to do.
    """

    conditions: Tensor
    acquisition: Tensor | None = None
    present: tuple[bool, ...] | None = None
    position: Tensor | None = None
    maps: IntensityMaps | None = None
    region: np.ndarray | None = None

    @property
    def available(self) -> tuple[int, ...]:
        """Indices of the conditions that are there."""
        count = self.conditions.shape[1]
        return tuple(i for i in range(count) if self.present is None or self.present[i])

    @cached_property
    def base(self) -> Tensor:
        """`(B, 1, I, J, K)` what the residual is added to: the base of the first condition present, or what the
        brightness of all of them together says of the target."""
        if self.joined:
            assert self.maps is not None
            assert self.maps.joint is not None
            return self.maps.joint(*self.conditions.split(1, dim=1))
        return self.base_of(self.available[0])

    @property
    def joined(self) -> bool:
        """Whether `base` is said by all conditions together: where the model has a map for that and none is missing."""
        everything = len(self.available) == self.conditions.shape[1]
        return everything and self.maps is not None and self.maps.joint is not None

    def base_of(self, index: int) -> Tensor:
        """`(B, 1, I, J, K)` what a residual would be added to if condition `index` were the first one."""
        condition = self.conditions[:, index : index + 1]
        return condition if self.maps is None else self.maps.single[index](condition)

    @cached_property
    def foreground(self) -> Tensor:
        """`(B, 1, I, J, K)`: 1 where any condition present is above background (-0.99), else -1."""
        seen = select_channels(self.conditions, self.available).amax(dim=1, keepdim=True) > BACKGROUND
        return seen.to(self.conditions.dtype) * 2 - 1

    def padded(self, multiple: int) -> ModelInputs:
        """Edges repeated until `multiple` divides every size."""
        position = self.position
        if position is None:
            position = position_channels(self.conditions.shape[2:], device=self.conditions.device)
        region = self.region
        if region is not None:
            region = np.pad(region, [(0, -size % multiple) for size in region.shape], mode="edge")
        return replace(
            self,
            conditions=pad_to_multiple(self.conditions, multiple),
            position=pad_to_multiple(position, multiple),
            region=region,
        )


@dataclass(frozen=True)
class InputLayout:
    """What the networks of a bundle are shown; the same in training and in use.

    Attributes:
        slab_radius: neighbours of a slice on each side, for every condition.
        position: three channels of global coordinates.
        foreground: one channel of +-1.
        plane_context: tell the network which plane it looks at (needed when one network serves several).
        acquisition_context: tell the networks factor and slice width.
        presence_context: tell the networks which of this many conditions are there; 0 = they never lack one.
        residual_gain: r0 = gain * (target - base) / 2.
        prediction: what the networks predict.
    """

    slab_radius: int = 2
    position: bool = True
    foreground: bool = True
    plane_context: bool = False
    acquisition_context: bool = False
    presence_context: int = 0
    residual_gain: float = 1.0
    prediction: Prediction = "noise"

    def plane_channels(self, num_conditions: int) -> int:
        """Input channels of a plane network."""
        return num_conditions * (2 * self.slab_radius + 1) + 3 * self.position + self.foreground + 1

    def volume_channels(self, num_conditions: int, num_predictions: int) -> int:
        """Input channels of a fusion network."""
        return 1 + num_conditions + 3 * self.position + self.foreground + num_predictions

    @property
    def plane_context_size(self) -> int:
        """Length of a plane network's context vector."""
        return 3 * self.plane_context + ACQUISITION_SIZE * self.acquisition_context + self.presence_context

    @property
    def volume_context_size(self) -> int:
        """Length of a fusion network's context vector."""
        return ACQUISITION_SIZE * self.acquisition_context + self.presence_context

    def slab(
        self, x_t: Tensor, inputs: ModelInputs, conditions: Sequence[int], plane: Plane, start: int, stop: int
    ) -> Tensor:
        """`(B * (stop - start), channels, H, W)`: condition slabs, position, foreground, noisy slice."""
        known = _fill_missing(inputs, conditions)
        channels = [slabs_along(known, plane, self.slab_radius, start, stop)]
        if self.position:
            position = inputs.position
            if position is None:
                position = position_channels(x_t.shape[2:], device=x_t.device)
            channels.append(slabs_along(position.expand(x_t.shape[0], -1, -1, -1, -1), plane, 0, start, stop))
        if self.foreground:
            channels.append(slabs_along(inputs.foreground, plane, 0, start, stop))
        channels.append(slabs_along(x_t, plane, 0, start, stop))
        return torch.cat(channels, dim=1)

    def plane_vector(self, inputs: ModelInputs, plane: Plane, repeats: int) -> Tensor | None:
        """`(B * repeats, plane_context_size)`; acquisition in the slice's own order: rows, columns, normal."""
        parts = []
        batch = inputs.conditions.shape[0]
        if self.plane_context:
            parts.append(torch.eye(3, device=inputs.conditions.device)[plane.axis].expand(batch, 3))
        if self.acquisition_context:
            order = [*plane.in_plane_axes, plane.axis]
            parts.append(select_channels(self._acquisition(inputs), order + [3 + axis for axis in order]))
        parts.extend(self._presence(inputs))
        return torch.cat(parts, dim=1).repeat_interleave(repeats, dim=0) if parts else None

    def volume_vector(self, inputs: ModelInputs) -> Tensor | None:
        """`(B, volume_context_size)`."""
        parts = [self._acquisition(inputs)] if self.acquisition_context else []
        parts.extend(self._presence(inputs))
        return torch.cat(parts, dim=1) if parts else None

    def volume(self, x_t: Tensor, inputs: ModelInputs, predictions: Tensor | None) -> Tensor:
        """`(B, channels, I, J, K)`: noisy volume, conditions, position, foreground, plane predictions."""
        channels = [x_t, _fill_missing(inputs, range(inputs.conditions.shape[1]))]
        if self.position:
            position = inputs.position
            if position is None:
                position = position_channels(x_t.shape[2:], device=x_t.device)
            channels.append(position.expand(x_t.shape[0], -1, -1, -1, -1))
        if self.foreground:
            channels.append(inputs.foreground)
        if predictions is not None:
            channels.append(predictions)
        return torch.cat(channels, dim=1)

    def _acquisition(self, inputs: ModelInputs) -> Tensor:
        if inputs.acquisition is None:
            return torch.zeros(inputs.conditions.shape[0], ACQUISITION_SIZE, device=inputs.conditions.device)
        return inputs.acquisition.to(inputs.conditions)

    def _presence(self, inputs: ModelInputs) -> list[Tensor]:
        if not self.presence_context:
            return []
        there = [float(index in inputs.available) for index in range(self.presence_context)]
        flags = to_device(torch.tensor(there), inputs.conditions.device)
        return [flags.expand(inputs.conditions.shape[0], -1)]


def _fill_missing(inputs: ModelInputs, conditions: Sequence[int]) -> Tensor:
    """The chosen conditions, a missing one shown as background (-1)."""
    if list(conditions) == list(range(inputs.conditions.shape[1])) == list(inputs.available):
        return inputs.conditions
    channels = [inputs.conditions[:, index : index + 1] for index in conditions]
    shown = [channel if index in inputs.available else torch.full_like(channel, -1.0)
             for index, channel in zip(conditions, channels, strict=True)]  # fmt: skip
    return torch.cat(shown, dim=1)


def select_channels(x: Tensor, channels: Sequence[int]) -> Tensor:
    """`(B, len(channels), ...)`: `x[:, channels]`, whose list a GPU would have to be handed and waited for."""
    return torch.cat([x[:, index : index + 1] for index in channels], dim=1)
