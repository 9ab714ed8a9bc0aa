"""From what a person types to a job that is ready to start."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ScoreFusionLib.i18n import tr as _
from ScoreFusionLib.logic.dicom import SLICE_AXIS
from ScoreFusionLib.logic.errors import RunError
from ScoreFusionLib.logic.geometry import affine_from_node
from ScoreFusionLib.logic.job import TranslateJob
from ScoreFusionLib.logic.models import ModelInfo, find_model
from ScoreFusionLib.logic.request import JobInputs, TranslateRequest
from ScoreFusionLib.logic.understanding import understand_node


def make_job(
    scene: Any,
    inputs: Any | Mapping[str, Any],
    model: str,
    *,
    output: Any | None = None,
    uncertainty: Any | bool = False,
    reference: Any | None = None,
    change: bool = False,
    all_frames: bool = False,
    guides: Mapping[str, Any] | None = None,
    stacks: Sequence[Any] = (),
    settings: Mapping[str, Any] | None = None,
) -> TranslateJob:
    """Check a request and return its job, not started yet.

    Args:
        scene: Receives the result.
        inputs: A volume node for the model's first condition, or condition name to volume node.
        model: Id, title or folder of a model.
        output, uncertainty: Nodes to fill; `uncertainty=True` makes a new one.
        reference: Volume to compare the result with.
        change: Also make a map of result minus input.
        all_frames: Process all frames of a sequence.
        guides: Name of an optional condition to volume node, as if it stood in `inputs`.
        stacks: Further stacks of the first input's contrast; for models that sharpen.
        settings: Fields of `TranslateRequest` other than `model` and `uncertainty`.

    Raises:
        RunError: An input is missing or superfluous, a setting is unknown, or a change map means nothing here.
    """
    info = find_model(model)
    if change and not info.keeps_contrast:
        msg = _(
            "The model '{model}' makes another contrast: result minus input would mean nothing. Leave out the map of "
            "what changed."
        ).format(model=info.id)
        raise RunError(msg)
    if len(stacks) and info.task != "super_resolution":
        msg = _("The model '{model}' makes another contrast and takes no further stacks of its input.").format(
            model=info.id
        )
        raise RunError(msg)
    volumes = match_inputs(info, _with_guides(info, inputs, guides or {}))
    wants_map = uncertainty is not None and uncertainty is not False
    request = _request(info, {**(settings or {}), **_from_header(info, volumes, settings or {})}, wants_map)
    node = uncertainty if wants_map and uncertainty is not True else None
    job_inputs = JobInputs(volumes, output, node, reference, change=change, all_frames=all_frames, stacks=stacks)
    return TranslateJob(scene, job_inputs, request, info)


def match_inputs(model: ModelInfo, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return condition name to node in the order of the model, optional ones that were not given left out.

    Raises:
        RunError: A condition is missing, or a name is not one of the model's.
    """
    names = [condition.name for condition in model.conditions]
    unknown = [name for name in given if name not in names]
    if unknown:
        msg = _("The model '{model}' has no input '{name}'. Its inputs: {names}.").format(
            model=model.id, name=unknown[0], names=", ".join(names)
        )
        raise RunError(msg)
    missing = [c.name for c in model.conditions if not c.optional and given.get(c.name) is None]
    if missing:
        msg = _("The model '{model}' needs a volume for '{name}'. Give it one, or choose another model.").format(
            model=model.id, name=missing[0]
        )
        raise RunError(msg)
    return {name: given[name] for name in names if given.get(name) is not None}


def _with_guides(model: ModelInfo, inputs: Any | Mapping[str, Any], guides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inputs by name, the guides among them.

    Raises:
        RunError: A guide is named as an input that is there already, or that the model cannot do without.
    """
    given = dict(inputs) if isinstance(inputs, Mapping) else {model.conditions[0].name: inputs}
    required = [condition.name for condition in model.conditions if not condition.optional]
    wrong = next((name for name in guides if name in given or name in required), None)
    if wrong is not None:
        msg = _("'{name}' is an input of its own, not a guide. Give it in `inputs`, and once.").format(name=wrong)
        raise RunError(msg)
    return {**given, **guides}


def _from_header(model: ModelInfo, volumes: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the slice thickness that DICOM tells of the base, as settings, where the caller does not give one."""
    base = next(iter(volumes.values()))
    is_told = settings.get("thickness") is not None or settings.get("axis") not in (None, SLICE_AXIS)
    if model.task != "super_resolution" or is_told or base.GetImageData() is None:
        return {}
    thickness = understand_node(base, affine_from_node(base), model.spacing).header_thickness
    return {} if thickness is None else {"thickness": thickness, "axis": SLICE_AXIS}


def _request(model: ModelInfo, settings: Mapping[str, Any], wants_map: bool) -> TranslateRequest:
    known = [f.name for f in dataclasses.fields(TranslateRequest) if f.name not in ("model", "uncertainty")]
    unknown = [name for name in settings if name not in known]
    if unknown:
        msg = _("Unknown setting '{name}'. Known settings: {known}.").format(name=unknown[0], known=", ".join(known))
        raise RunError(msg)
    if settings.get("preset") is not None and model.presets and settings["preset"] not in model.presets:
        msg = _("The model '{model}' has no preset '{preset}'. Its presets: {presets}.").format(
            model=model.id, preset=settings["preset"], presets=", ".join(model.presets)
        )
        raise RunError(msg)
    return TranslateRequest(model=model.id, uncertainty=wants_map, **settings)
