"""Vocabularies of label maps: what each number becomes, on made maps and on the real ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from scorefusion.errors import RequestError, VolumeError
from scorefusion.imaging.files import write_volume
from scorefusion.imaging.volume import Volume
from scorefusion.synthesis.labels import TISSUE_NAMES, LabelMap, Tissue, load_label_map, translate_codes


def write_map(path: Path, codes: np.ndarray, affine: np.ndarray | None = None) -> Path:
    return write_volume(Volume(codes[None].astype(np.float32), np.eye(4) if affine is None else affine), path)


class TestVocabularies:
    def test_freesurfer(self) -> None:
        codes = np.array([0, 2, 41, 3, 42, 1012, 2035, 4, 24, 10, 49, 11, 12, 13, 17, 16, 7, 8, 31, 511, 515, 506])
        names = [TISSUE_NAMES[tissue] for tissue in translate_codes(codes)]
        assert names[:7] == ["background", "white_matter", "white_matter", *["cortex"] * 4]
        assert names[7:14] == ["ventricles", "csf", "thalamus", "thalamus", "caudate", "putamen", "pallidum"]
        assert names[14:18] == ["hippocampus", "brain_stem", "cerebellar_white", "cerebellar_cortex"]
        assert names[18:] == ["choroid_plexus", "skin", "bone", "eye"]

    def test_three_classes(self) -> None:
        assert translate_codes(np.array([0, 1, 2, 3])).tolist() == [0, Tissue.CSF, Tissue.CORTEX, Tissue.WHITE_MATTER]
        assert translate_codes(np.array([2, 3]), "freesurfer").tolist() == [Tissue.WHITE_MATTER, Tissue.CORTEX]

    def test_own_numbers_come_back(self) -> None:
        codes = np.arange(len(Tissue))
        assert np.array_equal(translate_codes(codes, "tissue"), codes)

    def test_strangers_are_named(self) -> None:
        with pytest.raises(VolumeError, match=r"scheme 'freesurfer' does not know: 777, 9000\. Known are"):
            translate_codes(np.array([2, 777, 9000]), name="m.nii")
        with pytest.raises(RequestError, match="choose 'auto', 'freesurfer'"):
            translate_codes(np.array([2]), "brainvisa")  # type: ignore[arg-type]


class TestFiles:
    def test_axes_become_ras_and_background_is_cropped(self, tmp_path: Path) -> None:
        codes = np.zeros((20, 24, 28), dtype=int)
        codes[4:10, 6:12, 8:20] = 2
        codes[4:7, 6:12, 8:20] = 3
        codes[4, 6:12, 8:20] = 24
        affine = np.diag([-2.0, 1.0, 1.0, 1.0])  # first axis runs to the left
        label_map = load_label_map(write_map(tmp_path / "m.nii.gz", codes, affine))
        assert label_map.classes.shape == (10, 10, 16)  # 6 x 6 x 12 and a margin of 2
        assert label_map.spacing == (2.0, 1.0, 1.0)
        # Code 24 lay at the first index, hence to the right, hence last in RAS.
        assert label_map.names[label_map.classes[7, 5, 8]] == "csf"
        assert label_map.classes[2, 5, 8] == Tissue.WHITE_MATTER
        world = label_map.affine @ np.array([7, 5, 8, 1])
        assert np.allclose(world[:3], [-8.0, 9.0, 14.0])  # old voxel (4, 9, 14)
        assert not label_map.has_head

    def test_a_map_without_sulcal_fluid_gets_some(self, tmp_path: Path) -> None:
        codes = np.zeros((40, 40, 40), dtype=int)
        codes[6:34, 6:34, 6:34] = 2
        codes[18:22, 6:34, 20:34] = 0  # a furrow from above
        label_map = load_label_map(write_map(tmp_path / "m.nii.gz", codes))
        assert label_map.classes[16, 16, 20] == Tissue.CSF
        assert label_map.classes[0, 0, 0] == Tissue.BACKGROUND

    def test_a_scan_is_refused(self, tmp_path: Path) -> None:
        path = write_map(tmp_path / "scan.nii.gz", np.linspace(0, 1, 1000).reshape(10, 10, 10))
        with pytest.raises(VolumeError, match="holds fractions or negative numbers"):
            load_label_map(path)


class TestRealMaps:
    """Litres of each tissue in the maps of real people."""

    def litres(self, label_map: LabelMap) -> dict[str, float]:
        voxel = np.prod(label_map.spacing) * 1e-6
        return dict(zip(label_map.names, (label_map.counts() * voxel).tolist(), strict=True))

    def test_synthseg_head(self, data_folder: Path) -> None:
        label_map = load_label_map(data_folder / "labels" / "synthseg_01.nii.gz")
        found = self.litres(label_map)
        assert found["white_matter"] == pytest.approx(0.439, abs=0.002)
        assert found["cortex"] == pytest.approx(0.402, abs=0.002)
        assert found["thalamus"] == pytest.approx(0.0116, abs=0.0002)
        assert found["bone"] == pytest.approx(0.428, abs=0.002)
        assert found["eye"] == pytest.approx(0.0137, abs=0.0002)  # two balls of 6 to 7 ml
        assert 0.15 < found["fat"] / (found["fat"] + found["skin"]) < 0.85
        assert label_map.has_head
        # The extra-cerebral numbers mean what the docstring says, by where they lie (RAS+).
        centre = {name: np.argwhere(label_map.classes == Tissue[name]).mean(0) for name in ("EYE", "NERVE", "CORTEX")}
        assert centre["EYE"][1] > centre["CORTEX"][1] + 60  # in front
        assert centre["NERVE"][2] < centre["CORTEX"][2] - 60  # below
        inside = label_map.classes[[0, -1]] > 0
        assert not inside.any()

    def test_synthsr_brain(self, data_folder: Path) -> None:
        label_map = load_label_map(data_folder / "labels" / "synthsr_1.nii.gz")
        found = self.litres(label_map)
        assert found["white_matter"] == pytest.approx(0.394, abs=0.002)
        assert found["ventricles"] == pytest.approx(0.0113, abs=0.0003)
        assert 0.1 < found["csf"] < 0.6  # not in the file, made
        assert found["skin"] == found["bone"] == 0

    def test_mass_tissue_classes(self, data_folder: Path) -> None:
        found = self.litres(load_label_map(data_folder / "t1" / "mass_W01_tissue.nii.gz"))
        assert 0.3 < found["white_matter"] < 0.8
        assert 0.3 < found["cortex"] < 0.9
        assert found["csf"] > 0.05
        assert sum(value > 0 for name, value in found.items() if name != "background") == 3

    def test_every_parcel_of_an_aparc_map_is_known(self, data_folder: Path) -> None:
        found = self.litres(load_label_map(data_folder / "labels" / "swm_aparcaseg.nii.gz"))
        assert 0.35 < found["cortex"] < 0.65
        assert 0.005 < found["caudate"] < 0.012
