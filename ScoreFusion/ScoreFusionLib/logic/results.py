"""The end of a run: images become nodes, named, placed, coloured and signed."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import slicer
import vtk
from numpy.typing import NDArray

from ScoreFusionLib.i18n import tr as _
from ScoreFusionLib.logic import dicom, display, node_import
from ScoreFusionLib.logic.geometry import Frame
from ScoreFusionLib.logic.models import ModelInfo
from ScoreFusionLib.logic.request import JobInputs
from ScoreFusionLib.logic.sequences import SequenceOfResults

Image = tuple[vtk.vtkImageData, "NDArray"]  # voxels, and affine to the frame of the run


@dataclass
class JobResult:
    """What a run leaves in the scene, and what is known about it.

    Attributes:
        node: Result volume.
        uncertainty, error_map, change_map: Volumes, None if not asked for.
        guides_map: What the guides changed; of a run of `GuidesPart` alone.
        sequences: The sequence nodes made for a 4D input.
        quality: The engine's figures; `reference` holds those against the reference volume.
        provenance: The engine's record.
        warnings: What the engine or we had to say, in sentences.
        seconds: From the start to the last node.
    """

    node: Any
    uncertainty: Any | None = None
    error_map: Any | None = None
    change_map: Any | None = None
    guides_map: Any | None = None
    sequences: list[Any] = field(default_factory=list)
    quality: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    seconds: float = 0.0


def place_results(
    scene: Any,
    inputs: JobInputs,
    model: ModelInfo,
    frame: Frame,
    *,
    images: tuple[list[Image], list[Image], list[Image], list[Image]],
    quality: dict[str, Any],
    provenance: dict[str, Any],
) -> Generator[Any, None, JobResult]:
    """Add the result, uncertainty, error map and change map to the scene; a generator that returns a `JobResult`.

    Args:
        images: For each of the four, one image per frame; an empty list leaves it out.
    """
    results, uncertainties, errors, changes = images
    base = next(iter(inputs.volumes.values()))
    name = node_import.result_name(base.GetName(), model.result_label)
    placer = _Placer(scene, base, frame.transform_id, provenance, model.result_label)

    node = node_import.volume_node(scene, name, inputs.output)
    display.show_like(node, results[0][0], base if model.keeps_contrast else None)
    yield from placer.place(node, results, "result")
    done = JobResult(node=node, quality=quality, provenance=provenance)
    if uncertainties:
        title = _("{name} - uncertainty").format(name=node.GetName())
        done.uncertainty = node_import.volume_node(scene, title, inputs.uncertainty)
        display.show_as_map(done.uncertainty, uncertainties[0][0], _("Uncertainty"), _("SD"))
        yield from placer.place(done.uncertainty, uncertainties, "uncertainty")
    if errors:
        done.error_map = node_import.volume_node(scene, _("{name} - error").format(name=node.GetName()), None)
        display.show_as_map(done.error_map, errors[0][0], _("Error"), "")
        yield from placer.place(done.error_map, errors, "error")
    if changes:
        done.change_map = node_import.volume_node(scene, _("{name} - what changed").format(name=node.GetName()), None)
        display.show_as_change(done.change_map, changes[0][0], _("Result minus input"), _("input units"))
        yield from placer.place(done.change_map, changes, "change")
    done.sequences = placer.sequences
    return done


def place_guides_map(
    scene: Any, result: Any, base: Any, image: Image, provenance: dict[str, Any]
) -> Generator[Any, None, JobResult]:
    """Add the map of what the guides changed; a generator that returns a `JobResult` with `result` and the map.

    Args:
        result: The node that was made with the guides; the map is put under its transform.
        base: The scan to restore.
        image: Result with the guides minus the one without.
        provenance: Record of the run without guides.
    """
    node = node_import.volume_node(scene, _("{name} - what the guides changed").format(name=result.GetName()), None)
    display.show_as_change(node, image[0], _("With minus without guides"), _("input units"))
    placer = _Placer(scene, base, result.GetTransformNodeID(), provenance, "")
    yield from placer.place(node, [image], "guides")
    return JobResult(node=result, guides_map=node, provenance=provenance)


class _Placer:
    """Fills nodes and puts them beside the input."""

    def __init__(self, scene: Any, base: Any, transform_id: str | None, provenance: dict[str, Any], label: str) -> None:
        self.sequences: list[Any] = []
        self._scene = scene
        self._base = base
        self._transform_id = transform_id
        self._provenance = provenance
        self._label = label

    def place(self, node: Any, images: list[Image], role: str) -> Iterator[None]:
        """Fill `node` with the only image, or make a sequence of all of them which `node` shows."""
        node_import.fill_node(node, *images[0], self._transform_id)
        node_import.write_provenance(node, self._provenance, role=role)
        node_import.place_beside(node, self._base)
        dicom.describe_result(node, self._base, self._label if role == "result" else role)
        yield
        if len(images) == 1:
            return
        sequence = SequenceOfResults(self._base, node.GetName())
        for index, (image, affine) in enumerate(images):
            volume = slicer.vtkMRMLScalarVolumeNode()
            volume.SetName(node.GetName())
            node_import.fill_node(volume, image, affine, None)
            node_import.write_provenance(volume, self._provenance, role=role)
            sequence.add(index, volume)
            yield
        sequence.browse(node)
        self.sequences.append(sequence.node)


def read_record(path: object, output: Path) -> dict[str, Any]:
    """Return the worker's provenance record: of the file that it named, else beside its output; empty without one."""
    sidecar = Path(str(path)) if path else output.with_suffix(".json")
    try:
        record = json.loads(sidecar.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def mean_of(qualities: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures of a run: those of its only frame, or the mean over the frames."""
    mean: dict[str, Any] = {}
    for key, value in qualities[0].items():
        if isinstance(value, dict):
            mean[key] = mean_of([quality.get(key, {}) or value for quality in qualities])
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            mean[key] = sum(float(quality.get(key, value)) for quality in qualities) / len(qualities)
        else:
            mean[key] = value
    return mean
