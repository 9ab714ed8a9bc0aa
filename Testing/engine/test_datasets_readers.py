"""Folders as they are handed around: which files make a case, and what is told about the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from scorefusion.datasets.readers import find_cases, read_bids, read_brats, read_ixi
from scorefusion.errors import RequestError


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.fixture
def bids(tmp_path: Path) -> Path:
    return touch(
        tmp_path / "bids",
        "dataset_description.json",
        "sub-01/anat/sub-01_T1w.nii.gz",
        "sub-01/anat/sub-01_T1w.json",
        "sub-01/anat/sub-01_ce-gadolinium_T1w.nii.gz",
        "sub-01/anat/sub-01_run-2_T2w.nii",
        "sub-01/anat/sub-01_run-1_T2w.nii",
        "sub-01/anat/sub-01_FLAIR.nii.gz",
        "sub-01/anat/sub-01_acq-fast_FLAIR.nii.gz",
        "sub-01/anat/sub-01_T2starw.nii.gz",
        "sub-01/func/sub-01_task-rest_bold.nii.gz",
        "sub-02/ses-a/anat/sub-02_ses-a_PDw.nii.gz",
        "sub-02/ses-b/anat/sub-02_ses-b_T1w.nii.gz",
        "sub-02/ses-b/anat/sub-02_ses-b_part-phase_T1w.nii.gz",
        "sub-03/dwi/sub-03_dwi.nii.gz",
        "derivatives/fs/sub-04/anat/sub-04_T1w.nii.gz",
    )


class TestBids:
    def test_contrasts_sessions_and_runs(self, bids: Path) -> None:
        cases = read_bids(bids).cases
        assert [case.case_id for case in cases] == ["sub-01", "sub-02_a", "sub-02_b"]
        assert {key: path.name for key, path in cases[0].contrasts.items()} == {
            "t1": "sub-01_T1w.nii.gz",
            "t1ce": "sub-01_ce-gadolinium_T1w.nii.gz",
            "t2": "sub-01_run-1_T2w.nii",
            "flair": "sub-01_FLAIR.nii.gz",
        }
        assert list(cases[1].contrasts) == ["pd"]
        assert cases[1].subject == cases[2].subject == "sub-02"  # one person, two visits

    def test_what_was_left_out_is_told(self, bids: Path) -> None:
        notes = "\n".join(read_bids(bids).notes)
        assert "sub-01_run-2_T2w.nii was left out: sub-01_run-1_T2w.nii is taken as t2" in notes
        assert "sub-01_acq-fast_FLAIR.nii.gz was left out: sub-01_FLAIR.nii.gz is taken as flair" in notes
        assert "1 T2starw file was left out" in notes
        assert "part-phase is not the magnitude" in notes
        assert "sub-03 has no T1w, T2w, FLAIR or PDw" in notes
        assert "sub-04" not in notes  # derivatives are no scans


class TestBrats:
    def test_2021(self, tmp_path: Path) -> None:
        endings = ("flair", "t1", "t1ce", "t2", "seg")
        touch(tmp_path, *(f"BraTS2021_00000/BraTS2021_00000_{ending}.nii.gz" for ending in endings))
        touch(tmp_path, "BraTS2021_00002/BraTS2021_00002_flair.nii.gz", "BraTS2021_00002/notes.nii.gz", "readme.txt")
        found = read_brats(tmp_path)
        assert [(case.subject, case.session) for case in found.cases] == [
            ("BraTS2021_00000", None),
            ("BraTS2021_00002", None),
        ]
        first = found.cases[0]
        assert list(first.contrasts) == ["t1", "t1ce", "t2", "flair"]
        assert first.contrasts["t1ce"].name == "BraTS2021_00000_t1ce.nii.gz"
        assert first.masks["tumour"].name == "BraTS2021_00000_seg.nii.gz"
        assert (first.skull_stripped, first.aligned) == (True, None)
        assert "BraTS2021_00002 has no t1, t1ce, t2" in found.notes
        assert any("notes.nii.gz was left out" in note for note in found.notes)

    def test_2023_timepoints_are_one_person(self, tmp_path: Path) -> None:
        for case in ("BraTS-GLI-00005-000", "BraTS-GLI-00005-001", "BraTS-MET-00110-000"):
            touch(tmp_path, *(f"Training/{case}/{case}-{end}.nii.gz" for end in ("t1n", "t1c", "t2w", "t2f", "seg")))
        found = find_cases(tmp_path)  # one level further down, as the archives unpack
        assert found.layout == "brats"
        assert [(case.subject, case.session) for case in found.cases] == [
            ("BraTS-GLI-00005", "000"),
            ("BraTS-GLI-00005", "001"),
            ("BraTS-MET-00110", "000"),
        ]
        names = {key: path.name[-10:-7] for key, path in found.cases[0].contrasts.items()}
        assert names == {"t1": "t1n", "t1ce": "t1c", "t2": "t2w", "flair": "t2f"}
        assert found.notes == ()


class TestIxi:
    NAMES = ("IXI002-Guys-0828-{}.nii.gz", "IXI012-HH-1211-{}.nii.gz")

    def test_one_folder(self, tmp_path: Path) -> None:
        touch(tmp_path, *(name.format(kind) for name in self.NAMES for kind in ("T1", "T2", "PD", "MRA", "DTI-00")))
        found = read_ixi(tmp_path)
        assert [case.subject for case in found.cases] == ["IXI002", "IXI012"]
        assert {key: path.name for key, path in found.cases[1].contrasts.items()} == {
            "t1": "IXI012-HH-1211-T1.nii.gz",
            "t2": "IXI012-HH-1211-T2.nii.gz",
            "pd": "IXI012-HH-1211-PD.nii.gz",
        }
        assert (
            "2 MRA files were left out: no contrast that is used (such as IXI002-Guys-0828-MRA.nii.gz)" in found.notes
        )
        assert any(note.startswith("2 DTI files") for note in found.notes)

    def test_a_folder_for_each_contrast(self, tmp_path: Path) -> None:
        touch(tmp_path, *(f"IXI-{kind}/{self.NAMES[0].format(kind)}" for kind in ("T1", "T2", "PD")))
        touch(tmp_path, f"IXI-T1/{self.NAMES[1].format('T1')}")
        found = find_cases(tmp_path)
        assert found.layout == "ixi"
        assert [list(case.contrasts) for case in found.cases] == [["t1", "t2", "pd"], ["t1"]]
        assert found.notes == ("IXI012 has no t2, pd",)


class TestAuto:
    def test_bids_is_known_by_its_names(self, bids: Path) -> None:
        assert find_cases(bids).layout == "bids"

    def test_nothing_known_is_told_with_examples(self, tmp_path: Path) -> None:
        touch(tmp_path, "patient1/scan.nii.gz")
        with pytest.raises(RequestError, match="BraTS2021_00000_flair") as error:
            find_cases(tmp_path)
        assert "write the datalist yourself" in str(error.value)
        with pytest.raises(RequestError, match="follows layout 'ixi'"):
            find_cases(tmp_path, "ixi")

    def test_a_mixture_must_be_told_apart(self, bids: Path) -> None:
        touch(bids, "IXI002-Guys-0828-T1.nii.gz")
        with pytest.raises(RequestError, match="bids, ixi"):
            find_cases(bids)
        assert len(find_cases(bids, "ixi").cases) == 1

    def test_no_such_folder_or_layout(self, tmp_path: Path) -> None:
        with pytest.raises(RequestError, match="is no folder"):
            find_cases(tmp_path / "gone")
        with pytest.raises(RequestError, match="did you mean 'brats'"):
            find_cases(tmp_path, "bratz")
