"""The samples of the module Sample Data: what they hold, that they load, and that the models take them as they are."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from module_host import MODULE, ROOT

slicer = pytest.importorskip("slicer")

FOLDER = ROOT / "Resources" / "SampleData"


class TestRegistered:
    def test_the_head_and_the_pair_are_offered_with_their_pictures(self, host: Any, fake_worker: Any) -> None:
        host.load_module(MODULE)
        sources = slicer.modules.sampleDataSources["ScoreFusion"]
        assert [source.sampleName for source in sources] == ["ThickSliceHead", "SkullStrippedPair"]
        assert all(Path(source.thumbnailFileName).is_file() for source in sources)

    def test_the_pair_loads_and_each_contrast_finds_its_input(self, host: Any, fake_worker: Any) -> None:
        import SampleData

        module = host.load_module(MODULE)
        nodes = SampleData.SampleDataLogic().downloadSamples("SkullStrippedPair")
        widget = host.open(module)
        widget.ui.modelSelector.setCurrentIndex(widget.panel.models.ids().index("brain-t1-t2-to-flair"))
        widget.ui.addScanButton.click()
        assert widget.panel.conditions.selectors["t1"].currentNode() is nodes[0]
        assert widget.panel.exam.guides() == {"t2": nodes[1]}
        assert "Contrast: T1" in widget.ui.gridValue.text
        assert "whole head" not in widget.ui.warningsLabel.text  # it has no skull
        assert widget.ui.applyButton.enabled


class TestFiles:
    def test_all_samples_together_are_below_two_megabytes(self) -> None:
        assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 2_000_000

    def test_each_file_is_said_what_it_is(self) -> None:
        text = (FOLDER / "README.md").read_text(encoding="utf-8")
        assert all(f"`{path.name}`" in text for path in FOLDER.glob("*.nii.gz"))

    def test_the_pair_lies_on_one_grid_and_has_other_contrasts(self) -> None:
        nib = pytest.importorskip("nibabel")
        t1, t2 = (nib.load(FOLDER / f"MNI152_brain_{contrast}_1.5mm.nii.gz") for contrast in ("T1", "T2"))
        assert np.array_equal(t1.affine, t2.affine)
        assert t1.header.get_zooms() == (1.5, 1.5, 1.5)
        inside = np.asarray(t1.dataobj) > 40
        correlation = np.corrcoef(np.asarray(t1.dataobj)[inside], np.asarray(t2.dataobj)[inside])[0, 1]
        assert correlation < 0  # what is bright in one is dark in the other


class TestMaking:
    def test_the_command_makes_a_pair_on_a_coarser_grid_around_the_brain(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.syspath_prepend(str(ROOT / "Resources"))
        make = __import__("make_sample_pair")
        sys.modules.pop("make_sample_pair")
        data = np.zeros((1, 40, 44, 48), np.float32)
        data[0, 10:30, 12:36, 8:38] = 50.0
        affine = np.diag([1.0, 1.0, 1.0, 1.0])
        made = make.make_pair({"t1": make.Volume(data, affine), "t2": make.Volume(2 * data, affine)})
        assert made["t1"].spatial_shape == made["t2"].spatial_shape == (18, 20, 24)
        assert np.allclose(made["t1"].affine[:3, 3], (7.0, 9.0, 5.0))  # three voxels outside the brain
        assert made["t1"].data.max() == made["t2"].data.max() == make.WHITE
        make.write(made["t1"], tmp_path / "a.nii.gz")
        make.write(made["t1"], tmp_path / "b.nii.gz")
        assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
