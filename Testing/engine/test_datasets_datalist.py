"""Datalists: three forms of a case, one meaning; and what is refused, by name."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scorefusion.datasets.case import Case
from scorefusion.datasets.datalist import Datalist, project_datalist, read_datalist, write_datalist
from scorefusion.errors import RequestError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files that exist; a datalist never opens them."""
    for name in ("a_t1.nii.gz", "a_flair.nii.gz", "a_brain.nii.gz", "b_t1.nii.gz", "sub/b_t1.nii.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def read(folder: Path, content: Any, **options: Any) -> Datalist:
    path = folder / "list.json"
    path.write_text(json.dumps(content))
    return read_datalist(path, **options)


class TestForms:
    def test_three_ways_to_write_one_case(self, folder: Path) -> None:
        pair = {"t1": folder / "a_t1.nii.gz", "flair": folder / "a_flair.nii.gz"}
        (first,) = read(
            folder,
            {"test": [{"subject": "A", "contrasts": {"t1": "a_t1.nii.gz", "flair": "a_flair.nii.gz"}}]},
        ).test
        (second,) = read(
            folder,
            {
                "test": [
                    {
                        "subject": "A",
                        "conditions": {"t1": "a_t1.nii.gz"},
                        "target": "a_flair.nii.gz",
                        "contrast": "flair",
                    }
                ]
            },
        ).test
        assert first.contrasts == second.contrasts == pair
        (third,) = read(folder, {"test": [{"target": "a_t1.nii.gz", "contrast": "t1", "mask": "a_brain.nii.gz"}]}).test
        assert third == Case("a_t1", {"t1": folder / "a_t1.nii.gz"}, masks={"brain": folder / "a_brain.nii.gz"})

    def test_a_volume_of_unsaid_contrast_is_an_image(self, folder: Path) -> None:
        (case,) = read(folder, {"training": [{"image": "sub/b_t1.nii.gz"}]}).training
        assert case.contrasts == {"image": folder / "sub/b_t1.nii.gz"}
        assert case.subject == "sub_b_t1"  # namesakes in other folders are other people

    def test_facts_are_kept(self, folder: Path) -> None:
        facts = {
            "session": "01", "skull_stripped": True, "sharp_axes": "AR", "weight": 0.5, "apart": "why", "frame": 2,
            "aligned": False,
        }  # fmt: skip
        (case,) = read(folder, {"test": [{"subject": "A", "target": "a_t1.nii.gz", "note": "seen", **facts}]}).test
        assert {name: getattr(case, name) for name in facts} == {**facts, "sharp_axes": "RA"}
        assert case.case_id == "A_01"

    def test_sharp_axes_of_each_contrast(self, folder: Path) -> None:
        case = Case("A", {"t1": Path("t1.nii"), "flair": Path("f.nii")}, sharp_axes={"t1": "RA", "flair": "SAR"})
        assert (case.sharp_axes_of("t1"), case.sharp_axes_of("flair"), case.sharp_axes_of("t2")) == ("RA", "RAS", None)
        assert Case("A", {"t1": Path("t1.nii")}, sharp_axes="").sharp_axes_of("t1") == ""

    def test_a_case_travels_between_processes(self) -> None:
        case = Case("A", {"t1": Path("t1.nii")}, masks={"brain": Path("b.nii")})
        assert pickle.loads(pickle.dumps(case)) == case


class TestRoundTrip:
    def test_what_is_written_reads_the_same(self, folder: Path) -> None:
        case = Case(
            "A", {"t1": folder / "a_t1.nii.gz", "flair": folder / "a_flair.nii.gz"}, "02",
            {"brain": folder / "a_brain.nii.gz"}, True, {"t1": "RA"}, 2.0, "odd", 1, True,
        )  # fmt: skip
        datalist = Datalist("mine", (case,), (Case("B", {"t1": folder / "sub/b_t1.nii.gz"}),))
        write_datalist(datalist, folder / "out.json")
        assert read_datalist(folder / "out.json") == datalist
        entries = json.loads((folder / "out.json").read_text())
        assert entries["validation"] == [{"subject": "B", "contrasts": {"t1": "sub/b_t1.nii.gz"}}]  # no defaults
        assert not list(folder.glob(".*partial"))

    def test_a_list_moves_with_its_files_and_names_others_in_full(self, folder: Path) -> None:
        (folder / "lists").mkdir()
        write_datalist(Datalist("x", (Case("B", {"t1": folder / "b_t1.nii.gz"}),)), folder / "lists" / "out.json")
        (entry,) = json.loads((folder / "lists" / "out.json").read_text())["training"]
        assert entry["contrasts"]["t1"] == (folder / "b_t1.nii.gz").as_posix()

    def test_an_impossible_place_is_refused(self, folder: Path) -> None:
        with pytest.raises(RequestError, match="does not exist; create it"):
            write_datalist(Datalist("x"), folder / "none" / "out.json")


CASE = {"subject": "A", "target": "a_t1.nii.gz"}


class TestRefusals:
    @pytest.mark.parametrize(
        ("content", "words"),
        [
            ([], "must be an object"),
            ({"test": {}}, "must be a list"),
            ({"tset": [CASE]}, "did you mean 'test'"),
            ({"name": "x"}, "no cases under"),
            ({"test": ["a_t1.nii.gz"]}, "test case 0: expected an object"),
            ({"test": [CASE, {"subject": "B"}]}, "test case 1: 'target' must name"),
            ({"test": [{**CASE, "contrats": {}}]}, "did you mean 'contrasts'"),
            ({"test": [{**CASE, "contrast": "falir"}]}, "did you mean 'flair'"),
            ({"test": [{**CASE, "masks": {"brian": "a_brain.nii.gz"}}]}, "did you mean 'brain'"),
            ({"test": [{**CASE, "target": "gone.nii.gz"}]}, r"gone\.nii\.gz does not exist"),
            ({"test": [{**CASE, "mask": "gone.nii.gz"}]}, r"brain .*gone\.nii\.gz does not exist"),
            ({"test": [{**CASE, "image": "a_t1.nii.gz"}]}, "mean the same"),
            ({"test": [{**CASE, "contrasts": {"t1": "a_t1.nii.gz"}}]}, "has no place beside"),
            ({"test": [{**CASE, "contrast": "t1", "conditions": {"t1": "a_t1.nii.gz"}}]}, "condition and the target"),
            ({"test": [{"contrasts": {"t1": "a_t1.nii.gz"}}]}, "'subject' is missing"),
            ({"test": [{**CASE, "subject": "A/1"}]}, "leave slashes out"),
            ({"test": [{**CASE, "sharp_axes": "RX"}]}, "sharp_axes is 'RX'"),
            ({"test": [{**CASE, "skull_stripped": "yes"}]}, "expected true or false"),
            ({"test": [{**CASE, "frame": True}]}, "expected a whole number"),
            ({"test": [{**CASE, "weight": -1}]}, "weight is -1"),
            ({"training": [CASE], "test": [CASE]}, "one split"),
            ({"training": [{"image": "a_t1.nii.gz"}], "test": [{"image": "a_t1.nii.gz"}]}, "one split"),
        ],
    )
    def test_mistakes_are_named(self, folder: Path, content: Any, words: str) -> None:
        with pytest.raises(RequestError, match=words):
            read(folder, content)

    def test_a_volume_is_no_datalist(self, folder: Path) -> None:
        (folder / "scan.nii.gz").write_bytes(b"\x1f\x8b\x08\xff")
        with pytest.raises(RequestError, match="is it a volume"):
            read_datalist(folder / "scan.nii.gz")

    def test_files_of_other_splits_may_be_elsewhere_but_people_never(self, folder: Path) -> None:
        other = {"subject": "B", "target": "gone.nii.gz"}
        assert len(read(folder, {"training": [other], "test": [CASE]}, splits=["test"]).test) == 1
        with pytest.raises(RequestError, match="one split"):
            read(folder, {"training": [{**other, "subject": "A"}], "test": [CASE]}, splits=["test"])

    def test_a_lenient_reading_leaves_problems_to_the_inspection(self, folder: Path) -> None:
        content = {"training": [CASE], "test": [CASE, {"subject": "B", "target": "gone.nii.gz"}]}
        datalist = read(folder, content, strict=False)
        assert (len(datalist.training), len(datalist.test)) == (1, 2)

    def test_an_unknown_split(self, folder: Path) -> None:
        with pytest.raises(RequestError, match="did you mean 'train'"):
            Datalist("x").cases("tarin")


class TestProjectData:
    def test_each_person_is_one_case_in_one_split(self, data_folder: Path) -> None:
        datalist = project_datalist(data_folder)
        people = {split: [case.subject for case in datalist.cases(split)] for split in ("train", "val", "test")}
        everyone = sum(people.values(), [])
        assert len(everyone) == len(set(everyone)) >= 60
        assert {"pycortex_S1", "mass_W03", "colin27", "brats_MET00110", "tcga_DU7294"} <= set(people["test"])
        assert {"mass_W05", "mass_W08", "sag_anon", "openms_19"} <= set(people["val"])
        assert not [name for name in everyone if name.startswith("jif")]  # single slices
        assert all(path.is_file() for case in datalist.training for path in case.files.values())

    def test_what_is_known_about_them(self, data_folder: Path) -> None:
        cases = {
            case.subject: case for split in ("train", "test") for case in project_datalist(data_folder).cases(split)
        }
        assert list(cases["openms_07"].files) == ["t1", "t2", "flair", "t1ce", "lesion"]
        assert cases["openms_07"].sharp_axes_of("flair") == "RAS"
        assert cases["openms_07"].sharp_axes_of("t1") == "RA"
        assert (cases["openms_07"].aligned, cases["brats_MET00110"].aligned) == (True, False)
        assert cases["colin27"].apart is not None
        assert (cases["synthseg_01"].contrasts, list(cases["synthseg_01"].masks)) == ({}, ["labels"])

    def test_data_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(RequestError, match="SCOREFUSION_TEST_DATA"):
            project_datalist(tmp_path)


def test_listing_needs_neither_torch_nor_simpleitk() -> None:
    modules = ("case", "datalist", "split", "readers", "spectrum")
    code = "import sys\nfor name in ('torch', 'SimpleITK', 'nibabel', 'skimage'): sys.modules[name] = None\n"
    code += "".join(f"import scorefusion.datasets.{name}\n" for name in modules)
    root = Path(__file__).resolve().parents[2] / "ScoreFusion"
    done = subprocess.run([sys.executable, "-c", f"import sys; sys.path.insert(0, {str(root)!r})\n{code}"], check=False)
    assert done.returncode == 0
