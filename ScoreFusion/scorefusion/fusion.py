"""How the plane networks' predictions become one: the fusion rules, the paper's and its baselines, behind one call.

    prediction = rule(x_t, inputs, alpha_bar, step)        # (B, 1, I, J, K)

What is fused is whatever the networks predict (noise, v or the clean residual). At fixed `x_t` these are affine in one
another, so weights that sum to one give the same answer in each; `prediction` here is what the paper writes for the
noise.

The residual is `r0 = gain * (target - base) / 2` with base = the first condition present. Plane networks that see other
conditions predict a residual of another base; `rebase` and its inverse move between them (Score-Fusion, several
conditions).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from scorefusion.acquisition import Acquisition
from scorefusion.planes import Plane, position_channels, slabs_along, stack_slices
from scorefusion.schedule import Prediction
from scorefusion.unet import UNet, UNetConfig, alignment_scales, at, crop_to, pad_to_multiple

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
    """

    conditions: Tensor
    acquisition: Tensor | None = None
    present: tuple[bool, ...] | None = None
    position: Tensor | None = None

    @property
    def available(self) -> tuple[int, ...]:
        """Indices of the conditions that are there."""
        count = self.conditions.shape[1]
        return tuple(i for i in range(count) if self.present is None or self.present[i])

    @property
    def base(self) -> Tensor:
        """`(B, 1, I, J, K)` the first condition present: what the residual is added to."""
        first = self.available[0]
        return self.conditions[:, first : first + 1]

    @cached_property
    def foreground(self) -> Tensor:
        """`(B, 1, I, J, K)`: 1 where any condition present is above background (-0.99), else -1."""
        seen = self.conditions[:, list(self.available)].amax(dim=1, keepdim=True) > -0.99
        return seen.to(self.conditions.dtype) * 2 - 1

    def padded(self, multiple: int) -> ModelInputs:
        """Edges repeated until `multiple` divides every size."""
        position = self.position
        if position is None:
            position = position_channels(self.conditions.shape[2:], device=self.conditions.device)
        return replace(
            self,
            conditions=pad_to_multiple(self.conditions, multiple),
            position=pad_to_multiple(position, multiple),
        )


@dataclass(frozen=True)
class InputRule:
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
            parts.append(self._acquisition(inputs)[:, order + [3 + axis for axis in order]])
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
        flags = torch.zeros(self.presence_context, device=inputs.conditions.device)
        flags[list(inputs.available)] = 1.0
        return [flags.expand(inputs.conditions.shape[0], -1)]


def _fill_missing(inputs: ModelInputs, conditions: Sequence[int]) -> Tensor:
    """The chosen conditions, a missing one shown as background (-1)."""
    everything = list(conditions) == list(range(inputs.conditions.shape[1]))
    chosen = inputs.conditions if everything else inputs.conditions[:, list(conditions)]  # indexing copies
    missing = [n for n, index in enumerate(conditions) if index not in inputs.available]
    if missing:
        chosen = chosen.clone()
        chosen[:, missing] = -1.0
    return chosen


@dataclass(frozen=True)
class Member:
    """One voice of the ensemble: a network looking along a plane at some of the conditions."""

    network: int
    plane: Plane
    conditions: tuple[int, ...] = (0,)


def rebase(x: Tensor, shift: Tensor, alpha_bar: Tensor) -> Tensor:
    """The noisy residual as a network with another base sees it: `x_t + sqrt(alpha_bar) * shift`.

    `shift = gain * (base - other base) / 2`; the noise is common to both.
    """
    return x + _expand(alpha_bar.sqrt(), x) * shift


def rebase_prediction(prediction: Tensor, shift: Tensor, alpha_bar: Tensor, kind: Prediction) -> Tensor:
    """A prediction made with another base, moved back to the common base."""
    if kind == "noise":
        return prediction
    if kind == "clean":
        return prediction - shift
    return prediction + _expand((1.0 - alpha_bar).sqrt(), prediction) * shift


def _expand(level: Tensor, like: Tensor) -> Tensor:
    return level.to(like.dtype).reshape(-1, *[1] * (like.dim() - 1))


class PlaneEnsemble(nn.Module):
    """Plane networks and the members that use them; gives one prediction volume a member.

    Args:
        networks: 2D U-Nets; several members may share one.
        members: who looks along which plane at which conditions.
        inputs: what the networks are shown.
    """

    def __init__(self, networks: Sequence[UNet], members: Sequence[Member], inputs: InputRule) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.members = tuple(members)
        self.rule = inputs
        self.slice_pixels = 2**20  # pixels in one network call: bounds memory, never the result
        self.autocast: torch.dtype | None = None  # None = float32 throughout
        self.on_work: Callable[[int], None] | None = None  # told the voxels just done; may raise Cancelled
        for number, member in enumerate(members):
            expected = inputs.plane_channels(len(member.conditions))
            given = networks[member.network].config.in_channels
            if given != expected:
                msg = f"member {number} needs {expected} input channels; its network {member.network} has {given}"
                raise ValueError(msg)

    @property
    def size_multiple(self) -> int:
        """Sizes that this divides need no padding for any network."""
        return max(self.network(member).size_multiple for member in self.members)

    @property
    def plane_networks(self) -> list[UNet]:
        """The 2D networks, in the order that members number them."""
        return [network for network in self.networks if isinstance(network, UNet)]

    def network(self, member: Member) -> UNet:
        """The network that a member looks through."""
        return self.plane_networks[member.network]

    def active(self, inputs: ModelInputs) -> list[int]:
        """Members whose conditions are all there; a network that is told of absence needs only one of them."""
        available = set(inputs.available)
        enough = any if self.rule.presence_context else all
        chosen = [n for n, m in enumerate(self.members) if enough(index in available for index in m.conditions)]
        if not chosen:
            msg = "none of the model's plane networks can work with the conditions given"
            raise ValueError(msg)
        return chosen

    def predict(
        self,
        x_t: Tensor,
        inputs: ModelInputs,
        alpha_bar: Tensor,
        members: Sequence[int] | None = None,
        alignment: FeatureAlignment | None = None,
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Ask the members, slice by slice.

        Args:
            x_t: `(B, 1, I, J, K)` noisy residual.
            alpha_bar: `(B,)` its level.
            members: which to ask; None = all active ones.
            alignment: also collect the decoders' features for a fusion network; sizes must divide by its strides.

        Returns:
            `(B, len(members), I, J, K)` predictions for the common base, float32, and aligned features by scale.
        """
        members = self.active(inputs) if members is None else list(members)
        gathered = FeatureAccumulator(alignment, x_t) if alignment is not None else None
        volumes = [self._predict_member(number, x_t, inputs, alpha_bar, gathered) for number in members]
        return torch.cat(volumes, dim=1), gathered.total if gathered is not None else {}

    def _predict_member(
        self,
        number: int,
        x_t: Tensor,
        inputs: ModelInputs,
        alpha_bar: Tensor,
        gathered: FeatureAccumulator | None,
    ) -> Tensor:
        member = self.members[number]
        network = self.network(member)
        batch, plane = x_t.shape[0], member.plane
        base = next(index for index in member.conditions if index in inputs.available)
        shift = None  # a member with the common base sees x_t as it is
        seen = x_t
        if base != inputs.available[0]:
            shift = 0.5 * self.rule.residual_gain * (inputs.base - inputs.conditions[:, base : base + 1])
            seen = rebase(x_t, shift, alpha_bar)

        num_slices = x_t.shape[2 + plane.axis]
        rows, columns = (x_t.shape[2 + axis] for axis in plane.in_plane_axes)
        stride = gathered.alignment.max_stride if gathered is not None else 1
        count = max(1, self.slice_pixels // (batch * rows * columns * stride)) * stride
        pieces = []
        for start in range(0, num_slices, count):
            stop = min(start + count, num_slices)
            slab = self.rule.slab(seen, inputs, member.conditions, plane, start, stop)
            level = alpha_bar.repeat_interleave(stop - start, dim=0)
            context = self.rule.plane_vector(inputs, plane, stop - start)
            with self.precision(slab):
                slices, features = network(
                    slab.contiguous(memory_format=torch.channels_last),
                    level,
                    context,
                    return_features=gathered is not None,
                )
                if gathered is not None:
                    gathered.add(number, plane, start, features, batch)
            pieces.append(stack_slices(slices.float(), plane, batch))
            self.report(slab[:, 0].numel())
        prediction = torch.cat(pieces, dim=2 + plane.axis)
        if shift is None:
            return prediction
        return rebase_prediction(prediction, shift, alpha_bar, self.rule.prediction)

    def report(self, voxels: int) -> None:
        """Tell the listener, if there is one, that so many voxels went through a network."""
        if self.on_work is not None:
            self.on_work(voxels)

    def precision(self, like: Tensor) -> contextlib.AbstractContextManager[object]:
        """The networks' number format on the device of `like`."""
        return lowered_precision(like, self.autocast)


def lowered_precision(like: Tensor, dtype: torch.dtype | None) -> contextlib.AbstractContextManager[object]:
    """The one door where precision is lowered; predictions come back as float32. None = float32 throughout."""
    if dtype is None:
        return contextlib.nullcontext()
    return torch.autocast(like.device.type, dtype=dtype)


class FeatureAlignment(nn.Module):
    """Brings 2D decoder features to the fusion network's encoder: zero-initialised strided convolutions.

    In a plane the features are coarse already; along the slice axis a convolution with kernel = stride = scale makes
    them so. Hence voxel (i, j, k) of every plane's features lands on voxel (i, j, k) / scale.
    """

    def __init__(self, networks: Sequence[UNet], members: Sequence[Member], volume: UNet) -> None:
        super().__init__()
        self.layers = nn.ModuleDict()
        targets = dict(zip(volume.feature_scales, volume.injection_channels, strict=True))
        self.scales: tuple[int, ...] = ()
        for number, member in enumerate(members):
            network = networks[member.network]
            sources = dict(zip(network.feature_scales, network.feature_channels, strict=True))
            self.scales = alignment_scales(network.feature_scales, volume.feature_scales)
            for scale in self.scales:
                i, j, k = (scale if axis == member.plane.axis else 1 for axis in range(3))
                layer = nn.Conv3d(sources[scale], targets[scale], (i, j, k), stride=(i, j, k))
                for parameter in layer.parameters():
                    nn.init.zeros_(parameter)
                self.layers[f"member{number}_scale{scale}"] = layer
        self.source_scales = {n: networks[m.network].feature_scales for n, m in enumerate(members)}

    @property
    def max_stride(self) -> int:
        """Slices must come in groups of this many."""
        return max(self.scales, default=1)

    def forward(self, member: int, scale: int, stack: Tensor) -> Tensor:
        """`(B, C, ...)` features stacked along the slice axis at full slice resolution, to the encoder's grid."""
        return self.layers[f"member{member}_scale{scale}"](stack)


class AcquisitionPrior(nn.Module):
    """What is the same in every voxel: plane weights and a gain, from noise level and acquisition alone.

    Ours, beyond the paper. Which planes to believe follows first of all from how the scan was made: across thick slices
    the planes that cut through them know more than the plane along them. And the mean of several careful predictions is
    too careful, so it wants a gain. A few numbers a scan learn this from little data; the 3D network is left with what
    differs between voxels. Zero-initialised like the rest, so that a fresh rule is still the plane average.
    """

    def __init__(self, members: int, context_size: int) -> None:
        super().__init__()
        self.head = nn.Linear(2 * (context_size + 1), members, bias=False)
        nn.init.zeros_(self.head.weight)

    def features(self, alpha_bar: Tensor, context: Tensor | None) -> Tensor:
        """`(B, 2 (context_size + 1))`: context and one, shared out between pure noise and no noise."""
        level = (2.0 / math.pi) * torch.arccos(alpha_bar.float().clamp(0.0, 1.0).sqrt())[:, None]  # 1 = pure noise
        known = torch.ones_like(level) if context is None else torch.cat([context, torch.ones_like(level)], dim=1)
        return torch.cat([level * known, (1.0 - level) * known], dim=1)

    def forward(self, alpha_bar: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """`(B, P - 1, 1, 1, 1)` to add to the free weights, and the gain `(B, 1, 1, 1, 1)` added to the average's."""
        values = self.head(self.features(alpha_bar, context))[:, :, None, None, None]
        return values[:, :-1], values[:, -1:]


class FeatureAccumulator:
    """Sums the aligned features of all members while their slices come in, so that 2D features are never all in
    memory."""

    def __init__(self, alignment: FeatureAlignment, like: Tensor) -> None:
        self.alignment = alignment
        spatial = like.shape[2:]
        if any(size % alignment.max_stride for size in spatial):
            msg = f"feature alignment needs sizes divisible by {alignment.max_stride}, got {tuple(spatial)}"
            raise ValueError(msg)
        self.spatial = spatial
        self.batch = like.shape[0]
        self.total: dict[int, Tensor] = {}

    def add(self, member: int, plane: Plane, start: int, features: Sequence[Tensor], batch: int) -> None:
        """Take in the features (coarse to fine) of the slices from `start` on."""
        by_scale = dict(zip(self.alignment.source_scales[member], features, strict=True))
        for scale in self.alignment.scales:
            aligned = self.alignment(member, scale, stack_slices(by_scale[scale], plane, batch)).float()
            if scale not in self.total:
                self.total[scale] = aligned.new_zeros(*aligned.shape[:2], *(size // scale for size in self.spatial))
            axis = 2 + plane.axis
            place = self.total[scale].narrow(axis, start // scale, aligned.shape[axis])
            if torch.is_grad_enabled():
                # In place on a slice would break the graph of what was added before; crops are small, so copy.
                window = [slice(None)] * 5
                window[axis] = slice(start // scale, start // scale + aligned.shape[axis])
                grown = torch.zeros_like(self.total[scale])
                grown[tuple(window)] = aligned
                self.total[scale] = self.total[scale] + grown
            else:
                place += aligned


class FusionRule(nn.Module):
    """Base of all rules: pads, asks, fuses, un-pads. Subclasses say which members to ask and how to fuse."""

    def __init__(self, ensemble: PlaneEnsemble) -> None:
        super().__init__()
        self.ensemble = ensemble

    @property
    def rule(self) -> InputRule:
        """What the networks are shown."""
        return self.ensemble.rule

    @property
    def size_multiple(self) -> int:
        """Padding that all networks agree on."""
        return self.ensemble.size_multiple

    def forward(self, x_t: Tensor, inputs: ModelInputs, alpha_bar: Tensor, step: int = 0) -> Tensor:
        """Fused prediction.

        Args:
            x_t: `(B, 1, I, J, K)` noisy residual, any size.
            inputs: what is known.
            alpha_bar: `(B,)` level of `x_t`.
            step: number of the sampling step (rules that take turns read it).

        Returns:
            `(B, 1, I, J, K)` float32.
        """
        spatial = x_t.shape[2:]
        prediction = self.fuse(
            pad_to_multiple(x_t, self.size_multiple), inputs.padded(self.size_multiple), alpha_bar, step
        )
        return crop_to(prediction, spatial)

    def fuse(self, x_t: Tensor, inputs: ModelInputs, alpha_bar: Tensor, step: int) -> Tensor:
        """`forward` at padded size."""
        raise NotImplementedError


class PlaneAverage(FusionRule):
    """Arithmetic mean of all members: TOSM with slices, MADM with slabs."""

    def fuse(self, x_t: Tensor, inputs: ModelInputs, alpha_bar: Tensor, step: int) -> Tensor:
        predictions, _ = self.ensemble.predict(x_t, inputs, alpha_bar)
        return predictions.mean(dim=1, keepdim=True)


class AlternatingPlanes(FusionRule):
    """One member a step, in turn: TPDM. A third of the work, and the planes meet over the steps."""

    def fuse(self, x_t: Tensor, inputs: ModelInputs, alpha_bar: Tensor, step: int) -> Tensor:
        active = self.ensemble.active(inputs)
        return self.ensemble.predict(x_t, inputs, alpha_bar, [active[step % len(active)]])[0]


class SinglePlane(FusionRule):
    """One plane only: Palette (slices) or its 2.5D form (slabs)."""

    def __init__(self, ensemble: PlaneEnsemble, plane: Plane) -> None:
        super().__init__(ensemble)
        self.plane = plane

    def fuse(self, x_t: Tensor, inputs: ModelInputs, alpha_bar: Tensor, step: int) -> Tensor:
        mine = [n for n in self.ensemble.active(inputs) if self.ensemble.members[n].plane is self.plane]
        return self.ensemble.predict(x_t, inputs, alpha_bar, mine)[0].mean(dim=1, keepdim=True)


class ScoreFusion(FusionRule):
    """Score-Fusion: `sum_k (1/P + w_k) prediction_k + correction`, the w_k summing to zero (paper, eq. of the fused
    score).

    The fusion network gives the first P - 1 of the w_k and the correction; its head starts at zero, so a fresh rule is
    the plane
    average, bit for bit. Members that lack their condition are left out; the weights of the rest still sum to one.

    Args:
        ensemble: the plane networks.
        network: 3D U-Net with `volume_channels(C, P)` inputs and P outputs.
        alignment: feature injection, or None for scores only.
        prior: weights by acquisition, or None to start every voxel at the average.
    """

    def __init__(
        self,
        ensemble: PlaneEnsemble,
        network: UNet,
        alignment: FeatureAlignment | None = None,
        prior: AcquisitionPrior | None = None,
    ) -> None:
        super().__init__(ensemble)
        self.network = network
        self.alignment = alignment
        self.prior = prior
        self.tile: tuple[int, int, int] | None = None  # voxels of a tile of the 3D network; None = the volume at once
        self.halo = 32  # voxels of surroundings that a tile sees on each side

    @property
    def size_multiple(self) -> int:
        return max(self.ensemble.size_multiple, self.network.size_multiple)

    def fuse(self, x_t: Tensor, inputs: ModelInputs, alpha_bar: Tensor, step: int) -> Tensor:
        active = self.ensemble.active(inputs)
        predictions, features = self.ensemble.predict(x_t, inputs, alpha_bar, active, self.alignment)
        average = predictions.mean(dim=1, keepdim=True)
        weights, correction = self.weights_and_correction(x_t, inputs, alpha_bar, predictions, features)
        return average + (weights * predictions).sum(dim=1, keepdim=True) + correction

    def weights_and_correction(
        self,
        x_t: Tensor,
        inputs: ModelInputs,
        alpha_bar: Tensor,
        predictions: Tensor,  # (B, active, I, J, K)
        features: dict[int, Tensor],
    ) -> tuple[Tensor, Tensor]:
        """`(B, active, I, J, K)` deviations from equal weights, summing to zero, and the correction `(B, 1, I, J,
        K)`."""
        members, active = len(self.ensemble.members), self.ensemble.active(inputs)
        shown = predictions
        if len(active) < members:
            # A silent member is shown to the network as agreeing with the others.
            shown = predictions.mean(dim=1, keepdim=True).repeat(1, members, 1, 1, 1)
            shown[:, active] = predictions
        seen = self.rule.volume(x_t, inputs, shown)
        context = self.rule.volume_vector(inputs)
        output = self._network(seen, alpha_bar, context, features)
        free, correction = output[:, :-1], output[:, -1:]
        if self.prior is not None:
            common, gain = self.prior(alpha_bar, context)
            free = free + common
            correction = correction + gain * predictions.mean(dim=1, keepdim=True)
        weights = torch.cat([free, -free.sum(dim=1, keepdim=True)], dim=1)[:, active]
        if len(active) < members:
            weights = weights - weights.mean(dim=1, keepdim=True)
        return weights, correction

    def _network(self, seen: Tensor, alpha_bar: Tensor, context: Tensor | None, features: dict[int, Tensor]) -> Tensor:
        spatial = tuple(seen.shape[2:])
        output: Tensor | None = None
        for core, window, inner in tiles(spatial, self.tile, self.halo, self.size_multiple):
            injected = {
                scale: value[at([slice(w.start // scale, w.stop // scale) for w in window])]
                for scale, value in features.items()
            }
            with self.ensemble.precision(seen):
                piece = self.network(seen[at(window)], alpha_bar, context, injected=injected)[0].float()
            self.ensemble.report(piece[:, 0].numel())
            if window == core:
                return piece
            if output is None:
                output = piece.new_empty(piece.shape[0], piece.shape[1], *spatial)
            output[at(core)] = piece[at(inner)]
        assert output is not None
        return output


class VolumeOnly(FusionRule):
    """A 3D diffusion network alone (3D Palette, Med-DDPM): no planes."""

    def __init__(self, network: UNet, inputs: InputRule) -> None:
        nn.Module.__init__(self)
        self.network = network
        self.input_rule = inputs
        self.autocast: torch.dtype | None = None

    @property
    def rule(self) -> InputRule:
        return self.input_rule

    @property
    def size_multiple(self) -> int:
        return self.network.size_multiple

    def fuse(self, x_t: Tensor, inputs: ModelInputs, alpha_bar: Tensor, step: int) -> Tensor:
        seen = self.rule.volume(x_t, inputs, None)
        with lowered_precision(seen, self.autocast):
            return self.network(seen, alpha_bar, self.rule.volume_vector(inputs))[0].float()


Window = tuple[slice, slice, slice]


def tiles(
    spatial: tuple[int, ...], tile: tuple[int, int, int] | None, halo: int, multiple: int
) -> Iterator[tuple[Window, Window, Window]]:
    """Cut a volume into cores, each with the window that a network must see and the core's place inside the window.

    All borders lie on multiples of `multiple`, so that a network's coarse grids stay where they are in the whole
    volume.
    """
    if tile is None or all(size <= edge for size, edge in zip(spatial, tile, strict=True)):
        whole = tuple(slice(0, size) for size in spatial)
        yield whole, whole, whole  # type: ignore[misc]
        return
    steps = [max(multiple, edge // multiple * multiple) for edge in tile]
    margin = -(-halo // multiple) * multiple
    starts = [range(0, size, step) for size, step in zip(spatial, steps, strict=True)]
    for first in ((i, j, k) for i in starts[0] for j in starts[1] for k in starts[2]):
        core = tuple(slice(f, min(f + step, size)) for f, step, size in zip(first, steps, spatial, strict=True))
        window = tuple(
            slice(max(0, c.start - margin), min(size, c.stop + margin)) for c, size in zip(core, spatial, strict=True)
        )
        inner = tuple(slice(c.start - w.start, c.stop - w.start) for c, w in zip(core, window, strict=True))
        yield core, window, inner  # type: ignore[misc]


def make_volume_network(
    config: UNetConfig, ensemble: PlaneEnsemble, with_features: bool
) -> tuple[UNet, FeatureAlignment | None]:
    """A fresh fusion network and, if asked for, the layers that feed it."""
    network = UNet(config)
    networks = ensemble.plane_networks
    return network, FeatureAlignment(networks, ensemble.members, network) if with_features else None
