"""From a recipe to networks, and from another model's weights to a warm start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from scorefusion.bundle.folder import Bundle
from scorefusion.bundle.load import load_model
from scorefusion.errors import RequestError
from scorefusion.fusion.ensemble import PlaneEnsemble
from scorefusion.fusion.gate import AcquisitionGate
from scorefusion.fusion.members import Member
from scorefusion.fusion.rules import ScoreFusion, VolumeOnly, make_volume_network
from scorefusion.networks.sizes import UNetConfig, fusion_config, plane_config
from scorefusion.networks.unet import UNet
from scorefusion.training.recipe import Recipe


@dataclass(frozen=True, eq=False)
class PlaneEntry:
    """One plane network as a bundle lists it: the planes it serves, the conditions it sees, an ending for its file."""

    planes: tuple[str, ...]
    conditions: tuple[int, ...]
    suffix: str = ""

    @property
    def file(self) -> str:
        """Where its weights stand in a bundle."""
        where = f"_{self.planes[0]}" if len(self.planes) == 1 else ""
        return f"models/plane{where}{self.suffix}.safetensors"


def plane_entries(recipe: Recipe) -> list[PlaneEntry]:
    """The plane networks that a recipe asks for."""
    everything = tuple(range(len(recipe.conditions)))
    seen = [(index,) for index in everything] if recipe.networks.per_condition else [everything]
    planes = recipe.networks.planes
    served = [planes] if recipe.networks.shared else [(plane,) for plane in planes]
    suffixes = [f"_{index}" for index in everything] if len(seen) > 1 else [""]
    return [PlaneEntry(group, conditions, suffix) for conditions, suffix in zip(seen, suffixes, strict=True)
            for group in served]  # fmt: skip


def make_ensemble(recipe: Recipe) -> PlaneEnsemble:
    """Fresh plane networks."""
    layout = recipe.input_layout
    networks: list[UNet] = []
    members: list[Member] = []
    planes = {plane.value: plane for plane in recipe.planes}
    for number, entry in enumerate(plane_entries(recipe)):
        channels = layout.plane_channels(len(entry.conditions))
        config = plane_config(recipe.networks.size, channels, layout.plane_context_size)
        networks.append(UNet(_changed(config, recipe.networks.plane, "plane")))
        members.extend(Member(number, planes[name], entry.conditions) for name in entry.planes)
    return PlaneEnsemble(networks, members, layout)


def make_fusion(recipe: Recipe, ensemble: PlaneEnsemble) -> ScoreFusion:
    """A fresh fusion network over an ensemble: at first the plane average."""
    layout, count = recipe.input_layout, len(ensemble.members)
    config = fusion_config(
        recipe.networks.size, layout.volume_channels(len(recipe.conditions), count), count, layout.volume_context_size
    )
    config = _changed(config, recipe.networks.fusion, "fusion")
    try:
        network, alignment = make_volume_network(config, ensemble, with_features=recipe.networks.features)
    except ValueError as error:
        msg = f"networks.features: {error}. Change the stem or the levels of one of them, or set 'features: false'"
        raise RequestError(msg) from error
    gate = AcquisitionGate(count, layout.volume_context_size) if recipe.networks.prior else None
    return ScoreFusion(ensemble, network, alignment, gate)


def make_volume(recipe: Recipe) -> VolumeOnly:
    """A fresh 3D network alone."""
    layout = recipe.input_layout
    config = fusion_config(
        recipe.networks.size, layout.volume_channels(len(recipe.conditions), 0), 1, layout.volume_context_size
    )
    return VolumeOnly(UNet(_changed(config, recipe.networks.volume, "volume")), layout, recipe.networks.kind)


def _changed(config: UNetConfig, changes: Mapping[str, Any], which: str) -> UNetConfig:
    fixed = {"spatial_dims", "in_channels", "out_channels", "context_size"}
    unknown = sorted(set(changes) - (set(config.to_dict()) - fixed))
    if unknown:
        known = ", ".join(sorted(set(config.to_dict()) - fixed))
        msg = f"networks.{which}: {', '.join(unknown)} cannot be set; keys are {known}"
        raise RequestError(msg)
    try:
        return replace(config, **changes)
    except (TypeError, ValueError) as error:
        msg = f"networks.{which}: {error}"
        raise RequestError(msg) from error


@dataclass(frozen=True)
class WarmStart:
    """What was taken over from another model, for the log."""

    taken: int
    left: int

    def __str__(self) -> str:
        return f"{self.taken} tensors taken over, {self.left} of ours start afresh"


def warm_start(module: nn.Module, bundle: Bundle, base: str | None = None) -> WarmStart:
    """Copy whatever has the same name and shape in a bundle's model into `module` (an ensemble or a rule).

    Where the recipe has conditions that the bundle lacks, after those that it has, the weights that would look at them
    start at zero: the model says at first what the bundle's does.

    Args:
        base: of the recipe. If the bundle has another one, its last layers speak of another residual and are not taken.

    Raises:
        RequestError: less than half of it fits (biases of equal length are no common ground).
    """
    return _take_over(module, _named(load_model(bundle).rule), bundle, base)


def warm_start_conditions(ensemble: PlaneEnsemble, bundles: Sequence[Bundle], base: str | None = None) -> WarmStart:
    """Plane networks of an ensemble for each condition, each condition's from a model that was trained on it alone.

    Args:
        ensemble: made with `networks.per_condition`.
        bundles: one for each condition, in the recipe's order, with the same planes and the same sharing.
        base: as of `warm_start`.

    Raises:
        RequestError: a bundle's plane networks are not as many, or not of the recipe's sizes.
    """
    each = len(ensemble.plane_networks) // len(bundles)
    taken = 0
    for index, bundle in enumerate(bundles):
        networks = load_model(bundle).rule.ensemble.plane_networks
        if len(networks) != each:
            msg = f"warm start: model {bundle.id!r} has {len(networks)} plane networks, the recipe {each} a condition"
            raise RequestError(msg)
        for own, source in zip(ensemble.plane_networks[index * each : (index + 1) * each], networks, strict=True):
            taken += _take_over(own, dict(source.state_dict()), bundle, base).taken
    return WarmStart(taken, len(ensemble.state_dict()) - taken)


def _take_over(module: nn.Module, available: Mapping[str, Tensor], bundle: Bundle, base: str | None) -> WarmStart:
    own = _named(module)
    source = {name: value for name, value in available.items() if name in own}
    source = {name: _widened(name, value, own[name].shape, bundle) for name, value in source.items()}
    taken = {name: value for name, value in source.items() if own[name].shape == value.shape}
    if base not in (None, bundle.section["base"]):
        taken = {name: value for name, value in taken.items() if "head" not in name.split(".")}
    if len(taken) <= len(source) // 2:
        msg = f"warm start: model {bundle.id!r} has no network of the recipe's sizes; its weights cannot be taken over"
        raise RequestError(msg)
    for name, value in taken.items():
        own[name].data.copy_(value)
    return WarmStart(len(taken), len(own) - len(taken))


def _widened(name: str, value: Tensor, shape: Sequence[int], bundle: Bundle) -> Tensor:
    """Weights of an input layer with zeros for conditions that the bundle lacks; others as they are."""
    room, *layer = name.split(".")
    extra = shape[1] - value.shape[1] if value.dim() == len(shape) > 1 and value.shape[0] == shape[0] else 0
    if extra <= 0 or room not in ("ensemble", "network"):
        return value
    before = value.shape[1]  # of the context: plane, acquisition, presence; presence grows at the end
    if layer[-2:] == ["stem", "weight"]:
        section = bundle.section
        count, networks = len(section["conditions"]), section["networks"]
        if room == "ensemble":  # condition slabs, position, foreground, noisy slice
            first, config = count * (2 * section["slab_radius"] + 1), networks["planes"][0]["config"]
        else:  # noisy volume, conditions, position, foreground, predictions
            first, config = 1 + count, networks["fusion"]["config"]
        before = first * value.shape[1] // config["in_channels"]  # neighbours have become channels
    elif layer[-3:] != ["embedding", "context", "weight"]:
        return value
    blank = value.new_zeros(shape[0], extra, *value.shape[2:])
    return torch.cat([value[:, :before], blank, value[:, before:]], dim=1)


def _named(module: nn.Module) -> dict[str, Tensor]:
    """Tensors by name, the ensemble's always under `ensemble.`."""
    prefix = "ensemble." if isinstance(module, PlaneEnsemble) else ""
    return {prefix + name: value for name, value in module.state_dict().items()}
