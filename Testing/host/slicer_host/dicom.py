"""DICOM as Slicer keeps it: a database of instances, series loaded from it, and what an export would write.

Where a tag lies after loading follows Slicer's DICOMScalarVolumePlugin and DICOMPlugin.addSeriesInSubjectHierarchy: the
volume node knows the UIDs of its instances and nothing else, a few tags of the series are on its item in the subject
hierarchy, and all others (slice thickness, field strength) have to be asked of the database.
"""

from __future__ import annotations

import uuid
from typing import Any

import slicer

_SERIES_TAGS = {
    "Modality": "0008,0060",
    "SeriesNumber": "0020,0011",
    "FrameOfReferenceUID": "0020,0052",
    "SeriesDescription": "0008,103E",
    "SeriesDate": "0008,0021",
    "SeriesTime": "0008,0031",
    "ContentDate": "0008,0023",
    "ContentTime": "0008,0033",
    "Manufacturer": "0008,0070",
    "Model": "0008,1090",
}
_OTHER_TAGS = {
    "ProtocolName": "0018,1030",
    "SliceThickness": "0018,0050",
    "SpacingBetweenSlices": "0018,0088",
    "MagneticFieldStrength": "0018,0087",
    "PatientID": "0010,0020",
    "StudyInstanceUID": "0020,000D",
    "SeriesInstanceUID": "0020,000E",
    "SOPInstanceUID": "0008,0018",
}
TAGS = {**_SERIES_TAGS, **_OTHER_TAGS}
# What DICOMScalarVolumePlugin.examineForExport offers for the tags that no item gives.
_EXPORT_DEFAULTS = {
    "SeriesDescription": "No series description",
    "Modality": "CT",
    "Manufacturer": "Unknown manufacturer",
    "Model": "Unknown model",
    "SeriesNumber": "301",
    "SeriesDate": "",
    "SeriesTime": "",
    "ContentDate": "",
    "ContentTime": "",
    "SeriesInstanceUID": "",
    "FrameOfReferenceUID": "",
}


class DicomDatabase:
    """`slicer.dicomDatabase`: tags by file and by instance, in the form "0018,0050"; an unknown one is ""."""

    def __init__(self) -> None:
        self._tags: dict[str, dict[str, str]] = {}  # file to tag to value
        self._files: dict[str, str] = {}  # instance to file
        self.lookups = 0  # for tests: each may open a file

    def insert(self, file: str, tags: dict[str, str]) -> None:
        """Add a file with its tags, which are given by name (`TAGS`)."""
        self._tags[file] = {TAGS[name]: str(value) for name, value in tags.items()}
        self._files[tags["SOPInstanceUID"]] = file

    def fileForInstance(self, uid: str) -> str:
        """Return the path of an instance's file."""
        return self._files.get(uid, "")

    def fileValue(self, file: str, tag: str) -> str:
        """Return the value of a tag in a file."""
        self.lookups += 1
        return self._tags.get(file, {}).get(tag.upper(), "")

    def instanceValue(self, uid: str, tag: str) -> str:
        """Return the value of a tag in the file of an instance."""
        return self.fileValue(self.fileForInstance(uid), tag)


def load_series(node: Any, *, slices: int, **tags: Any) -> Any:
    """Make a volume node of the scene what it would be if it had been loaded from a DICOM series.

    Args:
        node: Scalar volume node, named as the series would be.
        slices: Number of files; 1 for a multi-frame file.
        tags: Tags of the series, by name: `Modality="MR", SliceThickness="4"`; see `TAGS`.
    """
    series = {
        "PatientID": "Patient1",
        "StudyInstanceUID": _new_uid(),
        "SeriesInstanceUID": _new_uid(),
        **{name: str(value) for name, value in tags.items()},
    }
    uids = [_new_uid() for _slice in range(slices)]
    for uid in uids:
        slicer.dicomDatabase.insert(f"/dicom/{uid}.dcm", {**series, "SOPInstanceUID": uid})
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(node.GetScene())
    item = hierarchy.GetItemByDataNode(node) or hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)
    hierarchy.SetItemUID(item, "DICOM", series["SeriesInstanceUID"])
    hierarchy.SetItemUID(item, "DICOMInstanceUID", " ".join(uids))
    for name in _SERIES_TAGS:
        hierarchy.SetItemAttribute(item, f"DICOM.{name}", series.get(name, ""))
    patient = _item(hierarchy, series["PatientID"], hierarchy.GetSceneItemID(), hierarchy.CreateSubjectItem)
    study = _item(hierarchy, series["StudyInstanceUID"], patient, hierarchy.CreateStudyItem)
    hierarchy.SetItemParent(item, study)
    node.SetAttribute("DICOM.instanceUIDs", " ".join(uids))
    node.SetAttribute("DICOM.instanceNumbers", " ".join(str(number + 1) for number in range(slices)))
    return node


def _item(hierarchy: Any, uid: str, parent: int, create: Any) -> int:
    found = hierarchy.GetItemByUID("DICOM", uid)
    if not found:
        found = create(parent, uid)
        hierarchy.SetItemUID(found, "DICOM", uid)
    return found


def _new_uid() -> str:
    return f"2.25.{uuid.uuid4().int}"


def export_tags(node: Any) -> dict[str, str]:
    """Return the series tags that Slicer's DICOM export offers for a volume: those of its item, else the defaults."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(node.GetScene())
    item = hierarchy.GetItemByDataNode(node)
    return {
        name: hierarchy.GetItemAttribute(item, f"DICOM.{name}")
        if hierarchy.HasItemAttribute(item, f"DICOM.{name}")
        else default
        for name, default in _EXPORT_DEFAULTS.items()
    }
