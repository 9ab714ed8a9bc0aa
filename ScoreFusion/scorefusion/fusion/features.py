"""The way of the plane networks' features into the fusion network's encoder.

`FeatureAlignment` holds the layers. While the plane networks work slice by slice, a `FeatureSink` takes in what their
decoders say: `FeatureAccumulator` aligns and adds at once, so that 2D features are never all in memory (use);
`FeatureRecorder` keeps them and aligns them later in one go, as often as wanted (training).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from scorefusion.fusion.planes import Plane, stack_slices
from scorefusion.networks.precision import lowered_precision
from scorefusion.networks.unet import UNet

if TYPE_CHECKING:
    from scorefusion.fusion.members import Member


class FeatureAlignment(nn.Module):
    """Brings 2D decoder features to the fusion network's encoder: zero-initialised strided convolutions.

    In a plane the features are coarse already; along the slice axis a convolution with kernel = stride = scale makes
    them so. Hence voxel (i, j, k) of every plane's features lands on voxel (i, j, k) / scale.

    Attributes:
        scales: of each member, the scales at which its features meet the fusion network's encoder, coarse to fine.
        source_scales: of each member, the scales of all that its network hands out, coarse to fine.

    Raises:
        ValueError: a member's features meet the fusion network at no scale, so nothing of them would get in.
    """

    def __init__(self, networks: Sequence[UNet], members: Sequence[Member], volume: UNet) -> None:
        super().__init__()
        self.layers = nn.ModuleDict()
        targets = dict(zip(volume.feature_scales, volume.injection_channels, strict=True))
        self.source_scales = tuple(networks[member.network].feature_scales for member in members)
        self.scales = tuple(tuple(scale for scale in source if scale in targets) for source in self.source_scales)
        for number, member in enumerate(members):
            network = networks[member.network]
            if not self.scales[number]:
                given, taken = (", ".join(f"1/{s}" for s in scales) for scales in (network.feature_scales, targets))
                msg = (
                    f"plane network {member.network} has features at {given} of the grid, "
                    f"and the fusion network takes them in at {taken}"
                )
                raise ValueError(msg)
            sources = dict(zip(network.feature_scales, network.feature_channels, strict=True))
            for scale in self.scales[number]:
                i, j, k = (scale if axis == member.plane.axis else 1 for axis in range(3))
                layer = nn.Conv3d(sources[scale], targets[scale], (i, j, k), stride=(i, j, k))
                for parameter in layer.parameters():
                    nn.init.zeros_(parameter)
                self.layers[f"member{number}_scale{scale}"] = layer

    @property
    def max_stride(self) -> int:
        """Slices must come in groups of this many."""
        return max((scale for scales in self.scales for scale in scales), default=1)

    def forward(self, member: int, scale: int, stack: Tensor) -> Tensor:
        """`(B, C, ...)` features stacked along the slice axis at full slice resolution, to the encoder's grid."""
        return self.layers[f"member{member}_scale{scale}"](stack)

    def select(self, member: int, features: Sequence[Tensor]) -> dict[int, Tensor]:
        """By scale, those of a member's features (all of them, coarse to fine) that have a layer here."""
        by_scale = dict(zip(self.source_scales[member], features, strict=True))
        return {scale: by_scale[scale] for scale in self.scales[member]}


class FeatureSink(Protocol):
    """Takes in features while slices go through the plane networks."""

    @property
    def max_stride(self) -> int:
        """Slices must come in groups of this many."""

    def add(self, member: int, plane: Plane, start: int, features: Sequence[Tensor], batch: int) -> None:
        """Take in the features `(B * S, C, H / scale, W / scale)`, coarse to fine, of S slices from `start` on."""

    def align(self) -> dict[int, Tensor]:
        """By scale, the sum of the aligned features of all members, `(B, C, I / scale, J / scale, K / scale)`
        float32."""


class FeatureAccumulator:
    """Aligns and sums the features of all members while their slices come in; without gradients.

    Args:
        alignment: the layers.
        like: `(B, C, I, J, K)`, the volume that is worked on.
    """

    def __init__(self, alignment: FeatureAlignment, like: Tensor) -> None:
        self.alignment = alignment
        self.spatial = like.shape[2:]
        _check_sizes(self.spatial, alignment.max_stride)
        self._total: dict[int, Tensor] = {}

    @property
    def max_stride(self) -> int:
        return self.alignment.max_stride

    def add(self, member: int, plane: Plane, start: int, features: Sequence[Tensor], batch: int) -> None:
        for scale, slices in self.alignment.select(member, features).items():
            aligned = self.alignment(member, scale, stack_slices(slices, plane, batch)).float()
            if scale not in self._total:
                self._total[scale] = aligned.new_zeros(*aligned.shape[:2], *(size // scale for size in self.spatial))
            axis = 2 + plane.axis
            place = self._total[scale].narrow(axis, start // scale, aligned.shape[axis])
            place += aligned

    def align(self) -> dict[int, Tensor]:
        return self._total


class FeatureRecorder:
    """Keeps the features of all members, to be aligned with gradients: one pass of each layer over all slices.

    Copies of slices into a growing volume would each be part of the graph; here nothing is copied but once, when the
    pieces of a stack are put together.
    """

    def __init__(self, alignment: FeatureAlignment) -> None:
        self.alignment = alignment
        self._pieces: dict[tuple[int, int], list[Tensor]] = {}  # by member and scale, (B, C, ...) in slice order
        self._planes: dict[int, Plane] = {}

    @property
    def max_stride(self) -> int:
        return self.alignment.max_stride

    def add(self, member: int, plane: Plane, start: int, features: Sequence[Tensor], batch: int) -> None:
        self._planes[member] = plane
        for scale, slices in self.alignment.select(member, features).items():
            self._pieces.setdefault((member, scale), []).append(stack_slices(slices, plane, batch))

    def align(self, alignment: FeatureAlignment | None = None) -> dict[int, Tensor]:
        """The sums by scale; the features may be aligned as often as wanted.

        They are aligned in the number format that the plane networks gave them in, as they are in use.

        Args:
            alignment: layers to use; None = those that the recorder was made for.
        """
        layers = self.alignment if alignment is None else alignment
        total: dict[int, Tensor] = {}
        for (member, scale), pieces in self._pieces.items():
            axis = 2 + self._planes[member].axis
            stack = pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=axis)
            self._pieces[member, scale] = [stack]
            _check_sizes(stack.shape[axis : axis + 1], scale)
            with lowered_precision(stack, None if stack.dtype == torch.float32 else stack.dtype):
                aligned = layers(member, scale, stack).float()
            total[scale] = total[scale] + aligned if scale in total else aligned
        return total


def _check_sizes(sizes: Sequence[int], multiple: int) -> None:
    if any(size % multiple for size in sizes):
        msg = f"feature alignment needs sizes divisible by {multiple}, got {tuple(sizes)}"
        raise ValueError(msg)
