"""Files in, files out: the same voxels at the same place, or a message that names the file and the way out."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scorefusion.errors import GeometryError, VolumeError
from scorefusion.imaging import files as volume_io
from scorefusion.imaging.files import check_output_path, read_grid, read_volume, write_volume
from scorefusion.imaging.itk import array_from_image, get_grid, image_from_array
from scorefusion.imaging.volume import Volume

nib = pytest.importorskip("nibabel")
sitk = pytest.importorskip("SimpleITK")

SHAPE = (6, 8, 11)
SUFFIXES = [".nii", ".nii.gz", ".nrrd", ".mha"]
RNG = np.random.default_rng(0)
DATA = RNG.random(SHAPE).astype(np.float32)
STRAIGHT = np.diag([1.0, 1.5, 4.0, 1.0])


def oblique(angle: float, flips: tuple[float, float, float], spacing: tuple[float, float, float]) -> Any:
    """Axes permuted to (k, i, j), turned about two axes, flipped."""
    c, s = np.cos(angle), np.sin(angle)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    affine[:3, :3] = affine[:3, [2, 0, 1]] * flips * spacing
    affine[:3, 3] = (-81.5, 12.25, 44.0)
    return affine


OBLIQUE = oblique(0.3, (1, -1, 1), (0.9, 1.2, 3.0))


@pytest.fixture
def volume() -> Volume:
    return Volume(DATA[None], OBLIQUE)


class TestRoundTrip:
    @pytest.mark.parametrize("suffix", SUFFIXES)
    @settings(max_examples=12)
    @given(
        angle=st.floats(-3.1, 3.1),
        flips=st.tuples(*[st.sampled_from((-1.0, 1.0))] * 3),
        spacing=st.tuples(*[st.floats(0.4, 6.0)] * 3),
    )
    def test_landmarks_stay(
        self,
        suffix: str,
        tmp_path_factory: pytest.TempPathFactory,
        angle: float,
        flips: tuple[float, float, float],
        spacing: tuple[float, float, float],
    ) -> None:
        volume = Volume(DATA[None], oblique(angle, flips, spacing))
        back = read_volume(write_volume(volume, tmp_path_factory.getbasetemp() / f"trip{suffix}"))
        assert np.array_equal(back.data, volume.data)
        assert back.grid.is_close(volume.grid, tolerance_mm=1e-3)

    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_other_software_finds_the_landmark_where_we_do(self, suffix: str, tmp_path: Path, volume: Volume) -> None:
        image = sitk.ReadImage(str(write_volume(volume, tmp_path / f"scan{suffix}")))
        x, y, z = volume.grid.index_to_world((2, 5, 7))
        np.testing.assert_allclose(image.TransformIndexToPhysicalPoint((2, 5, 7)), (-x, -y, z), atol=1e-3)
        assert image.GetPixel(2, 5, 7) == DATA[2, 5, 7]

    def test_crossing_to_simpleitk_and_back(self, volume: Volume) -> None:
        image = image_from_array(volume.data[0], volume.grid)
        assert np.array_equal(array_from_image(image), volume.data[0])
        assert get_grid(image).is_close(volume.grid, tolerance_mm=1e-9)

    @pytest.mark.parametrize("suffix", [".nhdr", ".mhd"])
    def test_headers_with_a_separate_data_file_are_read(self, suffix: str, tmp_path: Path, volume: Volume) -> None:
        path = tmp_path / f"scan{suffix}"
        sitk.WriteImage(image_from_array(volume.data[0], volume.grid), str(path))
        assert np.array_equal(read_volume(path).data, volume.data)

    def test_sform_and_qform_agree(self, tmp_path: Path, volume: Volume) -> None:
        header = nib.load(write_volume(volume, tmp_path / "scan.nii.gz")).header
        np.testing.assert_allclose(header.get_qform(), header.get_sform(), atol=1e-4)
        assert (int(header["sform_code"]), int(header["qform_code"])) == (1, 1)
        assert header.get_xyzt_units()[0] == "mm"
        assert header.get_data_dtype() == np.float32

    def test_a_slight_shear_is_kept_in_the_sform_alone(self, tmp_path: Path) -> None:
        sheared = STRAIGHT.copy()
        sheared[0, 1] = 0.02
        path = write_volume(Volume(DATA[None], sheared), tmp_path / "scan.nii")
        assert int(nib.load(path).header["qform_code"]) == 0
        np.testing.assert_allclose(read_volume(path).affine, sheared, atol=1e-6)

    def test_upper_case_suffix(self, tmp_path: Path, volume: Volume) -> None:
        assert np.array_equal(read_volume(write_volume(volume, tmp_path / "SCAN.NRRD")).data, volume.data)


class TestReading:
    def save(self, folder: Path, data: Any = DATA, affine: Any = OBLIQUE, name: str = "scan.nii.gz") -> Path:
        nib.save(nib.Nifti1Image(data, affine), folder / name)
        return folder / name

    def test_knows_its_source(self, tmp_path: Path) -> None:
        path = self.save(tmp_path)
        assert read_volume(path).source == str(path)
        assert read_volume(str(path)).data.flags.c_contiguous

    def test_applies_slope_and_intercept(self, tmp_path: Path) -> None:
        image = nib.Nifti1Image(np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE), OBLIQUE)
        image.header.set_slope_inter(0.5, 10.0)
        nib.save(image, tmp_path / "scan.nii")
        data = read_volume(tmp_path / "scan.nii").data[0]
        np.testing.assert_allclose(data, 10 + 0.5 * np.arange(np.prod(SHAPE)).reshape(SHAPE))

    def test_takes_a_singleton_fourth_axis(self, tmp_path: Path) -> None:
        assert read_volume(self.save(tmp_path, DATA[..., None])).data.shape == (1, *SHAPE)
        assert read_volume(self.save(tmp_path, DATA[..., None, None])).data.shape == (1, *SHAPE)

    def test_takes_one_frame_of_many(self, tmp_path: Path) -> None:
        frames = np.stack([DATA, 2 * DATA, 3 * DATA], axis=-1)
        np.testing.assert_allclose(read_volume(self.save(tmp_path, frames), frame=2).data[0], 3 * DATA)

    def test_takes_one_frame_of_a_4d_metaimage_and_of_vectors(self, tmp_path: Path) -> None:
        frames = np.stack([DATA.T, 2 * DATA.T])
        sitk.WriteImage(sitk.GetImageFromArray(frames, isVector=False), str(tmp_path / "scan.mha"))
        sitk.WriteImage(sitk.GetImageFromArray(np.moveaxis(frames, 0, -1), isVector=True), str(tmp_path / "scan.nrrd"))
        np.testing.assert_allclose(read_volume(tmp_path / "scan.mha", frame=1).data[0], 2 * DATA)
        np.testing.assert_allclose(read_volume(tmp_path / "scan.nrrd", frame=1).data[0], 2 * DATA)

    def test_qform_stands_in_for_a_broken_sform(self, tmp_path: Path) -> None:
        image = nib.Nifti1Image(DATA, OBLIQUE)
        image.set_qform(OBLIQUE, code=1)
        nib.save(image, tmp_path / "scan.nii")
        raw = bytearray((tmp_path / "scan.nii").read_bytes())
        raw[280:328] = bytes(48)  # srow_x, srow_y, srow_z
        (tmp_path / "scan.nii").write_bytes(raw)
        np.testing.assert_allclose(read_volume(tmp_path / "scan.nii").affine, OBLIQUE, atol=1e-4)

    def test_qform_alone_is_enough(self, tmp_path: Path) -> None:
        image = nib.Nifti1Image(DATA, None)
        image.set_qform(OBLIQUE, code=1)
        image.set_sform(None, code=0)
        nib.save(image, tmp_path / "scan.nii")
        np.testing.assert_allclose(read_volume(tmp_path / "scan.nii").affine, OBLIQUE, atol=1e-4)

    def test_other_units_become_millimetres(self, tmp_path: Path) -> None:
        image = nib.Nifti1Image(DATA, np.diag([0.001, 0.0015, 0.004, 1.0]))
        image.header.set_xyzt_units("meter")
        nib.save(image, tmp_path / "scan.nii")
        np.testing.assert_allclose(read_volume(tmp_path / "scan.nii").spacing, (1.0, 1.5, 4.0), rtol=1e-6)

    def test_other_world_of_nrrd(self, tmp_path: Path) -> None:
        fields = (
            "type: float\ndimension: 3\nspace: right-anterior-superior\nsizes: 6 8 11\nencoding: raw\nendian: little"
        )
        fields += "\nspace directions: (1,0,0) (0,2,0) (0,0,3)\nspace origin: (10,20,30)\n\n"
        (tmp_path / "scan.nrrd").write_bytes(f"NRRD0004\n{fields}".encode() + DATA.tobytes(order="F"))
        volume = read_volume(tmp_path / "scan.nrrd")
        np.testing.assert_allclose(volume.affine, [[1, 0, 0, 10], [0, 2, 0, 20], [0, 0, 3, 30], [0, 0, 0, 1]])
        np.testing.assert_allclose(volume.data[0], DATA)


class TestAnyContent:
    """The readers of text headers are our own: whatever lies in a file, they end, and end in words."""

    START = {
        ".nrrd": b"NRRD0004\n",
        ".mha": b"ObjectType = Image\n",
        ".nii": b"\x5c\x01\0\0",
        ".nii.gz": b"\x1f\x8b\x08\0",
    }

    @pytest.mark.parametrize("suffix", SUFFIXES)
    @given(content=st.binary(max_size=600), behind_the_start=st.booleans())
    def test_noise_is_refused(
        self, suffix: str, tmp_path_factory: pytest.TempPathFactory, content: bytes, behind_the_start: bool
    ) -> None:
        path = tmp_path_factory.getbasetemp() / f"noise{suffix}"
        path.write_bytes((self.START[suffix] if behind_the_start else b"") + content)
        with pytest.raises(VolumeError, match="noise"):
            read_volume(path)

    @pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
    @given(position=st.integers(0, 399), byte=st.integers(0, 255))
    def test_one_wrong_byte_in_a_header_is_refused_or_read_as_simpleitk_reads_it(
        self, suffix: str, tmp_path_factory: pytest.TempPathFactory, position: int, byte: int
    ) -> None:
        original = Volume(DATA[None], OBLIQUE)
        path = write_volume(original, tmp_path_factory.getbasetemp() / f"header{suffix}")
        raw = bytearray(path.read_bytes())
        end = raw.find(b"\n\n") if suffix == ".nrrd" else raw.find(b"LOCAL")
        raw[position % end] = byte
        path.write_bytes(raw)
        try:
            volume = read_volume(path)
        except VolumeError:
            return
        assert np.array_equal(volume.data, original.data)
        try:
            grid = get_grid(sitk.ReadImage(str(path)))  # only what was accepted: rubbish ends ITK's process
        except RuntimeError:  # ITK is particular about comments
            grid = original.grid
        assert grid.is_close(volume.grid, tolerance_mm=1e-3)


class TestGridAlone:
    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_is_that_of_the_volume_and_needs_no_voxels(self, tmp_path: Path, volume: Volume, suffix: str) -> None:
        path = write_volume(volume, tmp_path / f"scan{suffix}")
        assert read_grid(path).is_close(read_volume(path).grid, tolerance_mm=0.0)
        if suffix != ".nii.gz":
            path.write_bytes(path.read_bytes()[:-100])
            assert read_grid(path).is_close(volume.grid)

    def test_refuses_what_read_volume_refuses(self, tmp_path: Path) -> None:
        with pytest.raises(VolumeError, match="does not exist"):
            read_grid(tmp_path / "gone.nii.gz")
        nib.save(nib.Nifti1Image(np.ones((6, 8, 1), np.float32), STRAIGHT), tmp_path / "slice.nii")
        with pytest.raises(VolumeError, match="single slice"):
            read_grid(tmp_path / "slice.nii")
        (tmp_path / "text.mha").write_text("no header")
        with pytest.raises(VolumeError, match="cannot be read"):
            read_grid(tmp_path / "text.mha")


class TestSlices:
    @pytest.mark.parametrize(
        ("spacing", "dim_info", "direction", "expected"),
        [
            ((1.0, 1.5, 4.0), None, None, 2),  # clearly the coarsest
            ((1.0, 4.0, 1.5), 0, None, 1),  # what can be measured goes before a header field
            ((1.0, 1.0, 1.0), 0, None, 0),  # the header decides where spacing does not
            ((1.0, 1.0, 1.0), None, None, None),  # unknown stays unknown
            ((1.0, 1.0, 1.0), 0, "j-", 1),  # the sidecar was written for this very scan
        ],
    )
    def test_axis(
        self,
        tmp_path: Path,
        spacing: tuple[float, float, float],
        dim_info: int | None,
        direction: str | None,
        expected: int | None,
    ) -> None:
        image = nib.Nifti1Image(DATA, np.diag([*spacing, 1.0]))
        image.header.set_dim_info(slice=dim_info)
        nib.save(image, tmp_path / "scan.nii.gz")
        (tmp_path / "scan.json").write_text(json.dumps({"SliceEncodingDirection": direction} if direction else {}))
        assert read_volume(tmp_path / "scan.nii.gz").slice_axis == expected

    @pytest.mark.parametrize("name", ["sub-01_T1w.nii.gz", "sub-01_T1w.nrrd"])
    def test_thickness_comes_from_the_sidecar(self, tmp_path: Path, volume: Volume, name: str) -> None:
        write_volume(volume, tmp_path / name)
        assert read_volume(tmp_path / name).slice_thickness is None
        (tmp_path / "sub-01_T1w.json").write_text('{"SliceThickness": 2.5}')
        assert read_volume(tmp_path / name).slice_thickness == 2.5

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ('{"SliceThickness": ', "JSON"),
            ('{"SliceThickness": 0}', "SliceThickness 0"),
            ('{"SliceThickness": "5"}', "'5'"),
        ],
    )
    def test_a_broken_sidecar_is_refused_by_its_name(
        self, tmp_path: Path, volume: Volume, text: str, words: str
    ) -> None:
        write_volume(volume, tmp_path / "scan.nii")
        (tmp_path / "scan.json").write_text(text)
        with pytest.raises(VolumeError, match=rf"scan\.json.*{words}.*or remove it"):
            read_volume(tmp_path / "scan.nii")

    def test_a_list_beside_the_scan_is_not_a_sidecar(self, tmp_path: Path, volume: Volume) -> None:
        write_volume(volume, tmp_path / "scan.nii")
        (tmp_path / "scan.json").write_text("[1, 2]")
        assert read_volume(tmp_path / "scan.nii").slice_thickness is None


def cut(path: Path, keep: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])


def nifti(data: Any, affine: Any = STRAIGHT) -> Callable[[Path], None]:
    return lambda path: nib.save(nib.Nifti1Image(data, affine), path)


def itk(data: Any, vector: bool = False) -> Callable[[Path], None]:
    return lambda path: sitk.WriteImage(sitk.GetImageFromArray(data, isVector=vector), str(path))


def written(keep: float) -> Callable[[Path], None]:
    return lambda path: cut(write_volume(Volume(DATA[None], OBLIQUE), path), keep)


def text(content: str) -> Callable[[Path], None]:
    return lambda path: path.write_text(content) and None


def zero_pixdim(path: Path) -> None:
    image = nib.Nifti1Image(DATA, None)
    image.set_qform(STRAIGHT, code=1)
    nib.save(image, path)
    raw = bytearray(path.read_bytes())
    raw[84:88] = bytes(4)  # pixdim[2]
    raw[254:256] = bytes(2)  # sform_code
    path.write_bytes(raw)


def with_values(*values: float) -> Any:
    data = DATA.copy()
    data.flat[: len(values)] = values
    return data


SHEARED = np.array([[1, 0.5, 0, 0], [0, 1, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1.0]])
FLAT = np.array([[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1.0]])
COLOURS = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
NRRD = "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 2 2 2\nencoding: ascii\n{}\n\n1 2 3 4 5 6 7 8\n"
MHD = "NDims = 3\nTransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 0 0 0\n"
MHD += "DimSize = 2 2 2\nElementSpacing = 1 {} 1\nElementType = MET_UCHAR\nElementDataFile = "

REFUSED = [
    ("missing.nii.gz", lambda path: None, "does not exist", "spelling"),
    ("folder", lambda path: path.mkdir(), "is a folder", "dcm2niix"),
    ("slice0001.dcm", text("DICM"), "unknown suffix", "dcm2niix"),
    ("scan.mgz", text("x"), "unknown suffix", "3D Slicer"),
    ("empty.nii.gz", text(""), "truncated, damaged or of another format", "again"),
    ("words.nii", text("hello"), "truncated, damaged or of another format", "again"),
    ("words.nrrd", text("hello"), "truncated, damaged or of another format", "again"),
    ("half.nii.gz", written(0.5), "truncated, damaged or of another format", "again"),
    ("half.nii", written(0.5), "truncated, damaged or of another format", "again"),
    ("half.nrrd", written(0.5), "truncated, damaged or of another format", "again"),
    ("half.mha", written(0.5), "truncated, damaged or of another format", "again"),
    ("nodata.mhd", text(MHD.format(1) + "lost.raw"), r"lost\.raw' does not exist", "spelling"),
    ("flat.nii.gz", nifti(DATA[:, :, 0]), r"single slice \(6 x 8 voxels\)", "Join the slices"),
    ("thin.nii.gz", nifti(DATA[:, :, :1]), r"single slice \(6 x 8 x 1 voxels\)", "Join the slices"),
    ("flat.nrrd", itk(DATA[0]), r"single slice \(11 x 8 voxels\)", "Join the slices"),
    ("series.nii.gz", nifti(np.stack([DATA] * 5, -1)), "4D.*5 volumes", "`--frame 0`.*`frame=0`"),
    ("series.mha", itk(np.stack([DATA] * 5)), "4D.*5 volumes", "from 0 to 4: `--frame 0`.*`frame=0`"),
    ("five.nii", nifti(np.zeros((*SHAPE, 2, 3), np.float32)), "has 5 dimensions", "3D volume you need"),
    ("colours.nii.gz", nifti(COLOURS), "colours or complex", "scalar volume"),
    ("complex.nii.gz", nifti(DATA.astype(np.complex64)), "colours or complex", "scalar volume"),
    ("colours.nrrd", itk(np.stack([DATA] * 3, -1), vector=True), "3 values for each voxel", "`--frame 0`"),
    ("complex.nrrd", itk(DATA.astype(np.complex64)), "complex numbers", "magnitude"),
    ("constant.nii.gz", nifti(np.full(SHAPE, 7.0, np.float32)), "constant: all 528 voxels are 7", "exported"),
    ("nan.nii.gz", nifti(with_values(np.nan, np.nan)), "NaN or infinite values in 2 of 528 voxels", "nan_to_num"),
    ("inf.mha", itk(with_values(np.inf)), "values in 1 of 528", "nan_to_num"),
    ("huge.nii", nifti(DATA * np.float64(1e300)), "NaN or infinite", "nan_to_num"),
    ("unplaced.nii.gz", nifti(DATA, None), "neither sform nor qform", "check left and right"),
    ("unplaced.nrrd", text(NRRD.format("spacings: 1 2 3")), "'space' is missing", "check left and right"),
]
MISPLACED = [
    ("zero.nii", zero_pixdim, r"spacing is \(1, 0, 4\) mm", "Correct the header"),
    ("zero.mhd", text(MHD.format(0) + "zero.mhd"), r"spacing is \(1, 0, 1\) mm", "Correct the header"),
    ("singular.nii.gz", nifti(DATA, FLAT), "singular", "Correct the header"),
    ("sheared.nii.gz", nifti(DATA, SHEARED), "26.6 degrees", "Resample"),
    (
        "sheared.nrrd",
        text(NRRD.format("space: RAS\nspace directions: (1,0,0) (0.5,1,0) (0,0,2)\nspace origin: (0,0,0)")),
        "26.6 degrees",
        "Resample",
    ),
]


class TestRefusals:
    @pytest.mark.parametrize(("name", "make", "fact", "fix"), REFUSED, ids=[case[0] for case in REFUSED])
    def test_unusable_file(self, tmp_path: Path, name: str, make: Callable[[Path], Any], fact: str, fix: str) -> None:
        make(tmp_path / name)
        with pytest.raises(VolumeError, match=rf"{name}'.*{fact}.*{fix}"):
            read_volume(tmp_path / name)

    @pytest.mark.parametrize(("name", "make", "fact", "fix"), MISPLACED, ids=[case[0] for case in MISPLACED])
    def test_no_place_in_space(
        self, tmp_path: Path, name: str, make: Callable[[Path], Any], fact: str, fix: str
    ) -> None:
        make(tmp_path / name)
        with pytest.raises(GeometryError, match=rf"{name}'.*{fact}.*{fix}"):
            read_volume(tmp_path / name)

    def test_a_message_is_one_paragraph(self, tmp_path: Path) -> None:
        cut(write_volume(Volume(DATA[None], OBLIQUE), tmp_path / "half.nii.gz"), 0.5)
        with pytest.raises(VolumeError) as caught:
            read_volume(tmp_path / "half.nii.gz")
        assert "\n" not in str(caught.value)
        assert caught.value.__cause__ is not None  # what the library said is not lost

    @pytest.mark.parametrize(("frame", "words"), [(3, "no frame 3.*from 0 to 2"), (-1, "no frame -1.*from 0 to 2")])
    def test_frame_out_of_range(self, tmp_path: Path, frame: int, words: str) -> None:
        nifti(np.stack([DATA] * 3, -1))(tmp_path / "series.nii")
        with pytest.raises(VolumeError, match=rf"series\.nii.*{words}"):
            read_volume(tmp_path / "series.nii", frame=frame)

    def test_frame_of_a_single_volume(self, tmp_path: Path) -> None:
        nifti(DATA)(tmp_path / "scan.nii")
        assert read_volume(tmp_path / "scan.nii", frame=0).spatial_shape == SHAPE
        with pytest.raises(VolumeError, match="holds one volume, so there is no frame 1"):
            read_volume(tmp_path / "scan.nii", frame=1)

    def test_a_file_one_may_not_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def deny(self: Path, mode: str) -> None:  # root may read everything
            raise PermissionError(13, "Permission denied")

        nifti(DATA)(tmp_path / "scan.nii")
        monkeypatch.setattr(Path, "open", deny)
        with pytest.raises(VolumeError, match=r"scan\.nii.*may not be read"):
            read_volume(tmp_path / "scan.nii")


class TestWriting:
    @pytest.mark.parametrize("suffix", SUFFIXES)
    @pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("boom"), OSError(28, "No space left")])
    def test_nothing_is_left_of_a_failure(
        self,
        tmp_path: Path,
        volume: Volume,
        monkeypatch: pytest.MonkeyPatch,
        suffix: str,
        error: BaseException,
    ) -> None:
        target = write_volume(volume, tmp_path / f"scan{suffix}")
        before = target.read_bytes()

        def half_a_file(volume: Volume, path: Path) -> None:
            path.write_bytes(b"half")
            raise error

        monkeypatch.setattr(volume_io, "_write_nifti" if "nii" in suffix else "_write_itk", half_a_file)
        with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else VolumeError):
            write_volume(volume, target)
        assert [path.name for path in tmp_path.iterdir()] == [target.name]
        assert target.read_bytes() == before

    def test_a_full_disk_is_told_with_the_name(
        self, tmp_path: Path, volume: Volume, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(volume: Volume, path: Path) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(volume_io, "_write_nifti", full)
        with pytest.raises(VolumeError, match=r"out\.nii\.gz.*No space left on device.*free space"):
            write_volume(volume, tmp_path / "out.nii.gz")

    def test_replaces_an_older_file(self, tmp_path: Path, volume: Volume) -> None:
        write_volume(volume, tmp_path / "scan.nii.gz")
        write_volume(volume.with_data(volume.data + 1), tmp_path / "scan.nii.gz")
        assert np.array_equal(read_volume(tmp_path / "scan.nii.gz").data, volume.data + 1)
        assert len(list(tmp_path.iterdir())) == 1

    def test_refuses_several_channels(self, tmp_path: Path, volume: Volume) -> None:
        with pytest.raises(VolumeError, match=r"out\.nii.*one channel.*has 2"):
            write_volume(volume.with_data(np.concatenate([volume.data] * 2)), tmp_path / "out.nii")

    def test_leaves_the_usual_rights(self, tmp_path: Path, volume: Volume) -> None:
        (tmp_path / "plain").write_text("x")
        mode = write_volume(volume, tmp_path / "out.nii.gz").stat().st_mode
        assert mode == (tmp_path / "plain").stat().st_mode


class TestCheckOutputPath:
    def test_returns_a_good_path(self, tmp_path: Path) -> None:
        assert check_output_path(str(tmp_path / "out.nii.gz")) == tmp_path / "out.nii.gz"
        assert list(tmp_path.iterdir()) == []

    def test_folder_instead_of_file(self, tmp_path: Path) -> None:
        with pytest.raises(VolumeError, match="is a folder.*Add a file name"):
            check_output_path(tmp_path)

    @pytest.mark.parametrize("name", ["out.png", "out", "out.gz", "out.mhd"])
    def test_suffix_that_cannot_be_written(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(VolumeError, match=rf"{name}' has no suffix.*\.nii, \.nii\.gz, \.nrrd, \.mha"):
            check_output_path(tmp_path / name)

    def test_missing_folder(self, tmp_path: Path) -> None:
        with pytest.raises(VolumeError, match=r"out\.nii.*results' does not exist.*Create it"):
            check_output_path(tmp_path / "results" / "out.nii")

    def test_folder_without_the_right_to_write(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
        with pytest.raises(VolumeError, match=r"out\.nii.*no right to write.*another folder"):
            check_output_path(tmp_path / "out.nii")

    def test_protected_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "out.nii").write_text("x")
        monkeypatch.setattr(os, "access", lambda path, mode: path == tmp_path)
        with pytest.raises(VolumeError, match=r"out\.nii.*write-protected"):
            check_output_path(tmp_path / "out.nii")


def test_real_volumes_keep_their_place(data_folder: Path) -> None:
    volume = read_volume(data_folder / "t1" / "mass_W03.nii.gz")
    assert volume.orientation == "LPS"
    assert volume.slice_axis == 0
    turned, reorientation = volume.canonical()
    assert turned.orientation == "RAS"
    assert turned.reoriented(reorientation.inverse).grid.is_close(volume.grid)
