"""From a bundle on disk to networks that run: every size, plane and condition is read from the bundle's metadata."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from scorefusion.bundle import Bundle
from scorefusion.errors import BundleError, RequestError
from scorefusion.fusion import (
    AcquisitionPrior,
    AlternatingPlanes,
    FeatureAlignment,
    FusionRule,
    InputRule,
    Member,
    PlaneAverage,
    PlaneEnsemble,
    ScoreFusion,
    SinglePlane,
)
from scorefusion.planes import Plane
from scorefusion.schedule import NoiseSchedule
from scorefusion.unet import UNet, UNetConfig

ALIGNMENT_PREFIX = "alignment."
NETWORK_PREFIX = "network."
PRIOR_PREFIX = "prior."
Kind = TypeVar("Kind", bound=nn.Module)


@dataclass
class Model:
    """A loaded bundle.

    Attributes:
        bundle: where it came from.
        ensemble: the plane networks.
        rule: how their predictions are fused: learned fusion if the bundle has it, else the average.
        schedule: noise levels and what a prediction means.
    """

    bundle: Bundle
    ensemble: PlaneEnsemble
    rule: FusionRule
    schedule: NoiseSchedule

    @property
    def section(self) -> dict[str, Any]:
        """The bundle's own part of the metadata."""
        return self.bundle.section

    def choose_rule(self, name: str | None) -> FusionRule:
        """A fusion rule by name: "fusion", "average", "alternating", or a plane's name; None = the bundle's own."""
        if name is None:
            return self.rule
        if name == "fusion":
            if not isinstance(self.rule, ScoreFusion):
                msg = f"Bundle '{self.bundle.id}' has no fusion network. Use rule 'average'."
                raise RequestError(msg)
            return self.rule
        if name == "average":
            return PlaneAverage(self.ensemble)
        if name == "alternating":
            return AlternatingPlanes(self.ensemble)
        planes = {plane.value: plane for plane in Plane}
        if name not in planes:
            msg = f"Unknown fusion rule '{name}'; choose fusion, average, alternating, {', '.join(planes)}."
            raise RequestError(msg)
        return SinglePlane(self.ensemble, planes[name])


def input_rule(section: dict[str, Any]) -> InputRule:
    """What the networks of this bundle are shown."""
    return InputRule(
        slab_radius=section["slab_radius"],
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
    section = bundle.section
    names = [condition["name"] for condition in section["conditions"]]
    networks: list[UNet] = []
    members: list[Member] = []
    for number, entry in enumerate(section["networks"]["planes"]):
        network = _empty(UNet, _config(entry, bundle))
        _load_weights(network, bundle.load_state_dict(entry["file"]), bundle, entry["file"])
        networks.append(network)
        conditions = tuple(names.index(name) for name in entry["conditions"])
        members.extend(Member(number, Plane(plane), conditions) for plane in entry["planes"])
    ensemble = PlaneEnsemble(networks, members, input_rule(section))
    ensemble.autocast = None if autocast in (None, torch.float32) else autocast
    rule: FusionRule = PlaneAverage(ensemble)
    entry = section["networks"].get("fusion")
    if entry is not None:
        rule = _load_fusion(ensemble, bundle, entry)
    rule.eval().requires_grad_(False).to(device)
    for network in networks:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Model(bundle, ensemble, rule, NoiseSchedule.from_config(section["schedule"]))


def _load_fusion(ensemble: PlaneEnsemble, bundle: Bundle, entry: dict[str, Any]) -> ScoreFusion:
    state = bundle.load_state_dict(entry["file"])
    network = _empty(UNet, _config(entry, bundle))
    _load_weights(network, _part(state, NETWORK_PREFIX), bundle, entry["file"])
    aligned = _part(state, ALIGNMENT_PREFIX)
    alignment = None
    if aligned:
        alignment = _empty(FeatureAlignment, ensemble.plane_networks, ensemble.members, network)
        _load_weights(alignment, aligned, bundle, entry["file"])
    prior = None
    learned = _part(state, PRIOR_PREFIX)
    if learned:
        prior = _empty(AcquisitionPrior, len(ensemble.members), ensemble.rule.volume_context_size)
        _load_weights(prior, learned, bundle, entry["file"])
    return ScoreFusion(ensemble, network, alignment, prior)


def fusion_state(rule: ScoreFusion) -> dict[str, Tensor]:
    """The fusion's own weights (without the plane networks) as they stand in a bundle."""
    state = {NETWORK_PREFIX + key: value for key, value in rule.network.state_dict().items()}
    if rule.alignment is not None:
        state |= {ALIGNMENT_PREFIX + key: value for key, value in rule.alignment.state_dict().items()}
    if rule.prior is not None:
        state |= {PRIOR_PREFIX + key: value for key, value in rule.prior.state_dict().items()}
    return state


def _config(entry: dict[str, Any], bundle: Bundle) -> UNetConfig:
    try:
        return UNetConfig.from_dict(entry["config"])
    except (TypeError, ValueError) as error:
        msg = (
            f"Bundle '{bundle.id}': the configuration of the network in {entry['file']} cannot be used ({error}). "
            "The bundle was made by another version or is damaged: import it again."
        )
        raise BundleError(msg) from error


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
            f"({str(error).splitlines()[-1].strip()}). "
            "The bundle was made by another version or is damaged: import it again."
        )
        raise BundleError(msg) from error
