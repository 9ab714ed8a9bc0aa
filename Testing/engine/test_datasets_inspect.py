"""Every mistake in a datalist is found and named, and a good one is left in peace."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from scorefusion.datasets.case import Case
from scorefusion.datasets.datalist import Datalist
from scorefusion.datasets.inspect import Problem, examine, inspect
from scorefusion.errors import Cancelled
from scorefusion.imaging.files import write_volume
from scorefusion.imaging.volume import Volume
from scorefusion.progress import Reporter

nib = pytest.importorskip("nibabel")

SHAPE = (34, 36, 40)


def scan(seed: int = 0, shape: tuple[int, int, int] = SHAPE, blurred: int | None = None) -> Volume:
    """White noise: detail along all axes, or along all but one, whose slices were interpolated by cubes of sines."""
    data = np.random.default_rng(seed).standard_normal(shape)
    if blurred is not None:
        spectrum = np.fft.rfft(np.moveaxis(data, blurred, -1), axis=-1)
        spectrum[..., spectrum.shape[-1] // 4 :] = 0
        data = np.moveaxis(np.fft.irfft(spectrum, shape[blurred], axis=-1), -1, blurred)
    return Volume((100 + 20 * data)[None].astype(np.float32), np.diag([-1.0, 1.0, 1.0, 1.0]))


@pytest.fixture
def good(tmp_path: Path) -> Datalist:
    """Three people, two contrasts each, all in order."""
    cases = []
    for number, name in enumerate(("A", "B", "C")):
        paths = {key: tmp_path / f"{name}_{key}.nii" for key in ("t1", "flair")}
        for offset, path in enumerate(paths.values()):
            write_volume(scan(10 * number + offset), path)
        cases.append(Case(name, paths, aligned=True))
    return Datalist("good", (cases[0],), (cases[1],), (cases[2],))


def change(datalist: Datalist, **facts: object) -> Datalist:
    return replace(datalist, training=(replace(datalist.training[0], **facts),))


def found(problems: list[Problem]) -> str:
    return "\n".join(f"{problem.kind}: {problem.where}: {problem.message}" for problem in problems)


class TestPeace:
    @pytest.mark.parametrize("super_resolution", [True, False])
    def test_a_good_list_has_no_problems(self, good: Datalist, super_resolution: bool) -> None:
        assert inspect(good, super_resolution=super_resolution) == []
        assert inspect(good, ["t1", "flair"], super_resolution, workers=3) == []


class TestHeaders:
    def test_missing_and_unreadable_files(self, good: Datalist) -> None:
        good.training[0].contrasts["t1"].unlink()
        good.test[0].contrasts["flair"].write_bytes(b"not a volume")
        problems = inspect(good, voxels=False)
        assert [(problem.kind, problem.where) for problem in problems] == [("error", "A t1"), ("error", "C flair")]
        assert "does not exist" in problems[0].message
        assert "cannot be read" in problems[1].message

    def test_contrasts_on_different_grids(self, good: Datalist) -> None:
        write_volume(scan(5, (34, 36, 41)), good.training[0].contrasts["flair"])
        text = found(inspect(good, voxels=False))
        assert text.startswith(
            "error: A flair: is on another grid than t1 (34 x 36 x 41 voxels of 1 x 1 x 1 mm against"
        )
        assert "scorefusion data register" in text
        assert inspect(good, super_resolution=True, voxels=False) == []  # each contrast by itself

    def test_axes_in_another_order_are_the_same_grid(self, good: Datalist) -> None:
        volume = scan(1)
        straight, _ = volume.canonical()
        assert straight.orientation != volume.orientation
        write_volume(straight, good.training[0].contrasts["flair"])
        assert inspect(good, voxels=False) == []

    def test_too_small(self, good: Datalist) -> None:
        write_volume(scan(5, (20, 36, 40)), good.training[0].contrasts["t1"])
        text = found(inspect(good, ["t1"], voxels=False))
        assert text == "error: A t1: has 20 x 36 x 40 voxels; at least 32 along each axis are needed"
        assert inspect(good, ["t1"], min_size=20, voxels=False) == []

    def test_a_person_in_two_splits(self, good: Datalist) -> None:
        again = replace(good, test=(replace(good.training[0], contrasts=good.test[0].contrasts),))
        text = found(inspect(again, voxels=False))
        assert "error: A: is in train and test" in text

    def test_one_file_twice(self, good: Datalist) -> None:
        again = replace(good, test=(replace(good.training[0], subject="D"),))
        problems = inspect(again)
        assert [problem.where for problem in problems] == ["D t1", "D flair"]  # once each, not once more as a copy
        assert "is the same file as A t1" in problems[0].message

    def test_masks(self, good: Datalist, tmp_path: Path) -> None:
        write_volume(scan(3, (34, 36, 30)), tmp_path / "other.nii")
        lost = change(good, masks={"brain": tmp_path / "gone.nii", "lesion": tmp_path / "other.nii"})
        problems = inspect(lost, voxels=False)
        assert [(problem.kind, problem.where) for problem in problems] == [
            ("error", "A brain mask"),
            ("warning", "A lesion mask"),
        ]

    def test_a_label_map_without_its_file(self, good: Datalist, tmp_path: Path) -> None:
        labels = replace(good, training=(*good.training, Case("L", {}, masks={"labels": tmp_path / "gone.nii"})))
        (problem,) = inspect(labels, voxels=False)
        assert (problem.kind, problem.where) == ("error", "L labels mask")

    def test_contrasts_that_nobody_has(self, good: Datalist) -> None:
        text = found(inspect(good, ["t1", "t1ce"], voxels=False))
        assert text == "warning: t1ce: no case has it; there are 3 cases"
        text = found(inspect(good, ["t1ce"], voxels=False))
        assert "A, B, C: 3 of 3 cases have none of t1ce" in text

    def test_contrasts_that_are_not_used_are_not_looked_at(self, good: Datalist) -> None:
        good.training[0].contrasts["t1"].unlink()
        assert inspect(good, ["flair"]) == []

    def test_alignment(self, good: Datalist) -> None:
        assert "are known to be off each other" in found(inspect(change(good, aligned=False), voxels=False))
        text = found(inspect(change(good, aligned=None), voxels=False))
        assert text.startswith("warning: good: of 1 case nobody has checked that the contrasts lie on each other (A)")
        assert inspect(change(good, aligned=False), super_resolution=True, voxels=False) == []
        assert inspect(change(good, aligned=False), ["t1"], voxels=False) == []

    def test_thick_slices_are_no_sharp_target(self, good: Datalist) -> None:
        thick = scan(5, (34, 36, 33))
        affine = thick.affine.copy()
        affine[:3, 2] *= 5
        write_volume(replace(thick, affine=affine), good.training[0].contrasts["t1"])
        text = found(inspect(good, ["t1"], super_resolution=True, voxels=False))
        assert text == 'warning: A t1: voxels are 1 x 1 x 5 mm: nothing sharp along S; set "sharp_axes": "RA"'
        assert inspect(change(good, sharp_axes="RA"), ["t1"], super_resolution=True, voxels=False) == []


class TestVoxels:
    def test_nan_constant_and_truncated(self, good: Datalist) -> None:
        contrasts = [case.contrasts["t1"] for case in (*good.training, *good.validation, *good.test)]
        data = scan().data[0].copy()
        data[3, 4, 5] = np.nan
        nib.save(nib.Nifti1Image(data, np.eye(4)), contrasts[0])
        nib.save(nib.Nifti1Image(np.full(SHAPE, 7, np.float32), np.eye(4)), contrasts[1])
        contrasts[2].write_bytes(contrasts[2].read_bytes()[:-5000])
        problems = inspect(good, ["t1"])
        assert [(problem.kind, problem.where) for problem in problems] == [("error", f"{name} t1") for name in "ABC"]
        assert "NaN or infinite values in 1 of" in problems[0].message
        assert "is constant" in problems[1].message
        assert "truncated" in problems[2].message
        assert inspect(good, ["t1"], voxels=False) == []  # headers cannot tell

    def test_one_person_under_two_names(self, good: Datalist) -> None:
        copy = nib.load(good.training[0].contrasts["t1"])
        other = nib.Nifti1Image(copy.get_fdata(dtype=np.float32), copy.affine)
        other.header["descrip"] = b"another header"
        nib.save(other, good.test[0].contrasts["t1"])
        text = found(inspect(good, ["t1"]))
        assert text.startswith("error: C t1: has the same voxels as A t1: one person under two names")

    def test_one_volume_as_two_contrasts(self, good: Datalist) -> None:
        case = good.training[0]
        case.contrasts["flair"].write_bytes(case.contrasts["t1"].read_bytes())
        assert "error: A flair: has the same voxels as A t1; one of the two is the wrong file" in found(inspect(good))

    def test_an_interpolated_axis_is_named_in_anatomical_words(self, good: Datalist) -> None:
        # Array axis 0 runs from right to left; moving it to the end makes it the third axis of the file.
        volume = scan(5, blurred=0)
        turned = Volume(volume.data.transpose(0, 2, 3, 1), volume.affine @ np.eye(4)[:, [1, 2, 0, 3]])
        write_volume(turned, good.training[0].contrasts["t1"])
        text = found(inspect(good, ["t1"], super_resolution=True))
        assert text.startswith("warning: A t1: looks interpolated along R")
        assert 'Set "sharp_axes": "AS"' in text
        assert inspect(good, ["t1"]) == []  # no matter when it is not a sharp target

    def test_a_claim_is_believed_until_it_is_measured_otherwise(self, good: Datalist) -> None:
        write_volume(scan(5, blurred=2), good.training[0].contrasts["t1"])
        assert inspect(change(good, sharp_axes="RA"), ["t1"], super_resolution=True) == []
        text = found(inspect(change(good, sharp_axes={"t1": "RAS"}), ["t1"], super_resolution=True))
        assert text == 'warning: A t1: "sharp_axes" is "RAS", but along S there is almost no fine detail'

    def test_workers_change_nothing(self, good: Datalist) -> None:
        write_volume(scan(5, blurred=2), good.training[0].contrasts["t1"])
        assert inspect(good, super_resolution=True, workers=4) == inspect(good, super_resolution=True)

    def test_facts_of_one_file(self, good: Datalist) -> None:
        first, second = (examine(good.training[0].contrasts[key]) for key in ("t1", "flair"))
        assert len(first.digest) == 64
        assert first.digest != second.digest
        assert first.reading is not None
        assert min(first.reading.shares) > 0.4  # white noise: half the energy in half the band
        assert examine(Path("gone.nii")).trouble is not None


class TestManner:
    def test_errors_come_first(self, good: Datalist) -> None:
        write_volume(scan(5, blurred=2), good.training[0].contrasts["t1"])
        good.test[0].contrasts["flair"].unlink()
        kinds = [problem.kind for problem in inspect(good, super_resolution=True)]
        assert kinds == ["error", "warning"]

    def test_it_can_be_stopped(self, good: Datalist) -> None:
        seen = []
        with pytest.raises(Cancelled):
            inspect(good, reporter=Reporter(seen.append, lambda: len(seen) > 8))
        assert {event["stage"] for event in seen} == {"reading headers", "reading voxels"}

    def test_the_projects_own_data(self, data_folder: Path) -> None:
        from scorefusion.datasets.datalist import project_datalist

        problems = inspect(project_datalist(data_folder), voxels=False)
        assert [problem for problem in problems if problem.kind == "error"] == []
        off = [problem.where for problem in problems if "known to be off" in problem.message]
        assert off == ["brats_GLI00001", "brats_MET00110"]
