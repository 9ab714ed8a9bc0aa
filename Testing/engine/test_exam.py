"""The scans of an exam: guides that lie elsewhere are brought to the scan to restore, and what cannot be is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_datasets_registration import errors_in_voxels, phantom
from tiny_models import tiny_ensemble, tiny_fusion, write_tiny_bundle

from scorefusion.bundle.folder import Bundle
from scorefusion.errors import GeometryError, RequestError
from scorefusion.fusion.inputs import InputLayout
from scorefusion.imaging.files import read_volume
from scorefusion.imaging.foreground import foreground_mask
from scorefusion.imaging.itk import matrix_from_transform, transform_from_matrix
from scorefusion.imaging.registration import Motion, find_motion, refine_motion
from scorefusion.imaging.volume import Volume
from scorefusion.pipeline import translate
from scorefusion.progress import Event, Reporter
from scorefusion.run import exam
from scorefusion.run.exam import bring_together

TURN, OFFSET = 7.0, (12.0, -9.0, 6.0)


def thick(volume: Volume, factor: int = 2) -> Volume:
    """Slices averaged by `factor` along the last axis."""
    count = volume.spatial_shape[2] // factor
    data = volume.data[..., : count * factor].reshape(*volume.data.shape[:3], count, factor).mean(-1)
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, 2] * (factor - 1) / 2
    affine[:3, 2] *= factor
    return Volume(data.astype(np.float32), affine)


@pytest.fixture(scope="module")
def guided(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Sharpens, beside an optional t1."""
    layout = InputLayout(1, False, True, True, True, 2, 4.0, "clean")
    rule = tiny_fusion(tiny_ensemble(layout, groups=[(0, 1)], std=0.08), conditions=2, std=0.08)
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny-exam", rule, ["image", "t1"])


def run(bundle: Bundle, inputs: dict[str, Volume], **options: Any) -> tuple[Any, list[Event]]:
    events: list[Event] = []
    options = {"device": "cpu", "precision": "float32", "spacing": 2.0, "on_event": events.append, **options}
    return translate(inputs, bundle, **options), events


class TestGuide:
    def test_one_that_lies_elsewhere_is_brought_to_the_scan(self, guided: Bundle) -> None:
        coarse = thick(phantom("t2"))
        result, events = run(guided, {"image": coarse, "t1": phantom("t1", TURN, OFFSET)})
        (record,) = result.provenance["Registration"]
        assert record["Registered"]
        assert record["Used"]
        assert record["MovedMm"] == pytest.approx(np.linalg.norm(OFFSET), abs=1.5)
        assert record["TurnedDegrees"] == pytest.approx(TURN, abs=1.0)
        assert record["MetricAfter"] > record["MetricBefore"]
        assert any("was moved by" in str(event.get("message")) for event in events)
        in_place, _ = run(guided, {"image": coarse, "t1": phantom("t1")})
        as_it_lay, _ = run(guided, {"image": coarse, "t1": phantom("t1", TURN, OFFSET)}, register=False)
        assert as_it_lay.provenance["Registration"][0]["Registered"] is False
        error = [float(np.abs(each.volume.data - in_place.volume.data).mean()) for each in (result, as_it_lay)]
        assert error[0] < 0.4 * error[1]

    def test_one_that_lies_well_stays_to_the_bit(self) -> None:
        volumes = {"image": phantom("t2"), "t1": phantom("t1")}
        placed, (placement,) = bring_together(volumes, True, True, False, Reporter(None, None))
        assert np.array_equal(placed["t1"].affine, volumes["t1"].affine)
        assert placement.motion.distance_mm == 0
        assert placement.registered

    def test_one_of_noise_is_refused_or_left_out_as_asked(self, guided: Bundle) -> None:
        noise = phantom("t1")
        far = noise.affine.copy()
        far[:3, 3] += 900.0
        empty = np.zeros_like(noise.data)
        empty[:, 2:5, 2:5, 2:5] = np.random.default_rng(0).random((1, 3, 3, 3)) + 1
        other = replace(noise, data=empty, affine=far)
        coarse = thick(phantom("t2"))
        with pytest.raises(GeometryError, match=r"'t1'.*--skip-unregistered.*--no-register"):
            run(guided, {"image": coarse, "t1": other})
        result, events = run(guided, {"image": coarse, "t1": other}, skip_unregistered=True)
        alone, _ = run(guided, {"image": coarse})
        assert np.array_equal(result.volume.data, alone.volume.data)
        assert result.provenance["Registration"][0]["Used"] is False
        assert [event["code"] for event in events if event["event"] == "warning"].count("guide-left-out") == 1

    def test_the_scan_itself_or_a_single_slice_is_no_guide(self, guided: Bundle) -> None:
        coarse, t1 = thick(phantom("t2")), phantom("t1")
        with pytest.raises(RequestError, match="again"):
            run(guided, {"image": coarse, "t1": coarse})
        single = Volume(t1.data[..., 19:20], t1.affine)
        with pytest.raises(GeometryError, match="1 slices only"):
            run(guided, {"image": coarse, "t1": single})

    @pytest.mark.parametrize(
        ("code", "metric", "distance"), [("registration-weak", 0.04, 0.0), ("registration-far", 0.4, 61.0)]
    )
    def test_what_may_be_another_person_is_warned_of(
        self, monkeypatch: pytest.MonkeyPatch, code: str, metric: float, distance: float
    ) -> None:
        matrix = np.eye(4)
        matrix[0, 3] = distance
        monkeypatch.setattr(exam, "find_motion", lambda *_: Motion(matrix, np.zeros(3), 0.02, metric, 0.9))
        events: list[Event] = []
        volumes = {"image": thick(phantom("t2")), "t1": phantom("t1")}
        bring_together(volumes, True, True, False, Reporter(events.append, None))
        assert [event["code"] for event in events if event["event"] == "warning"] == [code]

    def test_two_inputs_of_a_translation_on_one_grid_are_trusted(self) -> None:
        volumes = {"t1": phantom("t1"), "t2": phantom("t2", TURN, OFFSET)}
        placed, (placement,) = bring_together(volumes, False, True, False, Reporter(None, None))
        assert placed["t2"] is volumes["t2"]
        assert not placement.registered


class TestMotion:
    def test_a_thick_scan_holds_as_well(self) -> None:
        motion = find_motion(phantom("t1", TURN, OFFSET), thick(phantom("t2"), 3))
        assert errors_in_voxels(motion, TURN, OFFSET) < 0.75  # of 1.9 mm, beside slices of 6.3 mm
        assert motion.overlap is not None
        assert motion.overlap > 0.85

    def test_a_small_motion_is_found_from_the_headers(self) -> None:
        motion = refine_motion(phantom("t1", 2.0, (1.0, -1.5, 0.5)), phantom("t2"))
        assert errors_in_voxels(motion, 2.0, (1.0, -1.5, 0.5)) < 0.5

    @pytest.mark.slow
    @pytest.mark.parametrize("number", range(3))
    def test_a_real_brain_is_found_again_after_20_mm_and_15_degrees(self, data_folder: Path, number: int) -> None:
        """A FLAIR of 5 mm slices and the T1w of one person, which agree to half a voxel as they are."""
        flair = read_volume(data_folder / "multi" / "openms_07" / "FLAIR.nii.gz").canonical()[0]
        t1 = read_volume(data_folder / "multi" / "openms_07" / "T1w.nii.gz")
        rng = np.random.default_rng(number)
        matrix = _motion(np.deg2rad(rng.uniform(-15, 15, 3)), rng.uniform(-20, 20, 3), flair)
        motion = find_motion(replace(t1, affine=matrix @ t1.affine), thick(flair, 5))
        points = flair.grid.index_to_world(np.argwhere(foreground_mask(flair.data))[::997])
        found, true = (points @ each[:3, :3].T + each[:3, 3] for each in (motion.matrix, matrix))
        assert np.linalg.norm(found - true, axis=1).mean() < 0.5


def _motion(angles: np.ndarray, shift: np.ndarray, volume: Volume) -> np.ndarray:
    """Turns about the axes through the middle of a volume, then a shift."""
    transform = transform_from_matrix(np.eye(4), volume.grid.index_to_world(np.array(volume.spatial_shape) / 2))
    transform.SetRotation(*(float(angle) for angle in angles))
    transform.SetTranslation([float(value) for value in shift])
    return matrix_from_transform(transform)
