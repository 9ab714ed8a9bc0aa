"""Tiny networks, fusion rules and bundles with random weights. No layer is zero: zeros would hide what they are fed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scorefusion.bundle.folder import Bundle
from scorefusion.bundle.load import fusion_state
from scorefusion.bundle.write import write_bundle
from scorefusion.fusion.ensemble import PlaneEnsemble
from scorefusion.fusion.features import FeatureAlignment
from scorefusion.fusion.inputs import InputLayout
from scorefusion.fusion.members import Member
from scorefusion.fusion.planes import Plane
from scorefusion.fusion.rules import FusionRule, ScoreFusion, VolumeKind, VolumeOnly
from scorefusion.networks.sizes import UNetConfig
from scorefusion.networks.unet import UNet

COMPACT_LIKE = {
    "channels": (6, 8),
    "blocks": 1,
    "stem_factor": 2,
    "normalisation": "none",
    "resampling": "plain",
    "embedding_size": 8,
}
PAPER_LIKE = {"channels": (4, 8), "blocks": 2, "attention": True, "head_width": 4, "embedding_size": 8}
PRESETS = {
    "fast": {"steps": 1, "solver": "ddim", "note": "one step"},
    "balanced": {"steps": 3, "solver": "dpmpp", "note": "three steps"},
    "best": {"steps": 2, "solver": "ddpm", "samples": 3, "note": "three samples"},
}


def randomise(module: nn.Module, seed: int = 0, std: float = 0.15) -> None:
    """Gaussian weights everywhere; the global generator is left alone."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data.copy_(std * torch.randn(parameter.shape, generator=generator))


def tiny_network(
    dims: int,
    in_channels: int,
    out_channels: int = 1,
    context_size: int = 0,
    *,
    seed: int = 0,
    std: float = 0.15,
    **settings: Any,
) -> UNet:
    """A U-Net like the compact ones; `settings` are fields of `UNetConfig`."""
    fields = {**COMPACT_LIKE, **settings}
    network = UNet(UNetConfig(dims, in_channels, out_channels, context_size=context_size, **fields))
    randomise(network, seed, std)
    return network.eval()


def tiny_ensemble(
    layout: InputLayout | None = None,
    *,
    shared: bool = True,
    groups: Sequence[tuple[int, ...]] = ((0,),),
    widths: Sequence[tuple[int, ...]] = (),
    std: float = 0.15,
) -> PlaneEnsemble:
    """Three planes a group of conditions.

    Args:
        layout: what the networks are shown.
        shared: one network serves the three planes of a group, else each has its own.
        groups: conditions that are seen together, as indices.
        widths: `channels` of each network, and so its depth; empty = all alike.
    """
    layout = layout or InputLayout(slab_radius=1, plane_context=True, acquisition_context=True, residual_gain=4.0)
    networks: list[UNet] = []
    members: list[Member] = []
    for conditions in groups:
        for plane in Plane:
            if plane is Plane.SAGITTAL or not shared:
                settings = {"channels": widths[len(networks)]} if widths else {}
                channels, context = layout.plane_channels(len(conditions)), layout.plane_context_size
                networks.append(tiny_network(2, channels, 1, context, seed=len(networks), std=std, **settings))
            members.append(Member(len(networks) - 1, plane, conditions))
    return PlaneEnsemble(networks, members, layout).eval()


def tiny_fusion(
    ensemble: PlaneEnsemble,
    *,
    features: bool = True,
    fresh: bool = False,
    conditions: int = 1,
    std: float = 0.1,
    **settings: Any,
) -> ScoreFusion:
    """A fusion network over an ensemble; `fresh` = at its initialisation, where it is the plane average."""
    layout, members = ensemble.layout, len(ensemble.members)
    channels = layout.volume_channels(conditions, members)
    network = tiny_network(3, channels, members, layout.volume_context_size, seed=5, std=std, **settings)
    alignment = FeatureAlignment(ensemble.plane_networks, ensemble.members, network) if features else None
    if fresh:
        for parameter in network.head.parameters():
            nn.init.zeros_(parameter)
    elif alignment is not None:
        randomise(alignment, 6, std)
    return ScoreFusion(ensemble, network, alignment).eval()


def tiny_volume(
    layout: InputLayout, kind: VolumeKind = "diffusion", conditions: int = 1, std: float = 0.1, **settings: Any
) -> VolumeOnly:
    """A 3D network alone."""
    channels = layout.volume_channels(conditions, 0)
    return VolumeOnly(
        tiny_network(3, channels, 1, layout.volume_context_size, seed=7, std=std, **settings), layout, kind
    ).eval()


def tiny_metadata(
    rule: FusionRule, names: Sequence[str] = ("image",), task: str = "super_resolution", **section: Any
) -> dict[str, Any]:
    """Complete metadata of a rule, apart from what `write_bundle` fills in; `section` overrides its keys."""
    inputs, restoring = rule.layout, task == "super_resolution"
    alone = isinstance(rule, VolumeOnly)
    presets = {"fast": PRESETS["fast"]} if alone and rule.kind == "regression" else PRESETS
    return {
        "name": "Tiny model",
        "version": "1.2.0",
        "description": "Random networks, for tests.",
        "scorefusion": {
            "format_version": 1,
            "task": task,
            "conditions": [
                {"name": name, "contrasts": ["t1", "t2"] if restoring else [name], "optional": n > 0}
                for n, name in enumerate(names)
            ],
            "target": {
                "name": "image" if restoring else "flair",
                "same_contrast_as": names[0] if restoring else None,
                "units": "input units" if restoring else "arbitrary",
                "range": None if restoring else [0, 1000],
            },
            "spacing_mm": [1.0, 1.0, 1.0],
            "base": "back_projection" if restoring else "condition",
            "base_rounds": 2,
            "residual_gain": inputs.residual_gain,
            **({} if alone else {"planes": [plane.value for plane in Plane], "slab_radius": inputs.slab_radius}),
            "inputs": {
                "position": inputs.position,
                "foreground": inputs.foreground,
                "plane_context": inputs.plane_context,
                "acquisition_context": inputs.acquisition_context,
                "presence_context": inputs.presence_context,
            },
            "networks": _networks(rule, names),
            "schedule": {"kind": "cosine", "num_train_timesteps": 1000, "prediction": inputs.prediction},
            "presets": {name: dict(preset) for name, preset in presets.items()},
            "domain": {
                "anatomy": "human brain",
                "modality": "MR",
                "spacing_mm": [0.7, 1.3],
                "factor": [1.25, 8],
                "extent_mm": [10, 350],
            },
            "training": {},
            "quality": {},
            "licence": "Apache-2.0",
            "citation": "",
            **section,
        },
    }


def _networks(rule: FusionRule, names: Sequence[str]) -> dict[str, Any]:
    if isinstance(rule, VolumeOnly):
        config = rule.network.config.to_dict()
        return {"volume": {"file": "models/volume.safetensors", "kind": rule.kind, "config": config}}
    members, planes = rule.ensemble.members, []
    for number, network in enumerate(rule.ensemble.plane_networks):
        mine = [member for member in members if member.network == number]
        planes.append(
            {
                "file": _plane_file(rule, number),
                "planes": [member.plane.value for member in mine],
                "conditions": [names[index] for index in mine[0].conditions],
                "config": network.config.to_dict(),
            }
        )
    fusion = None
    if isinstance(rule, ScoreFusion):
        fusion = {"file": "models/fusion.safetensors", "config": rule.network.config.to_dict()}
    return {"planes": planes, "fusion": fusion}


def _plane_file(rule: FusionRule, number: int) -> str:
    suffix = str(number) if len(rule.ensemble.networks) > 1 else ""
    return f"models/plane{suffix}.safetensors"


def tiny_states(rule: FusionRule) -> dict[str, dict[str, Tensor]]:
    """A rule's weights by file."""
    if isinstance(rule, VolumeOnly):
        return {"models/volume.safetensors": rule.network.state_dict()}
    networks = rule.ensemble.plane_networks
    states = {_plane_file(rule, number): network.state_dict() for number, network in enumerate(networks)}
    if isinstance(rule, ScoreFusion):
        states["models/fusion.safetensors"] = fusion_state(rule)
    return states


def write_tiny_bundle(
    folder: Path, rule: FusionRule, names: Sequence[str] = ("image",), task: str = "super_resolution", **section: Any
) -> Bundle:
    """A rule as a bundle on disk; `section` overrides keys of its metadata."""
    metadata = tiny_metadata(rule, names, task, **section)
    return write_bundle(folder, metadata, tiny_states(rule), "# Tiny model\n\nFor tests.\n", "Apache-2.0\n")
