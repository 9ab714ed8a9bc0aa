"""Small pieces of the Slicer side that need no scene: examples in docstrings, NIfTI files, names and advice."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from helpers_geometry import oblique_affine

from ScoreFusionLib.logic.devices import devices_from_report
from ScoreFusionLib.logic.errors import RunError
from ScoreFusionLib.logic.events import EventStream
from ScoreFusionLib.logic.nifti import read_header, read_steps, write_steps
from ScoreFusionLib.logic.understanding import guess_contrast, understand

MODULES = ["events", "naming", "request", "signal", "understanding", "wording"]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_docstrings_hold(name: str) -> None:
    module = importlib.import_module(f"ScoreFusionLib.logic.{name}")
    failed, run = doctest.testmod(module)
    assert run
    assert not failed


class TestNifti:
    @pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
    def test_nibabel_reads_what_we_write(self, dtype: str, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        affine = oblique_affine(rng)
        voxels_kji = rng.integers(0, 200, (6, 5, 4)).astype(dtype)
        for _step in write_steps(tmp_path / "x.nii", voxels_kji, affine):
            pass
        image = nib.load(tmp_path / "x.nii")
        assert image.shape == (4, 5, 6)
        assert image.get_data_dtype() == np.dtype(dtype)
        assert np.array_equal(np.asanyarray(image.dataobj), voxels_kji.transpose(2, 1, 0))
        assert np.allclose(image.affine, affine, atol=1e-4)

    @pytest.mark.parametrize("form", ["sform", "qform"])
    @pytest.mark.parametrize("order", ["<", ">"])
    def test_we_read_what_nibabel_writes(self, form: str, order: str, tmp_path: Path) -> None:
        rng = np.random.default_rng(1)
        affine = oblique_affine(rng)
        data = rng.normal(size=(4, 5, 6)).astype(np.float32)
        header = nib.Nifti1Header(endianness=order)
        image = nib.Nifti1Image(data.astype(np.dtype(np.float32).newbyteorder(order)), affine, header)
        image.set_sform(affine, code=1 if form == "sform" else 0)
        image.set_qform(affine, code=1)
        nib.save(image, tmp_path / "x.nii")
        target = np.zeros(data.size, np.float32)
        headers = [h for h in read_steps(tmp_path / "x.nii", lambda _shape, _dtype: target) if h is not None]
        assert np.array_equal(target.reshape(6, 5, 4).transpose(2, 1, 0), data)
        assert np.allclose(headers[-1].affine, affine, atol=1e-3)

    def test_stored_values_are_scaled(self, tmp_path: Path) -> None:
        data = np.array([[[0.0, 1.0], [2.0, 3.0]], [[4.0, 5.0], [6.0, 7.5]]])
        image = nib.Nifti1Image(data, np.eye(4))
        image.set_data_dtype(np.uint8)  # nibabel then writes slope and intercept
        nib.save(image, tmp_path / "x.nii")
        target = np.zeros(8, np.float32)
        list(read_steps(tmp_path / "x.nii", lambda _shape, _dtype: target))
        assert np.allclose(target.reshape(2, 2, 2).transpose(2, 1, 0), data, atol=0.02)

    @pytest.mark.parametrize("content", [b"", b"half a header", b"\x5c\x01\x00\x00" + b"\0" * 400])
    def test_a_broken_result_is_refused(self, content: bytes, tmp_path: Path) -> None:
        (tmp_path / "x.nii").write_bytes(content)
        with pytest.raises(RunError, match="no complete NIfTI file"):
            read_header(tmp_path / "x.nii")

    def test_a_result_cut_short_is_refused(self, tmp_path: Path) -> None:
        for _step in write_steps(tmp_path / "x.nii", np.zeros((6, 5, 4), np.float32), np.eye(4)):
            pass
        whole = (tmp_path / "x.nii").read_bytes()
        (tmp_path / "x.nii").write_bytes(whole[:-10])
        with pytest.raises(RunError, match="cut short"):
            list(read_steps(tmp_path / "x.nii", lambda _shape, _dtype: np.zeros(120, np.float32)))


class TestEvents:
    def test_a_line_without_end_is_kept_until_it_ends(self) -> None:
        stream = EventStream()
        assert stream.feed(b'{"event": "log", "mess') == []
        assert stream.feed('age": "Grüße"}\n'.encode()) == [{"event": "log", "message": "Grüße"}]

    def test_bytes_that_are_no_text_do_no_harm(self) -> None:
        [event] = EventStream().feed(b"\xff\xfe nonsense\n")
        assert event["event"] == "log"

    def test_an_endless_line_does_not_fill_the_memory(self) -> None:
        stream = EventStream()
        assert len(stream.feed(b"x" * (2 << 20))) == 1
        assert stream._rest == b""


class TestUnderstanding:
    @pytest.mark.parametrize("seed", range(10))
    def test_the_thick_axis_is_found_on_any_grid(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        affine = oblique_affine(rng)
        axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
        affine[:3, :3] = axes * np.array([1.0, 1.0, 5.0])
        found = understand(affine, (10, 11, 12), target_spacing=(1.0, 1.0, 1.0))
        assert found.thick_axis == 2
        assert found.factor == pytest.approx(5.0)
        assert sorted(found.axis_names) == ["back-front", "bottom-top", "left-right"]

    def test_an_isotropic_volume_has_none(self) -> None:
        assert understand(np.eye(4), (10, 11, 12), target_spacing=(1.0, 1.0, 1.0)).thick_axis is None

    @pytest.mark.parametrize(
        ("text", "contrast"),
        [
            ("sub-01_T1w", "t1"),
            ("AX T2 FLAIR", "flair"),
            ("t1_mprage_sag_KM", "t1ce"),
            ("ep2d", None),
            ("PD tse", "pd"),
            ("MRHead", "t1"),
        ],
    )
    def test_the_contrast_is_read_from_the_name(self, text: str, contrast: str | None) -> None:
        assert guess_contrast(text) == contrast


class TestDevices:
    @pytest.mark.parametrize("report", ["", "no json", "{}", '{"devices": 3}', '{"devices": [{}]}'])
    def test_without_a_useful_answer_there_is_the_cpu(self, report: str) -> None:
        assert [device.name for device in devices_from_report(report)] == ["auto", "cpu"]
