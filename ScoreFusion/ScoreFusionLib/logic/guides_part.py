"""What the guides of a run changed: the same run once more without them, and the difference of the two results."""

from __future__ import annotations

from dataclasses import replace

from ScoreFusionLib.logic import engine
from ScoreFusionLib.logic.geometry import affine_from_node
from ScoreFusionLib.logic.job import Steps, TranslateJob
from ScoreFusionLib.logic.node_export import export_steps
from ScoreFusionLib.logic.results import place_guides_map, read_record
from ScoreFusionLib.logic.run_state import RunState


class GuidesPart(TranslateJob):
    """Runs a finished job without its guides, same seed and settings, and maps result with minus result without.

    Args:
        done: A finished job; `can_show_guides` says whether its guides can be shown.
    """

    def __init__(self, done: TranslateJob) -> None:
        required = {condition.name for condition in done.model.conditions if not condition.optional}
        volumes = {name: node for name, node in done.inputs.volumes.items() if name in required}
        inputs = replace(done.inputs, volumes=volumes, output=None, uncertainty=None, reference=None, change=False)
        super().__init__(done.scene, inputs, replace(done.request, uncertainty=False), done.model)
        if done.result is None or done.frame is None:
            msg = "the guides of a run can be shown when it has finished"
            raise ValueError(msg)
        self._result, self._frame = done.result.node, done.frame  # the scans are sent from where they lay then

    def _course(self) -> Steps:
        result, frame = self._result, self._frame
        self._make_folder()
        path = self._require_folder() / "with-guides.nii"
        self._naming.learn(path, result.GetName())
        yield from self._unless_cancelled(export_steps(result, affine_from_node(result), path))
        files = yield from self._export(self.inputs.scans, frame)
        event = yield from self._work(self._command(files), "")
        record = self._naming(read_record(event.get("provenance"), files.output))
        change_map = files.output.with_name("change.nii")
        compare = [*engine.quality_command(path), "--input", str(files.output), "--change-map", str(change_map)]
        yield from self._work(compare, "")
        image = yield from self._read(change_map)
        self._enter(RunState.IMPORTING)
        yield
        base = next(iter(self.inputs.volumes.values()))
        provenance = self._provenance(record, frame)
        self.result = yield from place_guides_map(self.scene, result, base, image, provenance)


def can_show_guides(job: TranslateJob) -> bool:
    """True if a finished job had guides and made one volume of it, not a sequence."""
    optional = {condition.name for condition in job.model.conditions if condition.optional}
    return not job.inputs.all_frames and bool(optional & set(job.inputs.volumes))
