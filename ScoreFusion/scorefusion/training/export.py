"""From a finished training run to a bundle: networks, schedule, presets, domain and card in one folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from scorefusion.bundle.folder import Bundle
from scorefusion.bundle.load import fusion_state
from scorefusion.bundle.write import write_bundle
from scorefusion.errors import RequestError
from scorefusion.fusion.ensemble import PlaneEnsemble
from scorefusion.fusion.rules import FusionRule, ScoreFusion, VolumeOnly
from scorefusion.imaging.intensity_map import IntensityMaps
from scorefusion.training.networks import plane_entries
from scorefusion.training.recipe import Recipe

REFERENCE = "Zhu et al., Score-Fusion, ICML 2025, arXiv 2501.07430"
INTENDED_USE = "Research only. The result is synthetic and not for diagnosis."

PRESETS: dict[str, dict[str, Any]] = {
    "fast": {
        "steps": 1,
        "solver": "ddim",
        "samples": 1,
        "note": "One evaluation: each voxel's expected value (posterior mean). Highest PSNR, smoothest texture.",
    },
    "balanced": {
        "steps": 4,
        "solver": "ddim",
        "samples": 1,
        "note": "Four evaluations: crisper texture, drawn from what the model believes; PSNR a little below fast.",
    },
    "best": {
        "steps": 4,
        "solver": "ddim",
        "eta": 1.0,
        "samples": 8,
        "note": "Mean of eight samples of four evaluations, with their spread as uncertainty. Slow; PSNR near fast.",
    },
}
#: Noise and v cannot be read at pure noise: one evaluation there says nothing.
PRESETS_FROM_NOISE: dict[str, dict[str, Any]] = {
    "fast": {"steps": 10, "solver": "ddim", "samples": 1, "note": "Ten evaluations."},
    "balanced": {"steps": 20, "solver": "ddim", "samples": 1, "note": "Twenty evaluations."},
    "best": {
        "steps": 50,
        "solver": "ddpm",
        "samples": 1,
        "note": "Fifty evaluations, ancestral as in the paper; our spacing of the levels.",
    },
}
UNCERTAINTY = {"steps": 4, "samples": 4, "solver": "ddim", "eta": 1.0}
DOMAIN = {"modality": "MR", "anatomy": "human brain, with or without skull", "extent_mm": [90.0, 300.0]}


def export_bundle(
    recipe: Recipe,
    rule: FusionRule,
    folder: Path,
    training: dict[str, Any],
    near: Path | None = None,
    maps: IntensityMaps | None = None,
) -> Bundle:
    """Write the bundle of a trained rule.

    Args:
        recipe: of the run.
        rule: the averaged weights in place: a plane ensemble's rule, a fusion, or a 3D network alone.
        folder: of the new bundle; one that is there is replaced.
        training: facts for the metadata: recipe, subjects, seconds.
        near: folder that the recipe's card and licence files count from.
        maps: of a mapped condition.
    """
    networks, states = _networks(recipe, rule)
    section: dict[str, Any] = {
        "task": recipe.task,
        "conditions": [
            {
                "name": condition.name,
                "contrasts": list(condition.contrasts),
                "optional": condition.optional,
                "median": condition.median,
                "description": condition.description,
            }
            for condition in recipe.conditions
        ],
        "target": _target(recipe),
        "spacing_mm": list(recipe.spacing_mm),
        "base": recipe.networks.base,
        "base_rounds": recipe.networks.base_rounds,
        "slice_profile": "box",
        "residual_gain": recipe.networks.residual_gain,
        "planes": list(recipe.networks.planes),
        "slab_radius": recipe.networks.slab_radius,
        "inputs": _inputs(rule),
        "networks": networks,
        "schedule": recipe.noise_schedule.to_config(),
        "presets": _presets(recipe),
        "uncertainty": recipe.output.uncertainty or UNCERTAINTY,
        "domain": {**DOMAIN, **recipe.output.domain},
        "training": training,
        "quality": {},
        "experimental": recipe.output.experimental,
        "licence": recipe.output.licence_name,
        "citation": REFERENCE,
    }
    metadata = {
        "name": recipe.name,
        "version": recipe.output.version,
        "description": recipe.output.description or _description(recipe),
        "authors": "The ScoreFusion contributors",
        "copyright": "Copyright (c) the ScoreFusion contributors",
        "references": [REFERENCE],
        "intended_use": INTENDED_USE,
        "scorefusion": section,
    }
    if maps is not None:
        section.update(maps.section)
    card = _text(recipe.output.card, near) or plain_card(recipe, metadata, training)
    licence = _text(recipe.output.licence, near) or f"{recipe.output.licence_name}\n"
    return write_bundle(folder, metadata, states, card, licence, overwrite=True)


def _networks(recipe: Recipe, rule: FusionRule) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """The metadata's `networks` and the weights by file."""
    if isinstance(rule, VolumeOnly):
        file = "models/volume.safetensors"
        entry = {"file": file, "kind": recipe.networks.kind, "config": rule.network.config.to_dict()}
        return {"planes": [], "volume": entry}, {file: rule.network.state_dict()}
    ensemble: PlaneEnsemble = rule.ensemble
    names = [condition.name for condition in recipe.conditions]
    planes, states = [], {}
    for entry_, network in zip(plane_entries(recipe), ensemble.plane_networks, strict=True):
        planes.append(
            {
                "file": entry_.file,
                "planes": list(entry_.planes),
                "conditions": [names[index] for index in entry_.conditions],
                "config": network.config.to_dict(),
            }
        )
        states[entry_.file] = network.state_dict()
    networks: dict[str, Any] = {"planes": planes, "fusion": None}
    if isinstance(rule, ScoreFusion):
        file = "models/fusion.safetensors"
        networks["fusion"] = {"file": file, "config": rule.network.config.to_dict()}
        states[file] = fusion_state(rule)
    return networks, states


def _inputs(rule: FusionRule) -> dict[str, Any]:
    inputs = rule.layout
    return {
        "position": inputs.position,
        "foreground": inputs.foreground,
        "plane_context": inputs.plane_context,
        "acquisition_context": inputs.acquisition_context,
        "presence_context": inputs.presence_context,
    }


def _target(recipe: Recipe) -> dict[str, Any]:
    coarse = next((condition.name for condition in recipe.conditions if condition.coarse), None)
    if coarse is not None:
        return {"name": recipe.target.name, "same_contrast_as": coarse, "units": "input units", "range": None}
    first, last = recipe.target.range or (0.0, 1000.0)
    return {"name": recipe.target.name, "same_contrast_as": None, "units": "arbitrary units", "range": [first, last],
            "median": recipe.target.median}  # fmt: skip


def _presets(recipe: Recipe) -> dict[str, dict[str, Any]]:
    if recipe.output.presets:
        return recipe.output.presets
    if recipe.networks.kind == "regression" and "volume" in recipe.stages:
        return {"fast": PRESETS["fast"]}
    return PRESETS if recipe.networks.prediction == "clean" else PRESETS_FROM_NOISE


def _description(recipe: Recipe) -> str:
    given = " + ".join(condition.name for condition in recipe.conditions)
    return f"Sharpens {given}." if recipe.task == "super_resolution" else f"{given} to {recipe.target.name}."


def plain_card(recipe: Recipe, metadata: dict[str, Any], training: dict[str, Any]) -> str:
    """A card that says what is known without an evaluation, and that nothing was measured yet."""
    minutes = {name: f"{seconds / 60:.0f} min" for name, seconds in training.get("seconds", {}).items()}
    lines = [
        f"# {recipe.name} {recipe.output.version}",
        "",
        metadata["description"],
        "",
        f"**{INTENDED_USE}**",
        "",
        "## Training",
        "",
        f"Made by `scorefusion train` from the recipe in `configs/metadata.json` (seed {recipe.seed}).",
        f"Training time: {', '.join(f'{name} {text}' for name, text in minutes.items()) or 'not recorded'} on "
        f"{training.get('processes', 1)} process(es), {training.get('device', 'unknown device')}.",
        f"Persons seen: {', '.join(training.get('subjects', [])) or 'none (synthetic heads only)'}.",
        "",
        "## Quality",
        "",
        "Not measured yet: run `scorefusion evaluate` on persons that are not in the list above.",
    ]
    return "\n".join(lines) + "\n"


def _text(name: str | None, near: Path | None) -> str | None:
    if name is None:
        return None
    path = Path(name) if near is None else near / name
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        msg = f"output: {path} cannot be read ({error.strerror}); give a file beside the recipe, or leave the key out"
        raise RequestError(msg) from error
