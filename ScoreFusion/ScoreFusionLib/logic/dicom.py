"""What DICOM says of a volume, read and written where Slicer keeps it.

Of a loaded series the item in the subject hierarchy has a few tags (DICOMPlugin.addSeriesInSubjectHierarchy). The
volume node has the UIDs of its instances alone, which lead to all other tags in the DICOM database. Slicer's DICOM
export reads the item again; without tags there it would call our results CT.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import slicer
import vtk

from ScoreFusionLib.logic.once import once_per_volume

SLICE_AXIS = 2  # Slicer stacks the files of a series along k, whatever way they face
_LONGEST_DESCRIPTION = 64  # characters of the value representation LO
_LARGEST_NUMBER = (1 << 31) - 1  # of the value representation IS
_FIRST_NUMBER = 9001  # for a result whose input has no series number


@dataclass(frozen=True)
class Series:
    """The tags of a series that matter to us; empty or None where DICOM says nothing usable.

    Attributes:
        modality, description, protocol: As written in the header.
        number: Of the series.
        thickness: mm, of a slice across `SLICE_AXIS`.
        distance: mm, from slice to slice ("spacing between slices").
        field: Tesla.
    """

    modality: str = ""
    description: str = ""
    protocol: str = ""
    number: int | None = None
    thickness: float | None = None
    distance: float | None = None
    field: float | None = None

    def record(self) -> dict[str, Any]:
        """Return what is known under the names of the tags, for a provenance record."""
        known = {
            "Modality": self.modality,
            "SeriesDescription": self.description,
            "ProtocolName": self.protocol,
            "SeriesNumber": self.number,
            "SliceThickness": self.thickness,
            "SpacingBetweenSlices": self.distance,
            "MagneticFieldStrength": self.field,
        }
        return {name: value for name, value in known.items() if value not in ("", None)}


def read_series(node: Any) -> Series:
    """Return what DICOM says of a volume node; all empty if it does not come from DICOM."""
    hierarchy, item = _place(node)
    tags = _tags_in_database(node)

    def on_item(name: str) -> str:
        return str(hierarchy.GetItemAttribute(item, f"DICOM.{name}") or "").strip() if item else ""

    return Series(
        modality=on_item("Modality"),
        description=on_item("SeriesDescription"),
        protocol=tags.get("0018,1030", ""),
        number=_number(on_item("SeriesNumber"), int),
        thickness=_number(tags.get("0018,0050", ""), float),
        distance=_number(tags.get("0018,0088", ""), float),
        field=_number(tags.get("0018,0087", ""), float),
    )


def describe_result(node: Any, base: Any, what: str) -> None:
    """Write the tags that Slicer's DICOM export reads on the item of a result; those of an older volume are forgotten.

    Args:
        node: Result, uncertainty or another map, in the hierarchy beside its input.
        base: The input that it was made from.
        what: What the volume is, e.g. `FLAIR` or `uncertainty`.
    """
    hierarchy, item = _place(node)
    if not item:
        return
    series = read_series(base)
    number = _free_number(hierarchy, item, series.number)
    for name in hierarchy.GetItemAttributeNames(item):
        if name.startswith("DICOM."):
            hierarchy.RemoveItemAttribute(item, name)
    for name in hierarchy.GetItemUIDNames(item):
        hierarchy.RemoveItemUID(item, name)
    for name in ("DICOM.instanceUIDs", "DICOM.instanceNumbers"):
        node.RemoveAttribute(name)
    # In English whatever Slicer's language: other software looks for the word.
    description = f"synthetic {what} of {series.description or base.GetName()}"
    tags = {"Modality": "MR", "SeriesDescription": description[:_LONGEST_DESCRIPTION], "SeriesNumber": str(number)}
    for name, value in tags.items():
        hierarchy.SetItemAttribute(item, f"DICOM.{name}", value)


def _place(node: Any) -> tuple[Any, int]:
    """Return the subject hierarchy and the item of a node; the item is 0 where there is none."""
    scene = node.GetScene()
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene) if scene is not None else None
    return hierarchy, hierarchy.GetItemByDataNode(node) if hierarchy is not None else 0


@once_per_volume
def _tags_in_database(node: Any) -> dict[str, str]:
    """Return tag to value of the first instance of a volume; the database may have to open its file."""
    database = getattr(slicer, "dicomDatabase", None)  # None until Slicer's DICOM module has opened one
    uids = (node.GetAttribute("DICOM.instanceUIDs") or "").split()
    file = database.fileForInstance(uids[0]) if database is not None and uids else ""
    tags = ("0018,1030", "0018,0050", "0018,0088", "0018,0087")
    return {tag: str(database.fileValue(file, tag) or "").strip() for tag in tags} if file else {}


def _free_number(hierarchy: Any, item: int, number_of_input: int | None) -> int:
    """Return a series number that no other item of the study has; a result that has one of this input keeps it."""
    first = _FIRST_NUMBER
    if number_of_input is not None and number_of_input * 100 + 1 < _LARGEST_NUMBER:
        first = number_of_input * 100 + 1  # as scanners number what is derived from a series
    children = vtk.vtkIdList()
    hierarchy.GetItemChildren(hierarchy.GetItemParent(item), children)
    items = [children.GetId(index) for index in range(children.GetNumberOfIds())]
    numbers = {child: _number(hierarchy.GetItemAttribute(child, "DICOM.SeriesNumber"), int) for child in items}
    own = numbers.pop(item, None)
    if own is not None and first <= own < first + 99 and own not in numbers.values():
        return own
    return next(number for number in itertools.count(first) if number not in numbers.values())


def _number(text: str, kind: Callable[[str], Any]) -> Any:
    """Return the number above zero that a tag holds, None if it holds none."""
    try:
        value = kind(text)
    except ValueError:
        return None
    return value if value > 0 and math.isfinite(value) else None
