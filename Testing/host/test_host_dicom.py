"""The host's DICOM: tags lie after loading, and are read by an export, where Slicer's own plugins put them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

slicer = pytest.importorskip("slicer")
from slicer_host.dicom import TAGS, export_tags, load_series  # noqa: E402


@pytest.fixture
def node(host: Any) -> Any:
    import slicer.util

    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "5: t1_mprage")
    slicer.util.updateVolumeFromArray(node, np.zeros((3, 4, 5), np.int16))
    return load_series(node, slices=3, Modality="MR", SeriesDescription="t1_mprage", SeriesNumber=5, SliceThickness=4)


class TestLoadedSeries:
    def test_tags_of_the_series_are_on_the_item_and_not_on_the_node(self, node: Any) -> None:
        hierarchy = slicer.mrmlScene.GetSubjectHierarchyNode()
        item = hierarchy.GetItemByDataNode(node)
        assert hierarchy.GetItemAttribute(item, "DICOM.SeriesDescription") == "t1_mprage"
        assert [name for name in node.GetAttributeNames() if name.startswith("DICOM.")] == [
            "DICOM.instanceNumbers",
            "DICOM.instanceUIDs",
        ]

    def test_the_slice_thickness_is_in_the_database_alone(self, node: Any) -> None:
        hierarchy = slicer.mrmlScene.GetSubjectHierarchyNode()
        assert not hierarchy.HasItemAttribute(hierarchy.GetItemByDataNode(node), "DICOM.SliceThickness")
        uids = node.GetAttribute("DICOM.instanceUIDs").split()
        assert len(uids) == 3
        file = slicer.dicomDatabase.fileForInstance(uids[0])
        assert slicer.dicomDatabase.fileValue(file, TAGS["SliceThickness"]) == "4"
        assert slicer.dicomDatabase.fileValue("/nowhere.dcm", TAGS["SliceThickness"]) == ""

    def test_the_series_lies_in_a_study_of_a_patient(self, node: Any) -> None:
        hierarchy = slicer.mrmlScene.GetSubjectHierarchyNode()
        study = hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node))
        assert hierarchy.GetItemLevel(study) == "Study"
        assert hierarchy.GetItemLevel(hierarchy.GetItemParent(study)) == "Patient"


class TestExport:
    def test_without_tags_on_the_item_it_says_ct(self, host: Any) -> None:
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "x")
        tags = export_tags(node)
        assert tags["Modality"] == "CT"
        assert tags["SeriesDescription"] == "No series description"

    def test_tags_of_the_item_are_taken(self, node: Any) -> None:
        assert export_tags(node)["SeriesNumber"] == "5"
