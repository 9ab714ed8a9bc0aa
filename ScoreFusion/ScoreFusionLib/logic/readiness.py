"""Why a run cannot be started yet: the tooltip of the Apply button."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ScoreFusionLib.i18n import tr as _
from ScoreFusionLib.logic.exam import Scan, problem_of, stacks_of
from ScoreFusionLib.logic.models import ModelInfo


def why_not(
    model: ModelInfo | None,
    problem: str,
    chosen: Mapping[str, Any],
    *,
    preset: str,
    scans: Sequence[Scan] = (),
    output: Any | None = None,
    uncertainty: Any | None = None,
    reference: Any | None = None,
) -> str:
    """Return the reason why Apply is off; empty if it may be pressed.

    Args:
        model: Chosen model; None if there is none or it cannot be used, as `problem` tells.
        chosen: Condition name to volume node.
        preset: Chosen preset.
        scans: The rows of the exam.
        output, uncertainty: Nodes to fill.
        reference: Node to compare with.
    """
    if model is None:
        return problem or _("Choose a model.")
    for condition in model.conditions:
        node = chosen.get(condition.name)
        if node is None and not condition.optional:
            return _("Choose a volume for '{name}'.").format(name=condition.label)
        if node is not None and node.GetImageData() is None:
            return _("'{volume}' holds no voxels. Choose another volume.").format(volume=node.GetName())
    if problem_of(scans):
        return problem_of(scans)
    used = [node.GetID() for node in [*chosen.values(), *stacks_of(scans)]]
    if len(used) != len(set(used)):
        return _("The same volume is chosen for two inputs.")
    for node in (output, uncertainty):
        if node is not None and node.GetID() in used:
            return _("'{volume}' is an input; choose another volume for the result.").format(volume=node.GetName())
    if output is not None and uncertainty is not None and output.GetID() == uncertainty.GetID():
        return _("Result and uncertainty cannot go into the same volume.")
    if reference is not None and any(
        node is not None and node.GetID() == reference.GetID() for node in (output, uncertainty)
    ):
        return _("The volume to compare with would be overwritten. Choose another one for the result.")
    if model.presets and preset not in model.presets:
        return _("This model has no preset '{preset}'. Choose another one.").format(preset=preset)
    return ""
