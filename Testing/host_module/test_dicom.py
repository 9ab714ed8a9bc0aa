"""Series from DICOM: what is read of them, what of that reaches the worker, and what an export of a result says."""

from __future__ import annotations

from typing import Any

import pytest
from module_host import thick_head

slicer = pytest.importorskip("slicer")

SECONDS = 60.0


def thick_series(name: str = "5: head", *, thick_axis: int = 2, **tags: Any) -> Any:
    """A head with slices 4 mm apart, as loaded from DICOM; its name tells nothing of the contrast."""
    from slicer_host.dicom import load_series

    node = thick_head(name)
    if thick_axis != 2:
        spacing = [1.0, 1.0, 1.0]
        spacing[thick_axis] = 4.0
        node.SetSpacing(spacing)
    given = {"Modality": "MR", "SeriesNumber": 5, "SeriesDescription": "AX T2 TSE", **tags}
    return load_series(node, slices=8, **given)


def choose(widget: Any, model: str, node: Any) -> None:
    widget.ui.modelSelector.setCurrentIndex(widget.panel.models.ids().index(model))
    next(iter(widget.panel.conditions.selectors.values())).setCurrentNode(node)


def run(host: Any, widget: Any) -> Any:
    widget.ui.applyButton.click()
    host.wait_until(lambda: not widget.panel.run.is_busy, timeout=SECONDS)
    job = widget.panel.run.job
    assert job.error is None, job.error
    return job


class TestReading:
    def test_the_contrast_is_read_from_the_series_description(self, widget: Any) -> None:
        choose(widget, "test-sr", thick_series())
        assert "Contrast: T2" in widget.ui.gridValue.text

    def test_the_contrast_is_read_from_the_protocol_name_where_the_description_is_silent(self, widget: Any) -> None:
        choose(widget, "test-sr", thick_series(SeriesDescription="brain", ProtocolName="t2_tirm_FLAIR"))
        assert "Contrast: FLAIR" in widget.ui.gridValue.text

    def test_the_modality_is_read(self, widget: Any) -> None:
        choose(widget, "test-sr", thick_series(Modality="PT"))
        assert "is of modality PT" in widget.ui.warningsLabel.text

    def test_thickness_gap_and_field_are_shown(self, widget: Any) -> None:
        choose(widget, "test-sr", thick_series(SliceThickness="3.0", MagneticFieldStrength="1.5"))
        assert "slices 3 mm thick, 4 mm apart; 1.5 T" in widget.ui.gridValue.text

    def test_a_spacing_that_the_header_denies_is_told(self, widget: Any) -> None:
        choose(widget, "test-sr", thick_series(SpacingBetweenSlices="4.8"))
        assert "4.8 mm between slices, the volume has 4 mm" in widget.ui.warningsLabel.text

    @pytest.mark.parametrize("tags", [{}, {"SliceThickness": "thick", "MagneticFieldStrength": ""}])
    def test_tags_that_are_missing_or_no_numbers_do_no_harm(self, tags: dict[str, str], widget: Any) -> None:
        choose(widget, "test-sr", thick_series(**tags))
        assert "mm thick" not in widget.ui.gridValue.text
        assert widget.ui.applyButton.enabled

    def test_without_a_database_the_item_is_still_read(self, widget: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        node = thick_series(SliceThickness="3")
        monkeypatch.setattr(slicer, "dicomDatabase", None)
        choose(widget, "test-sr", node)
        assert "Contrast: T2" in widget.ui.gridValue.text


class TestThickness:
    def test_it_reaches_the_worker_and_the_provenance(self, host: Any, widget: Any) -> None:
        choose(widget, "test-sr", thick_series(SliceThickness="3.0", MagneticFieldStrength="3"))
        job = run(host, widget)
        arguments = job._worker.args
        assert arguments[arguments.index("--thickness") + 1] == "3.0"
        assert arguments[arguments.index("--axis") + 1] == "k"
        facts = job.result.provenance["Slicer"]["Dicom"]["image"]
        assert facts["SliceThickness"] == 3.0
        assert facts["MagneticFieldStrength"] == 3.0
        assert facts["SeriesDescription"] == "AX T2 TSE"

    def test_what_the_user_says_goes_first(self, host: Any, widget: Any) -> None:
        choose(widget, "test-sr", thick_series(SliceThickness="3"))
        widget.ui.thicknessSpinBox.setValue(2.5)
        arguments = run(host, widget)._worker.args
        assert arguments[arguments.index("--thickness") + 1] == "2.5"

    def test_it_says_nothing_of_another_axis_than_that_across_the_slices(self, host: Any, widget: Any) -> None:
        choose(widget, "test-sr", thick_series(thick_axis=0, SliceThickness="1"))
        assert "--thickness" not in run(host, widget)._worker.args

    def test_a_translation_is_not_told_of_it(self, host: Any, widget: Any) -> None:
        choose(widget, "test-flair", thick_series(SliceThickness="3"))
        assert "--thickness" not in run(host, widget)._worker.args

    def test_the_console_reads_it_too(self, host: Any, widget: Any) -> None:
        job = widget.logic.start(thick_series(SliceThickness="3"), model="test-sr")
        job.wait()
        assert "--thickness" in job._worker.args


class TestExport:
    def test_a_result_says_mr_and_synthetic_and_has_a_number_of_its_own(self, host: Any, widget: Any) -> None:
        from slicer_host.dicom import export_tags

        choose(widget, "test-sr", thick_series())
        widget.ui.uncertaintyCheckBox.setChecked(True)
        result = run(host, widget).result
        tags, map_tags = export_tags(result.node), export_tags(result.uncertainty)
        assert tags["Modality"] == map_tags["Modality"] == "MR"
        assert tags["SeriesDescription"] == "synthetic high resolution of AX T2 TSE"
        assert map_tags["SeriesDescription"] == "synthetic uncertainty of AX T2 TSE"
        assert {tags["SeriesNumber"], map_tags["SeriesNumber"]} == {"501", "502"}

    def test_a_second_result_gets_the_next_number_and_the_same_volume_keeps_its_own(
        self, host: Any, widget: Any
    ) -> None:
        from slicer_host.dicom import export_tags

        choose(widget, "test-sr", thick_series())
        first, second = run(host, widget).result.node, run(host, widget).result.node
        assert (export_tags(first)["SeriesNumber"], export_tags(second)["SeriesNumber"]) == ("501", "502")
        widget.ui.outputSelector.setCurrentNode(first)
        assert run(host, widget).result.node is first
        assert export_tags(first)["SeriesNumber"] == "501"

    def test_without_dicom_the_description_comes_from_the_name(self, host: Any, widget: Any) -> None:
        from slicer_host.dicom import export_tags

        choose(widget, "test-sr", thick_head("MRHead T1"))
        tags = export_tags(run(host, widget).result.node)
        assert tags["Modality"] == "MR"
        assert tags["SeriesDescription"] == "synthetic high resolution of MRHead T1"
        assert tags["SeriesNumber"].isdigit()

    def test_a_long_description_is_cut_where_dicom_ends_it_and_still_says_synthetic(
        self, host: Any, widget: Any
    ) -> None:
        from slicer_host.dicom import export_tags

        choose(widget, "test-sr", thick_series(SeriesDescription="very " * 12 + "long"))
        description = export_tags(run(host, widget).result.node)["SeriesDescription"]
        assert description.startswith("synthetic")
        assert len(description) == 64

    def test_a_volume_from_dicom_that_is_overwritten_forgets_its_instances(self, host: Any, widget: Any) -> None:
        choose(widget, "test-sr", thick_series())
        old = thick_series("6: old", SeriesNumber=6)
        widget.ui.outputSelector.setCurrentNode(old)
        assert run(host, widget).result.node is old
        assert old.GetAttribute("DICOM.instanceUIDs") is None
