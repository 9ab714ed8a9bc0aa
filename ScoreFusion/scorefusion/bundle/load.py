"""From a bundle on disk to networks that run: every size, plane and condition is read from the bundle's metadata."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor, nn

from scorefusion.bundle.folder import Bundle
from scorefusion.diffusion.schedule import NoiseSchedule
from scorefusion.errors import BundleError, RequestError
from scorefusion.fusion.ensemble import PlaneEnsemble
from scorefusion.fusion.features import FeatureAlignment
from scorefusion.fusion.gate import STORED_NAME, AcquisitionGate
from scorefusion.fusion.inputs import InputLayout
from scorefusion.fusion.members import Member
from scorefusion.fusion.planes import Plane
from scorefusion.fusion.rules import AlternatingPlanes, FusionRule, PlaneAverage, ScoreFusion, SinglePlane, VolumeOnly
from scorefusion.networks.sizes import UNetConfig
from scorefusion.networks.unet import UNet

ALIGNMENT_PREFIX = "alignment."
NETWORK_PREFIX = "network."
GATE_PREFIX = f"{STORED_NAME}."
LARGEST_WEIGHT = 65504.0  # of half precision, in which bundles are written
Kind = TypeVar("Kind", bound=nn.Module)
_PLANES = {plane.value: plane for plane in Plane}
_ANOTHER_VERSION = "The bundle was made by another version or is damaged: import it again."


@dataclass
class Model:
    """A loaded bundle.

    Attributes:
        bundle: where it came from.
        rule: how predictions are fused: learned fusion if the bundle has it, the average of its planes if it has none,
            or a 3D network alone.
        schedule: noise levels and what a prediction means.
    """

    bundle: Bundle
    rule: FusionRule
    schedule: NoiseSchedule

    @property
    def ensemble(self) -> PlaneEnsemble:
        """The plane networks; an ensemble of none where a 3D network works alone."""
        return self.rule.ensemble

    @property
    def section(self) -> dict[str, Any]:
        """The bundle's own part of the metadata."""
        return self.bundle.section

    @property
    def planes(self) -> tuple[Plane, ...]:
        """Planes that the plane networks look along."""
        return tuple(plane for plane in Plane if any(member.plane is plane for member in self.ensemble.members))

    def choose_rule(self, name: str | None) -> FusionRule:
        """A fusion rule by name; None = the bundle's own.

        Args:
            name: "fusion"; "fusion-scores" (its features switched off, same weights); "average", "alternating"; one
                plane ("axial"); some of the planes ("average:coronal+sagittal"); "volume" (a 3D network alone).

        Raises:
            RequestError: there is no such rule, or the model has not the networks for it.
        """
        if name is None:
            return self.rule
        kind, _, some = name.partition(":")
        if isinstance(self.rule, VolumeOnly):
            if name != "volume":
                self._refuse(name, "it is a 3D network alone, without plane networks. Use rule 'volume', or none")
            return self.rule
        if name in ("fusion", "fusion-scores"):
            if not isinstance(self.rule, ScoreFusion):
                self._refuse(name, "it has no fusion network. Use rule 'average'")
            if name == "fusion":
                return self.rule
            if self.rule.alignment is None:
                self._refuse(name, "its fusion takes no features in the first place. Use rule 'fusion'")
            return ScoreFusion(self.ensemble, self.rule.network, None, self.rule.gate).eval()
        if name == "volume":
            self._refuse(name, f"it has no 3D network of its own, but planes ({_listed(self.planes)}). Use 'average'")
        if name == "alternating":
            return AlternatingPlanes(self.ensemble)
        if name == "average":
            return PlaneAverage(self.ensemble)
        if kind == "average":
            parts = some.split("+")
            if len(set(parts)) < len(parts):
                self._refuse(name, "it names a plane twice. Name each once, such as average:coronal+sagittal")
            return PlaneAverage(self.ensemble, [self._plane(name, part) for part in parts])
        if name in _PLANES:
            return SinglePlane(self.ensemble, self._plane(name, name))
        msg = (
            f"Unknown fusion rule '{name}'; choose fusion, fusion-scores, average, alternating, {', '.join(_PLANES)}, "
            "volume, or some planes such as average:coronal+sagittal."
        )
        raise RequestError(msg)

    def _plane(self, rule: str, name: str) -> Plane:
        plane = _PLANES.get(name)
        if plane is None or plane not in self.planes:
            self._refuse(rule, f"its plane networks look along {_listed(self.planes)}. Choose among these")
        return plane

    def _refuse(self, rule: str, reason: str) -> NoReturn:
        msg = f"Bundle '{self.bundle.id}' cannot work by the rule '{rule}': {reason}."
        raise RequestError(msg)


def _listed(planes: Iterable[Plane]) -> str:
    return ", ".join(plane.value for plane in planes)


def input_layout(section: dict[str, Any]) -> InputLayout:
    """What the networks of this bundle are shown."""
    return InputLayout(
        slab_radius=section.get("slab_radius", 0),  # a 3D network alone has no slabs
        residual_gain=section["residual_gain"],
        prediction=section["schedule"]["prediction"],
        **section["inputs"],
    )


def load_model(bundle: Bundle, device: torch.device | str = "cpu", autocast: torch.dtype | None = None) -> Model:
    """Build the networks of a bundle and load their weights (hashes are checked).

    Args:
        device: where to compute.
        autocast: number format inside the networks; None or float32 = float32.

    Raises:
        BundleError: weights and metadata do not fit each other.
    """
    try:
        inputs = input_layout(bundle.section)
    except TypeError as error:
        msg = f"Bundle '{bundle.id}': its scorefusion.inputs cannot be used ({error}). {_ANOTHER_VERSION}"
        raise BundleError(msg) from error
    rule = _load_planes(bundle, inputs) if bundle.volume_kind is None else _load_volume(bundle, inputs)
    rule.ensemble.autocast = None if autocast in (None, torch.float32) else autocast
    rule.eval().requires_grad_(False).to(device)
    for network in rule.ensemble.plane_networks:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Model(bundle, rule, NoiseSchedule.from_config(bundle.section["schedule"]))


def _load_planes(bundle: Bundle, inputs: InputLayout) -> FusionRule:
    names = [condition["name"] for condition in bundle.section["conditions"]]
    networks: list[UNet] = []
    members: list[Member] = []
    for number, entry in enumerate(bundle.section["networks"]["planes"]):
        channels = inputs.plane_channels(len(entry["conditions"]))
        network = _empty(UNet, _config(entry, bundle, 2, channels, 1, inputs.plane_context_size))
        _load_weights(network, bundle.load_state_dict(entry["file"]), bundle, entry["file"])
        networks.append(network)
        conditions = tuple(names.index(name) for name in entry["conditions"])
        members.extend(Member(number, Plane(plane), conditions) for plane in entry["planes"])
    ensemble = PlaneEnsemble(networks, members, inputs)
    entry = bundle.section["networks"].get("fusion")
    return PlaneAverage(ensemble) if entry is None else _load_fusion(ensemble, bundle, entry, len(names))


def _load_fusion(ensemble: PlaneEnsemble, bundle: Bundle, entry: dict[str, Any], num_conditions: int) -> ScoreFusion:
    state = bundle.load_state_dict(entry["file"])
    inputs, count = ensemble.layout, len(ensemble.members)
    channels = inputs.volume_channels(num_conditions, count)
    network = _empty(UNet, _config(entry, bundle, 3, channels, count, inputs.volume_context_size))
    _load_weights(network, _part(state, NETWORK_PREFIX), bundle, entry["file"])
    aligned = _part(state, ALIGNMENT_PREFIX)
    alignment = None
    if aligned:
        alignment = _empty(FeatureAlignment, ensemble.plane_networks, ensemble.members, network)
        _load_weights(alignment, aligned, bundle, entry["file"])
    gate = None
    learned = _part(state, GATE_PREFIX)
    if learned:
        gate = _empty(AcquisitionGate, count, inputs.volume_context_size)
        _load_weights(gate, learned, bundle, entry["file"])
    try:
        return ScoreFusion(ensemble, network, alignment, gate)
    except ValueError as error:
        msg = f"Bundle '{bundle.id}': {entry['file']} cannot be used ({error}). {_ANOTHER_VERSION}"
        raise BundleError(msg) from error


def _load_volume(bundle: Bundle, inputs: InputLayout) -> VolumeOnly:
    entry = bundle.section["networks"]["volume"]
    channels = inputs.volume_channels(len(bundle.section["conditions"]), 0)
    network = _empty(UNet, _config(entry, bundle, 3, channels, 1, inputs.volume_context_size))
    _load_weights(network, bundle.load_state_dict(entry["file"]), bundle, entry["file"])
    return VolumeOnly(network, inputs, entry["kind"])


def fusion_state(rule: ScoreFusion) -> dict[str, Tensor]:
    """The fusion's own weights (without the plane networks) as they stand in a bundle."""
    state = {NETWORK_PREFIX + key: value for key, value in rule.network.state_dict().items()}
    if rule.alignment is not None:
        state |= {ALIGNMENT_PREFIX + key: value for key, value in rule.alignment.state_dict().items()}
    if rule.gate is not None:
        state |= {GATE_PREFIX + key: value for key, value in rule.gate.state_dict().items()}
    return state


def _config(
    entry: dict[str, Any], bundle: Bundle, dims: int, in_channels: int, out_channels: int, context_size: int
) -> UNetConfig:
    """The configuration of a network, which must take what it will be shown."""
    where = f"Bundle '{bundle.id}': the configuration of the network in {entry['file']} cannot be used"
    try:
        config = UNetConfig.from_dict(entry["config"])
    except (TypeError, ValueError) as error:
        msg = f"{where} ({error}). {_ANOTHER_VERSION}"
        raise BundleError(msg) from error
    wanted = {
        "spatial_dims": dims,
        "in_channels": in_channels,
        "out_channels": out_channels,
        "context_size": context_size,
    }
    wrong = [f"{key} is {getattr(config, key)}, not {value}" for key, value in wanted.items()
             if getattr(config, key) != value]  # fmt: skip
    if wrong:
        msg = f"{where}: with this bundle's conditions, planes and inputs, {'; '.join(wrong)}. {_ANOTHER_VERSION}"
        raise BundleError(msg)
    return config


def _part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _empty(kind: type[Kind], *arguments: Any) -> Kind:
    """A network without memory: its weights come from the file, and the user's random generator is not touched."""
    with torch.device("meta"):
        return kind(*arguments)


def _load_weights(module: nn.Module, state: dict[str, Tensor], bundle: Bundle, file: str) -> None:
    try:
        module.load_state_dict(state, assign=True)
    except RuntimeError as error:
        msg = (
            f"Bundle '{bundle.id}': the weights in {file} do not fit the network that its metadata describes "
            f"({str(error).splitlines()[-1].strip()}). {_ANOTHER_VERSION}"
        )
        raise BundleError(msg) from error
    for name, tensor in state.items():
        if not (tensor.abs() <= LARGEST_WEIGHT).all():  # not so for NaN, either
            msg = (
                f"Bundle '{bundle.id}': the weights '{name}' in {file} are not all finite and below "
                f"{LARGEST_WEIGHT:g}. {_ANOTHER_VERSION}"
            )
            raise BundleError(msg)
