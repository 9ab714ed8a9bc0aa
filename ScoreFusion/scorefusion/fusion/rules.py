"""How the networks' predictions become one: the fusion rules, the paper's and its baselines, behind one call.

    prediction = rule(x_t, inputs, alpha_bar, step)        # (B, 1, I, J, K)

What is fused is whatever the networks predict (noise, v or the clean residual). At fixed `x_t` these are affine in one
another, so weights that sum to one give the same answer in each; `prediction` here is what the paper writes for the
noise. A gate (see `AcquisitionGate`) adds a gain, so that the planes' predictions no longer count one in all: it is for
networks that predict the clean residual.

The residual is `r0 = gain * (target - base) / 2` with base = the first condition present.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from scorefusion.errors import RequestError
from scorefusion.fusion.ensemble import PlaneEnsemble
from scorefusion.fusion.features import FeatureAccumulator, FeatureAlignment, FeatureRecorder, FeatureSink
from scorefusion.fusion.gate import AcquisitionGate
from scorefusion.fusion.inputs import InputLayout, ModelInputs, select_channels
from scorefusion.fusion.planes import Plane
from scorefusion.fusion.tiling import Window, apply_in_tiles, at, is_cut
from scorefusion.networks.shapes import crop_to, pad_to_multiple
from scorefusion.networks.sizes import UNetConfig
from scorefusion.networks.unet import UNet


class FusionRule(nn.Module):
    """Base of all rules: pads, asks, fuses, un-pads. Subclasses say which members to ask and how to fuse."""

    def __init__(self, ensemble: PlaneEnsemble) -> None:
        super().__init__()
        self.ensemble = ensemble

    @property
    def layout(self) -> InputLayout:
        """What the networks are shown."""
        return self.ensemble.layout

    @property
    def size_multiple(self) -> int:
        """Padding that all networks agree on."""
        return self.ensemble.size_multiple

    def passes(self, inputs: ModelInputs) -> int:
        """How often the volume goes through networks in one evaluation; a plane's pass is all of its slices."""
        return len(self.ensemble.active(inputs))

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
    """Arithmetic mean of the members that look along some planes, by default all: TOSM with slices, MADM with slabs."""

    def __init__(self, ensemble: PlaneEnsemble, planes: Sequence[Plane] = tuple(Plane)) -> None:
        super().__init__(ensemble)
        self.planes = tuple(planes)

    def passes(self, inputs: ModelInputs) -> int:
        return len(self._asked(inputs))

    def fuse(self, x_t: Tensor, inputs: ModelInputs, alpha_bar: Tensor, step: int) -> Tensor:
        return self.ensemble.predict(x_t, inputs, alpha_bar, self._asked(inputs)).mean(dim=1, keepdim=True)

    def _asked(self, inputs: ModelInputs) -> list[int]:
        return self.ensemble.active(inputs, self.planes)


class SinglePlane(PlaneAverage):
    """One plane only: Palette (slices) or its 2.5D form (slabs)."""

    def __init__(self, ensemble: PlaneEnsemble, plane: Plane) -> None:
        super().__init__(ensemble, [plane])


class AlternatingPlanes(FusionRule):
    """One member a step, in turn: TPDM. A third of the work, and the planes meet over the steps."""

    def passes(self, inputs: ModelInputs) -> int:
        return 1

    def fuse(self, x_t: Tensor, inputs: ModelInputs, alpha_bar: Tensor, step: int) -> Tensor:
        active = self.ensemble.active(inputs)
        return self.ensemble.predict(x_t, inputs, alpha_bar, [active[step % len(active)]])


class VolumeRule(FusionRule):
    """A rule with a 3D network, which works in tiles where the whole does not fit into memory.

    Attributes:
        tile: voxels of a tile; None = the volume at once.
        halo: voxels of surroundings that a tile sees on each side. As wide as `exact_halo` (None) tiles give the same
            answer as the whole, but for rounding; with less they differ, and are blended into one another.
    """

    def __init__(self, ensemble: PlaneEnsemble, network: UNet) -> None:
        super().__init__(ensemble)
        self.network = network
        self.tile: tuple[int, int, int] | None = None
        self.halo: int | None = None

    @property
    def exact_halo(self) -> int | None:
        """Voxels around a tile that its answer depends on; None = on the whole volume, so that no tile will do."""
        return self.network.config.reach

    @property
    def size_multiple(self) -> int:
        return max(self.ensemble.size_multiple, self.network.size_multiple)

    def ask(
        self, seen: Tensor, inputs: ModelInputs, alpha_bar: Tensor, features: Mapping[int, Tensor] | None = None
    ) -> Tensor:
        """The 3D network's answer, whole or in tiles.

        Args:
            seen: `(B, channels, I, J, K)`, see `InputLayout.volume`.
            inputs: what is known, for the context vector.
            alpha_bar: `(B,)`.
            features: by scale, what is added to the encoder.

        Returns:
            `(B, out_channels, I, J, K)` float32.

        Raises:
            RequestError: tiles are asked of a network whose answer depends on the whole volume.
        """
        i, j, k = seen.shape[2:]
        exact = self.exact_halo
        if exact is None and is_cut((i, j, k), self.tile):
            msg = (
                "The model's 3D network has group normalisation or attention, which look at the whole volume: in "
                "tiles it would make another image. Leave out the tiles; where memory is short, use another device, "
                "rule 'average', or a volume cropped around the head."
            )
            raise RequestError(msg)
        halo = self.halo if self.halo is not None else exact or 0
        blend = halo // 2 if exact is not None and halo < exact else 0
        context = self.layout.volume_vector(inputs)

        def piece(window: Window) -> Tensor:
            injected = {
                scale: value[at([slice(w.start // scale, w.stop // scale) for w in window])]
                for scale, value in (features or {}).items()
            }
            with self.ensemble.precision(seen):
                output = self.network(seen[at(window)], alpha_bar, context, injected=injected)[0].float()
            self.ensemble.report(output[:, 0].numel())
            return output

        return apply_in_tiles(piece, (i, j, k), self.tile, halo, self.size_multiple, blend)


class ScoreFusion(VolumeRule):
    """Score-Fusion: `sum_k (1/P + w_k) prediction_k + correction`, the w_k summing to zero (paper, fused score).

    The fusion network gives the first P - 1 of the w_k and the correction; its head starts at zero, so a fresh rule is
    the plane average, bit for bit. Members that lack their condition are left out; the weights of the rest still sum to
    one. A gate adds `gain * average` to the correction: with it the predictions count `1 + gain` in all (1.13 in the
    shipped `brain-sr` at 4x isotropic), not one.

    Args:
        ensemble: the plane networks.
        network: 3D U-Net with `volume_channels(C, P)` inputs and P outputs.
        alignment: feature injection, or None for scores only.
        gate: weights and a gain by acquisition, or None to start every voxel at the average.

    Raises:
        ValueError: a gate over networks that predict noise or v: a gain of these is not one of the image.
    """

    def __init__(
        self,
        ensemble: PlaneEnsemble,
        network: UNet,
        alignment: FeatureAlignment | None = None,
        gate: AcquisitionGate | None = None,
    ) -> None:
        if gate is not None and ensemble.layout.prediction != "clean":
            msg = f"a gate needs networks that predict the clean residual; these predict {ensemble.layout.prediction!r}"
            raise ValueError(msg)
        super().__init__(ensemble, network)
        self.alignment = alignment
        self.gate = gate

    def fuse(self, x_t: Tensor, inputs: ModelInputs, alpha_bar: Tensor, step: int) -> Tensor:
        gathered = self._feature_sink(x_t)
        predictions = self.ensemble.predict(x_t, inputs, alpha_bar, gathered=gathered)
        return self.combine(x_t, inputs, alpha_bar, predictions, None if gathered is None else gathered.align())

    def _feature_sink(self, like: Tensor) -> FeatureSink | None:
        if self.alignment is None:
            return None
        return FeatureRecorder(self.alignment) if torch.is_grad_enabled() else FeatureAccumulator(self.alignment, like)

    def combine(
        self,
        x_t: Tensor,
        inputs: ModelInputs,
        alpha_bar: Tensor,
        predictions: Tensor,
        features: Mapping[int, Tensor] | None = None,
    ) -> Tensor:
        """Fuse what the plane networks have said; sizes are multiples of `size_multiple`.

        Args:
            x_t: `(B, 1, I, J, K)`.
            inputs: what is known.
            alpha_bar: `(B,)`.
            predictions: `(B, active, I, J, K)` of the active members.
            features: of their decoders, aligned, by scale; None = none are injected.

        Returns:
            `(B, 1, I, J, K)` float32.
        """
        average = predictions.mean(dim=1, keepdim=True)
        weights, correction = self.weights_and_correction(x_t, inputs, alpha_bar, predictions, features)
        return average + (weights * predictions).sum(dim=1, keepdim=True) + correction

    def passes(self, inputs: ModelInputs) -> int:
        return super().passes(inputs) + 1

    def weights_and_correction(
        self,
        x_t: Tensor,
        inputs: ModelInputs,
        alpha_bar: Tensor,
        predictions: Tensor,  # (B, active, I, J, K)
        features: Mapping[int, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """What is added to equal weights `(B, active, I, J, K)`, summing to zero, and the correction `(B, 1, I, J, K)`:
        the network's, and the gate's gain times the average.

        Args: as of `combine`.
        """
        members, active = len(self.ensemble.members), self.ensemble.active(inputs)
        shown = predictions
        if len(active) < members:
            # A silent member is shown to the network as agreeing with the others.
            silent = predictions.mean(dim=1, keepdim=True)
            given = dict(zip(active, predictions.split(1, dim=1), strict=True))
            shown = torch.cat([given.get(number, silent) for number in range(members)], dim=1)
        output = self.ask(self.layout.volume(x_t, inputs, shown), inputs, alpha_bar, features)
        free, correction = output[:, :-1], output[:, -1:]
        if self.gate is not None and len(active) == members:  # it was fitted to the predictions of all
            common, gain = self.gate(alpha_bar, self.layout.volume_vector(inputs))
            free = free + common
            correction = correction + gain * predictions.mean(dim=1, keepdim=True)
        weights = torch.cat([free, -free.sum(dim=1, keepdim=True)], dim=1)
        if len(active) < members:
            weights = select_channels(weights, active)
            weights = weights - weights.mean(dim=1, keepdim=True)
        return weights, correction


VolumeKind = Literal["diffusion", "regression"]


class VolumeOnly(VolumeRule):
    """A 3D network alone: an ensemble of no planes, and the network's answer as it is.

    A network of kind "diffusion" is a 3D diffusion model (3D Palette, Med-DDPM). One of kind "regression" is the same
    network without noise (3D U-Net): it is shown zeros in place of x_t and alpha_bar = 0, whatever the rule is given,
    and its answer is the clean residual.

    Args:
        network: 3D U-Net with `volume_channels(C, 0)` inputs and one output.
        inputs: what it is shown.
        kind: "diffusion" or "regression".

    Raises:
        ValueError: a regression whose prediction is not "clean".
    """

    def __init__(self, network: UNet, inputs: InputLayout, kind: VolumeKind = "diffusion") -> None:
        if kind == "regression" and inputs.prediction != "clean":
            msg = f"a regression network predicts the clean residual, got prediction {inputs.prediction!r}"
            raise ValueError(msg)
        super().__init__(PlaneEnsemble((), (), inputs), network)
        self.kind: VolumeKind = kind

    def passes(self, inputs: ModelInputs) -> int:
        return 1

    def fuse(self, x_t: Tensor, inputs: ModelInputs, alpha_bar: Tensor, step: int) -> Tensor:
        if self.kind == "regression":
            x_t, alpha_bar = torch.zeros_like(x_t), torch.zeros_like(alpha_bar)
        return self.ask(self.layout.volume(x_t, inputs, None), inputs, alpha_bar)


def make_volume_network(
    config: UNetConfig, ensemble: PlaneEnsemble, with_features: bool
) -> tuple[UNet, FeatureAlignment | None]:
    """A fresh fusion network and, if asked for, the layers that feed it."""
    network = UNet(config)
    networks = ensemble.plane_networks
    return network, FeatureAlignment(networks, ensemble.members, network) if with_features else None
